"""Expand, list and open the paths of users. No other module does.

A part of a path that exists as written is used as written, even if it looks special (``~x``,
``[hd]``, ``$a``). Only the rest may contain a home directory, variables and wildcards. Only regular
files are opened: a named pipe would block until something is written to it.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import BinaryIO

from files.words import first_of

log = logging.getLogger(__name__)

# Variables of the shipped configurations; part of the message if one is not set.
VARIABLES = {
    "ENLARGER_DATA": "the folder of image sets (set5, set14, kodak24, ...)",
    "ENLARGER_WEIGHTS": "the folder of published weights (imdn-x2.pth, ...)",
}
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
CONFIGURATIONS = (".yaml", ".yml", ".json")  # endings of configuration files
WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors")  # endings of files of weights
# What `predict` writes beside its images: the log does not name them among the skipped files.
PREDICTIONS = "predictions.jsonl"

# Image formats by Pillow's names, with the endings of their files. Other formats are not opened:
# Pillow runs an external program to read some (EPS). ``files.images.decoders`` reads these.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff", ".btf", ".tf8"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
TEXTS = (".txt", ".caption", ".json")  # beside an image: its caption or metadata
HEIF = (".heic", ".heif", ".hif")
if find_spec("pillow_heif") is not None:  # the extra `heic`
    FORMATS["HEIF"] = HEIF
JPEG_XL = (".jxl",)
if find_spec("pillow_jxl") is not None:  # the extra `jxl`
    FORMATS["JXL"] = JPEG_XL
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")  # of cameras
IMAGE_EXTENSIONS = frozenset(ending for endings in FORMATS.values() for ending in endings)
VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv"}
    | {".flv", ".ogv", ".3gp", ".y4m", ".m2t", ".vob", ".f4v", ".3g2", ".asf"}
)
TRANSPORT_STREAM = ".ts"  # or TypeScript, by its bytes: each packet of 188 begins with a G

# --------------------------------------------------------------------------------------- expansion


def expand_path(path: str, what: str, root: str = "") -> str:
    """Replace ``$NAME``, ``${NAME}`` and a leading ``~``, except in parts that exist as written.

    Args:
        path: The path as written, e.g. ``$ENLARGER_DATA/set5``.
        what: Name of the argument, for the message, e.g. ``Folder.root``.
        root: Folder of a relative path.

    Raises:
        ValueError: The path is empty, or a variable is not set; the message explains its purpose.
    """
    if not path.strip():
        raise ValueError(f"{what} is empty; it should hold a path")
    head, rest = existing_part(path, root)
    expanded = fill_variables(rest, what, path)
    if not head:
        expanded = os.path.expanduser(expanded)  # unchanged for an unknown user
        return str(Path(expanded))
    return str(Path(head, expanded.lstrip("/")))


def fill_variables(text: str, what: str, shown: str = "") -> str:
    """Replace ``$NAME`` and ``${NAME}`` in text, e.g. a path or an address.

    Other dollar signs (``$5``, ``cost$``) are kept.

    Args:
        text: The text as written.
        what: Name of the argument, for the message.
        shown: The value in the message; by default ``text``.

    Raises:
        ValueError: A variable is not set.
    """
    for match in VARIABLE.finditer(text):
        variable = match[1] or match[2]
        if not os.environ.get(variable):
            content = VARIABLES.get(variable, f"the part of the path that ${variable} stands for")
            raise ValueError(
                f"{what} is {shown or text!r}, but the environment variable {variable} is not set; "
                f"it should hold {content}: export {variable}=/path/to/it, or write another path"
            )
    return VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], text)


def existing_part(path: str, root: str = "") -> tuple[str, str]:
    """Split a path into its longest leading part that exists as written, and the rest.

    Args:
        path: The path.
        root: Folder of a relative path.
    """
    parts = Path(path).parts
    for number in range(len(parts), 0, -1):
        head = os.path.join(*parts[:number])
        if os.path.lexists(os.path.join(root, head)):
            return head, os.path.join("", *parts[number:])
    return "", path


# ----------------------------------------------------------------------------------------- listing


def walk(root: str | os.PathLike[str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder below ``root`` with the sorted names of its subfolders and of its files.

    Hidden folders are skipped. Links to folders are followed, each folder once. As with
    ``os.walk``, subfolders that are removed from the list are not visited.

    Raises:
        ValueError: A folder cannot be listed.
    """
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_raise_unlistable):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()  # a link to a parent would never end
            continue
        seen.add(real)
        # If two paths lead to a folder, the first in sorted order is used, not the first on the
        # disk: keys must not differ between copies of a set.
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield Path(folder), below, sorted(names)


