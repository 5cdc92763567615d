"""Inputs of generators for ``test`` and ``predict``: seeds alone, or captions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.source import Sample, Source
from files.numbers import PositiveInt
from files.paths import expand_path, read_text

log = logging.getLogger(__name__)
Size = PositiveInt | tuple[PositiveInt, PositiveInt]  # a side, or height and width


class Seeds(Source):
    """Images that a generator makes from noise alone, without HR and LR.

    The n-th key is n, so a larger ``count`` begins with the same images.

    Args:
        count: Number of images.
        size: Side of the images, or their height and width.
        frames: Frames per clip, for a video model; ``null`` for images.

    """

    keys: Sequence[str] = ()  # 000000, 000001 and so on

    def __init__(
        self,
        count: PositiveInt,
        size: Size,
        frames: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(degradation=None, **kwargs)
        self.frames, self._wanted = frames, _wanted(size, frames)
        self.keys = [f"{number:06}" for number in range(count)]

    def read(self, index: int) -> Sample:
        """Return the requested size."""
        return self._wanted.copy()


class Prompts(Source):
    """Images that a generator makes from captions, one per line of a text file.

    A key is the line's number with a hash of its text, so another text is another image. Empty
    lines are skipped, and counted in the log.

    Args:
        file: The file, in UTF-8. May contain environment variables.
        size: Side of the images, or their height and width.
        frames: Frames per clip, for a video model; ``null`` for images.

    """

    keys: Sequence[str] = ()  # 000001-5c2f11e0 and so on

    def __init__(
        self,
        file: str,
        size: Size,
        frames: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(degradation=None, **kwargs)
        self.file, self.frames = file, frames
        self._wanted = _wanted(size, frames)
        self._texts: dict[str, str] = {}  # by key

    def prepare(self, scale: float) -> None:
        """Read the file. Args as ``Source.prepare``.

        Raises:
            ValueError: If it is missing or not text, or has no prompts.
        """
        self._texts, empty = {}, 0
        for number, line in enumerate(_lines(expand_path(self.file, "Prompts.file")), start=1):
            text = line.strip()
            digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
            if text:
                self._texts[f"{number:06}-{digest}"] = text
            empty += not text
        if not self._texts:
            raise ValueError(f"Prompts.file {self.file} has no prompts; expected one per line")
        if empty:
            log.info("%s: %d empty lines skipped", self.file, empty)
        self.keys = list(self._texts)

    def read(self, index: int) -> Sample:
        """Return the prompt ``keys[index]`` and the requested size."""
        return {**self._wanted, "text": self._texts[self.keys[index]]}


def _lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise ValueError(f"Prompts.file {path} does not exist; expected a text file")
    try:
        # Not splitlines, which also splits at characters that editors do not treat as line ends.
        lines = read_text(path).split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Prompts.file {path} is not UTF-8 text (byte {error.start}): convert it"
        ) from error
    return lines if lines[-1] else lines[:-1]  # nothing follows the last line's end


def _wanted(size: Size, frames: int | None) -> Sample:
    height, width = (size, size) if isinstance(size, int) else size
    wanted = Sample(size=(height, width))
    return wanted if frames is None else {**wanted, "frames": frames}
