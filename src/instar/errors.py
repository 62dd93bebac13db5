"""Every error that instar raises on purpose: what was expected, what was found, where, and what to do next.

The class of an error decides two things that a supervisor needs: the exit code of the process, and whether it can help to try
again. Four codes are reserved for answers. `instar evaluate` ends with 0 (better or equal), 3 (worse) or 2 (could not tell).
`instar diff` and `instar replay` end with 1 if they have found a difference, and `instar check` if something is red.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from instar.terminal import printable

FIELD_CHARS = 2000
"""How many characters of one field are printed to a terminal."""


class InstarError(Exception):
    """Base of all named errors. `where` is `file:field`, an artifact digest or a stage name."""

    exit_code: ClassVar[int]
    transient: ClassVar[bool] = False

    def __init__(self, *, expected: str, found: str, where: str, action: str) -> None:
        self.expected, self.found, self.where, self.action = expected, found, where, action
        super().__init__(f"expected {expected}; found {found}; at {where}; {action}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an error travel between processes. The default would pass the message alone, but the fields are keyword-only."""
        fields = {"expected": self.expected, "found": self.found, "where": self.where, "action": self.action}
        return partial(type(self), **fields), ()

    def render(self) -> str:
        """Return the class and the four fields, one labelled line each, for a terminal.

        A field cannot forge a label, because its further lines are indented. It cannot control the terminal either, because
        control characters are escaped.
        """
        fields = {"expected": self.expected, "found": self.found, "where": self.where, "do": self.action}
        return "\n".join([type(self).__name__, *(f"  {name + ':':<9} {_field(text)}" for name, text in fields.items())])


def _field(text: str) -> str:
    """Return a field for a terminal: cut to `FIELD_CHARS`, with every further line indented below the first."""
    cut = text if len(text) <= FIELD_CHARS else f"{text[:FIELD_CHARS]}... ({len(text):,} characters)"
    return printable("\n            ".join(cut.splitlines()))


class ConfigError(InstarError):
    """A configuration value or key is not valid."""

    exit_code = 10


class ArtifactError(InstarError):
    """Stored bytes are missing, truncated or do not match their digest."""

    exit_code = 11


class ContractError(InstarError):
    """A row, column or stage output breaks its declared contract."""

    exit_code = 12


class LedgerError(InstarError):
    """The ledger is inconsistent, or a part that resuming needs is not in it."""

    exit_code = 13


class LockedError(InstarError):
    """Another live process owns this evolution."""

    exit_code = 14


class NumericsError(InstarError):
    """A loss, gradient, log-probability or weight is not finite, or trainer and sampler disagree."""

    exit_code = 15


class RewardError(InstarError):
    """Scores do not cover the rollouts, or too few of them are valid."""

    exit_code = 16


class EngineError(InstarError):
    """The rollout engine does not serve the policy it was asked for."""

    exit_code = 17


class StorageError(InstarError):
    """The disk is full, read-only or otherwise refuses a write."""

    exit_code = 18


class MissingDependencyError(InstarError):
    """A package of an optional extra is needed and not installed."""

    exit_code = 19


class NoProgressError(InstarError):
    """A run finished without a single policy update."""

    exit_code = 20


class ProcessError(InstarError):
    """A process that instar started has failed, and its exit code is none of instar's."""

    exit_code = 21


class InternalError(InstarError):
    """A fault of instar itself. The traceback is written to a file; please report it."""

    exit_code = 70


class UnavailableError(InstarError):
    """A service did not answer before its deadline. Trying again later can help."""

    exit_code = 75
    transient = True


class StalledError(InstarError):
    """A stage showed no sign of life before its deadline and was stopped. Trying again can help."""

    exit_code = 76
    transient = True


BY_CODE = {kind.exit_code: kind for kind in InstarError.__subclasses__()}
"""Exit code -> class."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid key closest to `name`, or lists all keys when none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names)}"
