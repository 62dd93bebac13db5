#!/usr/bin/env bash
# build.sh cpu|cuda|browser [FOLDER]: build the image instar-NAME:dev without a network and without a registry.
# Writes FOLDER/images.lock (image name -> digest; for a local build the image id) and FOLDER/instar-NAME.spdx.json.
# FOLDER is build/images unless given. INSTAR_IMAGE_TAG replaces the tag `dev`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

name=${1:?image: cpu, cuda or browser}
out=${2:-$(dirname "$here")/build/images}
tag=instar-$name:${INSTAR_IMAGE_TAG:-dev}
root=$(dirname "$here")
[[ -f $here/$name/Containerfile ]] || fail 10 "cpu, cuda or browser" "'$name'" "build.sh: argument 1" "name an image"
docker version > /dev/null 2>&1 || fail 75 "a container engine" "no answer from ${DOCKER_HOST:-the default socket}" "docker version" \
  "start one with images/engine.sh start FOLDER and set DOCKER_HOST"

# The time of the last commit; outside a checkout the fixed time that the base images have.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2> /dev/null || echo 946684800)}
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
revision=$(git -C "$root" rev-parse HEAD 2> /dev/null || echo unknown)
[[ -z $(git -C "$root" status --porcelain 2> /dev/null) ]] || revision+=-dirty

if [[ $name == browser ]]; then
  base=$("$here/base.sh" browser)
  set -- --build-arg "INSTAR_CPU=${INSTAR_CPU:-instar-cpu:${INSTAR_IMAGE_TAG:-dev}}"
  context=$here/browser
else
  base=${INSTAR_BASE_RUN:-$("$here/base.sh" run)}
  wheels=$("$here/wheelhouse.sh" "$name")
  set -- --build-arg "BASE_BUILD=$("$here/base.sh" build)"
  context=$(mktemp -d "$(dirname "$wheels")/context.XXXXXX") # beside the wheels: they are linked, not copied
  trap 'rm -rf "$context"' EXIT
  cp "$here/$name/requirements.lock" "$context"
  cp -rl "$wheels" "$context/wheels"
  "$here/wheel.sh" "$context/app"
  (cd "$context/app" && file=$(ls instar-*.whl) && version=${file#instar-} \
    && echo "instar==${version%%-*} --hash=sha256:$(sha256sum "$file" | cut -d' ' -f1)" > instar.lock)
fi
docker build --quiet --network=none --file "$here/$name/Containerfile" --tag "$tag" "$@" \
  --build-arg "BASE_RUN=$base" --build-arg "BASE_DIGEST=$(docker image inspect --format '{{.Id}}' "$base")" \
  --build-arg "CREATED=$created" --build-arg "REVISION=$revision" \
  --build-arg "VERSION=$("$python" -c 'import instar; print(instar.__version__)')" "$context" >&2

mkdir -p "$out"
id=$(docker image inspect --format '{{.Id}}' "$tag")
docker run --rm --interactive --network=none --env "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" "$tag" \
  python - "instar-$name" "$id" < "$here/sbom.py" > "$out/instar-$name.spdx.json"
"$python" - "$out/images.lock" "instar-$name" "$id" << 'END'
import json, pathlib, sys
path, name, digest = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
images = json.loads(path.read_text()) if path.exists() else {}
images[name] = {"image": name, "digest": digest}
path.write_text(json.dumps(images, indent=2, sort_keys=True) + "\n")
END
echo "$tag $id"
