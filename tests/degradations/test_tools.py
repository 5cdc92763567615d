"""Degradations from YAML files, their preview, and the examples of docs/degradations.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from degradations.bicubic import Bicubic
from degradations.compose import Mixture, OneOf, Shuffled, Sometimes
from degradations.images import as_image
from degradations.pipeline import Pipeline
from degradations.recipes.resshift import ImageNetTest, ResShift
from degradations.stages.blur import Sinc
from degradations.stages.noise import GaussianNoise
from degradations.tools import preview
from degradations.tools.configure import degradation_of
from tests.conftest import REPO
from tests.make import as_tensor, photograph, uniform

SHIPPED = sorted((REPO / "configs/degradation").glob("*.yaml"))
REFUSALS = yaml.safe_load((Path(__file__).parent / "refusals.yaml").read_text())
PAGE = (REPO / "docs/degradations.md").read_text()
NOISE = {"class_path": "degradations.GaussianNoise"}


def pipeline(stages):
    return {"class_path": "degradations.Pipeline", "init_args": {"stages": stages}}


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


# --------------------------------------------------------------------------------- configurations


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row["words"][:30])
def test_refusals_name_what_to_change(tmp_path, row):
    path = write(tmp_path / "own.yaml", row.get("recipe") or pipeline([row["of"]]))

    with pytest.raises(ValueError, match=f"(?s){row['words']}"):
        degradation_of([path], scale=4.0)


@pytest.mark.parametrize(
    ("name", "recipe"), [("invsr", ResShift), ("invsr_imagenet_test", ImageNetTest)]
)
def test_the_files_of_invsr_are_the_recipes_as_they_are(name, recipe):
    """test_recipes.py compares their numbers with the tables."""
    shape = torch.Size((8, 3, 64, 64))

    shipped = degradation_of([REPO / f"configs/degradation/{name}.yaml"], scale=4.0)

    expected = recipe(4.0).params_of(np.arange(8), shape)
    assert type(shipped) is recipe
    np.testing.assert_equal(shipped.params_of(np.arange(8), shape), expected)


def test_the_scale_of_an_experiment_holds_unless_another_is_given():
    path = REPO / "configs/experiment/quickstart.yaml"  # of x2

    assert degradation_of([path]).scale == 2.0
    assert degradation_of([path], scale=3.0).scale == 3.0


def test_a_path_in_a_file_is_relative_to_it(tmp_path):
    noise = NOISE | {"init_args": {"sigma": [7, 8]}}
    write(tmp_path / "a/noise.yaml", pipeline([noise]))
    path = write(tmp_path / "own.yaml", {"degradation": "a/noise.yaml"})

    degradation = degradation_of([path], scale=2.0)

    assert degradation.stages["GaussianNoise"].sigma == (7.0, 8.0)


def test_stages_by_name_keep_the_order_of_the_file(tmp_path):
    path = write(tmp_path / "own.yaml", pipeline({"zoom": NOISE, "blur": NOISE, "noise": NOISE}))

    degradation = degradation_of([path], scale=2.0)

    assert list(degradation.stages) == ["zoom", "blur", "noise"]


def test_later_files_win_and_add(tmp_path):
    first = write(tmp_path / "1.yaml", pipeline([NOISE]))
    second = write(tmp_path / "2.yaml", {"init_args": {"quantize": False, "stages+": [NOISE]}})
    third = write(tmp_path / "3.yaml", {"class_path": "degradations.Bicubic"})

    merged = degradation_of([first, second], scale=2.0)
    replaced = degradation_of([first, third], scale=2.0)

    assert not merged.quantize
    assert list(merged.stages) == ["GaussianNoise", "GaussianNoise#2"]
    assert isinstance(replaced, Bicubic)


# ---------------------------------------------------------------------------------------- preview


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a photograph, another image and a recipe."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph(512, 512, corner=0)).save("photo.png")
    Image.new("RGB", (8, 8)).save("other.png")
    noise = NOISE | {"init_args": {"sigma": [25, 25]}}
    write(tmp_path / "recipe.yaml", pipeline({"first": noise}))
    return tmp_path


def run(arguments):
    return preview.main(["--config", "recipe.yaml", *arguments.split()])


def test_a_preview_logs_the_parameters_of_each_stage(folder, caplog):
    caplog.set_level("INFO")
    run("photo.png --rows=2 --crop=64 --seed=7 --scale=2")
    assert "Stage by stage, seed 8" in caplog.text  # the second of two rows, from 7 on
    assert "1. first: GaussianNoise, levels 25, grey False, 64 x 64 px" in caplog.text
    assert "LR: 32 x 32 px" in caplog.text


def test_a_preview_shows_hr_what_each_stage_makes_of_it_and_lr(folder):
    run("photo.png --draws=2 --rows=2")
    run("photo.png --draws=3 --rows=2 --crop=64 --seed=7 --scale=2")  # replaces the other sheet

    degradation = degradation_of([folder / "recipe.yaml"], scale=2.0)
    hr = as_tensor(photograph(64, 64, corner=(512 - 64) // 2))  # the middle
    [step], lr = preview.run(degradation, hr, degradation.params_of(torch.tensor([7]), hr.shape))
    sheet = np.asarray(Image.open("preview.png"))
    side = preview.SIDE
    for number, image in enumerate((hr, step.image, lr)):  # side by side, 48 px below the top
        left = preview.GAP + number * (side + preview.GAP)
        tile = as_image(image).resize((side, side), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(sheet[48 : 48 + side, left : left + side], tile)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("recipe.yaml", "recipe.yaml: not an image"),
        ("photo.png --out photo.png", "photo.png is an input and would be overwritten"),
        ("photo.png --out other.png", "other.png exists, and Enlarger did not write it"),
    ],
)
def test_errors_of_the_preview_write_nothing(folder, arguments, words):
    before = {path: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises((ValueError, OSError), match=words):
        run(arguments)

    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def nested(scale):
    """Stages within `Sometimes`, `OneOf` and `Shuffled`."""
    noises = {"a": GaussianNoise(), "b": Sinc()}
    shuffled = {"c": Sinc(), "d": Sometimes(Sinc(), p=0.5), "e": GaussianNoise()}
    stages = {
        "blur": Sinc(),
        "sometimes": Sometimes(GaussianNoise(), p=0.5),
        "one": OneOf(noises, (0.25, 0.75)),
        "order": Shuffled(shuffled),
    }
    return Pipeline(scale, stages)


@pytest.mark.parametrize("seed", range(6))
def test_the_previewed_steps_are_those_that_the_degradation_makes(seed):
    hr = uniform(1, 3, 24, 20)
    degradation = nested(2.0)
    params = degradation.params_of(torch.tensor([seed]), hr.shape)

    steps, lr = preview.run(degradation, hr, params)

    expected = ["blur"]
    if params["sometimes"]["applied"][0]:
        expected.append("sometimes")
    expected.append("one / a" if params["one"]["which"][0] == 0 else "one / b")
    for number in params["order"]["order"][0]:
        name = "cde"[number]
        if name != "d" or params["order"]["d"]["applied"][0]:
            expected.append(f"order / {name}")
    assert [step.name for step in steps] == expected
    last = steps[-1].image.clamp(0, 1)
    assert torch.equal(Bicubic(2.0)(last, torch.tensor([0])), lr)


# Each seed draws the recipe of its number; bicubic has no stages.
@pytest.mark.parametrize(("seed", "has_steps"), [(0, False), (1, True)], ids=["bicubic", "own"])
def test_the_previewed_steps_of_a_mixture_are_those_of_the_drawn_recipe(seed, has_steps):
    hr = uniform(1, 3, 24, 20)
    mixture = Mixture(2.0, {"bicubic": Bicubic, "own": nested})
    params = mixture.params_of(torch.tensor([seed]), hr.shape)

    steps, _ = preview.run(mixture, hr, params)

    assert params["which"][0] == seed
    assert bool(steps) == has_steps
    assert all(step.name.startswith("own / ") for step in steps)


@pytest.mark.parametrize("config", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_degradation_has_a_sheet(config):
    degradation = degradation_of([config], default_scale=4.0)

    *shown, grid = preview.preview(degradation, uniform(1, 3, 64, 64), seeds=range(4), rows=2)

    # A section for each of the first two draws, which ends with its LR, and the LR of all four.
    assert [section.tiles[-1].title for section in shown] == ["LR"] * 2
    assert len(grid.tiles) == 4


# -------------------------------------------------------------------------- docs/degradations.md


@pytest.mark.parametrize("name", ["own.yaml", "milder.yaml", "levels.yaml"])
def test_the_examples_of_the_page_make_degradations(tmp_path, name):
    blocks = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / name).write_text(blocks[name])
    files = [tmp_path / name]
    if name == "milder.yaml":
        files.insert(0, REPO / "configs/degradation/real_esrgan.yaml")

    degradation_of(files, scale=4.0)


def test_the_script_of_the_page_degrades_a_folder(tmp_path, monkeypatch):
    [script] = re.findall(r"```python\n# degrade_folder.py\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("my/hr").mkdir(parents=True)
    Image.new("RGB", (64, 48), "teal").save("my/hr/a.png")

    exec(script, {})

    assert Image.open("held_out_x4/a.png").size == (16, 12)
