"""Videos by PyAV: open them strictly, describe their frames, and convert their colours.

PyAV is optional (the extra ``video``), so it is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from files.paths import open_regular

# Playlists, whose demuxers open other files and addresses, are not among them.
DEMUXERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,yuv4mpegpipe"
# Microseconds and bytes in which streams that are announced may begin; sound may be late.
PATIENCE = {"analyzeduration": "60000000", "probesize": "50000000"}

RGB, BT709, UNSPECIFIED, BT601_625, BT601 = 0, 1, 2, 5, 6  # FFmpeg's numbers of matrices
# Shares of red and blue in luma (ITU-T H.273, table 4).
LUMA = {
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),  # FCC
    BT601_625: (0.299, 0.114),
    BT601: (0.299, 0.114),
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
STANDARD_LINES = 576  # of standard definition, whose untagged videos have the matrix of BT.601
# Side data of frames, by PyAV's names: kept in outputs, or about the encoding of the input.
KEPT = {"DISPLAYMATRIX", "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"}
KEPT |= {"SEI_UNREGISTERED", "VIDEO_ENC_PARAMS", "MOTION_VECTORS", "SKIP_SAMPLES"}
LOST = {
    "A53_CC": "closed captions",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "SPHERICAL": "projection of a 360-degree video",
    "STEREO3D": "arrangement of a stereoscopic video",
    "GOP_TIMECODE": "timecodes",
    "S12M_TIMECODE": "timecodes",
}
FULL = 2  # FFmpeg's number of the full range
MICROSECONDS = 1_000_000  # of a second; FFmpeg's unit for containers
CHROMA = "left"  # where 4:2:0 has its chroma unless a file says otherwise, and in our videos


class Colours(NamedTuple):
    """How the levels of a video's frames stand for colours; FFmpeg's numbers.

    matrix: Luma and chroma of RGB; never unspecified.
    full: Whether levels have the full range, not 16 to 235 (of 8 bits).
    depth: Bits of a level of the output: 8 or 10.
    primaries: Of red, green and blue; tagged only.
    transfer: Curve of the levels; tagged only.
    """

    matrix: int
    full: bool
    depth: int
    primaries: int
    transfer: int

    @property
    def bits(self) -> int:
        """Bits of a level in RGB arrays: 8 or 16."""
        return 8 if self.depth == 8 else 16


class Extras(NamedTuple):
    """What a frame has besides its pixels.

    matrix: The nine numbers of the display matrix (rotation and flips); None without one.
    mastering: Of an HDR display that the film was graded on: x and y of red, green, blue and white,
        greatest and least luminance in cd/m2; None without it.
    light: Greatest level of light of a pixel and of a frame's mean; None without it.
    lost: Names of what an output does not keep.
    """

    matrix: tuple[int, ...] | None
    mastering: tuple[float, ...] | None
    light: tuple[int, ...] | None
    lost: tuple[str, ...]


class VideoFrame(NamedTuple):
    """A frame of a video and what its file says about it, in plain types that workers send.

    video: Key of the video.
    clip: Number of the video, from 1.
    clips: Number of all videos.
    number: Number of the frame, from 1.
    stated: About how many frames the video has, by what its file says; 0 if it says nothing.
    pts: When it is shown, in units of ``time_base``.
    duration: For how long.
    time_base: Seconds.
    rate: Frames a second, on average.
    last: Whether it is the last one.
    colours: How its levels stand for colours.
    aspect: Width of a pixel by its height.
    extras: What the frame has besides its pixels.
    """

    video: str
    clip: int
    clips: int
    number: int
    stated: int
    pts: int
    duration: int
    time_base: Fraction
    rate: Fraction
    last: bool
    colours: Colours
    aspect: Fraction
    extras: Extras


def load_av(what: str) -> Any:
    """Import PyAV.

    Args:
        what: What needs it, for the message.

    Raises:
        ValueError: If it is not installed.
    """
    if find_spec("av") is None:
        raise ValueError(
            f"{what} needs the package av (PyAV), which is optional: pip install "
            "-c constraints.txt -e '.[video]'"
        )
    import av

    return av


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a video for reading; it cannot make FFmpeg open anything else.

    Raises:
        ValueError: If PyAV is not installed.
        OSError: If it is not a regular file.
        av.FFmpegError: If it is no video, or its header is broken.
    """
    av = load_av("reading a video")
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file", **PATIENCE}
    with open_regular(path) as file, av.open(file, options=options) as container:
        yield container


def holds_video(path: str | os.PathLike[str]) -> bool:
    """Return whether FFmpeg finds a film in a file, whatever its name."""
    with contextlib.suppress(Exception), open_video(path) as container:
        return film_of(container) is not None
    return False


