"""Loading and storing the weights of a method."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from files.method import Method
from files.own_modules import class_path
from files.paths import expand_path
from files.tensors import is_plain
from lightning_modules.weights import (
    check_sources,
    check_tensors,
    frozen_parts,
    hash_of,
    read_weights,
    recognise,
    sources,
    unlike,
)

log = logging.getLogger(__name__)
TRAINED_ON = ", trained on"
HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")  # Lightning's keys


class Loaded(Method, LightningModule):
    """Weights of a method: from runs, exported and official files; to checkpoints.

    Attributes:
        initial_weights: Weights to start from: a file or a name.
        loaded_with: What is known of their ``trained_with``.
    """

    scale: float
    initial_weights: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loaded_with: dict[str, Any] = {}
        self._find: Callable[[str, str], Path] | None = None
        self._own_parts: tuple[str, ...] = ()  # prefixes of parts with weights of their own
        self._required: dict[str, str] = {}  # sources of frozen parts that the weights require

    @property
    def needs_weights(self) -> bool:
        """Whether all weights are as initialised, so that outputs would be meaningless."""
        return self.weights_source is None and any(True for _ in self.parameters())

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load frozen parts that have their own files, before the weights of the whole model.

        Commands and ``enlarger.load`` call it; else ``setup`` and ``load_weights`` do. Subclasses
        must call super() first.

        Args:
            find: Returns the file for an argument's name and value. The value is a path, the
                folder of a run, or a name of ``configs/weights.yaml``. It is kept for ``setup``,
                which loads what only training needs.
        """
        self._find = find

    def setup(self, stage: str) -> None:
        """Load the files that arguments name, of a method that was made in Python.

        Raises:
            FileNotFoundError: If one is missing.
            ValueError: As in ``load_weights``.
        """
        super().setup(stage)
        if self._find is None:
            self.load_parts(file_of)
            if self.initial_weights is not None:
                self.load_weights(file_of("weights", self.initial_weights))

    def load_weights(self, path: str | Path) -> None:
        """Load weights without optimiser state.

        Args:
            path: Our checkpoint (EMA weights are preferred), an exported file, or an official one.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If the weights belong to another method or to other frozen weights, or
                tensors are missing, unexpected, of another shape, or no finite floating-point
                numbers.
        """
        if self._find is None:
            self.load_parts(file_of)
        weights = read_weights(path)
        if weights.model not in (None, class_path(type(self))):
            raise ValueError(
                f"{path} was trained with {weights.model}, but the model here is "
                f"{class_path(type(self))}: set model.class_path to that, or name another file"
            )
        self.warn_if_unlike(weights.name, weights.trained_with)
        frozen = weights.frozen.items()
        self._required = {k: v for k, v in frozen if not f"{k}.".startswith(self.unchecked)}
        check_sources(self, self._required)
        state, required = weights.tensors, set(self.state_dict())
        if not weights.model and required.isdisjoint(state):
            state = self.import_official(state)
        if weights.model:  # parts that only training needs may be missing; they start untrained
            keys = self.checkpoint_keys()
            required = {name for name in keys if not name.startswith(self.training_only)}
            state = {k: v for k, v in state.items() if not k.startswith(self._own_parts)}
        self.load_state_dict(self._fitted(str(path), state, required))
        self.weights_source, self.loaded_with = weights.name, weights.trained_with
        weights.log()

    def mark_as_changed(self) -> None:
        """Note that the weights are no longer those of the file that they were loaded from."""
        if (source := self.weights_source) is not None and not source.endswith(TRAINED_ON):
            self.weights_source = source + TRAINED_ON

    def warn_if_unlike(self, name: str, trained_with: dict[str, Any]) -> None:
        """Warn if weights of this name were trained with other settings of the model."""
        if found := unlike(self.trained_with, trained_with):
            log.warning(
                "%s was trained with other settings of the model (%s): its outputs are wrong until "
                "it has been trained further",
                *(name, "; ".join(found)),
            )

    @property
    def trained_with(self) -> dict[str, Any]:
        """Settings that weights are trained with and tensors do not show, of plain types.

        They are stored in checkpoints and exported files, and compared where weights are loaded.
        Those of a network are its attribute ``trained_with``.
        """
        parts = {name: getattr(part, "trained_with", {}) for name, part in self.named_children()}
        return {name: settings for name, settings in parts.items() if settings}

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Hashes of frozen parts that the weights leave open, such as a release's autoencoder."""
        return {
            name: hash_of(source)
            for name, source in ({} if self.needs_weights else sources(self)).items()
            if "." not in name and not f"{name}.".startswith(self.training_only)
            if name not in self._required and str(self.weights_source) not in source
        }

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of the authors' file to this model's names.

        Override this if such a file exists. Return all tensors of the model, with the current ones
        of a frozen part that has another source. Files with this model's names are not mapped.

        Args:
            tensors: Tensors by the names in the file, without those that DDP and compiling add.

        Returns:
            Tensors by this model's names.
        """
        return tensors

    def with_parts(self, **parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the model, those of some parts from a file.

        Args:
            **parts: By the attribute's name, tensors by the part's own names.
        """
        others = {k: v for k, v in self.state_dict().items() if k.partition(".")[0] not in parts}
        return others | {f"{part}.{k}": v for part, of in parts.items() for k, v in of.items()}

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Prefixes of frozen parts that may differ from those the weights were trained with."""
        return self.training_only

    def _fitted(
        self, where: str, state: dict[str, Tensor], required: set[str]
    ) -> dict[str, Tensor]:
        # All tensors of the model: those of a file, checked, and the current others.
        recognise(self, state)
        own = self.state_dict()
        absent = tuple(p for p in self.training_only if not any(k.startswith(p) for k in own))
        state = {name: tensor for name, tensor in state.items() if not name.startswith(absent)}
        check_tensors(where, own, state, required)
        return {**own, **state}

    def checkpoint_keys(self) -> list[str]:
        """Return the names that a checkpoint holds: all but frozen parts that have a ``source``.

        A buffer belongs to the nearest enclosing module with parameters. So running statistics
        without weights of their own train with their network, and those in such a part do not.
        """
        parts = tuple(f"{name}." for name in frozen_parts(self) if name)
        parameters = self.named_parameters(remove_duplicate=False)
        held = {name: p.requires_grad or not name.startswith(parts) for name, p in parameters}
        holds: dict[str, bool] = {}
        for name, is_held in held.items():
            for module in _around(name):
                holds[module] = holds.get(module, False) or is_held
        return [
            name
            for name in self.state_dict()
            if held.get(name, next((holds[m] for m in _around(name) if m in holds), True))
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the source of a frozen part that has one, in place of its weights.

        Of ``save_hyperparameters`` only plain values are stored: others are not read again.
        """
        super().on_save_checkpoint(checkpoint)
        keys = set(self.checkpoint_keys())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keys}
        checkpoint["model"], checkpoint["frozen"] = class_path(type(self)), sources(self)
        checkpoint["trained_with"] = self.trained_with
        for key in HYPERPARAMETERS:
            if key in checkpoint:
                checkpoint[key] = {k: v for k, v in checkpoint[key].items() if is_plain(v)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint, and add the frozen parts of this model to it.

        Raises:
            ValueError: If the checkpoint belongs to another method, another network size, or other
                frozen weights.
        """
        super().on_load_checkpoint(checkpoint)
        model = checkpoint.get("model")
        if model != class_path(type(self)):
            raise ValueError(
                f"the checkpoint was trained with {model or 'an unnamed model'}, but "
                f"the model here is {class_path(type(self))}: set model.class_path to that"
            )
        check_sources(self, checkpoint.get("frozen", {}))
        self.warn_if_unlike("the checkpoint", checkpoint.get("trained_with", {}))
        state, keys = checkpoint["state_dict"], set(self.checkpoint_keys())
        checkpoint["state_dict"] = self._fitted("the checkpoint", state, keys)
        self.mark_as_changed()


def file_of(name: str, value: str) -> Path:
    """Return the file of an argument in Python, where no names are looked up.

    Args:
        name: The argument.
        value: Its value; environment variables are expanded.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(expand_path(value, f"model.init_args.{name}"))
    if not path.is_file():
        raise FileNotFoundError(
            f"model.init_args.{name} is {value!r}, and there is no such file; runs and names of "
            "configs/weights.yaml are for enlarger.load and main.py"
        )
    return path


def _around(name: str) -> list[str]:
    """Return the names of the modules around a tensor, from the inside to the root ("")."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]
