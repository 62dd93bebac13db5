#!/usr/bin/env bash
# Compare the policy folder `candidate` with the registry's champion; page.md and the output `code` hold the result.
# A verdict is not a failed step: the job that reports turns it into the conclusion of a check.
set -euo pipefail
: "${TRACKING:?set the repository variable INSTAR_TRACKING_URI to the registry}"
if [ -e candidate/evolution.json ]; then # it would name a store to read from; the candidate is data from somebody else
  echo "candidate: expected a policy folder; found an evolution directory"
  exit 1
fi
code=0
"${INSTAR:-.venv/bin/instar}" evaluate candidate --against champion --suite "$SUITE" --scale tiny \
  --tracking "$TRACKING" --markdown page.md || code=$?
echo "code=$code" >>"$GITHUB_OUTPUT"
echo "exit code $code (0 better or equal, 3 worse, 2 could not tell, anything else an error)"
