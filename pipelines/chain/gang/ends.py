"""Reads how a job ended from its conditions and, if it failed, the error from its pods."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeAlias

from instar.errors import BY_CODE, InstarError, ProcessError, StalledError
from instar.pipelines.chain.gang.api import Object

End: TypeAlias = Literal["running", "succeeded", "failed"]
_INDEX = "batch.kubernetes.io/job-completion-index"


def of(job: Object) -> End:
    """Return how a JobSet ended, or that it still runs."""
    true = {c["type"] for c in job.get("status", {}).get("conditions", []) if c.get("status") == "True"}
    if "Failed" in true:
        return "failed"
    return "succeeded" if "Completed" in true else "running"


def error_of(job: Object, pods: list[Object]) -> InstarError:
    """Return the error of a failed job. It comes from the first pod with a permanent error, or else from the first failed pod."""
    name, said = job["metadata"]["name"], _conditions(job)
    ends = sorted(filter(None, map(_end, pods)), key=lambda end: (not _permanent(end[1]), end[0]))
    if not ends:
        return StalledError(
            expected=f"{job['kind']} {name} to succeed",
            found=f"{said}; no pod of it failed by itself",
            where=f"{job['kind']} {name}",
            action="run again: the job passed its deadline or lost its nodes, and recorded shards are not computed twice",
        )
    index, code, message = ends[0]
    told = _told(message)
    return BY_CODE.get(code, ProcessError)(
        expected=told.get("expected", "exit code 0"),
        found=f"{told.get('found', f'exit code {code}')} in {len(ends)} failed pods, first index {index}; {said}",
        where=f"{job['kind']} {name}, index {index}: {told.get('where', 'no reason given')}",
        action=told.get("action", "read the log of the pod"),
    )


def _end(pod: Object) -> tuple[int, int, str] | None:
    """Return index, exit code and message of a pod that failed by itself, or None."""
    status = pod.get("status", {})
    lost = any(c["type"] == "DisruptionTarget" and c.get("status") == "True" for c in status.get("conditions", []))
    if status.get("phase") != "Failed" or lost:
        return None
    index = int(pod["metadata"].get("annotations", {}).get(_INDEX, 0))
    ended = [box.get("state", {}).get("terminated") or {} for box in status.get("containerStatuses", [])]
    failure = next((e for e in ended if e.get("exitCode")), {})
    return index, int(failure.get("exitCode", 0)), str(failure.get("message", ""))


def _permanent(code: int) -> bool:
    return code in BY_CODE and not BY_CODE[code].transient


def _told(message: str) -> dict[str, str]:
    """Return the fields that `instar supervise` left in the termination log."""
    try:
        raw: Any = json.loads(message)
    except ValueError:
        return {}
    return {str(k): str(v)[:400] for k, v in raw.items()} if isinstance(raw, dict) else {}


def _conditions(job: Object) -> str:
    true = (c for c in job.get("status", {}).get("conditions", []) if c.get("status") == "True")
    return "; ".join(f"{c['type']}: {c.get('reason', '')} {c.get('message', '')[:200]}" for c in true)
