"""What ``encode`` encodes: squares of the training pictures, or whole ones."""

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
        crop: Side of the squares that are cut from the pictures, at places that follow from
            ``seed_everything`` and the picture's key; by default whole pictures.
        crops_per_image: Squares of each picture.
        flips: Flip and transpose the squares at random.
        pictures: Write HR beside its latent, for a method that wants it in training.
        pairs: Write LR, made by the run's ``degradation`` once for each square, and the latent of
            its enlargement, for methods such as ResShift.
        texts: Write what ``model.init_args.encoder`` says of each caption, so that training runs
            no encoder of texts.
        dtype: Number type of the latents in the shards.
        batch_size: Pictures of one size that are encoded at a time.
        samples_per_shard: Samples a shard, at most.
        overwrite: Replace what an earlier command wrote there.
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
    """Squares of a source's pictures, or its whole pictures cut to a multiple of pixels.

    Args:
        source: Prepared.
        options: Of the command.
        unit: What the sides are a multiple of.
        seed: Of the run.
    """

    def __init__(self, source: Any, options: EncodeOptions, unit: int, seed: int) -> None:
        self.source, self.options, self.unit, self.seed = source, options, unit, seed

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.source.keys)

    def __getitem__(self, picture: int) -> list[dict[str, Any]]:
        """Of each square its number, and key, seed and (H, W, 3) uint8, or why there are none.

        Raises:
            ValueError: Captions are asked for, and there is none.
        """
        key, count = self.source.keys[picture], self.options.crops_per_image
        numbers = range(picture * count, (picture + 1) * count)
        try:
            sample = self.source.read(picture)
            whole = _of_8_bits(sample["hr"])
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
            raise _TooSmallError(f"{key} is {width}x{height} pixels, and {least} is the least")

    def _cut(self, whole: NDArray[np.uint8], draws: SampleDraws) -> NDArray[np.uint8]:
        rows, columns = self._sides(whole)
        if not self.options.crop:
            return _copy(whole[:rows, :columns], 0)
        height, width = whole.shape[:2]
        top, left = draws.integer(0, height - rows + 1), draws.integer(0, width - columns + 1)
        turn = draws.integer(0, 8) if self.options.flips else 0
        return _copy(whole[top : top + rows, left : left + columns], turn)


def name_of(key: str) -> str:
    """What a picture is called in the shards, where a key ends at the first dot."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.replace('.', '_')}"


def of_one_name(keys: Sequence[str]) -> tuple[str, str] | None:
    """Two keys that would be called the same in the shards, if there are any."""
    dotted: dict[str, str] = {}
    for key in keys:
        if (name := name_of(key)) != key and dotted.setdefault(name, key) != key:
            return dotted[name], key
    return next(((dotted[key], key) for key in keys if key in dotted), None) if dotted else None


def _caption(key: str, sample: Any) -> str:
    text: str = sample.get("text", "")
    if not text.strip():
        raise ValueError(
            f"{key} has no caption, which --encode.texts wants: give it one, or leave that out"
        )
    return text


class _TooSmallError(ValueError):
    """A picture that is smaller than the square."""


def _of_8_bits(picture: NDArray[Any]) -> NDArray[np.uint8]:
    if picture.dtype == np.uint16:
        picture = np.round(picture / 257)
    return picture.astype(np.uint8, copy=False)


def _copy(part: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", turned(part, turn))
