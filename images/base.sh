#!/usr/bin/env bash
# base.sh build|run|browser: make a base image from Debian packages, with no image registry; print its name and tag.
#   build    minbase with Python and a C++ compiler; only build stages start from it
#   run      Python, its libraries and CA certificates; no shell, no package manager
#   browser  run, and Debian's Chromium with one font
# The root filesystem is made once for each state of this file and of base_hook.sh and kept as a tar in the cache folder;
# remove the tar to take Debian's updates in. The tar is the same byte for byte as long as Debian's archive is the same.
set -euo pipefail -f
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

suite=bookworm
run_packages=python3.11-minimal,libpython3.11-stdlib,ca-certificates,libgomp1,libstdc++6,tzdata
kind=${1:-}
case $kind in
  build) options=(--variant=minbase --include=ca-certificates,g++,libc6-dev,libpython3.11-dev,python3,python3-venv) ;;
  run) options=(--variant=extract "--include=$run_packages") ;;
  browser) options=(--variant=extract "--include=$run_packages,chromium,fonts-dejavu-core") ;;
  *) fail 10 "build, run or browser" "'$kind'" "base.sh: argument 1" "name one of the three base images" ;;
esac
leave_out=(/dev/* /etc/fstab /etc/hostname /etc/resolv.conf /var/cache/* /var/log/*)
if [[ $kind != build ]]; then
  leave_out+=(/etc/apt* /etc/dpkg* /var/lib/apt* /var/lib/dpkg/[!s]* /usr/lib/systemd*)
  options+=(--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr "--extract-hook=$here/base_hook.sh \"\$1\"")
fi

key=$(cat "$here/base.sh" "$here/base_hook.sh" | sha256sum | cut -c1-12)
tar=$cache/base/$kind-$suite-$key.tar
image=instar-base-$kind:$key
if [[ ! -s $tar ]]; then
  command -v mmdebstrap > /dev/null || fail 19 "the program mmdebstrap" "none on PATH" "base.sh" "apt-get install mmdebstrap"
  mkdir -p "$cache/base"
  part=$tar.$$.part log=$tar.$$.log
  # The year 2000: a fixed time, later than the epoch that some tools refuse.
  # What mmdebstrap copies from this machine, or an engine makes itself, stays out of the tar.
  SOURCE_DATE_EPOCH=946684800 mmdebstrap --quiet "${options[@]}" "$suite" - 2> "$log" \
    | mmtarfilter "${leave_out[@]/#/--path-exclude=}" > "$part" \
    || fail 75 "a base image" "$(tail -n 1 "$log")" "$log" "check that Debian's archive can be reached, and try again"
  mv "$part" "$tar"
  rm "$log"
fi
digest=$(sha256sum "$tar" | cut -d' ' -f1)
found=$(docker image inspect --format '{{index .Config.Labels "org.instar.tar"}}' "$image" 2> /dev/null || true)
if [[ $found != "$digest" ]]; then
  docker import --change "LABEL org.instar.tar=$digest" "$tar" "$image" >&2
fi
echo "$image"
