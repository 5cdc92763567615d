"""VideoWriter: an enlarged video, written in segments, by one process or by several.

A stopped run continues with the segments that are missing.

    clip_x2.mp4                  the video, once it is complete
    .<hash>.parts/made.json      how its segments are made: those of another run are not continued
    .<hash>.parts/000002.64.mp4  the frames 65 to 96; the first is shown at 64 units of time

The segments are joined by copying their packets, beside those of the input's audio.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import json
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

from callbacks.predict.files import Pixels, long_name_errors
from files.locks import try_lock, unlock
from files.owned import (
    UNFINISHED,
    NotOursError,
    parts_folder,
    remove_file,
    remove_folder,
    whole_file,
    write_whole,
)
from files.video import (
    MICROSECONDS,
    SEGMENT,
    Clock,
    VideoFrame,
    film_of,
    load_av,
    open_video,
    rgb_to_frame,
)

log = logging.getLogger(__name__)
Codec = Literal["h264", "hevc", "av1"]
ENCODERS: dict[Codec, str] = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
QUIET: dict[Codec, dict[str, str]] = {"hevc": {"x265-params": "log-level=error"}}
WAITING = 2  # frames that wait to be encoded
MADE = "made.json"
NAME = re.compile(r"([0-9]{6,})\.(-?[0-9]+)\.mp4")  # number and first time of a segment
PLACES = ("location", "gps")  # in names of metadata


class _Part(NamedTuple):
    path: Path
    first: int  # when its first frame is shown


class VideoSettings(NamedTuple):
    """How videos are written.

    codec: The codec.
    crf: Its constant rate factor.
    metadata: Whether to keep title, date and the like: ``keep``, ``no_place`` or ``drop``.
    """

    codec: Codec
    crf: int
    metadata: str


def finished_segments(target: Path, made: Mapping[str, Any]) -> frozenset[int]:
    """Return the numbers of finished segments that this run can use.

    Args:
        target: The video.
        made: How this run makes it.
    """
    parts = parts_folder(target)
    return frozenset(_segments(parts)) if _made_in(parts) == _text(made) else frozenset()


def remove_parts(target: Path) -> None:
    """Remove the segments of a video, unless another command writes them; other files stay."""
    parts = parts_folder(target)
    if not parts.is_dir():
        return
    try:
        lock = _locked(parts, target)
    except ValueError:
        return
    for path in parts.iterdir():
        if _is_part(path.name):
            remove_file(path)
    with contextlib.suppress(NotOursError):
        remove_folder(parts, _is_part)
    unlock(lock)


class VideoWriter:
    """Write one video; frames are encoded in a thread, and at most ``WAITING`` of them wait.

    Args:
        target: The file.
        source: The input, whose audio and metadata are copied.
        settings: Codec and quality.
        made: How it is made, in plain types. Segments that were made otherwise must have been
            removed by ``remove_parts``.
        begun: Finished segments, whose frames need not be added.
        shared: Whether other processes of this command write other segments.

    Attributes:
        left_out: The input's streams that cannot be copied.

    Raises:
        ValueError: If another command writes this video, or its segments have changed.
    """

    def __init__(
        self,
        target: Path,
        source: str,
        settings: VideoSettings,
        made: Mapping[str, Any],
        begun: frozenset[int] = frozenset(),
        shared: bool = False,
    ) -> None:
        self.target, self.source, self.settings = target, source, settings
        self._begun, self._shared = begun, shared
        self._copied, self.left_out = _copied_streams(source)
        self._parts = parts_folder(target)
        with long_name_errors():
            self._parts.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = _locked(self._parts, target, shared)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="video")
        self._pending: deque[Future[None]] = deque()
        if _made_in(self._parts) is None:
            write_whole(self._parts / MADE, _text(made))
        same = _made_in(self._parts) == _text(made)
        if not (same and begun <= _segments(self._parts).keys()):
            self.close()
            raise ValueError(f"{self._parts} has changed meanwhile: run the command again")
        self._segment: _Segment | None = None
        self._last: VideoFrame | None = None  # that was added

    def is_first(self, frame: VideoFrame) -> bool:
        """Whether a frame is in the first segment that is missing, so that one process says so."""
        return frame.segment == min(set(range(len(self._begun) + 1)) - self._begun)

    def add(self, pixels: Pixels, frame: VideoFrame) -> None:
        """Add the next frame of this process; only the last segment may be incomplete.

        Args:
            pixels: (H, W, 3), of the bits of ``frame.colours``.
            frame: What is known of the input's frame.

        Raises:
            Exception: Whatever the encoder raises, for an earlier frame.
        """
        if frame.segment not in self._begun:
            self._pending.append(self._pool.submit(self._encode, pixels, frame))
        while len(self._pending) > WAITING:
            self._pending.popleft().result()
        self._last = frame

    def end(self) -> None:
        """Wait until all segments of this process are on the disk.

        Raises:
            Exception: Whatever the encoder raises.
        """
        while self._pending:
            self._pending.popleft().result()
        if self._last is not None and self._last.last:  # else a segment may be incomplete
            self._end_segment()
        self._pool.shutdown()

    def is_whole(self) -> bool:
        """Whether all segments are there and no other process has the video open.

        If so, it stays locked to the others.
        """
        if self._last is None or len(self._found()) <= self._last.segment:
            return False
        return not self._shared or self._lock is None or _only_mine(self._lock)

    def join(self, before: Callable[[], None]) -> None:
        """Join the segments of all processes; this one has added the last frame, and has ended.

        Args:
            before: Called when the video is on the disk, before it appears in its place.

        Raises:
            RuntimeError: If ``is_whole`` is false.
        """
        if self._last is None or not self.is_whole():
            raise RuntimeError("VideoWriter.join is called when all segments are there")
        with whole_file(self.target, before) as file:
            segments = self._found()
            _join(segments, self.source, self._copied, file, self._last, self.settings)
        self.close()
        remove_parts(self.target)

    def _found(self) -> list[_Part]:
        last = -1 if self._last is None else self._last.segment
        return [part for number, part in sorted(_segments(self._parts).items()) if number <= last]

    def drop(self) -> None:
        """Stop, and remove all segments."""
        self.close()
        remove_parts(self.target)

    def close(self) -> None:
        """Stop; finished segments stay."""
        self._pool.shutdown(cancel_futures=True)
        self._pending.clear()
        if self._lock is not None:
            unlock(self._lock)
        self._lock = None

    def _encode(self, pixels: Pixels, frame: VideoFrame) -> None:
        if self._segment is None:
            self._segment = _Segment(pixels.shape[:2], frame, self.settings)
        self._segment.add(pixels, frame)
        if not frame.number % SEGMENT:
            self._end_segment()

    def _end_segment(self) -> None:
        if self._segment is not None:
            first = self._segment.first
            name = f"{first.segment:06}.{first.pts}.mp4"
            write_whole(self._parts / name, self._segment.finish())
        self._segment = None


class _Segment:
    """Encode a few frames to memory; times begin at 0, because MP4 rounds the first one."""

    def __init__(self, size: tuple[int, ...], frame: VideoFrame, settings: VideoSettings) -> None:
        self.first = frame
        self._durations: deque[int] = deque()
        self._file = io.BytesIO()
        av = load_av("writing a video")
        os.environ.setdefault("SVT_LOG", "1")  # else the encoder of AV1 prints its settings
        self._container = av.open(self._file, "w", format="mp4")
        options = {"crf": str(settings.crf), **QUIET.get(settings.codec, {})}
        stream = self._container.add_stream(
            ENCODERS[settings.codec], rate=frame.rate, options=options
        )
        context = stream.codec_context
        context.height, context.width = (side + side % 2 for side in size)
        context.pix_fmt = "yuv420p" if frame.colours.depth == 8 else "yuv420p10le"
        context.time_base = stream.time_base = frame.time_base
        context.sample_aspect_ratio = frame.aspect
        context.gop_size = SEGMENT
        # Without frames that are encoded before earlier ones, any times can be kept, and segments
        # joined.
        context.max_b_frames = 0
        context.color_range = 2 if frame.colours.full else 1
        context.colorspace = frame.colours.matrix
        context.color_primaries = frame.colours.primaries
        context.color_trc = frame.colours.transfer
        if frame.matrix is not None:
            stream.set_display_matrix(frame.matrix)
        self._stream = stream

    def add(self, pixels: Pixels, frame: VideoFrame) -> None:
        image = rgb_to_frame(pixels, self.first.colours)
        image.pts, image.time_base = frame.pts - self.first.pts, frame.time_base
        image.duration = frame.duration
        self._durations.append(frame.duration)
        self._write(self._stream.encode(image))

    def finish(self) -> bytes:
        self._write(self._stream.encode(None))
        self._container.close()
        return self._file.getvalue()

    def _write(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.dts, packet.duration = packet.pts, self._durations.popleft()
            self._container.mux(packet)


def _join(
    segments: list[_Part],
    source: str,
    copied: list[int],
    file: Any,
    frame: VideoFrame,
    how: VideoSettings,
) -> None:
    av = load_av("writing a video")
    with open_video(source) as original, av.open(os.fspath(segments[0].path)) as first:
        sample = first.streams.video[0]
        header = sample.codec_context.extradata
        # In this unit MP4 says when a stream begins.
        options = {"movie_timescale": str(max(sample.time_base.denominator, 1000))}
        with av.open(file, "w", format="mp4", options=options) as output:
            video = output.add_stream_from_template(sample, opaque=True)
            video.codec_context.sample_aspect_ratio = frame.aspect  # AV1 itself does not hold it
            if how.codec == "hevc":
                video.codec_context.codec_tag = "hvc1"  # else QuickTime does not play it
            if frame.matrix is not None:
                video.set_display_matrix(frame.matrix)
            streams = [original.streams[index] for index in copied]
            copies = {stream: _copy(stream, output) for stream in streams}
            output.set_chapters(_chapters(original))
            if how.metadata != "drop":
                output.metadata.update(_metadata(original.metadata, how.metadata))
            packets = [_video_packets(segments, header, frame.time_base)]
            if copies:
                packets.append(_audio_packets(original, streams))
            for packet in heapq.merge(*packets, key=lambda packet: packet.dts * packet.time_base):
                packet.stream = copies.get(packet.stream, video)
                output.mux(packet)


def _copied_streams(source: str) -> tuple[list[int], list[str]]:
    """Return the numbers of the streams to copy, and what MP4 or we cannot copy.

    A stream is tried by writing its first packet to memory: what MP4 refuses depends on more than
    the codec.
    """
    copied, lost = [], []
    with open_video(source) as original:
        film = film_of(original)
        for stream in original.streams:
            chapters = stream.discard.name == "all"  # MP4 stores them as a stream, too
            if stream.index == film.index or chapters:
                continue
            if stream.type == "audio" and _can_copy(source, stream.index):
                copied.append(stream.index)
            else:
                codec = f" ({stream.codec_context.name})" if stream.codec_context else ""
                lost.append(f"{stream.type} stream {stream.index}{codec}")
    return copied, lost


def _can_copy(source: str, index: int) -> bool:
    av = load_av("writing a video")
    with open_video(source) as original:
        stream = original.streams[index]
        try:
            with av.open(io.BytesIO(), "w", format="mp4") as output:
                copy = _copy(stream, output)
                packet = next(packet for packet in original.demux(stream) if packet.size)
                packet.stream = copy
                output.mux(packet)
        except (StopIteration, ValueError, av.FFmpegError):
            return False
    return True


def _copy(stream: Any, output: Any) -> Any:
    """Add a copy of an audio stream to the output; AVI and MKV may leave its layout open."""
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(stream.metadata)
    channels = stream.codec_context.layout.nb_channels
    if stream.codec_context.layout.name == f"{channels} channels":
        copy.codec_context.layout = f"{channels}c"  # the usual one
    return copy


def _video_packets(segments: list[_Part], header: bytes | None, base: Fraction) -> Iterator[Any]:
    av = load_av("writing a video")
    for segment in segments:
        with av.open(os.fspath(segment.path)) as container:
            if container.streams.video[0].codec_context.extradata != header:
                raise ValueError(f"{segment.path} was encoded otherwise than the first segment")
            for packet in container.demux(video=0):
                if packet.pts is not None:
                    packet.pts += round(segment.first * base / packet.time_base)
                    packet.dts = packet.pts
                    yield packet


def _audio_packets(original: Any, streams: list[Any]) -> Iterator[Any]:
    """Yield the packets with times that increase; those of joined recordings may overlap."""
    clock = Clock(original)
    last: dict[int, tuple[int, int]] = {}  # time and duration of each stream's packet before
    for packet in original.demux():
        clock.correct(packet)
        if packet.stream not in streams or not packet.size:
            continue
        given = packet.pts if packet.dts is None else packet.dts
        if packet.stream_index in last:
            before, usual = last[packet.stream_index]
            sample = ceil(1 / (packet.stream.codec_context.sample_rate * packet.time_base))
            time = before + usual if given is None else max(given, before + sample)
            packet.duration = packet.duration or time - before  # else MP4 ends before this one
        else:
            time = given or 0
        last[packet.stream_index] = time, packet.duration
        packet.pts = packet.dts = time
        yield packet


def _chapters(original: Any) -> list[dict[str, Any]]:
    start = Fraction(original.start_time or 0, MICROSECONDS)
    chapters = original.chapters()
    for chapter in chapters:
        for end in ("start", "end"):
            chapter[end] -= round(start / chapter["time_base"])
    return chapters


def _metadata(given: Mapping[str, str], how: str) -> dict[str, str]:
    own = ("major_brand", "minor_version", "compatible_brands", "encoder")  # of the file itself
    left_out = own + (PLACES if how == "no_place" else ())
    return {k: v for k, v in given.items() if not any(part in k.lower() for part in left_out)}


def _segments(parts: Path) -> dict[int, _Part]:
    """Return the finished segments by their numbers."""
    found: dict[int, _Part] = {}
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        for path in parts.iterdir():
            if match := NAME.fullmatch(path.name):
                found[int(match[1])] = _Part(path, int(match[2]))
    return found


def _made_in(parts: Path) -> str | None:
    """Return how the segments of a folder are made; None if it does not say so."""
    try:
        return (parts / MADE).read_text("utf-8")
    except (OSError, UnicodeError):
        return None


def _text(made: Mapping[str, Any]) -> str:
    versions = load_av("writing a video").library_versions  # one encoder for all segments
    own = {"versions": versions, "times": "from 0"}  # earlier segments had those of the input
    return json.dumps({**made, **own}, indent=1, sort_keys=True)


def _is_part(name: str) -> bool:
    return name == MADE or any(kind.fullmatch(name) for kind in (NAME, UNFINISHED))


def _locked(folder: Path, target: Path, shared: bool = False) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    if not try_lock(descriptor, shared):
        os.close(descriptor)
        raise ValueError(f"another process is writing {target}")
    return descriptor


def _only_mine(descriptor: int) -> bool:
    """Make a shared lock exclusive; return whether no other process shares it."""
    if try_lock(descriptor):
        return True
    try_lock(descriptor, shared=True)  # the attempt may have lost it
    return False
