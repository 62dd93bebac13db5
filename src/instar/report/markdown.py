"""One page of Markdown per segment for the pipelines UI: the last gate decisions, and some answers or episodes.

The page needs the ledger, the tasks, and the first and the last evaluation. It needs no extra package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from instar.artifact import Evaluation, Tasks
from instar.ledger import Entry
from instar.report.continuous_data import PROBE, Episode, pair_episodes, thin
from instar.report.evaluations import SPLIT
from instar.report.samples import Sample, pick_samples
from instar.status import status
from instar.workspace import Workspace

GATES, SAMPLES, CHARS = 12, 10, 120


def page(workspace: Workspace) -> str:
    """Return the page of an evolution, which may be unfinished."""
    summary = status(workspace)
    lines = [
        f"# {summary['evolution']}",
        "",
        f"{summary['recipe']} at {summary['scale']}, iteration {summary['iteration']}, {summary['status']}",
    ]
    lines += [
        "",
        f"{_cell(summary['ending'], 400)}",
        "",
        f"policy `{summary['policy'][:19]}`, champion `{summary['champion'][:19]}`, ledger `{summary['head'][:12]}`",
        "",
    ]
    lines += _gates(workspace)
    lines += _samples(workspace)
    return "\n".join(lines) + "\n"


def _gates(workspace: Workspace) -> Iterator[str]:
    evaluations = {
        e.body["outputs"]["evaluation"]: e for e in workspace.ledger.of("stage") if e.body["stage"] == "evaluate"
    }
    gates = list(workspace.ledger.of("gate"))
    shown = [(gate, *_score(evaluations.get(gate.body["evaluation"]))) for gate in gates[-GATES:]]
    measure = next((measure for _, measure, _ in shown if measure), "accuracy")
    yield from ("## Gates", "", f"| iteration | {measure} | champion now | decision |", "|---|---|---|---|")
    for gate, _, score in shown:
        decision = gate.body["decision"]
        promoted = "yes" if decision["promote"] else ""
        yield f"| {gate.body['iteration']} | {score} | {promoted} | {decision['action']}: {_cell(decision['reason'])} |"
    yield ""


def _score(entry: Entry | None) -> tuple[str, str]:
    """Return the name and the value of the score on the validation tasks. Both are empty if there is no such score."""
    metrics: dict[str, Any] = dict(entry.body["metrics"]) if entry else {}
    name = next((n for n in ("val/accuracy", "val/normalised_score", "accuracy") if n in metrics), None)
    return (name.removeprefix("val/").replace("_", " "), f"{metrics[name]:.3f}") if name else ("", "")


def _samples(workspace: Workspace) -> Iterator[str]:
    gates = list(workspace.ledger.of("gate"))
    prepared = next((e for e in workspace.ledger.of("stage") if e.body["stage"] == "dataset_prep"), None)
    if not gates or prepared is None:
        return
    digests = [gate.body["evaluation"] for gate in (gates[0], gates[-1])]
    first, last = (Evaluation(workspace.cas.get(d), d) for d in digests)
    digest = prepared.body["outputs"]["tasks"]
    tasks = Tasks(workspace.cas.get(digest), digest).table()
    if last.read_json("summary.json").get("measure") == "normalised_score":
        yield from _episodes(tasks, first, last)
        return
    samples = pick_samples(tasks, first, last)[:SAMPLES]
    yield from ("## Answers", "", "| arm | prompt | expected | first policy | this policy |", "|---|---|---|---|---|")
    yield from (_row(sample) for sample in samples)


def _episodes(tasks: Any, first: Evaluation, last: Evaluation) -> Iterator[str]:
    """Yield some episodes of each pool: first those that ask for the target return, then those of the probes."""
    yield from (
        "## Episodes",
        "",
        "| start | asked for | first policy | this policy | steps |",
        "|---|---|---|---|---|",
    )
    for split, most in ((SPLIT, SAMPLES), (PROBE, SAMPLES // 2)):
        yield from (_return(episode) for episode in thin(pair_episodes(tasks, first, last, split), most))


def _return(episode: Episode) -> str:
    values = (episode.asked, episode.before, episode.after)
    return f"| {episode.seed} | {' | '.join(f'{value:.4g}' for value in values)} | {episode.length} |"


def _row(sample: Sample) -> str:
    marks = {1.0: "right", 0.0: "wrong", None: "no verdict"}
    answers = (f"{_cell(a.text)} ({marks.get(a.correct, 'part')})" for a in (sample.first, sample.last))
    return " | ".join(["", _cell(sample.arm), _cell(sample.prompt), _cell(sample.reference), *answers, ""]).strip()


def _cell(text: str, most: int = CHARS) -> str:
    """Return text for a table cell, with characters of markup escaped, because text of a model could contain any markup."""
    plain = text.replace("\n", " ")[:most]
    return "".join(f"&#{ord(c)};" if c in "|<>&`*_[]!\\" else c for c in plain)
