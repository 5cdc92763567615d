"""`predict`: a folder in, a folder out; nothing is lost, and nothing is made twice."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.predict.predictions import NAME
from commands.interface.named import DEFAULT
from commands.run.ranking import best_or_newest
from lightning_modules import Bicubic, SRVGGNetCompact
from tests.commands.test_resume import wait_until
from tests.distributed.processes import start
from tests.make import photograph
from tests.quick import quick

PREDICT = "predict --config bicubic/tiny.yaml --data.predict"
OUT = Path("runs/tiny/predict")


def photo(size=(24, 20), mode="RGB"):
    width, height = size
    return Image.fromarray(photograph(height, width)).convert(mode)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def folder(tiny, bicubic):
    """A folder of two images, one of them in a folder below."""
    Path("in/sub").mkdir(parents=True)
    photo().save("in/a.png")
    photo((20, 24)).save("in/sub/b.c.jpg")
    return Path("in")


def outputs(root=OUT):
    """The files in a folder and below, without predictions.jsonl."""
    files = (path for path in Path(root).rglob("*") if path.is_file() and path.name != NAME)
    names = (path.relative_to(root) for path in files)
    return sorted(str(name) for name in names if not name.name.startswith("."))


# ------------------------------------------------------------------------------------ sizes


def test_images_of_any_size_are_enlarged_to_one_size(folder, enlarger):
    photo(mode="RGBA").save("in/a.png")
    enlarger(f"{PREDICT} in --data.size [30,70]")
    assert pixels(OUT / "a.png").shape == (30, 70, 4)  # RGBA
    assert pixels(OUT / "sub" / "b.c.png").shape == (30, 70, 3)


@pytest.mark.parametrize("scale", [1.5, 3])
def test_a_run_of_scale_2_enlarges_by_any_factor(trained, enlarger, scale):
    """Its network enlarges by 2 alone; the rest is an interpolation."""
    photo((20, 12)).save("a.png")
    enlarger(f"predict --model {trained} --data.predict a.png --data.scale {scale}")
    assert pixels(OUT / "a.png").shape == (round(12 * scale), round(20 * scale), 3)


def test_predict_takes_a_run_by_its_folder_its_configuration_or_its_checkpoint(trained, enlarger):
    photo().save("a.png")
    checkpoint, _ = best_or_newest(trained / "checkpoints")
    options = "--data.predict a.png --data.scale 1.5 --writer.folder"
    enlarger(f"predict --model {trained} {options} by_folder")
    enlarger(f"predict --config tiny.yaml {options} by_configuration")
    enlarger(f"predict --model {checkpoint} {options} by_checkpoint")
    image = pixels("by_folder/a.png")
    assert np.array_equal(pixels("by_configuration/a.png"), image)
    assert np.array_equal(pixels("by_checkpoint/a.png"), image)


def test_predict_without_a_configuration_enlarges_by_the_default_model(
    tmp_path, enlarger, monkeypatch
):
    """Its factor is 4; it enlarges by other factors, too, and mixed with bicubic."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6), "red").save("a.png")
    # As the default model, but with random weights.
    torch.save({"params": SRVGGNetCompact(4, convolutions=32).state_dict()}, "general.pth")
    command = "predict --data.predict a.png --model.weights general.pth"

    enlarger(command)
    enlarger(f"{command} --data.scale 8 --writer.folder double")
    enlarger(f"{command} --data.scale 2 --writer.strength 0 --writer.folder half")

    assert pixels(f"runs/{DEFAULT}/predict/a.png").shape == (24, 32, 3)
    assert pixels("double/a.png").shape == (48, 64, 3)
    # A strength of 0 is bicubic alone, by which red stays red.
    assert np.array_equal(pixels("half/a.png"), np.full((12, 16, 3), (255, 0, 0)))


# ------------------------------------------------------------------------------- inputs and outputs

PLACES = [("in/out", ""), ("in/out", "_x2"), ("in", "_x2")]
PLACE_IDS = ["a folder below", "a folder below with new names", "beside the inputs"]


