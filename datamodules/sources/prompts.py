"""Inputs of generators for ``test`` and ``predict``: seeds alone, or captions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.files.paths import read_lines
from datamodules.source import Sample, Source
from files.numbers import PositiveInt
from files.paths import expand_path

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
        self.frames, self._to_generate = frames, _to_generate(size, frames)
        self.keys = [f"{number:06}" for number in range(count)]

    def read(self, index: int) -> Sample:
        """Return the requested size."""
        return self._to_generate.copy()


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
        self._to_generate = _to_generate(size, frames)
        self._texts: dict[str, str] = {}  # by key

    def prepare(self, scale: float) -> None:
        """Read the file. Args as ``Source.prepare``.

        Raises:
            OSError: If it is missing.
            ValueError: If it is not UTF-8.
        """
        path = Path(expand_path(self.file, "Prompts.file"))
        lines = read_lines(path, "Prompts.file", "a caption on each line, in UTF-8")
        self._texts = {}
        for number, text in enumerate(lines, start=1):
            digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
            if text:
                self._texts[f"{number:06}-{digest}"] = text
        empty = len(lines) - len(self._texts)
        if empty:
            log.info("%s: %d empty lines skipped", path, empty)
        self.keys = list(self._texts)

    def read(self, index: int) -> Sample:
        """Return the prompt ``keys[index]`` and the requested size."""
        return {**self._to_generate, "text": self._texts[self.keys[index]]}


def _to_generate(size: Size, frames: int | None) -> Sample:
    """Return the sample of an image or clip that is yet to be made: its (H, W), and its frames."""
    height, width = (size, size) if isinstance(size, int) else size
    sample = Sample(size=(height, width))
    return sample if frames is None else {**sample, "frames": frames}
