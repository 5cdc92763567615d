"""Benchmark sets with a folder for each scale, such as Set5 and Set14."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.paired import Paired
from datamodules.pairs import with_scale
from files.paths import expand_path


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
                f"{scale:g}: {there} (a plain folder of images is a datamodules.folder.Folder)"
            )
        super().prepare(scale)
