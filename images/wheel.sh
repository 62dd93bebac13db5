#!/usr/bin/env bash
# wheel.sh FOLDER: build the wheel of instar from a copy of the sources, so that no stale build output enters it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

out=${1:?folder}
root=$(dirname "$here")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -C "$root" --exclude=__pycache__ --exclude='*.egg-info' -c \
  src components pipelines kernels pyproject.toml README.md LICENSE | tar -C "$copy" -x
mkdir -p "$out"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-946684800} "$python" -m pip wheel --quiet --no-deps --no-build-isolation \
  --wheel-dir "$out" "$copy" >&2
