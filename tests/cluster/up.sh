#!/usr/bin/env bash
# Starts a real Kubernetes of one node on this machine: etcd, API server, controllers, scheduler, kubelet, containerd, CoreDNS.
# It lives in namespaces of its own (processes, network, mounts), so that nothing of it outlives down.sh: no process, no
# mount, no bridge, no firewall rule. Needs root and the binaries that build.sh makes (which it runs where they are absent).
# Usage: up.sh STATE -> STATE/admin.conf, the kubeconfig. One at a time on a machine.
set -euo pipefail
mkdir -p "${1:?usage: up.sh STATE}"
state=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
cache=$("$here/programs.sh")
# Addresses kept for benchmarks (RFC 2544), which no real network has: pods in 198.18/16, services in 198.19.0/20.
host_ip=198.19.255.1 node_ip=198.19.255.2

die() { echo "up.sh: $*" >&2 && exit 1; }
wait_for() { # seconds, what for, command...
    for _ in $(seq "$1"); do
        if "${@:3}" >/dev/null 2>&1; then return; fi
        [ -d "/proc/$init" ] || die "the node ended; see $state/log"
        sleep 1
    done
    die "$2 is not there after $1 s; see $state/log"
}
install_packages() {
    local wanted=() pair
    for pair in containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins iptables:iptables \
        conntrack:conntrack debootstrap:debootstrap socat:socat openssl:openssl gcc:gcc ip:iproute2; do
        command -v "${pair%%:*}" >/dev/null || wanted+=("${pair#*:}")
    done
    [ ${#wanted[@]} -eq 0 ] && return
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends libc6-dev "${wanted[@]}"; } >"$state/log/apt.log" 2>&1 \
        || die "apt-get could not install ${wanted[*]}; see $state/log/apt.log"
}
certificate() { # name, subject, subjectAltName
    openssl req -newkey rsa:2048 -nodes -keyout "pki/$1.key" -out "pki/$1.csr" -subj "$2" 2>/dev/null
    openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 365 -out "pki/$1.crt" \
        -extfile <(echo "subjectAltName=$3") 2>/dev/null
}
identities() { # one authority, the API server's certificate, an administrator's, and the key that signs service accounts
    openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca.key -out pki/ca.crt -days 365 -subj /CN=medsd-test 2>/dev/null
    local names=kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
    certificate apiserver /CN=kube-apiserver "DNS:localhost,DNS:$names,IP:127.0.0.1,IP:$node_ip,IP:198.19.0.1"
    certificate admin /O=system:masters/CN=admin DNS:admin
    openssl genrsa -out pki/sa.key 2048 2>/dev/null
    cat >admin.conf <<END
apiVersion: v1
kind: Config
clusters: [{name: medsd-test, cluster: {server: "https://$node_ip:6443", certificate-authority: $state/pki/ca.crt}}]
users: [{name: admin, user: {client-certificate: $state/pki/admin.crt, client-key: $state/pki/admin.key}}]
contexts: [{name: medsd-test, context: {cluster: medsd-test, user: admin}}]
current-context: medsd-test
END
}

[ "$(id -u)" = 0 ] || die "needs root"
"$here/down.sh" "$state"
rm -rf "${state:?}/log"
mkdir -p "$state"/{pki,log,kubelet,cni}
for binary in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl helm coredns ray-operator; do
    [ -x "$cache/bin/$binary" ] || { "$here/build.sh" && break; }
done
install_packages
cd "$state"
identities

unshare --fork --pid --mount-proc --net --mount --kill-child "$here/node.sh" "$state" "$cache/bin" "$node_ip" >log/node.log 2>&1 &
unshare=$!
for _ in $(seq 100); do
    init=$(cat "/proc/$unshare/task/$unshare/children" 2>/dev/null) && [ -n "$init" ] && break
    sleep 0.1
done
init=${init%% *}
echo "$init $(cut -d' ' -f22 "/proc/$init/stat")" >init.pid # with its start time: a number alone may come back as another's
ip link add medsd-test type veth peer name host netns "$init"
ip addr add "$host_ip/30" dev medsd-test
ip link set medsd-test up
wait_for 30 "the node's link" ip route replace 198.18.0.0/16 via "$node_ip"
ip route replace 198.19.0.0/20 via "$node_ip"

kubectl() { "$cache/bin/kubectl" --kubeconfig "$state/admin.conf" "$@"; }
wait_for 120 "containerd" ctr -a "$state/containerd.sock" version
"$here/images.sh" "$state/containerd.sock" "$cache/images"
wait_for 180 "a ready node" sh -c "'$cache/bin/kubectl' --kubeconfig '$state/admin.conf' get node node-1 | grep -qw Ready"
wait_for 60 "the default service account" kubectl get serviceaccount default
