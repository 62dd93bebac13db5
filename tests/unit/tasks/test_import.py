"""Rows of a user become task pools: what is recognised, which arms and splits there are, and what is refused with its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.artifact import ImportedTasks
from instar.components.dataset_prep.imported.columns import Columns
from instar.components.dataset_prep.imported.importer import Imported, Options, import_tasks
from instar.components.dataset_prep.imported.splits import Shares
from instar.components.dataset_prep.imported_config import config_of
from instar.errors import ConfigError, ContractError, InstarError
from instar.rows import TaskRow

Cells = Mapping[str, Any]
UNITS = [{"prompt": f"{n} km in m = ", "answer": f"{n}000"} for n in range(1, 201)]
TRAIN_ONLY = Options(shares=Shares(val=0.0, test=0.0))


def jsonl(path: Path, rows: Iterable[Cells]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def brought(path: Path | str, options: Options | None = None) -> tuple[Imported, list[TaskRow]]:
    """Import into a new folder beside the source."""
    out = Path(path).parent / f"tasks-{len(list(Path(path).parent.iterdir()))}"
    imported = import_tasks(str(path), out, options)
    return imported, ImportedTasks(out).read()


def refused(path: Path, options: Options | None = None) -> InstarError:
    with pytest.raises((ContractError, ConfigError)) as raised:
        brought(path, options)
    return raised.value


def test_rows_become_tasks_with_their_reference(tmp_path: Path) -> None:
    rows = [{**row, "source": {"page": n}, "note": None} for n, row in enumerate(UNITS)]
    imported, tasks = brought(jsonl(tmp_path / "units.jsonl", rows))
    assert len(tasks) == 200 and imported.num_read == 200 and imported.left_out == {}
    by_prompt = {task.prompt: task for task in tasks}
    task = by_prompt["3 km in m = "]
    assert json.loads(task.reference) == {"answer": "3000", "source": {"page": 2}, "note": None}
    assert (task.verifier, task.form, task.arm, task.domain) == ("exact", "text", "all", "imported")
    assert task.task_id.startswith(f"all/{task.split}/")


def test_the_folder_says_how_to_use_it(tmp_path: Path) -> None:
    imported, tasks = brought(jsonl(tmp_path / "units.jsonl", UNITS))
    folder = next(tmp_path.glob("tasks-*"))
    assert config_of(ImportedTasks(folder)) == imported.config
    (arm,) = imported.config.arms
    counts = {split: sum(task.split == split for task in tasks) for split in ("train", "val", "id", "ood")}
    assert arm.sizes() == counts and counts["ood"] == 0 and min(counts["val"], counts["id"]) >= 10
    assert imported.config.alphabet == " 0123456789=ikmn"
    assert (imported.config.longest_prompt, imported.config.longest_answer) == (len("100 km in m = "), 6)


def csv_file(path: Path, rows: Sequence[Cells]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f'{n}, "so"\nwhat? ü', "answer": f"{n}"} for n in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    paths = [jsonl(tmp_path / "a.jsonl", rows), csv_file(tmp_path / "a.csv", rows), tmp_path / "a.parquet"]
    tables = [brought(path)[1] for path in paths]
    assert tables[0] == tables[1] == tables[2] and len(tables[0]) == 50


def test_a_byte_order_mark_of_utf_8_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", UNITS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(brought(path)[1]) == 200


VERL = [
    {
        "data_source": f"lab/{'easy' if n % 2 else 'hard'}",
        "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"{n} + {n}?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": f"{2 * n}"},
        "extra_info": {"index": n},
    }
    for n in range(60)
]
TRL = [
    {"prompt": [{"role": "user", "content": f"{n}?"}], "completion": [{"role": "assistant", "content": f"{n}!"}]}
    for n in range(60)
]
SFT = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]} for n in range(60)
]


@pytest.mark.parametrize(
    ("rows", "layout", "columns", "answer"),
    [
        (VERL, "verl", {"prompt": "prompt", "answer": "reward_model.ground_truth", "arm": "data_source"}, "14"),
        (TRL, "TRL", {"prompt": "prompt", "answer": "completion"}, "7!"),
        (SFT, "TRL", {"prompt": "messages"}, "7!"),
        (
            [{"problem": f"{n}?", "answer": f"{n}!", "images": []} for n in range(60)],
            "EasyR1",
            {"prompt": "problem", "answer": "answer"},
            "7!",
        ),
        (
            [{"question": f"{n}?", "answer": f"{n}!"} for n in range(60)],
            "plain",
            {"prompt": "question", "answer": "answer"},
            "7!",
        ),
        (
            [{"input": f"{n}?", "output": f"{n}!"} for n in range(60)],
            "plain",
            {"prompt": "input", "answer": "output"},
            "7!",
        ),
        (
            [
                {"problem": f"{n}?", "solution": "long", "answer": f"{n}!", "level": f"Level {1 + n % 5}"}
                for n in range(60)
            ],
            "EasyR1",
            {"prompt": "problem", "answer": "answer", "level": "level"},
            "7!",
        ),
    ],
)
def test_layouts_of_others_are_recognised(
    rows: list[Cells], layout: str, columns: dict[str, str], answer: str, tmp_path: Path
) -> None:
    imported, tasks = brought(jsonl(tmp_path / "a.jsonl", rows), TRAIN_ONLY)
    named = {part: name for part, name in imported.columns.named().items() if part != "image"}
    assert (imported.columns.layout, named) == (layout, columns)
    assert len(tasks) == 60 and answer in {json.loads(task.reference)["answer"] for task in tasks}


def test_a_conversation_is_stored_as_the_template_reads_it(tmp_path: Path) -> None:
    _, tasks = brought(jsonl(tmp_path / "a.jsonl", VERL), TRAIN_ONLY)
    task = next(task for task in tasks if '"7 + 7?"' in task.prompt)
    assert task.form == "messages" and json.loads(task.prompt) == {"messages": VERL[7]["prompt"]}
    assert json.loads(task.reference)["extra_info"] == {"index": 7} and task.arm == "lab-easy"


def test_instruction_and_input_are_one_prompt(tmp_path: Path) -> None:
    rows = [{"instruction": "Double it.", "input": f"{n}", "output": f"{2 * n}"} for n in range(30)]
    _, tasks = brought(jsonl(tmp_path / "a.jsonl", rows))
    assert {task.prompt for task in tasks} == {f"Double it.\n\n{n}" for n in range(30)}


@pytest.mark.parametrize(
    ("row", "part", "options"),
    [
        ({"question": "a", "problem": "b", "answer": "c"}, "prompt", "--prompt question or --prompt problem"),
        ({"prompt": "a", "solution": "b", "completion": "c"}, "answer", "--answer solution or --answer completion"),
        ({"frage": "a", "antwort": "b"}, "prompt", "--prompt frage or --prompt antwort"),
    ],
)
def test_an_unclear_guess_shows_the_columns_and_the_options(
    row: Cells, part: str, options: str, tmp_path: Path
) -> None:
    error = refused(jsonl(tmp_path / "a.jsonl", [row]))
    assert error.expected == f"one column that is the {part}" and options in error.action
    assert all(name in error.found for name in row)


def test_named_columns_are_taken(tmp_path: Path) -> None:
    rows = [{"frage": f"{n}?", "antwort": {"kurz": n}, "thema": f"t{n % 2}"} for n in range(40)]
    columns = Columns(prompt="frage", answer="antwort.kurz", arm="thema")
    imported, tasks = brought(jsonl(tmp_path / "a.jsonl", rows), Options(columns=columns))
    assert {task.arm for task in tasks} == {"t0", "t1"} and imported.config.answers == "text"
    assert json.loads(next(t for t in tasks if t.prompt == "7?").reference) == {"antwort": {"kurz": 7}, "answer": "7"}
    error = refused(tmp_path / "a.jsonl", Options(columns=replace(columns, arm="tema")))
    assert error.where == "--arm" and error.action == "did you mean 'thema'?"


def test_levels_that_are_words_are_ordered(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "answer": "a", "difficulty": ("hard", "easy", "medium")[n % 3]} for n in range(60)]
    imported, _ = brought(jsonl(tmp_path / "a.jsonl", rows), TRAIN_ONLY)
    levels = {arm.name: arm.level for arm in imported.config.arms}
    assert sorted(levels, key=levels.__getitem__) == ["easy", "medium", "hard"]
    assert imported.config.easiest() == ("easy",)


def test_few_numbers_are_a_level_each_and_many_are_ranges(tmp_path: Path) -> None:
    few, _ = brought(jsonl(tmp_path / "a.jsonl", [{**row, "level": n % 4} for n, row in enumerate(UNITS)]), TRAIN_ONLY)
    assert [(arm.name, arm.train) for arm in few.config.arms] == [(f"level-{n}", 50) for n in range(4)]
    many, tasks = brought(jsonl(tmp_path / "b.jsonl", [{**row, "level": n} for n, row in enumerate(UNITS)]), TRAIN_ONLY)
    names = [arm.name for arm in many.config.arms]
    assert names == ["level-0-to-39", "level-40-to-79", "level-80-to-119", "level-120-to-159", "level-160-to-199"]
    assert {task.arm for task in tasks if task.level <= 39} == {"level-0-to-39"}
    ties, _ = brought(
        jsonl(tmp_path / "c.jsonl", [{**r, "level": max(0, n - 150)} for n, r in enumerate(UNITS)]), TRAIN_ONLY
    )
    assert sum(arm.train for arm in ties.config.arms) == 200 and ties.config.arms[0].train >= 151


def test_a_split_of_the_user_is_honoured(tmp_path: Path) -> None:
    names = ("train", "train", "validation", "test", "OOD")
    rows = [{**row, "split": names[n % 5]} for n, row in enumerate(UNITS)]
    _, tasks = brought(jsonl(tmp_path / "a.jsonl", rows))
    pools = {"train": "train", "validation": "val", "test": "id", "OOD": "ood"}
    by_prompt = {row["prompt"]: pools[row["split"]] for row in rows}
    assert all(task.split == by_prompt[task.prompt] for task in tasks) and len(tasks) == 200


def test_files_of_splits_are_honoured_and_a_missing_one_is_cut_out_of_training(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl(folder / "train.jsonl", UNITS[:150])
    jsonl(folder / "test.jsonl", UNITS[150:])
    (folder / "README.md").write_text("not rows")
    _, tasks = brought(folder)
    tested = {task.prompt for task in tasks if task.split == "id"}
    assert tested == {row["prompt"] for row in UNITS[150:]}
    assert 5 <= sum(task.split == "val" for task in tasks) <= 30


def test_several_data_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("main", "socratic"):
        (tmp_path / "data" / name).mkdir(parents=True)
        jsonl(tmp_path / "data" / name / "train.jsonl", UNITS)
    error = refused(tmp_path / "data")
    assert "main, socratic" in error.found and "socratic" in error.action


PROMPTS = st.lists(
    st.text("abc ä\n", min_size=1, max_size=6), min_size=2, max_size=40, unique_by=lambda t: " ".join(t.split())
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS, data=st.data())
def test_a_row_keeps_its_split_when_rows_are_added_and_reordered(
    prompts: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [{"prompt": prompt, "answer": "1"} for prompt in prompts if prompt.strip()]
    if not rows:
        return
    shares = Options(shares=Shares(val=0.3, test=0.3))
    part = data.draw(st.lists(st.sampled_from(rows), min_size=1, unique_by=lambda row: row["prompt"]))
    order = data.draw(st.permutations(rows))
    folder = tmp_path_factory.mktemp("stable")
    splits = []
    for number, chosen in enumerate((part, order)):
        try:
            _, tasks = brought(jsonl(folder / f"{number}.jsonl", chosen), shares)
        except ConfigError as error:
            assert error.expected == "training tasks"
            return
        splits.append({task.prompt: task.split for task in tasks})
    assert all(splits[1].get(prompt, split) == split for prompt, split in splits[0].items())


def test_the_order_of_the_rows_does_not_change_the_tasks(tmp_path: Path) -> None:
    _, tasks = brought(jsonl(tmp_path / "a.jsonl", UNITS))
    assert brought(jsonl(tmp_path / "b.jsonl", UNITS[::-1]))[1] == tasks


def test_duplicates_are_refused_with_both_places(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*UNITS, UNITS[2], {**UNITS[5], "prompt": " 6  km in m ="}])
    error = refused(path)
    assert error.found == "2 duplicates; the first is a.jsonl:line 201, which repeats a.jsonl:line 3"
    assert not list(tmp_path.glob("tasks-*/rows.parquet"))
    imported, tasks = brought(path, Options(duplicates="drop"))
    assert len(tasks) == 200 and imported.left_out == {"duplicates": 2}


def test_a_leak_between_files_is_refused_and_a_drop_keeps_the_held_out_row(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl(folder / "train.jsonl", UNITS)
    jsonl(folder / "test.jsonl", [UNITS[7], {"prompt": "new", "answer": "1"}])
    error = refused(folder)
    assert error.expected == "each prompt in one split only"
    assert "train.jsonl:line 8" in error.found and "test.jsonl:line 1" in error.found
    imported, tasks = brought(folder, Options(duplicates="drop"))
    assert [task.split for task in tasks if task.prompt == UNITS[7]["prompt"]] == ["id"]
    assert imported.left_out == {"leaks": 1}


def test_a_prompt_with_two_answers_is_refused_dropped_or_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*UNITS, {"prompt": UNITS[3]["prompt"], "answer": "4 thousand"}])
    error = refused(path, Options(duplicates="drop"))
    assert error.expected == "one answer to a prompt" and error.where == "a.jsonl:line 201"
    dropped, tasks = brought(path, Options(conflicts="drop"))
    assert dropped.left_out == {"conflicts": 1} and len(tasks) == 200
    both, tasks = brought(path, Options(conflicts="keep"))
    assert both.left_out == {} and len(tasks) == 201
    assert len({task.split for task in tasks if task.prompt == UNITS[3]["prompt"]}) == 1


def test_one_task_alone_in_a_pool_is_left_out_and_said(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{n}?", "answer": "1", "arm": "many" if n else "few", "split": "train" if n % 3 else "val"}
        for n in range(30)
    ]
    imported, tasks = brought(
        jsonl(tmp_path / "a.jsonl", [*rows, {"prompt": "x", "answer": "1", "arm": "few", "split": "train"}])
    )
    assert imported.left_out == {"alone in their pool": 1} and len(tasks) == 30
    assert any("few" in text for text in imported.warnings)


GOOD = '{"prompt": "p", "answer": "a"}\n'
BROKEN: dict[str, tuple[str | bytes, str, str]] = {
    "broken JSON": ('{"prompt": "q", "answer"\n', "a JSON object", "line 2"),
    "a list": ("[1, 2]\n", "a JSON object", "line 2"),
    "a key twice": ('{"prompt": "q", "prompt": "r", "answer": "a"}\n', "a JSON object", "line 2"),
    "NaN": ('{"prompt": "q", "answer": NaN}\n', "a JSON object", "line 2"),
    "deep nesting": ('{"prompt": "q", "answer": ' + "[" * 100_000 + "\n", "a JSON object", "line 2"),
    "not UTF-8": (b'{"prompt": "q\xff", "answer": "a"}\n', "text in UTF-8", "line 2"),
    "NUL": (b'{"prompt": "q\x00", "answer": "a"}\n', "text without NUL", "line 2"),
    "an escaped NUL": ('{"prompt": "q\\u0000", "answer": "a"}\n', "text without NUL", "line 2:prompt"),
    "a NUL in another column": ('{"prompt": "q", "answer": "a", "x": "\\u0000"}\n', "text without NUL", "line 2"),
    "half a pair": ('{"prompt": "q\\ud800", "answer": "a"}\n', "text in Unicode", "line 2"),
    "half a pair in the answer": ('{"prompt": "q", "answer": "\\ud800"}\n', "text in Unicode", "line 2"),
    "an empty prompt": ('{"prompt": " \\n", "answer": "a"}\n', "a prompt", "line 2:prompt"),
    "no prompt": ('{"answer": "a"}\n', "a value in every row", "line 2:prompt"),
    "a null prompt": ('{"prompt": null, "answer": "a"}\n', "a value in every row", "line 2:prompt"),
    "a null answer": ('{"prompt": "q", "answer": null}\n', "a value in every row", "line 2:answer"),
    "an empty answer": ('{"prompt": "q", "answer": ""}\n', "an answer", "line 2:answer"),
    "a number as prompt": ('{"prompt": 7, "answer": "a"}\n', "a text", "line 2:prompt"),
    "a conversation among texts": (
        '{"prompt": [{"role": "user", "content": "q"}], "answer": "a"}\n',
        "a text",
        "line 2:prompt",
    ),
    "a long cell": (
        json.dumps({"prompt": "q" * 1_000_001, "answer": "a"}) + "\n",
        "at most 1,000,000",
        "line 2:prompt",
    ),
    "an image": ('{"prompt": "q", "answer": "a", "images": ["cat.png"]}\n', "rows of text", "line 2:images"),
    "an infinite number": ('{"prompt": "q", "answer": "a", "x": 1e999}\n', "finite numbers", "line 2"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_line_is_named_with_its_place(fault: str, tmp_path: Path) -> None:
    line, expected, where = BROKEN[fault]
    rows = '{"prompt": "p", "answer": "a", "images": []}\n' if fault == "an image" else GOOD
    (tmp_path / "a.jsonl").write_bytes(rows.encode() + (line if isinstance(line, bytes) else line.encode()))
    error = refused(tmp_path / "a.jsonl")
    assert error.expected.startswith(expected) and error.where == f"a.jsonl:{where}", error
    assert all(getattr(error, field) for field in ("found", "action")) and len(str(error)) < 3000


CSV: dict[str, tuple[bytes, str, str]] = {
    "a ragged row": (b"prompt,answer\np,a\nq,b,c\n", "2 cells", "line 3"),
    "a short row": (b"prompt,answer\np,a\nq\n", "2 cells", "line 3"),
    "an open quote": (b'prompt,answer\np,a\n"q,b\n', "a CSV record", "line 3"),
    "a column twice": (b"prompt,prompt\np,a\n", "columns with different names", "line 1"),
    "a column without a name": (b"prompt,\np,a\n", "columns with different names", "line 1"),
    "another delimiter": (b"prompt;answer\np;a\n", "columns separated by ','", "line 1"),
    "UTF-16": ("prompt,answer\np,a\n".encode("utf-16"), "text in UTF-8", "line 1"),
    "Latin-1": ("prompt,answer\nü,a\n".encode("latin-1"), "text in UTF-8", "line 2"),
    "no header": (b"", "a header line", "line 1"),
    "a NUL": (b"prompt,answer\np\x00,a\n", "text without NUL", "line 2"),
}


@pytest.mark.parametrize("fault", CSV)
def test_a_broken_csv_file_is_named_with_its_place(fault: str, tmp_path: Path) -> None:
    content, expected, where = CSV[fault]
    (tmp_path / "a.csv").write_bytes(content)
    error = refused(tmp_path / "a.csv")
    assert error.expected.startswith(expected) and error.where == f"a.csv:{where}", error


def test_columns_that_json_cannot_hold_are_named_or_left_out(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["p", "q"], "answer": ["a", "b"], "when": pa.array([0, 1], pa.timestamp("s"))})
    pq.write_table(table, tmp_path / "a.parquet")
    error = refused(tmp_path / "a.parquet")
    assert error.where == "a.parquet:when" and "timestamp" in error.found and "--drop when" in error.action
    _, tasks = brought(tmp_path / "a.parquet", replace(TRAIN_ONLY, columns=Columns(drop=("when",))))
    assert [json.loads(task.reference) for task in tasks] != [] and len(tasks) == 2


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in UNITS]), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[: len(content) // 2])
    assert refused(tmp_path / "a.parquet").expected == "a Parquet file"


def test_missing_numbers_of_pandas_are_null_in_the_reference(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["p"], "answer": ["a"], "x": [float("nan")]}), tmp_path / "a.parquet")
    _, tasks = brought(tmp_path / "a.parquet", TRAIN_ONLY)
    assert json.loads(tasks[0].reference) == {"answer": "a", "x": None}


@pytest.mark.parametrize(("value", "text"), [(3000, "3000"), (0.5, "0.5"), (3.0, "3"), (True, "true"), ("x", "x")])
def test_scalar_answers_are_compared_as_texts(value: Any, text: str, tmp_path: Path) -> None:
    imported, tasks = brought(jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "answer": value}]), TRAIN_ONLY)
    assert json.loads(tasks[0].reference)["answer"] == text and imported.config.answers == "text"


def test_nested_and_missing_answers_are_said(tmp_path: Path) -> None:
    nested, _ = brought(jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "answer": [1, 2]}]), TRAIN_ONLY)
    none, _ = brought(jsonl(tmp_path / "b.jsonl", [{"prompt": "p", "topic": "x"}]), TRAIN_ONLY)
    assert (nested.config.answers, none.config.answers) == ("nested", "none")
    assert any("--reward" in text for text in nested.warnings)


def test_a_column_answer_beside_the_answer_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": "a", "gold": "b"}]
    error = refused(jsonl(tmp_path / "a.jsonl", rows), Options(columns=Columns(answer="gold")))
    assert error.where == "a.jsonl:line 1:answer" and "--drop answer" in error.action
    columns = Columns(answer="gold", drop=("answer",))
    _, tasks = brought(tmp_path / "a.jsonl", replace(TRAIN_ONLY, columns=columns))
    assert json.loads(tasks[0].reference) == {"gold": "b", "answer": "b"}


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        ([{"arm": "a/b"}, {"arm": "a-b"}], "arm"),
        ([{"arm": "judge-pair"}], "arm"),
        ([{"arm": f"{n}"} for n in range(101)], "a.jsonl:line 101"),
        ([{"arm": [1]}], "a.jsonl:line 1:arm"),
        ([{"level": 1}, {"level": "hard"}], "a.jsonl:line 2:level"),
        ([{"level": f"word {chr(97 + n)}"} for n in range(20)], "a.jsonl:line 14:level"),
        ([{"split": "train"}, {"split": "everything"}], "a.jsonl:line 2:split"),
    ],
)
def test_labels_that_give_no_arms_levels_or_splits_are_refused(rows: list[Cells], where: str, tmp_path: Path) -> None:
    full = [{"prompt": f"p{n}", "answer": "a", **row} for n, row in enumerate(rows)]
    assert refused(jsonl(tmp_path / "a.jsonl", full)).where == where


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "robot", "content": "x"}], "a role of"),
        ([{"role": "user", "content": 3}], "a message with a text"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "rows of text"),
        ([{"role": "system", "content": "x"}], "a conversation that asks"),
        ([{"role": "user", "content": "  "}], "a prompt"),
        ([], "a list of messages"),
    ],
)
def test_a_conversation_that_no_template_can_render_is_refused(
    messages: list[Any], expected: str, tmp_path: Path
) -> None:
    rows = [{"prompt": [{"role": "user", "content": "q"}], "answer": "a"}, {"prompt": messages, "answer": "a"}]
    error = refused(jsonl(tmp_path / "a.jsonl", rows))
    assert error.expected.startswith(expected) and error.where == "a.jsonl:line 2:prompt"


def test_an_old_folder_is_never_written_over(tmp_path: Path) -> None:
    path, out = jsonl(tmp_path / "a.jsonl", UNITS), tmp_path / "out"
    import_tasks(str(path), out)
    with pytest.raises(ConfigError, match="a new or empty folder"):
        import_tasks(str(path), out)


@pytest.mark.parametrize("path", ["nowhere.jsonl", "a.txt", "empty", "mixed"])
def test_a_path_without_rows_is_named(path: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    jsonl(tmp_path / "mixed" / "train.jsonl", UNITS)
    jsonl(tmp_path / "mixed" / "more.jsonl", UNITS)
    assert path in refused(tmp_path / path).where
