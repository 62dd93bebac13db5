"""Artifact classes: what a stage reads and writes.

Each class has a file layout and a KFP base type. A table also has a row type.
A stage works with an artifact as a folder on local disk. Only the digest of the artifact travels between stages. It is the
SHA-256 of a manifest, and the manifest lists the digests of the files (`instar.cas`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from instar import plain, rows, schema
from instar.errors import ArtifactError
from instar.store_files import refusal

R = TypeVar("R", bound=schema.Row)


class Artifact:
    """A folder of files with a digest. `digest` is empty until the runner commits the folder.

    The loop carries artifacts of which it knows only the digest. Such an artifact has no folder (`path` is None). To ask it
    for its path is an error.
    """

    kfp_type: ClassVar[str] = "Artifact"
    files: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path | None, digest: str = "") -> None:
        self._path, self.digest = path, digest

    @property
    def path(self) -> Path:
        """Return the folder. An artifact that is not on disk raises `ArtifactError`; its path is never the current folder."""
        if self._path is None:
            raise ArtifactError(
                expected=f"a {type(self).__name__} on disk",
                found="only its digest",
                where=self.digest or "an artifact without a digest",
                action="fetch it from the store: `workspace.cas.get(digest)` returns its folder",
            )
        return self._path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.digest or self._path})"

    def require(self) -> None:
        """Raise `ArtifactError` unless every file of the layout is present."""
        missing = [name for name in self.files if not (self.path / name).exists()]
        if missing:
            names = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else "no folder"
            raise ArtifactError(
                expected=f"{type(self).__name__} with {list(self.files)}",
                found=f"{names}",
                where=self.digest or str(self.path),
                action="run the stage that writes it again, or restore the store",
            )

    def read_json(self, name: str) -> Any:
        """Return the parsed JSON file `name`. Raise `ArtifactError` when the file is not JSON."""
        try:
            return plain.loads((self.path / name).read_bytes())
        except ValueError as error:
            raise ArtifactError(
                expected="a JSON file",
                found=str(error),
                where=f"{self.digest or self.path}/{name}",
                action="run the stage that writes it again, or restore the store",
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as canonical JSON, so that equal values have equal digests. NaN is refused."""
        (self.path / name).write_text(json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


class Table(Artifact, Generic[R]):
    """An artifact that holds its rows in one Parquet file."""

    kfp_type = "Dataset"
    files: ClassVar[tuple[str, ...]] = ("rows.parquet",)
    row: ClassVar[type[Any]]

    def write(self, items: Iterable[R]) -> None:
        """Check the rows and write them. Equal rows give equal bytes."""
        self._write(schema.to_table(self.row, items))

    def write_table(self, table: pa.Table) -> None:
        """Check a table that was built column by column and write it. Equal values and metadata give equal bytes."""
        schema.check(self.row, table, where=self.row.__name__)
        declared = schema.arrow_schema(self.row)
        if table.schema.metadata:  # Parquet stores an empty mapping as other bytes than no mapping
            declared = declared.with_metadata(table.schema.metadata)
        self._write(pa.Table.from_arrays([column.combine_chunks() for column in table.columns], schema=declared))

    def _write(self, table: pa.Table) -> None:
        pq.write_table(table, self.path / "rows.parquet", compression="zstd", write_statistics=False)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the Arrow table, checked against the row type. `columns` are those to read; None stands for all."""
        self.require()
        try:
            file = pq.ParquetFile(self.path / "rows.parquet", memory_map=True, pre_buffer=False)
            table = file.read(
                columns and list(columns), use_threads=False
            )  # a wait for Arrow's thread pools may never end
        except (pa.ArrowException, OSError) as error:
            if named := refusal(error, self.path):
                raise named from error
            raise ArtifactError(
                expected="a Parquet file",
                found=str(error).splitlines()[0],
                where=f"{self.digest or self.path}/rows.parquet",
                action="delete the evolution's cache, or restore the store",
            ) from error
        schema.check(self.row, table, where=f"{type(self).__name__} {self.digest}", columns=columns)
        return table

    def read(self) -> list[R]:
        """Return all rows."""
        return list(self.iter())

    def iter(self) -> Iterator[R]:
        """Yield rows in file order."""
        yield from schema.from_table(self.row, self.table())


class Tasks(Table[rows.TaskRow]):
    """Task pools of every arm and split."""

    row = rows.TaskRow


class ImportedTasks(Tasks):
    """Task pools made from a user's rows. `import.json` says what the columns were taken for, and which arms there are."""

    files = ("rows.parquet", "import.json")


class Batch(Table[rows.BatchRow]):
    """The tasks one inner step will try."""

    row = rows.BatchRow


class Rollouts(Table[rows.RolloutRow]):
    """Trajectories, sampled or logged."""

    row = rows.RolloutRow


class Scores(Table[rows.ScoreRow]):
    """Verdicts on rollouts."""

    row = rows.ScoreRow


class ArmStats(Table[rows.ArmStatsRow]):
    """Statistics of one update for each arm. The curriculum sees learning only through them."""

    row = rows.ArmStatsRow


class Evaluation(Table[rows.EvalRow]):
    """Evaluation attempts of one policy, plus `summary.json` with scores and intervals."""

    row = rows.EvalRow
    files = ("rows.parquet", "summary.json")


class Policy(Artifact):
    """A transformers checkpoint: `config.json` and safetensors weights; a language model also has its tokenizer files."""

    kfp_type = "Model"
    files = ("config.json",)


class TrainerState(Artifact):
    """What the next update continues from: `optimizer.safetensors` and `trainer.json`.

    If the policy is rounded, for example to bfloat16, the trainer state also holds the float32 weights.
    """

    kfp_type = "Artifact"
    files = ("optimizer.safetensors", "trainer.json")


class CurriculumState(Artifact):
    """Everything that the curriculum remembers, in `state.json`: for example values of arms, cursors and counters."""

    files = ("state.json",)


class History(Artifact):
    """`metrics.jsonl`: one line of stage metrics per inner step of a fused segment."""

    kfp_type = "Dataset"
    files = ("metrics.jsonl",)


class QualityReport(Artifact):
    """`quality.json`: result of a Great Expectations run over a table."""

    files = ("quality.json",)


class Source(Artifact):
    """Another evolution, pinned: its ledger, which policy is its champion, and all that it tried and how that was scored.

    source.json       name and recipe of the evolution, head of its ledger, digest of its champion
    ledger.jsonl      its entries up to that head, without clock readings
    tried/000017/     rollouts and scores of ledger entry 17, a table each
    """

    files = ("source.json", "ledger.jsonl")

    @property
    def champion(self) -> str:
        """Return the digest of the champion's policy."""
        return str(self.read_json("source.json")["champion"])

    def tried(self) -> Iterator[tuple[Rollouts, Scores]]:
        """Yield the rollouts with their scores, in the order in which they were scored."""
        for folder in sorted((self.path / "tried").glob("*")):
            yield Rollouts(folder / "rollouts"), Scores(folder / "scores")


class Code(Artifact):
    """Source files that a user brings, and what they need.

    code.json        entries such as `rew.py:reward`, digests of the files, Python version, lines of the requirements lock
    files/rew.py     the files, under their names relative to one another
    wheels/          the packages of the lock, if there is one
    """

    files = ("code.json", "files")

    @property
    def entries(self) -> list[str]:
        """Return the functions and classes that the bundle was made for, for example `["rew.py:reward"]`."""
        return list(self.read_json("code.json")["entries"])


CLASSES: dict[str, type[Artifact]] = {
    cls.__name__: cls
    for cls in (
        Tasks,
        Batch,
        Rollouts,
        Scores,
        ArmStats,
        Evaluation,
        Policy,
        TrainerState,
        CurriculumState,
        History,
        QualityReport,
        Source,
        ImportedTasks,
        Code,
    )
}
