"""Controls without training: bicubic, outputs from a folder, the round trip of an autoencoder.

A method in latents cannot exceed the round trip of HR, and should exceed the
round trip of bicubic.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from degradations.bicubic import resize
from degradations.device import copy_to
from files.numbers import PositiveInt
from files.paths import expand_path, walk
from files.png_text import open_image
from lightning_modules.backbone.space import Space
from lightning_modules.base import NothingToTrain, SuperResolver
from lightning_modules.latents import InLatents, enlarged, fit_predictor, latent_pair
from lightning_modules.networks.noise_predictor import NoisePredictor, lr_side
from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import padded

if TYPE_CHECKING:
    from files.batch import Batch

Image = Literal["hr", "bicubic"]
log = logging.getLogger(__name__)


class Bicubic(NothingToTrain, SuperResolver):
    """Enlarge with the cubic kernel of MATLAB and Pillow (a = -0.5).

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(scale)

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Interpolate."""
        return resize(batch["lr"], batch["size"])


class FolderOutputs(NothingToTrain, SuperResolver):
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

    instead = "use validate or test"

    def __init__(self, scale: float, root: str, suffix: str = "", extension: str = ".png") -> None:
        super().__init__(scale)
        self.root = Path(expand_path(root, "model.init_args.root"))
        if not self.root.is_dir():
            raise ValueError(f"model.init_args.root {str(self.root)!r} is no folder")
        self.ending = suffix.replace("{scale}", f"{scale:g}") + extension
        self.weights_source = str(self.root)

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
        return copy_to(torch.stack(images), batch["lr"].device)


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
            f"{size[1]}x{size[0]}: was it made for another scale, or without cropping HR?"
        )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)


def _some(names: list[str], count: int = 5) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


class RoundTrip(NothingToTrain, InLatents, SuperResolver):
    """Encode and decode an image; only for tests.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: The autoencoder.
        of: Its input: ``hr``, or the ``bicubic`` enlargement of LR.
        space_weights: Weights of the autoencoder, unless ``space`` sets them: a run of
            ``Autoencoder``, its authors' file, or a name of ``configs/weights.yaml``.
    """

    instead = "use test, or another model.class_path for fit"

    def __init__(
        self,
        scale: float,
        space: Space,
        of: Image = "bicubic",
        space_weights: str | None = None,
    ) -> None:
        super().__init__(scale, space_weights=space_weights)
        self.space, self.of = space, of
        self.weights_source = space.source or None

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the autoencoder's weights."""
        super().load_parts(find)
        self.weights_source = self.space.source or None

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Encode and decode; deterministic.

        Raises:
            ValueError: If HR is required and missing.
        """
        if self.of == "hr" and "hr" not in batch:
            raise ValueError("the round trip of HR needs HR: use test, or set model.init_args.of")
        H, W = batch["size"]
        image = batch["hr"] if self.of == "hr" else resize(batch["lr"], (H, W))
        below, right = (-n % self.space.factor for n in (H, W))
        padded = functional.pad(image, (0, right, 0, below), mode="replicate")
        return self.space.decode(self.space.encode(padded))[..., :H, :W]


class LatentRegression(InLatents, SuperResolver):
    """InvSR's predictor, trained as a regression.

    The predicted mean is added to the latent of the enlarged LR image.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        predictor: The network to train.
        space: The latents.
        patch: Side in LR pixels for training; as in ``InvSR``.

    Raises:
        ValueError: If scale, predictor and space do not fit together.
    """

    half_outputs = False

    latent_pairs = True

    def __init__(
        self,
        scale: float,
        predictor: NoisePredictor,
        space: Space,
        patch: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        fit_predictor(predictor, scale, space)
        self.predictor, self.space, self.patch = predictor, space, lr_side(patch, scale)
        self.tile, self.tile_overlap, self.tile_window = self.patch, self.patch // 2, "gaussian"
        self.tile_least = self.patch
        self.tile_always = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the distance between the latents."""
        z, y = latent_pair(self.space, batch)
        loss = functional.mse_loss(y + self.predictor(batch["lr"], 0.0).mean, z)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """One call; deterministic."""
        mirrored = padded(batch["lr"], self.predictor.divisor, self.patch)
        lr = mirrored.lr
        size = (round(lr.shape[-2] * self.scale), round(lr.shape[-1] * self.scale))
        y = self.space.encode(enlarged(lr, size))
        return mirrored.crop(self.space.decode(y + self.predictor(lr, 0.0).mean), batch["size"])
