"""Paired: images of a folder with their LR in another one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.files.captions import parse_caption
from datamodules.files.members import parse_file
from datamodules.files.pairs import fill_scale, match_pairs, size_problem
from datamodules.source import Sample, Source
from files.images.decode import UnreadableImage, read_image, read_size
from files.paths import expand_path, images_by_key
from files.words import first_of


class Paired(Source):
    """Images with their own LR, in a second folder with the same names.

    All three arguments may contain ``{scale}``, which becomes 2 for scale 2.0. For DIV2K they are
    ``$DIV2K/DIV2K_train_HR``, ``$DIV2K/DIV2K_train_LR_bicubic/X{scale}`` and ``x{scale}``; a test
    set of several scales may lie in ``set5/x{scale}/hr`` and ``set5/x{scale}/lr``.

    Args:
        hr: Folder of the HR images, with subfolders.
        lr: Folder of the LR images, with the same subfolders.
        lr_suffix: Suffix of the LR image's name after the HR image's: ``x{scale}`` if the LR of
            ``0001.png`` is ``0001x4.png``.

    A caption is a text file beside the HR image, as ``0001.txt``.
    """

    def __init__(self, hr: str, lr: str, lr_suffix: str = "", **kwargs: Any) -> None:
        super().__init__(degradation=None, **kwargs)
        self.hr, self.lr, self.lr_suffix = hr, lr, lr_suffix
        self._pairs: dict[str, tuple[Path, Path]] = {}  # HR and LR by key
        self._keys: list[str] = []
        self._has_captions = False

    def prepare(self, scale: float) -> None:
        """Match the names and compare the sizes. Args as ``Source.prepare``.

        Raises:
            ValueError: If a folder is missing or empty, an image has no partner, or a pair's sizes
                do not fit the scale.
        """
        name = type(self).__name__
        hr = Path(expand_path(fill_scale(self.hr, scale), f"{name}.hr"))
        lr = Path(expand_path(fill_scale(self.lr, scale), f"{name}.lr"))
        suffix = fill_scale(self.lr_suffix, scale)
        large, small = images_by_key(hr, f"{name}.hr"), images_by_key(lr, f"{name}.lr")
        self._pairs = match_pairs(large, small, (str(hr), str(lr)), suffix)
        self._check_sizes(scale)
        self._keys = list(self._pairs)
        self._has_captions = any(_caption_file(path).is_file() for path, _ in self._pairs.values())

    def _check_sizes(self, scale: float) -> None:
        """Compare the sizes in the files' headers; reading a file with a broken one raises."""
        wrong = []
        for key, (hr, lr) in self._pairs.items():
            with suppress(UnreadableImage):
                if problem := size_problem(read_size(hr), read_size(lr), scale):
                    wrong.append(f"{key} ({problem})")
        if wrong:
            raise ValueError(
                f"{len(wrong)} pairs of HR and LR do not fit scale {scale:g}: {first_of(wrong)}. "
                "Set data.init_args.scale to the scale of these folders"
            )

    @property
    def keys(self) -> list[str]:
        """Path of each HR image below its folder, without its extension."""
        return self._keys

    def read(self, index: int) -> Sample:
        """Return the pair ``keys[index]``."""
        path, lr = self._pairs[self._keys[index]]
        hr = read_image(path, self.srgb)
        sample: Sample = {"hr": hr.rgb, "lr": read_image(lr, self.srgb).rgb, "meta": hr.meta(path)}
        if self._has_captions:
            caption = _caption_file(path)
            sample["text"] = parse_file(parse_caption, caption) if caption.is_file() else ""
        return sample


def _caption_file(path: Path) -> Path:
    """Return where the caption of an HR image would be."""
    return path.with_suffix(".txt")