def is_image(path: PurePath) -> bool:
    """Return whether a file's name is that of an image; hidden names (``._1.jpg``) are not."""
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def is_video(path: PurePath) -> bool:
    """Return whether a file's name is that of a video; hidden names are not.

    A name in ``.ts`` may be TypeScript, so such a file is read.
    """
    if path.name.startswith("."):
        return False
    ending = path.suffix.lower()
    return ending in VIDEO_EXTENSIONS or (ending == TRANSPORT_STREAM and _is_mpeg(path))


def _is_mpeg(path: PurePath) -> bool:
    """Return whether two packets of an MPEG transport stream begin a file."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        data = file.read(189)
        return data[:1] == data[188:] == b"G"
    return False


def list_images(root: Path, videos: bool = False) -> list[Path]:
    """List the image files below a folder, sorted; the log counts other files by ending.

    Args:
        root: An existing folder.
        videos: Include videos.

    Raises:
        ValueError: A folder cannot be listed.
    """
    files: list[Path] = []
    for folder, _, names in walk(root):
        files += [folder / name for name in names]
    images = images_among(files, str(root), videos)
    return sorted(images, key=lambda path: path.relative_to(root).as_posix())


def images_among(paths: Sequence[Path], where: str, videos: bool = False) -> list[Path]:
    """Return the images among some files by their names; the log counts other files.

    Texts beside an image (``a.txt`` and ``a.jpg.txt`` beside ``a.jpg``) are not counted.

    Args:
        paths: The files.
        where: Their place, for the log.
        videos: Include videos.
    """
    images = [path for path in paths if is_image(path) or (videos and is_video(path))]
    if len(images) == len(paths):
        return images
    named = {*images, *(image.with_suffix("") for image in images)}
    others = []
    for path in sorted({*paths} - {*images}):
        is_text = path.suffix.lower() in TEXTS and path.with_suffix("") in named
        if not is_text and path.name != PREDICTIONS:
            others.append(path)
    if others:
        names = first_of((path.name for path in others), 3)
        text = "%s: left out %d that are not images by their names (%s)%s"
        log.info(text, where, len(others), names, _reading_advice(others))
    return images


def image_key(path: Path, root: Path) -> str:
    """Return an image's key: its path below ``root`` without extension, with ``/`` everywhere."""
    return path.relative_to(root).with_suffix("").as_posix()


def shard_key(key: str) -> str:
    """Return a key as a shard can have it, where it ends at its name's first dot.

    Dots in its last part become underscores.
    """
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.replace(".", "_")


def unique(images: Iterable[tuple[str, Path]], what: str) -> dict[str, Path]:
    """Return image files by key, in their order, after a check that no two share a key.

    Args:
        images: Keys and files; the same file may occur twice.
        what: The key that named them, for the message.

    Raises:
        ValueError: If two files have the same key; both are named.
    """
    by_key: dict[str, Path] = {}
    for key, image in images:
        other = by_key.setdefault(key, image)
        if other != image:
            raise ValueError(
                f"{what}: {other} and {image} would both have the key {key!r}, but keys must be "
                "unique: rename or move one of them"
            )
    return by_key


