"""Camera: the raw image, its noise, the filter, and development."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from degradations.draws import Draws, to_device
from degradations.stages.camera import Camera, bayer_masks, demosaic, develop, unprocess

N = 10_000
CPU = torch.device("cpu")
PLAIN = torch.eye(3).expand(1, 3, 3)
GAINS = torch.tensor([2.0, 1.25, 1.6]).view(1, 3, 1, 1)


def drawn(count=N, **arguments):
    return Camera(**arguments).draw(Draws(np.arange(count)), torch.Size((count, 3, 8, 8)))


def applied(count, **changes):
    params = drawn(count)
    for name, value in changes.items():
        params[name] = np.full_like(params[name], value)
    return to_device(params, count, CPU)


def mirrored(planes):
    return torch.nn.functional.pad(planes, (1, 1, 1, 1), mode="reflect")


# ------------------------------------------------------------------------------------------ draws


def test_marginals():
    """Brooks et al., section 3 and released ranges."""
    params = drawn()
    uniform = {
        "red_gain": (params["red_gain"], 1.9, 2.4),
        "blue_gain": (params["blue_gain"], 1.5, 1.9),
        "shot": (np.log(params["shot"]), np.log(1e-4), np.log(0.012)),
        "iso": (np.log(params["iso"]), np.log(100), np.log(12000)),
    }
    for name, (values, low, high) in uniform.items():
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3, name
    offset = np.log(params["read"]) - (2.18 * np.log(params["shot"]) + 1.20)
    assert stats.kstest(offset, "norm", (0.0, 0.26)).pvalue > 1e-3
    exposure = params["exposure"]
    assert exposure.max() == 1.0  # N(0.8, 0.1) exceeds 1 in 2.3 %
    assert abs((exposure == 1.0).mean() - 0.02275) < 4 * np.sqrt(0.0225 / N)
    below = exposure[exposure < 0.8]
    half_normal = stats.halfnorm(scale=0.1)
    assert stats.kstest(0.8 - below, half_normal.cdf).pvalue > 1e-3
    for name, first, count in (("pattern", 0, 4), ("bits", 12, 3)):
        assert stats.chisquare(np.bincount(params[name] - first, minlength=count)).pvalue > 1e-3


def test_white_is_white_in_both_colour_spaces():
    params = drawn(50)
    np.testing.assert_allclose(params["to_camera"].sum(2), 1.0, rtol=1e-12)
    np.testing.assert_allclose(params["to_rgb"].sum(2), 1.0, rtol=1e-9)
    product = params["to_camera"] @ params["to_rgb"]
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=1e-12)


# ------------------------------------------------------------------------------ there and back


def test_developing_undoes_unprocessing():
    """Below the highlights, which keep their gains."""
    params = drawn(8)
    to_camera, to_rgb = (torch.tensor(params[name]).float() for name in ("to_camera", "to_rgb"))
    x = 0.2 + 0.5 * torch.rand(8, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    x = 0.7 * x.mean(1, keepdim=True) + 0.3 * x  # colours in the gamut of all cameras
    y = develop(unprocess(x, to_camera, GAINS), to_rgb, GAINS)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-4)


def test_raw_values_in_closed_form():
    x = torch.tensor([0.5, 0.25, 0.75]).view(1, 3, 1, 1)
    # Smoothstep 3 t^2 - 2 t^3 maps 1/2 to itself; then gamma 2.2.
    raw = unprocess(x, PLAIN, GAINS)
    assert raw[0, 0].item() == pytest.approx(0.5**2.2 / 2.0, rel=1e-5)
    t = raw[0, 1].item() * 1.25
    t = t ** (1 / 2.2)
    assert 3 * t**2 - 2 * t**3 == pytest.approx(0.25, rel=1e-4)


def test_noise_below_black_is_kept_until_development():
    """So it averages out: half of the interpolated values are below black, too."""
    changes = {"exposure": 1.0, "red_gain": 1.0, "blue_gain": 1.0, "bits": 14}
    params = applied(1, shot=0.0, read=1e-4, **changes)
    params["to_camera"] = params["to_rgb"] = PLAIN
    y = Camera()(torch.zeros(1, 3, 96, 96), params)
    for channel in y.unbind(1):
        assert (channel < 1e-3).float().mean().item() == pytest.approx(0.5, abs=0.05)


# ----------------------------------------------------------------------------------------- filter


@pytest.mark.parametrize("pattern", range(4))
def test_bayer(pattern):
    masks = bayer_masks(torch.zeros(1, 3, 5, 6), torch.tensor([pattern]))[0]
    assert torch.equal(masks.sum(0), torch.ones(5, 6))
    top, left = divmod(pattern, 2)
    red = torch.zeros(5, 6)
    red[top::2, left::2] = 1
    blue = torch.zeros(5, 6)
    blue[1 - top :: 2, 1 - left :: 2] = 1
    assert torch.equal(masks[0], red)
    assert torch.equal(masks[2], blue)


def test_demosaicing_is_kornias():
    from kornia.color import CFA, raw_to_rgb

    mosaic = torch.rand(2, 1, 16, 20, generator=torch.Generator().manual_seed(0))
    masks = bayer_masks(mosaic, torch.zeros(2, dtype=torch.int64))
    ours = demosaic(mosaic, masks, mirrored)
    theirs = raw_to_rgb(mosaic, CFA.BG)
    torch.testing.assert_close(ours[..., :-1, :-1], theirs[..., :-1, :-1], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_noise_variance_is_shot_times_signal_plus_read(level):
    """In the green pixels, whose raw value the demosaicing keeps."""
    shot, read = 2e-3, 1e-4
    x = torch.full((1, 3, 256, 256), level)
    changes = {"exposure": 1.0, "red_gain": 1.0, "blue_gain": 1.0, "pattern": 0, "bits": 14}
    params = applied(1, shot=shot, read=read, **changes)
    params["to_camera"] = params["to_rgb"] = PLAIN
    y = Camera()(x, params)
    green = bayer_masks(x, params["pattern"])[:, 1].bool()
    # Back to raw: these are the mosaic's own values.
    raw = unprocess(y, PLAIN, torch.ones(1, 3, 1, 1))[:, 1][green]
    signal = unprocess(x, PLAIN, torch.ones(1, 3, 1, 1))[0, 1, 0, 0].item()
    below_black = stats.norm.cdf(0.0, signal, np.sqrt(shot * signal + read))
    if below_black < 1e-3:
        assert raw.var().item() == pytest.approx(shot * signal + read, rel=0.03)
    else:  # clipped at black: the upper half of the distribution is complete
        upper = (raw - signal)[raw > signal]
        expected = shot * signal + read
        assert upper.square().mean().item() == pytest.approx(expected, rel=0.05)
