"""Where the chroma of a video lies, by an image whose colours are known between its pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from callbacks.predict.videos import VideoSettings, VideoWriter
from datamodules.sources.videos import Videos
from files.videos.video import BT601, LUMA, Colours, rgb_to_frame
from tests.quick import quick

WIDTH, HEIGHT = 160, 120
# Pixels of luma from the upper left one of four to their chroma, to the right and down.
PLACES = {"left": (0, 0.5), "center": (0.5, 0.5), "topleft": (0, 0)}
BT709 = Colours(matrix=1, full=False, depth=8, primaries=1, transfer=1)
EDGE = 8  # pixels that the interpolation has to guess


def rgb_at(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 3) in [0, 1], of places in pixels."""
    red = 0.5 + 0.25 * np.sin(x / 9 + y / 23)
    green = 0.5 + 0.2 * np.cos(x / 8 - y / 17)
    blue = 0.5 + 0.25 * np.sin(x / 10) * np.cos(y / 11)
    return np.stack([red, green, blue], axis=2)


def yuv_at(x: NDArray[Any], y: NDArray[Any], colours: Colours) -> NDArray[Any]:
    """(3, H, W) levels by the definition of ITU-T H.273."""
    red, green, blue = np.moveaxis(rgb_at(x, y), 2, 0)
    red_share, blue_share = LUMA[colours.matrix]
    luma = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    u = (blue - luma) / (2 * (1 - blue_share))
    v = (red - luma) / (2 * (1 - red_share))
    unit = 2 ** (colours.depth - 8)
    top = 2**colours.depth - 1
    if colours.full:
        return np.stack([top * luma, top * u + 128 * unit, top * v + 128 * unit])
    return unit * np.stack([219 * luma + 16, 224 * u + 128, 224 * v + 128])


def grid(place: str, steps: tuple[int, int], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Any:
    """Places (x, y) of the chroma that stands for `steps` of pixels."""
    across, down = PLACES[place]
    y, x = np.mgrid[: size[1] : steps[1], : size[0] : steps[0]].astype(float)
    return x + across * (steps[0] > 1), y + down * (steps[1] > 1)


def planes(frame: Any) -> list[NDArray[Any]]:
    kind = np.uint16 if "10" in frame.format.name else np.uint8
    return [np.frombuffer(p, kind).reshape(p.height, -1)[:, : p.width] for p in frame.planes]


def decibels(a: NDArray[Any], b: NDArray[Any], top: int = 255) -> float:
    inner = np.s_[EDGE:-EDGE, EDGE:-EDGE]
    return float(10 * np.log10(top**2 / np.square(a[inner] - b[inner]).mean()))


def levels(colours: Colours, size: tuple[int, int] = (WIDTH, HEIGHT)) -> NDArray[Any]:
    rgb = rgb_at(*grid("left", (1, 1), size)) * (2**colours.bits - 1)
    return rgb.round().astype(np.uint8 if colours.bits == 8 else np.uint16)


def frame_of(place: str, pixels: str, steps: tuple[int, int], colours: Colours = BT709) -> Any:
    """PyAV's frame whose chroma lies at a place."""
    frame = av.VideoFrame(WIDTH, HEIGHT, pixels)
    luma = yuv_at(*grid(place, (1, 1)), colours)[:1]
    chroma = yuv_at(*grid(place, steps), colours)[1:]
    for plane, content in zip(frame.planes, [*luma, *chroma], strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = content.round()
        plane.update(rows.tobytes())
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    return frame


def write(path: Path, codec: str, frame: Any, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("matrix", quick([1, 5, 6, 9], 1, 9))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (WIDTH - 1, HEIGHT - 1)])
def test_chroma_is_written_to_the_left(matrix, full, depth, size):
    colours = BT709._replace(matrix=matrix, full=full, depth=depth)
    frame = rgb_to_frame(levels(colours, size), colours)
    _, *chroma = planes(frame)
    expected = yuv_at(*grid("left", (2, 2)), colours)[1:]
    for is_there, should in zip(chroma, expected, strict=True):
        assert decibels(is_there, should, 2**depth - 1) > 57  # rounding alone leaves 59 of 8 bits


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_the_file_says_where_its_chroma_lies(tmp_path, codec):
    source = tmp_path / "a.mp4"
    write(source, "libx264", frame_of("left", "yuv420p", (2, 2)), {"crf": "1"})
    (sample,) = Videos({"a": str(source)}).decode(0)
    settings = VideoSettings(codec, 1, "keep")
    writer = VideoWriter(tmp_path / "b.mp4", str(source), settings)
    writer.add(levels(BT709), sample["meta"]["frame"])
    writer.finish(lambda: None)
    with av.open(str(tmp_path / "b.mp4")) as container:  # FFmpeg reads it as the file says
        whole = next(container.decode(video=0)).reformat(format="yuv444p", interpolation="BICUBIC")
    expected = yuv_at(*grid("left", (1, 1)), BT709)
    for is_there, should in zip(planes(whole)[1:], expected[1:], strict=True):
        assert decibels(is_there, should) > 50


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_chroma_is_read_where_the_file_says(tmp_path, codec, place):
    options = {"crf": "1", "chroma_sample_location": place}
    options |= {"x265-params": "log-level=error"} if codec == "libx265" else {}
    write(tmp_path / "a.mp4", codec, frame_of(place, "yuv420p", (2, 2)), options)
    assert_shows_the_scene(tmp_path / "a.mp4")


@pytest.mark.parametrize("place", PLACES)
def test_chroma_of_y4m_is_read_where_the_file_says(tmp_path, place):
    untagged = BT709._replace(matrix=BT601)
    frame = frame_of(place, "yuv420p", (2, 2), untagged)
    write(tmp_path / "a.y4m", "wrapped_avframe", frame, {"chroma_sample_location": place})
    assert_shows_the_scene(tmp_path / "a.y4m")


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "steps"),
    [
        ("a.webm", "libvpx-vp9", "yuv420p", (2, 2)),
        ("a.mkv", "ffv1", "yuv422p", (2, 1)),
        ("a.mp4", "libx264", "yuv444p", (1, 1)),
    ],
)
def test_chroma_without_a_place_is_read_to_the_left(tmp_path, name, codec, pixels, steps):
    options = {} if codec == "ffv1" else {"crf": "1"}
    write(tmp_path / name, codec, frame_of("left", pixels, steps), options)
    assert_shows_the_scene(tmp_path / name)


def assert_shows_the_scene(path: Path) -> None:
    (sample,) = Videos({"a": str(path)}).decode(0)
    expected = rgb_at(*grid("left", (1, 1))) * 255
    for channel in range(3):
        assert decibels(sample["hr"][..., channel], expected[..., channel]) > 44
