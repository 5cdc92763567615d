"""Configuration files that cannot be read, or are partly empty."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from jsonargparse import _paths

import commands.arguments.parser  # noqa: F401  (it changes how the library reads)

Refusal = Callable[..., str]
FIT = ("fit", "--config", "tiny.yaml")


@pytest.mark.parametrize("key", ["model", "data", "degradation", "trainer", "trainer.callbacks"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a:\n\tb: 3\n", ("broken.yaml", "line 2", "a tab?")),
        (b"a: [b\nc: d\n", ("broken.yaml", "line 2")),
        ("# caf\xe9\na: 3\n".encode("latin-1"), ("broken.yaml is not UTF-8 text",)),
    ],
)
def test_a_file_of_a_group_that_cannot_be_read(
    tiny: Path, refusal: Refusal, key: str, content: bytes, expected: tuple[str, ...]
) -> None:
    Path("broken.yaml").write_bytes(content)
    sentence = refusal(*FIT, f"--{key}", "broken.yaml")
    assert [part for part in expected if part not in sentence] == [], sentence
    assert "no such file" not in sentence


def test_a_configuration_in_another_encoding(tiny: Path, refusal: Refusal) -> None:
    Path("more.yaml").write_bytes("# caf\xe9\ntrainer: {max_steps: 3}\n".encode("latin-1"))
    sentence = refusal(*FIT, "--config", "more.yaml")
    assert "more.yaml is not UTF-8 text: save it in that encoding" in sentence


def test_a_configuration_is_utf_8_whatever_the_machine_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with the locale C, where `open` reads ASCII by default."""
    own = partial(open, encoding="ascii")
    monkeypatch.setattr(_paths, "open", own, raising=False)
    (tmp_path / "own.yaml").write_bytes("a: caf\xe9\n".encode())
    assert _paths.Path(str(tmp_path / "own.yaml"), mode="fr").read_text() == "a: caf\xe9\n"


@pytest.mark.parametrize("group", ["trainer", "run", "tiling", "checkpoint", "writer"])
def test_a_group_whose_keys_are_all_commented_out(tiny: Path, refusal: Refusal, group: str) -> None:
    Path("more.yaml").write_text(f"seed_everything: 3\n{group}:\n#  name: x\n")
    assert refusal(*FIT, "--config", "more.yaml") == (
        f"{group} is empty: set a key below it, or remove the line {group}:"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("data:\n  init_args:\n", "data.init_args is empty"),
        ("data:\n  class_path:\n", "data.class_path is empty"),
        ("model: {init_args: {network: {init_args: }}}", "model.init_args.network.init_args is"),
        (
            "trainer:\n  callbacks:\n  - class_path: callbacks.PSNR\n    init_args:\n",
            "trainer.callbacks.init_args is empty",
        ),
        (
            "data:\n  init_args:\n  batch_size: 2\n",
            "data takes class_path and init_args, but is {'init_args': None, 'batch_size': 2}: "
            "check the spelling and the indentation",
        ),
        (
            "model:\n- class_path: lightning_modules.Bicubic\n",
            "model takes class_path and init_args, but is [{'class_path': ",
        ),
        ("data: {init_args: {val: {a: }}}", "data.init_args.val takes class_path and init_args"),
    ],
)
def test_what_is_empty_or_indented_otherwise(
    tiny: Path, refusal: Refusal, content: str, expected: str
) -> None:
    Path("more.yaml").write_text(f"{content}\n")
    assert expected in refusal(*FIT, "--config", "more.yaml")
