"""ScaleReport: numbers of each scale, strips of images, on any number of batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from callbacks.metrics.pixels import psnr, to_pixels
from callbacks.report.scales import ScaleReport, cumulative_sums, summarise_scales
from files.method import BitwiseMethod
from tests.callbacks.tiny import Images, Tiny, loader, trainer

SIZES = [(1, 1), (2, 2), (4, 4)]


class Speaking(Tiny, BitwiseMethod):
    """A model whose bits are 1 if an area is brighter than 0.5; one latent channel per colour."""

    said = 3

    def encoded(self, images):
        return functional.interpolate(images, (4, 4), mode="area") - 0.5

    def decoded(self, total):
        return functional.interpolate(total, (16, 16), mode="nearest") + 0.5

    def bits_of(self, batch):
        f = self.encoded(batch["hr"])
        codes, total = [], torch.zeros_like(f)
        for n, size in enumerate(SIZES):
            left = functional.interpolate(f - total, size, mode="area")
            code = (2 * (left > 0).float() - 1) / 3 if n < self.said else torch.zeros_like(left)
            codes.append(code)
            total = total + functional.interpolate(code, (4, 4), mode="bilinear")
        return codes


class Tiled(Speaking):
    def bits_of(self, batch):
        return None


def ran(tmp_path, model, fit=False, **settings):
    report = ScaleReport(**settings)
    runner = trainer(tmp_path, report, max_epochs=1)
    if fit:
        runner.fit(model, loader(Images(5, side=16)), loader(Images(5, side=16)))
    else:
        runner.test(model, loader(Images(5, side=16)))
    return runner


def found(tmp_path, name="test", dataset="tiny"):
    return json.loads((tmp_path / "samples" / f"scales-{name}.json").read_text())[dataset]


def test_numbers_of_each_scale(tmp_path):
    model = Speaking()
    runner = ran(tmp_path, model)
    about = found(tmp_path)
    assert about["images"] == 5
    assert [scale["size"] for scale in about["scales"]] == [list(size) for size in SIZES]
    assert [scale["bits"] for scale in about["scales"]] == [3, 12, 48]
    assert all(scale["bit_accuracy"] == 1 for scale in about["scales"])
    expected, ones = [], []
    for sample in Images(5, side=16):
        hr = sample["hr"][None]
        codes = model.bits_of({"hr": hr})
        y = to_pixels(hr, "y")
        made = [to_pixels(model.decoded(t).clamp(0, 1), "y") for t in cumulative_sums(codes)]
        expected.append([float(psnr(each, y)) for each in made])
        ones.append((codes[2][0] > 0).flatten(1).double())
    assert [scale["psnr"] for scale in about["scales"]] == pytest.approx(
        np.mean(expected, 0).tolist()
    )
    share = torch.cat(ones, 1).mean(1)
    nats = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
    used = float((nats / np.log(2)).mean())
    assert about["scales"][2]["bits_used"] == pytest.approx(used)
    assert float(runner.callback_metrics["test/bit_accuracy"]) == pytest.approx(1)


def test_scales_in_which_nothing_is_said(tmp_path):
    model = Speaking()
    model.said = 2
    runner = ran(tmp_path, model)
    last = found(tmp_path)["scales"][2]
    assert (last["bits"], last["bits_used"], last["bit_accuracy"]) == (0, 0, 0)
    assert last["psnr"] == found(tmp_path)["scales"][1]["psnr"]
    assert float(runner.callback_metrics["test/bit_accuracy"]) == pytest.approx(1)


def test_strips_of_the_first_images(tmp_path):
    ran(tmp_path, Speaking(), images=3, shown=2, zoom=2)
    assert found(tmp_path)["images"] == 3
    with Image.open(tmp_path / "samples" / "scales-test.png") as strip:
        assert strip.size == (4 * 32, 2 * (32 + 8))  # three scales and HR


def test_a_full_disk_ends_no_run(tmp_path, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("callbacks.report.scales.write_whole", full)
    run = ran(tmp_path, Speaking())
    assert "could not be written ([Errno 28] No space left on device)" in caplog.text
    assert float(run.callback_metrics["test/bits_used"]) > 0


def test_in_training_it_has_the_step(tmp_path):
    ran(tmp_path, Speaking(), fit=True)
    assert len(list((tmp_path / "samples").glob("scales-val-*.json"))) == 1


@pytest.mark.parametrize("model", [Tiny, Tiled])
def test_models_that_say_nothing_are_passed_over(tmp_path, model):
    ran(tmp_path, model())
    assert not (tmp_path / "samples").exists()


def test_parts_of_several_processes():
    parts = [
        {
            **{"sizes": [[1, 1]], "said": [True], "places": [1], "right": [n], "psnr": [20.0 + n]},
            "ones": [torch.tensor([float(n), 1.0])],
        }
        for n in (0, 1)
    ]
    (scale,) = summarise_scales(parts)
    assert scale["psnr"] == 20.5
    assert scale["bit_accuracy"] == 0.25
    assert scale["bits_used"] == pytest.approx(0.5)  # one even, one that never changes
