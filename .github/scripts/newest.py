#!/usr/bin/env python3
"""What the newest versions break, compared with what is known to break.

    python newest.py JUNIT.xml

Prints a page in Markdown: distributions that differ from requirements.lock, and every failed test, with its line of newest.txt
if it has one. Ends with 1 for a failure that is not named there, and for a named test that passed or was not run. Standard
library only.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree  # the file is our own test run's
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(junit: Path) -> int:
    """Print the page and return the exit code."""
    known, failed = named((ROOT / ".github/newest.txt").read_text()), failures(junit)
    moved = changes((ROOT / "requirements.lock").read_text())
    lines = ["## The newest versions", "", *(moved or ["All are the locked ones."]), "", "## Failed tests", ""]
    lines += [f"- `{test}` {known.get(test, '**new**')}" for test in failed] or ["None."]
    gone = sorted(known.keys() - set(failed))
    lines += ["", "## Named in newest.txt, but not failed", "", *(f"- `{test}`" for test in gone)] if gone else []
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(gone or set(failed) - known.keys()))


def named(text: str) -> dict[str, str]:
    """Return {test: reason} of the list."""
    rows = (line.partition(" # ") for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {test.strip(): reason.strip() for test, _, reason in rows}


def failures(junit: Path) -> list[str]:
    """Return the ids of the tests that failed, as pytest's command line takes them."""
    cases = ElementTree.parse(junit).iter("testcase")
    found = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    return sorted(f"{c.get('classname', '').replace('.', '/')}.py::{c.get('name')}" for c in found)


def changes(lock: str) -> list[str]:
    """Return a line for every locked distribution that is installed in another version."""
    lines = []
    for name, version in re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", lock):
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "none"
        if installed != version:
            lines.append(f"- {name} {version} -> {installed}")
    return lines


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
