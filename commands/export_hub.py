"""``export``: upload the folder as a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from commands.errors import ConfigurationError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_hub(name: str) -> None:
    """Check that the hub may be used, before anything is written.

    Args:
        name: Name of the repository.

    Raises:
        ConfigurationError: If the name is invalid, the hub is turned off, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"--export.push is {name!r}; expected USER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise ConfigurationError(
            "--export.push uploads, but HF_HUB_OFFLINE is set: unset it, or remove --export.push"
        )
    if get_token() is None:
        raise ConfigurationError(
            "--export.push requires a token of the Hugging Face hub: run `hf auth login`, or set "
            "HF_TOKEN to a token with write access"
        )


def push(folder: Path, name: str, private: bool) -> str:
    """Upload a folder in one commit; create the repository if it is missing.

    Args:
        folder: The folder.
        name: Name of the repository.
        private: Whether a new repository is private.

    Returns:
        URL of the repository.

    Raises:
        ConfigurationError: If the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of Enlarger")
    except Exception as error:  # its HTTP library differs between major versions
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(
            f"the export is in {folder}, but could not be uploaded to {name}: {reason}; the same "
            "command with --export.overwrite true tries again"
        ) from error
    return str(address)
