"""NIQE against the published number, a transcription of its paper, and what goes wrong."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from skimage import data
from torch import Tensor

from callbacks import weights
from callbacks.metrics.base import TooSmall
from callbacks.metrics.niqe import (
    NIQE,
    block_features,
    distance,
    fit_model,
    main,
    mean_and_covariance,
    read_model,
    save_model,
)
from callbacks.results.results import table
from tests.callbacks.tiny import Images, Tiny, loader, trainer
from tests.reference import niqe_numpy

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
    """A model of parts of four photographs."""
    folder = tmp_path_factory.mktemp("niqe")
    for name in (*IMAGES, "chelsea"):
        whole = Image.fromarray(getattr(data, name)())
        for left in range(0, whole.width - 191, 64):
            whole.crop((left, 0, left + 192, 288)).save(folder / f"{name}-{left}.png")
    mean, covariance, _ = fit_model(sorted(folder.iterdir()))
    save_model(folder / "mine.npz", mean, covariance)
    return folder / "mine.npz"


@pytest.fixture
def metric(pristine: Path) -> NIQE:
    niqe = NIQE(model=str(pristine))
    niqe.load()
    return niqe


def compute(metric: NIQE, sr: Tensor, key: str = "x") -> Tensor:
    batch: Any = {"key": [f"{key}{i}" for i in range(len(sr))]}
    return metric.measure(sr, sr, batch)


# --------------------------------------------------------------------------------- the right number


def test_baboon_is_the_published_number(data_root: Path, weights_root: Path) -> None:
    """MATLAB's release and BasicSR: 5.7296."""
    metric = NIQE(model=str(weights_root / "niqe-pristine.npz"))
    metric.load()
    baboon = np.asarray(Image.open(data_root / "niqe/baboon.png").convert("RGB"))
    assert compute(metric, tensor(baboon)).item() == pytest.approx(5.7296, abs=1e-3)


@pytest.mark.parametrize("change", [None, bicubic, jpeg], ids=["clean", "bicubic", "jpeg"])
@pytest.mark.parametrize("name", IMAGES)
def test_as_the_paper_in_numpy(metric: NIQE, pristine: Path, name: str, change: Any) -> None:
    image = photograph(name) if change is None else change(photograph(name))
    with np.load(pristine, allow_pickle=False) as file:
        mean, covariance = file["mu_pris_param"], file["cov_pris_param"]
    expected = niqe_numpy.niqe(niqe_numpy.luma(image), mean, covariance, np.float32)
    assert compute(metric, tensor(image)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["kodim01", "kodim02", "kodim05"])
def test_as_the_paper_in_float64(data_root: Path, weights_root: Path, name: str) -> None:
    """What float32 does to pixels matters in nearly flat areas, and may move a shape by a step."""
    metric = NIQE(model=str(weights_root / "niqe-pristine.npz"))
    metric.load()
    image = np.asarray(Image.open(data_root / f"kodak24/{name}.png").convert("RGB"))
    assert metric.pristine is not None
    mean, covariance = (x.numpy() for x in metric.pristine)
    expected = niqe_numpy.niqe(niqe_numpy.luma(image), mean, covariance)
    assert compute(metric, tensor(image)).item() == pytest.approx(expected, rel=1e-4)


def test_statistics_and_sharpness_of_each_block() -> None:
    image = niqe_numpy.luma(photograph("astronaut"))
    expected, sharpness = niqe_numpy.features(image, np.float32)
    found, sharp = block_features(torch.from_numpy(image)[None])
    assert found.shape == (1, 9, 36)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(sharp[0], sharpness, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_flat_blocks_as_in_numpy(metric: NIQE, pristine: Path) -> None:
    """A flat block has no statistics (0 / 0): left out of the covariance, and of the means."""
    image = photograph("coffee").copy()
    image[:99, :99] = 128
    with np.load(pristine, allow_pickle=False) as file:
        mean, covariance = file["mu_pris_param"], file["cov_pris_param"]
    luma = niqe_numpy.luma(image)
    assert block_features(torch.from_numpy(luma)[None])[0][0, 0].isnan().any()
    expected = niqe_numpy.niqe(luma, mean, covariance, np.float32)
    assert compute(metric, tensor(image)).item() == pytest.approx(expected, rel=1e-4)


def test_gaussian_of_blocks_as_numpy() -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 50, 4)))
    features[0, 3, 1] = torch.nan
    mean, covariance = mean_and_covariance(features)
    for i, rows in enumerate(features.numpy()):
        np.testing.assert_allclose(mean[i], np.nanmean(rows, 0), rtol=1e-12)
        whole = rows[~np.isnan(rows).any(1)]
        np.testing.assert_allclose(covariance[i], np.cov(whole, rowvar=False), rtol=1e-12)


