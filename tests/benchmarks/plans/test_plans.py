"""The benchmark of plans: its table, what is picked, and the power in octaves, by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.miniature.table import Plan, load
from benchmarks.plans import extreme
from benchmarks.plans.bound import others, picked, plans
from benchmarks.plans.extreme import octaves
from benchmarks.plans.latents import LatentCasArbi
from benchmarks.plans.trained import RUNS, SEEDS, TABLE
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.casarbi import CasArbi, Stages
from lightning_modules.networks.liif import LIIF
from lightning_modules.networks.sft_unet import SFTUNet
from lightning_modules.noise import Noise

TINY = partial(LIIF, blocks=1, channels=8, hidden=(8,), global_skip=True)
# Two candidates, three draws, two images.
VALUES = np.array([[[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], [[2.0, 0.0], [2.0, 9.0], [2.0, 0.0]]])


def test_the_tables_latents_have_their_autoencoder_and_base() -> None:
    jobs = {job.name: job for job in Plan(load(TABLE), RUNS, SEEDS).jobs()}
    assert set(jobs["fit latents"].needs) == {"fit liif", "fit autoencoder"}
    assert jobs["fit photos"].needs == ("fit photos_base",)
    assert set(jobs["test latents_x4"].needs) == {"fit latents", "fit liif", "fit autoencoder"}


def test_equal_divisions_are_one_plan() -> None:
    assert list(plans(16, 64)) == [
        *("16 24 36 54 64", "16 19 28 43 64", "16 23 32 45 64"),  # of 1.5
        *("16 32 64", "16 48 64", "16 21 64"),  # of 2, and of 3: its uniform is that of 2
    ]
    assert plans(16, 64)["16 32 64"] == Stages(2.0)


def test_the_best_of_draws_has_their_luck_and_the_best_in_others_has_not() -> None:
    # (2 + 2 + 3) / 3; (5 + 9 + 5) / 3
    assert picked(VALUES, VALUES).tolist() == pytest.approx([7 / 3, 19 / 3])
    assert others(VALUES)[:, 0].tolist() == [[2.5, 5.0], [2.0, 4.5]]
    # Image 0: the first, the first (2 = 2), the second; image 1: the first, three times.
    assert picked(VALUES, others(VALUES)).tolist() == pytest.approx([5 / 3, 5.0])


def test_a_wave_has_its_power_in_its_octave() -> None:
    x = torch.arange(64, dtype=torch.float64)
    wave = 3 * torch.cos(2 * torch.pi * 12 * x / 64) + 100
    found = octaves(wave.expand(2, 64, 64))
    assert list(found) == [4, 8, 16]
    assert found[8].tolist() == pytest.approx([4.5, 4.5])  # 3^2 / 2
    assert float(found[4].sum() + found[16].sum()) < 1e-6


def test_white_noise_has_a_power_as_the_octaves_area() -> None:
    noise = torch.randn(8, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {low: float(power.mean()) for low, power in octaves(noise).items()}
    area = {low: torch.pi * 3 * low**2 / 64**2 for low in (4, 8)}
    assert found[8] == pytest.approx(area[8], rel=0.1)
    assert found[4] == pytest.approx(area[4], rel=0.2)
    assert found[16] == pytest.approx(1 - torch.pi * 16**2 / 64**2, rel=0.05)  # with the corners


def small(kind: type[CasArbi] = CasArbi, **arguments: Any) -> CasArbi:
    torch.manual_seed(0)
    network = SFTUNet(8, 8, (1,), 1, attention=False)
    torch.nn.init.normal_(network.last[-1].weight, std=0.1)
    process = {"residual_deviation": 0.1, "timesteps": [14, 0], **arguments}
    return kind(2.0, base=TINY, network=network, **process).eval()


def test_scales_share_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extreme, "LR_SIDE", 8)
    monkeypatch.setattr(extreme, "SCALES", (2, 3, 4))
    model, lr, seeds = small(), torch.rand(5, 3, 8, 8), torch.arange(5)
    batch: Any = {"key": [*"abcde"], "seed": seeds, "size": (24, 24), "lr": lr}
    found = extreme.cascades(model, batch)
    assert list(found) == ["16", "16 24", "16 32"]
    # In parts, as it is of all: the noise is that of restore.
    torch.testing.assert_close(found["16 24"], model.restore(batch, Noise(seeds)))


def test_latents_that_are_pixels_change_nothing() -> None:
    batch: Any = {"key": ["a"], "size": (13, 14), "lr": torch.rand(1, 3, 8, 8)}
    made = [
        model.restore(batch, Noise(torch.tensor([3])))
        for model in (small(), small(LatentCasArbi, space=PixelSpace()))
    ]
    assert torch.equal(*made)
    with pytest.raises(ValueError, match="guidance is 1"):
        small(LatentCasArbi, space=PixelSpace(), guidance=1.0)
