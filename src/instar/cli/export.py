"""`instar export`: a policy of a run as an ordinary Hugging Face folder, and on request as a repository of a hub."""

from __future__ import annotations

import shlex
from pathlib import Path

from instar.pipelines.export.folder import write
from instar.pipelines.export.push import check_id, push
from instar.pipelines.export.select import opened, select
from instar.terminal import say


def export(run: str, out: Path, policy: str, merge_lora: bool, repository: str | None) -> None:
    """Write the folder, and push it if a repository is named."""
    if repository is not None:
        check_id(repository)
    words = ["instar", "export", run, "-o", str(out), "--policy", policy, *(["--merge-lora"] if merge_lora else [])]
    with opened(run) as workspace:
        selected = select(workspace, policy, run)
        write(selected, out, merge_lora, shlex.join(words))
    say(f"policy {selected.digest}, iteration {selected.iteration}\nfolder {out}, with its model card README.md\n")
    if (out / "adapter_config.json").exists():
        say("note: this is the adapter alone; --merge-lora writes a model that loads by itself\n")
    if repository is not None:
        say(f"pushed {push(out, repository)}\n")
