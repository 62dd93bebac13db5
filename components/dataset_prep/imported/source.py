"""Finds the parts of a data set: which files there are, which format each has, and which split its name says.

A split in the name of a file or of its folder counts: `train.jsonl`, `data/test-00000-of-00001.parquet`, `validation/part-0.csv`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from instar.components.dataset_prep.imported import arrow_stream, csv_file, harbor, hub, jsonl, parquet
from instar.components.dataset_prep.imported.part import Batch, Part, refused
from instar.errors import ConfigError, ContractError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "id",
    "id": "id",
    "ood": "ood",
}
"""What users call a split -> the pool of instar. The test pool in distribution is `id`."""
TEXT: dict[str, Callable[[Path, str], Iterator[Batch]]] = {
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".json": jsonl.read,
    ".csv": csv_file.read,
    ".tsv": csv_file.read,
}
FORMATS = (*TEXT, ".parquet")
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The parts of a data set, the name of its format, and its files for the digest."""

    format: str
    parts: tuple[Part, ...]
    files: tuple[Path, ...] = ()

    def digest(self) -> str:
        """Return the SHA-256 over names and bytes of the files. It is empty for a data set of the hub."""
        if not self.files:
            return ""
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as opened:
                total.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()

    def size(self) -> int:
        """Return the number of bytes of the files."""
        return sum(file.stat().st_size for file in self.files)


def open_source(path: str, drop: Sequence[str] = ()) -> Source:
    """Return the parts of the data set at `path`: a file, a folder, or the id of a data set of the hub."""
    place = Path(path)
    if place.is_file():
        return Source(format=_format([place]), parts=(_part(place, place.name, "", drop),), files=(place,))
    if place.is_dir():
        return _folder(place, drop)
    if hub.ID.fullmatch(path):
        splits = hub.load(path)
        parts = [
            Part(name=f"{path}:{name}", split=_split_of(name, path), unit="row", read=partial(hub.read, rows))
            for name, rows in splits.items()
        ]
        return Source(format="hub", parts=tuple(parts))
    raise ConfigError(
        expected="a file or a folder of rows, or the id OWNER/NAME of a data set of the hub",
        found="nothing",
        where=path,
        action="check the path",
    )


def _folder(folder: Path, drop: Sequence[str]) -> Source:
    if (folder / "dataset_dict.json").is_file():
        names = arrow_stream.splits(folder)
        return _saved([(folder / name, _split_of(name, str(folder))) for name in names], drop)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _saved([(folder, "")], drop)
    if tasks := harbor.tasks(folder):
        files = tuple(task / name for task in tasks for name in (harbor.INSTRUCTION, harbor.SETTINGS))
        part = Part(name=folder.name, split="", unit="task", read=partial(harbor.read, folder))
        return Source(format="harbor", parts=(part,), files=files)
    return _files(folder, drop)


def _saved(folders: Sequence[tuple[Path, str]], drop: Sequence[str]) -> Source:
    pairs = [(file, split) for folder, split in folders for file in arrow_stream.files(folder)]
    parts = [
        Part(
            name=f"{file.parent.name}/{file.name}",
            split=split,
            unit="row",
            read=partial(arrow_stream.read, file, f"{file.parent.name}/{file.name}", drop),
        )
        for file, split in pairs
    ]
    return Source(format="arrow", parts=tuple(parts), files=tuple(file for file, _ in pairs))


def _files(folder: Path, drop: Sequence[str]) -> Source:
    """Return the files of a folder and of the folders in it. Hidden files are left out."""
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in FORMATS)
    files = [p for p in inside if not any(part.startswith((".", "_")) for part in p.relative_to(folder).parts)]
    files = [p for p in files if p.name not in ("dataset_infos.json", "dataset_info.json", "state.json", "config.json")]
    if not files:
        raise ConfigError(
            expected=f"files ending in {', '.join(FORMATS)}, a saved data set, or folders of tasks",
            found=f"{sorted(path.name for path in folder.iterdir())[:8]}",
            where=str(folder),
            action="check the path",
        )
    named = {file: _named_split(file.relative_to(folder)) for file in files}
    unnamed = [str(file.relative_to(folder)) for file, split in named.items() if not split]
    if unnamed and len(unnamed) < len(files):
        raise ConfigError(
            expected="a split in the name of every file, or of none",
            found=f"no split in {unnamed[:3]}",
            where=str(folder),
            action=f"rename the files, for example to train.jsonl; the splits are {', '.join(SPLITS)}",
        )
    _one_configuration(folder, named)
    parts = [_part(file, str(file.relative_to(folder)), split, drop) for file, split in named.items()]
    return Source(format=_format(files), parts=tuple(parts), files=tuple(files))


def _one_configuration(folder: Path, named: dict[Path, str]) -> None:
    """Refuse a folder in which several folders have the same split: those are several data sets."""
    homes: dict[str, set[str]] = {}
    for file, split in named.items():
        above = [part for part in file.relative_to(folder).parts[:-1] if not _word_split(part)]
        homes.setdefault(split, set()).add("/".join(above))
    several = next((sorted(places) for split, places in homes.items() if split and len(places) > 1), None)
    if several:
        raise ConfigError(
            expected="one data set in a folder",
            found=f"the same split in {', '.join(several)}",
            where=str(folder),
            action=f"name one of them, for example {folder / several[-1]}",
        )


def _part(file: Path, name: str, split: str, drop: Sequence[str]) -> Part:
    suffix = file.suffix.lower()
    if suffix in TEXT:
        return Part(name=name, split=split, unit="line", read=partial(TEXT[suffix], file, name))
    return Part(name=name, split=split, unit="row", read=partial(parquet.read, file, name, drop))


def _format(files: Sequence[Path]) -> str:
    suffixes = {file.suffix.lower() for file in files}
    unknown = sorted(suffixes - set(FORMATS))
    if unknown:
        raise ConfigError(
            expected=f"a file ending in {', '.join(FORMATS)}",
            found=f"'{unknown[0]}'",
            where=str(files[0]),
            action="convert the file, or rename it",
        )
    return "+".join(sorted({suffix.removeprefix(".") for suffix in suffixes}))


def _named_split(path: Path) -> str:
    """Return the split that the name of a file says, or else the nearest of its folders. It is empty if none says one."""
    return next((split for part in reversed(path.parts) if (split := _word_split(part))), "")


def _word_split(name: str) -> str:
    word = _WORD.match(name)
    return SPLITS.get(word.group().lower(), "") if word else ""


def _split_of(name: str, where: str) -> str:
    split = _word_split(name)
    if not split:
        raise refused(f"a split such as {', '.join(SPLITS)}", repr(name), where, "rename the split")
    return split


def split_of_cell(value: object, where: str) -> str:
    """Return the pool that a cell of the split column names. Raises `ContractError` for an unknown name."""
    split = SPLITS.get(value.strip().lower(), "") if isinstance(value, str) else ""
    if not split:
        raise _unknown(value, where)
    return split


def _unknown(value: object, where: str) -> ContractError:
    return refused(
        f"a split: {', '.join(SPLITS)}", value, where, "correct the cell, or leave the column out with --drop"
    )