def by_key(images: Iterable[tuple[str, Path]], what: str) -> dict[str, Path]:
    """Return image files by key, sorted by key. Arguments and errors as in ``unique``."""
    return dict(sorted(unique(images, what).items()))


def images_below(root: Path, what: str) -> dict[str, Path]:
    """Return the images of a folder and its subfolders by key, sorted; there may be none.

    Args:
        root: An existing folder.
        what: For error messages, the key of the configuration that names it.
    """
    return by_key(((image_key(path, root), path) for path in list_images(root)), what)


def images_by_key(folder: Path, what: str = "") -> dict[str, Path]:
    """Return the images of a folder and its subfolders by key, sorted, and at least one.

    Args:
        folder: The folder.
        what: For error messages, the key that names it.

    Raises:
        ValueError: It is not a folder, or contains no images, or two with the same key.
    """
    name = f"{what} {str(folder)!r}" if what else str(folder)
    if not folder.is_dir():
        raise ValueError(f"{name} is not a folder")
    images = images_below(folder, name)
    if not images:
        raise ValueError(f"{name} contains no images")
    return images


def _reading_advice(paths: Iterable[Path]) -> str:
    """Return how some files that are left out could be read; empty if none could."""
    endings = {path.suffix.lower() for path in paths}
    advice = ""
    if endings & {*HEIF}:
        advice += "; HEIC needs the extra heic: pip install '.[heic]'"
    if endings & {*JPEG_XL}:
        advice += "; JPEG XL needs the extra jxl: pip install '.[jxl]'"
    if endings & {*RAW}:
        advice += "; develop a camera's raw files first (darktable-cli)"
    return advice


def glob_paths(pattern: str, root: str = "") -> list[str]:
    """Return the paths that a pattern matches, sorted; relative to ``root``.

    ``*``, ``?``, ``[...]`` and ``**`` are those of Python's ``glob``, without hidden names; but
    ``**`` lists each folder once, as ``walk`` does.

    Args:
        pattern: The pattern; ``~`` and variables are already expanded.
        root: Folder of a relative pattern; wildcards in it have no meaning.

    Raises:
        ValueError: A folder cannot be listed; Python's ``glob`` would leave it out.
    """
    head, rest = existing_part(pattern, root)
    matches = {*_matches(Path(root, head), Path(rest).parts)}
    return sorted(str(path if os.path.isabs(head) else path.relative_to(root)) for path in matches)


def _matches(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the paths below a folder that match the parts of a pattern, part by part."""
    if not parts:
        yield folder
        return
    if not folder.is_dir():
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below, _, _ in walk(folder):
            yield from _matches(below, rest or ["*"])
        return
    if glob.escape(part) == part:
        names = [part] if os.path.lexists(folder / part) else []
    else:
        _, folders, files = next(os.walk(folder, onerror=_raise_unlistable))
        names = [name for name in fnmatch.filter(folders + files, part) if name[0] != "."]
    for name in names:
        yield from _matches(folder / name, rest)


# ----------------------------------------------------------------------------------------- opening


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise unless a path is a regular file: a pipe or a device could block or never end.

    Raises:
        OSError: The file is missing, or is not a regular file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "not a regular file", os.fspath(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a user's file for reading.

    Raises:
        OSError: It cannot be opened, or is not a regular file.
    """
    check_regular(path)
    return open(path, "rb")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a user's file. Raises as ``open_regular``."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the UTF-8 text of a user's file; a byte order mark is dropped.

    Raises:
        OSError: As ``open_regular``.
        UnicodeDecodeError: The file is not UTF-8.
    """
    text = read_bytes(path).decode("utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def size_and_time(path: str) -> tuple[int, int] | None:
    """Return size in bytes and modification time in ns of a file, or None if unknown."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    return None


# -------------------------------------------------------------------------------------------- parts


def _raise_unlistable(error: OSError) -> None:
    raise ValueError(
        f"the folder {error.filename!r} cannot be listed ({error.strerror or error}): make it "
        "readable, or move it away"
    ) from error
