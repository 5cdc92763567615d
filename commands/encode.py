"""``encode``: write latents of the training images into shards, so that training need not encode.

It is set up as ``fit`` and ends before the first step. ``datamodules.latents.Latents`` reads the
shards. A stopped command continues after its last complete shard.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from commands.check import Checked
from commands.encode_squares import EncodeOptions
from commands.encoding import NAME, Encoding, unit_of
from commands.errors import ConfigurationError
from datamodules.pack_journal import Journal


class Encode(Callback):
    """Encode before the first step, then end.

    Args:
        options: Options of the command.
    """

    def __init__(self, options: EncodeOptions) -> None:
        self.options = options

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode; by now the model is on its device and the sources are open.

        Raises:
            Checked: When done.
            ConfigurationError: If options, model and source do not fit.
        """
        _check(self.options, trainer, pl_module)
        encoding = Encoding(self.options, trainer, pl_module)
        with Journal(encoding.out / f"{NAME}.journal.jsonl") as journal:
            encoding.run(journal)
        raise Checked


def _check(options: EncodeOptions, trainer: Trainer, model: Any) -> None:
    space: Any = getattr(model, "space", None)
    if not hasattr(space, "identity"):
        raise ConfigurationError(
            f"{type(model).__name__} has no model.init_args.space to encode with"
        )
    if not space.source and any(True for _ in space.parameters()):
        raise ConfigurationError(
            f"the autoencoder of model.init_args.space, {type(space).__name__}, has random "
            "weights: name its files"
        )
    if not options.out:
        raise ConfigurationError("encode requires an output folder: give --encode.out FOLDER")
    if trainer.world_size > 1:
        raise ConfigurationError(
            f"encode runs in one process, but there are {trainer.world_size}: give "
            "--trainer.devices 1"
        )
    least = min(options.crops_per_image, options.batch_size, options.samples_per_shard)
    unit, crop = unit_of(model), options.crop
    if least < 1 or (crop is not None and (crop < 1 or crop % unit)):
        raise ConfigurationError(
            f"--encode.crop is {crop}, and the least of crops_per_image, batch_size and "
            f"samples_per_shard {least}; expected a multiple of {unit}, and at least 1"
        )
    if options.crop is None and options.crops_per_image > 1:
        raise ConfigurationError(
            f"--encode.crops_per_image is {options.crops_per_image} without --encode.crop, which "
            "would write the same whole image several times: give --encode.crop, too"
        )
    encoder: Any = getattr(model, "encoder", None)
    if options.texts and not (getattr(encoder, "reads", False) and encoder.source):
        raise ConfigurationError(
            f"--encode.texts requires a trained caption encoder, but {type(model).__name__} has "
            "none: set model.init_args.encoder to lightning_modules.backbone.texts.T5"
        )
    if options.pairs and not hasattr(model, "enlarged"):
        raise ConfigurationError(
            f"{type(model).__name__} does not support --encode.pairs: it does not enlarge LR"
        )
