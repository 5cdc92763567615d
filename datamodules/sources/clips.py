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
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.files.pairs import refuse_mixed
from datamodules.files.roles import SUFFIXES, role_of
from datamodules.order.plan import Item
from datamodules.samples import Images, SampleDraws, TrainingImages, seeded
from datamodules.shards.cache import DiskCache
from datamodules.shards.index import Member, ShardIndex
from datamodules.shards.reader import Tar
from datamodules.shards.sample import add_text
from datamodules.shards.shards import Shards
from datamodules.source import Augmentation, PerImage, Sample, Source, texts_of
from degradations.base import cut_size
from degradations.draws import seed_of
from files.images.decode import UnreadableImage, read_image, read_size
from files.images.deep import Pixels, eight_bits
from files.numbers import PositiveFloat, PositiveInt
from files.paths import expand_path, images_below
from files.words import first_of

log = logging.getLogger(__name__)
Frames = NDArray[np.uint8]  # (T, H, W, 3)


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
        """Return the clip for evaluation. As ``clip``."""
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
        levels = [eight_bits(frame) for frame in frames]
        if self.side is not None:
            levels = [_square(frame, self.side) for frame in levels]
        return np.stack(levels)

    def _long_enough(self, counts: dict[str, int]) -> list[str]:
        """Return the keys of clips with enough frames; the others are logged.

        Args:
            counts: Number of recorded frames by key.

        Raises:
            ValueError: If all are too short.
        """
        few = {key: count for key, count in counts.items() if count < self.span}
        shown = first_of((f"{key} {count}" for key, count in few.items()), 3)
        what = (
            f"{len(few)} of {len(counts)} clips have fewer than the {self.span} frames that frames "
            f"{self.frames} and stride {self.stride} span ({shown})"
        )
        if len(few) == len(counts):
            raise ValueError(f"{type(self).__name__}: {what}: lower frames or stride")
        if few:
            log.warning("%s left out: %s", type(self).__name__, what)
        return [key for key in counts if key not in few]


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
        if not root.is_dir():
            raise ValueError(f"Clips.root {str(root)!r} is not a folder; expected one of clips")
        found: dict[str, list[str]] = {}
        frames = images_below(root, "Clips.root")
        for key, path in frames.items():
            found.setdefault(key.rpartition("/")[0], []).append(str(path))
        if "" in found:  # frames of the root itself
            if root.name in found:
                raise ValueError(
                    f"Clips.root {str(root)!r} has frames, and so has its folder {root.name!r}: "
                    "both clips would have this name; rename one of the folders"
                )
            found[root.name] = found.pop("")
        if not found:
            raise ValueError(
                f"Clips.root {str(root)!r} has no frames; expected a folder of images for each clip"
            )
        self.keys = sorted(self._long_enough({key: len(files) for key, files in found.items()}))
        self._files = [sorted(found[key], key=in_order) for key in self.keys]
        refuse_mixed("Clips.root", self.keys, lambda index: read_size(self._files[index][0]), scale)

    def recorded(self, index: int) -> list[str]:
        """As ``RecordedClips.recorded``."""
        return self._files[index]

    def frame(self, frame: str) -> Pixels:
        """As ``RecordedClips.frame``."""
        return read_image(frame, self.srgb).rgb


class ClipImages(Images):
    """Dataset of clips for evaluation: whole frames, cut to a multiple of the scale."""

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """Return one clip, ready to be collated.

        Raises:
            UnreadableImage: If a frame is broken, or frames differ in size.
            ValueError: If its frames have less than one pixel at the scale, or it is not a clip.
        """
        with seeded(item.seed):
            sample: Any = self.read(item.image)
        height, width = cut_size(sample["clip"].shape[1:3], self.scale)
        if not (height and width):
            raise ValueError(
                f"{self.keys[item.image]}: its frames have less than one pixel at "
                f"data.init_args.scale {self.scale:g}: leave it out"
            )
        cut = sample["clip"][:, :height, :width]
        return {**sample, "clip": cut, "key": self.keys[item.image], "seed": item.seed}

    def _checked(self, given: Sample, index: int) -> Sample:
        return _checked(given, self._where(index))


class TrainingClips(TrainingImages):
    """Dataset of clips for training; args as ``TrainingImages``."""

    def _crop(self, index: int, draws: SampleDraws) -> Sample:
        source = cast(ClipSource, self.source)
        sample: Any = _checked(source.clip(index, draws), self._where(index))
        clip = sample["clip"]
        top, left, turn = self._place(clip.shape[1:3], self.crop_size, index, draws)
        cuts = [self._cut(frame, top, left, self.crop_size, turn) for frame in clip]
        return cast(Sample, {**sample, "clip": np.stack(cuts)})

    def _augmented(self, sample: Any, index: int, seed: int) -> None:
        frames = []
        for frame in sample["clip"]:
            with seeded(seed):  # so that all frames change alike
                frames.append(cast(Augmentation, self.augment)(frame, seed))
        sample["clip"] = np.stack(frames)


ClipSource.evaluation_dataset, ClipSource.training_dataset = ClipImages, TrainingClips


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


