"""Frames of videos for ``predict``, decoded one after the other by a single worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import count
from math import inf
from typing import Any

import torch
from torch.utils.data import IterableDataset

from datamodules.samples import PredictImages
from datamodules.source import Sample, Source
from degradations.draws import seed_of
from files.images.decode import UnreadableImage
from files.paths import size_and_time
from files.videos.video import (
    MICROSECONDS,
    Clock,
    VideoFrame,
    colours_of,
    extras_of,
    film_of,
    frame_to_rgb,
    open_video,
    stated_frames,
)

USUAL_RATE, LARGEST_RATE = Fraction(25), Fraction(1000)  # frames a second
STATING = ("mov", "matroska", "asf", "flv", "avi")  # containers that state how long they last
SHORT = Fraction(1)  # seconds that may be missing at the end
AROUND = 50  # packets in which a gap belongs to a leap of the clock


class Videos(Source):
    """Videos to enlarge; each is one key, and many frames.

    Args:
        paths: Files by key.
        deinterlace: Whether to make whole frames of fields.
    """

    keys: Sequence[str] = ()  # path of each video below its root

    def __init__(self, paths: Mapping[str, str], deinterlace: bool = False) -> None:
        super().__init__()
        self.deinterlace = deinterlace
        self.keys = list(paths)
        self._paths = list(paths.values())

    def path(self, index: int) -> str:
        """Return the file of the video ``keys[index]``."""
        return self._paths[index]

    def read(self, index: int) -> Sample:
        """Return the first frame of ``keys[index]``. Raises as ``decode``."""
        return next(self.decode(index))

    def decode(self, index: int, begun: int = 0) -> Iterator[Sample]:
        """Decode a video.

        Args:
            index: Number of the video.
            begun: Number of frames to leave out from the first on; but the last one always comes.

        Yields:
            ``hr``, (H, W, 3), in the orientation that is stored, and ``meta`` with a ``VideoFrame``
            as ``frame``.

        Raises:
            UnreadableImage: If it is no video, or damaged anywhere.
        """
        path, number = self.path(index), 0
        meta = {"path": path, "read": size_and_time(path), "mode": "RGB"}
        try:
            with open_video(path) as container:
                stream = film_of(container)
                if stream is None:
                    raise ValueError("it has no video stream")
                decoded = _decoded(container, stream)
                if self.deinterlace:
                    decoded = _deinterlaced(decoded)
                for frame, video_frame in self._described(decoded, stream, index):
                    number = video_frame.number
                    if number <= begun and not video_frame.last:
                        continue
                    rgb = frame_to_rgb(frame, video_frame.colours)
                    bits = video_frame.colours.bits
                    yield {"hr": rgb, "meta": {**meta, "bit_depth": bits, "frame": video_frame}}
            if not number:
                raise ValueError("its video stream has no frames")
        except Exception as error:  # whatever FFmpeg raises
            reason = getattr(error, "strerror", None) or error
            after = f", after frame {number}" if number else ""
            raise UnreadableImage(f"{path}: {reason}{after}") from error

    def _described(
        self, decoded: Iterator[tuple[Any, int]], stream: Any, index: int
    ) -> Iterator[tuple[Any, VideoFrame]]:
        """Yield the frames of a stream, and what a writer needs to know of each."""
        stated = stated_frames(self.path(index))
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        rate = Fraction(stream.average_rate or USUAL_RATE)
        rate = min(rate, LARGEST_RATE).limit_denominator(1001)
        duration = 1
        colours = None
        extras = None
        ahead = next(decoded, None)
        for number in count(1):
            if ahead is None:
                return
            frame, pts = ahead
            colours = colours or colours_of(frame)
            frame_extras = extras_of(frame, stream)
            extras = (extras or frame_extras)._replace(lost=frame_extras.lost)
            ahead = next(decoded, None)
            # Some files do not say how long the last one is shown.
            duration = (frame.duration or duration) if ahead is None else ahead[1] - pts
            video_frame = VideoFrame(
                video=self.keys[index],
                clip=index + 1,
                clips=len(self.keys),
                number=number,
                stated=stated,
                pts=pts,
                duration=duration,
                time_base=Fraction(frame.time_base),
                rate=rate,
                last=ahead is None,
                colours=colours,
                aspect=aspect,
                extras=extras,
            )
            yield frame, video_frame


class VideoFrames(PredictImages, IterableDataset[dict[str, Any]]):
    """Dataset of the frames of videos, in order; a broken video ends with its error.

    Videos are shared out among processes. ``start`` says what is left.
    """

    source: Videos

    def start(
        self, done: set[str], begun: Mapping[str, int], seed: int, ranks: tuple[int, int]
    ) -> None:
        """Choose the videos.

        Args:
            done: Keys of videos to leave out.
            begun: How many frames of a video are done, by key.
            seed: ``data.init_args.degradation_seed``.
            ranks: Rank of this process, and number of processes.
        """
        left = [index for index, key in enumerate(self.source.keys) if key not in done]
        rank, world = ranks
        self._left, self._begun, self._seed = left[rank::world], begun, seed
        # Shared with the worker.
        flags: Any = torch.zeros(len(self.source.keys), dtype=torch.bool)
        self._abandoned = flags.share_memory_()

    @property
    def stated_frames(self) -> int:
        """About how many frames are left, by what the files say."""
        left = [
            stated_frames(self.source.path(index)) - self._frames_done(index)
            for index in self._left
        ]
        return sum(count for count in left if count > 0)

    def abandon(self, key: str) -> None:
        """Give no more frames of a video; at most those that were read ahead still come."""
        self._abandoned[list(self.source.keys).index(key)] = True

    def __len__(self) -> int:
        """Raise, so that Lightning takes all frames; their number is known at the end.

        Raises:
            TypeError: Always.
        """
        raise TypeError("the number of a video's frames is not known before they are decoded")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the frames of this process's videos."""
        for index in self._left:
            yield from self._frames(index)

    def _frames_done(self, index: int) -> int:
        return self._begun.get(self.source.keys[index], 0)

    def _frames(self, index: int) -> Iterator[dict[str, Any]]:
        path = self.source.path(index)
        failed = {"key": self.keys[index], "seed": 0, "meta": {"path": path, "frame": None}}
        try:
            for given in self.source.decode(index, self._frames_done(index)):
                if self._abandoned[index]:
                    return
                sample: Any = self._checked(given, index)
                sample["lr"] = sample.pop("hr")
                if error := self.too_large(path, sample["lr"].shape[:2]):
                    yield {**failed, "error": error}
                    return
                # As an image of that name in a folder of that name.
                name = f"{self.keys[index]}/{sample['meta']['frame'].number:06}"
                yield {**sample, "key": name, "seed": seed_of(self._seed, name)}
        except UnreadableImage as unreadable:
            yield {**failed, "error": str(unreadable)}


