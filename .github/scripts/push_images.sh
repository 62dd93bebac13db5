#!/usr/bin/env bash
# push_images.sh FOLDER: load instar-cpu.tar.gz, push it to $REGISTRY under $TAG, sign the digest, attach the SBOM.
# The output `digest` is the digest in the registry.
set -euo pipefail
folder="${1:?usage: push_images.sh FOLDER}"
: "${REGISTRY:?set the repository variable REGISTRY}" "${TAG:?}"
printf '%s' "$REGISTRY_PASSWORD" | docker login "${REGISTRY%%/*}" --username "$REGISTRY_USER" --password-stdin
image="$REGISTRY/instar-cpu"
docker load --input "$folder/instar-cpu.tar.gz"
docker tag instar-cpu:release "$image:$TAG"
docker push "$image:$TAG"
digest="$(docker inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image:$TAG" | sed -n "s|^$image@||p" | head -n 1)"
[[ "$digest" =~ ^sha256:[0-9a-f]{64}$ ]]
cosign sign --yes "$image@$digest"
for sbom in "$folder"/*.spdx.json; do
  cosign attest --yes --type spdxjson --predicate "$sbom" "$image@$digest"
done
echo "digest=$digest" >>"$GITHUB_OUTPUT"
