"""Datasets over a Source: training crops, whole images, and the policy for unusable images."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules.files.pairs import size_problem
from datamodules.order.keys import first_duplicate
from datamodules.order.plan import Item, Plan
from datamodules.scales import Scales
from datamodules.source import IMAGES, Augmentation, Mixing, Sample, Source
from degradations.base import cut_size
from degradations.seeds import GAMMA, MULTIPLIERS, SHIFTS, hash_of_name
from files.images.alpha import without_hidden_colours
from files.images.decode import UnreadableImage
from files.images.deep import Pixels
from files.images.exif import lasting_exif
from files.numbers import PositiveInt, UnitInterval

log = logging.getLogger(__name__)
Flips = bool | Literal["horizontal"]
Small = Literal["error", "pad", "skip"]
SMALL = "small"  # the reason of an image that is smaller than the crop
LEAST = 1000  # samples: a share of fewer would be mostly chance
WARNINGS = 20  # warnings before they become rare
LISTED = 50  # images in the error
ATTEMPTS = 300  # replacements tried before the run stops: 9 of 10 images may be too small
FLIP_CODES = {1: 1, 2: 0, 3: -1}  # of OpenCV's flip, by the lower two bits of an orientation
WORD = (1 << 64) - 1  # the largest 64-bit number: `& WORD` drops what does not fit, as in C


@dataclass(frozen=True)
class CropSettings:
    """How training crops are taken from images.

    Args:
        per_image: Crops of each training image per epoch.
        flips: Flip and transpose the crops at random; ``horizontal``: only flip left and right.
        augment: A further change of the crops, on the CPU.
        mixing: Changes of HR and LR together, on the device, one after the other.
        small: What to do with training images smaller than crop_size: ``error``; ``pad``, mirror
            them at their lower and right border; or ``skip``, take other images instead.
        scales: Train at arbitrary scales instead of ``scale``, drawn for each batch.
        unreadable_limit: Stop the run when more than this share of the training samples of a
            process had an unreadable image (another one replaces it). Below 1,000 samples it is
            this share of 1,000: at 0.01, the eleventh stops the run; at 0, the first.
    """

    per_image: PositiveInt = 1
    flips: Flips = True
    augment: Augmentation | None = None
    mixing: list[Mixing] | None = None
    small: Small = "error"
    scales: Scales | None = None
    unreadable_limit: UnitInterval = 0.01


def check_crop(crop_size: int, scale: float) -> None:
    """Check that whole LR pixels make up the crop, as in evaluation: else it has another scale.

    Raises:
        ValueError: If not; the message has the keys and the nearest valid sizes.
    """
    if round(round(crop_size / scale) * scale) != crop_size:
        lr = int(crop_size / scale)
        fits = " or ".join(f"{round(n * scale)}" for n in (lr, lr + 1) if n)
        raise ValueError(
            f"data.init_args.crop_size is {crop_size}, not a multiple of data.init_args.scale "
            f"{scale:g}; use {fits}"
        )


class SampleDraws:
    """The integers of ``Draws`` for one sample, 16 times as fast as arrays of one number.

    Args:
        seed: The sample's seed.
        name: As in ``Draws.fold``.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._state = _scramble(_scramble((seed + GAMMA) & WORD) ^ int(hash_of_name(name)))

    def integer(self, low: int, high: int) -> int:
        """Draw uniformly from {low, ..., high - 1}; ``high`` is above ``low``.

        The upper 53 of 64 random bits, which a float holds exactly, make a number in [0, 1).
        """
        self._state = (self._state + GAMMA) & WORD
        uniform = (_scramble(self._state) >> 11) * 2.0**-53
        return low + int((high - low) * uniform)


