"""Sources of image folders: Folder, and Inputs of predict."""

from __future__ import annotations

import functools
import glob
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.files.pairs import refuse_mixed
from datamodules.files.paths import images_of, searched_folder
from datamodules.source import Sample, Source
from files.images.decode import FORMATS, UnreadableImage, read_image, read_size
from files.paths import (
    by_key,
    expand_path,
    image_key,
    is_image,
    is_video,
    size_and_time,
)
from files.videos.video import holds_video

log = logging.getLogger(__name__)
Listed = list[tuple[str, Path]]


class Outputs(NamedTuple):
    """Where the writer of ``predict`` writes, so that a later run does not enlarge its outputs.

    folder: The writer's folder; it may not exist yet.
    names: Returns the files below it that are known to be outputs.
    """

    folder: Path
    names: Callable[[], Collection[str]]

    def remove_outputs(self, images: Listed, searched: Path, what: str) -> Listed:
        """Return the images that are not outputs.

        If the writer's folder lies below the searched folder, all files in it count as outputs; if
        the writer's folder itself was searched, or a folder below it, only known outputs do.

        Args:
            images: Keys and paths of the images.
            searched: The folder that was searched.
            what: The key that named it, for the message.

        Raises:
            ValueError: If no image is left.
        """
        own = os.path.realpath(self.folder)
        known = None
        if _lies_in(os.path.realpath(searched), own):
            known = {os.path.join(own, name) for name in self.names()}
        resolved = functools.cache(os.path.realpath)  # of folders: they are few, images many

        def is_output(path: Path) -> bool:
            folder = resolved(path.parent)
            if known is None:
                return _lies_in(folder, own)
            return os.path.join(folder, path.name) in known

        left = [(key, path) for key, path in images if not is_output(path)]
        if not left:
            raise ValueError(
                f"{what}: all {len(images)} images found in {str(searched)!r} are outputs in "
                f"writer.folder {str(self.folder)!r}: set another writer.folder to enlarge them"
            )
        if len(left) < len(images):
            count = len(images) - len(left)
            log.info("%s: left out %d images in writer.folder %s", searched, count, self.folder)
        return left


def _lies_in(path: str, folder: str) -> bool:
    """Return whether a resolved path is a folder, or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


class Folder(Source):
    """Images of a folder and its subfolders; a key is the path below it without extension.

    Args:
        root: The folder, or one image. May contain environment variables, ``$ENLARGER_DATA/set``.
        files: Files, folders, or patterns such as ``1*.png`` and ``**/*.jpg``, instead of all of
            ``root``. They are relative to ``root`` if it is given. Without ``root``, keys are
            relative to the named folder, or to the part of a pattern before its first ``*``.

    Examples:
        >>> from datamodules import Folder
        >>> photos = Folder("my/photos", files=["**/*.png"])
        >>> photos.prepare(scale=4)
        >>> list(photos.keys)
        ['a', 'b']
    """

    has_hr = True  # whether its images are HR

    def __init__(
        self,
        root: str | None = None,
        files: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.files = root, files
        self.outputs: Outputs | None = None  # predict's own outputs, which are not inputs
        self._keep_extensions_apart = False  # whether keys have the extension if only that differs
        self._keys: list[str] = []
        self._paths: list[str] = []
        self.videos: dict[str, str] = {}  # files of predict's videos, which are no images, by key

    @classmethod
    def of(cls, paths: str | list[str]) -> Folder:
        """Return the images and videos of a folder, a file, a pattern, or a list of these.

        Files that differ only by their extension, ``a.jpg`` and ``a.png``, have it in their keys,
        and so has ``a.jpg.png`` beside them. Of an image and a video, only the video has it.

        Args:
            paths: As ``files``.
        """
        folder = cls(files=[paths] if isinstance(paths, str) else paths)
        folder._keep_extensions_apart = True
        return folder

    def prepare(self, scale: float) -> None:
        """List the files. Args and Raises as ``Source.prepare``."""
        what = self._key_in_messages
        listed = list(self._list_files())
        if self._keep_extensions_apart:
            films = {path for _, path in listed if _is_video(path)}
            videos = [(key, path) for key, path in listed if path in films]
            listed = _with_distinct_keys((key, path) for key, path in listed if path not in films)
            videos = _with_distinct_keys(videos, {key for key, _ in listed})
            by_key([*listed, *videos], what)  # raises if an image and a video share a key
            self.videos = {key: str(path) for key, path in by_key(videos, what).items()}
        if self.videos and find_spec("av") is None:
            log.warning(
                "%s: %d videos are left out, as PyAV is not installed: pip install "
                "-c constraints.txt -e '.[video]'",
                what,
                len(self.videos),
            )
            self.videos = {}
        images = by_key(listed, what)
        self._keys = list(images)
        self._paths = [str(path) for path in images.values()]
        if self.has_hr and not self._keep_extensions_apart:
            refuse_mixed(what, self._keys, lambda index: read_size(self._paths[index]), scale)

    @property
    def _key_in_messages(self) -> str:
        """The key of the configuration that an error names."""
        if self._keep_extensions_apart:
            return "data.predict"
        return "Folder.files" if self.root is None else "Folder.root"

    def _list_files(self) -> Iterator[tuple[str, Path]]:
        """Yield keys and paths of the images that ``root`` and ``files`` select."""
        if self.root is None:
            for file in self.files or []:
                pattern = expand_path(file, self._key_in_messages)
                yield from self._list_inputs(pattern, self._key_in_messages)
            return
        root = expand_path(self.root, "Folder.root")
        if self.files is not None:
            yield from self._list_below_root(root, self.files)
        else:
            yield from self._list_inputs(root, "Folder.root")

    def _list_below_root(self, root: str, files: list[str]) -> Iterator[tuple[str, Path]]:
        """Yield keys and paths of selected images; a key is the same in every selection.

        Raises:
            ValueError: If a file lies elsewhere.
        """
        for file in files:
            pattern = os.path.normpath(expand_path(file, "Folder.files", root))
            if os.path.isabs(pattern) or Path(pattern).parts[0] == "..":
                # Keys become names of results, which would be written outside of their folder.
                raise ValueError(
                    f"Folder.files has {file!r}, which is not below Folder.root {root!r}"
                )
            for _, path in self._list_inputs(pattern, "Folder.files", root):
                yield image_key(path, Path(root)), path

    def _list_inputs(self, pattern: str, what: str, root: str = "") -> list[tuple[str, Path]]:
        """Return keys and paths of the images of a pattern that are not outputs of ``predict``."""
        images = _images_matching(pattern, what, root, self._keep_extensions_apart)
        searched = searched_folder(pattern, root)
        if self.outputs is None or searched is None:
            return images
        return self.outputs.remove_outputs(images, searched, what)

    @property
    def keys(self) -> list[str]:
        """Path of each image below the root, without its extension."""
        return self._keys

    def path(self, index: int) -> str:
        """Return the file of the image ``keys[index]``."""
        return self._paths[index]

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]``; ``meta`` has what a writer of results needs."""
        path = self._paths[index]
        read = size_and_time(path)  # before its bytes, so a later change is noticed
        image = read_image(path, self.srgb)
        return {"hr": image.rgb, "meta": {**image.meta(path), "read": read}}


