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
FAMILIES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


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


def counts(values, options, p=None):
    found = [int((values == option).sum()) for option in options]
    assert sum(found) == len(values)
    expected = None if p is None else np.array(p) * len(values)
    assert stats.chisquare(found, expected).pvalue > LIKELY


@pytest.fixture(scope="module")
def drawn():
    return draw(Blur())


class TestDraws:
    def test_sizes(self, drawn):
        counts(drawn["kernel_size"], range(7, 22, 2))

    def test_families(self, drawn):
        counts(drawn["family"], range(6), FAMILIES)

    def test_share_of_sinc(self, drawn):
        counts(drawn["sinc"], (True, False), (0.1, 0.9))

    def test_cutoffs(self, drawn):
        small = drawn["kernel_size"] < 13
        uniform(drawn["cutoff"][small], math.pi / 3, math.pi)
        uniform(drawn["cutoff"][~small], math.pi / 5, math.pi)

    def test_sigmas_and_rotation(self, drawn):
        long = drawn["family"] % 2 == 1
        uniform(drawn["sigma_x"], 0.2, 3.0)
        uniform(drawn["sigma_y"][long], 0.2, 3.0)
        uniform(drawn["rotation"][long], -math.pi, math.pi)
        np.testing.assert_array_equal(drawn["sigma_y"][~long], drawn["sigma_x"][~long])
        assert not drawn["rotation"][~long].any()
        assert abs(np.corrcoef(drawn["sigma_x"][long], drawn["sigma_y"][long])[0, 1]) < 0.06

    def test_beta(self, drawn):
        kind = drawn["family"] // 2
        assert (drawn["beta"][kind == 0] == 1).all()
        generalized, plateau = drawn["beta"][kind == 1], drawn["beta"][kind == 2]
        counts(generalized < 1, (True, False))
        uniform(generalized[generalized < 1], 0.5, 1)
        uniform(generalized[generalized >= 1], 1, 4)
        counts(plateau == 1, (True, False))  # below 1 its range is empty
        uniform(plateau[plateau != 1], 1, 2)

    def test_the_other_blurs(self):
        params = draw(Sinc())
        counts(params["kernel_size"], range(7, 22, 2))
        uniform(params["cutoff"], math.pi / 3, math.pi)
        params = draw(MotionBlur((2.0, 9.0), (10.0, 50.0), (-0.5, 1.0)))
        uniform(params["length"], 2, 9)
        uniform(params["angle"], 10, 50)
        uniform(params["direction"], -0.5, 1)
        uniform(draw(DefocusBlur((1.0, 4.0)))["radius"], 1, 4)


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
            MotionBlur((0.0, 30.0), (-720.0, 720.0)),
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

    def test_widest_lines_and_disks_fit(self):
        for length in (0.0, 1.0, 7.9, 8.0, 8.1):
            stage = MotionBlur((length, length), (0.0, 180.0), (0.0, 0.0))
            psf = stage.psf(tensors(draw(stage, 50), 50))
            assert psf[:, 0].max() < 1e-6  # a margin is left
            assert psf[:, :, 0].max() < 1e-6
        for radius, side in ((0.2, 3), (0.5, 3), (1.5, 3), (1.6, 5), (4.5, 9)):
            stage = DefocusBlur((radius, radius))
            psf = stage.psf(tensors(draw(stage, 1), 1))
            assert psf.shape[-1] == side
            wanted = min(1.0, 1 / (math.pi * radius**2))  # in the centre, fully covered
            assert psf[0, side // 2, side // 2].item() == pytest.approx(wanted, rel=1e-5)

    def test_stages_blur_by_their_kernels(self):
        x = torch.zeros(3, 3, 41, 41)
        x[..., 20, 20] = 1
        for stage in (Blur(), Sinc(), MotionBlur(), DefocusBlur(), Corner()):
            params = tensors(draw(stage, 3), 3)
            psf = stage.psf(params)
            n = psf.shape[-1] // 2
            y = stage(x, params)[..., 20 - n : 21 + n, 20 - n : 21 + n]
            expected = psf.unsqueeze(1).expand(-1, 3, -1, -1)
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)  # skipped rings


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        (Blur, {"kernel_size": (6, 21)}, "odd"),
        (Blur, {"kernel_size": (21, 7)}, "kernel_size"),
        (Blur, {"families": (0.5, 0.5, 0.5, 0, 0, 0)}, "families"),
        (Blur, {"sigma": (0.0, 0.2)}, "sigma"),
        (Blur, {"beta_plateau": (0.2, 0.5)}, "beta_plateau"),
        (Sinc, {"cutoff": (1.0, 4.0)}, "cutoff"),
        (MotionBlur, {"direction": (-2.0, 0.0)}, "direction"),
        (DefocusBlur, {"radius": (3.0, 2.0)}, "radius"),
    ],
)
def test_refuses(stage, arguments, message):
    with pytest.raises(ValueError, match=message):
        stage(**arguments)
