"""What the workflow behind a run says that the run does not: whether a person ended it, and why it failed.

The v2beta1 API has no field for either. A Terminate sets the workflow's `activeDeadlineSeconds` to 0, the state to CANCELING
and nothing else; the state is FAILED as soon as the workflow has ended, and `state_history` has CANCELING in between only when the
persistence agent saw the workflow in between, which it does not when no pod had started. Read from Kubeflow Pipelines 2.16.1,
2.17.0 and its main branch of 2026-08: `backend/src/apiserver/storage/run_store.go:TerminateRun, UpdateRun`,
`resource/resource_manager.go:TerminateRun, TerminateWorkflow, ReportWorkflowResource`, `common/util/workflow.go:IsTerminating`.
`GET /apis/v1beta1/runs/ID`, which all three serve, has the workflow as the agent reported it last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from instar.kfp.api import CANCELLED, LIVE

LENGTH = 400
_FAILED = ("Failed", "Error")


def parse(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the workflow of a v1beta1 answer; an empty one where the answer has none."""
    try:
        found = json.loads((answer.get("pipeline_runtime") or {}).get("workflow_manifest") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def ordered(state: str, history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether state or history show a Terminate that no later Retry has taken back."""
    live = [str(entry.get("state") or "") for entry in history if str(entry.get("state") or "") in LIVE]
    return state in CANCELLED or live[-1:] == ["CANCELING"]


def was_ended(workflow: Mapping[str, Any]) -> bool:
    """Return whether a person ended the workflow: by Terminate (a Retry takes the 0 away), or by `argo stop | terminate`."""
    spec = workflow.get("spec") or {}
    return spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))


def reason(workflow: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return why a run failed: the first pod that failed with its message, else what workflow or run say. May be empty."""
    status = workflow.get("status") or {}
    nodes = [n for n in (status.get("nodes") or {}).values() if n.get("phase") in _FAILED and n.get("type") == "Pod"]
    first = min(nodes, key=lambda n: (str(n.get("finishedAt") or "9"), str(n.get("name"))), default=None)
    if first is not None and first.get("message"):
        task = str(first.get("name", "")).partition(".")[2] or str(first.get("displayName", ""))
        return f"{task}: {first['message']}"[:LENGTH]
    return (str(status.get("message") or "") or _told(run))[:LENGTH]


def _told(run: Mapping[str, Any]) -> str:
    """Return what the run itself says: an error of its own or of its last state, or the tasks that failed."""
    errors = [run.get("error"), *(entry.get("error") for entry in reversed(run.get("state_history") or []))]
    said = [str(error["message"]) for error in errors if error and error.get("message")]
    tasks = (run.get("run_details") or {}).get("task_details") or []
    failed = sorted({str(t.get("display_name")) for t in tasks if t.get("state") == "FAILED"} - {"None"})
    return said[0] if said else f"failed: {', '.join(failed)}" if failed else ""
