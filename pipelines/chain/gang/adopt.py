"""What to do with a job that has the name of ours already, and how to remove ours.

The name says what the job makes. So a job of that name is a predecessor's: it is adopted. One that is being deleted is waited for,
and one that was described otherwise, for example with another image, is refused.
"""

from __future__ import annotations

from instar.errors import ConfigError
from instar.pipelines.chain.gang import ends
from instar.pipelines.chain.gang.api import GangApi, Object
from instar.pipelines.chain.gang.manifests import QUEUE, SPEC_DIGEST


def adopt(api: GangApi, manifest: Object) -> str:
    """Return the UID of the job that has the name, which is ours too from now on.

    The answer is empty where the caller has to try again: the job is gone or going, it had failed and was deleted here, or it
    changed while we looked. Raises `ConfigError` when the job was described otherwise than ours.
    """
    found = api.get(manifest)
    if found is None or found["metadata"].get("deletionTimestamp"):
        return ""
    meta = found["metadata"]
    if not _same(found, manifest):
        raise ConfigError(
            expected=f"{manifest['kind']} {meta['name']} with spec digest {_digest(manifest)[:16]}",
            found=f"one of that name with {_digest(found)[:16] or 'none'}, UID {meta['uid']}",
            where=f"namespace {api.namespace}",
            action="delete it if no run works with it: its pods were described otherwise, by other images or pools",
        )
    if ends.of(found) == "failed":
        api.delete(found, meta["uid"])
        return ""
    ours = manifest["metadata"]["ownerReferences"]
    owners = [o for o in meta.get("ownerReferences", []) if o["uid"] not in {own["uid"] for own in ours}] + ours
    changes: Object = {"metadata": {"resourceVersion": meta["resourceVersion"], "ownerReferences": owners}}
    if QUEUE not in meta.get("labels", {}):
        changes["spec"] = {"suspend": False}  # a launcher that was stopped may have suspended it
    return str(meta["uid"]) if api.patch(found, changes) else ""


def remove(api: GangApi, manifest: Object) -> bool:
    """Suspend our job, which frees its nodes at once, and delete it. False when there is none."""
    found = api.get(manifest)
    if found is None or not _same(found, manifest):
        return False
    api.patch(found, {"spec": {"suspend": True}})
    return api.delete(found, found["metadata"]["uid"])


def _same(found: Object, manifest: Object) -> bool:
    return bool(_digest(found)) and _digest(found) == _digest(manifest)


def _digest(job: Object) -> str:
    return str(job["metadata"].get("annotations", {}).get(SPEC_DIGEST, ""))
