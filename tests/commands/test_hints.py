"""Messages name what the program knows: the real key, its file and line, the scale of weights."""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import errors
from commands.arguments.parser import GROUPS
from commands.errors import readable
from datamodules.base import SRDataModule
from lightning_modules.sampling.tiling import Tiling

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
LR = "model.init_args.optimizer.init_args.lr"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *((("--model.lr", 0.1), LR), (("--lr", 0.1), LR), (("--model.init_args.lr", 1), LR)),
        *((("--learning-rate", 1), LR), (("--batch_size", 4), "data.init_args.batch_size")),
        *((("--max_steps", 4), "trainer.max_steps"), (("--epochs", 4), "trainer.max_epochs")),
        *((("--gpus", 1), "trainer.devices"), (("--output", "out"), "run.root")),
        *((("--seed", 1), "seed_everything"), (("--tile", 64), "tiling.size")),
        *((("--name", "a"), "run.name"), (("--scale", 2), "data.init_args.scale")),
        (("--trainer.max_step", 1), "trainer.max_steps"),
        (("--run.directory", "a"), "run.root"),
    ],
)
def test_the_real_key(tiny: Path, refusal: Refusal, typed: tuple[object], meant: str) -> None:
    said = refusal("fit", "--config", "tiny.yaml", *typed)
    assert said.startswith("unknown key")  # typed, so in no file
    assert said.endswith(f"did you mean {meant!r}?")


def test_output_of_predict(tiny: Path, refusal: Refusal) -> None:
    assert "'writer.folder'" in refusal("predict", "--config", "tiny.yaml", "--output", "out")


def test_the_keys_exist() -> None:
    arguments = {
        "data": list(inspect.signature(SRDataModule).parameters),
        "model": errors._parameters("lightning_modules.Regression"),
        "tiling": list(inspect.signature(Tiling).parameters),
    }
    for key in errors._MEANT.values():
        first, *rest = key.split(".")
        assert first in (*GROUPS, "data", "model", "seed_everything", "ckpt_path")
        if first in arguments:
            name = rest[rest[0] == "init_args"]
            assert name in arguments[first], key


def test_an_optimiser_that_is_not_named(tiny: Path, refusal: Refusal) -> None:
    said = refusal("fit", "--config", "tiny.yaml", f"--{LR}", 0.1)
    assert said.startswith("model.init_args.optimizer has no class in this configuration")
    assert said.endswith("--model.init_args.optimizer torch.optim.Adam")


@pytest.mark.parametrize(
    ("command", "word", "got"),
    [
        ("predict", "my/photos", "--data.init_args.predict my/photos"),
        ("predict", "my photos", "--data.init_args.predict my photos"),
        ("predict", "a.png", "--data.init_args.predict a.png"),
        (
            "test",
            "photos",
            "--data.init_args.test '{photos: {class_path: datamodules.Folder,",
        ),
        (
            "validate",
            "photos/",
            "--data.init_args.val '{photos: {class_path: datamodules.Folder,",
        ),
        (
            "fit",
            "photos",
            "--data.init_args.train '{class_path: datamodules.Folder, ",
        ),
        ("fit", "own.yaml", "name a file as --config own.yaml"),
        ("test", "run", "name a run as --config run/config.yaml"),
    ],
)
def test_a_word_without_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal, command: str, word: str,
    got: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "run"):
        Path(folder).mkdir()
    Path("run/config.yaml").touch()
    said = refusal(command, word)
    assert said.startswith(f"{word!r} is not an option: ")
    assert got in said


