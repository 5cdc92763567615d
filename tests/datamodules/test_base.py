"""SRDataModule: the same sample in any batch, crops of pairs, evaluation, predict, resuming."""

import copy
import multiprocessing

import albumentations
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from PIL import Image

from datamodules.augment import Albumentations
from datamodules.base import check_crop
from datamodules.batches import collate
from datamodules.order.plan import Item
from datamodules.samples import WARNINGS, TrainingImages
from datamodules.sources.folder import Folder
from datamodules.sources.mix import Mix
from degradations.base import cut_size
from degradations.bicubic import Bicubic
from degradations.pipeline import Pipeline
from degradations.recipes.bsrgan import ChannelNoise
from lightning_modules.methods.regression import Regression
from tests.datamodules.memory import (
    Memory,
    assert_same,
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
from tests.make import Convolution, assert_near

FLOAT_ERROR = 1e-5  # of the degradation's sums, whose order depends on the batch


# ------------------------------------------------------------------------- the sample's own seed


def test_a_training_sample_is_the_same_in_any_batch():
    source = random_images(12)

    expected = list(training(data_of(source, batch_size=48, per_image=4)))
    batches = list(training(data_of(source, batch_size=3, per_image=4, workers=2)))

    assert len(batches) == 16  # 12 images, 4 crops of each, 3 in a batch
    assert_near(by_name(batches, "hr"), by_name(expected, "hr"), within=0)
    assert_near(by_name(batches, "lr"), by_name(expected, "lr"), within=FLOAT_ERROR)


def test_a_validation_sample_is_the_same_in_any_batch():
    sources = {"a": random_images(16)}

    expected = list(evaluation(data_of(val=sources, eval_batch_size=1), "val"))
    batches = list(evaluation(data_of(val=sources, eval_batch_size=3, workers=2), "val"))

    assert len(batches) == 6  # 16 images, 3 in a batch
    assert keys_of(batches) == keys_of(expected)
    assert_near(by_name(batches, "lr"), by_name(expected, "lr"), within=FLOAT_ERROR)


def test_the_seed_of_a_validation_sample_follows_from_its_name():
    """Else a set with an image less would be degraded otherwise."""
    images = random_images(4).samples
    last_three = {name: images[name] for name in list(images)[1:]}

    seeds = by_name(evaluation(data_of(val={"a": Memory(images)}), "val"), "hr").keys()
    of_three = by_name(evaluation(data_of(val={"a": Memory(last_three)}), "val"), "hr").keys()

    assert of_three < seeds  # pairs of key and seed: those of the three are among those of the four
    assert len({seed for _, seed in seeds}) == 4


def two_epochs(source, workers):
    data = opened(source, per_image=3, workers=workers, small="skip", unreadable_limit=1)
    loader = data.train_dataloader()
    batches = []
    for epoch in (0, 1):  # the workers persist
        data._position = lambda epoch=epoch: (epoch, 0)
        batches += [on_device(data, batch) for batch in loader]
    return batches, data.tally.reasons


def test_any_number_of_workers_gives_equal_batches():
    images = random_images(12).samples
    images["bad"] = "bad.jpg: truncated"
    images["small"] = {"hr": random_image(9, 40)}

    expected, expected_reasons = two_epochs(Memory(images), workers=0)
    batches, reasons = two_epochs(Memory(images), workers=3)

    assert len(batches) == 20  # 2 epochs of 14 images · 3 crops / 4 in a batch, rounded down
    assert_same(batches, expected)
    assert reasons == expected_reasons
    assert set(reasons) == {"damaged", "small"}


# ------------------------------------------------------------------------------------------ crops


def crops_of(sample, count, **settings):
    """Crops of one image, each by a seed of its own."""
    dataset = TrainingImages(Memory({"a": sample}), "train", **settings)
    return [dataset[Item(0, seed)] for seed in range(count)]


def test_pairs_stay_aligned_in_all_eight_orientations():
    lr = located(20, 24)
    pair = {"hr": repeated(lr, scale=3), "lr": lr}

    orientations = set()
    rows = set()
    columns = set()
    # 200 crops are enough to meet each of the 8 orientations and each place.
    for crop in crops_of(pair, count=200, scale=3.0, crop_size=15, flips=True):
        assert_array_equal(crop["hr"], repeated(crop["lr"], scale=3))
        places = crop["lr"].astype(int)
        down = places[1, 0] - places[0, 0]
        right = places[0, 1] - places[0, 0]
        orientations.add((*down, *right))
        rows.add(places[..., 0].min())
        columns.add(places[..., 1].min())

    assert len(orientations) == 8
    # LR crops have 15 / 3 = 5 pixels, and the LR has 20x24.
    assert rows == set(range(20 - 5 + 1))
    assert columns == set(range(24 - 5 + 1))


def test_horizontal_flips_mirror_some_crops_and_turn_none():
    hr = located(8, 8)
    crops = crops_of({"hr": hr}, count=30, scale=2.0, crop_size=8, flips="horizontal")
    assert {crop["hr"].tobytes() for crop in crops} == {hr.tobytes(), hr[:, ::-1].tobytes()}


@pytest.mark.parametrize(
    ("scale", "crop", "fits"),
    [(4, 50, "48 or 52"), (4, 3, "4"), (2.5, 96, "95 or 98"), (3.6, 1, "4")],
)
def test_a_crop_that_does_not_fit_the_scale_is_told_those_that_do(scale, crop, fits):
    with pytest.raises(ValueError, match=rf"crop_size is {crop}, .*scale {scale}; use {fits}$"):
        check_crop(crop, scale)
    for side in fits.split(" or "):
        check_crop(int(side), scale)


def test_images_of_8_and_16_bits_meet_in_one_batch():
    hr = located(8, 8)
    eight = {"key": "a", "seed": 0, "hr": hr}
    sixteen = {"key": "b", "seed": 1, "hr": hr.astype(np.uint16) * 257}  # 65535 / 255

    alone = collate([eight])["hr"]
    both = collate([eight, sixteen])["hr"]

    assert alone.dtype == torch.uint8
    assert torch.equal(both[0], alone[0] / 255)
    assert torch.equal(both[0], both[1])


def test_augmentation_changes_hr_before_lr_is_made():
    degradation = Bicubic(2, quantize=False)
    augment = Albumentations([albumentations.RandomBrightnessContrast(p=1.0)])
    source = random_images(4)

    (plain,) = training(data_of(source, degradation=degradation))
    (changed,) = training(data_of(source, degradation=degradation, augment=augment))

    assert (plain["hr"] != changed["hr"]).flatten(1).any(1).all()
    assert_near(changed["lr"], degradation(changed["hr"], changed["seed"]), within=1e-6)


def test_unreadable_images_are_replaced_counted_and_told(caplog):
    broken = {f"bad{i}": f"/photos/bad{i}.jpg: truncated" for i in range(4)}
    source = Memory(random_images(8).samples | broken)
    data = data_of(source, per_image=4, unreadable_limit=1.0)

    keys = keys_of(training(data))

    assert len(keys) == 48  # 8 + 4 images, 4 crops of each
    assert not any("bad" in key for key in keys)
    assert data.tally.unreadable >= 16  # four times each; replacements may be broken, too
    assert caplog.messages[0].startswith("skipped a training image, unreadable (1 so far): /photos")
    assert len(caplog.messages) == min(data.tally.unreadable, WARNINGS)  # then they become rare


# ------------------------------------------------------------------------------------- evaluation


@given(st.integers(1, 500), st.integers(1, 8).map(float) | st.floats(1, 8, allow_subnormal=False))
@settings(max_examples=300, deadline=None)
def test_hr_is_cut_to_as_many_whole_lr_pixels_as_fit(side, scale):
    """At scale 4, HR of 11 pixels becomes 8, which is an LR of 2."""
    cut, _ = cut_size((side, side), scale)
    lr = int(side / scale + 1e-6)  # as floats, 33 / 2.2 is 14.999999999999998
    assert 0 <= cut <= side
    if lr >= 1:
        assert Bicubic(scale).lr_size((cut, cut)) == (lr, lr)
        # Less than an LR pixel is cut off; at a fractional scale `cut` is rounded.
        assert side - cut < scale + 0.5


def test_a_sources_own_lr_is_used_and_hr_cut_to_the_scale():
    hr = random_image(16, 20)
    lr = random_image(6, 8)
    source = Memory({"a": {"hr": hr, "lr": lr}})
    (batch,) = evaluation(data_of(scale=2.5, test={"own": source}, degradation=None), "test")
    assert batch["size"] == (15, 20)  # 2.5 times the LR
    assert_allclose(batch["hr"][0].permute(1, 2, 0) * 255, hr[:15], atol=1e-4)
    assert_allclose(batch["lr"][0].permute(1, 2, 0) * 255, lr, atol=1e-4)


def test_scale_and_degradation_of_a_source_are_used_instead_of_the_data_modules():
    images = random_images(count=1, height=12, width=12).samples
    bicubic = Bicubic(2, quantize=False)
    sources = {
        "x2": Memory(images),
        "x3": Memory(images, scale=3, degradation=Bicubic(3)),
        "plain": Memory(images, degradation=bicubic),
    }

    x2, x3, plain = evaluation(data_of(val=sources), "val")

    assert x2["lr"].shape == (1, 3, 6, 6)  # 12 / 2
    assert plain["lr"].shape == (1, 3, 6, 6)
    assert x3["lr"].shape == (1, 3, 4, 4)
    assert sources["x3"].prepared_for == [3.0]
    assert torch.equal(plain["lr"], bicubic(plain["hr"], plain["seed"]))
    assert not torch.allclose(plain["lr"], x2["lr"], atol=1e-3)  # which has noise


def test_an_unreadable_image_ends_an_evaluation_and_its_workers():
    source = Memory(random_images(2).samples | {"bad": "/photos/bad.jpg: truncated"})
    with pytest.raises(ValueError, match=r"/photos/bad\.jpg: truncated"):
        list(evaluation(data_of(val={"a": source}, workers=2), "val"))
    assert not multiprocessing.active_children()


# ---------------------------------------------------------------------------------------- predict


def test_predict_gives_each_image_with_its_output_size_and_depth_or_its_error():
    samples = {
        "a": {"hr": random_image(9, 7), "meta": {"path": "/in/a.png", "alpha": None}},
        "b": "/in/b.jpg: truncated",
        "c": {"hr": random_image(4, 4, dtype=np.uint16), "meta": {"path": "/in/c.png"}},
    }

    eight, broken, sixteen = evaluation(data_of(scale=2.5, predict=Memory(samples)), "predict")

    assert eight["key"] == ["predict/a"]
    assert eight["size"] == (22, 18)  # 22.5 and 17.5, rounded to even
    assert eight["meta"] == [{"bit_depth": 8, "path": "/in/a.png", "alpha": None}]
    assert_allclose(eight["lr"][0].permute(1, 2, 0) * 255, samples["a"]["hr"], atol=1e-4)
    assert "hr" not in eight
    assert broken == {"key": ["predict/b"], "error": ["/in/b.jpg: truncated"]}
    assert sixteen["lr"].dtype == torch.float32
    assert sixteen["meta"] == [{"bit_depth": 16, "path": "/in/c.png"}]
    assert_allclose(sixteen["lr"][0].permute(1, 2, 0) * 65535, samples["c"]["hr"], atol=0.01)


@pytest.mark.parametrize("size", [(19, 40), (40, 29)])
def test_predict_refuses_only_the_image_that_is_larger_than_the_output(size):
    source = Memory({"a": {"hr": random_image(9, 7)}, "b": {"hr": random_image(20, 30)}})
    first, second = evaluation(data_of(predict=source, size=size), "predict")
    assert "error" not in first
    assert f"b is 30x20 pixels, larger than the {size[1]}x{size[0]}" in second["error"][0]


def test_predict_keeps_profiles_unless_they_are_to_be_converted(tmp_path):
    levels = random_image(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png", icc_profile=rgb_profile())
    data = data_of(predict=str(tmp_path))
    data.setup("predict")

    (plain,) = data.predict_dataloader()[0]
    data.convert_in_predict()
    (converted,) = data.predict_dataloader()[0]

    assert plain["meta"][0]["icc"] == rgb_profile()
    assert converted["meta"][0]["icc"] is None
    assert_array_equal(plain["lr"][0].permute(1, 2, 0), levels)
    assert_allclose(converted["lr"][0].permute(1, 2, 0), srgb_of_rgb(levels), atol=1)


# ----------------------------------------------------------------------------- sources of plugins


def test_a_sample_that_a_source_holds_is_not_changed():
    samples = {
        "a": {"hr": random_image(33, 40), "text": "x", "meta": {"path": "p"}},
        "b": {"hr": random_image(35, 40)[:, ::-1], "text": "y", "meta": {}},
    }
    before = copy.deepcopy(samples)
    source = Memory(samples)
    data = data_of(source, batch_size=2, per_image=4, val={"v": source}, predict=source)

    list(training(data))
    list(evaluation(data, "val"))
    list(evaluation(data, "predict"))

    assert_equal(samples, before)


def test_an_image_without_a_caption_has_an_empty_one():
    hr = random_image(32, 32)
    source = Memory({"a": {"hr": hr}, "b": {"hr": hr, "text": "sea"}})
    (batch,) = training(data_of(source, batch_size=2))
    assert sorted(batch["text"]) == ["", "sea"]


def test_degradations_compute_in_float32_under_autocast():
    # By matrices, which autocast would multiply in bfloat16.
    mixing_channels = Pipeline(2.0, [ChannelNoise()], quantize=False)
    data = opened(random_images(4), degradation=mixing_channels)
    batch = next(iter(data.train_dataloader()))

    plain = on_device(data, copy.deepcopy(batch))
    with torch.autocast("cpu", torch.bfloat16):
        cast = on_device(data, batch)

    assert set(cast) == {"key", "seed", "size", "hr", "lr"}
    assert cast["hr"].dtype == torch.float32
    assert cast["lr"].dtype == torch.float32
    assert torch.equal(cast["lr"], plain["lr"])


# --------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "seed_everything was 0, now it is 3"),
        ({"batch_size": 8}, "batch_size was 4, now it is 8"),
        ({"streams": 2}, "streams was 4, now it is 2"),
        ({"per_image": 2}, "per_image was 1, now it is 2"),
        ({"train": random_images(9)}, r"number of images in .* was \[8\], now"),
        ({"train": Memory({f"q{i}": {} for i in range(8)})}, "names of the images"),
    ],
)
def test_a_run_does_not_go_on_with_another_order(change, message):
    state = opened(random_images(8)).state_dict()
    changed = opened(**{"train": random_images(8)} | change)
    with pytest.raises(ValueError, match=message):
        changed.load_state_dict(state)


