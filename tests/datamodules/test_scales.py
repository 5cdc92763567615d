"""Training at arbitrary scales: the sides of a batch, its pairs, and messages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.base import SRDataModule
from datamodules.scales import Scales
from degradations.bicubic import Bicubic
from degradations.pipeline import Pipeline
from lightning_modules.one_pass.regression import Regression
from tests.datamodules.memory import (
    Memory,
    evaluation,
    on_device,
    random_image,
    random_images,
    trainer,
    training,
    with_crops,
)
from tests.lightning_modules.tiny import Resizing

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

    def test_lr_sides_are_equally_frequent(self):
        pairs = drawn(Scales(fixed=2, probability=0.5, lr_sides=[16, 32, 64]))
        counts = Counter(lr for lr, _ in pairs)
        assert counts.keys() == {16, 32, 64}
        assert all(count / BATCHES == pytest.approx(1 / 3, abs=0.04) for count in counts.values())
        assert all(lr < hr <= 2 * lr for lr, hr in pairs)
        # Side and factor are drawn independently.
        halves = Counter((lr, hr == 2 * lr) for lr, hr in pairs)
        assert all(halves[lr, True] / counts[lr] == pytest.approx(0.5, abs=0.07) for lr in counts)

    def test_hr_side(self):
        pairs = drawn(Scales(fixed=4, probability=0.5, hr_side=192))
        assert {hr for _, hr in pairs} == {192}
        assert min(lr for lr, _ in pairs) == 48
        assert max(lr for lr, _ in pairs) == 191
        assert len({lr for lr, _ in pairs}) > 100

    @pytest.mark.parametrize("scales", [Scales(1, 1.0), Scales(1, 1.0, hr_side=2)])
    def test_an_hr_is_never_as_small_as_its_lr(self, scales):
        assert all(lr < hr for lr, hr in drawn(scales)[:20])

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

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"fixed": 0.5}, r"lowest is 1 and fixed 0\.5; expected 1 <= lowest <= fixed"),
            ({"lowest": 0.5}, r"lowest is 0\.5"),
            ({"fixed": float("nan")}, "fixed nan"),
        ],
    )
    def test_what_cannot_be(self, arguments, message):
        with pytest.raises(ValueError, match=r"data\.init_args\.crops\.scales.*" + message):
            Scales(**arguments)


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


def keys(weights: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -1/2."""
    x = np.abs(weights)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) to (side, side, 3): columns, then rows, clamped after each, then 8 bits."""
    for _ in range(2):
        n = image.shape[1]
        step = n / side
        centres = (np.arange(side) + 0.5) * step - 0.5
        weights = keys((np.arange(n) - centres[:, None]) / max(step, 1))
        weights /= weights.sum(1, keepdims=True)
        image = np.einsum("on,hnc->hoc", weights, image).clip(0, 1).swapaxes(0, 1)
    return np.round(image * 255) / 255


def pixels(images: torch.Tensor) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).double().numpy())


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

    def test_the_lr_is_an_antialiased_bicubic(self):
        for batch in training(data_of()):
            for hr, lr in zip(pixels(batch["hr"]), pixels(batch["lr"]), strict=True):
                assert np.abs(shrunk(hr, lr.shape[0]) - lr).max() < 1.01 / 255
            worst = [
                np.abs(shrunk(hr, lr.shape[0]) - lr).mean() * 255
                for hr, lr in zip(pixels(batch["hr"]), pixels(batch["lr"]), strict=True)
            ]
            assert max(worst) < 0.01  # almost no value is rounded differently

    def test_a_whole_crop_is_shrunk_first(self):
        scales = Scales(fixed=2, probability=0.5, lr_sides=[4, 6, 8], whole=True)
        crops = list(training(data_of(scales=None, crop_size=20)))
        batches = list(training(data_of(scales=scales, crop_size=20)))
        assert len({sides(b) for b in batches}) > 4
        for batch, whole in zip(batches, crops, strict=True):
            lr_side, hr_side = sides(batch)
            for hr, lr, crop in zip(
                *map(pixels, (batch["hr"], batch["lr"], whole["hr"])), strict=True
            ):
                assert np.abs(shrunk(crop, hr_side) - hr).max() < 1.01 / 255
                assert np.abs(shrunk(hr, lr_side) - lr).max() < 1.01 / 255

    def test_16_bits(self):
        source = Memory({"a": {"hr": random_image(32, 32, dtype=np.uint16)}})
        batches = list(training(data_of(source, batch_size=1)))
        assert [sides(b) for b in batches] == [SCALES.sides(0, 0, n) for n in range(3)]

    def test_evaluation_has_its_own_scale(self):
        data = data_of(val={"a": random_images(2, 20, 20)})
        assert [sides(b) for b in evaluation(data, "val")] == [(10, 20)] * 2


class TestSameEverywhere:
    """Bit-equal for any number of processes, workers and interruptions."""

    def test_ranks(self):
        def run(rank: int, world: int) -> list[Any]:
            data = data_of()
            data.setup("fit")
            data._ranks = lambda: (rank, world)
            return [on_device(data, batch) for batch in data.train_dataloader()]

        alone, ranks = run(0, 1), [run(rank, 2) for rank in (0, 1)]
        for batch, first, second in zip(alone, *ranks, strict=True):
            assert first["key"] + second["key"] == batch["key"]
            for name in ("hr", "lr", "seed"):
                assert torch.equal(torch.cat([first[name], second[name]]), batch[name])

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

    def test_a_run_that_is_continued(self, tmp_path: Path):
        """Under Lightning, whose counters hold the position."""

        def run(ckpt_path: Path | None = None, **settings: Any) -> Any:
            run = trainer(tmp_path, **{"max_epochs": 2, "num_sanity_val_steps": 0} | settings)
            model = Regression(2, Resizing)
            data = data_of(per_image=1)
            run.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
            return run, list(model.parameters())

        _, whole = run()
        first, begun = run(max_epochs=1)
        first.save_checkpoint(tmp_path / "one.ckpt")
        _, resumed = run(tmp_path / "one.ckpt")
        assert all(map(torch.equal, whole, resumed))
        assert not any(map(torch.equal, whole, begun))

    def test_replaced_images_keep_the_place(self):
        broken = {f"bad{i}": f"bad{i}.jpg: truncated" for i in range(6)}
        data = data_of(Memory({**broken, **random_images(6).samples}), unreadable_limit=1)
        batches = list(training(data))
        assert data.tally.unreadable > 0
        assert [sides(b) for b in batches] == [SCALES.sides(0, 0, n) for n in range(9)]


class TestMessages:
    def test_a_crop_that_is_too_small(self):
        with pytest.raises(ValueError, match=r"crop_size is 15, less than .* make it at least 16"):
            data_of(crop_size=15)
        with pytest.raises(ValueError, match=r"crop_size is 16, .* make it at least 17"):
            data_of(scales=Scales(fixed=1, lr_sides=[16]))
        with pytest.raises(ValueError, match=r"crop_size is 16, .* make it at least 32"):
            data_of(scales=Scales(hr_side=32))
        data_of(crop_size=17)  # not a multiple of the scale

    def test_images_with_an_lr_of_their_own(self):
        source = Memory({"a": {"hr": random_image(32, 32), "lr": random_image(16, 16)}})
        message = r"train/a comes with its own LR, .* data\.init_args\.crops\.scales draws others"
        with pytest.raises(ValueError, match=message):
            list(training(data_of(source, batch_size=1)))

    def test_latents(self):
        """They belong to the whole crop, so HR would have to be whole, too."""
        batch = {"key": ["a"], "hr": torch.zeros(1, 3, 16, 16), "latent": torch.zeros(1, 4, 2, 2)}
        with pytest.raises(ValueError, match=r"a comes with its own latent, .*scales draws others"):
            SCALES.to_images(batch, 8)

    def test_a_degradation_of_one_scale(self):
        message = (
            r"data\.init_args\.crops\.scales draws a scale .* Pipeline makes LR for its own scale"
        )
        with pytest.raises(ValueError, match=message):
            data_of(degradation=Pipeline(2, [])).setup("fit")

    def test_a_pair_pool(self):
        degradation = Bicubic(2)
        degradation.pool = 8
        with pytest.raises(ValueError, match=r"Bicubic .* its pool to 0"):
            data_of(degradation=degradation).setup("fit")
