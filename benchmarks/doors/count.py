"""Lines that a user writes to train on rows and a reward of their own, counted for instar and for other libraries.

    python benchmarks/doors/count.py        prints the table of docs/doors.md

Every folder beside this file is the smallest program for the same thing: rows `{"prompt": "3 km in m = ", "answer":
"3000"}` in a file, a reward that compares the stripped answer, and GRPO. The rows do not count. Files that a command of the
library writes, and that the user leaves as they are, do not count either. A line of code counts if it is not blank, not a
comment and not part of a docstring. A command counts as one line, and each of its options as one more, however it is
wrapped.
"""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent
OPTION = re.compile(r"--[\w-]+|\+*[\w.]+=")


@dataclass(frozen=True)
class Program:
    """What a user of one library writes, and how it was tried: run, its rows and reward run, or written after the documentation."""

    library: str
    folder: str
    tried: Literal["run", "reward run", "written"]
    elsewhere: tuple[str, ...] = ()
    """Files of the program that lie in other folders of the repository."""

    def files(self) -> list[Path]:
        """Return every file that the user writes, except for the commands."""
        inside = [path for path in (HERE / self.folder).rglob("*.*") if path.suffix in (".py", ".toml")]
        return sorted(inside) + [HERE.parents[1] / name for name in self.elsewhere]

    def code(self) -> int:
        """Return the lines of these files."""
        return sum(lines(path) for path in self.files())

    def commands(self) -> int:
        """Return the commands, with their options."""
        return command_lines((HERE / self.folder / "run.sh").read_text())


PROGRAMS = (
    Program("instar", "instar", "run", ("examples/units/rew.py",)),
    Program("TRL 1.16.0", "trl", "run"),
    Program("verl 0.9.1", "verl", "written"),
    Program("OpenEnv 0.3.0, trained by TRL 1.16.0", "openenv", "run"),
    Program("verifiers 0.4.0, trained by prime-rl 0.8.0", "verifiers", "reward run"),
    Program("NeMo-Gym 0.7.0, trained by NeMo-RL at 7ea279a", "nemo_gym", "written"),
)


def lines(path: Path) -> int:
    """Return how many lines of a file are not blank, not a comment and not part of a docstring."""
    text = path.read_text()
    skipped = docstring_lines(text) if path.suffix == ".py" else set()
    return sum(
        number not in skipped and bool(line.strip()) and not line.lstrip().startswith("#")
        for number, line in enumerate(text.splitlines(), 1)
    )


def docstring_lines(text: str) -> set[int]:
    """Return the numbers of the lines that docstrings stand on."""
    bodies = [node.body for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Module | ast.ClassDef | FUNCTION)]
    first = [body[0] for body in bodies if body and isinstance(body[0], ast.Expr)]
    strings = [node for node in first if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)]
    return {number for node in strings for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def command_lines(text: str) -> int:
    """Return how many commands a script has, plus how many options they have."""
    joined = text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in joined if line.strip() and not line.startswith("#")]
    return sum(1 + sum(bool(OPTION.match(word)) for word in words[1:]) for words in commands)


def table() -> str:
    """Return the counts of all programs as a table in Markdown."""
    rows = [
        f"| {program.library} | {len(program.files())} | {program.code()} | {program.commands()} | "
        f"{program.code() + program.commands()} | {program.tried} |"
        for program in PROGRAMS
    ]
    return "\n".join(["| library | files | code | commands | lines | tried |", "|---|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
