"""Configuration files that cannot be read, or are partly empty."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from jsonargparse import _paths

import commands.arguments.parser  # noqa: F401  (it changes how the library reads)
from files.yaml_loader import strict_loader

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
    empty = f"{group} is empty: set a key below it, or remove the line {group}:"
    assert refusal(*FIT, "--config", "more.yaml") == empty
    # Keys typed after it would make a group without its defaults.
    typed = ("--trainer.max_steps", 3, "--run.name", "x", "--tiling.size", 9)
    assert refusal(*FIT, "--config", "more.yaml", *typed) == empty
    Path("more.yaml").write_text(f"{group}: [1]\n")
    sentence = refusal(*FIT, "--config", "more.yaml", *typed)
    assert sentence == f"{group} is [1]: it takes keys below it"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("data: {init_args: {crops: 3}}", "data.init_args.crops: expected keys below it, but"),
        ("data: {init_args: {crops: null}}", "data.init_args.crops: .* but it is null"),
        ("degradation: {init_args: {first: [1]}}", r"degradation.init_args.first: .* is \[1\]"),
    ],
)
def test_what_is_no_group_of_keys(tiny: Path, refusal: Refusal, given: str, expected: str) -> None:
    Path("more.yaml").write_text(f"{given}\n")
    degradation = ("--degradation", "degradations.RealESRGAN")
    assert re.match(expected, refusal(*FIT, *degradation, "--config", "more.yaml"))


def test_an_error_within_a_typed_group_is_named(tiny: Path, refusal: Refusal) -> None:
    """The group is no file that does not exist."""
    given = "--data.init_args.crops={small: x}"
    assert refusal(*FIT, given).startswith("data.init_args.crops.small is x; expected 'error', ")
    assert refusal(*FIT, "--tiling={size: x}") == "tiling.size is x; expected int or 'auto'"


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("012", "012"), ("1:30:00", "1:30:00"), ("1:30.5", "1:30.5")),  # not 10, 5400 and 90.5
        *(("12", 12), ("-1_200", -1200), ("0", 0), ("0x1F", 31), ("0b11", 3), ("1e-4", 1e-4)),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert strict_loader()(text).get_single_data() == value
