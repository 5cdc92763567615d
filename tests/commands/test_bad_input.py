"""Bad input of users: a sentence, or counted and skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.test_resume import newest
from tests.files.test_weights import Bomb
from tests.quick import quick

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps", "2", "--data.init_args.val", "null")
BICUBIC = ("--config", "bicubic/tiny.yaml")


def image(size: tuple[int, int] = (48, 40)) -> Image.Image:
    blocks = np.random.default_rng(5).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three intact images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        image().save(folder / f"{number}.png")
    return folder


# --------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_training_images_are_skipped_and_counted(
    tiny: Path, folder: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    image().save(folder / "bad.png")
    (folder / "bad.png").write_bytes((folder / "bad.png").read_bytes()[:1000])
    root = ("--data.init_args.train.init_args.root", folder)
    enlarger(*FIT, *root, "--data.init_args.workers", workers)
    assert newest("tiny")["global_step"] == 2
    got = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
    assert got
    assert "bad" in got[0]
    assert "1 so far" in got[0]


# -------------------------------------------------------------------------------------- prediction


@pytest.mark.usefixtures("bicubic")
def test_prediction_fails_if_no_input_is_an_image(
    folder: Path, enlarger: Enlarger, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    """Again, too: a fault is not an output that is there. With one output, it is a warning."""
    for place in folder.iterdir():
        place.write_bytes(b"no image")
    command = ("predict", *BICUBIC, "--data.init_args.predict", folder)
    for _ in range(2):
        sentence = refusal(*command)
        assert sentence.startswith("none of the 3 inputs could be enlarged: ")
        assert sentence.endswith("/runs/tiny/predict/predictions.jsonl has the reason for each")
    image((24, 20)).save(folder / "0.png")
    enlarger(*command)
    assert "1 written, 0 skipped (done before), 2 unusable" in caplog.text


# ------------------------------------------------------------------------ weights and checkpoints


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_no_weights(tiny: Path, refusal: Refusal, command: str) -> None:
    Path("photos").mkdir()
    sentence = refusal(command, "--config", "tiny.yaml", "--data.init_args.predict", "photos")
    assert f"{command} needs trained weights, but runs/tiny/checkpoints has none" in sentence
    assert "--model.weights" in sentence
    assert not Path("runs/tiny/results.json").exists()


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("test", "--model.init_args.weights"),
        ("fit", "--ckpt_path"),
        pytest.param("fit", "--model.init_args.weights", marks=pytest.mark.slow),
        pytest.param("test", "--ckpt_path", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("damage", quick(["text", "truncated", "one bit"], "text", "one bit"))
def test_a_corrupt_file(
    trained: Path, refusal: Refusal, command: str, key: str, damage: str
) -> None:
    checkpoint = next((trained / "checkpoints").glob("*.ckpt"))
    content = bytearray(checkpoint.read_bytes())
    if damage == "text":
        content = bytearray(b"x" * 1000)
    elif damage == "truncated":
        content = content[:-100]
    else:
        weights = torch.load(checkpoint)["state_dict"].values()
        bias = next(weight for weight in weights if weight.ndim == 1)
        content[content.index(bias.numpy().tobytes())] ^= 1
    Path("bad.ckpt").write_bytes(content)
    sentence = refusal(command, "--config", "tiny.yaml", key, "bad.ckpt", "--run.name", "x")
    assert "bad.ckpt" in sentence
    assert "corrupt" in sentence or "damaged" in sentence


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"pytorch-lightning_version": "2", "x": Bomb(Path("ran"))}, "loading that would run code"),
        ([1, 2], "bad.ckpt holds a list"),
        ({"params": {"a": torch.ones(1)}}, "no checkpoint of fit: for weights alone, use --model"),
    ],
)
def test_no_checkpoint_to_begin_with(
    tiny: Path, refusal: Refusal, content: object, expected: str
) -> None:
    torch.save(content, "bad.ckpt")
    sentence = refusal(*FIT, "--ckpt_path", "bad.ckpt")
    assert expected in sentence
    assert "weights_only" not in sentence
    assert not Path("ran").exists()
    assert not Path("runs/tiny/config.yaml").exists()
