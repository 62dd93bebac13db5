# Sourced by the scripts beside it: the cache folder, errors in four fields, and a docker command that has BuildKit.
cache=${INSTAR_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/instar/images}
export DOCKER_BUILDKIT=1
# A docker command without its buildx plug-in cannot use BuildKit; Debian's own, in /usr/bin, has BuildKit built in.
docker() { if [[ -x /usr/bin/docker ]]; then /usr/bin/docker "$@"; else command docker "$@"; fi; }
# fail CODE EXPECTED FOUND WHERE ACTION: end with the exit code of the class in instar.errors that fits.
fail() { printf 'error
  expected: %s
  found:    %s
  where:    %s
  do:       %s
' "${@:2}" >&2; exit "$1"; }
python=${PYTHON:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/python}