@pytest.mark.parametrize(
    ("old", "new", "key", "line"),
    [
        ("max_steps: 12", "max_step: 12", "trainer.max_step", 27),
        ("crop_size: 16", "crop_sise: 16", "data.init_args.crop_sise", 16),
        ("blocks: 1", "block: 1", "model.init_args.network.init_args.block", 7),
        ("trainer:", "trainr:", "trainr.accelerator", 26),
    ],
)
def test_the_file_and_the_line(
    tiny: Path, refusal: Refusal, old: str, new: str, key: str, line: int
) -> None:
    text = Path("tiny.yaml").read_text()
    assert old in text
    Path("tiny.yaml").write_text(text.replace(old, new))
    said = refusal("fit", "--config", "tiny.yaml")
    assert said.startswith(f"tiny.yaml, line {line}: unknown key {key!r}")
    assert "did you mean" in said


def test_a_file_that_another_one_names(tiny: Path, refusal: Refusal) -> None:
    Path("parts").mkdir()
    text = "class_path: lightning_modules.Regression\ninit_args:\n  netwrk: null\n"
    Path("parts/model.yaml").write_text(text)
    whole = Path("tiny.yaml").read_text()
    start, end = whole.index("model:"), whole.index("data:")
    Path("tiny.yaml").write_text(f"{whole[:start]}model: parts/model.yaml\n{whole[end:]}")
    got = "parts/model.yaml, line 3: unknown key 'model.init_args.netwrk'"
    assert refusal("fit", "--config", "tiny.yaml").startswith(got)
    assert refusal("fit", "--config=tiny.yaml", "--model=parts/model.yaml").startswith(got)


def test_a_typed_key_is_in_no_file() -> None:
    said = readable('does not accept option "x"', [], ["fit", "--config", "gone.yaml"])
    assert "gone.yaml" not in said


@pytest.mark.parametrize(
    # The parser itself knows the name of a class that was imported before, as tests do.
    ("word", "meant"),
    [("InvSRs", "InvSR"), ("regresion", "Regression")],
)
def test_a_class_by_a_word_near_its_name(
    tiny: Path, refusal: Refusal, word: str, meant: str
) -> None:
    said = refusal("fit", "--config", "tiny.yaml", "--model", word)
    assert said.endswith(f"here lightning_modules.{meant}")


def test_an_experiment_that_has_variants(tiny: Path, refusal: Refusal) -> None:
    said = refusal("fit", "--config", "resshift")
    assert "resshift_journal.yaml" in said
    assert "resshift_v2.yaml" in said


@pytest.mark.parametrize("scale", [3, 4])
def test_the_scale_of_weights(tiny: Path, refusal: Refusal, trained: Path, scale: int) -> None:
    shutil.copy(next(trained.glob("checkpoints/*.ckpt")), "x2.ckpt")
    got = refusal(
        *("test", "--config", "tiny.yaml", "--run.name", "other"),
        *("--model.init_args.weights", "x2.ckpt", "--data.init_args.scale", scale),
    )
    assert got.startswith("the tensors of x2.ckpt do not fit the model: 2 ")
    assert got.endswith(
        f"They are weights for x2, and data.init_args.scale is {scale}: set it to 2, or name "
        f"weights for x{scale}"
    )


def test_weights_of_another_size_have_no_scale(tiny: Path, refusal: Refusal, trained: Path) -> None:
    got = refusal(
        *("test", "--config", "tiny.yaml", "--model.init_args.network.init_args.channels", 16)
    )
    assert "Is it another network, size or scale? See model.init_args and" in got
    assert got.endswith(f"use --config {Path('runs/tiny/config.yaml')}")


def test_nothing_to_do(
    tiny: Path, enlarger: Enlarger, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    command = (
        *("predict", "--model", "lightning_modules.Bicubic"),
        *("--data", "datamodules.SRDataModule", "--data.init_args.scale", 2),
        *("--data.init_args.predict", photo_folder, "--trainer.accelerator", "cpu"),
    )
    enlarger(*command)
    assert "nothing to do" not in caplog.text
    caplog.clear()
    enlarger(*command)
    assert caplog.text.count("nothing to do, all outputs are there") == 1
    assert "0.00 a second" not in caplog.text
