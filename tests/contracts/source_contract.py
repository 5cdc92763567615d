"""What every Source keeps, as a test class to run on yours.

The classes of this repository and of `pytest tests/contracts --plugin my_sr.data` are found by
test_sources.py. A class that cannot be made without arguments is tested by a file of your own (run
it with the repository on PYTHONPATH):

    from tests.contracts.source_contract import SourceContract, SourceExample

    class TestCameraRolls(SourceContract):
        @pytest.fixture
        def example(self, tmp_path):
            ...  # two images of at least 16x16 pixels in tmp_path
            return SourceExample(lambda: CameraRolls(tmp_path))
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import CropSettings, Source, SRDataModule
from degradations.bicubic import Bicubic
from files.images.decode import UnreadableImage
from tests.contracts.arguments import check_arguments
from tests.contracts.degradation_contract import global_generators_untouched
from tests.datamodules.memory import evaluation, training

SCALE = 2.0
FIELDS = {"hr", "lr", "text", "meta"}


@dataclass
class SourceExample:
    """How to make a Source for the tests.

    Args:
        make: Gives a new one, always the same, not yet prepared; images of at least 16x16 pixels.
        broken: Gives one whose first image is damaged, where that can be.
        absent: Gives one whose data is not there, where that can be.
    """

    make: Callable[[], Source]
    broken: Callable[[], Source] | None = None
    absent: Callable[[], Source] | None = None


def assert_same(sample, expected, message=""):
    """Two samples are equal bit for bit."""
    np.testing.assert_equal(sample, expected, message)
    for name in {"hr", "lr"} & sample.keys():
        assert sample[name].dtype == expected[name].dtype, message


class SourceContract:
    """Subclass it and override the fixture `example`."""

    @pytest.fixture
    def example(self):
        raise NotImplementedError("override the fixture `example`")

    @pytest.fixture
    def source(self, example):
        source = example.make()
        source.prepare(SCALE)
        return source

    def test_arguments_are_typed_and_explained(self, source):
        """Else the command line could not parse them, or `--help` would not explain them."""
        check_arguments(type(source))

    def test_keys_are_unique_and_make_paths(self, source):
        keys = list(source.keys)
        assert keys
        assert len(set(keys)) == len(keys), "keys are not unique"
        for key in keys:
            assert isinstance(key, str)
            assert key.strip(), "an empty key"
            # The writer makes paths of them.
            assert not key.startswith("/"), f"{key!r} is an absolute path"
            assert ".." not in key.split("/"), f"{key!r} leads out of the output folder"

    def test_groups_have_all_images_and_a_mixture_has_weights_for_all_groups(self, source):
        """A group is stored together, such as a shard; a mixture draws parts, of some groups each.

        An image in no group, or a part without a weight, would never be trained on.
        """
        assert all(isinstance(size, int) and size > 0 for size in source.groups)
        assert sum(source.groups) == len(source.keys)
        if source.mixture is not None:
            groups, weights, samples = source.mixture
            assert sum(groups) == len(source.groups)
            assert len(groups) == len(weights)
            assert min(weights) > 0
            assert samples > 0

    def test_every_new_source_is_the_same_and_may_be_prepared_twice(self, source, example):
        other = example.make()
        other.prepare(SCALE)
        other.prepare(SCALE)
        assert list(other.keys) == list(source.keys)
        assert list(other.groups) == list(source.groups)
        for index in range(len(source.keys)):
            assert_same(other.read(index), source.read(index))

    def test_samples_have_the_same_known_fields_and_images_of_8_or_16_bits(self, source):
        fields = set(source.read(0))
        assert fields <= FIELDS, f"unknown: {fields - FIELDS}; known: {FIELDS}"
        images = fields & {"hr", "lr"}
        assert images
        for index, key in enumerate(source.keys):
            sample = source.read(index)
            assert set(sample) == fields, f"a batch needs the same fields of all, also of {key}"
            for name in images:
                image = sample[name]
                assert isinstance(image, np.ndarray), f"{name} of {key}"
                assert image.dtype in (np.uint8, np.uint16), f"{name} of {key}"
                assert image.ndim == 3, f"{name} of {key}"
                assert image.shape[2] == 3, f"{name} of {key}"
            assert isinstance(sample.get("text", ""), str)
            assert isinstance(sample.get("meta", {}), dict)
            path = source.path(index)
            assert path is None or Path(path).is_file(), f"{path} is no file"

    def test_sizes_are_those_of_the_images(self, source):
        assert callable(source.size), "`size` is a method of every Source: rename the attribute"
        for index, key in enumerate(source.keys):
            size = source.size(index)
            if size is not None:
                sample = source.read(index)
                assert "lr" not in sample, f"{key} is a pair, whose size must be None"
                assert tuple(size) == sample["hr"].shape[:2], key

    def test_read_crop_gives_the_same_pixels_as_cropping_the_whole_image(self, source):
        """Training reads crops alone where it can, and must not see other pixels by that."""
        for index, key in enumerate(source.keys):
            sample = source.read(index)
            if "hr" not in sample or "lr" in sample:
                continue
            height, width = sample["hr"].shape[:2]
            sample.pop("meta", None)  # of the file
            # All of it, its lower right corner, and five pixels of one row.
            crops = [(0, 0, height, width), (height - 9, width - 8, 9, 8), (height // 3, 1, 1, 5)]
            for top, left, h, w in crops:
                crop = source.read_crop(index, top, left, h, w)
                crop.pop("meta", None)
                expected = sample | {"hr": sample["hr"][top : top + h, left : left + w]}
                assert_same(crop, expected, f"{key}: {h}x{w} at row {top}, column {left}")

    def test_an_image_read_again_is_the_same_whatever_was_announced_and_read_before(self, source):
        """`upcoming` announces groups, such as shards, to fetch early: only speed may change."""
        last = len(source.keys) - 1
        expected = copy.deepcopy(source.read(last))
        source.read(0).clear()  # a sample is the reader's: he may take things out
        for groups in ([], [len(source.groups) - 1, 0], list(range(len(source.groups)))):
            source.upcoming(groups)
        assert_same(source.read(last), expected)
        assert source.read(0)

    def test_reading_uses_no_global_generator(self, example):
        with global_generators_untouched():
            source = example.make()
            source.prepare(SCALE)
            source.read(0)

    def test_it_pickles_and_stays_small(self, source):
        """Every worker that is spawned gets a copy."""
        source.read(0)
        pickled = pickle.dumps(source)
        assert len(pickled) < 20_000 + 1_000 * len(source.keys), "pixels in the pickle?"
        other = pickle.loads(pickled)
        assert list(other.keys) == list(source.keys)
        assert_same(other.read(0), source.read(0))

    def test_evaluation_gives_the_same_in_workers(self, example):
        def batches(workers):
            val = {"mine": example.make()}
            data = SRDataModule(SCALE, val=val, degradation=Bicubic(SCALE), workers=workers)
            return list(evaluation(data, "val"))

        for batch, expected in zip(batches(1), batches(0), strict=True):
            H, W = batch["size"]
            assert batch["key"] == expected["key"]
            assert batch.keys() == expected.keys()
            for name in {"hr", "lr"} & batch.keys():
                assert torch.equal(batch[name], expected[name]), name
            assert batch["lr"].shape[-2:] == (H / SCALE, W / SCALE)

    def test_it_can_be_trained_on(self, source, example):
        if "hr" not in source.read(0):
            pytest.skip("only images with HR can be trained on")
        data = SRDataModule(
            SCALE,
            train=example.make(),
            batch_size=2,
            crop_size=16,
            crops=CropSettings(per_image=2),
            degradation=Bicubic(SCALE),
            workers=2,
        )
        batches = list(training(data))
        assert len(batches) == len(source.keys)  # two crops an image, and two a batch
        assert all(batch["hr"].shape == (2, 3, 16, 16) for batch in batches)
        assert all(batch["lr"].shape == (2, 3, 8, 8) for batch in batches)

    def test_a_damaged_image_is_unreadable(self, example):
        if example.broken is None:
            pytest.skip("nothing of it can be damaged")
        source = example.broken()
        source.prepare(SCALE)
        with pytest.raises(UnreadableImage, match=r"\w") as caught:
            source.read(0)
        assert "\n" not in str(caught.value)

    def test_data_that_is_not_there_is_an_error_of_one_line(self, example):
        if example.absent is None:
            pytest.skip("its data is always there")
        source = example.absent()
        with pytest.raises(ValueError, match=r"\w") as caught:
            source.prepare(SCALE)
        assert "\n" not in str(caught.value)
