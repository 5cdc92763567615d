"""KID: the estimate by hand, subsets as in torch-fidelity, the libraries' numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from callbacks.metrics.fid import FID, KID, Inception, kernel_distance, polynomial_mmd
from tests.callbacks.metrics.test_fid import gaussian, pixels
from tests.callbacks.random_inception import inception, inception_file, small_inception
from tests.callbacks.tiny import Images, Tiny, loader, trainer
from tests.quick import quick

__all__ = ["inception", "inception_file", "small_inception"]


def by_hand(a: torch.Tensor, b: torch.Tensor) -> float:
    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(x @ y / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within + other - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 9), (2, 2)])
def test_the_estimate_is_the_papers(n: int, m: int) -> None:
    a, b = gaussian(n, 5, 5, 0), gaussian(m, 5, 5, 1)
    assert polynomial_mmd(a, b) == pytest.approx(by_hand(a, b), rel=1e-10)


@pytest.mark.parametrize("size", [10, 5])
def test_outputs_like_their_own_hr_are_not_below_0(size: int) -> None:
    x = gaussian(10, 3, 3, 7)
    assert kernel_distance(x, x, 4, size)[0] < -0.1
    assert kernel_distance(x, x, 4, size, paired=True)[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", quick([30, 5001], 30))
def test_kernels_of_all_pairs_or_of_each_subset(n: int) -> None:
    a, b = gaussian(n, 4, 4, 0), gaussian(30, 4, 4, 1)
    mean, deviation = kernel_distance(a, b, subsets=5, size=10)
    again = kernel_distance(a, b, subsets=5, size=10)
    assert (mean, deviation) == again  # the seed is its own
    assert deviation > 0
    assert abs(mean - polynomial_mmd(a, b)) < 4 * deviation


class Tensors(Dataset[torch.Tensor]):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.mark.slow
def test_kid_is_torch_fidelitys_with_the_same_subsets(inception: Path) -> None:
    sr, hr = pixels(n=6), (pixels(n=8)[1:] * 0.8).to(torch.uint8)
    theirs = calculate_metrics(
        input1=Tensors(sr),
        input2=Tensors(hr),
        kid=True,
        kid_subsets=4,
        kid_subset_size=5,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(inception),
    )
    metric = KID("torch-fidelity")
    metric.load()
    features = [metric.features(x / 255, {}).double() for x in (sr, hr)]
    mean, deviation = kernel_distance(*features, subsets=4, size=5)
    expected = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert (mean, deviation) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_fid_and_kid_of_a_preset_are_the_work_of_one(
    small_inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [], Inception.forward

    def counted(self: Inception, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(Inception, "forward", counted)
    alone, fid, kid, other = FID(), FID(), KID(), KID("torch-fidelity", label="other")
    trainer(tmp_path, alone).validate(Tiny(), loader(Images(2)), verbose=False)
    assert calls == [2, 2]
    trainer(tmp_path, fid, kid).validate(Tiny(), loader(Images(2)), verbose=False)
    assert calls == [2, 2] * 2
    trainer(tmp_path, fid, other).validate(Tiny(), loader(Images(2)), verbose=False)
    assert calls == [2, 2] * 4  # another preset
    assert fid.records == alone.records
