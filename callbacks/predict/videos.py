"""VideoWriter: an enlarged video, frame by frame, with the audio and metadata of its input."""

from __future__ import annotations

import io
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from fractions import Fraction
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

from files.images.deep import Pixels
from files.owned import whole_file
from files.videos.video import (
    CHROMA,
    MICROSECONDS,
    Extras,
    VideoFrame,
    film_of,
    load_av,
    open_video,
    packets_of,
    rgb_to_frame,
)

log = logging.getLogger(__name__)
Codec = Literal["h264", "hevc", "av1"]
ENCODERS: dict[Codec, str] = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
# FFmpeg's option that takes the encoder's own settings; those that silence it.
SETTINGS: dict[Codec, str] = {"h264": "x264-params", "hevc": "x265-params", "av1": "svtav1-params"}
QUIET: dict[Codec, list[str]] = {"hevc": ["log-level=error"]}
# Each encoder's names of the metadata of an HDR display.
HDR: dict[Codec, tuple[str, str]] = {
    "h264": ("mastering-display", "cll"),
    "hevc": ("master-display", "max-cll"),
    "av1": ("mastering-display", "content-light"),
}
QUICKTIME_HEVC = "hvc1"  # another tag of HEVC is not played by QuickTime
WAITING = 2  # frames that wait to be encoded
COARSE = 1000  # units of time in a second: a header of fewer would round
PLACES = ("location", "gps")  # in names of metadata; those of the file itself
OF_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")


class VideoSettings(NamedTuple):
    """How videos are written.

    codec: The codec.
    crf: Its constant rate factor.
    metadata: Whether to keep title, date and the like: ``keep``, ``no_place`` or ``drop``.
    """

    codec: Codec
    crf: int
    metadata: str


