"""SWD: the distance against scipy, what it distinguishes, its patches, its documented values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.nn import functional

from callbacks.metrics.pixels import to_pixels
from callbacks.metrics.swd import SWD, blur, wasserstein
from degradations.bicubic import resize
from tests.quick import quick


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 30), m=st.integers(1, 30), seed=st.integers(0, 99))
def test_the_distance_is_scipys_for_any_two_sizes(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(3, k, generator=generator).double().sort(1).values for k in (n, m))
    ours = wasserstein(a, b)
    for row in range(3):
        theirs = wasserstein_distance(a[row], b[row])
        assert ours[row].item() == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_the_blur_is_binomial_and_mirrors() -> None:
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    assert np.allclose(blur(x).numpy(), (windows * kernel).sum((-1, -2)))


def photographs(n: int = 4, side: int = 96) -> Tensor:
    from skimage import data

    whole = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255
    return torch.stack([whole[:, 40 * i : 40 * i + side, 100 : 100 + side] for i in range(n)])


def number(metric: SWD, sr: Tensor, hr: Tensor) -> dict[str, float]:
    batch: Any = {"key": [str(i) for i in range(len(hr))]}
    return metric.distances(*(metric.features(x, batch).double() for x in (sr, hr)))


def test_detail_that_is_missing_or_too_much_by_level() -> None:
    hr = photographs()
    names = ["swd", "swd_2", "swd_3"]
    assert list(number(SWD(), hr, hr).values()) == [0, 0, 0]
    bicubic = {
        s: number(SWD(), resize(resize(hr, (96 // s, 96 // s)), (96, 96)), hr) for s in (2, 4)
    }
    for name in names:
        assert 0 < bicubic[2][name] < bicubic[4][name]
    assert bicubic[2]["swd"] > 2 * bicubic[2]["swd_2"] > 4 * bicubic[2]["swd_3"]
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    noisy = number(SWD(), (hr + noise).clamp(0, 1), hr)
    assert noisy["swd"] > noisy["swd_2"] > noisy["swd_3"] > 0
    # Colour alone does not matter.
    assert number(SWD(), (hr * 255 - 10).clamp(0) / 255, (hr * 255).clamp(10) / 255)["swd"] < 0.05


def test_places_belong_to_the_image() -> None:
    metric, images = SWD(patches=9), photographs()
    batch: Any = {"key": ["a", "b", "c", "d"]}
    whole = metric.features(images, batch)
    assert whole.shape == (4, 3, 9, 49)
    turned: Any = {"key": ["d", "c", "b", "a"]}
    assert torch.equal(metric.features(images.flip(0), turned), whole.flip(0))
    # Patches of the finest level are pieces of the image minus its blur.
    band = SWD(levels=1, patches=9).features(images, batch)[0, 0, 0]
    luma = to_pixels(images[:1], "y").float()
    pieces = functional.unfold(luma - blur(luma), 7)[0].T
    assert (pieces - band).abs().amax(1).min() < 1e-3


@pytest.mark.parametrize(
    ("scale", "value", "least", "most"), quick([(2, 2.05, 1.92, 2.05), (4, 3.19, 3.02, 3.20)], 4)
)
def test_the_value_of_bicubic_on_set5(
    data_root: Path, scale: int, value: float, least: float, most: float
) -> None:
    """The numbers of docs/protocols.md: with the keys of a run, and with others."""
    pairs = {k: (resize(lr, hr.shape[-2:]), hr) for k, (lr, hr) in set5(data_root, scale).items()}
    found = [
        distance({name.replace("set5/", prefix): pair for name, pair in pairs.items()})
        for prefix in ("set5/", "", *"abcdefg")
    ]
    assert (found[0], min(found), max(found)) == pytest.approx((value, least, most), abs=0.01)


def set5(root: Path, scale: int) -> dict[str, tuple[Tensor, Tensor]]:
    folder = root / "set5" / f"x{scale}"
    return {
        f"set5/{path.stem}": (as_tensor(folder / "lr" / path.name), as_tensor(path))
        for path in sorted((folder / "hr").iterdir())
    }


def distance(pairs: dict[str, tuple[Tensor, Tensor]]) -> float:
    metric, found = SWD(), []
    for name, pair in pairs.items():
        batch: Any = {"key": [name]}
        found.append([metric.features(x, batch)[0].double() for x in pair])
    sr, hr = (torch.stack(x) for x in zip(*found, strict=True))
    return metric.distance(sr, hr)


def as_tensor(path: Path) -> Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
