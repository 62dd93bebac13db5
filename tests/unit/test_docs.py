"""What the documentation tells people to type exists: commands parse, make targets and linked files are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.exceptions import TyperException
from typer.main import get_command

from instar.cli import app
from instar.errors import InstarError
from instar.pipelines.catalog import STAGES
from instar.pipelines.chain import control_command
from instar.pipelines.pools import load
from instar.pipelines.supervise import pid1

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    *sorted(p for d in ("benchmarks", "components") for p in (ROOT / d).rglob("*.md")),
]
FENCE = re.compile(r"^( *)```[^\n]*\n(.*?)^\1``` *$", re.M | re.S)
COMMAND = re.compile(r"\s*(\$ )?(\w+=\S+ )*(\S*/)?(instar|make) ")
INLINE = re.compile(r"`instar ([a-z]+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ENDS = {"|", "||", "&&", ";", "&", ">", ">>"}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command in the code blocks of a page: joined lines, without prompt, comment and pipe."""
    for _, block in FENCE.findall(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if COMMAND.match(line):
                yield from _split(line)


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in ENDS:
            words.append(word)
            continue
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
        if words:
            yield words
        words = []


def lines_of(program: str) -> list[Any]:
    """Return every command line of `program` in the pages, with the page as its name."""
    found = [
        (page, words[1:]) for page in PAGES for words in commands(page.read_text()) if Path(words[0]).name == program
    ]
    return [pytest.param(words, id=f"{page.relative_to(ROOT)}: {shlex.join(words)}") for page, words in found]


def parse(words: list[str]) -> None:
    """Parse a command line of `instar` as the program would, and run nothing."""
    group: Any = get_command(app.app)
    with group.make_context("instar", list(words)) as context:
        name, command, options = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, name
        if name == "supervise":
            found = pid1.parse(options, {})
            assert Path(found.command[0]).name != "instar" or parse(list(found.command[1:])) is None
        elif name in ("control", "stage"):
            assert options[0] in (control_command.TASKS if name == "control" else STAGES), options
            if name == "control":
                control_command._parser(options[0]).parse_args(options[1:])
        else:
            command.make_context(name, options, parent=context)


@pytest.mark.parametrize("words", lines_of("instar"))
def test_a_command_of_the_documentation_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_KFP_HOST", "http://127.0.0.1:8888")  # the pages export it once
    parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_in_a_sentence_exists(page: Path) -> None:
    known: Any = get_command(app.app)
    assert set(INLINE.findall(FENCE.sub("", page.read_text()))) <= set(known.commands)


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "plan sec --gpus -1 --model-size 3",
        "plan sec --device",
        "submit sec --store s3://b/p --host http://x --crom x",
        "run sec --mode containres",
        "compile sec --segment middle -o x.yaml",
        "show a b",
        "control advanced --store x",
        "control tick --restrat true",
        "stage rolout --store x",
        "supervise --retries many -- instar recipes",
        "supervise -- instar recipe",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises((TyperException, InstarError, AssertionError, SystemExit)):
        parse(shlex.split(line))


def test_commands_are_found_as_people_write_them() -> None:
    page = (
        "```\n$ A=1 instar run sec \\\n    --seed 3   # again\ninstar show d | cat && make check\n"
        "ls instar d\nrunning instar x\n```\ninstar no\n"
    )
    assert list(commands(page)) == [
        ["instar", "run", "sec", "--seed", "3"],
        ["instar", "show", "d"],
        ["cat"],
        ["make", "check"],
    ]


@pytest.mark.parametrize("words", lines_of("make"))
def test_a_make_target_of_the_documentation_exists(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {word for word in words if "=" not in word} <= targets


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


def test_a_dead_link_is_noticed() -> None:
    text = "[a](store.md) [b](nowhere.md) [c](store.md#objects) [d](store.md#no-such-heading) [e](https://example.org)"
    assert dead_links(ROOT / "docs/errors.md", text) == ["nowhere.md", "store.md#no-such-heading"]


def dead_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    dead = []
    for link in LINK.findall(FENCE.sub("", text)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_cluster_of_the_page_has_a_node_for_the_gpu_pool() -> None:
    text = (ROOT / "docs/kubeflow.md").read_text()
    nodes = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["nodes"]
    tainted = [node for node in nodes if "kubeadmConfigPatches" in node]
    pool = load("kind-dev").pool("rollout")
    assert [node["labels"] for node in tainted] == [pool.node_selector]
    taints = yaml.safe_load(tainted[0]["kubeadmConfigPatches"][0])["nodeRegistration"]["taints"]
    assert [(t["key"], t["effect"]) for t in taints] == [(t.key, t.effect) for t in pool.tolerations]
