"""Adopts a job that already has the name of ours, and removes ours.

The name says what the job produces. So a job of that name belongs to a predecessor, and we adopt it. If that job is being
deleted, we wait. If it was described differently, for example with another image, we refuse it.
"""

from __future__ import annotations

from instar.errors import ConfigError
from instar.pipelines.chain.gang import ends
from instar.pipelines.chain.gang.api import GangApi, Object
from instar.pipelines.chain.gang.manifests import QUEUE, SPEC_DIGEST


def adopt(api: GangApi, manifest: Object) -> str:
    """Return the UID of the job that has our name. From now on it is our job.

    The answer is empty if the caller has to try again. For example, the job is being deleted, it had failed and was deleted here,
    or it changed while we looked. Raises `ConfigError` if the job was described differently from ours.
    """
    job = api.get(manifest)
    if job is None or job["metadata"].get("deletionTimestamp"):
        return ""
    meta = job["metadata"]
    if not _same(job, manifest):
        raise ConfigError(
            expected=f"{manifest['kind']} {meta['name']} with spec digest {_digest(manifest)[:16]}",
            found=f"one of that name with {_digest(job)[:16] or 'none'}, UID {meta['uid']}",
            where=f"namespace {api.namespace}",
            action="delete it if no run uses it: its pods were described differently, for example with other images or pools",
        )
    if ends.of(job) == "failed":
        api.delete(job, meta["uid"])
        return ""
    ours = manifest["metadata"]["ownerReferences"]
    owners = [o for o in meta.get("ownerReferences", []) if o["uid"] not in {own["uid"] for own in ours}] + ours
    changes: Object = {"metadata": {"resourceVersion": meta["resourceVersion"], "ownerReferences": owners}}
    if QUEUE not in meta.get("labels", {}):
        changes["spec"] = {"suspend": False}  # a launcher that was stopped may have suspended it
    return str(meta["uid"]) if api.patch(job, changes) else ""


def remove(api: GangApi, manifest: Object) -> bool:
    """Suspend our job, which frees its nodes at once, and delete it. Return False if it does not exist."""
    job = api.get(manifest)
    if job is None or not _same(job, manifest):
        return False
    api.patch(job, {"spec": {"suspend": True}})
    return api.delete(job, job["metadata"]["uid"])


def _same(job: Object, manifest: Object) -> bool:
    return bool(_digest(job)) and _digest(job) == _digest(manifest)


def _digest(job: Object) -> str:
    return str(job["metadata"].get("annotations", {}).get(SPEC_DIGEST, ""))
