"""Metrics of whole sets: every image once on any number of processes, and their references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.metrics import sets
from callbacks.metrics.base import Metric
from callbacks.metrics.fid import KIDThumb
from callbacks.metrics.pixels import PSNR
from callbacks.metrics.sets import SetMetric, find_reference
from callbacks.metrics.swd import SWD
from tests.callbacks.tiny import (
    Images,
    OneThread,
    Tiny,
    collate,
    loader,
    outputs,
    trainer,
    validate,
)


class Color(SetMetric):
    """Distance of mean colours, and of their spreads; it counts the images that it measures."""

    name = "color"

    def __init__(self, kind="mean", **arguments):
        super().__init__(**arguments)
        self.kind = kind
        self.measured = 0

    def protocol(self):
        return {"implementation": "test", "kind": self.kind}

    def features(self, images, batch):
        self.measured += len(images)
        return images.mean((2, 3))

    def distance(self, sr, hr):
        return float((sr.mean(0) - hr.mean(0)).norm())

    def distances(self, sr, hr):
        spread = float((sr.std(0) - hr.std(0)).norm())
        return {**super().distances(sr, hr), "color_spread": spread}


def distance_from(mean_color):
    """What `Color` should give for the tiny model's outputs of 7 images."""
    sr, _ = outputs(count=7)
    distance = (sr.double().mean((0, 2, 3)) - torch.as_tensor(mean_color)).norm()
    return pytest.approx(distance.item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_set_has_the_same_numbers_for_any_batch_size(tmp_path, batch_size):
    """They are of all images at once, and no means over batches."""
    metric = Color()

    run = validate(tmp_path, metric, data=loader(Images(count=7), batch_size))

    sr, hr = outputs(count=7)
    spread_of_sr = sr.mean((2, 3)).std(0)
    spread_of_hr = hr.mean((2, 3)).std(0)
    expected_spread = (spread_of_sr - spread_of_hr).norm().item()
    record, spread = metric.records
    assert record["metric"] == "color"
    assert record["value"] == distance_from(hr.mean((0, 2, 3)))
    assert record["n"] == 7
    assert record["protocol"] == {"implementation": "test", "kind": "mean"}
    assert spread["metric"] == "color_spread"
    assert spread["value"] == pytest.approx(expected_spread, rel=1e-4)
    assert set(run.callback_metrics) == {"val/color", "val/color_spread"}


def test_one_output_that_is_not_finite_makes_every_number_nan(tmp_path):
    """Were one absent, results and early stopping would go on with an earlier one."""

    class Broken(Tiny):
        def validation_step(self, batch, batch_idx):
            outputs = super().validation_step(batch, batch_idx)
            if batch_idx == 0:
                outputs["sr"][0, 0, 0, 0] = torch.nan
            return outputs

    color = Color()
    swd = SWD(levels=2)

    validate(tmp_path, color, swd, model=Broken(), data=loader(Images(count=7)))

    records = [*color.records, *swd.records]
    assert [record["metric"] for record in records] == ["color", "color_spread", "swd", "swd_2"]
    for record in records:
        assert np.isnan(record["value"])
        assert record["not_finite"] == 1


def test_a_set_of_one_image_is_refused_before_training(tmp_path):
    metric = Color()
    run = trainer(tmp_path, metric, num_sanity_val_steps=1)

    with pytest.raises(ValueError, match="color needs at least 2 images, but 'tiny' has 1"):
        run.fit(Tiny(), loader(), loader(Images(count=1, name="tiny")))

    assert metric.measured == 0


# ------------------------------------------------------------------------------------- references


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def real(tmp_path):
    """A folder of eleven images, 0.png to 10.png, of two sizes, two of them in a folder below."""
    folder = tmp_path / "real"
    (folder / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for n in range(11):
        size = (40, 32, 3) if n % 3 else (36, 48, 3)
        path = folder / ("more" if n > 8 else "") / f"{n}.png"
        Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(path)
    return folder


def mean_colors(folder):
    files = sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).as_posix())
    return np.array([np.asarray(Image.open(path)).mean((0, 1)) / 255 for path in files])


def change(folder):
    """Replace one image of a folder."""
    Image.new("RGB", (32, 40)).save(folder / "3.png")


def test_outputs_are_compared_with_the_current_images_of_a_reference_folder(tmp_path, real):
    """Features of the folder are kept, but those of replaced images must not be used."""
    metric = Color(reference=str(real))
    data = loader(Images(count=7))

    validate(tmp_path, metric, data=data)

    record = metric.records[0]
    assert record["value"] == distance_from(mean_colors(real).mean(0))
    assert record["n"] == 7
    assert record["protocol"]["reference_n"] == 11
    assert record["protocol"]["reference"].startswith("real, as they are, ")  # not resized
    assert metric.measured == 7 + 11  # outputs, and images of the folder

    change(real)
    validate(tmp_path, metric, data=data)
    assert metric.records[0]["value"] == distance_from(mean_colors(real).mean(0))


