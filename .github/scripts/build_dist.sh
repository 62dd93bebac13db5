#!/usr/bin/env bash
# build_dist.sh OUT: wheel, source archive, SBOM and SHA256SUMS of the tracked files, byte for byte the same every time.
# Needs `make setup` and git. VERSION, if set, must be the package's version (with or without a leading v).
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
mkdir -p "${1:?usage: build_dist.sh OUT}"
out="$(cd "$1" && pwd)"
cd "$root"
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH
umask 022
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
# a copy, so that no file of an earlier build gets into the wheel
git ls-files -z | tar --create --null --files-from=- --mode=u=rwX,go=rX | tar --extract --directory "$tree"
rm -f "$out"/*.whl "$out"/*.tar.gz "$out"/*.spdx.json "$out"/SHA256SUMS
"$root/.venv/bin/uv" build --quiet --python "$root/.venv/bin/python" \
  --build-constraints "$root/.github/scripts/build-constraints.txt" --out-dir "$out" "$tree"
rm -f "$out/.gitignore"
"$root/.venv/bin/python" "$root/.github/scripts/dist.py" "$out"
