"""Training at arbitrary scales: the sides of a batch, its pairs, and messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from datamodules.base import SRDataModule
from datamodules.scales import Scales
from degradations.base import quantize_8bit
from degradations.bicubic import Bicubic, resize
from tests.datamodules.memory import (
    Memory,
    on_device,
    random_images,
    training,
    with_crops,
)

BATCHES = 2000


def drawn(scales: Scales, seed: int = 0) -> list[tuple[int, int]]:
    return [tuple(scales.sides(seed, n // 100, n % 100)) for n in range(BATCHES)]


class TestSides:
    def test_the_fixed_factor_and_the_others(self):
        pairs = drawn(Scales(fixed=4, probability=0.8, lr_sides=[1000]))
        factors = np.array([hr / lr for lr, hr in pairs])
        fixed = factors == 4
        assert fixed.mean() == pytest.approx(0.8, abs=0.03)  # 3.4 standard deviations
        others = np.sort(factors[~fixed])
        # Uniform between 1 and 4: the largest distance of the distributions (Kolmogorov).
        expected = (np.arange(len(others)) + 0.5) / len(others)
        assert np.abs((others - 1) / 3 - expected).max() < 1.63 / len(others) ** 0.5
        assert others.min() >= 1.001  # an HR is at least one pixel larger

    def test_hr_side(self):
        pairs = drawn(Scales(fixed=4, probability=0.5, hr_side=192))
        assert {hr for _, hr in pairs} == {192}
        assert min(lr for lr, _ in pairs) == 48
        assert max(lr for lr, _ in pairs) == 191
        assert len({lr for lr, _ in pairs}) > 100

    def test_they_follow_from_seed_epoch_and_batch(self):
        scales = Scales(probability=0.0)
        assert drawn(scales) == drawn(Scales(probability=0.0))
        others = [drawn(scales, seed=1), drawn(Scales(probability=0.1))]
        same = [np.mean([a == b for a, b in zip(drawn(scales), o, strict=True)]) for o in others]
        assert same[0] < 0.1  # by chance
        assert same[1] == pytest.approx(0.9, abs=0.03)  # `probability` only changes which are fixed
        assert scales.sides(0, 0, 1) != scales.sides(0, 1, 0)

    def test_they_never_change(self):
        """Else a run resumed with a later version would draw other sides."""
        scales = Scales(fixed=2, probability=0.8, lr_sides=[24])
        assert [scales.sides(0, 0, n).hr for n in range(15, 24)] == [
            *(48, 48, 36, 42, 30, 48, 48, 46, 45)
        ]


SCALES = Scales(fixed=2, probability=0.5, lr_sides=[6, 8])


def data_of(train: Any = None, **settings: Any) -> SRDataModule:
    defaults: dict[str, Any] = {
        "batch_size": 4,
        "crop_size": 16,
        "per_image": 3,
        "workers": 0,
        "degradation": Bicubic(2),
        "scales": SCALES,
    }
    return SRDataModule(2, train=train or random_images(12), **with_crops(defaults | settings))


def sides(batch: Any) -> tuple[int, int]:
    return batch["lr"].shape[-1], batch["hr"].shape[-1]


class TestPairs:
    def test_each_batch_has_the_sides_of_its_number(self):
        data = data_of()
        batches = list(training(data))
        assert [sides(b) for b in batches] == [SCALES.sides(0, 0, n) for n in range(9)]
        assert len({sides(b) for b in batches}) > 4
        for batch in batches:
            assert batch["size"] == tuple(batch["hr"].shape[-2:])
            assert set(batch) == {"key", "seed", "size", "hr", "lr"}

    def test_crops_are_cut_at_their_upper_left(self):
        whole = training(data_of(scales=None))
        for batch, crops in zip(training(data_of()), whole, strict=True):
            side = batch["hr"].shape[-1]
            assert torch.equal(batch["seed"], crops["seed"])
            assert torch.equal(batch["hr"], crops["hr"][..., :side, :side])

    def test_a_whole_crop_is_shrunk_first(self):
        scales = Scales(fixed=2, probability=0.5, lr_sides=[4, 6, 8], whole=True)
        crops = list(training(data_of(scales=None, crop_size=20)))
        batches = list(training(data_of(scales=scales, crop_size=20)))
        assert len({sides(b) for b in batches}) > 4
        for batch, whole in zip(batches, crops, strict=True):
            side = sides(batch)[1]
            assert torch.equal(batch["hr"], quantize_8bit(resize(whole["hr"], (side, side))))


class TestSameEverywhere:
    """Bit-equal for any number of processes, workers and interruptions."""

    @pytest.mark.parametrize("workers", [0, 2])
    def test_resumed(self, workers):
        def run(epoch: int, start: int) -> list[Any]:
            data = data_of(workers=workers)
            data.setup("fit")
            data._position = lambda: (epoch, start)
            loader = data.train_dataloader()
            return [on_device(data, batch) for batch in loader]

        whole, rest = run(1, 0), run(1, 5)
        assert [sides(b) for b in whole] == [SCALES.sides(0, 1, n) for n in range(9)]
        for batch, again in zip(whole[5:], rest, strict=True):
            for name in ("hr", "lr", "seed"):
                assert torch.equal(batch[name], again[name])

    def test_replaced_images_keep_the_place(self):
        broken = {f"bad{i}": f"bad{i}.jpg: truncated" for i in range(6)}
        data = data_of(Memory({**broken, **random_images(6).samples}), unreadable_limit=1)
        batches = list(training(data))
        assert data.tally.unreadable > 0
        assert [sides(b) for b in batches] == [SCALES.sides(0, 0, n) for n in range(9)]
