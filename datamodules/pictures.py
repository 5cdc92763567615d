"""A Source as the DataLoader sees it: crops in training, whole pictures else, and their batches."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.decode import UnreadableImage
from datamodules.order import Item
from degradations.base import cut_size
from degradations.draws import Draws, seed_of

if TYPE_CHECKING:
    from datamodules.base import Augmentation, Batch, Pixels, Sample, Source

ATTEMPTS = 10  # replacements tried for one unreadable training picture before the run stops


class Pictures(Dataset[dict[str, Any]]):
    """A Source as the DataLoader of an evaluation sees it: whole pictures, cut to the scale.

    Args:
        source: Where the pictures come from, prepared.
        name: Name of the source in the configuration, e.g. ``set5``; callbacks group their numbers
            by it.
        scale: The scale the pictures are used at.
    """

    def __init__(self, source: Source, name: str, scale: float) -> None:
        self.source, self.name, self.scale = source, name, scale
        self.checked = False  # whether a batch of it was found to be as the contract has it
        self.keys = [f"{name}/{key}" for key in source.keys]
        if not self.keys:
            raise ValueError(f"source {name!r} ({type(source).__name__}) has no pictures")
        key, count = Counter(self.keys).most_common(1)[0]
        if count > 1:
            raise ValueError(
                f"source {name!r} has {count} pictures with the key {key!r}; keys must be unique"
            )

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.keys)

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """One picture, ready to be collated.

        Raises:
            ValueError: The picture has less than one LR pixel, or HR and LR do not fit.
        """
        key = self.keys[item.picture]
        sample = self.read(item.picture)
        if "hr" in sample:
            if "lr" in sample:
                height, width = _paired_size(sample, self.scale, key)
            else:
                height, width = cut_size(sample["hr"].shape[:2], self.scale)
            if not (height and width):
                raise ValueError(
                    f"{key} is {_size(sample['hr'])} pixels, less than one LR pixel at "
                    f"data.init_args.scale {self.scale:g}: leave it out"
                )
            sample["hr"] = sample["hr"][:height, :width]
        return {**sample, "key": key, "seed": item.seed}

    def read(self, index: int) -> Sample:
        """What the source gives for one picture, checked; a copy, for the source may keep its own.

        Raises:
            UnreadableImage: The picture is broken.
            ValueError: What the source gives is not what ``Sample`` says.
        """
        sample = self.source.read(index).copy()
        where = f"{self.keys[index]}: {type(self.source).__name__}.read"
        if "hr" not in sample and "lr" not in sample:
            raise ValueError(f"{where} gave neither hr nor lr, but {sorted(sample)}")
        for name in ("hr", "lr"):
            if name in sample:
                _check_pixels(sample[name], f"{where} gave {name} as")
        return sample


class TrainingPictures(Pictures):
    """A Source as the DataLoader of training sees it: random crops, flipped and transposed.

    Args:
        source: Where the pictures come from, prepared.
        name: Name of the source in the configuration.
        scale: The scale the pictures are used at.
        crop_size: Side of the HR crop in pixels.
        flips: Whether to flip and transpose at random.
        augment: A further change of the crop.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        scale: float,
        crop_size: int,
        flips: bool,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__(source, name, scale)
        self.crop_size, self.flips, self.augment = crop_size, flips, augment

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """One crop; an unreadable picture is replaced by another one that its seed determines."""
        skipped = []
        index = item.picture
        for attempt in range(ATTEMPTS):
            try:
                sample = self.read(index)
                break
            except UnreadableImage as error:
                skipped.append(str(error))
                index = seed_of(item.seed, "replacement", attempt) % len(self)
        else:
            raise ValueError(
                f"{ATTEMPTS} pictures of data.init_args.train in a row could not be read; the "
                f"first: {skipped[0]}"
            )
        key = self.keys[index]
        sample.pop("meta", None)  # of the file, not of the crop: alpha alone would outweigh it
        sample = self._crop(sample, key, Draws(np.array([item.seed])).fold("crop"))
        if self.augment is not None:
            if "lr" in sample:
                raise ValueError(
                    f"{key} comes with its own LR, so data.init_args.augment would change only one "
                    "of the two: unset it"
                )
            sample["hr"] = self.augment(
                cast(NDArray[np.uint8], np.ascontiguousarray(sample["hr"])), item.seed
            )
        return {**sample, "key": key, "seed": item.seed, "skipped": skipped}

    def _crop(self, sample: Sample, key: str, draws: Draws) -> Sample:
        paired = "lr" in sample
        if "hr" not in sample:
            raise ValueError(f"{key} has no HR picture, which data.init_args.train needs")
        if paired:
            _paired_size(sample, self.scale, key)
            if self.scale != int(self.scale):
                raise ValueError(
                    f"{key} comes with its own LR, and crops of the two fit only at an integer "
                    f"data.init_args.scale, not {self.scale:g}"
                )
        step = int(self.scale) if paired else 1
        side = self.crop_size // step
        grid = sample["lr"] if paired else sample["hr"]
        rows, columns = grid.shape[0] - side, grid.shape[1] - side
        if rows < 0 or columns < 0:
            raise ValueError(
                f"{key} is {_size(sample['hr'])} pixels, smaller than data.init_args.crop_size "
                f"{self.crop_size}: lower the crop size, or leave such pictures out"
            )
        top, left = int(draws.integers(0, rows + 1)[0]), int(draws.integers(0, columns + 1)[0])
        turn = int(draws.integers(0, 8)[0]) if self.flips else 0
        if paired:
            sample["lr"] = _turned(sample["lr"][top : top + side, left : left + side], turn)
        top, left = top * step, left * step
        hr = sample["hr"][top : top + self.crop_size, left : left + self.crop_size]
        sample["hr"] = _turned(hr, turn)
        return sample


