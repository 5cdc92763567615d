"""Blurs: draws, kernels, bad input.

Shapes and borders are tested in test_kernels.py and test_convolve.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from degradations.draws import Draws, to_device
from degradations.stages.blur import Blur, DefocusBlur, KernelStage, MotionBlur, Sinc

N = 10_000
LIKELY = 1e-3  # p-value, at fixed seeds


class Corner(KernelStage):
    """A kernel without symmetry."""

    def draw(self, draws, shape):
        return {"weight": np.ones(len(draws.seeds()))}

    def psf(self, params):
        psf = 2.0 ** -torch.arange(1.0, 10).view(3, 3)
        return (psf / psf.sum()).expand(len(params["weight"]), 3, 3)


def draw(stage, n=N):
    return stage.draw(Draws(np.arange(n)), torch.Size((n, 3, 64, 64)))


def tensors(params, n):
    return to_device(params, n, torch.device("cpu"))


def uniform(values, low, high):
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LIKELY


@pytest.fixture(scope="module")
def drawn():
    return draw(Blur())


def test_the_other_blurs():
    params = draw(MotionBlur((2.0, 9.0)))
    uniform(params["angle"], 0, 180)
    uniform(params["direction"], -1, 1)


def by_hand(params, i, extent=10):
    """Return the kernel of image `i`, pixel by pixel in double precision."""
    c, s = math.cos(params["rotation"][i]), math.sin(params["rotation"][i])
    U = np.array([[c, -s], [s, c]])
    variances = [params["sigma_x"][i] ** 2, params["sigma_y"][i] ** 2]
    inverse = np.linalg.inv(U @ np.diag(variances) @ U.T)
    kernel = np.zeros((2 * extent + 1, 2 * extent + 1))
    half, beta, w = params["kernel_size"][i] // 2, params["beta"][i], params["cutoff"][i]
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            q, r = np.array([x, y]) @ inverse @ np.array([x, y]), math.hypot(x, y)
            if params["sinc"][i]:
                value = w * special.j1(w * r) / (2 * math.pi * r) if r else w**2 / (4 * math.pi)
            elif params["family"][i] < 4:
                value = math.exp(-(q**beta) / 2)
            else:
                value = 1 / (1 + q**beta)
            kernel[extent + y, extent + x] = value
    return kernel / kernel.sum()


class TestKernels:
    def test_are_the_formulas(self, drawn):
        chosen = [np.flatnonzero((drawn["family"] == f) & ~drawn["sinc"])[:3] for f in range(6)]
        chosen = np.concatenate([*chosen, np.flatnonzero(drawn["sinc"])[:5]])
        part = {name: values[chosen] for name, values in drawn.items()}
        psf = Blur().psf(tensors(part, len(chosen)))
        for i, kernel in enumerate(psf):
            np.testing.assert_allclose(kernel, by_hand(part, i), rtol=0, atol=2e-6)

    @pytest.mark.parametrize(
        "stage",
        [
            Blur(),
            Blur((21, 21), sigma=(0.05, 20.0), beta_generalized=(0.1, 20.0), sinc=0.0),
            Sinc((3, 31), (0.3, math.pi)),
            MotionBlur((0.0, 30.0)),
            DefocusBlur((0.01, 9.0)),
            Corner(),
        ],
        ids=lambda stage: type(stage).__name__,
    )
    def test_sum_to_one_and_nothing_is_cut_off(self, stage):
        params = stage.prepare(tensors(draw(stage, 2000), 2000))["convolution"]
        kernels, radius = params["kernels"], params["radius"]
        torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(2000), rtol=0, atol=1e-5)
        n = kernels.shape[-1] // 2
        axis = (torch.arange(2 * n + 1) - n).abs()
        outside = torch.maximum(axis, axis.view(-1, 1)) > radius.view(-1, 1, 1)
        assert (kernels.abs() * outside).sum((1, 2)).max() < 1.1e-5
