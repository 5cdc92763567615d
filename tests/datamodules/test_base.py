"""SRDataModule: the same sample in any batch, crops of pairs, evaluation, predict, resuming."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from PIL.ExifTags import Base

from callbacks.metrics.pixels import PSNR
from datamodules.augment import Albumentations
from datamodules.base import SRDataModule, check_crop
from datamodules.batches import collate
from datamodules.order.plan import Item
from datamodules.samples import PredictImages, TrainingImages
from datamodules.sources.folder import Folder
from datamodules.sources.mix import Mix
from degradations.base import cut_size
from degradations.bicubic import Bicubic
from lightning_modules.controls.simple import Bicubic as BicubicModel
from lightning_modules.methods.regression import Regression
from tests.datamodules.memory import (
    Memory,
    by_name,
    data_of,
    evaluation,
    keys_of,
    located,
    on_device,
    opened,
    random_image,
    random_images,
    repeated,
    trainer,
    training,
)
from tests.datamodules.profiles import rgb_profile, srgb_of_rgb
from tests.make import Convolution
from tests.quick import quick

FLOAT_ERROR = 1e-5  # of the degradation's sums, whose order depends on the batch


# ------------------------------------------------------------------------- the sample's own seed


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 2)])
def test_a_training_sample_is_the_same_in_any_batch(batch_size, workers):
    expected = list(training(data_of(random_images(12), batch_size=48, per_image=4)))

    data = data_of(random_images(12), batch_size=batch_size, per_image=4, workers=workers)
    batches = list(training(data))

    assert {len(batch["key"]) for batch in batches} == {batch_size}
    for name, error in (("hr", 0), ("lr", FLOAT_ERROR)):
        images = by_name(batches, name)
        for sample, image in by_name(expected, name).items():
            torch.testing.assert_close(images[sample], image, rtol=0, atol=error)


def test_any_number_of_workers_gives_equal_batches():
    """With broken, small and replaced images among them."""
    images = random_images(11).samples
    images |= {f"bad{i}": f"bad{i}.jpg: truncated" for i in range(3)}
    images |= {f"small{i}": {"hr": random_image(9, 40)} for i in range(2)}

    def two_epochs(workers: int) -> tuple[list[Any], Any]:
        data = opened(
            Memory(images),
            per_image=3,
            workers=workers,
            small="skip",
            unreadable_limit=1,
        )
        loader = data.train_dataloader()
        batches = []
        for epoch in (0, 1):  # the workers persist
            data._position = lambda epoch=epoch: (epoch, 0)
            batches += [on_device(data, batch) for batch in loader]
        return batches, data.tally.reasons

    expected, expected_reasons = two_epochs(workers=0)
    batches, reasons = two_epochs(workers=3)

    assert len(expected) == 24
    assert set(reasons) == {"damaged", "small"}
    assert reasons == expected_reasons
    for batch, other in zip(batches, expected, strict=True):
        assert batch["key"] == other["key"]
        for name in ("seed", "hr", "lr"):
            assert torch.equal(batch[name], other[name])


def test_a_validation_sample_is_the_same_in_any_batch():
    def images(batch_size: int, workers: int) -> dict[Any, torch.Tensor]:
        data = data_of(
            val={"a": random_images(16)},
            eval_batch_size=batch_size,
            workers=workers,
        )
        return by_name(evaluation(data, "val"), "lr")

    expected = images(1, 0)
    found = images(3, 2)

    assert len(expected) == 16
    assert list(found) == list(expected)
    for sample, image in expected.items():
        torch.testing.assert_close(found[sample], image, rtol=0, atol=FLOAT_ERROR)


# ------------------------------------------------------------------------------------------ crops


def crops_of(sample: Any, count: int, **settings: Any) -> list[Any]:
    """Crops of one image, each by a seed of its own."""
    dataset = TrainingImages(Memory({"a": sample}), "train", **settings)
    return [dataset[Item(0, 7919 * number)] for number in range(count)]


@pytest.mark.parametrize("scale", [1, 3])
def test_pairs_stay_aligned_in_all_eight_orientations(scale):
    lr = located(20, 24)
    pair = {"hr": repeated(lr, scale), "lr": lr}

    crops = crops_of(pair, 200, scale=float(scale), crop_size=5 * scale, flips=True)

    orientations = set()
    rows = set()
    columns = set()
    for crop in crops:
        corner = crop["lr"].astype(int)
        orientations.add((*(corner[1, 0] - corner[0, 0]), *(corner[0, 1] - corner[0, 0])))
        rows.add(corner[..., 0].min())
        columns.add(corner[..., 1].min())
        assert corner.shape == (5, 5, 3)
        np.testing.assert_array_equal(crop["hr"], repeated(crop["lr"], scale))
    assert len(orientations) == 8
    assert rows == set(range(16))
    assert columns == set(range(20))


def test_horizontal_flips_keep_rows():
    hr = located(8, 8)
    crops = crops_of({"hr": hr}, 30, scale=2.0, crop_size=8, flips="horizontal")
    assert {crop["hr"].tobytes() for crop in crops} == {hr.tobytes(), hr[:, ::-1].tobytes()}


@pytest.mark.parametrize(
    ("scale", "crop", "fits"),
    [(4, 50, "48 or 52"), (4, 3, "4"), (2.5, 96, "95 or 98"), (3.6, 1, "4")],
)
def test_a_crop_that_does_not_fit_the_scale_is_told_those_that_do(scale, crop, fits):
    data = data_of(random_images(1), scale=scale, crop_size=crop)
    with pytest.raises(ValueError, match=rf"crop_size is {crop}, .*scale {scale}; use {fits}$"):
        data.setup("fit")
    for side in fits.split(" or "):
        check_crop(int(side), scale)


def test_images_of_8_and_16_bits_meet_in_one_batch():
    eight = located(8, 8)
    sixteen = eight.astype(np.uint16) * 257
    samples = [{"key": str(i), "seed": i, "hr": hr} for i, hr in enumerate((eight, sixteen))]

    both = collate(samples)["hr"]
    alone = collate(samples[:1])["hr"]

    assert torch.equal(both[0], both[1])
    assert alone.dtype == torch.uint8
    assert torch.equal(alone[0] / 255, both[0])


def test_augmentation_changes_hr_before_lr_is_made():
    degradation = Bicubic(2, quantize=False)
    augment = Albumentations([albumentations.RandomBrightnessContrast(p=1.0)])

    plain = list(training(data_of(random_images(4), degradation=degradation)))
    (batch,) = training(data_of(random_images(4), degradation=degradation, augment=augment))

    unchanged = by_name(plain, "hr")
    for sample, image in by_name([batch], "hr").items():
        assert not torch.equal(image, unchanged[sample])
    lr = degradation(batch["hr"], batch["seed"])
    torch.testing.assert_close(batch["lr"], lr, rtol=0, atol=1e-6)


def test_unreadable_images_are_replaced_counted_and_told(caplog):
    broken = {f"bad{i}": f"/photos/bad{i}.jpg: truncated" for i in range(4)}
    source = Memory({**random_images(8).samples, **broken})
    data = data_of(source, per_image=4, unreadable_limit=1.0)

    keys = keys_of(training(data))

    assert len(keys) == 48
    assert not any("bad" in key for key in keys)
    assert data.tally.unreadable >= 16  # four times each; replacements may be broken, too
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("skipped a training image, unreadable (1 so far): /photos/bad")
    assert len(messages) == min(data.tally.unreadable, 20)


# ------------------------------------------------------------------------------------- evaluation


@given(
    st.integers(1, 500),
    st.one_of(st.integers(1, 8).map(float), st.floats(1, 8, allow_subnormal=False)),
)
@settings(max_examples=300, deadline=None)
def test_images_are_cut_to_the_largest_size_that_fits(side, scale):
    cut, _ = cut_size((side, side), scale)
    lr = int(side / scale + 1e-6)
    assert 0 <= cut <= side
    if lr >= 1:
        assert Bicubic(scale).lr_size((cut, cut)) == (lr, lr)
        assert side - cut < scale + 0.5


def test_images_of_differing_sizes():
    sizes = [(8, 8), (9, 13), (20, 7)]
    source = Memory({f"{size}": {"hr": random_image(*size)} for size in sizes})
    batches = list(evaluation(data_of(val={"a": source}), "val"))
    assert [batch["size"] for batch in batches] == [(8, 8), (8, 12), (20, 6)]
    assert [tuple(batch["lr"].shape[2:]) for batch in batches] == [(4, 4), (4, 6), (10, 3)]


@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_a_source_with_lr_of_its_own(scale):
    lr = random_image(6, 8)
    hr = random_image(round(6 * scale) + 1, round(8 * scale))
    data = data_of(scale=scale, test={"a": Memory({"p": {"hr": hr, "lr": lr}})}, degradation=None)
    (batch,) = evaluation(data, "test")
    assert batch["size"] == (round(6 * scale), round(8 * scale))
    assert torch.equal(batch["lr"][0], torch.from_numpy(lr).permute(2, 0, 1) / 255)


def test_lr_without_hr():
    source = Memory({"a": {"lr": random_image(8, 8)}})
    (batch,) = evaluation(data_of(scale=3, val={"v": source}), "val")
    assert batch["size"] == (24, 24)
    assert "hr" not in batch


def test_sources_with_a_scale_and_a_degradation_of_their_own():
    images = random_images(1, 12, 12).samples
    bicubic = Bicubic(2, quantize=False)
    sources = {
        "x2": Memory(images),
        "x3": Memory(images, scale=3, degradation=Bicubic(3)),
        "plain": Memory(images, degradation=bicubic),
    }
    x2, x3, plain = evaluation(data_of(val=sources), "val")
    assert x2["lr"].shape[-1] == plain["lr"].shape[-1] == 6
    assert x3["lr"].shape[-1] == 4
    assert sources["x3"].prepared_for == [3.0]
    assert torch.equal(plain["lr"], bicubic(plain["hr"], plain["seed"]))
    assert not torch.allclose(plain["lr"], x2["lr"], atol=1e-3)


def test_an_unreadable_image_ends_an_evaluation_and_its_workers():
    source = Memory({**random_images(2).samples, "bad": "/photos/bad.jpg: truncated"})
    with pytest.raises(ValueError, match=r"/photos/bad\.jpg: truncated"):
        list(evaluation(data_of(val={"a": source}, workers=2), "val"))
    assert not multiprocessing.active_children()


# ---------------------------------------------------------------------------------------- predict


def test_batches_of_predict():
    meta = {"path": "/in/a.png", "alpha": None}
    source = Memory(
        {
            "a": {"hr": random_image(9, 7), "meta": meta},
            "b": "/in/b.jpg: truncated",
            "c": {"hr": random_image(4, 4, dtype=np.uint16), "meta": {"path": "/in/c.png"}},
        }
    )
    eight, broken, sixteen = evaluation(data_of(scale=2.5, predict=source), "predict")
    assert eight["key"] == ["predict/a"]
    assert eight["size"] == (22, 18)  # 22.5 and 17.5, rounded to even
    assert eight["meta"] == [{"bit_depth": 8, **meta}]
    assert "hr" not in eight
    assert broken == {"key": ["predict/b"], "error": ["/in/b.jpg: truncated"]}
    assert sixteen["lr"].dtype == torch.float32
    assert sixteen["lr"].max() <= 1


@pytest.mark.parametrize("size", [(19, 40), (40, 29)])
def test_an_image_larger_than_the_output_is_an_error_of_its_own(size):
    source = Memory({"a": {"hr": random_image(9, 7)}, "b": {"hr": random_image(20, 30)}})
    small, large = evaluation(data_of(predict=source, size=size), "predict")
    assert small["size"] == size
    assert f"b is 30x20 pixels, larger than the {size[1]}x{size[0]}" in large["error"][0]


def test_hidden_colours_and_stale_exif_do_not_reach_the_model():
    tags = Image.Exif()
    tags[Base.Orientation] = 6
    tags[Base.Make] = "Maker"
    hidden = np.array([[[255, 0, 255], [1, 2, 3]]], np.uint8)
    alpha = np.array([[0, 255]], np.uint8)
    meta = {"alpha": alpha, "exif": tags.tobytes(), "mode": "RGBA"}

    images = PredictImages(Memory({"a": {"hr": hidden, "meta": meta}}), "predict", 2)
    sample = images[Item(0, 0)]

    assert sample["lr"].tolist() == [[[1, 2, 3], [1, 2, 3]]]
    exif = Image.Exif()
    exif.load(sample["meta"]["exif"])
    assert dict(exif) == {Base.Orientation: 1, Base.Make: "Maker"}


def test_profiles_are_converted_where_that_is_asked_for(tmp_path):
    levels = random_image(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png", icc_profile=rgb_profile())
    data = data_of(predict=str(tmp_path))
    data.setup("predict")

    (plain,) = data.predict_dataloader()[0]
    data.convert_in_predict()
    (converted,) = data.predict_dataloader()[0]

    assert plain["meta"][0]["icc"] == rgb_profile()
    assert converted["meta"][0]["icc"] is None
    for batch, expected in ((plain, levels), (converted, srgb_of_rgb(levels))):
        np.testing.assert_allclose(batch["lr"][0].permute(1, 2, 0), expected, atol=1)


# ----------------------------------------------------------------------------- sources of plugins


def test_a_sample_that_a_source_holds_is_not_changed():
    samples = {
        "a": {"hr": random_image(33, 40), "text": "x", "meta": {"path": "p"}},
        "b": {"hr": random_image(35, 40)[:, ::-1], "text": "y", "meta": {}},
    }
    before = {key: {n: np.copy(v) for n, v in sample.items()} for key, sample in samples.items()}
    source = Memory(samples)
    data = data_of(source, batch_size=2, per_image=4, val={"v": source}, predict=source)

    list(training(data))
    list(evaluation(data, "val"))
    list(evaluation(data, "predict"))

    for key, sample in before.items():
        for name, value in sample.items():
            np.testing.assert_array_equal(samples[key][name], value)


def test_an_image_without_a_caption_has_an_empty_one():
    hr = random_image(32, 32)
    source = Memory({"a": {"hr": hr}, "b": {"hr": hr, "text": "sea"}})
    (batch,) = training(data_of(source, batch_size=2))
    assert sorted(batch["text"]) == ["", "sea"]


def test_degradations_compute_in_float32_under_autocast():
    data = opened(random_images(4))
    batch = next(iter(data.train_dataloader()))
    assert batch["hr"].dtype == torch.uint8

    plain = on_device(data, {**batch, "hr": batch["hr"].clone()})
    with torch.autocast("cpu", torch.bfloat16):
        cast = on_device(data, batch)

    assert set(cast) == {"key", "seed", "size", "hr", "lr"}
    assert cast["hr"].dtype == cast["lr"].dtype == torch.float32
    assert torch.equal(cast["lr"], plain["lr"])


# --------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"seed": 3}, "seed_everything was 0, now it is 3"),
        ({"batch_size": 8}, "batch_size was 4, now it is 8"),
        ({"streams": 2}, "streams was 4, now it is 2"),
        ({"per_image": 2}, "per_image was 1, now it is 2"),
        ({"train": random_images(9)}, r"number of images in .* was \[8\], now"),
        ({"train": Memory({f"q{i}": {"hr": None} for i in range(8)})}, "names of the images"),
    ],
)
def test_a_run_does_not_go_on_with_another_order(settings, changed):
    state = opened(random_images(8)).state_dict()
    data = opened(**{"train": random_images(8), **settings})
    with pytest.raises(ValueError, match=changed):
        data.load_state_dict(state)


def test_processes_compare_contents_and_not_names_alone(tmp_path):
    looks = []
    for shade in (0, 1):
        folder = tmp_path / f"{shade}"
        folder.mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (32, 32), (shade, 0, 0)).save(folder / name)
        looks.append(opened(Folder(str(folder)), batch_size=2).files_seen())
    assert looks[0].keys() == looks[1].keys()
    assert looks[0] != looks[1]


class Seen(Callback):
    """Records the samples of each training batch, and a model's draw after it."""

    def __init__(self) -> None:
        self.seeds: list[tuple[int, list[int]]] = []
        self.drawn: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        self.seeds.append((trainer.current_epoch, batch["seed"].tolist()))

    def on_train_batch_end(self, *_: Any) -> None:
        self.drawn.append(float(torch.rand(())))


