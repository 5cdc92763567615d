"""HR and LR images in two folders, matched by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.decode import read_picture
from datamodules.pairs import Pair, check_sizes, match_pairs, with_scale
from datamodules.source import Sample, Source
from files.paths import expand_path


class Paired(Source):
    """Images with their own LR, in a second folder with the same names.

    All three arguments may contain ``{scale}``, which becomes 2 for scale 2.0. For DIV2K they are
    ``$DIV2K/DIV2K_train_HR``, ``$DIV2K/DIV2K_train_LR_bicubic/X{scale}`` and ``x{scale}``.

    Args:
        hr: Folder of the HR images, with subfolders.
        lr: Folder of the LR images, with the same subfolders.
        lr_suffix: Suffix of the LR image's name after the HR image's: ``x{scale}`` if the LR of
            ``0001.png`` is ``0001x4.png``.
    """

    def __init__(self, hr: str, lr: str, lr_suffix: str = "", **kwargs: Any) -> None:
        super().__init__(degradation=None, **kwargs)
        self.hr, self.lr, self.lr_suffix = hr, lr, lr_suffix
        self._pairs: list[Pair] = []
        self._keys: list[str] = []

    def prepare(self, scale: float) -> None:
        """Match the names and compare the sizes. Args as ``Source.prepare``.

        Raises:
            ValueError: If a folder is missing or empty, an image has no partner, or a pair's sizes
                do not fit the scale.
        """
        name = type(self).__name__
        hr = Path(expand_path(with_scale(self.hr, scale), f"{name}.hr"))
        lr = Path(expand_path(with_scale(self.lr, scale), f"{name}.lr"))
        self._pairs = match_pairs(hr, lr, with_scale(self.lr_suffix, scale))
        check_sizes(self._pairs, scale)
        self._keys = [pair.key for pair in self._pairs]

    @property
    def keys(self) -> list[str]:
        """Path of each HR image below its folder, without its extension."""
        return self._keys

    def read(self, index: int) -> Sample:
        """Return the pair ``keys[index]``."""
        pair = self._pairs[index]
        hr, lr = (read_picture(path, self.srgb) for path in (pair.hr, pair.lr))
        return {"hr": hr.rgb, "lr": lr.rgb, "meta": hr.meta(pair.hr)}
