"""Sources of clips: Clips, MovingCrops, ClipShards.

A clip's first frame, crop and orientation are drawn once from the sample's seed, so they are the
same for all of its frames.

A WebDataset sample is all members whose names agree up to the first dot. A clip is either a sample
whose members are its frames, ``name.0001.png``, ``name.0002.png`` and so on, with a caption in
``name.txt``; or, as ``tar`` packs folders of frames, all images of one folder, ``name/0001.png``,
with the first frame's caption (``name/0001.txt``) or one beside the folder (``name.txt``).
"""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.files.roles import SUFFIXES, role_of
from datamodules.order.plan import Item
from datamodules.samples import Images, SampleDraws, TrainingImages, seeded
from datamodules.shards.cache import ShardCache
from datamodules.shards.index import Member, ShardIndex
from datamodules.shards.reader import Tar
from datamodules.shards.sample import add_text
from datamodules.shards.shards import Shards
from datamodules.source import Augmentation, PerImage, Sample, Source, text_fields
from degradations.draws import seed_of
from files.images.decode import UnreadableImage, read_image
from files.images.deep import Pixels, eight_bits
from files.numbers import PositiveFloat, PositiveInt
from files.paths import expand_path, images_by_key
from files.words import first_of

log = logging.getLogger(__name__)
Frame = NDArray[np.uint8]  # (H, W, 3)


class ClipSource(Source):
    """Base class of clip sources, which give ``clip`` instead of HR and LR.

    Args:
        frames: Frames per clip; at least two.
    """

    frames: int

    def __init__(self, frames: PositiveInt = 16) -> None:
        super().__init__()
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
        """Return the part of the clip ``keys[index]`` that evaluation always takes."""
        return self.clip(index, None)


