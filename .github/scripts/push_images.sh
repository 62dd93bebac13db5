#!/usr/bin/env bash
# push_images.sh FOLDER: load instar-cpu.tar.gz, push it to $REGISTRY under $TAG, sign the digest, attach the SBOM.
# The output `digest` is the digest in the registry, and so is the one in FOLDER/registry.lock.json: the lock that a release
# publishes. FOLDER/images.lock holds ids of local images, which no registry knows.
set -euo pipefail
folder="${1:?usage: push_images.sh FOLDER}"
: "${REGISTRY:?set the repository variable REGISTRY}" "${TAG:?}"
[[ "$REGISTRY" =~ ^[a-z0-9._:/-]+$ ]]
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
printf '{\n  "instar-cpu": {"image": "%s", "digest": "%s"}\n}\n' "$image" "$digest" >"$folder/registry.lock.json"
echo "digest=$digest" >>"$GITHUB_OUTPUT"