def film_of(container: Any) -> Any:
    """Return PyAV's video stream that is the film; None without one.

    A container may also hold its cover as a video stream of one frame.
    """
    from av.stream import Disposition

    films = []
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            films.append(stream)
    best = container.streams.best("video")  # MKV may hold a cover as an ordinary stream
    for film in films:
        if film.index == best.index:
            return film
    return films[0] if films else None


def set_up_decoder(container: Any, stream: Any, threads: str) -> None:
    """Set how a film is decoded, before its first frame.

    Chroma lies at ``CHROMA`` unless FFmpeg's decoder knows better, as those of H.26x, MPEG and JPEG
    do. With other codecs that replaces the tag of a Matroska file, which PyAV does not show.

    Args:
        container: PyAV's.
        stream: The film's.
        threads: PyAV's ``thread_type``.
    """
    stream.thread_type = threads
    if container.format.name != "yuv4mpegpipe":  # which always says where
        stream.codec_context.options = {"chroma_sample_location": CHROMA}


def stated_frames(path: str) -> int:
    """Return about how many frames a video has, by what its file says; 0 if it says nothing."""
    with contextlib.suppress(Exception), open_video(path) as container:
        film = film_of(container)
        seconds = (container.duration or 0) / MICROSECONDS
        return int(film.frames or seconds * (film.average_rate or 0))
    return 0


def packets_of(container: Any) -> Iterator[Any]:
    """Yield all packets of PyAV's container, with times that count from the start of the file.

    Those of a recorded broadcast count from anywhere.
    """
    start = Fraction(container.start_time or 0, MICROSECONDS)
    for packet in container.demux():
        if packet.pts is not None:
            packet.pts -= round(start / packet.time_base)
        if packet.dts is not None:
            packet.dts -= round(start / packet.time_base)
        yield packet


def colours_of(frame: Any) -> Colours:
    """Return the colours of PyAV's frame; of an untagged one, as players guess them.

    Raises:
        ValueError: If its matrix is not supported.
    """
    depth = max(component.bits for component in frame.format.components)
    matrix = int(frame.colorspace)
    is_full = int(frame.color_range) == FULL
    if _is_rgb(frame):  # read without conversion; so these are for the output alone
        matrix = BT709
        is_full = False
    elif matrix in (UNSPECIFIED, RGB):
        matrix = BT709 if frame.height > STANDARD_LINES else BT601
    if matrix not in LUMA:
        raise ValueError(f"unsupported colour matrix ({matrix} in FFmpeg)")
    return Colours(
        matrix=matrix,
        full=is_full or frame.format.name.startswith("yuvj"),
        depth=8 if depth <= 8 else 10,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
    )


def extras_of(frame: Any, stream: Any) -> Extras:
    """Return the rotation, HDR metadata and lost content of PyAV's frame.

    Args:
        frame: The frame.
        stream: Its stream.
    """
    side_data: dict[str, Any] = {}
    lost = []
    try:
        side_data = {data.type.name: data for data in frame.side_data}
    except ValueError:  # FFmpeg has more types than PyAV, which then reads none
        lost.append("metadata of frames that PyAV does not know, such as EXIF")
        if frame.rotation:
            lost.append("rotation")
    matrix = side_data.get("DISPLAYMATRIX")
    mastering = side_data.get("MASTERING_DISPLAY_METADATA")
    light = side_data.get("CONTENT_LIGHT_LEVEL")
    lost += [LOST.get(name, name.lower().replace("_", " ")) for name in side_data.keys() - KEPT]
    if frame.interlaced_frame:
        lost.append("fields (interlaced, enlarged as progressive: make whole frames of them first)")
    tagged = stream.metadata.get("alpha_mode") == "1"  # WebM; FFmpeg's own decoder leaves it out
    if tagged or any(component.is_alpha for component in frame.format.components):
        lost.append("transparency")
    return Extras(
        matrix=None if matrix is None else tuple(np.frombuffer(matrix, np.int32).tolist()),
        mastering=None if mastering is None else _mastering_display(mastering),
        light=None if light is None else tuple(np.frombuffer(light, np.uint32).tolist()),
        lost=tuple(sorted(set(lost))),
    )


def _mastering_display(data: Any) -> tuple[float, ...]:
    """Return ``Extras.mastering`` from FFmpeg's AVMasteringDisplayMetadata; 0 for a missing one.

    Its ten numbers are fractions of two integers each.
    """
    fractions = np.frombuffer(data, np.int32)[:20].reshape(10, 2)
    *colours, least, greatest = (fractions[:, 0] / np.maximum(fractions[:, 1], 1)).tolist()
    return (*colours, greatest, least)


