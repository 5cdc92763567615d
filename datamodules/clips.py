"""Clips: runs of frames that belong together, for models of video.

A clip's first frame, crop and orientation are drawn once from the sample's seed, so they are the
same for all of its frames.
"""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.cutting import SampleDraws
from datamodules.decode import UnreadableImage, read_picture
from datamodules.order import Item
from datamodules.paths import image_key
from datamodules.pictures import Pictures, TrainingPictures
from datamodules.source import Pixels, Sample, Source
from degradations.base import cut_size
from files.paths import expand_path, list_images

log = logging.getLogger(__name__)

Short = Literal["error", "skip"]
Frames = NDArray[np.uint8]  # (T, H, W, 3)

SHOWN = 3  # clips in a message


class ClipSource(Source):
    """Base class of clip sources, which give ``clip`` instead of HR and LR.

    Args:
        frames: Frames per clip.

    Raises:
        ValueError: If there are fewer than two frames.
    """

    frames: int

    def __init__(self, frames: int = 16) -> None:
        super().__init__()
        if frames < 2:
            raise ValueError(
                f"{type(self).__name__}.frames is {frames}; expected 2 or more: for "
                "images use another source"
            )
        self.frames = frames

    @abstractmethod
    def clip(self, index: int, draws: SampleDraws | None) -> Sample:
        """Return a clip of ``keys[index]``: ``clip``, (frames, H, W, 3) uint8, and ``text``.

        Args:
            index: Number of the clip.
            draws: Draws of a training sample, which gets a random part of the clip; None in
                evaluation, which always gets the same part.

        Raises:
            UnreadableImage: If a frame is broken, or frames differ in size.
        """

    def read(self, index: int) -> Sample:
        """Return the clip for evaluation. As ``clip``."""
        return self.clip(index, None)


class RecordedClips(ClipSource):
    """Base class of clip sources that take clips from longer recorded sequences of frames.

    Args:
        stride: Take every stride-th of the recorded frames.
        side: Resize the frames until their shorter side has this many pixels (bicubic,
            antialiased), and cut the central square; by default they stay as they are.
        short: What to do with a clip that has too few frames: ``error``, or ``skip`` it.

    Raises:
        ValueError: If a number is out of range, or ``short`` is unknown.
    """

    def __init__(
        self, stride: int = 1, side: int | None = None, short: Short = "error", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        name = type(self).__name__
        if stride < 1 or (side is not None and side < 1):
            raise ValueError(f"{name}.stride is {stride} and side {side}; expected 1 or more")
        if short not in get_args(Short):
            raise ValueError(f"{name}.short is {short!r}; expected {' or '.join(get_args(Short))}")
        self.stride, self.side, self.short = stride, side, short

    @property
    def span(self) -> int:
        """Number of recorded frames from a clip's first frame to its last."""
        return (self.frames - 1) * self.stride + 1

    @abstractmethod
    def recorded(self, index: int) -> Sequence[Any]:
        """Return the recorded frames of ``keys[index]``, as ``frame`` takes them."""

    @abstractmethod
    def frame(self, frame: Any) -> Pixels:
        """Return (H, W, 3) of one of ``recorded``.

        Raises:
            UnreadableImage: If it is broken.
        """

    def caption(self, index: int) -> str | None:
        """Return the caption of ``keys[index]``, if the source has captions."""
        return None

    def clip(self, index: int, draws: SampleDraws | None) -> Sample:
        """As ``ClipSource.clip``; evaluation starts at the first recorded frame."""
        recorded = self.recorded(index)
        start = 0 if draws is None else draws.integer(0, len(recorded) - self.span + 1)
        chosen = recorded[start : start + self.span : self.stride]
        sample = cast(Sample, {"clip": self._together(index, [self.frame(one) for one in chosen])})
        caption = self.caption(index)
        return sample if caption is None else {**sample, "text": caption}

    def _together(self, index: int, frames: list[Pixels]) -> Frames:
        sizes = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames})
        if len(sizes) > 1:
            raise UnreadableImage(
                f"{self.keys[index]} has frames of {' and '.join(sizes)}; expected one size in all "
                "frames of a clip"
            )
        levels = [_eight_bit(frame) for frame in frames]
        if self.side is not None:
            levels = [_square(frame, self.side) for frame in levels]
        return np.stack(levels)

    def _long_enough(self, counts: dict[str, int]) -> tuple[list[str], str]:
        """Return the keys of clips with enough frames, and a line about the others.

        Args:
            counts: Number of recorded frames by key.

        Raises:
            ValueError: If a clip is too short and ``short`` is ``error``, or all are too short.
        """
        few = {key: count for key, count in counts.items() if count < self.span}
        if not few:
            return list(counts), ""
        shown = ", ".join(f"{key} {count}" for key, count in list(few.items())[:SHOWN])
        what = (
            f"{len(few)} of {len(counts)} clips have fewer than the {self.span} frames that frames "
            f"{self.frames} and stride {self.stride} span ({shown}{', ...' * (len(few) > SHOWN)})"
        )
        if self.short == "error" or len(few) == len(counts):
            raise ValueError(
                f"{type(self).__name__}: {what}: lower frames or stride, or set short to skip if "
                "other clips are long enough"
            )
        return [key for key in counts if key not in few], what