def apply_orientation(image: Pixels, orientation: int) -> Pixels:
    """Return a copy of an image in one of the eight orientations.

    By OpenCV, as NumPy goes pixel by pixel: a fortieth of the time for a crop of 256 pixels.

    Args:
        image: (H, W, 3).
        orientation: 0 to 7, the sum of 1 to flip left and right, 2 to flip top and bottom, and 4
            to swap rows and columns after that.
    """
    code = FLIP_CODES.get(orientation & 3)
    flipped = image if code is None else cv2.flip(image, code)
    return cast(Pixels, cv2.transpose(flipped) if orientation & 4 else np.array(flipped))


def draw_orientation(flips: Flips, draws: SampleDraws) -> int:
    """Draw one of the eight orientations of ``apply_orientation``.

    Args:
        flips: True for all eight, ``horizontal`` for a flip of left and right, False for none.
        draws: The sample's numbers.
    """
    if not flips:
        return 0
    return draws.integer(0, 2 if flips == "horizontal" else 8)


def pad_symmetric(image: Pixels, height: int, width: int) -> Pixels:
    """Pad an image by mirroring it at its lower and right border.

    The mirror axis is the border, not the centre of the last pixel, so HR and LR of a pair stay
    aligned.

    Args:
        image: (H, W, 3).
        height: Rows of the result; at least H.
        width: Columns of the result; at least W.
    """
    down, right = height - image.shape[0], width - image.shape[1]
    if not (down or right):
        return image
    return cast(Pixels, np.pad(image, ((0, down), (0, right), (0, 0)), mode="symmetric"))


def _scramble(word: int) -> int:
    """Return the 64-bit hash of a 64-bit number: SplitMix64's, as ``degradations.seeds.mix``."""
    word = (word ^ (word >> SHIFTS[0])) * MULTIPLIERS[0] & WORD
    word = (word ^ (word >> SHIFTS[1])) * MULTIPLIERS[1] & WORD
    return word ^ (word >> SHIFTS[2])


def seed_generators(seed: int) -> None:
    """Seed the global generators, from which a user's source or augmentation may draw."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # NumPy takes 32 bits at most
    torch.default_generator.manual_seed(seed)


@contextmanager
def keeping_global_rng() -> Iterator[None]:
    """Restore Python's, NumPy's and torch's generators afterwards, unless this is a worker.

    In the training process the model draws from them, too, and its numbers must not depend on the
    loader. Use it around a whole batch: it takes longer than our other work for a sample.
    """
    before = None
    if get_worker_info() is None:
        before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        if before is not None:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.default_generator.set_state(before[2])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators for one sample, and restore them afterwards."""
    with keeping_global_rng():
        seed_generators(seed)
        yield


class Skipped(NamedTuple):
    """An image that could not be used.

    key: Its key.
    reason: One word or two, for counting.
    message: The problem, with the file or the shard.
    planned: Whether it was planned; else it was a replacement.
    """

    key: str
    reason: str
    message: str
    planned: bool


