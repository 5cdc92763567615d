"""NIQE against the published number, a transcription of its paper, and what goes wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from callbacks.metrics.niqe import NIQE, block_features, mean_and_covariance, read_model
from tests.reference import niqe_numpy
from tests.stand_ins import save_niqe_model

IMAGES = {"astronaut": data.astronaut, "coffee": data.coffee, "rocket": data.rocket}


def photograph(name: str, side: int = 300) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(IMAGES[name]()[:side, :side])


def tensor(*images: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def jpeg(image: np.ndarray[Any, Any], quality: int = 40) -> np.ndarray[Any, Any]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def bicubic(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    whole = Image.fromarray(image)
    small = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(whole.size, Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of parts of three photographs."""
    parts = [
        IMAGES[name]()[:288, left : left + 192]
        for name in IMAGES
        for left in range(0, IMAGES[name]().shape[1] - 191, 64)
    ]
    luma = np.stack([niqe_numpy.luma(part) for part in parts])
    features = block_features(torch.from_numpy(luma)).flatten(0, 1)
    mean, covariance = mean_and_covariance(features[None])
    path = tmp_path_factory.mktemp("niqe") / "mine.npz"
    save_niqe_model(path, mean[0], covariance[0])
    return path


def niqe_of(model: Path) -> NIQE:
    niqe = NIQE()
    niqe.build([model])
    return niqe


@pytest.fixture
def metric(pristine: Path) -> NIQE:
    return niqe_of(pristine)


def compute(metric: NIQE, sr: Tensor, key: str = "x") -> Tensor:
    batch: Any = {"key": [f"{key}{i}" for i in range(len(sr))]}
    return metric.measure(sr, sr, batch)


def by_paper(model: Path, luma: np.ndarray[Any, Any], *precision: Any) -> float:
    with np.load(model, allow_pickle=False) as file:
        return niqe_numpy.niqe(luma, file["mu_pris_param"], file["cov_pris_param"], *precision)


# --------------------------------------------------------------------------------- the right number


def test_baboon_is_the_published_number(data_root: Path, weights_root: Path) -> None:
    """MATLAB's release and BasicSR: 5.7296."""
    metric = niqe_of(weights_root / "niqe-pristine.npz")
    baboon = np.asarray(Image.open(data_root / "niqe/baboon.png").convert("RGB"))
    assert compute(metric, tensor(baboon)).item() == pytest.approx(5.7296, abs=1e-3)


@pytest.mark.parametrize("change", [None, bicubic, jpeg], ids=["clean", "bicubic", "jpeg"])
@pytest.mark.parametrize("name", IMAGES)
def test_as_the_paper_in_numpy(metric: NIQE, pristine: Path, name: str, change: Any) -> None:
    image = photograph(name) if change is None else change(photograph(name))
    expected = by_paper(pristine, niqe_numpy.luma(image), np.float32)
    assert compute(metric, tensor(image)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["kodim01", "kodim02", "kodim05"])
def test_as_the_paper_in_float64(data_root: Path, weights_root: Path, name: str) -> None:
    """What float32 does to pixels matters in nearly flat areas, and may move a shape by a step."""
    model = weights_root / "niqe-pristine.npz"
    image = np.asarray(Image.open(data_root / f"kodak24/{name}.png").convert("RGB"))
    expected = by_paper(model, niqe_numpy.luma(image))
    assert compute(niqe_of(model), tensor(image)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_flat_blocks_as_in_numpy(metric: NIQE, pristine: Path) -> None:
    """A flat block has no statistics (0 / 0): left out of the covariance, and of the means."""
    image = photograph("coffee").copy()
    image[:99, :99] = 128
    luma = niqe_numpy.luma(image)
    assert block_features(torch.from_numpy(luma)[None])[0, 0].isnan().any()
    expected = by_paper(pristine, luma, np.float32)
    assert compute(metric, tensor(image)).item() == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------------------------------------ the batch, the run


def test_the_luma_of_yiq(metric: NIQE, pristine: Path) -> None:
    """As pyiqa has it: in [0, 255], where BT.601 is in [16, 235]."""
    image = photograph("coffee")
    luma = np.round(image @ np.array([0.299, 0.587, 0.114]))
    expected = by_paper(pristine, luma, np.float32)
    studio = compute(metric, tensor(image))
    metric.color = "yiq"
    assert compute(metric, tensor(image)).item() == pytest.approx(expected, rel=1e-4)
    assert compute(metric, tensor(image)) != studio
    assert metric.protocol()["color"] == "yiq"


# --------------------------------------------------------------------------------------- what fails


def test_a_model_with_a_pickle_is_refused(tmp_path: Path) -> None:
    """It could run anything."""
    path = tmp_path / "bad.npz"
    np.savez(path, mu_pris_param=np.array([object()] * 36), cov_pris_param=np.eye(36))
    with pytest.raises(ValueError, match="pickle"):
        read_model(path)