@pytest.mark.parametrize(("place", "suffix"), quick(PLACES, "in"), ids=PLACE_IDS)
def test_outputs_among_the_inputs_are_not_enlarged(folder, enlarger, caplog, place, suffix):
    """Else the same command, given again, would enlarge what it has enlarged."""
    options = f"--writer.folder {place} --writer.suffix '{suffix}'"
    enlarger(f"{PREDICT} in {options}")
    first = outputs("in")
    assert len(first) == 4  # two inputs, two outputs

    for inputs in ("in", "in/**/*.*"):
        caplog.clear()
        enlarger(f"{PREDICT} {inputs} {options}")
        assert outputs("in") == first
        assert "0 written, 2 skipped (done before), 0 unusable" in caplog.text
        assert "left out 2 images in writer.folder" in caplog.text

    photo().save("in/new.png")
    enlarger(f"{PREDICT} in {options}")
    assert len(outputs("in")) == 6  # and a new input with its output


def test_a_file_whose_name_is_no_utf8_is_enlarged_once(folder, enlarger, caplog):
    name = os.fsdecode(b"\xff")  # as from an old archive
    Path("odd", name).mkdir(parents=True)
    photo().save(Path("odd", name, f"{name}.png"))
    Path("odd", name, f"{name}2.png").write_bytes(b"broken")
    for count in ("1 written, 0 skipped", "0 written, 1 skipped"):
        caplog.clear()
        enlarger(f"{PREDICT} odd/*/* --data.workers 1")
        assert f"{count} (done before), 1 unusable" in caplog.text
    assert outputs() == [f"{name}/{name}.png"]


@pytest.mark.parametrize("given", ["odd", "odd/*.png", "[odd/pipe.png, odd/zero.png, odd/a.png]"])
def test_pipes_and_devices_among_the_inputs_are_named_and_left_out(folder, enlarger, caplog, given):
    """Reading the pipe or /dev/zero would not end."""
    Path("odd").mkdir()
    photo().save("odd/a.png")
    os.mkfifo("odd/pipe.png")
    Path("odd/zero.png").symlink_to("/dev/zero")
    enlarger(PREDICT, given)
    assert outputs() == ["a.png"]
    assert "odd/pipe.png: not a regular file" in caplog.text
    assert "odd/zero.png: not a regular file" in caplog.text


@pytest.mark.parametrize("given", ["in", "in/*.png", "[in/broken.png, in/a.png]"])
def test_a_broken_link_among_the_inputs_is_named_and_left_out(folder, enlarger, caplog, given):
    Path("in/broken.png").symlink_to("nowhere")
    enlarger(PREDICT, given)
    assert "a.png" in outputs()
    assert "in/broken.png: No such file or directory" in caplog.text


def test_predict_fails_each_time_until_an_input_is_an_image(folder, enlarger, refusal, caplog):
    """predictions.jsonl lists inputs that failed, too: they must not be skipped as done."""
    for path in ("in/a.png", "in/sub/b.c.jpg"):
        Path(path).write_bytes(b"no image")
    for _ in range(2):
        sentence = refusal(f"{PREDICT} in")
        assert sentence.startswith("none of the 2 inputs could be enlarged: ")
        assert sentence.endswith("/runs/tiny/predict/predictions.jsonl has the reason for each")
    photo().save("in/a.png")
    enlarger(f"{PREDICT} in")
    assert "1 written, 0 skipped (done before), 1 unusable" in caplog.text


# --------------------------------------------------------------------------------------- kills


class Slow(Bicubic):
    """Bicubic that takes its time, to be killed meanwhile."""

    def restore(self, batch, noise):
        time.sleep(0.03)
        return super().restore(batch, noise)


@pytest.mark.slow
def test_predict_killed_at_any_moment_leaves_no_partial_file_and_goes_on(tiny, enlarger, caplog):
    Path("in").mkdir()
    names = [f"{number:02d}.png" for number in range(30)]
    for name in names:  # of noise, so that a file takes time to write
        noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"in/{name}")
    model = f"--model {__name__}.Slow"
    command = f"predict --config tiny.yaml {model} --data.predict in --writer.folder out"
    process = start(command)
    wait_until(lambda: len(list(Path("out").glob("*.png"))) >= 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    done = sorted(Path("out").glob("*.png"))
    assert 5 <= len(done) < len(names)
    for path in done:
        pixels(path)  # each of them is complete
    assert {path.name for path in done} <= set(predicted())

    enlarger(command)

    assert f"{len(names) - len(done)} written, {len(done)} skipped" in caplog.text
    assert sorted(path.name for path in Path("out").glob("*.png")) == names
    assert set(predicted()) == set(names)
    # Only those that were under way, one in each of two threads, may have two lines.
    assert len(predicted()) <= len(names) + 2


def predicted():
    return [json.loads(line)["output"] for line in Path("out", NAME).read_text().splitlines()]
