"""A folder sent to the Hugging Face hub, as a data set or a model: private unless asked, going on after a break.

    publish("owner/name", Path("folder"), "dataset", public=False)      # the address

huggingface_hub does the work: a file that the hub has already is not sent again, large folders go in several commits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from data_prep.errors import DataError, UsageError, first_line


def require_name(repository: str) -> None:
    """Raise UsageError for what is no OWNER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"{repository}: {first_line(error)}") from None
    if repository.count("/") != 1:
        raise UsageError(f"{repository}: expected OWNER/NAME, as the hub names it")


def require_login() -> None:
    """Raise UsageError where no token is known."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UsageError(
            "nobody is logged in to the hub: run `hf auth login`, or set HF_TOKEN to a token that may write"
        )


def publish(
    repository: str,
    folder: Path,
    kind: Literal["dataset", "model"],
    *,
    public: bool,
    files: list[str] | None = None,
    replaced: list[str] | None = None,
) -> str:
    """Make the repository where it is not there yet, send `folder` (or these `files` of it), return its address.

    Files there that a pattern of `replaced` names, and that are not sent, are removed.

    Raises UsageError without a login, DataError where the hub refuses or the connection breaks.
    """
    import huggingface_hub.errors as hub
    from huggingface_hub import HfApi

    require_name(repository)
    require_login()
    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=list(files) if files else None,
            delete_patterns=replaced,
        )
    except (hub.HTTPError, OSError, RuntimeError) as error:  # type: ignore[attr-defined]  # the last: a file not sent
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise DataError(repository, f"not sent whole ({lines[0][:300]}); the same command goes on from here") from None
    return str(url)
