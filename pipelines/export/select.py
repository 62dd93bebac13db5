"""Opens a run and chooses one of its policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from instar.errors import ConfigError, LedgerError
from instar.sources import FOLDER, locate
from instar.status import champion_iteration, policies
from instar.workspace import Workspace, open_workspace


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A policy of a run, with the iteration that made it. Iteration 0 made the base."""

    workspace: Workspace = field(repr=False)
    iteration: int
    digest: str
    is_champion: bool

    @property
    def folder(self) -> Path:
        """Return the policy's files, fetched from the store if they are not on disk. Do not write there."""
        return self.workspace.cas.get(self.digest)


@contextmanager
def opened(run: str) -> Iterator[Workspace]:
    """Yield the workspace of a run: a directory, or a URI such as `s3://bucket/runs/evolutions/sec-tiny-seed0`.

    The directory may have its store elsewhere, for example in a bucket. What is fetched for a URI is removed afterwards.
    """
    if (Path(run) / "evolution.json").exists() or FOLDER not in run:
        yield open_workspace(Path(run))
        return
    store, evolution = locate(run)
    with TemporaryDirectory(prefix="instar-run-") as folder:
        yield Workspace(Path(folder), evolution, store.uri)


def select(workspace: Workspace, policy: str, run: str) -> Selected:
    """Return the policy that `policy` names: `champion`, `last`, or the number of an iteration.

    Raises `LedgerError` for a run without any policy, and `ConfigError` for an iteration that the run does not have.
    """
    by_iteration = policies(workspace.ledger.entries)
    if not by_iteration:
        raise LedgerError(
            expected="a run with an evaluated policy",
            found=f"a ledger of {len(workspace.ledger.entries)} entries without a gate",
            where=run,
            action="check the path, or resume the run until its first policy is evaluated",
        )
    champion = champion_iteration(list(workspace.ledger.of("gate")))
    names = {"champion": champion, "last": max(by_iteration)}
    iteration = names.get(policy, int(policy) if policy.isascii() and policy.isdigit() else -1)
    if iteration not in by_iteration:
        raise ConfigError(
            expected=f"champion, last, or an iteration from 0 to {max(by_iteration)}",
            found=repr(policy),
            where=f"--policy of {run}",
            action=f"the run has the policies of iterations {', '.join(map(str, sorted(by_iteration)))}; name one of them",
        )
    return Selected(
        workspace=workspace,
        iteration=iteration,
        digest=by_iteration[iteration],
        is_champion=iteration == champion,
    )
