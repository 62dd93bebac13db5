"""The model card of an exported policy: a README.md whose every number and digest comes from the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instar import __version__
from instar.artifact import Tasks
from instar.components.dataset_prep.packages import PACKAGES
from instar.pipelines.export.command import run_command
from instar.pipelines.export.select import Selected
from instar.report.evaluations import Evaluated, evaluations

CONTINUOUS = "instar_"
"""How `model_type` begins in the `config.json` of a policy for continuous control. transformers has no code for it."""
SPLITS = {
    "val": "validation tasks, on which the gate chose the champion",
    "id": "test tasks, from arms that were trained on",
    "ood": "test tasks, from arms that were never trained on",
}


def card(selected: Selected, command: str, folder: Path) -> str:
    """Return the text of the card. `folder` holds the exported files; `command` is the one that exports them."""
    opened = next(selected.workspace.ledger.of("open"))
    name = selected.workspace.evolution
    sections = [
        _front_matter(selected, folder),
        f"# {name}, iteration {selected.iteration}\n",
        _summary(selected, opened.body),
        "## Load it\n\n" + _load(folder),
        "## Base model\n\n" + _base(selected),
        "## Data\n\n" + _data(selected),
        "## Reward\n\n" + _reward(selected, opened.body),
        "## Numbers\n\n" + _numbers(selected),
        "## Gate decisions\n\n" + _gates(selected),
        "## Provenance\n\n" + _provenance(selected, opened.body, command),
    ]
    return "\n".join(sections)


def _front_matter(selected: Selected, folder: Path) -> str:
    """Return the metadata block that hubs read. What is not known is left out."""
    initial = _initial(selected)
    lines = ["---", "tags:", "- instar", f"- {selected.workspace.ledger.recipe['name']}"]
    if licence := _licence(initial):
        lines.append(f"license: {licence.lower()}")
    if initial.get("strategy") == "checkpoint" and _is_hub_id(initial["path"]):
        lines.append(f"base_model: {initial['path']}")
    if _is_adapter(folder):
        lines.append("library_name: peft")
    elif not _model_type(folder).startswith(CONTINUOUS):
        lines += ["library_name: transformers", "pipeline_tag: text-generation"]
    return "\n".join([*lines, "---\n"])


def _summary(selected: Selected, opened: Mapping[str, Any]) -> str:
    recipe = selected.workspace.ledger.recipe
    which = "the champion" if selected.is_champion else "not the champion"
    made = (
        f"iteration {selected.iteration} of {recipe['iterations']}"
        if selected.iteration
        else "the base, before any update"
    )
    return (
        f"This policy was trained with [instar](https://github.com/instar-ml/instar) {__version__} by the recipe "
        f"`{opened['name']}` ({recipe['paper']}) at scale `{opened['scale']}`, seed {opened['seed']}. It is {made}, {which} of "
        "the run. This page is made from the ledger of the run.\n"
    )


def _load(folder: Path) -> str:
    kind = _model_type(folder)
    if kind.startswith(CONTINUOUS):
        return (
            "This is a policy for continuous control. It needs instar, because transformers has no code for its architecture "
            f"(`{kind}`).\n\n```python\nfrom pathlib import Path\n\nfrom instar.components.continuous.build import load\n\n"
            'policy = load(Path("FOLDER"))\n```\n'
        )
    if _is_adapter(folder):
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        place = '"FOLDER/base"' if (folder / base).is_dir() else repr(base)
        return (
            "This is an adapter in PEFT's format.\n\n```python\nfrom peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"base = AutoModelForCausalLM.from_pretrained({place})\n"
            'model = PeftModel.from_pretrained(base, "FOLDER")\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")\n```\n'
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")\n```\n'
    )


def _base(selected: Selected) -> str:
    initial = _initial(selected)
    match initial.get("strategy"):
        case "checkpoint":
            origin = (
                f"`{initial['path']}`" if _is_hub_id(initial["path"]) else f"the folder `{Path(initial['path']).name}`"
            )
            terms = "Its licence is not recorded; look at that checkpoint."
        case "packaged":
            origin, terms = f"`{initial['name']}`", f"Its licence is {_licence(initial)}."
        case "from_scratch":
            origin, terms = "none, because the run made its own model", "No licence of others applies to the weights."
        case other:
            origin, terms = f"`{other or 'made by the recipe'}`", "No licence is recorded."
    first = next(e for e in selected.workspace.ledger.of("stage") if e.body["stage"] == "dataset_prep")
    return f"Base: {origin}. {terms}\n\nDigest of the base: `{first.body['outputs']['policy']}`\n"


def _data(selected: Selected) -> str:
    """Return the arms with their numbers of tasks, counted in the task table."""
    workspace = selected.workspace
    first = next(e for e in workspace.ledger.of("stage") if e.body["stage"] == "dataset_prep")
    digest = first.body["outputs"]["tasks"]
    table = Tasks(workspace.cas.get(digest), digest).table()
    counts = table.group_by(["domain", "split"]).aggregate([([], "count_all")]).to_pylist()
    verifiers = sorted(set(table["verifier"].to_pylist()))
    lines = ["| domain | split | tasks |", "|---|---|---|"]
    lines += [
        f"| {c['domain']} | {c['split']} | {c['count_all']} |"
        for c in sorted(counts, key=lambda c: (c["domain"], c["split"]))
    ]
    arms = len(set(table["arm"].to_pylist()))
    more = [f"Digest of the tasks: `{digest}` ({arms} arms; verifier: {', '.join(verifiers)})"]
    if workspace.ledger.recipe["dataset_prep"]["strategy"] == "offline":
        more.append(f"Digest of the logged trajectories: `{first.body['outputs']['data']}`")
    return "\n".join([*lines, "", "\n\n".join(more)]) + "\n"


def _reward(selected: Selected, opened: Mapping[str, Any]) -> str:
    """Return the strategy with its settings, and the digests of what a user brought, for example of a reward function."""
    reward = selected.workspace.ledger.recipe["reward"]
    settings = {key: value for key, value in reward.items() if key != "strategy" and value is not None}
    lines = [f"Strategy `{reward['strategy']}` with `{json.dumps(settings, sort_keys=True)}`."]
    brought = opened.get("brought", {})
    lines += [f"Brought by the user: `{name}` `{digest}`." for name, digest in sorted(brought.items())]
    return "\n\n".join([*lines, f"Version of the code of instar: `{opened['code']}`."]) + "\n"


def _numbers(selected: Selected) -> str:
    """Return every score that the run measured of this policy, with its interval and its comparison with a baseline."""
    notes: list[str] = []
    evaluated = evaluations(selected.workspace, list(selected.workspace.ledger.of("stage")), notes)
    newest = {e.split: e for e in evaluated if e.policy == selected.digest}
    if not newest:
        return "\n".join(["The run has no evaluation of this policy that can be read.", *notes]) + "\n"
    shares = {
        config.get("confidence", 0.95) for config in (selected.workspace.ledger.recipe[n] for n in ("evaluate", "test"))
    }
    lines = ["| split | measure | score | interval | difference to the baseline |", "|---|---|---|---|---|"]
    lines += [_row(e) for e in newest.values()]
    levels = " and ".join(f"{share:.0%}" for share in sorted(shares))
    lines += [
        "",
        f"Intervals are at {levels} confidence, over tasks. A score is the mean over arms. The baseline of `val` is the "
        "champion of that time; the baseline of a test is the base.",
        "",
    ]
    lines += [f"- `{split}`: {words}" for split, words in SPLITS.items() if split in newest]
    return "\n".join([*lines, *notes]) + "\n"


def _row(evaluated: Evaluated) -> str:
    score, other = evaluated.scores[0], evaluated.comparison
    compared = "-"
    if other is not None and other.get("difference") is not None:
        compared = f"{other['verdict']}: {other['difference']:+.3f} [{other['low']:+.3f}, {other['high']:+.3f}]"
    elif other is not None:
        compared = f"{other['verdict']}: {other['reason']}"
    measure = evaluated.measure.replace("_", " ")
    return f"| {evaluated.split} | {measure} | {score.value:.3f} | [{score.low:.3f}, {score.high:.3f}] | {compared} |"


def _gates(selected: Selected) -> str:
    lines = ["| iteration | decision | champion | reason |", "|---|---|---|---|"]
    for gate in selected.workspace.ledger.of("gate"):
        decision, iteration = gate.body["decision"], gate.body["iteration"]
        promoted = "yes" if decision["promote"] else "no"
        here = " (this policy)" if iteration == selected.iteration else ""
        lines.append(f"| {iteration}{here} | {decision['action']} | {promoted} | {_cell(decision['reason'])} |")
    return "\n".join(lines) + "\n"


def _provenance(selected: Selected, opened: Mapping[str, Any], command: str) -> str:
    ledger = selected.workspace.ledger
    lines = list(run_command(ledger.recipe, int(opened["seed"])))
    return (
        "\n".join(
            [
                f"Digest of the policy: `{selected.digest}`. Head of the ledger: `{ledger.head}`.",
                "",
                "The run was made by",
                "",
                "```",
                *lines,
                "```",
                "",
                "and this folder by",
                "",
                "```",
                command,
                "```",
            ]
        )
        + "\n"
    )


def _initial(selected: Selected) -> Mapping[str, Any]:
    return selected.workspace.ledger.recipe["dataset_prep"].get("initial") or {}


def _licence(initial: Mapping[str, Any]) -> str:
    package = PACKAGES.get(str(initial.get("name"))) if initial.get("strategy") == "packaged" else None
    return package.licence if package else ""


def _is_hub_id(path: str) -> bool:
    return not path.startswith(("/", ".", "~")) and path.count("/") <= 1 and not Path(path).exists()


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _model_type(folder: Path) -> str:
    file = folder / "config.json"
    return str(json.loads(file.read_text()).get("model_type", "")) if file.is_file() else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
