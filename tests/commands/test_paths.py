"""A typed path is that path, and only .yaml, .yml and .json files are configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonargparse import Namespace

from callbacks.predict.predictions import NAME
from tests.commands.test_predict import PREDICT, smooth

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
Configured = Callable[..., Namespace]

STREAM = """class_path: datamodules.Stream
init_args: {samples: 1, urls: "pipe:touch RAN; cat /dev/null", allow_pipes: true}
"""


@pytest.fixture
def other(tiny: Path, bicubic: str) -> Path:
    """Return a working directory with another folder of images that must not be read."""
    (tiny / "other").mkdir()
    smooth().save(tiny / "other" / "z.png")
    return tiny


def outputs(folder: str | Path = "runs/tiny/predict") -> list[str]:
    found = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.name != NAME)


# ---------------------------------------------------------------------------------- configuration


def test_the_text_of_an_image_is_no_configuration(
    other: Path, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    (other / "a.jpg").write_text(STREAM)
    refusal(*PREDICT, "--data.init_args.predict", "a.jpg")
    assert outputs() == []
    assert not Path("RAN").exists()
    assert "unusable, left out: a.jpg: " in caplog.text


@pytest.mark.parametrize("given", ["a.jpg", "[a.jpg]", '["a.jpg"]'])
def test_nor_is_that_of_one_which_a_file_or_a_list_names(
    other: Path, configured: Configured, given: str
) -> None:
    (other / "a.jpg").write_text(STREAM)
    more = other / "more.yaml"
    more.write_text(f"data: {{init_args: {{predict: {given}}}}}\n")
    expected = "a.jpg" if given == "a.jpg" else ["a.jpg"]
    for typed in (("--config", more), ("--data.init_args.predict", given)):
        assert configured(*PREDICT, *typed).data.init_args.predict == expected
    assert not Path("RAN").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "a.jpg"),
        ("--data.init_args.train", "a.jpg"),
        ("--data.init_args.val", "{x: a.jpg}"),
        ("--model", "a.jpg"),
        ("--trainer.callbacks", "[a.jpg]"),
        ("--trainer", "a.jpg"),
    ],
)
def test_no_argument_takes_an_image_for_configuration(
    other: Path, refusal: Refusal, arguments: tuple[str, ...]
) -> None:
    (other / "a.jpg").write_text(STREAM)
    refusal("fit", "--config", "tiny.yaml", *arguments)
    assert not Path("RAN").exists()


def test_a_module_of_an_image_s_name_is_not_imported(other: Path, enlarger: Enlarger) -> None:
    (other / "a.py").write_text("open('RAN', 'w')")
    smooth().save(other / "a.png")
    enlarger(*PREDICT, "--data.init_args.predict", "a.png")
    assert outputs() == ["a.png"]
    assert not Path("RAN").exists()


def test_the_name_of_a_shard_is_no_command(other: Path, refusal: Refusal) -> None:
    (other / "pipe:touch RAN;.tar").write_bytes(b"")
    source = ("--data.init_args.train", "datamodules.Shards")
    for urls in ("*.tar", "pipe:touch RAN;.tar"):
        refusal("fit", "--config", "tiny.yaml", *source, f"--data.init_args.train.urls={urls}")
        assert not Path("RAN").exists()


# ------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("name", ["*x", "~x", "$5"])
def test_a_folder_of_any_name_is_read_and_written(
    other: Path, enlarger: Enlarger, name: str
) -> None:
    Path(name).mkdir()
    smooth().save(Path(name, "a.png"))
    enlarger(*PREDICT, f"--data.init_args.predict={name}", f"--writer.folder=out/{name}")
    assert outputs(f"out/{name}") == ["a.png"]
    enlarger(*PREDICT, f"--data.predict={name}/a.png", f"--writer.folder={name}/out")
    assert outputs(f"{name}/out") == ["a.png"]


def test_a_name_that_no_configuration_can_hold(
    other: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not UTF-8, as from an old archive: found, enlarged, and known the next time."""
    name = os.fsdecode(b"\xff")
    Path("in", name).mkdir(parents=True)
    smooth().save(Path("in", name, f"{name}.png"))
    Path("in", name, f"{name}2.png").write_bytes(b"broken")
    for count in ("1 written, 0 skipped", "0 written, 1 skipped"):
        caplog.clear()
        enlarger(*PREDICT, "--data.init_args.predict", "in/*/*", "--data.init_args.workers", 1)
        assert f"{count} (done before), 1 unusable" in caplog.text
    assert outputs() == [f"{name}/{name}.png"]


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("given", ["in", "in/*.png", "in/pipe.png", "[in/pipe.png, in/a.png]"])
def test_what_is_no_file_is_said_at_once(
    other: Path,
    enlarger: Enlarger,
    refusal: Refusal,
    caplog: pytest.LogCaptureFixture,
    given: str,
) -> None:
    Path("in").mkdir()
    os.mkfifo("in/pipe.png")
    smooth().save("in/a.png")
    Path("in/zero.png").symlink_to("/dev/zero")
    Path("in/broken.png").symlink_to("nowhere")
    predict = refusal if given == "in/pipe.png" else enlarger  # it has no other input
    predict(*PREDICT, "--data.init_args.predict", given)
    assert "in/pipe.png: not a regular file" in caplog.text
    assert outputs() == ([] if given == "in/pipe.png" else ["a.png"])
    if given in ("in", "in/*.png"):
        assert "in/zero.png: not a regular file" in caplog.text
        assert "in/broken.png: No such file or directory" in caplog.text
