"""Evolutions whose answers a model scores: the option, the ledger under both modes, and what `explain` says. About a minute."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from instar.artifact import Scores
from instar.cli.commands import evolve_in
from instar.cli.explain import explain as explained
from instar.cli.own import Own, bring
from instar.cli.resolve import resolve
from instar.errors import ConfigError
from instar.pipelines.recipe import Recipe
from instar.workspace import Workspace, open_workspace
from support import scorers
from support.micro import micro, micro_generated

DIGITS = "0123456789="


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random reward model that reads digits."""
    folder = tmp_path_factory.mktemp("rm")
    return scorers.reward_model(folder, len(scorers.characters(folder, DIGITS)))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scorers.judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    directory = tmp_path_factory.mktemp("scored")
    evolve_in(small(), directory, scorer=f"{model}=2", tracking="off")
    return directory


def explain(recipe: Recipe) -> str:
    """Return what `instar explain` says, without its line breaks."""
    return " ".join(explained(recipe).split())


def small() -> Recipe:
    return micro(iterations=1, inner_steps=1, threads=1, clock="rounds")


def brought(own: Own, model: str | None = None) -> Recipe:
    with bring(own) as carried:
        return resolve("sec", "tiny", model, None, [], None, carried)


def scores(workspace: Workspace) -> list[Any]:
    (entry,) = (e for e in workspace.ledger.of("stage") if e.body["stage"] == "reward")
    digest = entry.body["outputs"]["scores"]
    return Scores(workspace.cas.get(digest), digest).read()


def test_rewards_are_those_of_the_pinned_model(scored: Path) -> None:
    workspace = open_workspace(scored)
    (opened,) = workspace.ledger.of("open")
    digest = opened.body["brought"]["scorer"]
    rows = scores(workspace)
    assert {row.scorer for row in rows} == {f"reward_model {digest}"}
    assert {row.status for row in rows} == {"scored"} and len({row.reward for row in rows}) > 5
    for row in rows:
        assert row.reward == pytest.approx(2.0 * row.components["reward_model"])
        assert row.correct == pytest.approx(1.0 / (1.0 + math.exp(-row.components["reward_model"])))
    readers = {e.body["stage"] for e in workspace.ledger.of("stage") if "scorer" in e.body["inputs"]}
    assert readers == {"reward", "evaluate"}


@pytest.mark.slow  # tests/e2e/test_own_code.py runs a process for every stage with all that a user brings but a scorer
def test_a_process_for_every_stage_writes_the_same_ledger(scored: Path, model: Path, tmp_path: Path) -> None:
    evolve_in(small(), tmp_path / "other", scorer=f"{model}=2", tracking="off", mode="subprocess")
    assert open_workspace(tmp_path / "other").ledger.head == open_workspace(scored).ledger.head


def test_the_champion_of_a_run_judges_in_the_wording_that_it_learned(tmp_path: Path) -> None:
    evolve_in(micro_generated(iterations=0), tmp_path / "judge", tracking="off")
    recipe = brought(Own(scorer=f"{tmp_path / 'judge'}=0.5", start=str(tmp_path / "judge")))
    scorer: Any = recipe.reward.scorer  # type: ignore[union-attr]
    assert (scorer.kind, scorer.wording, scorer.form, scorer.weight) == ("judge", "terse", "text", 0.5)
    assert "so the policy learns from the verdicts of its own start" in explain(recipe)


def test_explain_says_what_scores(model: Path, judge: Path, tmp_path: Path) -> None:
    text = explain(brought(Own(scorer=str(model))))
    assert "r_i = logit_i;" in text and "sigmoid(logit_i) says how right an answer is" in text
    asked = explain(brought(Own(scorer=f"{judge}=0.2", wording="terse")))
    assert "r_i = 0.2 p_i;" in asked and "asked in wording 'terse'" in asked and "its own start" not in asked
    (tmp_path / "question.txt").write_text("{prompt}{answer} Yes or No:")
    (tmp_path / "rew.py").write_text("def reward(answer): return 1.0\n")
    own = Own(scorer=str(judge), wording=str(tmp_path / "question.txt"), rewards=(f"{tmp_path}/rew.py:reward",))
    both = explain(brought(own))
    assert "r_i = reward + p_i, reward from the user; reward says what is right" in both
    assert "a question of the user's" in both and "no reference is read" not in both


def test_a_judge_that_is_the_first_policy_is_named(judge: Path) -> None:
    recipe = brought(Own(scorer=str(judge), wording="terse"), str(judge))
    assert "this model is also the policy that the evolution starts from" in explain(recipe)


@pytest.mark.parametrize(
    ("option", "wording", "words"),
    [
        ("nowhere", None, "expected a folder with a transformers checkpoint"),
        ("{model}", "terse", "expected a judge as --scorer"),
        ("{judge}", "tersely", "found 'tersely'"),
        (None, "terse", "expected --scorer"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    option: str | None, wording: str | None, words: str, model: Path, judge: Path
) -> None:
    scorer = option.format(model=model, judge=judge) if option else None
    with pytest.raises(ConfigError, match=words), bring(Own(scorer=scorer, wording=wording)):
        pass


def test_training_and_evaluation_have_one_scorer(judge: Path) -> None:
    with bring(Own(scorer=str(judge), wording="terse")) as carried:
        with pytest.raises(ConfigError, match="the scorer of training"):
            resolve("sec", "tiny", None, None, ["reward.scorer.weight=0.5"], None, carried)
        with pytest.raises(ConfigError, match="the verifiers of the tasks"):
            resolve("sec", "tiny", None, None, ["reward.format_reward=0.1"], None, carried)
