"""Writes the folder of an exported policy. It appears whole: a kill leaves nothing under its name.

A policy that was trained with low-rank adapters is stored with merged weights, and its adapter lies beside them
(`instar.components.update.lora`). `merge_lora` exports the merged weights. Without it, the folder is what PEFT writes: the adapter
alone, a few megabytes. Its base is the checkpoint that the run began with. If that has no name outside of the run, it is added as
the folder `base`.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

from instar.errors import ConfigError
from instar.pipelines.export.card import card
from instar.pipelines.export.select import Selected
from instar.store_files import remove_stale, storage_errors

ADAPTER = "adapter"
"""Folder of a stored policy that holds its adapter."""
BASE = "base"


def write(selected: Selected, out: Path, merge_lora: bool, command: str) -> None:
    """Write the policy and its card to `out`, a folder that is new or empty. `command` stands on the card."""
    _check_target(out)
    source = selected.folder
    adapted = (source / ADAPTER).is_dir()
    if merge_lora and not adapted:
        raise ConfigError(
            expected="a policy with an adapter",
            found=f"the policy of iteration {selected.iteration}, which has none",
            where="--merge-lora",
            action="leave it out: the exported folder has whole weights",
        )
    with storage_errors(out):
        staging = out.absolute().parent / ".instar-export"
        staging.mkdir(parents=True, exist_ok=True)
        remove_stale(staging)
        folder = staging / secrets.token_hex(8)
        try:
            _fill(folder, source, selected, adapted and not merge_lora)
            (folder / "README.md").write_text(card(selected, command, folder), encoding="utf-8")
            folder.rename(out.absolute())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not any(staging.iterdir()):
                staging.rmdir()


def _check_target(out: Path) -> None:
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ConfigError(
            expected="a new or empty folder",
            found=f"{len(list(out.iterdir()))} files in it" if out.is_dir() else "a file or a link",
            where=f"-o {out}",
            action="choose another folder, or empty this one",
        )


def _fill(folder: Path, source: Path, selected: Selected, adapter_only: bool) -> None:
    if not adapter_only:
        _copy(source, folder, leave_out=(ADAPTER,))
        return
    weights = {file.name for file in source.iterdir() if file.suffix == ".safetensors" or ".index." in file.name}
    _copy(source, folder, leave_out=(ADAPTER, "config.json", "weights.json", *weights))
    _copy(source / ADAPTER, folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    named = base_name(selected)
    if not named:
        base = json.loads((folder / "base.json").read_text())["digest"]
        _copy(selected.workspace.cas.get(base), folder / BASE, leave_out=(ADAPTER,))
    settings["base_model_name_or_path"] = named or BASE
    (folder / "adapter_config.json").write_text(json.dumps(settings, sort_keys=True, indent=1) + "\n")


def base_name(selected: Selected) -> str:
    """Return the folder or hub id of the checkpoint that the run began with, or an empty text if it made its own."""
    initial = selected.workspace.ledger.recipe["dataset_prep"].get("initial") or {}
    return str(initial["path"]) if initial.get("strategy") == "checkpoint" else ""


def _copy(source: Path, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Copy the files of a folder. The copies belong to the user, who may change them; files of a cache are read-only."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.rglob("*")):
        name = file.relative_to(source)
        if name.parts[0] in leave_out or not file.is_file():
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
