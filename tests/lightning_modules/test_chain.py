"""Chain: each part as alone, its own noise, weights of its own."""

from __future__ import annotations

from typing import Any, cast

import torch

from degradations.bicubic import resize
from degradations.draws import seed_of
from lightning_modules import Bicubic, Chain
from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise


class Grain(SuperResolver):
    """Bicubic with noise of its own."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        raise NotImplementedError

    def restore(self, batch: Any, noise: Noise) -> torch.Tensor:
        sr = resize(batch["lr"], batch["size"])
        return sr + 0.1 * noise.normal(tuple(sr.shape)).to(sr)


def batch(h: int, w: int, scale: float, count: int = 2) -> Any:
    images = torch.rand(count, 3, h, w, generator=torch.Generator().manual_seed(1))
    size = (round(h * scale), round(w * scale))
    keys = [f"{number}" for number in range(count)]
    return {"key": keys, "seed": torch.arange(count) + 7, "size": size, "lr": images}


def test_bicubic_twice_is_two_calls() -> None:
    given = batch(9, 7, 4)
    sr = Chain(4, [Bicubic(2), Bicubic(2)]).enlarge(given)["sr"]
    twice = resize(resize(given["lr"], (18, 14)).clamp(0, 1), (36, 28)).clamp(0, 1)
    assert torch.equal(sr, twice)
    assert not torch.equal(sr, resize(given["lr"], (36, 28)).clamp(0, 1))


def test_sizes_in_between_follow_from_the_scales_so_far() -> None:
    seen: list[tuple[int, int]] = []

    class Seen(Bicubic):
        def restore(self, batch: Any, noise: Noise) -> torch.Tensor:
            seen.append(batch["size"])
            return super().restore(batch, noise)

    chain = Chain(3.75, [Seen(1), Seen(1.5), Seen(2.5)])
    assert chain.enlarge(batch(11, 5, 3.75))["sr"].shape == (2, 3, 41, 19)
    assert seen == [(11, 5), (16, 8), (41, 19)]


def test_each_part_has_its_own_noise_that_follows_from_the_image_s() -> None:
    given = batch(8, 8, 4)
    chain = Chain(4, [Grain(2), Grain(2)])
    sr = chain.enlarge(given)["sr"]
    assert chain.drew_noise
    alone = cast(Any, {k: v if k == "size" else v[1:] for k, v in given.items()})
    assert torch.equal(chain.enlarge(alone)["sr"], sr[1:])
    chain.set_noise_seed(1)
    assert not torch.equal(chain.enlarge(given)["sr"], sr)
    image, seeds = given["lr"], [seed_of(0, "model", int(s)) for s in given["seed"]]
    for number, size in enumerate([(16, 16), (32, 32)]):
        own = torch.tensor([seed_of(seed, "chain", number) for seed in seeds])
        image = Grain(2).enlarge({**given, "lr": image, "size": size, "seed": own})["sr"]
    assert torch.equal(sr, image)


def test_large_images_go_through_tiles_in_each_part() -> None:
    chain = Chain(4, [Bicubic(2), Bicubic(2)])
    for part in chain.parts:
        part.tile_output = part.tile = 48
        part.tile_overlap = 8
    given = batch(40, 40, 4, 1)
    whole, tiled = chain.enlarge(given)["sr"], chain.enlarge(given, tiled=True)["sr"]
    assert chain.tile_count > 4
    assert torch.allclose(whole, tiled, atol=1e-6)
