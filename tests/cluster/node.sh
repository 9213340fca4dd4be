#!/usr/bin/env bash
# The node's processes, run by up.sh as the first process of its namespaces: all of them end when this one does.
set -euo pipefail
state=$1 bin=$2 node_ip=$3
cd "$state"

start() { # name, command...
    setsid "${@:2}" >"log/$1.log" 2>&1 </dev/null &
}

mount --make-rshared /
ip link set lo up
until ip link show host >/dev/null 2>&1; do sleep 0.1; done # up.sh puts it here
ip addr add "$node_ip/30" dev host
ip link set host up
ip route add default via "${node_ip%.*}.1" # to the host alone, which forwards nothing
sysctl -qw net.ipv4.ip_forward=1

start etcd "$bin/etcd" --data-dir etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
start apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 \
    --advertise-address="$node_ip" --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key \
    --client-ca-file=pki/ca.crt --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key \
    --kubelet-preferred-address-types=InternalIP --service-cluster-ip-range=198.19.0.0/20 \
    --service-account-key-file=pki/sa.key --service-account-signing-key-file=pki/sa.key \
    --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC
start controller-manager "$bin/kube-controller-manager" --kubeconfig=admin.conf --leader-elect=false \
    --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt --use-service-account-credentials=true
start scheduler "$bin/kube-scheduler" --kubeconfig=admin.conf --leader-elect=false

mkdir -p cni/net.d
cat >cni/net.d/10-pods.conflist <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$state/cni/addresses", "ranges": [[{"subnet": "198.18.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}, {"type": "loopback"}]}
END
# restrict_oom_score_adj: inside a container, where CI often is, no score may be lowered, and every sandbox would fail.
cat >containerd.toml <<END
version = 2
root = "$state/containerd"
state = "$state/containerd/run"
[grpc]
  address = "$state/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/medsd/pause:test"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
END
start containerd containerd -c containerd.toml

cat >kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
clusterDNS: [$node_ip]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$state/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100 # never: no registry would give an image back
maxPods: 60
END
cat >Corefile <<END
.:53 {
  bind $node_ip
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $state/admin.conf
    pods insecure
  }
  cache 5
}
END
until "$bin/kubectl" --kubeconfig admin.conf get --raw /readyz >/dev/null 2>&1; do sleep 0.5; done
until [ -S containerd.sock ]; do sleep 0.2; done
start kubelet "$bin/kubelet" --config=kubelet.yaml --kubeconfig=admin.conf --root-dir="$state/kubelet" --node-ip="$node_ip" \
    --hostname-override=node-1
start kube-proxy "$bin/kube-proxy" --kubeconfig=admin.conf --hostname-override=node-1 --proxy-mode=iptables \
    --cluster-cidr=198.18.0.0/16 --conntrack-max-per-core=0
start coredns "$bin/coredns" -conf Corefile
wait -n # none of them ends by itself: the first that does takes the node with it, so that its log is looked at
echo "a process ended with $?; still there:"
jobs -l