# ------------------------------------------------------------------------------ the batch, the run


def test_an_image_does_not_depend_on_its_batch(metric: NIQE) -> None:
    sr = tensor(*(photograph(name) for name in IMAGES))
    one_by_one = torch.cat([compute(metric, x) for x in sr.split(1)])
    torch.testing.assert_close(compute(metric, sr), one_by_one, rtol=1e-9, atol=0)


def test_a_broken_image_spoils_no_other(metric: NIQE) -> None:
    sr = tensor(*(photograph(name) for name in IMAGES))
    expected = compute(metric, sr)
    flat = torch.full_like(sr[:1], 0.5)
    for value in (torch.nan, torch.inf, -torch.inf):
        broken = sr[:1].clone()
        broken[0, 1, 250, 250] = value  # one pixel of one block
        found = compute(metric, torch.cat([broken, sr[1:], flat]))
        assert found[0].isnan()
        assert found[3].isnan()
        torch.testing.assert_close(found[1:3], expected[1:], rtol=1e-9, atol=0)


def test_border_and_rounding(metric: NIQE, pristine: Path) -> None:
    sr = tensor(photograph("astronaut"))
    metric.border, metric.scale = "scale", 3.5
    cut = compute(metric, sr)
    metric.border = 4
    assert compute(metric, sr) == cut
    metric.border = 0
    torch.testing.assert_close(compute(metric, sr[..., 4:-4, 4:-4]), cut)
    metric.round_8bit = False
    assert compute(metric, sr + 0.3 / 255) != compute(metric, sr)


def test_the_luma_of_yiq(metric: NIQE, pristine: Path) -> None:
    """As pyiqa has it: in [0, 255], where BT.601 is in [16, 235]."""
    image = photograph("coffee")
    with np.load(pristine, allow_pickle=False) as file:
        mean, covariance = file["mu_pris_param"], file["cov_pris_param"]
    luma = np.round(image @ np.array([0.299, 0.587, 0.114]))
    expected = niqe_numpy.niqe(luma, mean, covariance, np.float32)
    studio = compute(metric, tensor(image))
    metric.color = "yiq"
    assert compute(metric, tensor(image)).item() == pytest.approx(expected, rel=1e-4)
    assert compute(metric, tensor(image)) != studio
    assert metric.protocol()["color"] == "yiq"


def test_worse_images_have_higher_numbers(metric: NIQE) -> None:
    for name in IMAGES:
        clean = photograph(name)
        values = compute(metric, tensor(clean, bicubic(clean), jpeg(clean, 10)))
        assert values[0] < values[1]
        assert values[0] < values[2]


