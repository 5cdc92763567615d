"""The sheet of `preview`, and what it prints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

from degradations.bicubic import Bicubic
from degradations.compose import Mixture, OneOf, Shuffled, Sometimes
from degradations.pipeline import Pipeline
from degradations.stages.blur import Sinc
from degradations.stages.noise import GaussianNoise
from degradations.tools import preview
from degradations.tools.configure import degradation_of
from tests.conftest import REPO

HR = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
STAGE = {"class_path": "degradations.GaussianNoise", "init_args": {"sigma": [25, 25]}}
RECIPE = {"class_path": "degradations.Pipeline", "init_args": {"stages": {"first": STAGE}}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a photograph and a recipe."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("photo.png")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def run(*arguments):
    return preview.main(["--config", "recipe.yaml", *map(str, arguments)])


def test_prints_the_parameters_and_draws_each_stage(folder, caplog):
    with caplog.at_level("INFO"):
        options = ("--draws", "3", "--rows", "2", "--crop", "64", "--seed", "7", "--scale", "2")
        # The second one replaces the first one's.
        assert [run("photo.png", *options) for _ in range(2)] == [0, 0]
    assert "Stage by stage, seed 8" in caplog.text
    assert "1. first: GaussianNoise, levels 25, grey False, 64 x 64 px" in caplog.text
    assert "LR: 32 x 32 px" in caplog.text
    shown = np.asarray(Image.open(folder / "preview.png"))
    hr = Image.fromarray(data.astronaut()[224:288, 224:288]).resize((256, 256), 0)
    np.testing.assert_array_equal(shown[48:304, 16:272], hr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipe.yaml"], "recipe.yaml: not an image"),
        (["photo.png", "--out", "photo.png"], "photo.png is an input and would be overwritten"),
        (["photo.png", "--out", "taken"], "Is a directory.*taken.png"),
        (["photo.png", "--out", "other.png"], "other.png exists, and Enlarger did not write it"),
    ],
)
def test_errors_write_nothing(folder, arguments, message):
    (folder / "taken.png").mkdir()
    Image.new("RGB", (8, 8)).save("other.png")
    before = {path: path.is_file() and path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((ValueError, OSError), match=message):  # which main.py prints
        run(*arguments)
    assert {path: path.is_file() and path.read_bytes() for path in folder.iterdir()} == before


def pipeline():
    return Pipeline(
        2.0,
        {
            "blur": Sinc(),
            "sometimes": Sometimes(GaussianNoise((20.0, 20.0)), 0.5),
            "one": OneOf({"a": GaussianNoise(), "b": Sinc()}, (0.25, 0.75)),
            "order": Shuffled({"c": Sinc(), "d": Sometimes(Sinc(), 0.5), "e": GaussianNoise()}),
        },
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_steps_are_those_of_the_degradation(seed):
    degradation = pipeline()
    params = degradation.params_of(torch.tensor([seed]), HR.shape)
    steps, lr = preview.run(degradation, HR, params)
    one, order = "ab"[params["one"]["which"][0]], params["order"]["order"][0]
    skipped = () if params["order"]["d"]["applied"][0] else (1,)
    names = ["blur", f"one / {one}", *(f"order / {'cde'[n]}" for n in order if n not in skipped)]
    if params["sometimes"]["applied"][0]:
        names.insert(1, "sometimes")
    assert [step.name for step in steps] == names
    last = steps[-1].image.clamp(0, 1)
    assert torch.equal(Pipeline(2.0, [])(last, torch.tensor([0])), lr)
    mixture = Mixture(2.0, {"bicubic": Bicubic, "own": lambda scale: pipeline()})
    params = mixture.params_of(torch.tensor([seed]), HR.shape)
    steps, _ = preview.run(mixture, HR, params)
    assert all(step.name.startswith("own / ") for step in steps)
    assert bool(steps) == bool(params["which"][0])


SHIPPED = sorted((REPO / "configs" / "degradation").glob("*.yaml"))


@pytest.mark.parametrize("config", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_every_shipped_degradation_has_a_sheet(config):
    degradation = degradation_of([config], default_scale=4.0)
    hr = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    *stages, grid = preview.preview(degradation, hr, seeds=range(4), rows=4)
    assert [section.tiles[-1].title for section in stages] == ["LR"] * 4
    assert len(grid.tiles) == 4
