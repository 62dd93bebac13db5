"""One page of Markdown per segment, for the pipelines UI: the last gates and some answers or episodes.

Read from the ledger, with two artifacts at most: the first and the last evaluation. Needs no extra.
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
    """Return the page of an evolution as it stands."""
    found = status(workspace)
    lines = [
        f"# {found['evolution']}",
        "",
        f"{found['recipe']} at {found['scale']}, iteration {found['iteration']}, {found['status']}",
    ]
    lines += [
        "",
        f"{_cell(found['ending'], 400)}",
        "",
        f"policy `{found['policy'][:19]}`, champion `{found['champion'][:19]}`, ledger `{found['head'][:12]}`",
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
    """Return what an evaluation measures and its value on the validation tasks, both empty where it has none."""
    metrics: dict[str, Any] = dict(entry.body["metrics"]) if entry else {}
    found = next(((n, metrics[n]) for n in ("val/accuracy", "val/normalised_score", "accuracy") if n in metrics), None)
    return (found[0].removeprefix("val/").replace("_", " "), f"{found[1]:.3f}") if found else ("", "")


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
    """Yield some start states of each pool: those at the target, then those of the probes."""
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
    """Return text that cannot break out of a table cell: model output is not to be trusted with markup."""
    plain = text.replace("\n", " ")[:most]
    return "".join(f"&#{ord(c)};" if c in "|<>&`*_[]!\\" else c for c in plain)
