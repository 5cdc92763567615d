"""Clips to files: a folder of frames each, and, if asked for, a video beside it."""

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
    short_enough,
    there,
    write_image,
)
from callbacks.levels import levels_of
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
CRF = "18"  # of x264: what eyes tell from the frames at a second glance


def check_video(video: Video | None, fps: float) -> None:
    """Refuse a kind of video that is none.

    Raises:
        ValueError: With the key to change.
    """
    if video is not None and video not in get_args(Video):
        raise ValueError(f"writer.video is {video!r}; expected {either(Video)}")
    if not 0 < fps <= 1000:
        raise ValueError(f"writer.fps is {fps:g}; expected a number above 0, up to 1000")


def either(choices: Any) -> str:
    """The values of a Literal, for a message."""
    *others, last = get_args(choices)
    return f"{', '.join(others)} or {last}"


def check_encoder(video: Video | None, of_clips: bool = True) -> None:
    """See that such a video can be written here, and say where none will be.

    Args:
        video: Its kind; None for none.
        of_clips: Whether clips are enlarged; of single pictures there is no video.

    Raises:
        ValueError: PyAV is not installed.
    """
    if video is not None and not of_clips:
        log.warning(
            "writer.video %s writes nothing here: these are single pictures, not clips "
            "(docs/predict.md says how frames become a video)",
            video,
        )
    elif video == "mp4":
        _av()


def all_levels(output: Tensor, meta: dict[str, Any]) -> Pixels:
    """Whole levels of a picture, (H, W, C), or of a clip, (F, H, W, C).

    Args:
        output: (3, H, W) or (F, 3, H, W) in [0, 1].
        meta: As of ``levels_of``.
    """
    if output.ndim == 3:
        return levels_of(output, meta)
    return cast(Pixels, np.stack([levels_of(frame, meta) for frame in output]))


def video_of(folder: Path, video: Video) -> Path:
    """The video beside a folder of frames."""
    return folder.with_name(f"{folder.name}.{video}")


def is_whole(target: Path, video: Video | None) -> bool:
    """Whether a picture is there, or a clip with its video."""
    if not there(target):
        return False
    return video is None or not target.is_dir() or there(video_of(target, video))


def frames_of(count: int | None) -> Known:
    """Return whether a name is that of one of the frames that ``write_clip`` wrote.

    Args:
        count: How many it wrote; None if that is unknown.
    """

    def known(name: str) -> bool:
        found = FRAME.fullmatch(name)
        return found is not None and (count is None or 1 <= int(found[1]) <= count)

    return known


def remove(target: Path, count: int | None, videos: Iterable[Video]) -> None:
    """Remove a clip that was written here, in one step, and its videos before it.

    Args:
        target: The folder of frames; it may be missing.
        count: Frames in it; None if that is unknown.
        videos: Kinds that were written beside it.

    Raises:
        NotOursError: The folder holds something else; nothing is removed.
    """
    if there(target) and (others := foreign(target, frames_of(count))):
        raise NotOursError(not_only_frames(target, others))
    for video in videos:  # before the frames: or it would pass for the next ones'
        if there(video_of(target, video)):
            remove_file(video_of(target, video))
    if there(target):
        remove_folder(target, frames_of(count))


def not_only_frames(target: Path, others: list[str]) -> str:
    """Return the message about a folder of frames that holds something else."""
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (
        f"the folder of frames {target} holds {others[0]}{more}, which Enlarger did not write, and "
        "would be replaced: move it away, or set another writer.folder"
    )


@short_enough()
def write_clip(
    folder: Path,
    frames: Pixels,
    format: Format,
    quality: int,
    video: tuple[Video | None, float],
    before: Callable[[], None],
) -> None:
    """Write frames beside their place and move them there, all at once; then the video.

    Args:
        folder: Where the frames go, as ``0001.png`` and so on.
        frames: (F, H, W, C) uint8 or uint16.
        format: Kind of file of the frames.
        quality: Of ``jpg`` and ``webp``.
        video: Its kind, if there is to be one, and frames a second.
        before: Called when all frames are on the disk; it removes what is in their place.

    Raises:
        ValueError: An encoder fails, or the name is too long for the disk.
        OSError: A file could not be written.
    """
    kind, fps = video
    film = None if kind is None else encoded(frames, kind, fps)
    remove_leftovers(folder, frames_of(None))  # by a killed run
    with whole_folder(folder, before) as beside:
        if kind is not None:  # a name too long is told before anything is in its place
            with contextlib.suppress(FileNotFoundError):
                video_of(folder, kind).stat()
        for number, frame in enumerate(frames, start=1):
            write_image(beside / f"{number:04}.{format}", frame, Extras(), format, quality)
    if kind is not None and film is not None:
        write_whole(video_of(folder, kind), film)


def encoded(frames: Pixels, kind: Video, fps: float) -> bytes:
    """The bytes of a video of (F, H, W, C) frames."""
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
    # 4:2:0 takes even sides: the last row or column is there twice.
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
