#!/usr/bin/env bash
# save_images.sh FOLDER: beside FOLDER/images.lock, write each image it names as IMAGE.tar.gz.
set -euo pipefail
lock="${1:?usage: save_images.sh FOLDER}/images.lock"
jq -r 'to_entries[] | "\(.key) \(.value.digest)"' "$lock" | while read -r name digest; do
  docker tag "$digest" "$name:release"
  docker save "$name:release" | gzip --no-name >"$1/$name.tar.gz"
done
