"""Expand the ``urls`` of ``Shards`` and ``Stream`` into shards."""

from __future__ import annotations

import os
from urllib.request import url2pathname

from braceexpand import braceexpand

from datamodules.files.paths import braced
from datamodules.shards.remote import SCHEMES, hide_secrets, list_urls, scheme_of
from files.paths import existing_part, expand_path, fill_variables, glob_paths

EXPECTED = "expected tars, e.g. /data/train-{000..099}.tar"


def list_shards(urls: str | list[str], key: str, allow_pipes: bool = False) -> list[str]:
    """Return paths, addresses and commands: a list keeps its order, a pattern is sorted.

    Args:
        urls: Paths, addresses and commands, with ``{000..099}`` or ``*`` for several.
        key: The key that they are the value of, for messages.
        allow_pipes: Whether commands (``pipe:``) may be run.

    Raises:
        ValueError: If there are no shards, or some of an unsupported kind.
    """
    shards: list[str] = []
    for url in [urls] if isinstance(urls, str) else urls:
        shards += _expand(url, key, allow_pipes)
    return shards


def is_remote(name: str) -> bool:
    """Return whether an element of ``list_shards`` is an address or a command, not a path."""
    return bool(scheme_of(name))


def _expand(url: str, key: str, allow_pipes: bool) -> list[str]:
    """Return the shards of one element of ``urls``: a path, an address, or a command.

    A file that exists with exactly this name comes first, whatever the name looks like.
    """
    if os.path.lexists(url):
        return _expand_local(url, key)
    if not scheme_of(url) and not existing_part(url)[0]:
        expanded = fill_variables(url, key)
        url = expanded if scheme_of(expanded) else url
    scheme = scheme_of(url)
    if not scheme:
        return _expand_local(expand_path(url, key), key)
    if scheme == "pipe" and allow_pipes:
        return list(braceexpand(url, escape=False))
    if scheme == "file":
        path = url.partition(":")[2].removeprefix("//").removeprefix("localhost")
        return _expand_local(url2pathname(path), key)
    if scheme in SCHEMES:
        return _expand_remote(fill_variables(url, key), key)
    raise ValueError(
        f"{key} has {hide_secrets(url)!r}; expected a path, file:, or one of "
        f"{', '.join(SCHEMES)}://; only datamodules.Stream runs commands (pipe:), with "
        "allow_pipes: true if you trust their author"
    )


def _expand_remote(url: str, key: str) -> list[str]:
    """Return the addresses of a pattern; ``*`` is expanded by the server's list."""
    shards: list[str] = []
    for name in braceexpand(url, escape=False):
        if "*" not in name.partition("?")[0]:  # a query may have it, too
            shards.append(name)
            continue
        matches = list_urls(name)
        if not matches:
            raise ValueError(
                f"{key}: nothing matches {hide_secrets(name)}; {EXPECTED} (web servers that do not "
                "list folders require {000..099} instead of *)"
            )
        shards += matches
    return shards


def _expand_local(path: str, key: str) -> list[str]:
    """Return the paths of a pattern, or of the tars of a folder."""
    patterns = [os.path.join(path, "*.tar")] if os.path.isdir(path) else braced(path)
    shards: list[str] = []
    for pattern in patterns:
        matches = [pattern] if os.path.isfile(pattern) else glob_paths(pattern)
        files = [match for match in matches if os.path.isfile(match)]
        if not files:
            raise ValueError(f"{key}: {pattern!r} does not exist or matches no file; {EXPECTED}")
        # A file's name, such as `pipe:rm.tar`, must never become an address or a command.
        shards += [os.path.abspath(file) if scheme_of(file) else file for file in files]
    return shards