def frame_to_rgb(frame: Any, colours: Colours) -> NDArray[Any]:
    """Return the RGB levels (H, W, 3) of PyAV's frame: uint8, or uint16 of more than 8 bits."""
    import cv2

    if _is_rgb(frame):
        return frame.to_ndarray(format="rgb24" if colours.bits == 8 else "rgb48le")
    depth = max(component.bits for component in frame.format.components)
    depth = 8 if depth <= 8 else min(max(depth, 10), 12) // 2 * 2
    # FFmpeg only enlarges chroma: its own conversion to RGB is up to 2 levels off, and 10 bits are
    # darkened by half a level.
    planes = _resampled(frame, _yuv_format("444", depth), colours).planes
    yuv = np.stack([_plane_levels(plane, depth)[:, : frame.width] for plane in planes], axis=2)
    to_yuv, offset = _rgb_to_yuv_matrix(colours, depth)
    to_rgb = np.linalg.inv(to_yuv)
    affine = np.concatenate([to_rgb, -to_rgb @ offset[:, None]], axis=1) * (2**colours.bits - 1)
    result = cv2.transform(yuv.astype(np.float32), affine.astype(np.float32))
    return _rounded(result, colours.bits)


def rgb_to_frame(rgb: NDArray[Any], colours: Colours) -> Any:
    """Return PyAV's frame, 4:2:0, of RGB levels (H, W, 3); sides that are odd get one pixel more.

    Args:
        rgb: Of as many bits as ``colours`` says.
        colours: How the frame's levels stand for colours.
    """
    import cv2

    av = load_av("writing a video")
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        rgb = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    to_yuv, offset = _rgb_to_yuv_matrix(colours, colours.depth)
    affine = np.concatenate([to_yuv / (2**colours.bits - 1), offset[:, None]], axis=1)
    result = cv2.transform(rgb.astype(np.float32), affine.astype(np.float32))
    channels = cv2.split(_rounded(result, colours.depth))
    height, width = rgb.shape[:2]
    frame = av.VideoFrame(width, height, _yuv_format("444", colours.depth))
    for plane, levels in zip(frame.planes, channels, strict=True):
        rows = np.zeros((plane.height, plane.line_size // levels.itemsize), levels.dtype)
        rows[:, :width] = levels
        plane.update(rows.data)
    with_location = _with_chroma_location(frame)
    return _resampled(with_location, _yuv_format("420", colours.depth), colours)


def _with_chroma_location(frame: Any) -> Any:
    """Return PyAV's frame with the tag that its chroma will lie at ``CHROMA``.

    Without the tag FFmpeg would average the chroma around the middle of four pixels. PyAV cannot
    set it, but a filter of FFmpeg can.
    """
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
    )
    place = graph.add("setparams", f"chroma_location={CHROMA}")
    graph.link_nodes(source, place, graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def _yuv_format(chroma: str, depth: int) -> str:
    """Return FFmpeg's name of planar YUV, such as ``yuv420p10le``.

    Args:
        chroma: ``444`` or ``420``.
        depth: Bits of a level.
    """
    return f"yuv{chroma}p" if depth == 8 else f"yuv{chroma}p{depth}le"


def _is_rgb(frame: Any) -> bool:
    """Return whether a frame's pixels are RGB, or indices into a palette of it."""
    return bool(frame.format.is_rgb or frame.format.has_palette)


def _resampled(frame: Any, format: str, colours: Colours) -> Any:
    """Return a frame with its chroma enlarged or reduced to another YUV format, by bicubic."""
    from av.video.reformatter import ColorRange, Interpolation

    color_range = ColorRange.JPEG if colours.full else ColorRange.MPEG
    return frame.reformat(
        format=format,
        src_color_range=color_range,  # the same, so levels stay
        dst_color_range=color_range,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    )


def _plane_levels(plane: Any, depth: int) -> NDArray[Any]:
    """Return the levels of PyAV's plane, with the unused ones that may be at the end of rows."""
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.frombuffer(plane, dtype).reshape(plane.height, -1)


def _rounded(levels: NDArray[Any], depth: int) -> NDArray[Any]:
    """Round to integers from 0 to the highest level of so many bits."""
    import cv2

    # Rounds and saturates in one pass, six times as fast as NumPy in three.
    nothing: Any = (0, 0, 0, 0)  # to add; a scalar, which the stubs do not know
    integers = cv2.add(levels, nothing, dtype=cv2.CV_8U if depth == 8 else cv2.CV_16U)
    return np.minimum(integers, 2**depth - 1) if 8 < depth < 16 else integers


def _rgb_to_yuv_matrix(
    colours: Colours, depth: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix (3, 3) and offset (3,) from RGB in [0, 1] to YUV levels of so many bits.

    Source: ITU-T H.273, section 8.3 (matrix coefficients).
    """
    red, blue = LUMA[colours.matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    level = 2.0 ** (depth - 8)  # a level of 8 bits, in levels of this depth
    if colours.full:
        size = np.full(3, 2**depth - 1)
        offset = level * np.array([0, 128, 128])
    else:
        size = level * np.array([219, 224, 224])
        offset = level * np.array([16, 128, 128])
    return np.stack([luma, cb, cr]) * size[:, None], offset
