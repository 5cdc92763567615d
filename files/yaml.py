"""YAML, read as the command line reads it."""

from __future__ import annotations

import os
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
            keys = [key.value for key, _ in node.value]
            for number, (key, value) in enumerate(node.value):
                if key.value in keys[:number]:
                    problem = f"the key {key.value!r} is there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                nodes.append(value)
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Return what a user's file says, as ``plain_yaml``.

    Raises:
        OSError: As ``read_text``.
        ValueError: It is no YAML; the message names it.
    """
    try:
        return plain_yaml(read_text(path))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{os.fspath(path)} is no YAML: {error}") from error
