"""Stable Diffusion's upscaler behind the contract of a SuperResolver."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from diffusers import StableDiffusionUpscalePipeline

from degradations.draws import seed_of
from files.batch import tiles_of
from lightning_modules.controls.sd import SDUpscale
from lightning_modules.noise import Noise, PlacedNoise
from lightning_modules.sampling.tiling import padded
from tests.lightning_modules.others import save_upscaler
from tests.lightning_modules.tiny import random_batch

FEW: dict[str, Any] = {"steps": 2, "guidance": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_upscaler(tmp_path_factory.mktemp("upscaler"))


def batch(count: int = 2, **more: Any) -> Any:
    return {**random_batch(count, (32, 48), lr=(3, 8, 12)), **more}


def test_it_is_the_pipeline(folder):
    given = batch(text=["a b", "b"])
    found = SDUpscale(4.0, folder, **FEW).restore(given, Noise(given["seed"]))
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(folder)
    seeds = [seed_of(n, "noise", 0) for n in range(2)]
    expected = pipeline(
        **{"prompt": given["text"], "image": given["lr"], "num_inference_steps": 2},
        **{"guidance_scale": 3.0, "noise_level": 20, "output_type": "pt"},
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 3, 32, 48)


@pytest.mark.parametrize("sides", [(9, 14), (3, 12)])
def test_sides_that_the_pipeline_would_cut(folder, sides):
    """They are mirrored up to its factor; what lies in the given image stays where it is."""
    method, wide = SDUpscale(4.0, folder, **FEW), batch(1)
    wide["lr"] = torch.rand(1, 3, *sides, generator=torch.Generator().manual_seed(1))
    wide["size"] = sides[0] * 4, sides[1] * 4
    found = method.enlarge(wide)["sr"]
    mirrored = padded(wide["lr"], 4).lr
    size = mirrored.shape[-2] * 4, mirrored.shape[-1] * 4
    whole_one = method.enlarge({**wide, "lr": mirrored, "size": size})["sr"]
    assert torch.equal(found, whole_one[..., : wide["size"][0], : wide["size"][1]])


@pytest.mark.parametrize("kind", ["whole", "placed"])
def test_generators_belong_to_the_image_and_are_a_call(kind):
    seeds = torch.tensor([5, 7])
    noise = Noise(seeds) if kind == "whole" else PlacedNoise(seeds, tiles_of(batch()))
    first, second = noise.generators(), noise.generators()
    assert noise.drew
    drawn = [torch.randn(3, generator=generator) for generator in (*first, *second)]
    assert len({tuple(field.tolist()) for field in drawn}) == 4
    alone = Noise(seeds[1:]).generators()[0]
    assert torch.equal(torch.randn(3, generator=alone), drawn[1])