class VideoWriter:
    """Write one video; frames are encoded in a thread, and at most ``WAITING`` of them wait.

    Args:
        target: The file, which appears when it is complete.
        source: The input, whose audio and metadata are copied.
        settings: Codec and quality.
    """

    def __init__(self, target: Path, source: str, settings: VideoSettings) -> None:
        self.target = target
        self.source = source
        self.settings = settings
        self._copied, self._left_out = _copied_streams(source)
        self._named: set[str] = set()  # what the log has named as not kept
        self._before: Callable[[], None]  # of `finish`
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="video")
        self._pending: deque[Future[None]] = deque()
        self._files = ExitStack()
        self._output: Any = None  # PyAV's container, from the first frame on
        self._film: Any
        self._audio: Iterator[Any]
        self._next_audio: Any
        self._durations: deque[int] = deque()  # of frames that are not muxed

    def add(self, pixels: Pixels, frame: VideoFrame) -> None:
        """Add the next frame.

        Args:
            pixels: (H, W, 3), of the bits of ``frame.colours``.
            frame: What is known of the input's frame.

        Raises:
            ValueError: If the name is too long for the disk.
            Exception: Whatever the encoder raises, for an earlier frame.
        """
        self._name_losses(frame)
        if self._output is None:
            self._open(pixels.shape[:2], frame)
        self._pending.append(self._pool.submit(self._encode, pixels, frame))
        while len(self._pending) > WAITING:
            self._pending.popleft().result()

    def finish(self, before: Callable[[], None]) -> None:
        """Write what is left of the audio, and put the video in its place.

        Args:
            before: Called when the video is on the disk, before it appears in its place.

        Raises:
            Exception: Whatever the encoder raises.
        """
        while self._pending:
            self._pending.popleft().result()
        self._pool.shutdown()
        self._before = before
        self._mux(self._film.encode(None))
        self._mux_audio(inf)
        self._files.close()

    def stop(self) -> None:
        """Give the video up: no file is left of it, as after an error."""
        self._pool.shutdown(cancel_futures=True)
        self._pending.clear()
        with suppress(_StoppedError), self._files:
            raise _StoppedError

    def _name_losses(self, frame: VideoFrame) -> None:
        """Log what is not kept of the input, once, at the first frame that has it."""
        lost = dict.fromkeys([*self._left_out, *frame.extras.lost])
        unnamed = [content for content in lost if content not in self._named]
        if unnamed:
            log.warning("%s: not kept: %s", self.source, ", ".join(unnamed))
        self._named.update(unnamed)

    def _open(self, size: tuple[int, ...], frame: VideoFrame) -> None:
        """Open the output for a first frame of (H, W), and begin to copy the audio of the input."""
        av = load_av("writing a video")
        codec, crf, metadata = self.settings
        os.environ.setdefault("SVT_LOG", "1")  # else the encoder of AV1 prints its settings
        encoding = {"crf": str(crf), "chroma_sample_location": CHROMA}
        own_settings = ":".join([*QUIET.get(codec, ()), *_hdr_settings(frame.extras, codec)])
        if own_settings:
            encoding[SETTINGS[codec]] = own_settings
        file = self._files.enter_context(whole_file(self.target, lambda: self._before()))
        original = self._files.enter_context(open_video(self.source))
        timescale = _exact_timescale(frame)
        output = self._files.enter_context(av.open(file, "w", format="mp4", options=timescale))
        self._film = output.add_stream(ENCODERS[codec], rate=frame.rate, options=encoding)
        _set_stream_properties(self._film, size, frame, codec)
        streams = [original.streams[index] for index in self._copied]
        copies = {stream: _add_copy(stream, output) for stream in streams}
        output.set_chapters(_chapters(original))
        if metadata != "drop":
            output.metadata.update(_kept_metadata(original.metadata, metadata))
        self._audio = _audio_packets(original, copies)
        self._next_audio = next(self._audio, None)
        self._output = output

    def _encode(self, pixels: Pixels, frame: VideoFrame) -> None:
        """Encode a frame, and write what the encoder returns of earlier ones; in the thread."""
        image = rgb_to_frame(pixels, frame.colours)
        image.pts, image.time_base, image.duration = frame.pts, frame.time_base, frame.duration
        self._durations.append(frame.duration)
        self._mux(self._film.encode(image))

    def _mux(self, packets: list[Any]) -> None:
        """Write encoded frames, each after the audio that begins before it."""
        for packet in packets:
            packet.dts, packet.duration = packet.pts, self._durations.popleft()
            self._mux_audio(_time(packet))
            self._output.mux(packet)

    def _mux_audio(self, until: Fraction | float) -> None:
        """Write the audio packets that begin before a time in seconds."""
        while self._next_audio is not None and _time(self._next_audio) < until:
            self._output.mux(self._next_audio)
            self._next_audio = next(self._audio, None)


class _StoppedError(Exception):
    """The video is given up."""


def _exact_timescale(frame: VideoFrame) -> dict[str, str]:
    """Return FFmpeg's option for an MP4 whose header has the frames' times without rounding."""
    units = frame.time_base.denominator
    return {"movie_timescale": str(units * ceil(COARSE / units))}


def _time(packet: Any) -> Fraction:
    """Return when a packet is decoded, in seconds."""
    time: Fraction = packet.dts * packet.time_base
    return time


def _set_stream_properties(
    stream: Any, size: tuple[int, ...], frame: VideoFrame, codec: Codec
) -> None:
    """Set size, times, colours, aspect and rotation of the output's stream as of the input's."""
    context = stream.codec_context
    colours = frame.colours
    context.height, context.width = (side + side % 2 for side in size)
    context.pix_fmt = "yuv420p" if colours.depth == 8 else "yuv420p10le"
    context.time_base = stream.time_base = frame.time_base
    context.sample_aspect_ratio = frame.aspect
    # Without frames that are encoded before earlier ones, any times can be kept.
    context.max_b_frames = 0
    context.color_range = 2 if colours.full else 1
    context.colorspace = colours.matrix
    context.color_primaries = colours.primaries
    context.color_trc = colours.transfer
    if codec == "hevc":
        context.codec_tag = QUICKTIME_HEVC
    if frame.extras.matrix is not None:
        stream.set_display_matrix(frame.extras.matrix)