class RecordedClips(ClipSource):
    """Base class of clip sources that take clips from longer recorded sequences of frames.

    Args:
        stride: Take every stride-th of the recorded frames.
        side: Resize the frames until their shorter side has this many pixels (bicubic,
            antialiased), and cut the central square; by default they stay as they are.
    """

    def __init__(
        self, stride: PositiveInt = 1, side: PositiveInt | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.stride, self.side = stride, side

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
        """Return a clip from a random first frame or, in evaluation, from the first one.

        Args as ``ClipSource.clip``.
        """
        recorded = self.recorded(index)
        start = 0
        if draws is not None:
            start = draws.integer(0, len(recorded) - self.span + 1)
        frames: list[Frame] = []
        for place in recorded[start : start + self.span : self.stride]:
            frame = eight_bits(self.frame(place))
            if frames and frame.shape != frames[0].shape:
                raise UnreadableImage(
                    f"{self.keys[index]} has frames of the shapes {frames[0].shape} and "
                    f"{frame.shape}; expected one size in all frames of a clip"
                )
            frames.append(frame)
        if self.side is not None:
            frames = [_resize_and_cut_square(frame, self.side) for frame in frames]
        sample = Sample(clip=np.stack(frames))
        caption = self.caption(index)
        if caption is not None:
            sample["text"] = caption
        return sample

    def _keys_long_enough(self, counts: dict[str, int]) -> list[str]:
        """Return the keys of clips with enough frames; the others are logged.

        Args:
            counts: Number of recorded frames by key.

        Raises:
            ValueError: If all are too short, or there are none.
        """
        short = {key: count for key, count in counts.items() if count < self.span}
        examples = first_of((f"{key} {count}" for key, count in short.items()), 3)
        message = (
            f"{type(self).__name__}: {len(short)} of {len(counts)} clips have fewer than the "
            f"{self.span} frames that frames {self.frames} and stride {self.stride} span "
            f"({examples})"
        )
        if len(short) == len(counts):
            raise ValueError(f"{message}: lower frames or stride, or give a folder for each clip")
        if short:
            log.warning("left out: %s", message)
        return [key for key in counts if key not in short]


class Clips(RecordedClips):
    """Folders of frames: each folder with images is a clip, named by its path below ``root``.

    Frames are ordered by the numbers in their names: 9 comes before 10.

    Args:
        root: Folder of the clips. May contain environment variables, ``$ENLARGER_DATA/clips``.
    """

    keys: Sequence[str] = ()  # path of each clip below the root

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self._files: list[list[str]] = []

    def prepare(self, scale: float) -> None:
        """Find the frames. Args as ``Source.prepare``.

        Raises:
            ValueError: If there are no clips, all are too short, some are the LR of others, or two
                have one name.
        """
        root = Path(expand_path(self.root, "Clips.root"))
        clips: dict[str, list[str]] = {}
        for key, path in images_by_key(root, "Clips.root").items():
            clips.setdefault(key.rpartition("/")[0], []).append(str(path))
        if "" in clips and root.name in clips:
            raise ValueError(
                f"Clips.root {str(root)!r} has frames, and so has its folder {root.name!r}: "
                "both clips would have this name; rename one of the folders"
            )
        if "" in clips:  # frames of the root itself
            clips[root.name] = clips.pop("")
        counts = {key: len(files) for key, files in clips.items()}
        self.keys = sorted(self._keys_long_enough(counts))
        self._files = [sorted(clips[key], key=numeric_sort_key) for key in self.keys]

    def recorded(self, index: int) -> list[str]:
        """Return the files of the frames of ``keys[index]``."""
        return self._files[index]

    def frame(self, frame: str) -> Pixels:
        """Return (H, W, 3) of the file of a frame."""
        return read_image(frame, self.srgb).rgb


class ClipImages(Images):
    """Dataset of clips for evaluation: whole frames, cut to a multiple of the scale."""

    needed = ("clip",)

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """Return one clip, ready to be collated.

        Raises:
            UnreadableImage: If a frame is broken, or frames differ in size.
            ValueError: If its frames have less than one pixel at the scale, or it is not a clip.
        """
        key = self.keys[item.image]
        with seeded(item.seed):
            sample = self.read(item.image)
        height, width = self.cut_size(sample["clip"].shape[1:3], key)
        sample["clip"] = sample["clip"][:, :height, :width]
        return {**sample, "key": key, "seed": item.seed}


class TrainingClips(TrainingImages):
    """Dataset of clips for training; args as ``TrainingImages``."""

    needed = ("clip",)

    def _read_and_crop(self, index: int, draws: SampleDraws) -> Sample:
        """Return the same random crop of all frames of a clip."""
        source = cast(ClipSource, self.source)
        sample = self._check_sample(source.clip(index, draws), index)
        frames = sample["clip"]
        top, left, orientation = self._draw_place(frames.shape[1:3], self.crop_size, index, draws)
        crops = [self._cut_crop(frame, top, left, self.crop_size, orientation) for frame in frames]
        sample["clip"] = np.stack(cast(list[Frame], crops))
        return sample

    def _augment(self, sample: Sample, index: int, seed: int) -> None:
        """Replace the frames by the results of ``augment``, which draws alike for all of them."""
        frames = []
        for frame in sample["clip"]:
            with seeded(seed):
                frames.append(cast(Augmentation, self.augment)(frame, seed))
        sample["clip"] = np.stack(frames)


ClipSource.evaluation_dataset = ClipImages
ClipSource.training_dataset = TrainingClips


def numeric_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders names by the numbers in them: ``a9`` before ``a10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _resize_and_cut_square(frame: Frame, side: int) -> Frame:
    """Resize a frame until its shorter side has ``side`` pixels, and return its central square."""
    factor = side / min(frame.shape[:2])
    height = max(round(frame.shape[0] * factor), side)
    width = max(round(frame.shape[1] * factor), side)
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    top = (height - side) // 2
    left = (width - side) // 2
    return np.asarray(image)[top : top + side, left : left + side]


class MovingCrops(PerImage, ClipSource):
    """A window that pans over each image of another source at constant speed.

    The path is drawn from the sample's seed in training and from the key in evaluation: the speed
    along both axes, then the start, so that the window stays inside the image.

    Args:
        source: Source of the images; HR only.
        side: Side of a frame in pixels.
        reduce: Side in image pixels of the square whose mean is one pixel of a frame.
        speed: Largest movement from frame to frame along each axis, in pixels of a frame; smaller
            if the image has no room for it.
        per_image: Clips per image.
    """

    def __init__(
        self,
        source: Source,
        side: PositiveInt,
        reduce: PositiveInt = 1,
        speed: PositiveFloat = 1.0,
        per_image: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.side, self.reduce = source, side, reduce
        self.speed, self.per_image = speed, per_image

    def clip(self, index: int, draws: SampleDraws | None) -> Sample:
        """Return frames along a path of the window. Args as ``ClipSource.clip``.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If it is smaller than the window, or a pair.
        """
        window = self.side * self.reduce
        sample = self.image(index, window)
        height, width = sample["hr"].shape[:2]
        if draws is None:
            draws = SampleDraws(seed_of("moving", self.keys[index]), "path")
        rows = self._window_starts(height - window, draws)
        columns = self._window_starts(width - window, draws)
        frames = []
        for top, left in zip(rows, columns, strict=True):
            frame = sample["hr"][top : top + window, left : left + window]
            frames.append(_downscale_by_mean(frame, self.reduce))
        return {"clip": np.stack(frames), **text_fields(sample)}

    def _window_starts(self, room: int, draws: SampleDraws) -> list[int]:
        """Draw a path along one axis: the window's start in each frame, from 0 to ``room``."""
        steps = self.frames - 1
        longest = min(int(self.speed * self.reduce * steps), room)
        length = draws.integer(-longest, longest + 1)
        first = max(0, -length)
        last = room - max(0, length)
        start = draws.integer(first, last + 1)
        # start + length * n / steps, rounded half up in whole numbers.
        return [start + (2 * length * n + steps) // (2 * steps) for n in range(self.frames)]


def _downscale_by_mean(window: Pixels, factor: int) -> Frame:
    """Return an image whose pixels are the means of squares of ``factor`` pixels, in 8 bits."""
    if window.dtype == np.uint8 and factor == 1:
        return cast(Frame, window)
    side = window.shape[0] // factor
    squares = window.reshape(side, factor, side, factor, 3).mean((1, 3), dtype=np.float32)
    return (squares * (255 / np.iinfo(window.dtype).max)).round().astype(np.uint8)


class ClipShards(RecordedClips):
    """Clips of WebDataset tars: samples of several images, ``clip.0001.png``, ``clip.0002.png``.

    Tars of folders, ``clip/0001.png``, are read, too. Frames are ordered by the numbers in their
    names. A caption is ``clip.txt``, or ``clip/0001.txt`` beside the first frame.

    Args:
        urls: Tars: a path or an address (``file:``, ``http(s)://``, ``s3://``, ``gs://``), with
            ``{000..099}`` or ``*`` for several, or a list of these. May contain environment
            variables. A clip lies in one of them.
    """

    keys: Sequence[str] = ()  # name of each clip: the beginning of its frames' names

    def __init__(self, urls: str | list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._frames = _FrameShards(urls)
        self._order = np.zeros(0, np.int64)  # numbers of all frames, clip after clip
        self._ends = np.zeros(0, np.int64)  # of each clip in _order
        self._groups: list[int] = []

    def prepare(self, scale: float) -> None:
        """Read or make the indices. Args as ``Source.prepare``.

        Raises:
            ValueError: If there is no shard, a broken one, no frames, or two clips with one key.
            RemoteError: If a server cannot be reached, or refuses.
        """
        self._frames.srgb = self.srgb
        self._frames.prepare(scale)
        names = self._frames.keys
        clips: dict[str, list[int]] = {}  # numbers of the frames
        shard_of: dict[str, int] = {}
        shards = np.repeat(np.arange(len(self._frames.groups)), self._frames.groups).tolist()
        for number, (name, shard) in enumerate(zip(names, shards, strict=True)):
            clip = name.rpartition("/")[0]
            if not clip or shard_of.setdefault(clip, shard) != shard:
                raise ValueError(
                    f"ClipShards.urls: the frame {name!r} belongs to no clip, or to one of another "
                    "shard; expected clip.0001.png or clip/0001.png, and all frames of a clip in "
                    "one shard (for single images use datamodules.Shards)"
                )
            clips.setdefault(clip, []).append(number)
        counts = {clip: len(frames) for clip, frames in clips.items()}
        self.keys = self._keys_long_enough(counts)
        in_order: list[list[int]] = []
        for key in self.keys:
            in_order.append(sorted(clips[key], key=lambda number: numeric_sort_key(names[number])))
        self._order = np.concatenate(in_order)
        self._ends = np.cumsum([counts[key] for key in self.keys])
        clips_of_shards = Counter(shard_of[key] for key in self.keys)
        self._groups = list(clips_of_shards.values())

    @property
    def groups(self) -> list[int]:
        """Number of clips of each shard that has any."""
        return self._groups

    def recorded(self, index: int) -> Sequence[int]:
        """Return the numbers of the frames of ``keys[index]`` among all frames of the shards."""
        start = self._ends[index - 1] if index else 0
        return self._order[start : self._ends[index]].tolist()

    def frame(self, frame: int) -> Pixels:
        """Return (H, W, 3) of a frame by its number."""
        return self._frames.read(frame)["hr"]

    def caption(self, index: int) -> str | None:
        """Return the text of the first frame."""
        return self._frames.caption(self.recorded(index)[0])


class _FrameShards(Shards):
    """Frames as samples of their own, whose keys are ``clip/frame``."""

    def _load_index(self, tar: Tar, cache: ShardCache | None) -> ShardIndex:
        """Return the index of a tar with a sample for each frame: its image, and the clip's text.

        In a tar of folders of frames, the frame is part of the key, and not of the suffix.
        """
        index = super()._load_index(tar, cache)
        samples = dict(zip(index.keys, index.members, strict=True))
        keys: list[str] = []
        members: list[dict[str, Member]] = []
        for key, sample in samples.items():
            folder = samples.get(key.rpartition("/")[0], {})
            text = _caption_members(sample) or _caption_members(folder)
            for suffix, member in sample.items():
                frame, _, extension = suffix.rpartition(".")
                if extension in SUFFIXES:
                    keys.append(f"{key}/{frame}" if frame else key)
                    members.append({extension: member, **text})
        return replace(index, keys=keys, members=members)

    def caption(self, index: int) -> str | None:
        """Return the text beside a frame, if the set has texts."""
        sample = Sample(meta={})
        add_text(sample, self._read_raw(index, ("txt",)))
        return sample.get("text")


def _caption_members(sample: dict[str, Member]) -> dict[str, Member]:
    """Return the members of a sample that are captions, by suffix."""
    return {suffix: member for suffix, member in sample.items() if role_of(suffix) == "txt"}
