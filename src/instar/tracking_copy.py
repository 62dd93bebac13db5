"""The MLflow database of a run directory that was copied or moved: its paths lead to where it was made.

MLflow keeps absolute paths, of artifacts and of the store. A copy that wrote through them would change files of the original. They
are put right once, before the database is opened where it lies now.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from instar.errors import UnavailableError

ARTIFACTS = "mlartifacts"
"""Folder beside the database that holds its artifacts."""


def embedded(directory: Path) -> str:
    """Return the MLflow URI of the database inside a run directory, settled where it lies now."""
    database = directory.resolve() / "mlflow.db"
    settle(database)
    if not set("%?#") & set(str(database)):
        return f"sqlite:///{database}"
    from sqlalchemy.engine import URL  # its versions differ in what they quote

    return URL.create("sqlite", database=str(database)).render_as_string()


def settle(database: Path) -> None:
    """Let every path of `database` into the directory that it was made in lead into the one that it lies in now."""
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            for old in _homes(connection):
                if old != database.parent.as_uri():
                    _move(connection, old, database.parent)
    except sqlite3.Error as error:
        raise UnavailableError(
            expected="the MLflow database of this directory, to read and to write",
            found=str(error),
            where=str(database),
            action="make it writable, or restore it; without it, `instar promote` sends the ledger to a new one",
        ) from error


def _homes(connection: sqlite3.Connection) -> list[str]:
    """Return the directories, as URIs, that the experiments of this package were made in."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return []
    query = "SELECT DISTINCT artifact_location FROM experiments WHERE name LIKE 'instar%' AND artifact_location LIKE ?"
    found = connection.execute(query, (f"file://%/{ARTIFACTS}",)).fetchall()
    return [str(location).removesuffix(f"/{ARTIFACTS}") for (location,) in found]


def _move(connection: sqlite3.Connection, old: str, home: Path) -> None:
    """Replace the directory `old`, as a URI and as a path, at the beginning of every text in every table."""
    renamed = ((old, home.as_uri()), (unquote(urlsplit(old).path), str(home)))
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (table,) in tables.fetchall():
        for column in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
            for before, now in renamed:
                connection.execute(
                    f'UPDATE "{table}" SET "{column[1]}" = ? || substr("{column[1]}", ?) '
                    f'WHERE typeof("{column[1]}") = \'text\' AND ("{column[1]}" = ? OR substr("{column[1]}", 1, ?) = ?)',
                    (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
                )