def _is_video(path: Path) -> bool:
    """Return whether a file is a video: if its ending is not an image's, by its content."""
    if is_image(path):
        return False
    with suppress(UnreadableImage):
        read_size(path)
        return False  # an image, whatever its ending
    return is_video(path) or holds_video(path)


def source_to_enlarge(images: Source | list[str] | str, outputs: Outputs | None) -> Source:
    """Return the source that ``predict`` reads.

    Args:
        images: The value of ``data.init_args.predict``.
        outputs: Where ``predict`` writes; a folder of images skips its outputs.
    """
    source = images if isinstance(images, Source) else Folder.of(images)
    if isinstance(source, Folder):
        source.outputs = outputs
    return source


def _with_distinct_keys(
    images: Iterable[tuple[str, Path]], taken: Collection[str] = ()
) -> list[tuple[str, Path]]:
    """Add the extension to keys that are taken or that files share, until no key changes.

    A longer key may be another file's: ``a.png`` and ``a.jpg`` beside ``a.png.png``. A stem
    cannot occur twice with the same extension.
    """
    listed = list(images)
    keys = [key for key, _ in listed]
    while True:
        users: dict[str, set[tuple[str, str]]] = {}
        for key, (stem, path) in zip(keys, listed, strict=True):
            users.setdefault(key, set()).add((stem, path.suffix))
        longer = [
            f"{stem}{path.suffix}" if len(users[key]) > 1 or key in taken else key
            for key, (stem, path) in zip(keys, listed, strict=True)
        ]
        if longer == keys:
            return [(key, path) for key, (_, path) in zip(keys, listed, strict=True)]
        keys = longer


def _images_matching(pattern: str, what: str, root: str, videos: bool) -> list[tuple[str, Path]]:
    """Return keys and paths of the images of a pattern, as ``images_of``; raise without any."""
    images = list(images_of(pattern, root, videos))
    if not images:
        path = Path(root, pattern)
        problem = "has no images" if path.exists() else "does not exist"
        if glob.has_magic(pattern):
            problem = "matches no images"
        raise ValueError(
            f"{what} {str(path)!r} {problem}; expected a folder of images "
            f"({', '.join(FORMATS)}), the path of one, or a pattern such as /photos/**/*.jpg"
        )
    return images


class Inputs(Folder):
    """A folder of LR images without HR references, for ``test`` and ``validate``.

    Metrics that compare with HR give no number on it.
    """

    has_hr = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(degradation=None, **kwargs)

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]`` as LR."""
        sample = super().read(index)
        return {"lr": sample["hr"], "meta": sample["meta"]}
