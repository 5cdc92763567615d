"""Released models by name, and the default of `predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands.interface.named import DEFAULT, expand_model_option, released
from lightning_modules import SRVGGNetCompact


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("predict --data.predict x", DEFAULT),
        ("predict --model imdn-x2 --data.predict x", "imdn-x2"),
        ("predict --model=realesrgan-x4 --data.predict x", "realesrgan-x4"),
        ("predict --config a.yaml --data.predict x", None),
        ("predict --model my.Class --data.predict x", None),
        ("predict --model.class_path my.Class --data.predict x", None),
        ("predict", None),
        ("fit --model my.Class", None),
    ],
)
def test_which_model_a_command_takes(words: str, name: str | None) -> None:
    got = expand_model_option(words.split())
    if name is None:
        assert got == words.split()
    else:
        model, scale, *_ = released()[name]
        assert json.loads(got[got.index("--model") + 1]) == model
        assert got[got.index("--data.init_args.scale") + 1] == str(scale)


def test_a_misspelt_name(refusal: Callable[..., str]) -> None:
    assert "realesr-general-x4" in refusal("predict", "--model", "realesr-generl-x4")


def test_photographs_without_a_configuration(
    tmp_path: Path, enlarger: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6), "red").save("a.png")
    torch.save({"params": SRVGGNetCompact(4, convolutions=32).state_dict()}, "general.pth")
    enlarger("predict", "--data.predict", "a.png", "--model.weights", "general.pth")
    with Image.open(f"runs/{DEFAULT}/predict/a.png") as sr:
        assert sr.size == (32, 24)
    double = ("--model.weights", "general.pth", "--data.scale", "8", "--writer.folder", "double")
    enlarger("predict", "--data.predict", "a.png", *double)
    with Image.open("double/a.png") as sr:
        assert sr.size == (64, 48)
    half = ("--data.scale", "2", "--writer.strength", "0", "--writer.folder", "half")
    enlarger("predict", "--data.predict", "a.png", "--model.weights", "general.pth", *half)
    with Image.open("half/a.png") as sr:
        assert sr.size == (16, 12)
        assert sr.getextrema() == ((255, 255), (0, 0), (0, 0))