def fit(root: Path, data: SRDataModule, checkpoint: Path | None = None, **settings: Any) -> Any:
    seen = Seen()
    model = Regression(2, Convolution)
    callbacks = [seen, *settings.pop("callbacks", [])]
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0} | settings
    run = trainer(root, callbacks=callbacks, **settings)
    run.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return run, seen, model


def test_overfit_batches_repeat_while_draws_of_the_model_change(tmp_path):
    data = data_of(random_images(12), workers=2)
    _, seen, _ = fit(tmp_path, data, overfit_batches=2, max_epochs=3)
    plan = list(data.plan().batches(0, 0, 0, 1))[:2]
    seeds = [[item.seed for item in batch] for batch in plan]
    assert seen.seeds == [(epoch, batch) for epoch in range(3) for batch in seeds]
    assert len(set(seen.drawn)) == 6


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("workers", quick([0, 2], 2))
def test_a_resumed_run_sees_the_same_samples(tmp_path, mixture, workers):
    def data() -> SRDataModule:
        images = random_images(12)
        if mixture:
            parts = {"a": random_images(7), "b": random_images(3)}
            images = Mix(parts, {"a": 1, "b": 2.5}, samples=22)
        return data_of(images, workers=workers)

    _, whole, model = fit(tmp_path, data())
    run, first, _ = fit(tmp_path, data(), max_epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    _, second, resumed = fit(tmp_path, data(), tmp_path / "one.ckpt")

    assert len(first.seeds) == (5 if mixture else 3)
    assert first.seeds + second.seeds == whole.seeds
    for weights, others in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weights, others)


