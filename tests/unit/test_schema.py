from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import artifact, rows, schema
from instar.errors import ArtifactError, ContractError

SHA = "0" * 64
GOOD: dict[type[Any], dict[str, Any]] = {
    rows.TaskRow: {
        "task_id": "a/train/0",
        "arm": "a",
        "domain": "d",
        "level": 1.0,
        "split": "train",
        "prompt": "1+1=",
        "verifier": "v",
        "reference": "{}",
        "features": "{}",
        "content_hash": SHA,
        "generator": "g1",
        "seed": 0,
    },
    rows.BatchRow: {
        "slot": 0,
        "task_id": "a/train/0",
        "arm": "a",
        "probability": 0.5,
        "group_id": "g",
        "group_size": 8,
    },
    rows.RolloutRow: {
        "rollout_id": "g/0",
        "task_id": "a/train/0",
        "arm": "a",
        "kind": "text",
        "group_id": "g",
        "policy": "sha256:aa",
        "token_ids": [1, 2, 3],
        "behaviour_logprobs": [-0.5],
        "steps": [rows.Step(role="prompt", start=0, end=2), rows.Step(role="action", start=2, end=3)],
        "truncated": False,
        "seed": 7,
    },
    rows.ScoreRow: {
        "rollout_id": "g/0",
        "correct": 1.0,
        "format_ok": None,
        "reward": 1.0,
        "components": {"correct": 1.0},
        "status": "scored",
        "reason": "",
        "scorer": "exact/1",
    },
    rows.ArmStatsRow: {
        f.name: "a" if f.name == "arm" else 1.0 if f.arrow == pa.float64() else 1
        for f in schema.fields(rows.ArmStatsRow)
    },
    rows.EvalRow: {
        "task_id": "a/val/0",
        "arm": "a",
        "split": "val",
        "sample": -1,
        "score": None,
        "length": 3,
        "truncated": False,
        "answer": "2",
    },
}


def planted(field: schema.Field) -> list[tuple[str, Any]]:
    """Return (what is wrong, value) for every constraint that a column declares."""
    column, number = field.column, pa.types.is_floating(field.arrow) or pa.types.is_integer(field.arrow)
    integer = pa.types.is_integer(field.arrow)
    out: list[tuple[str, Any]] = []
    if not field.nullable:
        out.append(("null", None))
    if column.ge is not None:
        out.append(("below", int(column.ge) - 1 if integer else column.ge - 1e-9))
    if column.le is not None:
        out.append(("above", int(column.le) + 1 if integer else column.le + 1e-9))
    if column.finite:
        out += [("nan", float("nan")), ("inf", float("inf"))]
    if column.one_of is not None:
        out.append(("not one of", "nonsense"))
    if column.min_length is not None:
        out.append(("too short", "x" * (column.min_length - 1)))
    assert not (column.finite and not number)
    return out


CASES = [(row, f.name, value, what) for row in GOOD for f in schema.fields(row) for what, value in planted(f)]


def build(row: type[Any], **changes: Any) -> Any:
    return row(**{**GOOD[row], **changes})


def test_all_row_types_of_the_tables_are_here() -> None:
    tables = {c.row for c in artifact.CLASSES.values() if issubclass(c, artifact.Table)}
    assert tables == set(GOOD)


@pytest.mark.parametrize("row", GOOD, ids=lambda r: r.__name__)
def test_good_rows_come_back_equal(row: type[Any]) -> None:
    item = build(row)
    table = schema.to_table(row, [item])
    assert table.schema == schema.arrow_schema(row)
    assert list(schema.from_table(row, table)) == [item]


@pytest.mark.parametrize(
    ("row", "name", "value"), [c[:3] for c in CASES], ids=[f"{r.__name__}-{n}-{what}" for r, n, _, what in CASES]
)
def test_each_constraint_refuses_what_breaks_it(row: type[Any], name: str, value: Any) -> None:
    with pytest.raises(ContractError) as caught:
        schema.to_table(row, [build(row, **{name: value})])
    assert caught.value.where == f"{row.__name__}:{name}"


@pytest.mark.parametrize(
    ("row", "name"),
    [(r, f.name) for r in GOOD for f in schema.fields(r) if f.column.unique],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_repeated_keys_are_refused(row: type[Any], name: str) -> None:
    with pytest.raises(ContractError, match="repeated values") as caught:
        schema.to_table(row, [build(row), build(row)])
    unique = [f.name for f in schema.fields(row) if f.column.unique]
    assert caught.value.where == f"{row.__name__}:{unique[0]}"
    others = {n: 1 if n == "slot" else "other" for n in unique if n != name}
    with pytest.raises(ContractError, match="repeated values") as caught:
        schema.to_table(row, [build(row), build(row, **others)])
    assert caught.value.where == f"{row.__name__}:{name}"


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("behaviour_logprobs", [-1.0, float("nan")], "not finite"),
        ("behaviour_logprobs", [float("-inf")], "not finite"),
        ("behaviour_logprobs", [-1.0, None], "1 nulls among the items"),
        ("token_ids", [1, None], "1 nulls among the items"),
        ("steps", [rows.Step(role="system", start=0, end=1)], r"values \['system'\] in 'role'"),
        ("steps", [rows.Step(role="action", start=-1, end=1)], "minimum -1 in 'start'"),
        ("steps", [rows.Step(role="action", start=0, end=-2)], "minimum -2 in 'end'"),
    ],
)
def test_items_of_lists_are_checked(name: str, value: list[Any], found: str) -> None:
    good = build(rows.RolloutRow)
    bad = build(rows.RolloutRow, rollout_id="g/1", **{name: value})
    with pytest.raises(ContractError, match=found) as caught:
        schema.to_table(rows.RolloutRow, [good, bad])
    assert caught.value.where == f"RolloutRow:{name}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None], ids=str)
