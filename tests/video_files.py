"""Small videos for tests, and what is in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from files.videos.video import extras_of

MILLISECOND = Fraction(1, 1000)


@dataclass
class Content:
    """What tests compare of a video."""

    times: list[Fraction]
    end: Fraction
    means: np.ndarray[Any, Any]  # (frames, 3) of Y, U and V
    format: str
    size: tuple[int, int]  # width and height
    rotation: int
    aspect: Fraction
    colours: tuple[int, int, int, int]  # range, matrix, primaries, transfer
    audio: list[bytes]
    audio_times: list[Fraction]
    tags: dict[str, str]
    hdr: list[float]


def make_video(
    path: Path,
    times: Sequence[int],
    size: tuple[int, int] = (32, 24),
    colours: tuple[int, int, int, int] = (1, 1, 1, 1),
    audio: str | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rotation: int | None = None,
    aspect: Fraction = Fraction(1),
    tags: dict[str, str] | None = None,
    start: float = 0,
    chapters: Sequence[Any] = (),
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
) -> Path:
    """Write a video whose frames have one colour each.

    Args:
        path: The file.
        times: Of the frames, in milliseconds.
        size: Width and height.
        colours: Range, matrix, primaries and transfer, as FFmpeg counts them.
        audio: Codec of a sound as long as the frames.
        codec: Of the frames.
        pixels: Their format.
        rotation: In degrees.
        aspect: Of a pixel.
        tags: Of the file.
        start: Of the clock, in seconds.
        chapters: As PyAV takes them.
        options: Of the encoder.
        muxing: Options of the container.
    """
    muxing = {"output_ts_offset": str(start)} | (muxing or {})
    defaults = {"crf": "5"} if codec == "libx264" else {}
    with av.open(str(path), "w", container_options=muxing) as container:
        container.metadata.update(tags or {})
        container.set_chapters(list(chapters))
        stream: Any = container.add_stream(codec, rate=25, options=defaults | (options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        context = stream.codec_context
        context.time_base = stream.time_base = MILLISECOND
        context.sample_aspect_ratio = aspect
        context.color_range, context.colorspace = colours[:2]
        context.color_primaries, context.color_trc = colours[2:]
        if rotation is not None:
            stream.set_display_rotation(rotation)
        sound: Any = container.add_stream(audio, rate=48000) if audio else None
        packets = []
        for number, time in enumerate(times):
            frame = _frame(number, size, pixels)
            frame.pts = time
            frame.time_base = MILLISECOND
            frame.duration = 40
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if sound is not None:
            packets += _encode_sound(sound, 48 * (times[-1] + 40))
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _frame(number: int, size: tuple[int, int], pixels: str) -> av.VideoFrame:
    """A frame of one colour."""
    frame = av.VideoFrame(*size, pixels)
    deep = pixels.endswith("10le")
    kind = np.uint16 if deep else np.uint8
    levels = (80 + number % 100, 118, 140)
    for plane, level in zip(frame.planes, levels, strict=True):
        columns = plane.line_size // np.dtype(kind).itemsize
        plane.update(np.full((plane.height, columns), level * 4 if deep else level, kind))
    return frame


def _encode_sound(stream: Any, count: int) -> list[Any]:
    """The packets of a tone of so many samples."""
    resampler = av.AudioResampler(stream.codec_context.format, "stereo")
    packets: list[Any] = []
    for start in range(0, count, 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        frame.pts = start
        for resampled in resampler.resample(frame):
            packets += stream.encode(resampled)
    return packets + stream.encode(None)


def read_video(path: Path) -> Content:
    """Return what is in a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        tags = dict(container.metadata)
        extras = extras_of(frames[0], stream)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
    with av.open(str(path)) as container:
        sound = container.demux(container.streams.audio) if container.streams.audio else ()
        packets = [packet for packet in sound if packet.size]
    first = frames[0]
    last = frames[-1]
    colours = (first.color_range, first.colorspace, first.color_primaries, first.color_trc)
    return Content(
        times=[frame.pts * frame.time_base for frame in frames],
        end=(last.pts + last.duration) * last.time_base,
        means=np.array([[plane.mean() for plane in planes_of(frame)] for frame in frames]),
        format=first.format.name,
        size=(first.width, first.height),
        rotation=first.rotation,
        aspect=aspect,
        colours=tuple(map(int, colours)),
        audio=[bytes(packet) for packet in packets],
        audio_times=[packet.pts * packet.time_base for packet in packets],
        tags=tags,
        hdr=[*(extras.mastering or ()), *(extras.light or ())],
    )


def planes_of(frame: av.VideoFrame) -> list[np.ndarray[Any, Any]]:
    """Y, U and V of a frame."""
    kind = np.uint16 if "10" in frame.format.name else np.uint8
    rows = [np.frombuffer(plane, kind).reshape(plane.height, -1) for plane in frame.planes]
    return [row[:, : plane.width] for row, plane in zip(rows, frame.planes, strict=True)]
