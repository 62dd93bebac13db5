"""The pods of a JobSet as processes of this machine: arguments, environment and failures as an Indexed Job treats them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.fake_kube import FakeKube, Object

INDEX = "batch.kubernetes.io/job-completion-index"
SECRETS = {"instar-store": {"accesskey": "AKIAFAKE", "secretkey": "fake-secret"}}


def expanded(text: str, variables: dict[str, str]) -> str:
    """Return an argument as the kubelet hands it over (k8s.io/kubernetes third_party/forked/golang/expansion)."""
    out, at = "", 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            out, at = out + text[at], at + 1
        elif text[at + 1] == "$":
            out, at = out + "$", at + 2
        elif text[at + 1] == "(" and ")" in text[at:]:
            name = text[at + 2 : text.index(")", at)]
            out, at = out + variables.get(name, f"$({name})"), at + len(name) + 3
        else:
            out, at = out + text[at : at + 2], at + 2
    return out


class Pods:
    """Runs the pods of every JobSet that is created on `kube`. `broken` changes the variables of chosen (index, attempt)."""

    def __init__(self, kube: FakeKube, folder: Path) -> None:
        self.kube, self.folder = kube, folder
        self.broken: dict[tuple[int, int], dict[str, str]] = {}
        self.started: list[tuple[int, int]] = []
        self.threads: list[threading.Thread] = []
        kube.on_create = self.start

    def start(self, job: Object) -> None:
        self.threads.append(threading.Thread(target=self._run, args=(job,), daemon=True))
        self.threads[-1].start()

    def _run(self, job: Object) -> None:
        name, spec = job["metadata"]["name"], job["spec"]["replicatedJobs"][0]["template"]["spec"]
        with ThreadPoolExecutor(spec["parallelism"]) as pool:
            codes = list(pool.map(lambda index: self._index(name, spec, index), range(spec["completions"])))
        failed = [index for index, code in enumerate(codes) if code]
        self.kube.finish(
            "jobsets", name, "Failed" if failed else "Completed", "FailedJobs" if failed else "", str(failed)
        )

    def _index(self, name: str, spec: Object, index: int) -> int:
        (rule,) = (r["onExitCodes"] for r in spec["podFailurePolicy"]["rules"] if "onExitCodes" in r)
        code = 0
        for attempt in range(spec["backoffLimitPerIndex"] + 1):
            code = self._pod(name, spec["template"]["spec"]["containers"][0], index, attempt)
            if code == 0 or code in rule["values"]:
                return code
        return code

    def _pod(self, name: str, box: Object, index: int, attempt: int) -> int:
        self.started.append((index, attempt))
        said = self.folder / f"termination-{index}-{attempt}"
        said.touch()
        variables = {entry["name"]: _value(entry, index) for entry in box["env"]}
        variables |= self.broken.get((index, attempt), {})
        command = [*box["command"], *(expanded(argument, variables) for argument in box["args"])]
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "INSTAR_TERMINATION_LOG": str(said),
            **variables,
            "HOME": str(self.folder),
            "INSTAR_CACHE": str(built_cache()),  # pods of one image have the same kernels, built or not
        }
        command[0] = shutil.which(command[0], path=env["PATH"]) or command[0]
        with (self.folder / f"log-{index}-{attempt}").open("wb") as log:
            code = subprocess.run(command, env=env, stdout=log, stderr=log, check=False, timeout=300).returncode
        ended = {"exitCode": code, "message": said.read_text()}
        meta = {"labels": {"jobset.sigs.k8s.io/jobset-name": name}, "annotations": {INDEX: str(index)}}
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": {"terminated": ended}}]}
        self.kube.pods.append({"metadata": meta, "status": status})
        return code


def _value(entry: dict[str, Any], index: int) -> str:
    source = entry.get("valueFrom", {})
    if "secretKeyRef" in source:
        return SECRETS[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
    if "fieldRef" in source:
        assert source["fieldRef"]["fieldPath"] == f"metadata.annotations['{INDEX}']"
        return str(index)
    return str(entry["value"])


def built_cache() -> Path:
    """Return where this process finds the kernels that were built."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("INSTAR_CACHE") or home / "instar")