class Tally:
    """Counts the training images of one process that could not be used.

    Args:
        limit: The run stops if more than this share of the samples had an unreadable image. Below
            1,000 samples it is this share of 1,000: at 0.01, the eleventh stops the run.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.samples = 0  # of this process
        self.failed = 0  # samples whose planned image was unreadable
        self.reasons: Counter[str] = Counter()  # of all skipped images, replacements included
        self.images: dict[str, str] = {}  # message by key, of the first unreadable images

    @property
    def unreadable(self) -> int:
        """How often an unreadable image was skipped, including replacements."""
        return self.reasons.total() - self.reasons[SMALL]

    def add(self, samples: int, skipped: list[Skipped]) -> None:
        """Count one batch.

        Args:
            samples: Number of its samples.
            skipped: Images that were skipped for them.

        Raises:
            ValueError: If the limit is exceeded; the message has the images and the counts.
        """
        self.samples += samples
        for image in skipped:
            self.reasons[image.reason] += 1
            problem, count = "unreadable", self.unreadable
            if image.reason == SMALL:
                problem, count = "too small", self.reasons[SMALL]
            else:
                self.failed += image.planned
                if len(self.images) < LISTED:
                    self.images.setdefault(image.key, image.message)
            if count <= WARNINGS or count % 1000 == 0:
                text = "skipped a training image, %s (%d so far): %s"
                log.warning(text, problem, count, image.message)
        total = max(self.samples, LEAST)
        reasons = format_counts(Counter({k: n for k, n in self.reasons.items() if k != SMALL}))
        if self.failed > self.limit * total:
            raise ValueError(
                f"{self.failed} of the {self.samples} training samples of this process so far "
                f"could not be read ({reasons}), more than the {int(self.limit * total)} "
                f"that data.init_args.crops.unreadable_limit allows ({self.limit:g} of {total}): "
                "fix these images, leave them out, or raise the limit:\n  "
                + "\n  ".join(self.images.values())
            )

    def summary(self) -> str:
        """Return the counts by reason; empty if there are none."""
        return format_counts(self.reasons)


def format_counts(reasons: Counter[str]) -> str:
    """Return counts by reason in words."""
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common() if count)


class Images(Dataset[dict[str, Any]]):
    """Dataset of a Source for evaluation: whole images, cut to a multiple of the scale.

    Args:
        source: Prepared source of the images.
        name: Name of the source in the configuration, e.g. ``set5``; callbacks group numbers by it.
        scale: The scale at which the images are used.
    """

    needed: tuple[str, ...] = ("hr", "lr", "size")
    """The source must give at least one of these fields of ``Sample``."""

    def __init__(self, source: Source, name: str, scale: float) -> None:
        self.source, self.name, self.scale = source, name, scale
        self.checked = False  # whether a batch was checked against the contract
        self.keys = self._list_keys()

    def _list_keys(self) -> Sequence[str]:
        """Return the key of each image: the dataset's name and the source's key."""
        keys = [f"{self.name}/{key}" for key in self.source.keys]
        duplicate = first_duplicate(keys)
        if not keys or duplicate is not None:
            problem = "no images" if not keys else f"several images with the key {duplicate!r}"
            raise ValueError(f"source {self.name!r} ({type(self.source).__name__}) has {problem}")
        return keys

    def __len__(self) -> int:
        """Number of images."""
        return len(self.keys)

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """Return one image, ready to be collated.

        Raises:
            ValueError: If the image has less than one LR pixel, or HR and LR do not fit.
        """
        key = self.keys[item.image]
        with seeded(item.seed):
            sample = self.read(item.image)
        if "hr" in sample:
            if "lr" in sample:
                height, width = _usable_hr_size(sample, self.scale, key)
            else:
                height, width = self.cut_size(sample["hr"].shape[:2], key)
            sample["hr"] = sample["hr"][:height, :width]
        return {**sample, "key": key, "seed": item.seed}

    def cut_size(self, size: tuple[int, int], key: str) -> tuple[int, int]:
        """Return (H, W) of the largest part of an image that whole LR pixels make up.

        Raises:
            ValueError: If there is none.
        """
        height, width = cut_size(size, self.scale)
        if not (height and width):
            raise ValueError(
                f"{key} is {size[1]}x{size[0]} pixels, less than one LR pixel at "
                f"data.init_args.scale {self.scale:g}: leave it out"
            )
        return height, width

    def output_size(self, lr: Sequence[int]) -> tuple[int, int]:
        """Return (H, W) of the output for an LR of (h, w) without HR."""
        return round(lr[0] * self.scale), round(lr[1] * self.scale)

    def read(self, index: int) -> Sample:
        """Return a checked copy of the source's sample, as the source may keep its own.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If the sample breaks the contract of ``Sample``.
        """
        return self._check_sample(self._read_source(index), index)

    def _read_source(self, index: int) -> Sample:
        """Return a sample as the source gives it."""
        return self.source.read(index)

    def _check_sample(self, sample: Sample, index: int) -> Sample:
        """Return a copy of a sample; raise if it breaks the contract of ``Sample``."""
        where = f"{self.keys[index]}: {type(self.source).__name__}.read gave"
        fields: dict[str, Any] = {**(sample or {})}  # a method of a user may return nothing
        if fields.keys().isdisjoint(self.needed):
            raise ValueError(f"{where} {sorted(fields)}; expected {' or '.join(self.needed)}")
        for name in fields.keys() & IMAGES:
            check_image(fields[name], f"{where} {name} as")
        if "clip" in fields:
            check_image(fields["clip"], f"{where} clip as", 4)
        return cast(Sample, fields)


class TrainingImages(Images):
    """Dataset of a Source for training: random crops, flipped and transposed.

    Args:
        source: Prepared source of the images.
        name: Name of the source in the configuration.
        scale: The scale at which the images are used.
        crop_size: Side of the HR crop in pixels.
        flips: Whether to flip and transpose at random; ``horizontal``: only flip left and right.
        augment: A further change of the crop.
        small: What to do with an image that is smaller than the crop.
        plan: Gives replacements for unusable images; without it, they raise an error.
    """

    needed = ("hr",)

    def __init__(
        self,
        source: Source,
        name: str,
        scale: float,
        crop_size: int,
        flips: Flips,
        augment: Augmentation | None = None,
        small: Small = "error",
        plan: Plan | None = None,
    ) -> None:
        super().__init__(source, name, scale)
        self.crop_size, self.flips, self.augment = crop_size, flips, augment
        self.small, self.plan = small, plan

    def __getitems__(self, items: list[Item]) -> list[dict[str, Any]]:
        """Return the crops of a batch.

        Raises:
            ValueError: If an image breaks the contract, or no replacement can be used.
        """
        with keeping_global_rng():
            return [self._make_sample(item) for item in items]

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """Return one crop; the plan replaces an unusable image by another one.

        Raises:
            UnreadableImage: If the image is broken, or smaller than the crop, and is not replaced.
            ValueError: If it breaks the contract, or no replacement can be used.
        """
        with keeping_global_rng():
            return self._make_sample(item)

    def _make_sample(self, item: Item) -> dict[str, Any]:
        """Return one crop, ready to be collated, and the images that were skipped for it."""
        seed_generators(item.seed)
        sample, index, skipped = self._first_usable_crop(item)
        if self.augment is not None:
            self._augment(sample, index, item.seed)
        return {
            **sample,
            "key": self.keys[index],
            "seed": item.seed,
            "place": (item.epoch, item.position),
            "skipped": skipped,
        }

    def _first_usable_crop(self, item: Item) -> tuple[Sample, int, list[Skipped]]:
        """Return the crop, the number of its image, and the images skipped before it."""
        skipped: list[Skipped] = []
        tried: set[int] = set()
        for attempt in range(ATTEMPTS):
            index = item.image
            if attempt and self.plan is not None:
                index = self.plan.replacement(item.epoch, item.position, attempt - 1)
            if index in tried:
                continue
            tried.add(index)
            try:
                return self._read_and_crop(index, SampleDraws(item.seed, "crop")), index, skipped
            except UnreadableImage as error:
                refused = error.reason == SMALL and self.small == "error"
                if self.plan is None or refused:
                    raise
                skipped.append(Skipped(self.keys[index], error.reason, str(error), not attempt))
        counts = format_counts(Counter(image.reason for image in skipped))
        raise ValueError(
            f"{len(skipped)} images of data.init_args.train in a row could not be used ({counts}); "
            f"the first: {skipped[0].message}"
        )

    def _read_and_crop(self, index: int, draws: SampleDraws) -> Sample:
        """Read an image, and return a random crop of it."""
        size = self.source.size(index)
        if size is not None and (self.small != "pad" or min(size) >= self.crop_size):
            return self._read_known_size(index, size, draws)
        sample = self.read(index)
        sample.pop("meta", None)  # describes the file, not the crop: alpha alone would outweigh it
        if "lr" in sample:
            return self._crop_pair(sample, index, draws)
        size = sample["hr"].shape[:2]
        top, left, orientation = self._draw_place(size, self.crop_size, index, draws)
        sample["hr"] = self._cut_crop(sample["hr"], top, left, self.crop_size, orientation)
        return sample

    def _read_known_size(self, index: int, size: tuple[int, int], draws: SampleDraws) -> Sample:
        """Return a random crop of an image of known (H, W); only that part is decoded."""
        top, left, orientation = self._draw_place(size, self.crop_size, index, draws)
        sample = self._check_sample(
            self.source.read_crop(index, top, left, self.crop_size, self.crop_size), index
        )
        sample.pop("meta", None)
        sample["hr"] = apply_orientation(sample["hr"], orientation)
        return sample

    def _crop_pair(self, sample: Sample, index: int, draws: SampleDraws) -> Sample:
        """Return the same random part of HR and LR.

        Raises:
            ValueError: If they do not fit the scale, or it is not an integer.
        """
        key, step = self.keys[index], int(self.scale)
        height, width = _usable_hr_size(sample, self.scale, key)
        if self.scale != step:
            raise ValueError(
                f"{key} comes with its own LR, and crops of HR and LR fit only at an integer "
                f"data.init_args.scale, not {self.scale:g}"
            )
        side = self.crop_size // step
        top, left, orientation = self._draw_place(sample["lr"].shape[:2], side, index, draws, step)
        sample["lr"] = self._cut_crop(sample["lr"], top, left, side, orientation)
        hr = sample["hr"][:height, :width]
        sample["hr"] = self._cut_crop(hr, top * step, left * step, self.crop_size, orientation)
        return sample

    def _draw_place(
        self,
        size: tuple[int, ...],
        side: int,
        index: int,
        draws: SampleDraws,
        step: int = 1,
    ) -> tuple[int, int, int]:
        """Draw the top row, the left column and the orientation of a crop, always in this order.

        Args:
            size: (H, W) of the image; of a pair, of LR.
            side: Side of the crop in the same pixels.
            index: Number of the image, for the message.
            draws: The sample's numbers.
            step: How many pixels of HR one of these is.

        Raises:
            UnreadableImage: If the image is smaller than the crop, and is not padded.
        """
        rows, columns = (length - side for length in size)
        if min(rows, columns) < 0 and self.small != "pad":
            raise UnreadableImage(
                f"{self.keys[index]} is {size[1] * step}x{size[0] * step} pixels, smaller than "
                f"data.init_args.crop_size {self.crop_size}: lower the crop size, leave such "
                "images out, or set data.init_args.crops.small to pad or skip",
                SMALL,
            )
        top = draws.integer(0, max(rows, 0) + 1)
        left = draws.integer(0, max(columns, 0) + 1)
        return top, left, draw_orientation(self.flips, draws)

    def _cut_crop(self, image: Pixels, top: int, left: int, side: int, orientation: int) -> Pixels:
        """Return a square of an image in an orientation, mirrored at a border that it crosses."""
        part = image[top : top + side, left : left + side]
        return apply_orientation(pad_symmetric(part, side, side), orientation)

    def _augment(self, sample: Sample, index: int, seed: int) -> None:
        """Replace the crop by the result of ``augment``, and check that.

        Raises:
            ValueError: If the sample has other images, or the result is of another size or type.
        """
        others = sample.keys() & {"lr", "latent", "ref"}
        if others:
            raise ValueError(
                f"{self.keys[index]} has {', '.join(others)}, which data.init_args.crops.augment "
                "would not change along with the image: unset it"
            )
        hr: Pixels = sample["hr"]
        sample["hr"] = cast(Any, self.augment)(hr, seed)
        result = f"data.init_args.crops.augment made of {hr.dtype} {hr.shape}"
        check_image(sample["hr"], result)
        if (sample["hr"].shape, sample["hr"].dtype) != (hr.shape, hr.dtype):
            raise ValueError(f"{result} {sample['hr'].dtype} {sample['hr'].shape}")


class PredictImages(Images):
    """Dataset of whole images for ``predict``; an unreadable image becomes a batch with its error.

    Hidden colours of fully transparent pixels do not influence the output.

    Args:
        source: Prepared source of the images.
        name: Name of the source in the configuration.
        scale: Factor by which images are enlarged.
        size: (H, W) to which they are enlarged instead.
    """

    def __init__(
        self, source: Source, name: str, scale: float, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(source, name, scale)
        self.size = size

    def output_size(self, lr: Sequence[int]) -> tuple[int, int]:
        """Return (H, W) of the output for an image of (h, w)."""
        return super().output_size(lr) if self.size is None else self.size

    def why_too_large(self, name: str, lr: Sequence[int]) -> str | None:
        """Return why an image of (h, w) is too large for ``size``, or None."""
        h, w = lr
        height, width = self.output_size((h, w))
        if height >= h and width >= w:
            return None
        return (
            f"{name} is {w}x{h} pixels, larger than the {width}x{height} of "
            f"data.init_args.size [{height}, {width}]: predict does not shrink images, so "
            "raise size"
        )

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """Return one image as ``lr``, or its ``error``.

        Raises:
            ValueError: If it is a pair of HR and LR.
        """
        key = self.keys[item.image]
        try:
            with seeded(item.seed):
                sample = self.read(item.image)
        except UnreadableImage as unreadable:
            return {"key": key, "seed": item.seed, "error": str(unreadable)}
        if "size" in sample:  # to be generated
            return {**sample, "size": self.size or sample["size"], "key": key, "seed": item.seed}
        if "hr" in sample and "lr" in sample:  # its meta is that of HR
            raise ValueError(
                f"{key} is a pair of HR and LR: set data.init_args.predict to a folder of the "
                "images to enlarge"
            )
        if "hr" in sample:
            sample["lr"] = sample.pop("hr")
        sample["meta"] = {"bit_depth": 8 * sample["lr"].itemsize} | sample.get("meta", {})
        _clean_input(sample)
        if error := self.why_too_large(key, sample["lr"].shape[:2]):
            return {"key": key, "seed": item.seed, "error": error}
        return {**sample, "key": key, "seed": item.seed}


def _clean_input(sample: Sample) -> None:
    """Remove hidden colours from an image to enlarge, and EXIF that will no longer hold."""
    meta = dict(sample["meta"])
    if meta.get("alpha") is not None:
        meta["colours"] = sample["lr"]
        sample["lr"] = without_hidden_colours(sample["lr"], meta["alpha"])
    if "exif" in meta:
        meta["exif"] = lasting_exif(meta["exif"])
    sample["meta"] = meta


def check_image(value: Any, what: str, dimensions: int = 3) -> None:
    """Check pixels against the contract of ``Sample``.

    Args:
        value: The pixels.
        what: What comes before their description in the message.
        dimensions: 3 for an image, 4 for the frames of a clip.

    Raises:
        ValueError: If they are no array, or one of another type or shape.
    """
    types = (np.uint8, np.uint16) if dimensions == 3 else (np.uint8,)
    is_array = isinstance(value, np.ndarray)
    fits = is_array and value.ndim == dimensions and value.shape[-1] == 3 and value.size > 0
    if fits and value.dtype in types:
        return
    description = f"{value.dtype} {value.shape}" if is_array else type(value).__name__
    expected = "(H, W, 3) uint8 or uint16" if dimensions == 3 else "(T, H, W, 3) uint8"
    raise ValueError(f"{what} {description}; expected an array {expected}, RGB")


def _usable_hr_size(sample: Sample, scale: float, key: str) -> tuple[int, int]:
    """Return (H, W) of the part of HR that its LR shows.

    Raises:
        ValueError: If their sizes do not fit the scale.
    """
    H, W = sample["hr"].shape[:2]
    h, w = sample["lr"].shape[:2]
    problem = size_problem((W, H), (w, h), scale)
    if problem:
        raise ValueError(f"{key}: the pair does not fit data.init_args.scale {scale:g}: {problem}")
    return round(scale * h), round(scale * w)
