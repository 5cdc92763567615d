"""Another program's pictures as a model, so that any method's results can be measured under any protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch


class FolderOutputs(SuperResolver):
    """Read the enlarged pictures from a folder instead of making them.

    The picture of key ``set5/baby`` is looked for as ``<root>/set5/baby.png``, then as ``<root>/baby.png``; ``suffix``
    stands before the extension (``babyx2.png``: suffix ``x2``). Missing and extra files are listed before anything is
    measured.

    Args:
        scale: Factor by which pictures were enlarged; set by ``data.init_args.scale``.
        root: The folder; may hold environment variables.
        suffix: What the other program put between name and extension; ``{scale}`` is filled in.
        extension: Extension of the files.
    """

    def __init__(self, scale: float, root: str, suffix: str = "", extension: str = ".png") -> None:
        super().__init__(scale)
        self.root = Path(os.path.expandvars(root)).expanduser()
        self.ending = suffix.replace("{scale}", f"{scale:g}") + extension

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """There is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError("FolderOutputs has nothing to train: use validate or test")

    def on_validation_start(self) -> None:
        """Check the folder against the validation pictures."""
        self._check(self.trainer.val_dataloaders)

    def on_test_start(self) -> None:
        """Check the folder against the test pictures."""
        self._check(self.trainer.test_dataloaders)

    def _check(self, loaders: list[torch.utils.data.DataLoader]) -> None:  # type: ignore[type-arg]
        keys = [key for loader in loaders for key in loader.dataset.keys]  # type: ignore[attr-defined]
        wanted = {key: self.path(key) for key in keys}
        missing = [str(path) for path in wanted.values() if not path.is_file()]
        extra = sorted({str(p) for p in self.root.rglob(f"*{self.ending}")} - {str(p) for p in wanted.values()})
        if missing:
            raise ValueError(
                f"model.init_args.root {self.root} lacks {len(missing)} of {len(keys)} pictures: "
                f"{_some(missing)}; it has {len(extra)} that are not asked for{': ' if extra else ''}{_some(extra)}"
            )
        if extra:
            # Counting only what the data asks for is right; that more is there may mean that the wrong set was named.
            self.print(f"{self.root}: {len(extra)} pictures are not asked for: {_some(extra)}")

    def path(self, key: str) -> Path:
        """File of a picture.

        Args:
            key: The picture's key, with its source's name in front.
        """
        below = self.root / f"{key}{self.ending}"
        return below if below.is_file() else self.root / f"{key.partition('/')[2]}{self.ending}"

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Read the pictures of a batch.

        Raises:
            ValueError: A file is broken.
        """
        return torch.stack([_read(self.path(key)) for key in batch["key"]]).to(batch["lr"].device)


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} is no readable picture: {error}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
