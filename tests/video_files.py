"""Small videos for tests, and what is in one."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from files.videos.video import extras_of


class Content(NamedTuple):
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
    **own: Any,
) -> Path:
    """Write a video whose frames have one colour each.

    Args:
        path: The file.
        times: Of the frames, in milliseconds.
        size: Width and height.
        colours: Range, matrix, primaries and transfer, as FFmpeg counts them.
        audio: Codec of a sound as long as the frames.
        own: ``codec``; ``pixels``, the format; ``rotation``, in degrees; ``aspect`` of a pixel;
            ``tags``; ``start`` of the clock, in seconds; ``interlaced``, in which a bar moves;
            ``chapters``;
            ``options`` of the encoder; ``muxing``, options of the container; ``about``, tags of
            the stream.
    """
    base, pixels = Fraction(1, 1000), own.get("pixels", "yuv420p")
    deep = pixels.endswith("10le")
    muxing = {"output_ts_offset": str(own.get("start", 0)), **own.get("muxing", {})}
    with av.open(str(path), "w", container_options=muxing) as container:
        container.metadata.update(own.get("tags", {}))
        container.set_chapters(own.get("chapters", []))
        codec = own.get("codec", "libx264")
        options = {"crf": "5"} if codec == "libx264" else {}
        options |= {"x264-params": "tff=1"} if own.get("interlaced") else {}
        options |= own.get("options", {})
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.metadata.update(own.get("about", {}))
        context = stream.codec_context
        context.time_base = stream.time_base = base
        context.sample_aspect_ratio = own.get("aspect", Fraction(1))
        context.color_range, context.colorspace = colours[:2]
        context.color_primaries, context.color_trc = colours[2:]
        if "rotation" in own:
            stream.set_display_rotation(own["rotation"])
        sound: Any = container.add_stream(audio, rate=48000) if audio else None
        packets = []
        resampler = av.AudioResampler(sound.codec_context.format, "stereo") if audio else None
        for number, time in enumerate(times):
            frame = av.VideoFrame(*size, pixels)
            for plane, level in zip(frame.planes, (80 + number % 100, 118, 140), strict=True):
                width = plane.line_size // (2 if deep else 1)
                kind = np.uint16 if deep else np.uint8
                values = np.full((plane.height, width), level * (4 if deep else 1), kind)
                if own.get("interlaced") and plane.height == size[1]:
                    for field in (0, 1):
                        left = 2 * number + field
                        values[field::2, left : left + 6] = 200
                plane.update(values.tobytes())
            frame.pts, frame.time_base, frame.duration = time, base, 40
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for start in range(0, 48 * (times[-1] + 40), 1024) if sound else ():
            wave = np.sin(np.arange(start, start + 1024) / 20)
            data = np.stack([wave, wave]).astype(np.float32)
            frame_of_sound = av.AudioFrame.from_ndarray(data, format="fltp", layout="stereo")
            frame_of_sound.sample_rate, frame_of_sound.pts = 48000, start
            for converted in resampler.resample(frame_of_sound):
                packets += sound.encode(converted)
        packets += sound.encode(None) if sound else []
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def read_video(path: Path) -> Content:
    """Return what is in a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        first, last = frames[0], frames[-1]
        sizes = (int(first.color_range), int(first.colorspace))
        tags = (int(first.color_primaries), int(first.color_trc))
        times = [Fraction(frame.pts) * frame.time_base for frame in frames]
        end = times[-1] + last.duration * last.time_base
        about = (first.format.name, (first.width, first.height), first.rotation)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        means = np.array([_means(frame) for frame in frames])
        own, extras = dict(container.metadata), extras_of(first, stream)
        hdr = [*(extras.mastering or ()), *(extras.light or ())]
    with av.open(str(path)) as container:
        sound = container.demux(container.streams.audio) if container.streams.audio else ()
        packets = [packet for packet in sound if packet.size]
        audio = [bytes(packet) for packet in packets]
        audio_times = [packet.pts * packet.time_base for packet in packets]
    sound_of = (audio, audio_times)
    return Content(times, end, means, *about, aspect, (*sizes, *tags), *sound_of, own, hdr)


def _means(frame: Any) -> list[float]:
    kind = np.uint16 if "10" in frame.format.name else np.uint8
    planes = [np.frombuffer(p, kind).reshape(p.height, -1)[:, : p.width] for p in frame.planes]
    return [float(plane.mean()) for plane in planes]
