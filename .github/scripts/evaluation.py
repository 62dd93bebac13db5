"""The two ends of the workflow `evaluate`: who may ask, and what is answered. Standard library only.

    python evaluation.py authorize     event -> sha, number, suite as outputs of the step; none for a comment that is refused
    python evaluation.py report        exit code and page -> check run, and one comment that is kept up to date

Everything that somebody else wrote is read from the event's file or an artifact, never from a command line.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

MARKER, CHECK, AUTHOR = "<!-- instar-evaluate -->", "evaluate against champion", "github-actions[bot]"
CONCLUSIONS = {"0": "success", "2": "neutral", "3": "failure"}
"""Exit codes of `instar evaluate`: better or equal, could not tell, worse. Any other one is an error: `failure`."""
PAGE_CHARS = 60_000


def authorize() -> int:
    """Find out what is to be evaluated. A comment counts only when its author may write to the repository.

    Return 0 for any other comment, too: whoever may comment must not be able to fail a run. The outputs are then empty.
    """
    event, repository = json.loads(Path(env("GITHUB_EVENT_PATH")).read_text()), env("GITHUB_REPOSITORY")
    if "comment" not in event:
        suite = (event.get("inputs") or {}).get("suite") or "sec"
        return outputs(sha=env("GITHUB_SHA"), number="", suite=suite)
    login, first = event["comment"]["user"]["login"], event["comment"]["body"].splitlines()[:1]
    asked = re.fullmatch(r"/evaluate(?:\s+([a-z0-9_]{1,40}))?\s*", first[0] if first else "")
    if asked is None:
        return refuse("the first line of the comment is not `/evaluate` or `/evaluate SUITE`")
    if "pull_request" not in event["issue"]:
        return refuse("the comment is not on a pull request")
    name = urllib.parse.quote(login, safe="")
    nobody = {"permission": "none"}
    permission = call("GET", f"/repos/{repository}/collaborators/{name}/permission", unknown=nobody)["permission"]
    if permission not in ("admin", "write"):
        return refuse(f"the author's permission is {permission!r}, not 'write'")
    number = str(int(event["issue"]["number"]))
    pull = call("GET", f"/repos/{repository}/pulls/{number}")
    return outputs(sha=pull["head"]["sha"], number=number, suite=asked[1] or "sec")


def report() -> int:
    """Publish the result. Return 0 unless the policy is worse or there is no result."""
    code, number, repository = os.environ.get("CODE", ""), os.environ.get("NUMBER", ""), env("GITHUB_REPOSITORY")
    run = f"{env('GITHUB_SERVER_URL')}/{repository}/actions/runs/{env('GITHUB_RUN_ID')}"
    path = Path(env("PAGE"))
    page = path.read_text() if path.is_file() else f"The evaluation did not finish: see [its log]({run}).\n"
    if len(page) > PAGE_CHARS:
        page = f"{page[:PAGE_CHARS]}\n\nCut: see [the whole page]({run}).\n"
    conclusion = CONCLUSIONS.get(code, "failure") if path.is_file() else "failure"
    with Path(env("GITHUB_STEP_SUMMARY")).open("a") as summary:
        summary.write(page)
    check = {"name": CHECK, "head_sha": env("SHA"), "status": "completed", "conclusion": conclusion, "details_url": run}
    call("POST", f"/repos/{repository}/check-runs", {**check, "output": {"title": conclusion, "summary": page}})
    if number:
        comment(repository, number, f"{MARKER}\n{page}\n`{env('SHA')[:12]}` [run]({run})\n")
    return 1 if conclusion == "failure" else 0


def comment(repository: str, number: str, body: str) -> None:
    """Write the comment, over the one this script wrote before when there is one."""
    for page in range(1, 31):
        found = call("GET", f"/repos/{repository}/issues/{number}/comments?per_page=100&page={page}")
        for old in found:
            if old["user"]["login"] == AUTHOR and old["body"].startswith(MARKER):
                call("PATCH", f"/repos/{repository}/issues/comments/{int(old['id'])}", {"body": body})
                return
        if len(found) < 100:
            break
    call("POST", f"/repos/{repository}/issues/{number}/comments", {"body": body})


def outputs(*, sha: str, number: str, suite: str) -> int:
    """Write the step's outputs; refuse values that could be anything but what they are called."""
    if not re.fullmatch(r"[0-9a-f]{40}", sha) or not re.fullmatch(r"[a-z0-9_]{1,40}", suite):
        raise SystemExit(f"not a commit and a suite: {sha!r}, {suite!r}")
    with Path(env("GITHUB_OUTPUT")).open("a") as stream:
        stream.write(f"sha={sha}\nnumber={number}\nsuite={suite}\n")
    return 0


def refuse(reason: str) -> int:
    """Say why nothing is evaluated; the step ends well, without outputs."""
    sys.stderr.write(f"refused: {reason}\n")
    return 0


def call(method: str, path: str, body: dict[str, Any] | None = None, *, unknown: Any = None) -> Any:
    """Call the GitHub API; its errors end the process with its own message, but 404 is `unknown` where that is given."""
    headers = {"Authorization": f"Bearer {env('GITHUB_TOKEN')}", "Accept": "application/vnd.github+json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(env("GITHUB_API_URL") + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404 and unknown is not None:
            return unknown
        raise SystemExit(f"{method} {path}: {error.code} {error.read(300).decode(errors='replace')}") from error


def env(name: str) -> str:
    """Return a variable that must be set."""
    if not os.environ.get(name):
        raise SystemExit(f"the variable {name} is not set")
    return os.environ[name]


if __name__ == "__main__":
    raise SystemExit({"authorize": authorize, "report": report}[sys.argv[1]]())
