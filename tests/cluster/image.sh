#!/usr/bin/env bash
# Builds the Dockerfile with Debian's buildah over a base that debootstrap makes, and tries what it built as its user.
# Needs root, buildah, debootstrap, the package indexes and 25 GB of disk, which it gives back. Usage: image.sh [cuda|cpu]...
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in buildah debootstrap; do
    if ! command -v "$tool" >/dev/null; then
        echo "image.sh: there is no $tool; apt-get install -y buildah debootstrap" >&2
        exit 2
    fi
done
index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
targets=("$@")
if [ $# -eq 0 ]; then
    targets=(cuda)
    if curl --silent --fail --max-time 20 --output /dev/null "$index/torch/"; then
        targets+=(cpu)
    else
        echo "image.sh: THE TARGET cpu IS SKIPPED: $index is not to be reached; name a mirror in TORCH_INDEX" >&2
    fi
fi

work=$(mktemp -d -p /var/tmp)
buildah() { TMPDIR=$work command buildah --root "$work/storage" --runroot "$work/run" "$@"; } # its caches go there too
cleanup() {
    buildah rm --all >/dev/null 2>&1 || true
    umount "$work/storage/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

base() {
    # debootstrap knows no virtual packages: python3-distutils is the python3.11-distutils that venv asks for.
    local packages=ca-certificates,python3.11,python3.11-dev,python3.11-venv,python3-distutils
    debootstrap --variant=minbase --include="$packages" bookworm "$work/base" >"$work/debootstrap.log" || {
        tail "$work/base/debootstrap/debootstrap.log" >&2
        return 1
    }
    # A company's own certificate authority, if this machine trusts one, is trusted in the build.
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
    local container
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base" / >/dev/null
    buildah commit --quiet --rm "$container" localhost/base >/dev/null
    rm -rf "$work/base"
}

check() { # target
    local container
    container=$(buildah from "localhost/medsd:$1")
    echo "image.sh: $1: $(buildah inspect --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Cmd}}' "$container")"
    buildah run --isolation chroot --env HOME=/tmp --volume "$PWD/tests/cluster/image.py:/image.py:ro" "$container" \
        python /image.py /src/uv.lock
    buildah rm "$container" >/dev/null
}

base
for target in "${targets[@]}"; do
    buildah build --isolation chroot --network host --layers --target "$target" --tag "localhost/medsd:$target" \
        --build-arg BASE=localhost/base --build-arg TORCH_INDEX="$index" .
    check "$target"
done
