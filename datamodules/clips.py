"""Clips: runs of frames that belong together, for models of video.

Whatever is drawn for a clip, its first frame, its crop, how it is turned, is drawn once, from the
sample's seed, and is the same for all of its frames.
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
    """Base of the sources of clips, which give ``clip`` and neither HR nor LR.

    Args:
        frames: Frames of a clip.

    Raises:
        ValueError: Fewer than two frames.
    """

    frames: int

    def __init__(self, frames: int = 16) -> None:
        super().__init__()
        if frames < 2:
            raise ValueError(
                f"{type(self).__name__}.frames is {frames}; expected 2 or more: one frame is a "
                "picture, for which there are other sources"
            )
        self.frames = frames

    @abstractmethod
    def clip(self, index: int, draws: SampleDraws | None) -> Sample:
        """A clip out of ``keys[index]``: ``clip``, (frames, H, W, 3) uint8, and ``text``.

        Args:
            index: Number of the clip.
            draws: Of the training sample, which has a part of the clip at random; None in
                evaluation, where it is always the same part.

        Raises:
            UnreadableImage: A frame is broken, or of another size than the others.
        """

    def read(self, index: int) -> Sample:
        """The clip of an evaluation. As ``clip``."""
        return self.clip(index, None)


class RecordedClips(ClipSource):
    """Base of the sources of clips that were recorded as frames, from which a run is taken.

    Args:
        stride: Every how manieth of the recorded frames is one.
        side: Reduce or enlarge the frames until their shorter side has this many pixels (bicubic,
            antialiased), and cut the square in the middle; by default they stay as they are.
        short: What to do with a clip that has too few frames: ``error``, or ``skip`` it.

    Raises:
        ValueError: A number is out of range, or ``short`` unknown.
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
        """Recorded frames from the first of a clip to its last."""
        return (self.frames - 1) * self.stride + 1

    @abstractmethod
    def recorded(self, index: int) -> Sequence[Any]:
        """The recorded frames of ``keys[index]``, as ``frame`` takes them."""

    @abstractmethod
    def frame(self, frame: Any) -> Pixels:
        """(H, W, 3) of one of ``recorded``.

        Raises:
            UnreadableImage: It is broken.
        """

    def caption(self, index: int) -> str | None:
        """Of ``keys[index]``, where the source has captions."""
        return None

    def clip(self, index: int, draws: SampleDraws | None) -> Sample:
        """As ``ClipSource.clip``; in evaluation from the first recorded frame."""
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
        """Keys of the clips that have enough frames, and a line about the others.

        Args:
            counts: Recorded frames by key.

        Raises:
            ValueError: A clip is too short, and ``short`` is ``error``; or all are.
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
                f"{type(self).__name__}: {what}: ask for fewer frames, or set short to skip where "
                "others are long enough"
            )
        return [key for key in counts if key not in few], what


class Clips(RecordedClips):
    """Folders of frames: each folder that has pictures is a clip, named by its path below ``root``.

    Frames are in the order of the numbers in their names: 9 comes before 10.

    Args:
        root: Folder of the clips. May hold environment variables, ``$ENLARGER_DATA/clips``.
        pattern: Where the frames of several clips lie in one folder: a regular expression of a
            frame's path below ``root`` without extension, whose group ``clip`` is the clip's name,
            such as ``(?P<clip>.+)_[0-9]+``. Files that it does not match are left out.

    Raises:
        ValueError: A number is out of range, ``short`` unknown, or ``pattern`` has no such group.
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
                raise ValueError(f"Clips.pattern {pattern!r} is no pattern: {error}") from error
            if "clip" not in groups:
                raise ValueError(
                    f"Clips.pattern {pattern!r} has no group of the clip's name: write "
                    "(?P<clip>...) around that part"
                )

    def prepare(self, scale: float) -> None:
        """Find the frames. Args as ``Source.prepare``.

        Raises:
            ValueError: There are no clips, or some are too short.
        """
        root = Path(expand_path(self.root, "Clips.root"))
        if not root.is_dir():
            raise ValueError(f"Clips.root {str(root)!r} is no folder; expected one of clips")
        found: dict[str, list[str]] = {}
        for path in list_images(root):
            name = self._clip_of(image_key(path, root))
            if name is not None:
                found.setdefault(name or root.name, []).append(str(path))
        if not found:
            raise ValueError(
                f"Clips.root {str(root)!r} holds no frames; expected a folder of pictures for each "
                "clip, or Clips.pattern for several clips in one"
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
        """Path of each clip below the root, or what the pattern has for its name."""
        return self._keys

    def recorded(self, index: int) -> list[str]:
        """As ``RecordedClips.recorded``."""
        return self._files[index]

    def frame(self, frame: str) -> Pixels:
        """As ``RecordedClips.frame``."""
        return read_picture(frame, self.srgb).rgb


class ClipPictures(Pictures):
    """Clips as the DataLoader of an evaluation sees them: whole frames, cut to the scale."""

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """One clip, ready to be collated.

        Raises:
            UnreadableImage: A frame is broken, or of another size than the others.
            ValueError: Its frames have less than one pixel at the scale, or it is no clip.
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
    """Clips as the DataLoader of training sees them; args as ``TrainingPictures``."""

    def __getitems__(self, items: list[Item]) -> Any:
        """A batch of clips.

        Raises:
            ValueError: Frames are smaller than ``crop_size``, or what the source gives is no clip.
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
        # By the seed alone, so all frames are changed alike.
        if self.augment is not None:
            sample["clip"] = np.stack([self.augment(frame, seed) for frame in sample["clip"]])


def in_order(name: str) -> list[tuple[int, str]]:
    """To sort names of frames by the numbers in them."""
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