def _square(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    factor = side / min(height, width)
    size = (max(round(width * factor), side), max(round(height * factor), side))
    resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return resized[top : top + side, left : left + side]


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
        """As ``ClipSource.clip``.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If it is smaller than the window, or a pair.
        """
        window = self.side * self.reduce
        sample = self.image(index, window)
        height, width = sample["hr"].shape[:2]
        own = draws or SampleDraws(seed_of("moving", self.keys[index]), "path")
        rows, columns = (self._starts(length - window, own) for length in (height, width))
        frames = [
            _averaged(sample["hr"][top : top + window, left : left + window], self.reduce)
            for top, left in zip(rows, columns, strict=True)
        ]
        return {"clip": np.stack(frames), **texts_of(sample)}

    def _starts(self, room: int, draws: SampleDraws) -> list[int]:
        """Return the window's start along an axis in each frame, of ``room`` + 1 positions."""
        most = min(int(self.speed * self.reduce * (self.frames - 1)), room)
        length = draws.integer(-most, most + 1)
        start = draws.integer(max(0, -length), room - max(0, length) + 1)
        steps = self.frames - 1
        return [start + (2 * length * n + steps) // (2 * steps) for n in range(self.frames)]


def _averaged(window: Pixels, factor: int) -> NDArray[np.uint8]:
    """Return the means of squares, rounded to 8 bits."""
    if window.dtype == np.uint8 and factor == 1:
        return cast("NDArray[np.uint8]", window)
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
            variables.
        shard_in_key: Prefix every key with the shard's name, for shards that all number their clips
            from 0.
        index_cache: Folder for the indices of shards in folders that are not writable.
        cache_dir: Cache folder for remote shards; all processes of a node should share it.
        cache_size: Largest size of that cache in bytes, such as ``500M`` or ``50G``.
    """

    keys: Sequence[str] = ()  # name of each clip: the beginning of its frames' names

    def __init__(
        self,
        urls: str | list[str],
        shard_in_key: bool = False,
        index_cache: str = "~/.cache/enlarger/shards",
        cache_dir: str = "~/.cache/enlarger/tars",
        cache_size: str | int = "50G",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._frames = _Frames(urls, shard_in_key, index_cache, cache_dir, cache_size)
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
        keys, start = self._frames.keys, 0
        shards: list[dict[str, list[int]]] = []
        for count in self._frames.groups:
            numbers = range(start, start + count)
            runs = groupby(numbers, lambda number: keys[number].rpartition("/")[0])
            shards.append({})
            for name, run in runs:
                if not name:
                    raise ValueError(
                        f"ClipShards.urls: {keys[next(run)]!r} is an image that belongs to no "
                        "clip; expected frames named clip.0001.png or clip/0001.png (for single "
                        "images use datamodules.Shards)"
                    )
                shards[-1].setdefault(name, []).extend(run)
            start += count
        self._keep(shards)
        refuse_mixed("ClipShards.urls", self.keys, self._size, scale)

    def _keep(self, shards: list[dict[str, list[int]]]) -> None:
        counts: dict[str, int] = {}
        for shard in shards:
            for name, numbers in shard.items():
                if name in counts:
                    raise ValueError(
                        f"ClipShards.urls: two shards have frames of the clip {name!r}; a clip lies"
                        " in one shard: pack them again, or set shard_in_key where names repeat"
                    )
                counts[name] = len(numbers)
        wanted, name_of = set(self._long_enough(counts)), self._frames.keys
        clips: dict[str, list[int]] = {}
        for shard in shards:
            clips |= {name: numbers for name, numbers in shard.items() if name in wanted}
        ordered = [sorted(n, key=lambda number: in_order(name_of[number])) for n in clips.values()]
        self.keys = list(clips)
        self._order = np.fromiter((number for n in ordered for number in n), np.int64)
        self._ends = np.cumsum([len(numbers) for numbers in ordered])
        self._groups = [count for shard in shards if (count := len(wanted & shard.keys()))]

    def _size(self, index: int) -> tuple[int, int]:
        return self._frames.image_size(self.recorded(index)[0])

    @property
    def groups(self) -> list[int]:
        """Number of clips of each shard that has any."""
        return self._groups

    def recorded(self, index: int) -> Sequence[int]:
        """As ``RecordedClips.recorded``."""
        start = self._ends[index - 1] if index else 0
        return self._order[start : self._ends[index]].tolist()

    def frame(self, frame: int) -> Pixels:
        """As ``RecordedClips.frame``."""
        return self._frames.read(frame)["hr"]

    def caption(self, index: int) -> str | None:
        """Return the text of the first frame."""
        return self._frames.caption(self.recorded(index)[0])


class _Frames(Shards):
    """Frames as samples of their own, whose keys are ``clip/frame``."""

    def _index(self, tar: Tar, folder: Path, cache: DiskCache | None) -> ShardIndex:
        return _by_frame(super()._index(tar, folder, cache))

    def caption(self, index: int) -> str | None:
        """Return the text beside a frame, if the set has texts."""
        sample = Sample(meta={})
        add_text(sample, self._raw(index, ("txt",)))
        return sample.get("text")


def _by_frame(index: ShardIndex) -> ShardIndex:
    """Return the index with each image as a sample of its own."""
    keys: list[str] = []
    members: list[dict[str, Member]] = []
    captions = {
        key: {suffix: member for suffix, member in sample.items() if role_of(suffix) == "txt"}
        for key, sample in zip(index.keys, index.members, strict=True)
    }
    for key, sample in zip(index.keys, index.members, strict=True):
        text = captions.get(key) or captions.get(key.rpartition("/")[0], {})
        for suffix, member in sample.items():
            frame, _, extension = suffix.rpartition(".")
            if extension in SUFFIXES:
                keys.append(f"{key}/{frame}" if frame else key)
                members.append({extension: member, **text})
    return replace(index, keys=keys, members=members)
