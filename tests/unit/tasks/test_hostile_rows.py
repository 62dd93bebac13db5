"""Damaged and hostile files of rows: an import ends with tasks or with a named error, and leaves no half of a table behind."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.artifact import ImportedTasks
from instar.components.dataset_prep.imported.importer import Options, import_tasks
from instar.components.dataset_prep.imported.splits import Shares
from instar.errors import InstarError

EXAMPLES = int(os.environ.get("INSTAR_FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ROWS: list[dict[str, Any]] = [{"prompt": f"{n} + {n} = ", "answer": f"{2 * n}", "level": n % 3} for n in range(12)]
OPTIONS = Options(shares=Shares(val=0.2, test=0.2), duplicates="drop", conflicts="keep")


def contents() -> dict[str, bytes]:
    """Return good files by suffix."""
    table, text = io.BytesIO(), io.StringIO()
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    writer = csv.DictWriter(text, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    return {".jsonl": lines.encode(), ".csv": text.getvalue().encode(), ".parquet": table.getvalue()}


GOOD = contents()


def imports(path: Path, out: Path) -> None:
    """Import, or end with an error whose four fields are said."""
    try:
        imported = import_tasks(str(path), out, OPTIONS)
    except InstarError as error:
        assert all(getattr(error, field) for field in ("expected", "found", "where", "action"))
        assert len(str(error)) < 4000
        assert not out.exists() or not any(out.iterdir())
        return
    rows = ImportedTasks(out).read()
    assert sum(sum(arm.sizes().values()) for arm in imported.config.arms) == len(rows) > 0
    assert len({row.task_id for row in rows}) == len(rows) and not list(out.glob(".import-*"))


@pytest.mark.fuzz
@pytest.mark.parametrize("suffix", GOOD)
@FUZZ
@given(data=st.data())
def test_a_damaged_file(suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(GOOD[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        place, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 20))
        content[place : place + length] = data.draw(st.binary(max_size=8))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / f"a{suffix}").write_bytes(bytes(content))
    imports(folder / f"a{suffix}", folder / "out")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CELL = JSON | st.just([{"role": "user", "content": "q"}]) | st.text("abc \n", min_size=1)
NAMES = st.sampled_from(
    ["prompt", "answer", "level", "arm", "split", "tools", "messages", "images", "input", "x.y", ""]
)


@pytest.mark.fuzz
@FUZZ
@given(rows=st.lists(st.dictionaries(NAMES, CELL, max_size=5), min_size=1, max_size=4))
def test_rows_of_anything(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("anything")
    lines = "".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0).replace("\n", " ") + "\n" for row in rows)
    (folder / "a.jsonl").write_bytes(lines.encode("utf-8", "surrogatepass"))
    imports(folder / "a.jsonl", folder / "out")