def test_a_run_resumes_within_an_epoch(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    _, whole, _ = fit(tmp_path, data_of(random_images(12)))
    fit(
        tmp_path,
        data_of(random_images(12)),
        max_steps=2,
        callbacks=[checkpoint],
        enable_checkpointing=True,
    )
    _, rest, _ = fit(tmp_path, data_of(random_images(12)), tmp_path / "step=2.ckpt")
    assert rest.seeds == whole.seeds[2:]


class Report(Callback):
    """Each process stores its result, and the images it saw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: list[str] = []

    def on_test_batch_end(self, trainer: Any, model: Any, out: Any, batch: Any, *_: Any) -> None:
        self.keys += batch["key"]

    def on_test_end(self, trainer: Any, model: Any) -> None:
        metric = next(c for c in trainer.callbacks if isinstance(c, PSNR))
        torch.save((self.keys, metric.records), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_process_without_an_image_does_not_keep_the_others_waiting(tmp_path):
    """Two processes, sets of one and of three images: each counts once, and the run ends."""

    def run(root: Path, **settings: Any) -> None:
        root.mkdir()
        sets = {"one": random_images(1), "three": random_images(3)}
        data = data_of(test=sets, degradation=Bicubic(2))
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        test = trainer(root, callbacks=[PSNR(), Report(root)], **settings)
        test.test(BicubicModel(2), datamodule=data, verbose=False)

    run(tmp_path / "two", devices=2, strategy="ddp_spawn")
    run(tmp_path / "alone")

    keys_0, records_0 = torch.load(tmp_path / "two" / "0.pt")
    keys_1, records_1 = torch.load(tmp_path / "two" / "1.pt")
    keys, records = torch.load(tmp_path / "alone" / "0.pt")
    assert keys_1 == ["three/p01"]
    assert sorted(keys_0 + keys_1) == sorted(keys)
    assert records_0 == records_1 == records
    assert [record["n"] for record in records] == [1, 3]
