#!/bin/sh
# Makes a model repository out of the mounted bundle, on the device that will serve it, then serves it until SIGTERM.
#
#   SHORTLIST_BUNDLE       a run or a bundle, may be read-only          (default /bundle)
#   SHORTLIST_MODELS       where repositories are kept, writable; one that lies there itself is served as it is (/models)
#   SHORTLIST_TARGET       gpu or cpu                                   (default gpu)
#   SHORTLIST_EXPORT_ARGS  more options for `shortlist export`
#
# Options are handed to `shortlist serve`; anything else is run in its place: docker run IMAGE shortlist doctor
set -eu

bundle=${SHORTLIST_BUNDLE:-/bundle}
models=${SHORTLIST_MODELS:-/models}
target=${SHORTLIST_TARGET:-gpu}

fail() {
    echo "error: $*" >&2
    exit 1
}

# Engines fit one kind of GPU and one TensorRT: a repository is kept for each, so that none is ever loaded by another.
device() {
    if [ "$target" != gpu ]; then
        echo "$target"
        return
    fi
    found=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader) && [ -n "$found" ] ||
        fail "no GPU is visible; docker run --gpus all, nvidia.com/gpu in Kubernetes, or SHORTLIST_TARGET=cpu"
    kinds=$(echo "$found" | sort -u | tr -sc '[:alnum:].' -)
    echo "${kinds}triton${NVIDIA_TRITON_SERVER_VERSION:-}"
}

# An export that exists is checked and kept; an interrupted one has left a hidden folder behind.
build() {
    rm -rf "$1"/.export-*
    # shellcheck disable=SC2086 # several options
    shortlist export "$bundle" --target "$target" --out "$1" ${SHORTLIST_EXPORT_ARGS:-}
}

case ${1:--} in
-*) ;;
*) exec "$@" ;;
esac

if [ -f "$models/cascade/config.pbtxt" ]; then
    repository=$models
    echo "serving the prebuilt repository $repository"
elif [ -d "$bundle" ] && [ -n "$(ls -A "$bundle")" ]; then
    kind=$(device)
    repository=$models/$kind
    build "$repository"
else
    fail "nothing to serve; mount a run or bundle at $bundle, or a model repository at $models"
fi
exec shortlist serve "$repository" "$@"