class PredictPictures(Pictures):
    """Pictures to enlarge, whole; an unreadable one becomes a batch that says so."""

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """One picture as ``lr``, or its ``error``."""
        key = self.keys[item.picture]
        try:
            sample = self.read(item.picture)
        except UnreadableImage as error:
            return {"key": key, "seed": item.seed, "error": str(error)}
        if "hr" in sample and "lr" in sample:
            raise ValueError(
                f"{key} is a pair of HR and LR: set data.init_args.predict to a folder of the "
                "pictures that are to be enlarged"
            )
        if "hr" in sample:
            sample["lr"] = sample.pop("hr")
        return {**sample, "key": key, "seed": item.seed}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Put samples together into one batch.

    Args:
        samples: As the datasets above give them.

    Returns:
        Pictures as uint8 tensors or, where one of them has 16 bits, as float32 in [0, 1].

    Raises:
        ValueError: Pictures of differing sizes, or samples with and without LR (or text).
    """
    keys = [s["key"] for s in samples]
    batch: dict[str, Any] = {
        "key": keys,
        "seed": torch.tensor([s["seed"] for s in samples], dtype=torch.int64),
    }
    for name in ("text", "meta", "error", "hr", "lr"):
        values = [s[name] for s in samples if name in s]
        if not values:
            continue
        if len(values) < len(samples):
            raise ValueError(
                f"only {len(values)} of {len(samples)} samples in one batch ({', '.join(keys[:3])}"
                f", ...) have {name!r}: a Source gives it for all pictures, or for none"
            )
        batch[name] = _stack(values, keys) if name in ("hr", "lr") else values
    skipped = [reason for s in samples for reason in s.get("skipped", [])]
    if skipped:
        batch["skipped"] = skipped
    return batch


def _stack(pictures: list[Pixels], keys: list[str]) -> Tensor:
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ValueError(
            f"pictures of differing sizes in one batch ({', '.join(keys[:3])}, ...): set "
            "data.init_args.eval_batch_size 1"
        )
    if all(picture.dtype == np.uint8 for picture in pictures):
        stacked = np.stack(pictures)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
    floats = [picture.astype(np.float32) / np.iinfo(picture.dtype).max for picture in pictures]
    return torch.from_numpy(np.stack(floats)).permute(0, 3, 1, 2).contiguous()


def check_crop(crop_size: int, scale: float) -> None:
    """Refuse a crop that an integer scale does not divide.

    Raises:
        ValueError: Naming both keys and the nearest sizes that fit.
    """
    step = int(scale)
    if scale == step and crop_size % step:
        below = crop_size // step * step
        fits = f"{below} or {below + step}" if below else f"{step}"
        raise ValueError(
            f"data.init_args.crop_size is {crop_size}, not a multiple of data.init_args.scale "
            f"{step}; use {fits}"
        )


def check_batch(batch: Batch) -> None:
    """Check shapes, types and ranges of a batch, once a source.

    Raises:
        ValueError: Saying which part of the batch is not as the contract has it.
    """
    count = len(batch["key"])
    for name in ("hr", "lr"):
        image = batch.get(name)
        if image is None:
            continue
        image = cast(Tensor, image)
        if image.dtype != torch.float32 or image.ndim != 4 or image.shape[:2] != (count, 3):
            raise ValueError(
                f"batch[{name!r}] is {image.dtype} {tuple(image.shape)}; expected float32 "
                f"({count}, 3, H, W) for {batch['key']}"
            )
        low, high = (float(v) for v in image.aminmax())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ValueError(
                f"batch[{name!r}] has values in [{low}, {high}]; expected [0, 1] ({batch['key']})"
            )
    seed = batch["seed"]
    if seed.shape != (count,) or seed.dtype != torch.int64 or seed.device.type != "cpu":
        raise ValueError(
            f"batch['seed'] is {seed.dtype} {tuple(seed.shape)} on {seed.device}; expected int64 "
            f"({count},) on the CPU"
        )


def _check_pixels(picture: Any, what: str) -> None:
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"{what} {type(picture).__name__}; expected an (H, W, 3) NumPy array")
    rgb = picture.ndim == 3 and picture.shape[2] == 3 and picture.size > 0
    if not rgb or picture.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{what} {picture.dtype} {picture.shape}; expected (H, W, 3) uint8 or uint16, RGB"
        )


def _size(picture: Pixels) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _paired_size(sample: Sample, scale: float, key: str) -> tuple[int, int]:
    height, width = (round(side * scale) for side in sample["lr"].shape[:2])
    got = sample["hr"].shape[:2]
    if not (height <= got[0] < height + scale and width <= got[1] < width + scale):
        raise ValueError(
            f"{key}: HR is {_size(sample['hr'])} and LR {_size(sample['lr'])}, which does not fit "
            f"data.init_args.scale {scale:g} (expected HR {width}x{height})"
        )
    return height, width


def _turned(picture: Pixels, turn: int) -> Pixels:
    if turn & 1:
        picture = picture[:, ::-1]
    if turn & 2:
        picture = picture[::-1]
    return picture.transpose(1, 0, 2) if turn & 4 else picture
