"""Sources around other sources: Crops, OneLR, Mix."""

from collections import Counter

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from skimage import data as photographs

from datamodules.base import SRDataModule
from datamodules.sources.clips import MovingCrops
from datamodules.sources.crops import Crops, OneLR
from datamodules.sources.folder import Folder
from datamodules.sources.mix import Mix
from degradations.bicubic import Bicubic
from tests.datamodules.image_files import save_pixels
from tests.datamodules.memory import (
    Memory,
    data_of,
    evaluation,
    keys_of,
    located,
    opened,
    random_image,
    random_images,
    training,
)


def squares(per_image):
    """Squares of 32 pixels of two images whose pixels are their own place."""
    wide = {"hr": located(40, 60), "text": "wide"}
    high = {"hr": located(64, 48), "text": "high"}
    crops = Crops(Memory({"wide": wide, "high": high}), size=32, per_image=per_image)
    crops.prepare(scale=2.0)
    return crops


def corners(crops):
    """The place of each square by its key."""
    return {key: crops.read(i)["hr"][0, 0].tolist() for i, key in enumerate(crops.keys)}


def test_squares_lie_within_their_images():
    crops = squares(per_image=50)
    rows = set()
    columns = set()
    for index in range(50):
        sample = crops.read(index)
        row, column, _ = sample["hr"][0, 0]
        assert sample["text"] == "wide"
        assert_array_equal(sample["hr"], located(40, 60)[row : row + 32, column : column + 32])
        rows.add(row)
        columns.add(column)

    assert len(crops.keys) == 100
    assert crops.groups == [100]
    assert crops.read(50)["text"] == "high"
    assert rows == set(range(40 - 32 + 1))  # all that leave 32 rows of the 40
    assert max(columns) - min(columns) > 20  # of 60 - 32 = 28


def test_a_place_follows_from_the_name_alone():
    """So with more squares per image, those of before stay the same."""
    many = corners(squares(per_image=5))
    few = corners(squares(per_image=2))
    assert few.items() <= many.items()
    assert len({str(place) for place in many.values()}) > 5  # of 2 images with 5 squares each


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("Crops", lambda source: Crops(source, size=16)),
        ("OneLR", lambda source: OneLR(source, lr_side=8)),
        ("MovingCrops", lambda source: MovingCrops(source, side=8)),
        ("Mix", lambda source: Mix({"a": source})),
    ],
)
def test_an_inner_source_with_a_degradation_or_another_scale_is_refused(name, around):
    """Those of the outer one are used."""
    degraded = Memory({"a": {}}, degradation=Bicubic(2.0))
    with pytest.raises(ValueError, match=rf"{name}\..*has its own degradation"):
        around(degraded).prepare(scale=2.0)
    scaled = Memory({"a": {}}, scale=3.0)
    with pytest.raises(ValueError, match=rf"{name}\..*has its own scale"):
        around(scaled).prepare(scale=2.0)
    around(scaled).prepare(scale=3.0)


# ------------------------------------------------------------------------------------------ OneLR


FACE = photographs.astronaut()[:256, 100:356]


def test_one_lr_is_shared_by_hr_of_all_scales():
    """As LIIF is measured: the LR has 16 pixels at each scale, and the HR 16 times the scale."""
    sides = {5.3125: 85, 7: 112, 10.6875: 171}  # of HR, by scale
    face = Memory({"face": {"hr": FACE, "text": "a face"}})
    sources = {str(scale): OneLR(face, lr_side=16, scale=scale) for scale in sides}

    batches = list(evaluation(SRDataModule(scale=10, test=sources, workers=0), "test"))

    for side, batch in zip(sides.values(), batches, strict=True):
        assert batch["size"] == (side, side)
        assert batch["text"] == ["a face"]
        for name, length in (("hr", side), ("lr", 16)):
            expected = Image.fromarray(FACE).resize((length, length), Image.Resampling.BICUBIC)
            assert_array_equal((batch[name][0] * 255).round().permute(1, 2, 0), expected)
    assert len({int(batch["seed"]) for batch in batches}) == 1  # so that CasArbi draws equal noise


@pytest.mark.parametrize(
    ("lr", "hr"), [((20, 4), (110, 20)), ((4, 20), (20, 110))], ids=["tall", "wide"]
)
def test_one_lr_accepts_another_shape_that_rounds_to_the_same_pixels(lr, hr):
    """110 x 20 px would be 20 x 3.6, which is 20 x 4 px."""
    image = np.zeros((*hr, 3), np.uint8)
    source = OneLR(Memory({"a": {"hr": image}}), lr_side=lr, scale=1)
    source.prepare(scale=1.0)
    assert source.read(0)["lr"].shape == (*lr, 3)


