"""NIQE against the published number and a transcription of its paper."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from callbacks.metrics.niqe import NIQE, block_features, mean_and_covariance, read_model
from tests.make import as_tensor, keys, photograph, read
from tests.reference import niqe_numpy
from tests.stand_ins import save_niqe_model

NAMES = ["astronaut", "coffee", "rocket"]


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40)
    return np.array(Image.open(file))


def bicubic(image):
    whole = Image.fromarray(image)
    small = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.BICUBIC)
    return np.array(small.resize(whole.size, Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A model of parts of three photographs."""
    lumas = []
    for name in NAMES:
        image = getattr(data, name)()
        for left in range(0, image.shape[1] - 191, 64):
            lumas.append(niqe_numpy.luma(image[:288, left : left + 192]))
    features = block_features(torch.from_numpy(np.stack(lumas))).flatten(0, 1)
    mean, covariance = mean_and_covariance(features[None])
    path = tmp_path_factory.mktemp("niqe") / "mine.npz"
    save_niqe_model(path, mean[0], covariance[0])
    return path


def niqe(model, image, color=None):
    """Ours, of an image (H, W, 3) uint8."""
    metric = NIQE()
    metric.build([model])
    metric.color = color or metric.color
    return metric.measure(as_tensor(image), as_tensor(image), keys(1)).item()


def by_paper(model, luma, *precision):
    with np.load(model, allow_pickle=False) as file:
        return niqe_numpy.niqe(luma, file["mu_pris_param"], file["cov_pris_param"], *precision)


def test_baboon_is_the_published_number(data_root, weights_root):
    """MATLAB's release and BasicSR: 5.7296."""
    metric = NIQE()
    metric.build([weights_root / "niqe-pristine.npz"])
    baboon = read(data_root / "niqe/baboon.png")

    assert metric.measure(baboon, baboon, keys(1)).item() == pytest.approx(5.7296, abs=1e-3)


@pytest.mark.parametrize("change", [np.array, bicubic, jpeg])
@pytest.mark.parametrize("name", NAMES)
def test_as_the_paper_in_numpy(pristine, name, change):
    image = change(photograph(300, 300, name, corner=0))

    expected = by_paper(pristine, niqe_numpy.luma(image), np.float32)

    assert niqe(pristine, image) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["kodim01", "kodim02", "kodim05"])
def test_as_the_paper_in_float64(data_root, weights_root, name):
    """What float32 does to pixels matters in nearly flat areas, and may move a shape by a step."""
    model = weights_root / "niqe-pristine.npz"
    image = np.array(Image.open(data_root / f"kodak24/{name}.png").convert("RGB"))

    expected = by_paper(model, niqe_numpy.luma(image))

    assert niqe(model, image) == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_flat_blocks_as_in_numpy(pristine):
    """A flat block has no statistics (0 / 0): left out of the covariance, and of the means."""
    image = photograph(300, 300, "coffee", corner=0)
    image[:99, :99] = 128

    expected = by_paper(pristine, niqe_numpy.luma(image), np.float32)

    assert niqe(pristine, image) == pytest.approx(expected, rel=1e-4)


def test_the_luma_of_yiq(pristine):
    """As pyiqa has it: in [0, 255], where BT.601 is in [16, 235]."""
    image = photograph(300, 300, "coffee", corner=0)
    luma = np.round(image @ np.array([0.299, 0.587, 0.114]))

    expected = by_paper(pristine, luma, np.float32)

    assert niqe(pristine, image, "yiq") == pytest.approx(expected, rel=1e-4)
    assert niqe(pristine, image, "yiq") != niqe(pristine, image)


def test_a_model_with_a_pickle_is_refused(tmp_path):
    """It could run anything."""
    path = tmp_path / "bad.npz"
    np.savez(path, mu_pris_param=np.array([object()] * 36), cov_pris_param=np.eye(36))

    with pytest.raises(ValueError, match="pickle"):
        read_model(path)
