"""Reads from the Argo workflow of a run whether a person ended the run, and why it failed.

The v2beta1 API of Kubeflow Pipelines has no field for either.
- If a person terminates a run, the server sets the workflow's `activeDeadlineSeconds` to 0 and the run's state to CANCELING.
- As soon as the workflow has ended, the state is FAILED.
- `state_history` has CANCELING only if the persistence agent saw the workflow in between. If no pod had started, it did not.

`GET /apis/v1beta1/runs/ID` returns the workflow as the agent has last reported it.

This was read in the source of Kubeflow Pipelines 2.16.1, 2.17.0 and the main branch of 2026-08:
`backend/src/apiserver/storage/run_store.go:TerminateRun, UpdateRun`,
`resource/resource_manager.go:TerminateRun, TerminateWorkflow, ReportWorkflowResource`, `common/util/workflow.go:IsTerminating`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from instar.kfp.api import CANCELLED, LIVE

LENGTH = 400
_FAILED = ("Failed", "Error")


def parse(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the workflow of a v1beta1 answer, or an empty dict if the answer has none."""
    try:
        manifest = json.loads((answer.get("pipeline_runtime") or {}).get("workflow_manifest") or "{}")
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) else {}


def ordered(state: str, history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether state or history show that a person has terminated the run and has not retried it since."""
    live = [str(entry.get("state") or "") for entry in history if str(entry.get("state") or "") in LIVE]
    return state in CANCELLED or live[-1:] == ["CANCELING"]


def was_ended(workflow: Mapping[str, Any]) -> bool:
    """Return whether a person ended the workflow: by Terminate in Kubeflow, or by `argo stop` or `argo terminate`.

    A Retry in Kubeflow removes the deadline of 0 that Terminate has set.
    """
    spec = workflow.get("spec") or {}
    return spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))


def reason(workflow: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return why a run failed, or an empty text.

    This is the message of the first pod that failed. If it has none, it is the message of the workflow or of the run.
    """
    status = workflow.get("status") or {}
    nodes = [n for n in (status.get("nodes") or {}).values() if n.get("phase") in _FAILED and n.get("type") == "Pod"]
    first = min(nodes, key=lambda n: (str(n.get("finishedAt") or "9"), str(n.get("name"))), default=None)
    if first is not None and first.get("message"):
        task = str(first.get("name", "")).partition(".")[2] or str(first.get("displayName", ""))
        return f"{task}: {first['message']}"[:LENGTH]
    return (str(status.get("message") or "") or _told(run))[:LENGTH]


def _told(run: Mapping[str, Any]) -> str:
    """Return the error of the run or of its last state. If there is none, return the names of the tasks that failed."""
    errors = [run.get("error"), *(entry.get("error") for entry in reversed(run.get("state_history") or []))]
    said = [str(error["message"]) for error in errors if error and error.get("message")]
    tasks = (run.get("run_details") or {}).get("task_details") or []
    failed = sorted({str(t.get("display_name")) for t in tasks if t.get("state") == "FAILED"} - {"None"})
    return said[0] if said else f"failed: {', '.join(failed)}" if failed else ""