def test_files_of_equal_names_and_sizes_are_told_apart_by_their_content(tmp_path):
    """Processes compare `files_seen`, and stop if a node has other images."""
    Image.new("RGB", (32, 32), "black").save(tmp_path / "a.bmp")  # as many bytes as in any colour
    before = opened(Folder(str(tmp_path)), batch_size=1).files_seen()

    Image.new("RGB", (32, 32), "navy").save(tmp_path / "a.bmp")
    after = opened(Folder(str(tmp_path)), batch_size=1).files_seen()

    assert before.keys() == after.keys()
    assert before != after


class Seen(Callback):
    """Records the samples of each training batch, and a model's draw after it."""

    def __init__(self):
        self.seeds = []
        self.drawn = []

    def on_train_batch_start(self, trainer, pl_module, batch, *_):
        self.seeds.append((trainer.current_epoch, batch["seed"].tolist()))

    def on_train_batch_end(self, *_):
        self.drawn.append(float(torch.rand(())))


def fit(folder, data, checkpoint=None, **settings):
    """Train for two epochs and keep a checkpoint of every step."""
    seen = Seen()
    model = Regression(2, Convolution)
    every = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0, "enable_checkpointing": True} | settings
    run = trainer(folder, callbacks=[seen, every], **settings)
    run.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return seen, model


