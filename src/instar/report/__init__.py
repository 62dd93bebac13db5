"""`report.html`: one self-contained page about an evolution. It opens offline and can be written at any time of a run.

`data` and the modules that it calls read ledger and store and return plain values. `tiles` and `page` turn them into HTML.
`markdown` writes a shorter page for the pipelines UI.
"""

from __future__ import annotations

from pathlib import Path

from instar.errors import MissingDependencyError
from instar.store_files import write_whole
from instar.workspace import Workspace


def write_report(workspace: Workspace, out: Path) -> Path:
    """Write the page of `workspace` to the file `out` and return the path. The evolution may be unfinished or failed.

    Raise `MissingDependencyError` without the `report` extra. The file appears whole or not at all.
    """
    try:
        from instar.report.page import render
    except ImportError as error:
        raise MissingDependencyError(
            expected="altair, jinja2 and vl-convert-python",
            found=str(error),
            where="report",
            action="pip install 'instar[report]', then `instar report DIR`",
        ) from error
    from instar.report.data import gather

    write_whole(out, render(gather(workspace)))
    return out
