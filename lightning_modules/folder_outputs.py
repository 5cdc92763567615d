"""Outputs of another program as a model, to evaluate them under any protocol."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from files.paths import expand_path, walk
from files.png_text import open_image
from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)


class FolderOutputs(SuperResolver):
    """Read the enlarged images from a folder.

    For the key ``set5/baby`` it reads ``<root>/set5/baby.png`` or ``<root>/baby.png``. ``suffix``
    comes before the extension (``babyx2.png``: suffix ``x2``). Missing and extra files are listed
    before anything is measured.

    Args:
        scale: Factor by which images were enlarged; set by ``data.init_args.scale``.
        root: The folder; environment variables are expanded.
        suffix: Text between name and extension; ``{scale}`` is filled in.
        extension: Extension of the files.

    Raises:
        ValueError: If ``root`` is no folder.
    """

    def __init__(self, scale: float, root: str, suffix: str = "", extension: str = ".png") -> None:
        super().__init__(scale)
        self.root = Path(expand_path(root, "model.init_args.root"))
        if not self.root.is_dir():
            raise ValueError(f"model.init_args.root {str(self.root)!r} is no folder")
        self.ending = suffix.replace("{scale}", f"{scale:g}") + extension
        self.weights_source = str(self.root)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Raise: there is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError("FolderOutputs has nothing to train: use validate or test")

    def on_validation_start(self) -> None:
        """Check the folder against the validation images."""
        super().on_validation_start()
        self._check(self.trainer.val_dataloaders)

    def on_test_start(self) -> None:
        """Check the folder against the test images."""
        self._check(self.trainer.test_dataloaders)

    def _check(self, loaders: Any) -> None:
        keys = [key for loader in loaders for key in loader.dataset.keys]
        wanted = {key: self.path(key) for key in keys}
        missing = [str(path) for path in wanted.values() if not path.is_file()]
        files = (folder / name for folder, _, names in walk(self.root) for name in names)
        found = {path for path in files if path.name.endswith(self.ending)}
        extra = sorted(str(path) for path in found - set(wanted.values()))
        if missing:
            beside = f"; it has {len(extra)} extra ones: {_some(extra)}" if extra else ""
            raise ValueError(
                f"model.init_args.root {self.root} lacks {len(missing)} of {len(keys)} images: "
                f"{_some(missing)}{beside}"
            )
        if extra:
            # No error, but the folder may also hold another set or an older run.
            log.warning("%s has %d extra images: %s", self.root, len(extra), _some(extra))

    def path(self, key: str) -> Path:
        """Return the file of an image.

        Args:
            key: The image's key, prefixed by its source's name.
        """
        below = self.root / f"{key}{self.ending}"
        return below if below.is_file() else self.root / f"{key.partition('/')[2]}{self.ending}"

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Read the images of a batch.

        Raises:
            ValueError: If a file is broken, of another size, or not 8-bit.
        """
        images = [_read(self.path(key), batch["size"]) for key in batch["key"]]
        return torch.stack(images).to(batch["lr"].device)


def _read(path: Path, size: tuple[int, int]) -> Tensor:
    try:
        with open_image(path) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error
    if mode[0] in "IF":  # Pillow would clip its values at 255
        raise ValueError(f"{path} holds pixels of mode {mode}; expected an 8-bit image")
    if pixels.shape[:2] != tuple(size):
        raise ValueError(
            f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, but the HR image is "
            f"{size[1]}x{size[0]}: was it made for another data.init_args.scale, or without "
            "cropping the HR image to a multiple of the scale?"
        )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)


def _some(names: list[str], count: int = 5) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
