"""Skip outputs of ``predict`` that lie among the images to enlarge."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

Listed = list[tuple[str, Path]]


class Outputs(NamedTuple):
    """Where the writer of ``predict`` writes, so that a later run does not enlarge its outputs.

    folder: The writer's folder; it may not exist yet.
    names: Returns the files below it that are known to be outputs.
    """

    folder: Path
    names: Callable[[], Collection[str]]

    def left_out_of(self, pictures: Listed, searched: Path, what: str) -> Listed:
        """Return the images that are not outputs.

        If the writer's folder lies below the searched folder, all files in it count as outputs; if
        the writer's folder itself was searched, or a folder below it, only known outputs do.

        Args:
            pictures: Keys and paths of the images.
            searched: The folder that was searched.
            what: The key that named it, for the message.

        Raises:
            ValueError: If no image is left.
        """
        own = os.path.realpath(self.folder)
        known = None
        if _lies_in(os.path.realpath(searched), own):
            known = {os.path.join(own, name) for name in self.names()}
        real: dict[Path, str] = {}  # of folders: resolving each image's path is slow

        def is_output(path: Path) -> bool:
            if path.parent not in real:
                real[path.parent] = os.path.realpath(path.parent)
            folder = real[path.parent]
            if known is None:
                return _lies_in(folder, own)
            return os.path.join(folder, path.name) in known

        left = [(key, path) for key, path in pictures if not is_output(path)]
        if not left:
            raise ValueError(
                f"{what}: all {len(pictures)} images found in {str(searched)!r} are outputs in "
                f"writer.folder {str(self.folder)!r}: set another writer.folder to enlarge them"
            )
        if len(left) < len(pictures):
            count = len(pictures) - len(left)
            log.info("%s: left out %d images in writer.folder %s", searched, count, self.folder)
        return left


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