def _hdr_settings(extras: Extras, codec: Codec) -> list[str]:
    """Return the settings with which an encoder stores the metadata of an HDR display."""
    mastering, light = HDR[codec]
    settings = []
    if extras.mastering is not None:
        if codec == "av1":
            numbers = [f"{value:.6f}" for value in extras.mastering]
        else:  # in units of 1/50000, and of 1/10000 cd/m2
            colours = [str(round(50_000 * value)) for value in extras.mastering[:8]]
            numbers = [*colours, *(str(round(10_000 * value)) for value in extras.mastering[8:])]
        pairs = [",".join(numbers[start : start + 2]) for start in range(0, 10, 2)]
        red, green, blue, white, luminance = pairs
        settings.append(f"{mastering}=G({green})B({blue})R({red})WP({white})L({luminance})")
    if extras.light is not None:
        settings.append(f"{light}={','.join(map(str, extras.light))}")
    return settings


def _copied_streams(source: str) -> tuple[list[int], list[str]]:
    """Return the numbers of the audio streams to copy, and the names of streams that are lost."""
    copied = []
    lost = []
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
    """Return whether MP4 can hold an audio stream, by writing its first packet to memory.

    What MP4 refuses depends on more than the codec.
    """
    av = load_av("writing a video")
    with open_video(source) as original:
        stream = original.streams[index]
        try:
            with av.open(io.BytesIO(), "w", format="mp4") as output:
                copy = _add_copy(stream, output)
                packet = next(packet for packet in original.demux(stream) if packet.size)
                packet.stream = copy
                output.mux(packet)
        except (StopIteration, ValueError, av.FFmpegError):
            return False
    return True


def _add_copy(stream: Any, output: Any) -> Any:
    """Add a stream to the output that will hold an audio stream's packets; return it."""
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(stream.metadata)
    channels = stream.codec_context.layout.nb_channels
    if stream.codec_context.layout.name == f"{channels} channels":  # AVI and MKV may leave it open
        copy.codec_context.layout = f"{channels}c"  # the usual one
    return copy


def _audio_packets(original: Any, copies: Mapping[Any, Any]) -> Iterator[Any]:
    """Yield the packets of audio streams for their copies, with times that increase.

    Some files have packets without times, or with equal ones, which MP4 refuses.
    """
    last: dict[int, tuple[int, int]] = {}  # time and duration of each stream's packet before
    for packet in packets_of(original):
        if packet.stream not in copies or not packet.size:
            continue
        stated = packet.pts if packet.dts is None else packet.dts
        if packet.stream_index in last:
            previous, duration = last[packet.stream_index]
            sample = ceil(1 / (packet.stream.codec_context.sample_rate * packet.time_base))
            time = previous + duration if stated is None else max(stated, previous + sample)
            packet.duration = packet.duration or time - previous  # else MP4 ends before this one
        else:
            time = stated or 0
        last[packet.stream_index] = (time, packet.duration)
        packet.pts = packet.dts = time
        packet.stream = copies[packet.stream]
        yield packet


def _chapters(original: Any) -> list[dict[str, Any]]:
    """Return the chapters, with times that count from the start of the file."""
    start = Fraction(original.start_time or 0, MICROSECONDS)
    chapters = original.chapters()
    for chapter in chapters:
        for end in ("start", "end"):
            chapter[end] -= round(start / chapter["time_base"])
    return chapters


def _kept_metadata(metadata: Mapping[str, str], exif: str) -> dict[str, str]:
    """Return title, date and the like of an input that its output keeps.

    Args:
        metadata: Of the input.
        exif: ``keep``, or ``no_place`` to leave the place out.
    """
    left_out = OF_FILE + PLACES if exif == "no_place" else OF_FILE
    return {k: v for k, v in metadata.items() if not any(part in k.lower() for part in left_out)}
