"""HR and LR of a crop are mixed together, by its own seed."""

from __future__ import annotations

import pytest
import torch

from datamodules.base import SRDataModule
from datamodules.mixing import CutBlur, MixUp
from degradations.base import quantize_8bit
from degradations.bicubic import resize
from degradations.draws import Draws
from tests.datamodules.memory import evaluation, noisy, random_images, training, with_crops

SEEDS = torch.arange(8)


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, 3, 24, 40, generator=generator), torch.rand(
        8, 3, 12, 20, generator=generator
    )


@pytest.mark.parametrize("kind", [MixUp, CutBlur])
def test_a_crop_is_mixed_by_its_seed_alone(kind: type[MixUp | CutBlur]) -> None:
    hr, lr = pairs()
    whole = kind()(hr, lr, Draws(SEEDS))
    for i in range(8):
        alone = kind()(hr[i : i + 1], lr[i : i + 1], Draws(SEEDS[i : i + 1]))
        assert all(a[0].equal(b[i]) for a, b in zip(alone, whole, strict=True))
    changed = [not a.equal(b) for a, b in zip(whole[1], lr, strict=True)]
    assert 0 < sum(changed) < 8
    assert all(a.equal(b) for a, b in zip(kind(0.0)(hr, lr, Draws(SEEDS)), (hr, lr), strict=True))


def test_mixup_blends_both_with_the_turned_crop() -> None:
    hr, lr = pairs()
    for image, blended in zip((hr, lr), MixUp(1.0)(hr, lr, Draws(SEEDS)), strict=True):
        turned = image.rot90(2, (2, 3))
        share = ((blended - turned) / (image - turned)).nanmedian(3)[0].median(2)[0][:, :1]
        expected = torch.lerp(turned, image, share[:, :, None, None])
        torch.testing.assert_close(blended, expected, rtol=0, atol=1e-4)
        assert share.min() < 0.4 < 0.6 < share.max()


def test_cutblur_replaces_a_square_or_all_around_it() -> None:
    hr, lr = pairs()
    same, mixed = CutBlur(1.0)(hr, lr, Draws(SEEDS))
    clean = quantize_8bit(resize(hr, (12, 20)))
    assert same.equal(hr)
    replaced = mixed != lr
    assert mixed[replaced].equal(clean[replaced])
    counts = replaced.all(1).sum((1, 2)).tolist()
    assert set(counts) == {8 * 14, 12 * 20 - 8 * 14}


def test_training_alone_is_mixed() -> None:
    settings = {"mixing": [CutBlur(1.0)], "batch_size": 2, "crop_size": 16, "workers": 0}
    trained = []
    validated = []
    for mixing in ([CutBlur(1.0)], None):
        data = SRDataModule(
            2.0,
            random_images(2),
            {"own": random_images(2)},
            degradation=noisy(),
            **with_crops(settings | {"mixing": mixing}),
        )
        trained.append(next(training(data)))
        validated.append(next(evaluation(data, "val")))
    assert trained[0]["hr"].equal(trained[1]["hr"])
    assert not trained[0]["lr"].equal(trained[1]["lr"])
    assert validated[0]["lr"].equal(validated[1]["lr"])