def _decoded(container: Any, stream: Any) -> Iterator[tuple[Any, int]]:
    """Yield the frames, with times that increase.

    Raises:
        ValueError: If a part is missing or damaged, or the size changes.
    """
    stream.thread_type = "SLICE"  # threads of frames lose the errors of the last ones
    size, times = None, _Times(container, stream)
    for packet in _packets(container):
        if packet.stream != stream:
            continue
        times.store(packet)
        for frame in packet.decode():
            size = size or (frame.width, frame.height)
            if frame.is_corrupt or (frame.width, frame.height) != size:
                raise ValueError("the next frame is damaged, or has another size")
            yield frame, times.of(frame)


def _deinterlaced(decoded: Iterator[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
    """Yield a whole frame for each one of two fields, at its time, and others unchanged."""
    from av import BlockingIOError, EOFError
    from av.filter import Graph

    graph = Graph()
    originals: deque[tuple[Any, int]] = deque()  # which the filter has not given back

    def filtered(end: type[Exception]) -> Iterator[tuple[Any, int]]:
        with suppress(end):
            while True:
                frame = graph.vpull()
                original, time = originals.popleft()
                frame.time_base, frame.duration = original.time_base, original.duration
                yield frame, time

    for frame, time in decoded:
        if not graph.configured:
            about = {"width": frame.width, "height": frame.height, "format": frame.format}
            fields = graph.add_buffer(**about, time_base=frame.time_base)
            bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
            graph.link_nodes(fields, bwdif, graph.add("buffersink")).configure()
        originals.append((frame, time))
        graph.vpush(frame)
        yield from filtered(BlockingIOError)
    if graph.configured:
        graph.vpush(None)
        yield from filtered(EOFError)


class _Times:
    """Times of the frames of a stream, which increase.

    AVI says when frames are stored, in the same steps as they are shown; FFmpeg only guesses pts.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        rate = stream.average_rate
        self._usual = max(round(1 / (rate * stream.time_base)), 1) if rate else 1
        self._is_avi = container.format.name == "avi"
        self._stored: deque[int] = deque()  # times of the packets whose frames are to come
        self._most = 0  # of them, since frames are not shown in the order they are stored
        self._last: int | None = None

    def store(self, packet: Any) -> None:
        if self._is_avi and packet.size and packet.dts is not None:
            self._stored.append(packet.dts)

    def of(self, frame: Any) -> int:
        pts = self._next_stored() if self._is_avi else frame.pts
        if self._last is None:
            self._last = 0 if pts is None else pts
        else:
            pts = self._last + self._usual if pts is None else pts
            self._last = max(pts, self._last + 1)
        return self._last

    def _next_stored(self) -> int | None:
        self._most = self._most or len(self._stored)
        while len(self._stored) > self._most:  # a packet without a frame
            self._stored.popleft()
        return self._stored.popleft() if self._stored else None


def _packets(container: Any) -> Iterator[Any]:
    """Yield the packets, by one clock from 0.

    Raises:
        ValueError: If a part is missing, but not where two recordings were joined.
    """
    clock, end = Clock(container), Fraction(0)
    gap: int | None = None  # number of the packet where data are missing
    leap = -inf  # where the clock leaps
    for number, packet in enumerate(container.demux()):
        if packet.is_corrupt and number > leap + AROUND:
            gap = number
        if packet.pts is not None:
            end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if clock.correct(packet):
            leap, gap = number, None
        if gap is not None and number > gap + AROUND:
            break
        yield packet
    stated = Fraction(container.duration or 0, MICROSECONDS)
    is_short = container.format.name.startswith(STATING) and end < stated - SHORT
    if gap is not None or is_short:
        raise ValueError(
            f"the file is truncated, or a part is missing, at {float(end):.1f} of "
            f"{float(stated):.1f} seconds"
        )
