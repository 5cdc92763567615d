"""Write clips: a folder of frames for each, and optionally a video beside it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.image_file import (
    Extras,
    Format,
    Pixels,
    exists,
    long_name_errors,
    write_image,
)
from callbacks.levels import image_levels
from files.owned import (
    Known,
    NotOursError,
    foreign,
    remove_file,
    remove_folder,
    remove_leftovers,
    whole_folder,
    write_whole,
)

log = logging.getLogger(__name__)

Video = Literal["mp4", "gif"]
FRAME = re.compile(r"([0-9]{4,})\.(?:png|jpg|webp|tiff)")  # names of frames
CRF = "18"  # of x264: nearly indistinguishable from the frames


def check_video(video: Video | None, fps: float) -> None:
    """Raise if the settings of videos are invalid.

    Raises:
        ValueError: Names the key to change.
    """
    if video is not None and video not in get_args(Video):
        raise ValueError(f"writer.video is {video!r}; expected {choices_text(Video)}")
    if not 0 < fps <= 1000:
        raise ValueError(f"writer.fps is {fps:g}; expected a number above 0, up to 1000")


def choices_text(choices: Any) -> str:
    """Return the values of a Literal, for a message."""
    *others, last = get_args(choices)
    return f"{', '.join(others)} or {last}"


def check_encoder(video: Video | None, of_clips: bool = True) -> None:
    """Raise if such a video cannot be written here, and warn if there will be none.

    Args:
        video: Its format; None for none.
        of_clips: Whether clips are enlarged; single images have no video.

    Raises:
        ValueError: If PyAV is not installed.
    """
    if video is not None and not of_clips:
        log.warning(
            "writer.video %s writes nothing here: these are single images, not clips "
            "(docs/predict.md shows how to make a video of frames)",
            video,
        )
    elif video == "mp4":
        _av()


def output_levels(output: Tensor, meta: dict[str, Any]) -> Pixels:
    """Return the levels of an image, (H, W, C), or of a clip, (F, H, W, C).

    Args:
        output: (3, H, W) or (F, 3, H, W) in [0, 1].
        meta: As for ``image_levels``.
    """
    if output.ndim == 3:
        return image_levels(output, meta)
    return cast(Pixels, np.stack([image_levels(frame, meta) for frame in output]))


def video_of(folder: Path, video: Video) -> Path:
    """Return the path of the video beside a folder of frames."""
    return folder.with_name(f"{folder.name}.{video}")


def is_complete(target: Path, video: Video | None) -> bool:
    """Return whether an image exists, or a clip with its video."""
    if not exists(target):
        return False
    return video is None or not target.is_dir() or exists(video_of(target, video))


def frames_of(count: int | None) -> Known:
    """Return a function that recognises names of frames of ``write_clip``.

    Args:
        count: Number of frames; None if unknown.
    """

    def known(name: str) -> bool:
        found = FRAME.fullmatch(name)
        return found is not None and (count is None or 1 <= int(found[1]) <= count)

    return known


def remove(target: Path, count: int | None, videos: Iterable[Video]) -> None:
    """Remove a clip of ours in one step, and its videos before it.

    Args:
        target: The folder of frames; it may be missing.
        count: Frames in it; None if unknown.
        videos: Formats of the videos beside it.

    Raises:
        NotOursError: If the folder holds something else; nothing is removed.
    """
    if exists(target) and (others := foreign(target, frames_of(count))):
        raise NotOursError(foreign_files_message(target, others))
    for video in videos:  # before the frames, or it would seem to belong to the next ones
        if exists(video_of(target, video)):
            remove_file(video_of(target, video))
    if exists(target):
        remove_folder(target, frames_of(count))


def foreign_files_message(target: Path, others: list[str]) -> str:
    """Return the message about a folder of frames with other files."""
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (
        f"the folder of frames {target} holds {others[0]}{more}, which Enlarger did not write, and "
        "would be replaced: move it away, or set another writer.folder"
    )


@long_name_errors()
def write_clip(
    folder: Path,
    frames: Pixels,
    format: Format,
    quality: int,
    video: tuple[Video | None, float],
    before: Callable[[], None],
) -> None:
    """Write frames to a temporary folder and move it to its place; then write the video.

    Args:
        folder: The folder of the frames ``0001.png`` and so on.
        frames: (F, H, W, C) uint8 or uint16.
        format: File format of the frames.
        quality: Quality of ``jpg`` and ``webp``.
        video: Format of the video, if any, and frames per second.
        before: Called when all frames are on the disk; it removes older ones from their place.

    Raises:
        ValueError: If an encoder fails, or the name is too long for the disk.
        OSError: If a file could not be written.
    """
    kind, fps = video
    film = None if kind is None else encode_video(frames, kind, fps)
    remove_leftovers(folder, frames_of(None))  # by a killed run
    with whole_folder(folder, before) as beside:
        if kind is not None:  # raise for a name too long before anything is in its place
            with contextlib.suppress(FileNotFoundError):
                video_of(folder, kind).stat()
        for number, frame in enumerate(frames, start=1):
            write_image(beside / f"{number:04}.{format}", frame, Extras(), format, quality)
    if kind is not None and film is not None:
        write_whole(video_of(folder, kind), film)


def encode_video(frames: Pixels, kind: Video, fps: float) -> bytes:
    """Return the bytes of a video of (F, H, W, C) frames."""
    rgb = _rgb(frames)
    return _gif(rgb, fps) if kind == "gif" else _mp4(rgb, fps)


def _rgb(frames: Pixels) -> NDArray[np.uint8]:
    if frames.dtype == np.uint16:
        frames = (frames / 257).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(frames[..., :3], (*frames.shape[:3], 3)), np.uint8)


def _gif(frames: NDArray[np.uint8], fps: float) -> bytes:
    first, *others = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    settings: dict[str, Any] = {"save_all": True, "append_images": others, "loop": 0}
    first.save(buffer, "GIF", duration=round(1000 / fps), **settings)
    return buffer.getvalue()


def _mp4(frames: NDArray[np.uint8], fps: float) -> bytes:
    av, buffer = _av(), io.BytesIO()
    height, width = frames.shape[1:3]
    # 4:2:0 needs even sides: the last row or column is repeated.
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": CRF}
        for frame in even:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ValueError(
            "writer.video mp4 needs the package av (PyAV), which is optional: pip install "
            "-c constraints.txt -e '.[video]', or set writer.video to gif"
        ) from error
    return av
