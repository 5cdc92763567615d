"""``export``: the folder as a repository on the Hugging Face hub, where that is asked for."""

from __future__ import annotations

import re
from pathlib import Path

from commands.errors import ConfigurationError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_hub(name: str) -> None:
    """See that the hub may be used, before anything is written.

    Args:
        name: Of the repository.

    Raises:
        ConfigurationError: It is no name, the hub is switched off, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"--export.push is {name!r}; expected USER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise ConfigurationError(
            "--export.push uploads, and HF_HUB_OFFLINE is set: unset it, or leave --export.push out"
        )
    if get_token() is None:
        raise ConfigurationError(
            "--export.push needs a token of the Hugging Face hub: run `hf auth login`, or set "
            "HF_TOKEN to one that may write"
        )


def push(folder: Path, name: str, private: bool) -> str:
    """Upload a folder in one commit; the repository is made where there is none.

    Args:
        folder: What is uploaded.
        name: Of the repository.
        private: Whether it is private, if it is made.

    Returns:
        Its address.

    Raises:
        ConfigurationError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of Enlarger")
    except Exception as error:  # of its HTTP library, which is another one in each major version
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(
            f"the export is in {folder}, and could not be uploaded to {name}: {reason}; the same "
            "command with --export.overwrite true tries again"
        ) from error
    return str(address)
