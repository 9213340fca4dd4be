#!/usr/bin/env bash
# Stops what up.sh started: the end of the namespaces' first process ends every other one in them, and with them go their
# mounts, bridge and firewall rules. The logs stay. Usage: down.sh STATE. No error where nothing runs.
set -euo pipefail
state=$(realpath -m "${1:?usage: down.sh STATE}")
runs() { [ "$(cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null)" = "$2" ]; }

if [ -f "$state/init.pid" ] && read -r init started <"$state/init.pid" && runs "$init" "$started"; then
    kill -KILL "$init"
    for _ in $(seq 300); do
        runs "$init" "$started" || break
        sleep 0.1
    done
fi
rm -rf "${state:?}"/{pki,etcd,kubelet,containerd,cni} "$state/init.pid" "$state"/containerd.sock*
ip link delete medsd-test 2>/dev/null || true
for _ in $(seq 50); do # the kernel may take a moment to let go of the last container
    left=$(find /sys/fs/cgroup -depth -type d \( -path '*/kubepods*' -o -path '*/medsd-test*' \) -exec rmdir {} + 2>&1) || true
    [ -z "$left" ] && break
    sleep 0.1
done
