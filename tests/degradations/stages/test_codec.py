"""WebP, AVIF, JPEG through Pillow and H.264 through PyAV."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image, features
from skimage import data

from degradations.base import Canvas
from degradations.draws import Draws
from degradations.stages.codec import AVIF, H264, PillowJPEG, WebP
from degradations.stages.jpeg import JPEG

HALF = {"subsampling": "4:2:0"}
PILLOW = {
    WebP: ("WEBP", {"method": 4}),
    # One thread: the bits of the encoder depend on their number.
    AVIF: ("AVIF", {"speed": 6, "max_threads": 1, **HALF}),
    PillowJPEG: ("JPEG", HALF),
}
SIZES = [(96, 80), (37, 53), (1, 1), (5, 1)]


def crop(h, w):
    return torch.from_numpy(data.astronaut()[20:][:h, 150:][:, :w].copy()).permute(2, 0, 1)[None]


def as_params(**values):
    return {name: torch.tensor([value]) for name, value in values.items()}


def error(y, x):
    return (y - x).square().mean().sqrt().item()


@pytest.fixture(params=[WebP, AVIF, PillowJPEG, H264])
def stage(request):
    if request.param is H264:
        pytest.importorskip("av", reason="the extra 'video' is not installed")
    return request.param()


def qualities(stage):
    """From worse to better."""
    if isinstance(stage, H264):
        return [{"crf": crf} for crf in (45, 30, 15)]
    more = {} if isinstance(stage, WebP) else {"subsampling": 2}
    return [{"quality": quality, **more} for quality in (10, 50, 95)]


@pytest.mark.parametrize("kind", PILLOW)
@pytest.mark.parametrize("size", SIZES)
def test_is_exactly_what_pillow_writes_and_reads(kind, size):
    x = crop(*size)
    for own in qualities(kind()):
        name, settings = PILLOW[kind]
        file = io.BytesIO()
        Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(
            file, name, quality=own["quality"], **settings
        )
        expected = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
        got = kind()(x / 255, as_params(**own))
        assert torch.equal(got[0], expected / 255)


def test_jpeg_is_the_same_jpeg():
    x = crop(61, 47) / 255
    for name in range(3):
        params = as_params(quality=40, subsampling=name)
        assert torch.equal(PillowJPEG()(x, params), JPEG()(x, params))


def test_quality_is_quality(stage):
    x = crop(96, 80) / 255
    errors = [error(stage(x, as_params(**own)), x) for own in qualities(stage)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]
    assert errors[-1] < 0.05


@pytest.mark.parametrize("size", SIZES)
def test_brightness_and_place_are_kept(stage, size):
    x = torch.nn.functional.avg_pool2d(crop(*size) / 255, 5, 1, 2, count_include_pad=False)
    y = stage(x, as_params(**qualities(stage)[-1]))
    assert y.shape == x.shape
    assert (y - x).mean().abs() < 1 / 255
    if min(size) > 8:  # no other shift fits better
        for dy, dx in ((0, 1), (1, 0)):
            shifted = x.roll((dy, dx), (-2, -1))[..., 1:, 1:]
            assert error(y[..., 1:, 1:], x[..., 1:, 1:]) < error(y[..., 1:, 1:], shifted)


def test_each_image_has_its_own_quality(stage):
    x = crop(40, 48) / 255
    low, _, high = (as_params(**own) for own in qualities(stage))
    both = {name: torch.cat([low[name], high[name]]) for name in low}
    y = stage(torch.cat([x, x]), both)
    assert torch.equal(y[:1], stage(x, low))
    assert torch.equal(y[1:], stage(x, high))


def test_images_on_a_canvas_are_cut_out(stage):
    """Images on a canvas are coded as alone; pixels around them stay."""
    pixels = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    sizes = [(40, 29), (17, 48)]
    own = as_params(**qualities(stage)[0])
    params = {name: value.repeat(2) for name, value in own.items()}
    before = pixels.clone()
    canvas = stage.on_canvas(Canvas(pixels, torch.tensor(sizes), (40, 48)), params)
    assert torch.equal(pixels, before)
    for y, x, (h, w) in zip(canvas.pixels, before, sizes, strict=True):
        assert torch.equal(y[:, :h, :w], stage(x[None, :, :h, :w], own)[0])
        assert torch.equal(y[:, h:], x[:, h:])
        assert torch.equal(y[:, :, w:], x[:, :, w:])


def test_subsampling_costs_colour():
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.3 * (torch.rand(1, 3, 64, 64, generator=generator) > 0.5).float()
    for stage in (AVIF(), PillowJPEG()):
        full, half = (stage(x, as_params(quality=95, subsampling=name)) for name in (0, 2))
        assert error(half, x) > 1.5 * error(full, x)


def test_what_is_drawn(stage):
    params = stage.draw(Draws(np.arange(3000)), torch.Size((3000, 3, 8, 8)))
    name, (low, high) = ("crf", (18, 36)) if isinstance(stage, H264) else ("quality", (30, 95))
    assert set(params[name]) == set(range(low, high + 1))


@pytest.mark.parametrize("kind", PILLOW)
def test_a_codec_that_pillow_lacks(kind, monkeypatch):
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(ValueError, match=r"Pillow .* was built without (WebP|AVIF|JPEG)"):
        kind()


def test_video_without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"needs the package av.*\[video\]"):
        H264()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WebP((-1, 50)), r"quality is .*0 <= lower"),
        (lambda: AVIF((50, 101)), r"quality is .*upper <= 100"),
        (lambda: PillowJPEG((0, 50)), r"quality is .*1 <= lower"),
        (lambda: H264((0, 52)), r"crf is .*upper <= 51"),
        (lambda: H264(preset="quick"), r"preset is 'quick'.*ultrafast"),
        (lambda: WebP(method=7), r"method is 7; expected .* 0 to 6"),
        (lambda: AVIF(speed=11), r"speed is 11; expected .* 0 to 10"),
        (lambda: AVIF(subsampling={"4:0:0": 1.0}), "subsampling has the key"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
