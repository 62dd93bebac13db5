"""Sends an exported folder to a hub of models. The user's own login is used; the token is neither read nor printed here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar.errors import ConfigError, MissingDependencyError, UnavailableError


def check_id(repository: str) -> None:
    """Refuse a name that no repository of a hub can have. This is done before anything is written."""
    _, validate = _hub()
    try:
        validate(repository)
    except ValueError as error:
        raise ConfigError(
            expected="the name of a repository: OWNER/NAME",
            found=repr(repository),
            where="--push",
            action=str(error).splitlines()[0],
        ) from error


def push(folder: Path, repository: str) -> str:
    """Upload `folder` and return the address of the repository. A repository that does not exist is created as a private one."""
    api, _ = _hub()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="instar export")
    except Exception as error:
        raise _refused(error, repository, folder) from error
    return str(address)


def _refused(error: Exception, repository: str, folder: Path) -> Exception:
    """Return the named error for a refusal of the hub. The text of the request is left out, because it may hold credentials."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = f"{type(error).__name__}{f', status {status}' if status else ''}"
    kept = f"the folder {folder} is written"
    if status is None:
        return UnavailableError(
            expected="a hub that this machine can reach",
            found=reason,
            where=f"--push {repository}",
            action=f"{kept}; push it from a machine whose network allows it: `hf upload {repository} {folder}`",
        )
    return ConfigError(
        expected="a hub that takes the folder",
        found=reason,
        where=f"--push {repository}",
        action=f"{kept}; log in with `hf auth login`, check the rights of the token, then `hf upload {repository} {folder}`",
    )


def _hub() -> tuple[Any, Callable[[str], None]]:
    """Return the client of the hub, and the check of names. The client reads the user's own login itself."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
    except ImportError as error:
        raise MissingDependencyError(
            expected="huggingface_hub", found=str(error), where="--push", action="pip install 'instar[llm]'"
        ) from error
    return HfApi(), validate_repo_id
