"""Degradations from YAML files: merged as on the command line, errors in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from degradations.bicubic import Bicubic
from degradations.pipeline import Pipeline
from degradations.recipes.resshift import ImageNetTest, ResShift
from degradations.tools.configure import degradation_of
from tests.conftest import REPO

BICUBIC = {"class_path": "degradations.Bicubic"}
NOISE = "degradations.GaussianNoise"


def pipeline(*stages):
    return {"class_path": "degradations.Pipeline", "init_args": {"stages": list(stages)}}


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a configuration and returns its path."""

    def write(content, name="own.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize(
    ("name", "recipe"), [("invsr", ResShift), ("invsr_imagenet_test", ImageNetTest)]
)
def test_the_files_of_invsr_are_the_recipes_as_they_are(name, recipe):
    """test_recipes.py compares their numbers with the tables."""
    path = REPO / f"configs/degradation/{name}.yaml"
    shipped, shape = degradation_of([path], 4.0), torch.Size((8, 3, 64, 64))
    assert type(shipped) is recipe
    assert "usm" not in shipped.stages
    found, expected = (r.params_of(np.arange(8), shape) for r in (shipped, recipe(4.0)))
    np.testing.assert_equal(found, expected)


def test_an_experiment_with_its_own_scale():
    path = REPO / "configs/experiment/quickstart.yaml"
    assert degradation_of([path]).scale == 2.0
    assert degradation_of([path], 3.0).scale == 3.0


def test_a_file_under_the_key_and_paths_relative_to_it(file):
    file(pipeline({"class_path": NOISE, "init_args": {"sigma": [7, 8]}}), "a/noise.yaml")
    degradation = degradation_of([file({"degradation": "a/noise.yaml"})], 2.0)
    assert isinstance(degradation, Pipeline)
    assert degradation.stages["GaussianNoise"].sigma == (7.0, 8.0)


def test_stages_by_name_keep_the_order_of_the_file(file):
    stages = {name: {"class_path": NOISE} for name in ("zoom", "blur", "noise")}
    content = {"class_path": "degradations.Pipeline", "init_args": {"stages": stages}}
    path = file(yaml.safe_dump(content, sort_keys=False))
    assert list(degradation_of([path], 2.0).stages) == ["zoom", "blur", "noise"]


def test_later_files_win_and_add(file):
    first = file(pipeline({"class_path": NOISE}), "1.yaml")
    second = file({"init_args": {"quantize": False, "stages+": [{"class_path": NOISE}]}}, "2.yaml")
    assert degradation_of([first], 2.0).quantize
    merged = degradation_of([first, second], 2.0)
    assert not merged.quantize
    assert list(merged.stages) == ["GaussianNoise", "GaussianNoise#2"]
    assert isinstance(degradation_of([first, file(BICUBIC, "3.yaml")], 2.0), Bicubic)