def test_one_lr_refuses_an_image_that_it_would_distort():
    image = np.zeros((40, 60, 3), np.uint8)
    source = OneLR(Memory({"a": {"hr": image}}), lr_side=16, scale=1)
    source.prepare(scale=1.0)
    with pytest.raises(ValueError, match="would distort it"):
        source.read(0)


def test_squares_have_the_transparency_of_their_place(tmp_path):
    places = located(40, 40)
    # Red is the number of the row, and alpha is a copy of red.
    save_pixels(tmp_path / "a.png", np.dstack([places, places[..., 0]]))
    crops = Crops(Folder(str(tmp_path)), size=8, per_image=1)

    crops.prepare(scale=2.0)
    sample = crops.read(0)

    assert_array_equal(sample["meta"]["alpha"], sample["hr"][..., 0])


def test_srgb_of_an_outer_source_is_that_of_the_inner_ones():
    """`predict` sets it, to keep colour profiles or to convert them."""
    inner = random_images(1)
    outer = Crops(Mix({"x": inner}), size=8)

    outer.srgb = False
    outer.prepare(scale=2.0)

    assert inner.srgb is False


# --------------------------------------------------------------------------------------------- Mix


class Grouped(Memory):
    """Groups of five images, such as shards; notes the groups that are announced."""

    def __init__(self, count):
        super().__init__(
            {f"s{i:02d}": {"hr": random_image(16, 20, count + i)} for i in range(count)}
        )
        self.announced = set()

    @property
    def groups(self):
        return [5] * (len(self.samples) // 5)

    def upcoming(self, groups):
        self.announced |= set(groups)


def mixed(**settings):
    sources = {"photos": Grouped(40), "faces": Grouped(10)}
    return Mix(sources, **{"weights": {"photos": 3, "faces": 1}} | settings)


def test_each_key_of_a_mixture_has_the_image_of_its_source():
    mix = mixed()
    mix.prepare(scale=2.0)
    for index, key in enumerate(mix.keys):
        name, _, image = key.partition("/")
        assert_array_equal(mix.read(index)["hr"], mix.sources[name].samples[image]["hr"])


def test_shares_are_exact_and_images_of_a_source_equally_frequent():
    keys = keys_of(training(data_of(mixed(samples=1024), batch_size=16)))  # weights 3 and 1
    photos = Counter(key for key in keys if key.startswith("train/photos/"))
    faces = Counter(key for key in keys if key.startswith("train/faces/"))
    assert photos.total() == 768  # 3/4 of 1,024
    assert faces.total() == 256
    assert set(photos.values()) == {19, 20}  # 768 / 40 images = 19.2
    assert set(faces.values()) == {25, 26}  # 256 / 10 images = 25.6


def test_a_mixture_within_a_mixture_keeps_its_own_shares():
    both = Mix({"mixed": mixed(samples=7), "rest": Grouped(10)}, samples=512)
    keys = keys_of(training(data_of(both, batch_size=16)))
    counts = Counter(key.rpartition("/")[0] for key in keys)
    # Without weights a source's share is that of its images: `mixed` has 50 of 60, and three
    # quarters of these are photos. Counts are exact to one.
    of_mixed = 512 * 50 / 60
    assert counts["train/mixed/photos"] == pytest.approx(of_mixed * 3 / 4, abs=1)
    assert counts["train/mixed/faces"] == pytest.approx(of_mixed / 4, abs=1)
    assert counts["train/rest"] == pytest.approx(512 * 10 / 60, abs=1)


def test_groups_of_a_mixture_are_announced_to_their_sources_by_their_own_numbers():
    """A group is a shard, which its source downloads when it is announced."""
    mix = mixed()
    list(training(data_of(mix, streams=2)))
    assert mix.sources["photos"].announced == set(range(8))  # 40 images in groups of five
    assert mix.sources["faces"].announced == {0, 1}


@pytest.mark.parametrize("change", [{"weights": {"photos": 1, "faces": 1}}, {"samples": 60}])
def test_a_run_does_not_go_on_with_other_shares(change):
    state = opened(mixed()).state_dict()
    opened(mixed()).load_state_dict(state)
    other = opened(mixed(**change))
    with pytest.raises(ValueError, match=r"weights and samples of data\.init_args\.train"):
        other.load_state_dict(state)


@pytest.mark.parametrize(("name", "value"), [("text", "the sea"), ("lr", random_image(16, 20))])
def test_sources_of_two_kinds_are_refused(name, value):
    rich = Memory({"a": {"hr": random_image(32, 40), name: value}})
    mix = Mix({"plain": random_images(4), "rich": rich})
    with pytest.raises(ValueError, match=rf"'{name}'.* mix sources of one kind"):
        list(training(data_of(mix, batch_size=1)))  # so it is not collating that refuses
