"""SRDataModule: the same sample in any batch, matching crops, and helpful messages."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import albumentations
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.augment import Albumentations
from datamodules.base import Source, SRDataModule, check_crop
from datamodules.batches import check_batch, collate
from datamodules.order.plan import Item
from datamodules.samples import TrainingImages
from datamodules.sources.folder import Folder
from degradations.base import cut_size
from degradations.bicubic import Bicubic
from degradations.pipeline import Pipeline
from tests.datamodules.image_files import save
from tests.datamodules.memory import (
    Memory,
    evaluation,
    noisy,
    on_device,
    random_image,
    random_images,
    training,
    with_crops,
)


def data_of(train: Source, **settings: object) -> SRDataModule:
    defaults = {"scale": 2, "batch_size": 4, "crop_size": 16, "workers": 0, "degradation": noisy()}
    return SRDataModule(train=train, **with_crops(defaults | settings))


def by_name(batches, name: str) -> dict:
    """Each image of `name` by its key and seed."""
    return {
        (key, seed): image
        for batch in batches
        for key, seed, image in zip(batch["key"], batch["seed"].tolist(), batch[name], strict=True)
    }


@pytest.fixture(scope="module")
def expected():
    (batch,) = training(data_of(random_images(12), batch_size=48, per_image=4))
    return {name: by_name([batch], name) for name in ("hr", "lr")}


class TestTheSampleDecides:
    """All that is random about a sample is drawn from its seed, not its batch, worker or rank."""

    @pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 2), (16, 0)])
    def test_training_in_any_batches(self, expected, batch_size, workers):
        data = data_of(random_images(12), batch_size=batch_size, per_image=4, workers=workers)
        batches = list(training(data))
        assert {len(b["key"]) for b in batches} == {batch_size}
        for name, images in expected.items():
            got = by_name(batches, name)
            assert got.keys() == images.keys()
            tolerance = 0 if name == "hr" else 1e-5
            for sample, image in images.items():
                torch.testing.assert_close(got[sample], image, rtol=0, atol=tolerance)

    def test_workers_draw_the_degradation(self, monkeypatch):
        data = data_of(random_images(12), workers=1)
        data.setup("fit")
        batches = iter(data.train_dataloader())
        waiting = [next(batches) for _ in range(3)]  # the worker has begun
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "draw", None)
            made = [on_device(data, batch) for batch in waiting]
        for batch in made:
            assert torch.equal(batch["lr"], noisy()(batch["hr"], batch["seed"]))

    def test_any_number_of_workers(self):
        """Bit-equal batches, with broken, small and replaced images among them."""

        def batches(workers):
            broken = {f"bad{i}": f"bad{i}.jpg: truncated" for i in range(3)}
            small = {f"small{i}": {"hr": random_image(9, 40)} for i in range(2)}
            data = data_of(
                Memory({**random_images(11).samples, **broken, **small}),
                per_image=3,
                workers=workers,
                small="skip",
                unreadable_limit=1,
            )
            data.setup("fit")
            loader = data.train_dataloader()
            for epoch in (0, 1):  # the workers persist
                data._position = lambda epoch=epoch: (epoch, 0)
                yield from (on_device(data, batch) for batch in loader)
            yield data.tally.reasons

        *expected, reasons = batches(0)
        assert len(expected) == 24
        assert set(reasons) == {"damaged", "small"}
        *got, again = batches(3)
        assert again == reasons
        for a, b in zip(got, expected, strict=True):
            assert a["key"] == b["key"]
            for name in ("seed", "hr", "lr"):
                assert torch.equal(a[name], b[name])

    @pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 2), (16, 0)])
    def test_validation_in_any_batches(self, batch_size, workers):
        def run(batch_size, workers):
            data = SRDataModule(
                2,
                val={"a": random_images(16)},
                degradation=noisy(),
                eval_batch_size=batch_size,
                workers=workers,
            )
            return by_name(evaluation(data, "val"), "lr")

        got, expected = run(batch_size, workers), run(1, 0)
        assert list(got) == list(expected)
        assert len(got) == 16
        for sample, image in expected.items():
            torch.testing.assert_close(got[sample], image, rtol=0, atol=1e-5)

    def test_global_generators_are_left_alone(self):
        from tests.contracts.degradation_contract import global_generators_untouched

        data = data_of(random_images(12), val={"a": random_images(2)})
        with global_generators_untouched():
            list(training(data))
            list(evaluation(data, "val"))


# Each pixel of LR encodes its position, and HR repeats it: a pair fits exactly or not at all.
def located(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.zeros_like(x)], axis=2).astype(np.uint8)


def repeated(lr: np.ndarray, scale: int) -> np.ndarray:
    return lr.repeat(scale, 0).repeat(scale, 1)


class TestCrops:
    def items(self, count: int) -> list[Item]:
        return [Item(0, 7919 * i) for i in range(count)]

    @pytest.mark.parametrize("scale", [1, 2, 3, 4])
    def test_pairs_stay_aligned_in_all_eight_orientations(self, scale):
        lr = located(20, 24)
        source = Memory({"a": {"hr": repeated(lr, scale), "lr": lr}})
        dataset = TrainingImages(source, "train", float(scale), 5 * scale, flips=True)
        orientations, corners = set(), set()
        for item in self.items(200):
            sample = dataset[item]
            assert sample["lr"].shape == (5, 5, 3)
            np.testing.assert_array_equal(sample["hr"], repeated(sample["lr"], scale))
            down, right = (
                sample["lr"][i].astype(int) - sample["lr"][0, 0] for i in ((1, 0), (0, 1))
            )
            orientations.add((*down, *right))
            corners.add((sample["lr"][..., 0].min(), sample["lr"][..., 1].min()))
        assert len(orientations) == 8
        assert {y for y, _ in corners} == set(range(16))
        assert {x for _, x in corners} == set(range(20))

    def test_horizontal_flips_keep_rows(self):
        hr = located(8, 8)
        dataset = TrainingImages(Memory({"a": {"hr": hr}}), "train", 2.0, 8, flips="horizontal")
        found = {dataset[item]["hr"].tobytes() for item in self.items(30)}
        assert found == {hr.tobytes(), hr[:, ::-1].tobytes()}

    def test_fractional_scale(self):
        data = data_of(random_images(4), scale=2.5, crop_size=18, degradation=Bicubic(2.5))
        (batch,) = training(data)
        assert batch["hr"].shape == (4, 3, 18, 18)
        assert batch["lr"].shape == (4, 3, 7, 7)
        assert batch["size"] == (18, 18)

    def test_8_and_16_bits_in_one_batch(self):
        eight = located(8, 8)
        sixteen = eight.astype(np.uint16) * 257
        samples = [{"key": str(i), "seed": i, "hr": hr} for i, hr in enumerate((eight, sixteen))]
        batch = collate(samples)["hr"]
        assert torch.equal(batch[0], batch[1])
        alone = collate(samples[:1])["hr"]
        assert alone.dtype == torch.uint8
        assert torch.equal(alone.float().div_(255)[0], batch[0])


class TestEvaluation:
    @given(
        st.integers(1, 500),
        st.one_of(st.integers(1, 8).map(float), st.floats(1, 8, allow_subnormal=False)),
    )
    @settings(max_examples=300, deadline=None)
    def test_cut_size_is_the_largest_that_fits(self, side, scale):
        cut, _ = cut_size((side, side), scale)
        lr = int(side / scale + 1e-6)
        assert 0 <= cut <= side
        if lr >= 1:
            assert Bicubic(scale).lr_size((cut, cut)) == (lr, lr)
            assert side - cut < scale + 0.5

    def test_images_of_differing_sizes(self):
        source = Memory(
            {f"{h}x{w}": {"hr": random_image(h, w)} for h, w in ((8, 8), (9, 13), (20, 7))}
        )
        data = SRDataModule(2, val={"a": source}, degradation=noisy(), workers=0)
        shapes = [(b["size"], tuple(b["lr"].shape)) for b in evaluation(data, "val")]
        assert shapes == [
            ((8, 8), (1, 3, 4, 4)),
            ((8, 12), (1, 3, 4, 6)),
            ((20, 6), (1, 3, 10, 3)),
        ]

    @pytest.mark.parametrize("scale", [2.0, 2.5])
    def test_a_source_with_lr_of_its_own(self, scale):
        lr = random_image(6, 8)
        hr = random_image(round(6 * scale) + 1, round(8 * scale))
        data = SRDataModule(scale, test={"a": Memory({"p": {"hr": hr, "lr": lr}})}, workers=0)
        (batch,) = evaluation(data, "test")
        assert batch["size"] == (round(6 * scale), round(8 * scale))
        assert torch.equal(batch["lr"][0], torch.from_numpy(lr).permute(2, 0, 1) / 255)

    def test_scales_and_degradations_of_their_own(self):
        sources = {
            "x2": random_images(1, 12, 12),
            "x3": Memory(random_images(1, 12, 12).samples, scale=3, degradation=Bicubic(3)),
            "plain": Memory(
                random_images(1, 12, 12).samples, degradation=Bicubic(2, quantize=False)
            ),
        }
        data = SRDataModule(2, val=sources, degradation=noisy(), workers=0)
        x2, x3, plain = evaluation(data, "val")
        assert [b["lr"].shape[-1] for b in (x2, x3, plain)] == [6, 4, 6]
        assert sources["x3"].prepared_for == [3.0]
        assert torch.equal(plain["lr"], Bicubic(2, quantize=False)(plain["hr"], plain["seed"]))
        assert not torch.allclose(plain["lr"], x2["lr"], atol=1e-3)

    def test_a_degradation_for_another_scale_is_refused(self):
        source = Memory(random_images(1, 12, 12).samples, scale=3)
        data = SRDataModule(2, val={"a": source}, degradation=noisy(), workers=0)
        with pytest.raises(ValueError, match="only its own scale 2, not 3"):
            list(evaluation(data, "val"))


class TestUnreadable:
    def source(self) -> Memory:
        broken = {f"bad{i}": f"/photos/bad{i}.jpg: truncated" for i in range(4)}
        return Memory({**random_images(8).samples, **broken})

    def test_is_replaced_counted_and_told(self, caplog):
        data = data_of(self.source(), per_image=4, unreadable_limit=1.0)
        with caplog.at_level(logging.WARNING, "datamodules.samples"):
            keys = [key for batch in training(data) for key in batch["key"]]
        assert len(keys) == 48
        assert not any("bad" in key for key in keys)
        assert data.tally.unreadable >= 16  # replacements may be broken, too
        got = [record.getMessage() for record in caplog.records]
        assert got[0].startswith("skipped a training image, unreadable (1 so far): /photos/bad")
        assert len(got) == min(data.tally.unreadable, 20)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_in_evaluation_it_is_an_error(self, workers):
        data = SRDataModule(2, val={"a": self.source()}, degradation=noisy(), workers=workers)
        with pytest.raises(ValueError, match=r"/photos/bad0\.jpg: truncated"):
            list(evaluation(data, "val"))
        assert not multiprocessing.active_children()


class TestPredict:
    def test_batches(self):
        source = Memory(
            {
                "a": {"hr": random_image(9, 7), "meta": {"path": "/in/a.png", "alpha": None}},
                "b": "/in/b.jpg: truncated",
                "c": {"hr": random_image(4, 4, dtype=np.uint16), "meta": {"path": "/in/c.png"}},
            }
        )
        data = SRDataModule(2.5, predict=source, workers=0)
        a, b, c = evaluation(data, "predict")
        assert a["key"] == ["predict/a"]
        assert a["size"] == (22, 18)  # 22.5 and 17.5, rounded to even
        assert a["meta"] == [{"bit_depth": 8, "path": "/in/a.png", "alpha": None}]
        assert "hr" not in a
        assert b == {"key": ["predict/b"], "error": ["/in/b.jpg: truncated"]}
        assert c["lr"].dtype == torch.float32
        assert c["lr"].max() <= 1

    def test_done_ones_are_left_out(self):
        data = SRDataModule(2, predict=random_images(4, 8, 8), workers=0)
        data.setup("predict")
        assert data.predict_keys == ["p00", "p01", "p02", "p03"]
        data.skip_in_predict({"p00", "p02"})
        (loader,) = data.predict_dataloader()
        assert [batch["key"] for batch in loader] == [["predict/p01"], ["predict/p03"]]
        assert len(list(evaluation(data, "predict"))) == 4  # the next one leaves out nothing

    @pytest.mark.parametrize("many", [False, True])
    def test_paths(self, tmp_path, many):
        save(tmp_path / "in" / "x.png")
        save(tmp_path / "in" / "sub" / "y.png")
        path = str(tmp_path / "in")
        data = SRDataModule(2, predict=[path] if many else path, workers=0)
        assert [b["key"] for b in evaluation(data, "predict")] == [["predict/sub/y"], ["predict/x"]]
        assert data.predict_paths == [f"{path}/sub/y.png", f"{path}/x.png"]

    @pytest.mark.parametrize("size", [(19, 40), (40, 29)])
    def test_to_a_size_that_is_smaller(self, size):
        source = Memory({"a": {"hr": random_image(9, 7)}, "b": {"hr": random_image(20, 30)}})
        data = SRDataModule(2, predict=source, size=size, workers=0)
        a, b = evaluation(data, "predict")
        assert a["size"] == size
        assert b["key"] == ["predict/b"]
        assert b["error"][0].startswith(
            f"predict/b is 30x20 pixels, larger than the {size[1]}x{size[0]} of "
            f"data.init_args.size [{size[0]}, {size[1]}]: "
        )


class TestAugment:
    def adapter(self, *transforms: object) -> Albumentations:
        return Albumentations(list(transforms) or [albumentations.RandomBrightnessContrast(p=1.0)])

    def test_changes_hr_before_lr_is_made(self):
        plain = by_name(training(data_of(random_images(4), degradation=Bicubic(2))), "hr")
        data = data_of(
            random_images(4), degradation=Bicubic(2, quantize=False), augment=self.adapter()
        )
        (batch,) = training(data)
        for sample, image in by_name([batch], "hr").items():
            assert image.shape == plain[sample].shape
            assert not torch.equal(image, plain[sample])
        lr = Bicubic(2, quantize=False)(batch["hr"], batch["seed"])
        torch.testing.assert_close(batch["lr"], lr, rtol=0, atol=1e-6)

    def test_pairs_are_refused(self):
        source = Memory({"a": {"hr": random_image(32, 32), "lr": random_image(16, 16)}})
        with pytest.raises(ValueError, match=r"has lr, which data\.init_args\.crops\.augment"):
            list(training(data_of(source, batch_size=1, augment=self.adapter())))


class TestMessages:
    @pytest.mark.parametrize(
        ("scale", "crop", "fits"),
        [(4, 50, "48 or 52"), (4, 3, "4"), (4, 2, "4"), (2.5, 96, "95 or 98"), (3.6, 1, "4")],
    )
    def test_a_scale_that_does_not_divide_the_crop(self, scale, crop, fits):
        message = (
            rf"data\.init_args\.crop_size is {crop}, not a multiple of "
            rf"data\.init_args\.scale {scale}; use {fits}$"
        )
        data = data_of(random_images(1), scale=scale, crop_size=crop)
        with pytest.raises(ValueError, match=message):
            data.setup("fit")
        for side in fits.split(" or "):
            check_crop(int(side), scale)

    def test_fewer_images_than_a_batch(self):
        message = (
            r"data\.init_args\.train has 3 images \(crops\.per_image 1\), fewer than "
            r"data\.init_args\.batch_size 4: raise crops.per_image, or lower batch_size"
        )
        with pytest.raises(ValueError, match=message):
            data_of(random_images(3)).setup("fit")
        data_of(random_images(3), per_image=2).setup("fit")

    def test_nothing_makes_lr(self):
        data = SRDataModule(2, val={"set5": random_images(1)}, workers=0)
        with pytest.raises(ValueError, match=r"'set5' has no LR.*set degradation\.class_path"):
            list(evaluation(data, "val"))

    def test_a_pair_that_does_not_fit(self):
        source = Memory({"a": {"hr": random_image(30, 32), "lr": random_image(10, 10)}})
        message = r"train/a: the pair .*\.scale 2: HR 32x30, LR 10x10, expected HR 20x20"
        with pytest.raises(ValueError, match=message):
            list(training(data_of(source, batch_size=1)))

    def test_pairs_at_a_fractional_scale(self):
        source = Memory({"a": {"hr": random_image(50, 50), "lr": random_image(20, 20)}})
        with pytest.raises(ValueError, match=r"integer data\.init_args\.scale, not 2\.5"):
            list(training(data_of(source, scale=2.5, crop_size=15, batch_size=1, degradation=None)))


class TestPlugIns:
    """Sources of plugins, correct and incorrect ones."""

    def test_the_least_there_is(self):
        class Mine(Source):
            def __init__(self):  # without super().__init__()
                self.keys_ = ["a", "b"]

            @property
            def keys(self):
                return self.keys_

            def read(self, index):
                return {"hr": random_image(24, 24, index)}

        data = data_of(Mine(), batch_size=2, val={"mine": Mine()})
        assert len(list(training(data))) == 1
        assert len(list(evaluation(data, "val"))) == 2

    def test_what_a_source_keeps_is_not_changed(self):
        samples = {
            "a": {"hr": random_image(33, 40), "text": "x", "meta": {"path": "p"}},
            "b": {"hr": random_image(35, 40)[:, ::-1], "text": "y"},
        }
        before = {k: {n: np.copy(v) for n, v in s.items()} for k, s in samples.items()}
        source = Memory(samples)
        data = data_of(source, batch_size=2, per_image=4, val={"v": source}, predict=source)
        for _ in range(2):
            list(training(data))
            list(evaluation(data, "val"))
        source.samples["b"]["meta"] = {}
        list(evaluation(data, "predict"))
        for key, sample in before.items():
            for name, value in sample.items():
                np.testing.assert_array_equal(source.samples[key][name], value)

    @pytest.mark.parametrize(
        ("sample", "message"),
        [
            ({}, r"v/a: Memory\.read gave \[\]; expected hr or lr"),
            ({"hr": np.zeros((8, 8, 4), np.uint8)}, r"gave hr as uint8 \(8, 8, 4\)"),
            ({"hr": random_image(8, 8), "lr": None}, r"gave lr as NoneType"),
        ],
    )
    def test_samples_that_are_none(self, sample, message):
        data = SRDataModule(2, val={"v": Memory({"a": sample})}, degradation=noisy(), workers=0)
        with pytest.raises(ValueError, match=message):
            list(evaluation(data, "val"))

    def test_lr_without_hr(self):
        source = Memory({"a": {"lr": random_image(8, 8)}})
        (batch,) = evaluation(SRDataModule(3, val={"v": source}, workers=0), "val")
        assert batch["size"] == (24, 24)
        assert "hr" not in batch
        with pytest.raises(ValueError, match=r"train/a: .* expected hr"):
            list(training(data_of(source, batch_size=1)))

    def test_fields_that_only_some_samples_have(self):
        lr, hr = random_image(16, 16), random_image(32, 32)
        source = Memory({"a": {"hr": hr}, "b": {"hr": hr, "lr": lr}})
        message = r"only 1 of 2 samples in one batch \(train/.*have 'lr': a Source gives it"
        with pytest.raises(ValueError, match=message):
            list(training(data_of(source, batch_size=2)))
        source = Memory({"a": {"hr": hr}, "b": {"hr": hr, "text": "sea"}})
        (batch,) = training(data_of(source, batch_size=2))
        assert sorted(batch["text"]) == ["", "sea"]


class TestOnDevice:
    def raw(self) -> tuple[SRDataModule, dict]:
        data = data_of(random_images(4))
        data.setup("fit")
        return data, next(iter(data.train_dataloader()))

    def test_types(self):
        data, batch = self.raw()
        assert batch["hr"].dtype == torch.uint8
        batch = on_device(data, batch)
        assert set(batch) == {"key", "seed", "size", "hr", "lr"}
        assert batch["size"] == (16, 16)
        assert (batch["hr"].dtype, batch["lr"].dtype) == (torch.float32, torch.float32)
        assert batch["hr"].is_contiguous()

    def test_degrades_in_float32_under_autocast(self):
        data, batch = self.raw()
        other = {**batch, "hr": batch["hr"].clone()}
        with torch.autocast("cpu", torch.bfloat16):
            lr = on_device(data, other)["lr"]
        assert torch.equal(lr, on_device(data, batch)["lr"])

    def test_check_batch(self):
        batch = {
            "key": ["a", "b"],
            "seed": torch.tensor([1, 2]),
            "size": (8, 8),
            "hr": torch.zeros(2, 3, 8, 8),
            "lr": torch.ones(2, 3, 4, 4),
        }
        check_batch(batch)
        with pytest.raises(ValueError, match=r"values in \[1\.5, 1\.5\]; expected \[0, 1\]"):
            check_batch({**batch, "lr": torch.full((2, 3, 4, 4), 1.5)})


class TestState:
    def module(self, source=None, **settings) -> SRDataModule:
        data = data_of(source or random_images(8), **settings)
        data.setup("fit")
        return data

    def test_the_same_data_goes_on(self):
        state = self.module().state_dict()
        assert state["groups"] == [8]
        self.module(workers=2, eval_batch_size=3).load_state_dict(state)

    @pytest.mark.parametrize(
        ("source", "settings", "message"),
        [
            (
                random_images(9),
                {},
                r"the number of images in data\.init_args\.train was \[8\], now",
            ),
            (
                Memory({f"q{i}": {"hr": random_image(32, 32)} for i in range(8)}),
                {},
                r"the names of the images in data\.init_args\.train was",
            ),
            (None, {"seed": 3}, r"seed_everything was 0, now it is 3"),
            (None, {"batch_size": 8}, r"data\.init_args\.batch_size was 4, now it is 8"),
            (None, {"streams": 2}, r"data\.init_args\.streams was 4, now it is 2"),
            (None, {"per_image": 2}, r"data\.init_args\.crops\.per_image was 1, now it is 2"),
        ],
    )
    def test_other_data_is_refused(self, source, settings, message):
        state = self.module().state_dict()
        with pytest.raises(ValueError, match=message) as caught:
            self.module(source, **settings).load_state_dict(state)
        assert "--model.init_args.weights CHECKPOINT --run.name NEW" in str(caught.value)

    def test_in_an_evaluation_there_is_none(self):
        data = SRDataModule(2, val={"a": random_images(2)})
        data.setup("validate")
        assert data.state_dict() == {}
        data.load_state_dict(self.module().state_dict())


def test_processes_compare_contents_and_not_names_alone(tmp_path: Path) -> None:
    looks = []
    for shade in (0, 1):
        folder = tmp_path / f"{shade}"
        folder.mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (32, 32), (shade, 0, 0)).save(folder / name)
        data = SRDataModule(2, train=Folder(str(folder)), batch_size=2, crop_size=16, workers=0)
        data.setup("fit")
        looks.append(data.files_seen())
    assert looks[0].keys() == looks[1].keys()
    assert looks[0] != looks[1]
