"""Where the chroma of a video lies, by an image whose colours are known between its pixels."""

from fractions import Fraction

import av
import numpy as np
import pytest

from callbacks.predict.videos import VideoSettings, VideoWriter
from datamodules.sources.videos import Videos
from files.videos.video import BT601, LUMA, Colours, rgb_to_frame
from tests.quick import quick
from tests.video_files import planes_of

WIDTH = 160
HEIGHT = 120
# Pixels of luma from the upper left one of four to their chroma, to the right and down.
PLACES = {"left": (0, 0.5), "center": (0.5, 0.5), "topleft": (0, 0)}
BT709 = Colours(matrix=1, full=False, depth=8, primaries=1, transfer=1)
EDGE = 8  # pixels that the interpolation has to guess


def rgb_at(x, y):
    """(H, W, 3) in [0, 1], of places in pixels."""
    red = 0.5 + 0.25 * np.sin(x / 9 + y / 23)
    green = 0.5 + 0.2 * np.cos(x / 8 - y / 17)
    blue = 0.5 + 0.25 * np.sin(x / 10) * np.cos(y / 11)
    return np.stack([red, green, blue], axis=2)


def yuv_at(x, y, colours):
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


def pixels(size=(WIDTH, HEIGHT)):
    """Places (x, y) of the luma."""
    y, x = np.mgrid[: size[1], : size[0]].astype(float)
    return x, y


def chroma(place, across=2, down=2):
    """Places (x, y) of the chroma values; each value stands for several pixels."""
    y, x = np.mgrid[:HEIGHT:down, :WIDTH:across].astype(float)
    right, below = PLACES[place]
    return x + right * (across > 1), y + below * (down > 1)


def decibels(a, b, top=255):
    """PSNR within the border."""
    inner = np.s_[EDGE:-EDGE, EDGE:-EDGE]
    return 10 * np.log10(top**2 / np.square(a[inner] - b[inner]).mean())


def levels(colours, size=(WIDTH, HEIGHT)):
    rgb = rgb_at(*pixels(size)) * (2**colours.bits - 1)
    return rgb.round().astype(np.uint8 if colours.bits == 8 else np.uint16)


def frame_of(kind, chroma_places, colours=BT709):
    """PyAV's frame whose chroma lies at these places."""
    frame = av.VideoFrame(WIDTH, HEIGHT, kind)
    y, _, _ = yuv_at(*pixels(), colours)
    _, u, v = yuv_at(*chroma_places, colours)
    for plane, content in zip(frame.planes, (y, u, v), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = content.round()
        plane.update(rows.tobytes())
    frame.pts = 0
    frame.time_base = Fraction(1, 25)
    return frame


def write(path, codec, frame, **options):
    """A video of one frame with the tags of BT.709 and of the range 16 to 235."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width = frame.width
        stream.height = frame.height
        stream.pix_fmt = frame.format.name
        context = stream.codec_context
        # FFmpeg's numbers of both are 1.
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def assert_shows_the_scene(path):
    (sample,) = Videos({"a": str(path)}).decode(0)
    expected = rgb_at(*pixels()) * 255
    # Measured: 44.8 to 50; if chroma is read at another place, 38 to 43.1 in one channel.
    for channel in range(3):
        assert decibels(sample["hr"][..., channel], expected[..., channel]) > 44


# FFmpeg's numbers of the matrices of BT.709, BT.601 (two) and BT.2020.
@pytest.mark.parametrize("matrix", quick([1, 5, 6, 9], 1, 9))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (WIDTH - 1, HEIGHT - 1)])
def test_chroma_of_written_frames_lies_to_the_left(matrix, full, depth, size):
    colours = BT709._replace(matrix=matrix, full=full, depth=depth)
    _, u, v = planes_of(rgb_to_frame(levels(colours, size), colours))
    _, expected_u, expected_v = yuv_at(*chroma("left"), colours)
    top = 2**depth - 1
    # Rounding alone leaves 10 log10(12 * 255^2) = 59 of 8 bits; half a pixel beside, at most 52.
    assert decibels(u, expected_u, top) > 57
    assert decibels(v, expected_v, top) > 57


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_a_written_file_says_where_its_chroma_lies(tmp_path, codec):
    source = tmp_path / "a.mp4"
    write(source, "libx264", frame_of("yuv420p", chroma("left")), crf="1")
    (sample,) = Videos({"a": str(source)}).decode(0)

    settings = VideoSettings(codec, crf=1, metadata="keep")
    writer = VideoWriter(tmp_path / "b.mp4", str(source), settings)
    writer.add(levels(BT709), sample["meta"]["frame"])
    writer.finish(lambda: None)

    with av.open(str(tmp_path / "b.mp4")) as container:  # FFmpeg reads it as the file says
        frame = next(container.decode(video=0))
        _, u, v = planes_of(frame.reformat(format="yuv444p", interpolation="BICUBIC"))
    _, expected_u, expected_v = yuv_at(*pixels(), BT709)
    # Measured: 54 to 56; half a pixel beside, at most 49.9 of u.
    assert decibels(u, expected_u) > 50
    assert decibels(v, expected_v) > 50


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_chroma_is_read_where_the_file_says(tmp_path, codec, place):
    options = {"crf": "1", "chroma_sample_location": place}
    if codec == "libx265":
        options["x265-params"] = "log-level=error"
    write(tmp_path / "a.mp4", codec, frame_of("yuv420p", chroma(place)), **options)
    assert_shows_the_scene(tmp_path / "a.mp4")


@pytest.mark.parametrize("place", PLACES)
def test_chroma_of_y4m_is_read_where_the_file_says(tmp_path, place):
    # Y4M has no tag of the matrix: without one, videos of up to 576 lines have that of BT.601.
    frame = frame_of("yuv420p", chroma(place), BT709._replace(matrix=BT601))
    write(tmp_path / "a.y4m", "wrapped_avframe", frame, chroma_sample_location=place)
    assert_shows_the_scene(tmp_path / "a.y4m")


@pytest.mark.parametrize(
    ("name", "codec", "kind", "steps"),
    [
        ("a.webm", "libvpx-vp9", "yuv420p", (2, 2)),
        ("a.mkv", "ffv1", "yuv422p", (2, 1)),
        ("a.mp4", "libx264", "yuv444p", (1, 1)),
    ],
)
def test_chroma_without_a_place_is_read_to_the_left(tmp_path, name, codec, kind, steps):
    options = {} if codec == "ffv1" else {"crf": "1"}
    write(tmp_path / name, codec, frame_of(kind, chroma("left", *steps)), **options)
    assert_shows_the_scene(tmp_path / name)
