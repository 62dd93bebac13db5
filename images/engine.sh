#!/usr/bin/env bash
# engine.sh start|stop DIR: a private container engine on a bare Debian machine, as root.
# `start` installs Debian's docker.io and mmdebstrap where they are absent, starts a dockerd whose data, state, process id
# and socket are all below DIR, waits until it answers and prints the value for DOCKER_HOST. It has no bridge and touches
# no firewall: containers run with --network none or host. `stop` ends it and removes DIR.
# Exit code 77 with one line of reason: this machine cannot run an engine.
set -euo pipefail

cannot() { echo "no container engine: $*" >&2; exit 77; }
answers() { "$docker" --host "unix://$dir/docker.sock" version > /dev/null 2>&1; }

[[ ${1:-} == start || ${1:-} == stop ]] && [[ -n ${2:-} ]] || { echo "usage: engine.sh start|stop DIR" >&2; exit 2; }
dir=$(realpath -m "$2")
docker=/usr/bin/docker

install() {
  local package missing=()
  for package in docker.io:dockerd mmdebstrap:mmdebstrap; do
    command -v "${package#*:}" > /dev/null || missing+=("${package%:*}")
  done
  [[ ${#missing[@]} -eq 0 ]] && return
  command -v apt-get > /dev/null || cannot "${missing[*]} absent, and no apt-get to install it"
  # Not started by its package: the one engine that runs is the one started here.
  { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}"; } \
    > "$dir/apt.log" 2>&1 || cannot "apt-get install ${missing[*]}: $(tail -n 1 "$dir/apt.log")"
}

start() {
  [[ $(id -u) -eq 0 ]] || cannot "not root"
  # A unix socket's path has 107 bytes at most; containerd's is the longest here.
  [[ ${#dir} -le 60 ]] || cannot "the folder's path has ${#dir} characters, and 60 are the most: $dir"
  mkdir -p "$dir"
  install
  if ! answers; then
    setsid dockerd --host "unix://$dir/docker.sock" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
      --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
      > "$dir/log" 2>&1 < /dev/null &
    local process=$! deadline=$((SECONDS + 60))
    until answers; do
      kill -0 "$process" 2> /dev/null || cannot "dockerd ended: $(tail -n 1 "$dir/log")"
      if ((SECONDS >= deadline)); then
        kill "$process"
        cannot "dockerd gave no answer in 60 s: $(tail -n 1 "$dir/log")"
      fi
      sleep 0.2
    done
  fi
  echo "unix://$dir/docker.sock"
}

stop() {
  if [[ -s $dir/pid ]]; then
    local process
    process=$(< "$dir/pid")
    kill "$process" 2> /dev/null || true
    tail --pid="$process" -f /dev/null # waits for its end
  fi
  [[ ! -e $dir/exec/netns/default ]] || umount "$dir/exec/netns/default" 2> /dev/null || true # dockerd leaves it mounted
  [[ ! -e $dir ]] || rm -rf "$dir"
}

"$1"