class Photographs(Images):
    def __init__(self) -> None:
        super().__init__(3, scale=1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return {**sample, "lr": tensor(photograph([*IMAGES][index]))[0]} | {
            "hr": tensor(photograph([*IMAGES][index]))[0]
        }


class Unchanged(LightningModule):
    def validation_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        return {"sr": batch["lr"].clone()}


def test_a_run_names_the_model_and_the_bad_image(
    tmp_path: Path, pristine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(Unchanged):
        def validation_step(self, batch: Any, *_: Any) -> dict[str, Tensor]:
            sr = batch["lr"].clone()
            if "tiny/01" in batch["key"]:
                sr[batch["key"].index("tiny/01"), 0, 7, 7] = torch.nan
            return {"sr": sr}

    metric = NIQE(model=str(pristine), control=True)
    run = trainer(tmp_path, metric)
    run.validate(Unchanged(), loader(Photographs()), verbose=False)
    record, control = metric.records[0], metric.control_records[0]
    assert record["n"] == 3
    assert record["value"] == pytest.approx(control["value"], rel=1e-9)  # at x1 bicubic is it
    assert record["protocol"]["weights"] == "mine.npz"
    assert record["protocol"]["sha256"] == weights.digest_of(pristine)
    assert table([{**record, "checkpoint": None}]).row_count == 1
    with caplog.at_level(logging.WARNING):
        run.validate(Breaks(), loader(Photographs()), verbose=False)
    assert "niqe is not finite for 1 of 3 images of tiny" in caplog.text
    assert "tiny/01 (nan)" in caplog.text


# --------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("size", [(95, 300), (300, 95), (96, 96), (191, 191)])
def test_images_too_small(metric: NIQE, size: tuple[int, int]) -> None:
    with pytest.raises(TooSmall, match="fewer than two blocks of 96x96"):
        compute(metric, torch.rand(2, 3, *size))


def test_images_too_small_without_their_border(metric: NIQE) -> None:
    metric.border = 8
    with pytest.raises(TooSmall):
        compute(metric, torch.rand(1, 3, 112, 207))
    assert compute(metric, torch.rand(1, 3, 112, 208)).isfinite()


class OneSmall(Images):
    """Of 192x192 pixels, but for the second one."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.side = 96 if index == 1 else 192
        return super().__getitem__(index)


def test_small_images_are_left_out_of_the_mean_and_named(
    metric: NIQE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path, metric)
    run.test(Tiny(), loader(OneSmall(3), batch_size=1), verbose=False)
    (record,) = metric.records
    values = metric.images["tiny"]
    assert list(values) == ["tiny/00", "tiny/02"]
    assert record["value"] == pytest.approx(sum(values.values()) / 2)
    assert (record["n"], record["protocol"]["images"]) == (2, 2)
    assert "niqe of tiny: 1 of 3 images are smaller than two blocks of 96x96" in caplog.text
    assert "(192x96) and left out, so its number is of the other 2: tiny/01" in caplog.text
    run.test(Tiny(), loader(Images(2, side=96)), verbose=False)
    assert metric.records == []
    assert "so there is no number: tiny/00, tiny/01" in caplog.text


def test_without_weights_there_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "obtain", lambda name: None)
    run = trainer(tmp_path, metric := NIQE())
    with caplog.at_level(logging.WARNING):
        run.validate(Unchanged(), loader(Photographs()), verbose=False)
    assert metric.records == []
    assert "val/niqe" not in run.callback_metrics
    assert "niqe is off" in caplog.text
    assert "niqe-pristine.npz is neither in $ENLARGER_WEIGHTS" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"niqe-pristine\.npz"):
        trainer(tmp_path, NIQE(strict_weights=True)).validate(
            Unchanged(), loader(Photographs()), verbose=False
        )


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"`model` of NIQE is 'mine.npz', and there is no such"):
        NIQE(model="mine.npz")
    with pytest.raises(ValueError, match="`border` of NIQE is -1"):
        NIQE(border=-1)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="is no model of NIQE, or damaged"):
        read_model(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match=r"no model of NIQE, or damaged: .*mu_pris_param"):
        read_model(path)
    np.savez(path, mu_pris_param=np.zeros((1, 18)), cov_pris_param=np.eye(18))
    with pytest.raises(ValueError, match=r"mean \(18,\), covariance \(18, 18\); expected \(36,\)"):
        read_model(path)
    np.savez(path, mu_pris_param=np.full((1, 36), np.nan), cov_pris_param=np.eye(36))
    with pytest.raises(ValueError, match="not finite"):
        read_model(path)
    np.savez(path, mu_pris_param=np.array([object()] * 36), cov_pris_param=np.eye(36))
    with pytest.raises(ValueError, match=r"no model of NIQE, or damaged: .*pickle"):
        read_model(path)  # a pickle could run anything


# ------------------------------------------------------------------------------------ the command


def test_fit_takes_the_sharp_blocks(tmp_path: Path) -> None:
    blurred = photograph("astronaut", 384)
    blurred[:192] = np.asarray(Image.fromarray(blurred).resize((24, 24)).resize((384, 384)))[:192]
    Image.fromarray(blurred).save(tmp_path / "half.png")
    _, sharp = block_features(torch.from_numpy(niqe_numpy.luma(blurred))[None])
    expected = int((sharp > 0.75 * sharp.max()).sum())
    assert 0 < expected < 16
    with pytest.raises(ValueError, match=f"1 photographs have {expected} sharp blocks"):
        fit_model([tmp_path / "half.png"])


def test_the_command(tmp_path: Path, pristine: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "new/mine.npz"
    with caplog.at_level(logging.INFO):
        assert main(["fit", str(pristine.parent), "--out", str(out)]) == 0
    assert weights.digest_of(out) in caplog.text
    assert weights.digest_of(out) == weights.digest_of(pristine)  # the same bytes every time
    mean, covariance = read_model(out)
    other = block_features(torch.from_numpy(niqe_numpy.luma(photograph("rocket")))[None])[0]
    assert distance(mean, covariance, other).isfinite().all()


def test_the_command_names_what_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (95, 200)).save(tmp_path / "a.png")
    arguments = [str(tmp_path), "--out", str(tmp_path / "x.npz")]
    for prepare, message in (
        (lambda: None, "a.png is 95x200 pixels"),
        (lambda: (tmp_path / "a.png").write_bytes(b"junk"), "a.png cannot be read"),
        (lambda: (tmp_path / "a.png").unlink(), "contains no images"),
    ):
        prepare()
        assert main(["fit", *arguments]) == 2
        assert message in caplog.text
    assert main(["fit", str(tmp_path / "none"), "--out", "x.npz"]) == 2
    assert "neither a file nor a folder" in caplog.text
    assert main(["fit", str(tmp_path), "--out", "x.npy"]) == 2
    assert "expected a name ending in .npz" in caplog.text
