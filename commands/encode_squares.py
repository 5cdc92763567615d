"""The images that ``encode`` encodes: squares of the training images, or whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.cutting import SampleDraws, turned
from datamodules.decode import UnreadableImage
from degradations.draws import seed_of


@dataclass(frozen=True)
class EncodeOptions:
    """What ``encode`` writes, and where.

    Args:
        out: Folder of the shards.
        crop: Side of the squares cut from the images, at positions that follow from
            ``seed_everything`` and the image's key; by default whole images.
        crops_per_image: Squares of each image.
        flips: Flip and transpose the squares at random.
        pictures: Also write HR, for methods that need it in training.
        pairs: Also write LR, made by the run's ``degradation`` once for each square, and the latent
            of its enlargement, for methods such as ResShift.
        texts: Also write the features of each caption by ``model.init_args.encoder``, so that
            training runs no text encoder.
        dtype: Number type of the latents in the shards.
        batch_size: Images of one size that are encoded together.
        samples_per_shard: Maximum number of samples in a shard.
        overwrite: Replace the output of an earlier command.
    """

    out: str = ""
    crop: int | None = None
    crops_per_image: int = 1
    flips: bool = False
    pictures: bool = False
    pairs: bool = False
    texts: bool = False
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = 8
    samples_per_shard: int = 1000
    overwrite: bool = False


class Squares(Dataset[list[dict[str, Any]]]):
    """Squares of a source's images, or whole images cropped to a multiple of pixels.

    Args:
        source: The prepared source.
        options: Options of the command.
        unit: Pixels of which the sides are a multiple.
        seed: Seed of the run.
    """

    def __init__(self, source: Any, options: EncodeOptions, unit: int, seed: int) -> None:
        self.source, self.options, self.unit, self.seed = source, options, unit, seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source.keys)

    def __getitem__(self, image: int) -> list[dict[str, Any]]:
        """Return number, key, seed and (H, W, 3) uint8 of each square, or number and error.

        Raises:
            ValueError: If a required caption is missing.
        """
        key, count = self.source.keys[image], self.options.crops_per_image
        numbers = range(image * count, (image + 1) * count)
        try:
            sample = self.source.read(image)
            whole = _to_8_bits(sample["hr"])
            self._check_size(key, whole)
        except (UnreadableImage, _TooSmallError) as error:
            return [{"number": number, "error": str(error)} for number in numbers]
        caption = {"text": _caption(key, sample)} if self.options.texts else {}
        name, squares = name_of(key), []
        for square, number in enumerate(numbers):
            seed = seed_of(self.seed, "encode", key, square)
            hr = self._cut(whole, SampleDraws(seed, "crop"))
            own = {"number": number, "key": f"{name}/{square}", "seed": seed}
            squares.append({**own, "hr": hr, **caption})
        return squares

    def _sides(self, whole: NDArray[np.uint8]) -> tuple[int, int]:
        side, (height, width) = self.options.crop, whole.shape[:2]
        return (side, side) if side else (height - height % self.unit, width - width % self.unit)

    def _check_size(self, key: str, whole: NDArray[np.uint8]) -> None:
        height, width = whole.shape[:2]
        rows, columns = self._sides(whole)
        if min(rows, columns) < 1 or rows > height or columns > width:
            least = self.options.crop or self.unit
            raise _TooSmallError(f"{key} is {width}x{height} pixels, below the minimum of {least}")

    def _cut(self, whole: NDArray[np.uint8], draws: SampleDraws) -> NDArray[np.uint8]:
        rows, columns = self._sides(whole)
        if not self.options.crop:
            return _copy(whole[:rows, :columns], 0)
        height, width = whole.shape[:2]
        top, left = draws.integer(0, height - rows + 1), draws.integer(0, width - columns + 1)
        turn = draws.integer(0, 8) if self.options.flips else 0
        return _copy(whole[top : top + rows, left : left + columns], turn)


def name_of(key: str) -> str:
    """Return the name of an image in the shards, where a key ends at the first dot."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.replace('.', '_')}"


def colliding_keys(keys: Sequence[str]) -> tuple[str, str] | None:
    """Return two keys that would have the same name in the shards, or None."""
    dotted: dict[str, str] = {}
    for key in keys:
        if (name := name_of(key)) != key and dotted.setdefault(name, key) != key:
            return dotted[name], key
    return next(((dotted[key], key) for key in keys if key in dotted), None) if dotted else None


def _caption(key: str, sample: Any) -> str:
    text: str = sample.get("text", "")
    if not text.strip():
        raise ValueError(
            f"{key} has no caption, which --encode.texts requires: add one, or remove the option"
        )
    return text


class _TooSmallError(ValueError):
    """An image that is smaller than the square."""


def _to_8_bits(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype == np.uint16:
        image = np.round(image / 257)
    return image.astype(np.uint8, copy=False)


def _copy(part: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", turned(part, turn))
