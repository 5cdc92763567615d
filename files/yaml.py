"""YAML, read as the command line reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from jsonargparse import get_loader

from files.paths import read_text


def plain_yaml(text: str) -> Any:
    """Return what YAML says, in plain types: ``1e-4`` is a number, and a date is text."""
    refuse_repeated_keys(text)
    return get_loader("yaml")(text)


def refuse_repeated_keys(text: str) -> None:
    """Refuse YAML with a key twice in one mapping: loaders forget the first one without a word.

    Raises:
        yaml.YAMLError: With the key and its line, or if the text is no YAML.
    """
    nodes = [yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    seen = set()  # a node may contain itself
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                # Several `<<` are all merged; a key that is a list or a mapping fails later.
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if (key.tag, key.value) in keys:  # 1 and "1" are two keys
                        problem = (
                            f"the key {key.value!r} is there twice: keep the one that you mean"
                        )
                        raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                    keys.add((key.tag, key.value))
                nodes.append(value)
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Return what a user's file says, as ``plain_yaml``.

    Raises:
        OSError: As ``read_text``.
        ValueError: It is no YAML, or has a key twice; the message names it.
    """
    with _named(path):
        return plain_yaml(read_text(path))


def checked_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a user's file, for a parser that would not name the file in its errors.

    Raises:
        OSError, ValueError: As ``read_yaml``.
    """
    with _named(path):
        text = read_text(path)
        refuse_repeated_keys(text)
    return text


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be read as YAML: {error}") from error
