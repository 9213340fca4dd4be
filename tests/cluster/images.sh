#!/usr/bin/env bash
# Puts the two images that the test cluster needs into containerd, without a registry: a sleeper that holds each pod's
# namespaces, and a small Debian. Python and medsd come into the pods as folders of the host. Usage: images.sh SOCKET CACHE
set -euo pipefail
socket=${1:?usage: images.sh SOCKET CACHE}
mkdir -p "${2:?usage: images.sh SOCKET CACHE}"
cache=$(realpath "$2")
export LC_ALL=C

blob() { # file -> digest; moves it among the blobs
    local digest
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "$layout/blobs/sha256/$digest"
    echo "$digest"
}
size() { stat -c %s "$layout/blobs/sha256/$1"; }
image() { # name, root folder, command as JSON -> CACHE/name.tar in the OCI layout
    local layer config manifest oci=application/vnd.oci.image
    layout=$(mktemp -d)
    mkdir -p "$layout/blobs/sha256"
    tar -C "$2" --numeric-owner -cf "$layout/layer" .
    layer=$(blob "$layout/layer")
    cat >"$layout/config" <<END
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]},
 "config": {"Cmd": $3, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}}
END
    config=$(blob "$layout/config")
    cat >"$layout/manifest" <<END
{"schemaVersion": 2, "mediaType": "$oci.manifest.v1+json",
 "config": {"mediaType": "$oci.config.v1+json", "digest": "sha256:$config", "size": $(size "$config")},
 "layers": [{"mediaType": "$oci.layer.v1.tar", "digest": "sha256:$layer", "size": $(size "$layer")}]}
END
    manifest=$(blob "$layout/manifest")
    cat >"$layout/index.json" <<END
{"schemaVersion": 2, "manifests": [{"mediaType": "$oci.manifest.v1+json", "digest": "sha256:$manifest",
 "size": $(size "$manifest"), "annotations": {"io.containerd.image.name": "docker.io/medsd/$1:test"}}]}
END
    echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
    tar -C "$layout" -cf "$cache/$1.part" .
    mv "$cache/$1.part" "$cache/$1.tar"
    rm -r "$layout"
}
pause() {
    local root
    root=$(mktemp -d)
    gcc -static -O2 -x c -o "$root/pause" - <<<'#include <unistd.h>
int main(void) { for (;;) pause(); }'
    image pause "$root" '["/pause"]'
    rm -r "$root"
}
base() {
    local root
    root=$(mktemp -d)
    # What Python's own modules and Ray's processes link to, and wget, with which KubeRay's probes ask.
    local packages=ca-certificates,wget,procps,libssl3,libsqlite3-0,libffi8,libbz2-1.0,liblzma5,libreadline8,zlib1g,libgomp1,libuuid1,libncursesw6
    debootstrap --variant=minbase --include="$packages" bookworm "$root" >"$cache/debootstrap.log" 2>&1
    chmod 755 "$root/root" # an interpreter of the host below /root is there for every user
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    image base "$root" '["/bin/bash"]'
    rm -r "$root"
}

for name in pause base; do
    [ -f "$cache/$name.tar" ] || "$name"
    ctr -a "$socket" -n k8s.io images import "$cache/$name.tar" >/dev/null
done
