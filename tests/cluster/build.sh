#!/usr/bin/env bash
# Builds Kubernetes, etcd, CoreDNS, Helm, KubeRay's operator and an S3 server from their Go modules, and keeps them where
# programs.sh says. About 20 minutes on two cores the first time; nothing to do after that. Usage: build.sh [MODULE]...
# Without words it builds all modules but kwok, which simulates nodes for bench/reconcile.py alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$("$here/programs.sh")
mkdir -p "$dir/bin" "$dir/src"
exec 9>"$dir/lock"
flock 9 # one at a time: two would write the same files
if ! command -v go >/dev/null; then
    echo "build.sh: there is no Go to build with" >&2
    exit 2
fi
export GOFLAGS="-mod=mod -trimpath" GOTOOLCHAIN=auto
kubernetes=v0.34.4 # of k8s.io/api and its sisters; k8s.io/kubernetes itself is v1 of the same

module() { # name: a Go module of our own that requires what is built; `go install` refuses modules with replacements
    mkdir -p "$dir/src/$1"
    cd "$dir/src/$1"
    [ -f go.mod ] || printf 'module local/%s\ngo 1.25.0\n' "$1" >go.mod
}
is_built() { # module@version, program: whether it was built from this version
    [ -x "$dir/bin/$2" ] && go version -m "$dir/bin/$2" | grep -qF $'\t'"${1%@*}"$'\t'"${1#*@}"
}
build() { # module@version, import paths whose binaries are wanted
    go mod edit -require="$1"
    for path in "${@:2}"; do
        is_built "$1" "$(basename "$path")" || go build -ldflags="-s -w ${stamp:-}" -o "$dir/bin/" "$path"
    done
}

helm() {
    module helm
    build helm.sh/helm/v3@v3.22.0 helm.sh/helm/v3/cmd/helm
}
kubernetes() {
    module kubernetes
    for sister in kms api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap \
        code-generator component-base component-helpers controller-manager cri-api cri-client csi-translation-lib \
        dynamic-resource-allocation endpointslice externaljwt kube-aggregator kube-controller-manager kube-proxy kube-scheduler \
        kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin sample-controller; do
        go mod edit -replace="k8s.io/$sister=k8s.io/$sister@$kubernetes"
    done
    local version=k8s.io/component-base/version minor=${kubernetes#v0.} # Helm asks for the version
    local stamp="-X $version.gitVersion=v1${kubernetes#v0} -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
    build "k8s.io/kubernetes@v1${kubernetes#v0}" \
        k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
}
etcd() {
    module etcd
    printf 'package main\n\nimport (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\nfunc main() { etcdmain.Main(os.Args) }\n' >main.go
    build go.etcd.io/etcd/server/v3@v3.6.16 local/etcd
}
coredns() {
    module coredns
    build github.com/coredns/coredns@v1.12.4 github.com/coredns/coredns
}
kuberay() {
    module kuberay
    build github.com/ray-project/kuberay/ray-operator@v1.6.0 github.com/ray-project/kuberay/ray-operator
    mkdir -p "$dir/kuberay-crds"
    cp -f "$(go list -m -f '{{.Dir}}' github.com/ray-project/kuberay/ray-operator)"/config/crd/bases/*.yaml "$dir/kuberay-crds/"
}
versitygw() { # the S3 server
    module versitygw
    build github.com/versity/versitygw@v1.8.0 github.com/versity/versitygw/cmd/versitygw
}
kwok() {
    module kwok
    build sigs.k8s.io/kwok@v0.7.0 sigs.k8s.io/kwok/cmd/kwok
}

[ $# -gt 0 ] || set -- versitygw helm kubernetes etcd coredns kuberay
for name in "$@"; do
    "$name"
done