def test_overfit_batches_repeat_while_draws_of_the_model_change(tmp_path):
    data = data_of(random_images(12), workers=2)
    seen, _ = fit(tmp_path, data, overfit_batches=2, max_epochs=3)
    seeds = [of_batch for _, of_batch in seen.seeds]
    first, second = seeds[:2]
    assert first != second
    assert seeds == [first, second] * 3
    assert len(set(seen.drawn)) == 6  # one in each of 3 times 2 batches


def mixture():
    parts = {"a": random_images(7), "b": random_images(3)}
    return Mix(parts, weights={"a": 1, "b": 2.5}, samples=22)


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        pytest.param(random_images(12), 2, id="within an epoch"),
        pytest.param(random_images(12), 3, id="after an epoch"),  # 12 images, 4 in a batch
        pytest.param(mixture(), 2, id="a mixture"),
    ],
)
def test_a_resumed_run_sees_the_same_samples(tmp_path, source, steps):
    whole, model = fit(tmp_path / "whole", data_of(source, workers=2))
    stopped, _ = fit(tmp_path / "stopped", data_of(source, workers=2), max_steps=steps)
    checkpoint = tmp_path / "stopped" / f"step={steps}.ckpt"
    rest, resumed = fit(tmp_path / "rest", data_of(source, workers=2), checkpoint)

    assert len(stopped.seeds) == steps
    assert stopped.seeds + rest.seeds == whole.seeds
    assert_near(resumed.state_dict(), model.state_dict(), within=0)
