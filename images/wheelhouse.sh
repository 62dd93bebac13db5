#!/usr/bin/env bash
# wheelhouse.sh IMAGE: fetch the files that images/IMAGE/requirements.lock pins; print the folder that holds them.
# The hash of every file is checked by pip as it arrives, and by lock.py each time the folder is used.
# Some distributions have no wheel: their source archives are kept, and compiled inside the build, which has no network.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

lock=$here/${1:?image}/requirements.lock
[[ -s $lock ]] || fail 10 "a lock of the image's wheels" "no such file" "$lock" "write it: see 'Locks' in docs/images.md"
[[ $("$python" -c 'import platform, sys; print(sys.version_info[:2], platform.machine())') == "(3, 11) x86_64" ]] \
  || fail 19 "CPython 3.11 on x86-64, like the image" "$("$python" -VV) on $(uname -m)" "$python" "set PYTHON"
wheels=$cache/wheels/$1-$(sha256sum "$lock" | cut -c1-12)
if [[ ! -d $wheels ]]; then
  mkdir -p "$(dirname "$wheels")"
  part=$(mktemp -d "$wheels.XXXXXX")
  # pip reads the metadata of a source archive by running its setup.py: with this environment's setuptools, not with
  # one fetched unseen for it.
  "$python" -m pip download --quiet --no-deps --require-hashes --no-build-isolation --use-pep517 \
    --dest "$part" --requirement "$lock" >&2
  mv -T "$part" "$wheels" 2> /dev/null || rm -r "$part" # another build was first; its files are checked below
fi
"$python" "$here/lock.py" verify "$lock" "$wheels"
echo "$wheels"
