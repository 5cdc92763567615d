"""Expand the ``urls`` of ``Shards`` and ``Stream`` into shards."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.request import url2pathname

from braceexpand import braceexpand

from datamodules.files.paths import braced
from datamodules.shards.remote import SCHEMES, RetryPolicy, list_urls, scheme_of, shown
from files.paths import existing_part, expand_path, fill_variables, glob_paths, walk

EXPECTED = "expected tars, e.g. /data/train-{000..099}.tar"


def list_shards(urls: str | list[str], allow_pipes: bool, policy: RetryPolicy) -> list[str]:
    """Return paths, addresses and commands: a list keeps its order, a pattern is sorted.

    Args:
        urls: The value of ``urls``.
        allow_pipes: Whether commands (``pipe:``) may be run.
        policy: When to give up listing a remote folder, and whose key ``urls`` is.

    Raises:
        ValueError: If there are no shards, or some of an unsupported kind.
    """
    found = [
        name
        for url in ([urls] if isinstance(urls, str) else urls)
        for name in _expanded(url, allow_pipes, policy)
    ]
    if not found:
        raise ValueError(f"{policy.owner}.urls is empty; expected the path of at least one tar")
    return found


def is_remote(name: str) -> bool:
    """Return whether an element of ``list_shards`` is an address or a command, not a path."""
    return bool(scheme_of(name))


def _expanded(url: str, allow_pipes: bool, policy: RetryPolicy) -> list[str]:
    key = f"{policy.owner}.urls"
    if os.path.lexists(url):
        return _local(url, url, key)
    if not scheme_of(url) and not existing_part(url)[0]:
        expanded = fill_variables(url, key)
        url = expanded if scheme_of(expanded) else url  # a variable holds the address
    scheme = scheme_of(url)
    if scheme == "pipe":
        if not allow_pipes:
            raise ValueError(
                f"{key} has {url!r}, which would run a command: datamodules.Stream does, with "
                "allow_pipes: true if you trust its author"
            )
        return list(braceexpand(url, escape=False))
    if scheme == "file":
        host, _, path = url.partition(":")[2].removeprefix("//").partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{key} has {url!r}; expected a file on this host: file:///...")
        return _local(url2pathname(f"/{path}"), url, key)
    if not scheme:
        return _local(expand_path(url, key), url, key)
    if scheme not in SCHEMES:
        raise ValueError(
            f"{key} has {shown(url)!r}; expected a path, file:, pipe:, or one of "
            + ", ".join(f"{name}://" for name in SCHEMES)
        )
    return _remote(fill_variables(url, key), key, policy)


def _remote(url: str, key: str, policy: RetryPolicy) -> list[str]:
    found, missing = [], []
    for name in braceexpand(url, escape=False):
        pattern = "*" in name.partition("?")[0]  # a query may have it, too
        matches = list_urls(name, policy) if pattern else [name]
        found += matches
        missing += [] if matches else [shown(name)]
    if missing:
        raise ValueError(
            f"{key}: nothing matches {', '.join(missing[:3])}; {EXPECTED} (web servers that "
            "do not list folders require {000..099} instead of *)"
        )
    return found


def _local(path: str, url: str, key: str) -> list[str]:
    found: list[str] = []
    names = braced(path)
    if Path(path).is_dir():  # its tars
        _, _, files = next(walk(path))
        names = [os.path.join(path, n) for n in files if n.endswith(".tar") and n[0] != "."]
        if not names:
            raise ValueError(f"{key} {url!r} is a folder without tars; {EXPECTED}")
    missing = []
    for name in names:
        matches = [name] if Path(name).is_file() else glob_paths(name)
        matches = [match for match in matches if Path(match).is_file()]
        # A file's name, such as `pipe:rm.tar`, must never become an address or a command.
        found += [os.path.abspath(match) if scheme_of(match) else match for match in matches]
        missing += [] if matches else [name]
    if missing:
        raise ValueError(
            f"{key} {url!r}: {len(missing)} of {len(names)} do not exist or match no "
            f"file: {', '.join(missing[:3])}; {EXPECTED}"
        )
    return found
