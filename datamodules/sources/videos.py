"""Frames of videos for ``predict``, decoded one after the other by a single worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import count
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
    VideoFrame,
    colours_of,
    extras_of,
    film_of,
    frame_to_rgb,
    open_video,
    packets_of,
    set_up_decoder,
    stated_frames,
)

USUAL_RATE, LARGEST_RATE = Fraction(25), Fraction(1000)  # frames a second
STATING = ("mov", "matroska", "asf", "flv", "avi")  # containers that state how long they last
FORWARD, BACKWARD = 10, Fraction(1, 2)  # seconds; a larger step is another clock's
SHORT = Fraction(1, 2)  # seconds that may be missing at the end


class Videos(Source):
    """Videos to enlarge; each is one key, and many frames.

    Args:
        paths: Files by key.
    """

    keys: Sequence[str] = ()  # path of each video below its root

    def __init__(self, paths: Mapping[str, str]) -> None:
        super().__init__()
        self.keys = list(paths)
        self._paths = list(paths.values())

    def path(self, index: int) -> str:
        """Return the file of the video ``keys[index]``."""
        return self._paths[index]

    def read(self, index: int) -> Sample:
        """Return the first frame of ``keys[index]``. Raises as ``decode``."""
        return next(self.decode(index))

    def decode(self, index: int) -> Iterator[Sample]:
        """Decode a video.

        Args:
            index: Number of the video.

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
                decoded = _decode_frames(container, stream)
                for frame, video_frame in self._describe_frames(decoded, stream, index):
                    number = video_frame.number
                    rgb = frame_to_rgb(frame, video_frame.colours)
                    bits = video_frame.colours.bits
                    yield {"hr": rgb, "meta": {**meta, "bit_depth": bits, "frame": video_frame}}
            if not number:
                raise ValueError("its video stream has no frames")
        except Exception as error:  # whatever FFmpeg raises
            reason = getattr(error, "strerror", None) or error
            after = f", after frame {number}" if number else ""
            raise UnreadableImage(f"{path}: {reason}{after}") from error

    def _describe_frames(
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

    def start(self, done: set[str], seed: int, ranks: tuple[int, int]) -> None:
        """Choose the videos of this process; called before an iteration.

        Args:
            done: Keys of videos to leave out.
            seed: ``data.init_args.degradation_seed``.
            ranks: Rank of this process, and number of processes.
        """
        left = [index for index, key in enumerate(self.source.keys) if key not in done]
        rank, world = ranks
        self._left, self._seed = left[rank::world], seed
        # One flag for each video, in memory that the worker shares.
        flags: Any = torch.zeros(len(self.source.keys), dtype=torch.bool)
        self._abandoned = flags.share_memory_()

    @property
    def stated_frames(self) -> int:
        """About how many frames are left, by what the files say."""
        return sum(stated_frames(self.source.path(index)) for index in self._left)

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
            yield from self._frames_of_video(index)

    def _frames_of_video(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the frames of a video, each ready to be collated; at a fault, its error at last."""
        path = self.source.path(index)
        failed = {"key": self.keys[index], "seed": 0, "meta": {"path": path, "frame": None}}
        try:
            for given in self.source.decode(index):
                if self._abandoned[index]:
                    return
                sample: Any = self._check_sample(given, index)
                sample["lr"] = sample.pop("hr")
                if error := self.why_too_large(path, sample["lr"].shape[:2]):
                    yield {**failed, "error": error}
                    return
                # As an image of that name in a folder of that name.
                name = f"{self.keys[index]}/{sample['meta']['frame'].number:06}"
                yield {**sample, "key": name, "seed": seed_of(self._seed, name)}
        except UnreadableImage as unreadable:
            yield {**failed, "error": str(unreadable)}


def _decode_frames(container: Any, stream: Any) -> Iterator[tuple[Any, int]]:
    """Yield the frames, with times that increase.

    Raises:
        ValueError: If a part is missing or damaged, or the size changes.
    """
    set_up_decoder(container, stream, "SLICE")  # threads of frames lose the last ones' errors
    size, times = None, _Times(container, stream)
    for packet in _checked_packets(container, stream):
        if packet.stream != stream:
            continue
        times.note_packet(packet)
        for frame in packet.decode():
            size = size or (frame.width, frame.height)
            if frame.is_corrupt or (frame.width, frame.height) != size:
                raise ValueError("the next frame is damaged, or has another size")
            yield frame, times.time_of(frame)


class _Times:
    """Times of the frames of a stream, which increase.

    AVI says when frames are stored, in the same steps as they are shown; FFmpeg only guesses pts.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        from av.format import Flags

        rate = stream.average_rate
        self._usual = max(round(1 / (rate * stream.time_base)), 1) if rate else 1
        self._may_leap = bool(container.format.flags & Flags.ts_discont.value)
        self._is_avi = container.format.name == "avi"
        self._stored: deque[int] = deque()  # times of the packets whose frames are to come
        self._most = 0  # of them, since frames are not shown in the order they are stored
        self._last: int | None = None

    def note_packet(self, packet: Any) -> None:
        """Remember the time of an AVI's packet, for the frame that is decoded from it later."""
        if self._is_avi and packet.size and packet.dts is not None:
            self._stored.append(packet.dts)

    def time_of(self, frame: Any) -> int:
        """Return the time of the next frame, in steps of its time base, after the one before.

        Raises:
            ValueError: If it lies far from the time of the frame before.
        """
        pts = self._next_stored() if self._is_avi else frame.pts
        if self._last is None:
            self._last = 0 if pts is None else pts
        else:
            pts = self._last + self._usual if pts is None else pts
            step = (pts - self._last) * frame.time_base
            if step < -BACKWARD or (self._may_leap and step > FORWARD):
                raise ValueError("its clock leaps where recordings were joined: separate them")
            self._last = max(pts, self._last + 1)
        return self._last

    def _next_stored(self) -> int | None:
        """Return the time of the oldest packet whose frame is to come; None if there is none."""
        self._most = self._most or len(self._stored)
        while len(self._stored) > self._most:  # a packet without a frame
            self._stored.popleft()
        return self._stored.popleft() if self._stored else None


def _checked_packets(container: Any, film: Any) -> Iterator[Any]:
    """Yield the packets of a whole file.

    Raises:
        ValueError: If a part is missing, or the file ends before the time that its header states.
    """
    end = Fraction(0)
    is_incomplete = False
    for packet in packets_of(container):
        is_incomplete = packet.is_corrupt
        if is_incomplete:
            break
        if packet.pts is not None:
            end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        yield packet
    if is_incomplete:
        raise ValueError(f"the file is truncated, or a part is missing, after {float(end):.1f} s")
    stated = Fraction(container.duration or 0, MICROSECONDS)
    if container.format.name == "avi":  # of a short file FFmpeg corrects the duration
        stated = film.frames * film.time_base
    start = Fraction(container.start_time or 0, MICROSECONDS)
    last_frame = 1 / (film.average_rate or USUAL_RATE)  # some files do not say how long it lasts
    is_stating = container.format.name.startswith(STATING)
    if is_stating and start + end + last_frame + SHORT < stated:
        raise ValueError(
            f"the file is truncated: it ends after {float(end):.1f} of {float(stated):.1f} s"
        )
