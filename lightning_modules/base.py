"""What every method is: an ``ImageModel``, as a ``SuperResolver`` (restores pictures) or a ``Generator`` (makes them).

A method of your own is one subclass with ``training_step`` and ``restore`` (or ``generate``); optimisers, validation,
test, prediction, weights, checkpoints and randomness are done here.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn

from degradations.draws import seed_of
from lightning_modules.noise import Noise
from lightning_modules.tiling import restore_tiled
from lightning_modules.weights import Weights, read_weights

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 2e-4, what most super-resolution papers start from."""
    return torch.optim.Adam(parameters, lr=2e-4, fused=True)


class ImageModel(LightningModule, ABC):
    """Base of all methods: the command line accepts any subclass.

    Args:
        scale: Factor by which pictures are enlarged; set by ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, which is stepped once a step; by default none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml`` (``{scale}`` is filled in).

    Raises:
        ValueError: ``scale`` is no number of at least 1.
    """

    def __init__(
        self,
        scale: float,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 1:
            raise ValueError(
                f"{type(self).__name__} got scale {scale!r}; it must be a number of at least 1: set data.init_args.scale"
            )
        self.scale = float(scale)
        self.optimizer, self.lr_scheduler, self.weights = optimizer, lr_scheduler, weights
        # Which weights are in the model; None while they are as initialised. The command line keeps it true.
        self.weights_source: str | None = None

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One step of the paper's training algorithm.

        Args:
            batch: ``hr`` (B, 3, H, W) and ``lr`` (B, 3, h, w), float32 in [0, 1].
            batch_idx: Number of the batch in this epoch.

        Returns:
            The loss, a scalar.
        """

    @property
    def needs_weights(self) -> bool:
        """Whether the model would give meaningless pictures without trained weights."""
        return any(True for _ in self.parameters())

    # ------------------------------------------------------------------------------------------------- optimisation

    def configure_optimizers(self) -> Any:
        """Optimiser of the trainable parameters, and the schedule, stepped once a step."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            config = {"scheduler": scheduler, "interval": "epoch", "monitor": scheduler.monitor}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Key all that the model draws in this batch by the batch's own samples.

        Their seeds are a hash of (run seed, epoch, position in the plan), so every rank and every batch differs, and
        a resumed run draws what the uninterrupted one would have drawn, with nothing saved.
        """
        torch.manual_seed(seed_of("model", *batch["seed"].tolist()))

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """As Lightning's, but free between the logging steps.

        Lightning books every logged value at every batch (0.2 ms each) and writes it at each
        ``trainer.log_every_n_steps``-th; a value of a training step that will not be written is not booked here.
        """
        trainer = self._trainer
        if trainer is not None and trainer.training and not kwargs.get("on_epoch"):
            epoch_loop = trainer.fit_loop.epoch_loop
            if (epoch_loop._batches_that_stepped + 1) % trainer.log_every_n_steps and not trainer.fast_dev_run:
                return
        super().log(name, value, *args, **kwargs)

    # ------------------------------------------------------------------------------------------------------ weights

    def load_weights(self, path: str | Path) -> None:
        """Start from weights only: a checkpoint of ours (EMA preferred), an exported file, or an official one.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Another method's weights, or tensors that are missing, unexpected or of another shape.
        """
        weights = read_weights(path)
        if weights.model not in (None, class_path(self)):
            raise ValueError(f"{path} was trained with {weights.model}, but the model here is {class_path(self)}")
        own = self.state_dict()
        state = weights.tensors if weights.model else self.import_official(weights.tensors)
        trained = set(self.checkpoint_keys())
        missing = [k for k in own if k not in state and (k in trained or not weights.model)]
        unexpected = [k for k in state if k not in own]
        reshaped = [k for k in state if k in own and state[k].shape != own[k].shape]
        if missing or unexpected or reshaped:
            raise ValueError(_mismatch(path, missing, unexpected, reshaped))
        self.load_state_dict({**own, **state})
        self.weights_source = weights.name
        log.info("weights: %s", weights.name)

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of the authors' own file onto this model's names; override where there is such a file.

        Args:
            tensors: As the file has them.

        Returns:
            Tensors by this model's names.
        """
        return tensors

    def checkpoint_keys(self) -> list[str]:
        """Names that a checkpoint holds: trainable parameters, and persistent buffers of modules that train."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        training = {name.rpartition(".")[0] for name in trainable}
        # A normalisation's buffers lie beside its weights, or (without weights) in a module whose parent trains.
        parents = {name for module in training for name in _parents(module)}
        frozen = {name.rpartition(".")[0] for name, p in self.named_parameters() if not p.requires_grad}
        parameters = {name for name, _ in self.named_parameters()}
        keys = []
        for name in self.state_dict():
            module = name.rpartition(".")[0]
            if name in parameters:
                keep = name in trainable
            else:
                keep = module in training or (module not in frozen and bool(parents & set(_parents(module))))
            if keep:
                keys.append(name)
        return keys

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training changes; frozen parts are named by their source, not stored."""
        keys = set(self.checkpoint_keys())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keys}
        checkpoint["model"] = class_path(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another method's checkpoint, and take the frozen parts from this model.

        Raises:
            ValueError: The checkpoint belongs to another method or another size of the network.
        """
        model = checkpoint.get("model")
        if model != class_path(self):
            raise ValueError(f"the checkpoint was trained with {model}, but the model here is {class_path(self)}")
        own, state = self.state_dict(), checkpoint["state_dict"]
        missing = [k for k in self.checkpoint_keys() if k not in state]
        unexpected = [k for k in state if k not in own]
        reshaped = [k for k in state if k in own and state[k].shape != own[k].shape]
        if missing or unexpected or reshaped:
            raise ValueError(_mismatch("the checkpoint", missing, unexpected, reshaped))
        checkpoint["state_dict"] = {**own, **state}


class SuperResolver(ImageModel):
    """A method that enlarges a given picture. Args as ``ImageModel``.

    Args:
        scale: Factor by which pictures are enlarged; set by ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, which is stepped once a step; by default none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml`` (``{scale}`` is filled in).
    """

    tile = 512  # LR pixels a side; larger pictures go through overlapping tiles in prediction
    tile_overlap = 32

    @abstractmethod
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Enlarge ``batch["lr"]``: the paper's sampling algorithm.

        Args:
            batch: ``lr`` (B, 3, h, w) float32 in [0, 1] and ``size``, the (H, W) of the output.
            noise: The only source of randomness.

        Returns:
            (B, 3, H, W), about [0, 1]; it is clamped afterwards.
        """

    @torch.no_grad()
    def enlarge(self, batch: Batch, tiled: bool = False) -> dict[str, Tensor]:
        """Restore, check and clamp.

        Args:
            batch: As ``restore`` takes it.
            tiled: Whether pictures larger than ``tile`` go through tiles.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``.

        Raises:
            ValueError: ``restore`` gave another size.
        """
        h, w = batch["lr"].shape[-2:]
        if tiled and max(h, w) > self.tile:
            sr = restore_tiled(self.restore, batch, self.tile, self.tile_overlap)
        else:
            sr = self.restore(batch, Noise(batch["seed"], batch["lr"].device))
        if sr.shape[-2:] != torch.Size(batch["size"]):
            got, wanted = "x".join(map(str, sr.shape[:-3:-1])), "x".join(map(str, batch["size"][::-1]))
            raise ValueError(
                f"{type(self).__name__} made a {got} picture of {batch['key'][0]}, expected {wanted}: "
                f"its scale is {self.scale:g}; set data.init_args.scale (or the source's) to what it was trained for"
            )
        return {"sr": sr.float().clamp_(0, 1)}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Restore a validation batch; callbacks measure the output."""
        return self.enlarge(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Restore a test batch; callbacks measure the output."""
        return self.enlarge(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        """Enlarge one picture, in tiles where it is large; None for one that could not be read."""
        return None if "error" in batch else self.enlarge(batch, tiled=True)


class Generator(ImageModel):
    """A method that makes pictures from nothing or from text. Args as ``ImageModel``.

    Args:
        scale: Factor between the base's own resolution and the output; set by ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, which is stepped once a step; by default none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``.
    """

    @abstractmethod
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Make one picture for each key of the batch: the paper's sampling algorithm.

        Args:
            batch: ``key``, ``seed``, ``size`` and, where the method is conditioned, ``text``.
            noise: The only source of randomness.

        Returns:
            (B, 3, H, W), about [0, 1]; it is clamped afterwards.
        """

    @torch.no_grad()
    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """Generate and clamp.

        Args:
            batch: As ``generate`` takes it.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``.
        """
        return {"sr": self.generate(batch, Noise(batch["seed"], self.device)).float().clamp_(0, 1)}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Generate for a validation batch; callbacks measure the output."""
        return self.sample(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Generate for a test batch; callbacks measure the output."""
        return self.sample(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Generate the pictures of a batch."""
        return self.sample(batch)


def class_path(model: nn.Module) -> str:
    """Import path of a model's class, as a configuration names it."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _mismatch(where: str | Path, missing: list[str], unexpected: list[str], reshaped: list[str]) -> str:
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    return f"the tensors of {where} do not fit the model: {'; '.join(parts)}. Is it another network, size or scale?"


__all__ = ["Generator", "ImageModel", "SuperResolver", "Weights", "adam", "class_path"]
