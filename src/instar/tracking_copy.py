"""Corrects the MLflow database of a run directory that was copied or moved.

MLflow stores absolute paths of artifacts and of the store. In a copy, they still lead to the original directory, and writing
through them would change the files of the original. So the paths are corrected before the database is opened.
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
    """Return the MLflow URI of the database inside a run directory, after its paths were corrected."""
    database = directory.resolve() / "mlflow.db"
    settle(database)
    if not set("%?#") & set(str(database)):
        return f"sqlite:///{database}"
    from sqlalchemy.engine import URL  # versions of SQLAlchemy quote different characters, so SQLAlchemy does it

    return URL.create("sqlite", database=str(database)).render_as_string()


def settle(database: Path) -> None:
    """Correct every path in `database` that leads into the directory where the database was created.

    Afterwards the path leads into the directory where the database is now.
    """
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            for old in _homes(connection):
                if old != database.parent.as_uri():
                    _move(connection, old, database.parent)
    except sqlite3.Error as error:
        raise UnavailableError(
            expected="to read and write the MLflow database of this directory",
            found=str(error),
            where=str(database),
            action="make it writable, or restore it; if you remove it, `instar promote` sends the ledger to a new one",
        ) from error


def _homes(connection: sqlite3.Connection) -> list[str]:
    """Return the directories, as URIs, in which the experiments of instar were created."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return []
    query = "SELECT DISTINCT artifact_location FROM experiments WHERE name LIKE 'instar%' AND artifact_location LIKE ?"
    locations = connection.execute(query, (f"file://%/{ARTIFACTS}",)).fetchall()
    return [str(location).removesuffix(f"/{ARTIFACTS}") for (location,) in locations]


def _move(connection: sqlite3.Connection, old: str, home: Path) -> None:
    """Replace the directory `old` at the beginning of every text in every table, as a URI and as a path."""
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
