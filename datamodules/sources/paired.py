"""Sources of HR and LR pairs: Paired and Benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.files.decode import UnreadableImage, read_image, read_size
from datamodules.files.pairs import match, misfit, shown, with_scale
from datamodules.source import Sample, Source
from files.paths import by_key, expand_path, image_key, list_images


class Pair(NamedTuple):
    """The HR and LR files of one image."""

    key: str
    hr: Path
    lr: Path


def match_pairs(hr: Path, lr: Path, lr_suffix: str = "") -> list[Pair]:
    """Find the LR image of every HR image.

    Args:
        hr: Folder of the HR images.
        lr: Folder of the LR images.
        lr_suffix: Suffix of an LR name after the HR image's name.

    Raises:
        ValueError: If a folder is missing or empty, or names lack a partner; they are listed.
    """
    pairs = match(_images(hr, "HR"), _images(lr, "LR"), (str(hr), str(lr)), lr_suffix)
    return [Pair(key, *paths) for key, paths in pairs.items()]


def check_sizes(pairs: Iterable[Pair], scale: float) -> None:
    """Compare the sizes in the files' headers.

    Args:
        pairs: The files; those with a broken header are skipped, as reading them raises.
        scale: HR must be ``scale`` times LR, rounded; fewer than ``scale`` further pixels are cut
            off when the pair is read.

    Raises:
        ValueError: If sizes do not fit.
    """
    wrong = []
    for pair in pairs:
        try:
            large, small = read_size(pair.hr), read_size(pair.lr)
        except UnreadableImage:
            continue
        problem = misfit(large, small, scale)
        if problem:
            wrong.append(f"{pair.key} ({problem})")
    if wrong:
        raise ValueError(
            f"{len(wrong)} pairs of HR and LR do not fit scale {scale:g}: {shown(wrong)}. Set "
            "data.init_args.scale to the scale of these folders"
        )


def _images(root: Path, kind: str) -> dict[str, Path]:
    if not root.is_dir():
        raise ValueError(f"the folder of {kind} images, {str(root)!r}, does not exist")
    found = by_key(((image_key(path, root), path) for path in list_images(root)), str(root))
    if not found:
        raise ValueError(f"the folder of {kind} images, {str(root)!r}, has no images")
    return found


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
        hr, lr = (read_image(path, self.srgb) for path in (pair.hr, pair.lr))
        return {"hr": hr.rgb, "lr": lr.rgb, "meta": hr.meta(pair.hr)}


class Benchmark(Paired):
    """A test set laid out as ``root/x{scale}/hr`` and ``root/x{scale}/lr``, with equal names.

    Args:
        root: The set's folder. May hold environment variables: ``$ENLARGER_DATA/set5``.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        hr, lr = f"{root}/x{{scale}}/hr", f"{root}/x{{scale}}/lr"
        super().__init__(hr=hr, lr=lr, lr_suffix="", **kwargs)
        self.root = root

    def prepare(self, scale: float) -> None:
        """Find the scale's folder, and pair its images. Args as ``Source.prepare``.

        Raises:
            ValueError: If the set has no folder for this scale (the message lists those it has),
                or as for ``Paired``.
        """
        root = Path(expand_path(self.root, "Benchmark.root"))
        if not root.is_dir():
            raise ValueError(f"Benchmark.root {str(root)!r} does not exist")
        wanted = with_scale("x{scale}", scale)
        if not (root / wanted).is_dir():
            found = sorted(folder.parent.name for folder in root.glob("x*/hr"))
            there = f"it has {', '.join(found)}" if found else "it has none such as x2/hr"
            raise ValueError(
                f"Benchmark.root {str(root)!r} has no folder {wanted} for data.init_args.scale "
                f"{scale:g}: {there} (a plain folder of images is a datamodules.Folder)"
            )
        super().prepare(scale)