def test_values_of_maps_are_checked(value: float | None) -> None:
    with pytest.raises(ContractError, match=r"not finite|nulls") as caught:
        schema.to_table(rows.ScoreRow, [build(rows.ScoreRow, components={"a": value})])
    assert caught.value.where == "ScoreRow:components"


@pytest.mark.parametrize("row", GOOD, ids=lambda r: r.__name__)
def test_missing_and_unknown_columns_are_named(row: type[Any]) -> None:
    table = schema.to_table(row, [build(row)])
    last = table.schema.names[-1]
    with pytest.raises(ContractError, match=f"missing columns \\['{last}'\\]"):
        schema.check(row, table.drop_columns([last]), "table")
    with pytest.raises(ContractError, match="unknown columns \\['extra'\\]"):
        schema.check(row, table.append_column("extra", pa.array([1])), "table")


@pytest.mark.parametrize("row", GOOD, ids=lambda r: r.__name__)
def test_wrong_column_type_is_refused(row: type[Any]) -> None:
    table = schema.to_table(row, [build(row)])
    name = table.schema.names[0]
    with pytest.raises(ContractError, match="type binary") as caught:
        schema.check(row, table.set_column(0, name, pa.array([b"x"], pa.binary())), "table")
    assert caught.value.where == f"table:{name}"


@pytest.mark.parametrize("row", GOOD, ids=lambda r: r.__name__)
def test_empty_tables_are_valid(row: type[Any]) -> None:
    assert list(schema.from_table(row, schema.to_table(row, []))) == []


@pytest.mark.parametrize("row", GOOD, ids=lambda r: r.__name__)
def test_documentation_has_one_line_per_column(row: type[Any]) -> None:
    lines = schema.markdown(row).splitlines()
    names = [f.name for f in dataclasses.fields(row)]
    assert len(lines) == 2 + len(names)
    assert all(line.startswith(f"| `{name}` |") for line, name in zip(lines[2:], names, strict=True))


def test_data_page_shows_the_declared_columns() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    for row in (*GOOD, rows.Step):
        assert schema.markdown(row) in page, f"write the table of {row.__name__} again with instar.schema.markdown"
    for name, kind in artifact.CLASSES.items():
        assert f"| `{name}` | {kind.kfp_type} |" in page


STEPS = st.builds(
    rows.Step,
    role=st.sampled_from(["prompt", "action", "observation"]),
    start=st.integers(0, 99),
    end=st.integers(0, 99),
)
ROLLOUTS = st.lists(
    st.builds(
        lambda **changes: build(rows.RolloutRow, **changes),
        rollout_id=st.text(min_size=1, max_size=8),
        token_ids=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
        behaviour_logprobs=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5),
        steps=st.lists(STEPS, max_size=3),
        truncated=st.booleans(),
        seed=st.integers(0, 2**63 - 1),
    ),
    max_size=4,
    unique_by=lambda r: r.rollout_id,
)


@given(ROLLOUTS)
def test_rollouts_survive_arrow_exactly(items: list[rows.RolloutRow]) -> None:
    assert list(schema.from_table(rows.RolloutRow, schema.to_table(rows.RolloutRow, items))) == items


def test_parquet_bytes_depend_on_rows_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        artifact.Rollouts(tmp_path / name).write([build(rows.RolloutRow)])
    assert (tmp_path / "one/rows.parquet").read_bytes() == (tmp_path / "two/rows.parquet").read_bytes()
    assert artifact.Rollouts(tmp_path / "one").read() == [build(rows.RolloutRow)]


def test_a_table_written_elsewhere_is_checked_when_it_is_read(tmp_path: Path) -> None:
    table = schema.to_table(rows.EvalRow, [build(rows.EvalRow)])
    place = table.schema.get_field_index("split")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(["test"])), tmp_path / "rows.parquet")
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ContractError, match=r"values \['test'\]"):
        artifact.Evaluation(tmp_path).read()


def test_truncated_parquet_is_an_artifact_error(tmp_path: Path) -> None:
    artifact.Rollouts(tmp_path).write([build(rows.RolloutRow)])
    path = tmp_path / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="Parquet"):
        artifact.Rollouts(tmp_path).read()
