"""The generated Great Expectations gate: every planted fault is found and named. Ten seconds, half for the import."""

from __future__ import annotations

import json
import math
import socket
from typing import Any

import pyarrow as pa
import pytest

from instar import quality, schema, seeds
from instar.components.dataset_prep.config import PoolsConfig
from instar.components.dataset_prep.pools import build_pools
from instar.errors import ContractError
from instar.pipelines.recipes.sec import countdown
from instar.rows import RolloutRow, ScoreRow, Step, TaskRow

pytest.importorskip("great_expectations")


@pytest.fixture(scope="module")
def tasks() -> pa.Table:
    config = PoolsConfig(arms=countdown(5, 2, 2))
    return schema.to_table(TaskRow, build_pools(config, lambda item: seeds.seed("e", 0, "dataset_prep", item)))


def planted(table: pa.Table, column: str, values: dict[int, Any]) -> pa.Table:
    """Return the table with some cells of one column replaced."""
    field = table.schema.field(column)
    cells = table.column(column).to_pylist()
    for row, value in values.items():
        cells[row] = value
    index = table.schema.get_field_index(column)
    return table.set_column(index, pa.field(column, field.type), pa.array(cells, field.type))


def test_a_good_table_passes_and_the_report_is_compact_json(tasks: pa.Table) -> None:
    report = quality.run_gate(TaskRow, tasks)
    assert report["success"] and report["rows"] == tasks.num_rows and report["row_type"] == "TaskRow"
    assert len(json.dumps(report, allow_nan=False)) < 10_000
    covered = {entry["column"] for entry in report["expectations"]}
    assert covered == {"table", *tasks.schema.names}


FAULTS = [
    ("prompt", {3: None}, "expect_column_values_to_not_be_null"),
    ("level", {2: math.inf}, "expect_column_values_to_be_finite"),
    ("level", {2: math.nan}, "expect_column_values_to_be_finite"),
    ("seed", {0: -1}, "expect_column_values_to_be_between"),
    ("split", {1: "test"}, "expect_column_values_to_be_in_set"),
    ("content_hash", {4: "abc"}, "expect_column_value_lengths_to_be_between"),
    ("reference", {4: ""}, "expect_column_value_lengths_to_be_between"),
    ("task_id", {5: "countdown-3/id/00000"}, "expect_column_values_to_be_unique"),
]


@pytest.mark.parametrize(("column", "values", "expectation"), FAULTS, ids=[f"{f[0]}-{f[1]}" for f in FAULTS])
def test_planted_faults_name_column_and_expectation(
    tasks: pa.Table, column: str, values: dict[int, Any], expectation: str
) -> None:
    with pytest.raises(ContractError) as caught:
        quality.run_gate(TaskRow, planted(tasks, column, values))
    assert caught.value.where == f"TaskRow:{column}"
    assert f"{column}: {expectation} failed" in caught.value.found


def test_columns_of_the_wrong_name_order_or_type_are_named(tasks: pa.Table) -> None:
    with pytest.raises(ContractError, match="TaskRow:seed"):
        quality.run_gate(TaskRow, tasks.drop_columns(["seed"]))
    with pytest.raises(ContractError, match="TaskRow:extra"):
        quality.run_gate(TaskRow, tasks.append_column("extra", tasks.column("seed")))
    with pytest.raises(ContractError, match="seed: string"):
        index = tasks.schema.get_field_index("seed")
        quality.run_gate(TaskRow, tasks.set_column(index, "seed", tasks.column("seed").cast(pa.string())))
    with pytest.raises(ContractError, match="match_ordered_list"):
        quality.run_gate(TaskRow, tasks.select(tasks.schema.names[::-1]))


def rollout_table(logprobs: list[list[float]]) -> pa.Table:
    return schema.to_table(
        RolloutRow,
        [
            RolloutRow(
                rollout_id=f"g/{n}",
                task_id="t",
                arm="a",
                kind="text",
                group_id="g",
                policy="p",
                token_ids=[1, 2],
                behaviour_logprobs=values,
                steps=[Step(role="action", start=0, end=2)],
                truncated=False,
                seed=n,
            )
            for n, values in enumerate(logprobs)
        ],
    )


def test_lists_are_looked_into_even_in_a_sliced_table() -> None:
    table = rollout_table([[-1.0, -2.0], [], [-3.0]])
    assert quality.run_gate(RolloutRow, table)["success"]
    bad = planted(table, "behaviour_logprobs", {0: [math.nan], 2: [-1.0, math.inf]})
    with pytest.raises(ContractError, match="behaviour_logprobs: expect_column_values_to_be_finite"):
        quality.run_gate(RolloutRow, bad)
    assert quality.run_gate(RolloutRow, bad.slice(1, 1))["rows"] == 1
    with pytest.raises(ContractError, match="behaviour_logprobs"):
        quality.run_gate(RolloutRow, bad.slice(2, 1))


def score(name: str, value: float | None, components: dict[str, float]) -> ScoreRow:
    status = "failed" if value is None else "scored"
    return ScoreRow(
        rollout_id=name,
        correct=value,
        format_ok=value,
        reward=value,
        components=components,
        status=status,
        reason="",
        scorer="s",
    )


def test_empty_scores_are_allowed_but_nan_is_not_an_empty_score() -> None:
    rows = [score("a", 1.0, {"correct": 1.0}), score("b", None, {}), score("c", 0.0, {"correct": 0.0})]
    table = schema.to_table(ScoreRow, rows)
    assert quality.run_gate(ScoreRow, table)["success"]
    assert quality.run_gate(ScoreRow, table.slice(1, 1))["success"]  # nothing but an empty score
    for column, values in (
        ("reward", {2: math.nan}),
        ("correct", {0: 1.5}),
        ("components", {0: [("correct", math.inf)]}),
    ):
        with pytest.raises(ContractError, match=f"ScoreRow:{column}"):
            quality.run_gate(ScoreRow, planted(table, column, values))


def test_the_gate_opens_no_connection(tasks: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: tried.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **_: tried.append(names) or [])
    assert quality.run_gate(TaskRow, tasks)["success"]
    assert tried == []