class Clips(RecordedClips):
    """Folders of frames: each folder with images is a clip, named by its path below ``root``.

    Frames are ordered by the numbers in their names: 9 comes before 10.

    Args:
        root: Folder of the clips. May contain environment variables, ``$ENLARGER_DATA/clips``.
        pattern: If several clips share a folder: a regular expression for a frame's path below
            ``root`` without extension, whose group ``clip`` is the clip's name, such as
            ``(?P<clip>.+)_[0-9]+``. Files that do not match are left out.

    Raises:
        ValueError: If a number is out of range, ``short`` is unknown, or ``pattern`` has no such
            group.
    """

    def __init__(self, root: str, pattern: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.pattern = root, pattern
        self._keys: list[str] = []
        self._files: list[list[str]] = []
        if pattern is not None:
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise ValueError(
                    f"Clips.pattern {pattern!r} is not a regular expression: {error}"
                ) from error
            if "clip" not in groups:
                raise ValueError(
                    f"Clips.pattern {pattern!r} has no group named clip: write (?P<clip>...) "
                    "around the clip's name"
                )

    def prepare(self, scale: float) -> None:
        """Find the frames. Args as ``Source.prepare``.

        Raises:
            ValueError: If there are no clips, or some are too short.
        """
        root = Path(expand_path(self.root, "Clips.root"))
        if not root.is_dir():
            raise ValueError(f"Clips.root {str(root)!r} is not a folder; expected one of clips")
        found: dict[str, list[str]] = {}
        for path in list_images(root):
            name = self._clip_of(image_key(path, root))
            if name is not None:
                found.setdefault(name or root.name, []).append(str(path))
        if not found:
            raise ValueError(
                f"Clips.root {str(root)!r} has no frames; expected a folder of images for each "
                "clip, or Clips.pattern for several clips in one folder"
            )
        keys, note = self._long_enough({key: len(paths) for key, paths in found.items()})
        if note:
            log.warning("Clips left out: %s", note)
        self._keys = sorted(keys)
        self._files = [sorted(found[key], key=in_order) for key in self._keys]

    def _clip_of(self, frame: str) -> str | None:
        if self.pattern is None:
            return frame.rpartition("/")[0]
        match = re.fullmatch(self.pattern, frame)
        return match and match["clip"]

    @property
    def keys(self) -> list[str]:
        """Path of each clip below the root, or its name by the pattern."""
        return self._keys

    def recorded(self, index: int) -> list[str]:
        """As ``RecordedClips.recorded``."""
        return self._files[index]

    def frame(self, frame: str) -> Pixels:
        """As ``RecordedClips.frame``."""
        return read_picture(frame, self.srgb).rgb


class ClipPictures(Pictures):
    """Dataset of clips for evaluation: whole frames, cut to a multiple of the scale."""

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """Return one clip, ready to be collated.

        Raises:
            UnreadableImage: If a frame is broken, or frames differ in size.
            ValueError: If its frames have less than one pixel at the scale, or it is not a clip.
        """
        sample: Any = self.read(item.picture)
        height, width = cut_size(sample["clip"].shape[1:3], self.scale)
        if not (height and width):
            raise ValueError(
                f"{self.keys[item.picture]}: its frames have less than one pixel at "
                f"data.init_args.scale {self.scale:g}: leave it out"
            )
        cut = sample["clip"][:, :height, :width]
        return {**sample, "clip": cut, "key": self.keys[item.picture], "seed": item.seed}

    def _checked(self, given: Sample, index: int) -> Sample:
        return _checked(given, self._where(index))


class TrainingClips(TrainingPictures):
    """Dataset of clips for training; args as ``TrainingPictures``."""

    def __getitems__(self, items: list[Item]) -> Any:
        """Return the samples of a batch.

        Raises:
            ValueError: If frames are smaller than ``crop_size``, or the source gives no clip.
        """
        return [self._sample(item, None) for item in items]

    def _crop(self, index: int, draws: SampleDraws, out: Pixels | None) -> Sample:
        source = cast(ClipSource, self.source)
        sample: Any = _checked(source.clip(index, draws), self._where(index))
        clip = sample["clip"]
        top, left, turn = self._place(clip.shape[1:3], self.crop_size, index, draws)
        cuts = [self._cut(frame, top, left, self.crop_size, turn) for frame in clip]
        return cast(Sample, {**sample, "clip": np.stack(cuts)})

    def _augmented(self, sample: Any, index: int, seed: int) -> None:
        # From the seed alone, so all frames change alike.
        if self.augment is not None:
            sample["clip"] = np.stack([self.augment(frame, seed) for frame in sample["clip"]])


def in_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders names by the numbers in them."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _checked(given: Sample, where: str) -> Sample:
    sample: Any = given.copy()
    clip = sample.get("clip")
    sound = isinstance(clip, np.ndarray) and clip.dtype == np.uint8
    if not sound or clip.ndim != 4 or clip.shape[-1] != 3 or not clip.size:
        got = f"{clip.dtype} {clip.shape}" if isinstance(clip, np.ndarray) else type(clip).__name__
        raise ValueError(f"{where} gave clip as {got}; expected (T, H, W, 3) uint8, RGB")
    return cast(Sample, sample)


def _eight_bit(frame: Pixels) -> NDArray[np.uint8]:
    if frame.dtype == np.uint16:
        return (frame.astype(np.float32) / 257).round().astype(np.uint8)
    return cast("NDArray[np.uint8]", frame)


def _square(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    factor = side / min(height, width)
    size = (max(round(width * factor), side), max(round(height * factor), side))
    resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return resized[top : top + side, left : left + side]
