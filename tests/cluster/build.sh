#!/usr/bin/env bash
# Builds Kubernetes, etcd, CoreDNS, Helm and KubeRay's operator from their Go modules, and keeps them.
# About 20 minutes on two cores the first time; nothing to do after that. Usage: build.sh DIR [kwok] -> DIR/bin,
# DIR/kuberay-crds; kwok, which simulates nodes, is for bench/reconcile.py alone.
set -euo pipefail
mkdir -p "${1:?usage: build.sh DIR}/bin" "$1/src"
dir=$(realpath "$1")
export GOFLAGS="-mod=mod -trimpath" GOTOOLCHAIN=auto
kubernetes=v0.34.4 # of k8s.io/api and its sisters; k8s.io/kubernetes itself is v1 of the same

module() { # name: a Go module of our own that requires what is built; `go install` refuses modules with replacements
    mkdir -p "$dir/src/$1"
    cd "$dir/src/$1"
    [ -f go.mod ] || printf 'module local/%s\ngo 1.25.0\n' "$1" >go.mod
}
build() { # module@version, import paths whose binaries are wanted
    go mod edit -require="$1"
    for path in "${@:2}"; do
        [ -x "$dir/bin/$(basename "$path")" ] || go build -ldflags="-s -w ${stamp:-}" -o "$dir/bin/" "$path"
    done
}

module helm
build helm.sh/helm/v3@v3.22.0 helm.sh/helm/v3/cmd/helm

module kubernetes
for sister in kms api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap \
    code-generator component-base component-helpers controller-manager cri-api cri-client csi-translation-lib \
    dynamic-resource-allocation endpointslice externaljwt kube-aggregator kube-controller-manager kube-proxy kube-scheduler \
    kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin sample-controller; do
    go mod edit -replace="k8s.io/$sister=k8s.io/$sister@$kubernetes"
done
version=k8s.io/component-base/version minor=${kubernetes#v0.}
stamp="-X $version.gitVersion=v1${kubernetes#v0} -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" # Helm asks for it
build "k8s.io/kubernetes@v1${kubernetes#v0}" k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
stamp=

module etcd
printf 'package main\n\nimport (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\nfunc main() { etcdmain.Main(os.Args) }\n' >main.go
build go.etcd.io/etcd/server/v3@v3.6.16 local/etcd

module coredns
build github.com/coredns/coredns@v1.12.4 github.com/coredns/coredns

module kuberay
build github.com/ray-project/kuberay/ray-operator@v1.6.0 github.com/ray-project/kuberay/ray-operator
mkdir -p "$dir/kuberay-crds"
cp -f "$(go list -m -f '{{.Dir}}' github.com/ray-project/kuberay/ray-operator)"/config/crd/bases/*.yaml "$dir/kuberay-crds/"

[ "${2:-}" = kwok ] || exit 0
module kwok
build sigs.k8s.io/kwok@v0.7.0 sigs.k8s.io/kwok/cmd/kwok