def test_a_reference_has_the_features_of_each_image(real):
    reference = find_reference(Color(), str(real))

    assert reference.name == "real"
    np.testing.assert_allclose(reference.features, mean_colors(real), atol=1e-6)


def test_features_of_a_reference_are_computed_once_also_if_its_folder_is_moved(tmp_path, real):
    metric = Color()

    find_reference(metric, str(real))
    moved = real.rename(tmp_path / "elsewhere")
    find_reference(metric, str(moved))

    assert metric.measured == 11


def test_features_of_a_reference_are_computed_again_for_another_protocol(real):
    metric = Color("other")

    find_reference(Color(), str(real))
    find_reference(metric, str(real))

    assert metric.measured == 11


def test_features_of_a_reference_are_computed_again_if_pixels_or_a_name_change(real):
    """A name is the seed of the places where an image's patches and crops are taken."""
    metric = Color()
    find_reference(metric, str(real))

    change(real)
    find_reference(metric, str(real))
    assert metric.measured == 2 * 11

    (real / "3.png").rename(real / "3a.png")
    find_reference(metric, str(real))
    assert metric.measured == 3 * 11


@pytest.mark.parametrize("damage", ["truncated", "pickle"])
def test_a_damaged_file_of_the_cache_is_computed_again(real, cache, caplog, damage):
    expected = find_reference(Color(), str(real))
    [path] = cache.iterdir()
    if damage == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object))
    else:
        path.write_bytes(path.read_bytes()[:-40])

    reference = find_reference(Color(), str(real))

    assert np.array_equal(reference.features, expected.features)
    assert "computed again" in caplog.text
    assert list(cache.iterdir()) == [path]  # no half-written file is left


def test_a_broken_image_of_a_reference_is_named_and_nothing_is_cached(real, cache):
    path = real / "1.png"
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(ValueError, match=r"1\.png: the file is truncated"):
        find_reference(Color(), str(real))

    assert not cache.exists()


def test_two_images_of_one_key_in_a_reference_are_refused(real):
    Image.new("RGB", (8, 8)).save(real / "1.jpg")

    with pytest.raises(ValueError, match=r"1\.jpg and .*1\.png would both have the key '1'"):
        find_reference(Color(), str(real))


# ------------------------------------------------------------------------------ several processes


class Sharded(Tiny):
    """Processes share 7 images in turns, and have batches of 2; one image has been repeated."""

    def test_dataloader(self):
        numbers = list(range(self.trainer.global_rank, 7, self.trainer.world_size))
        if self.trainer.global_rank == 1:
            numbers.append(0)  # a repeat, as padding would give
        images = Images(count=7, side=48)
        return DataLoader(images, batch_size=2, sampler=numbers, collate_fn=collate)


class Save(PSNR):
    """Write what all metrics hold at the end, on each process."""

    def on_test_end(self, trainer, pl_module):
        records = []
        for callback in trainer.callbacks:
            if isinstance(callback, Metric):
                records += callback.records
        logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        path = Path(trainer.default_root_dir, f"{trainer.global_rank}.pt")
        torch.save((records, logged), path)


class AbsentOnOne(Color):
    """Fail as on a machine that lacks a file."""

    def absent(self):
        dist = torch.distributed
        on_last = dist.is_initialized() and dist.get_rank() == dist.get_world_size() - 1
        return "missing here" if on_last else ""


def records_of(folder, world):
    """Evaluate by so many processes; return the records, which are the same on each."""
    folder.mkdir()
    metrics = [Color(control=True), SWD(), KIDThumb(), Save()]
    settings = {"devices": world, "strategy": "ddp_fork"} if world > 1 else {}
    trainer(folder, OneThread(), *metrics, **settings).test(Sharded(), verbose=False)
    first, *others = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    for other in others:
        assert other == first
    records, _ = first
    return records


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 3])
def test_metrics_of_sets_do_not_depend_on_the_number_of_processes(tmp_path, world):
    by_one = records_of(tmp_path / "one", 1)

    by_several = records_of(tmp_path / "several", world)

    for expected, record in zip(by_one, by_several, strict=True):
        assert record["metric"] == expected["metric"]
        assert expected["n"] == 7
        assert record["n"] == 7  # the repeated image counts once
        assert record["value"] == pytest.approx(expected["value"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_metric_that_one_process_cannot_compute_is_off_on_all(tmp_path):
    """The others would wait for it at the end."""
    run = trainer(tmp_path, OneThread(), AbsentOnOne(), Save(), devices=2, strategy="ddp_fork")
    run.test(Sharded(), verbose=False)
    for rank in range(2):
        records, _ = torch.load(tmp_path / f"{rank}.pt")
        assert [record["metric"] for record in records] == ["psnr"]  # Save's own


@pytest.mark.distributed
def test_an_error_of_the_distance_ends_both_processes(tmp_path):
    """The first process computes it, and the second would wait for it."""

    class Fails(Color):
        def distance(self, sr, hr):
            raise ArithmeticError("no distance")

    run = trainer(tmp_path, OneThread(), Fails(), devices=2, strategy="ddp_fork")

    with pytest.raises(Exception, match="no distance"):
        run.test(Sharded(), verbose=False)
