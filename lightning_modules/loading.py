"""Loading and storing the weights of a method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from torch import Tensor

from files.method import Method
from files.own_modules import class_path
from files.paths import expand_path
from files.weights import (
    Weights,
    fitted,
    is_plain,
    load_part,
    read_weights,
    unlike,
)
from lightning_modules.frozen import (
    check_sources,
    frozen_parts,
    hash_of,
    is_random,
    same_weights,
    sources,
)

log = logging.getLogger(__name__)
TRAINED_ON = ", trained on"
HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")  # Lightning's keys


class Loaded(Method, LightningModule):
    """Weights of a method: from runs, exported and official files; to checkpoints.

    A method declares in tables, which are class attributes, what of it has weights of its own.

    Attributes:
        part_files: Arguments that name a file, and the methods that load it, such as
            ``{"space_weights": "space.load_official"}``. An attribute of the argument's last name
            has the file.
        pretrained_parts: Parts that must have trained weights wherever they are frozen, by the
            argument that sets them.
        released_parts: Parts that are in the authors' file. If a part has a function ``official``,
            it maps the tensors of that file to those of the part.
        trained_settings: Settings that weights are trained with and tensors do not show: the name
            in checkpoints, and the attribute.
        initial_weights: Weights to start from: a file or a name.
        weights_strict: Whether training starts from them only if all tensors fit.
        partly_loaded: What a load that was not strict took, and the tensors that it left out.
        loaded_with: What is known of their ``trained_with``.
    """

    part_files: ClassVar[Mapping[str, str]] = {}
    pretrained_parts: ClassVar[Mapping[str, str]] = {}
    released_parts: ClassVar[tuple[str, ...]] = ()
    trained_settings: ClassVar[Mapping[str, str]] = {}
    scale: float
    initial_weights: str | None = None
    weights_strict = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loaded_with: dict[str, Any] = {}
        self.partly_loaded: dict[str, Any] = {}
        self._find_weights: Callable[[str, str], Path] | None = None  # (argument, name) -> file
        # Prefixes of parts that were loaded from files of their own; the model's file skips them.
        self._parts_with_own_files: tuple[str, ...] = ()
        # Sources of the frozen parts that the loaded weights were trained with.
        self._required_sources: dict[str, str] = {}

    @property
    def needs_weights(self) -> bool:
        """Whether all weights are as initialised, so that outputs would be meaningless."""
        return self.weights_source is None and any(True for _ in self.parameters())

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load frozen parts that have their own files, before the weights of the whole model.

        They are those of ``part_files``. Commands and ``enlarger.load`` call it; for a method that
        was made in Python, ``setup`` and ``load_weights`` do. Subclasses must call super() first.

        Args:
            find: Returns the file for an argument's name and value. The value is a path, the
                folder of a run, or a name of ``configs/weights.yaml``. It is kept for ``setup``,
                which loads what only training needs.
        """
        self._find_weights = find
        for argument, loader in self.part_files.items():
            file = getattr(self, argument.rpartition(".")[2])  # of "training.x", the attribute x
            if file is not None:
                attrgetter(loader)(self)(find(argument, file))

    def load_part_from(self, path: Path, name: str, beside: Sequence[str] = ()) -> Weights:
        """Load a part from a run that trained it, or from a released file.

        Args:
            path: The file.
            name: The part.
            beside: Frozen parts that must be those of the run.

        Raises:
            ValueError: If the file does not fit, or the run had another of these parts.
        """
        weights = read_weights(path)
        for other in beside:
            theirs = weights.frozen.get(other, "")
            ours = getattr(getattr(self, other), "source", "")
            is_checked = theirs and ours and not f"{other}.".startswith(self.unchecked)
            if is_checked and not same_weights(theirs, ours):
                raise ValueError(
                    f"{weights.name} was trained with the {other} of {theirs}, and this model has "
                    f"{ours}: set the same"
                )
        load_part(getattr(self, name), weights, name)
        return weights

    def load_training_parts(self) -> None:
        """Load what only training needs; ``setup`` for ``fit`` calls it."""

    def setup(self, stage: str) -> None:
        """Load files that arguments name: what only ``fit`` needs, and in Python all others.

        Raises:
            FileNotFoundError: If one is missing.
            ValueError: As in ``load_weights``, or if a frozen part has random weights.
        """
        super().setup(stage)
        if self._find_weights is None:  # no command has loaded anything
            self.load_parts(file_of)
            if self.initial_weights is not None:
                strict = self.weights_strict or stage != "fit"
                self.load_weights(file_of("weights", self.initial_weights), strict)
        if stage == "fit":
            self.load_training_parts()
        for argument, name in self.pretrained_parts.items():
            if stage != "fit" and f"{name}.".startswith(self.training_only):
                continue
            if is_random(getattr(self, name)):
                raise ValueError(
                    f"the {name} of {type(self).__name__} has random weights: set "
                    f"model.init_args.{argument}"
                )

    def load_weights(self, path: str | Path, strict: bool = True) -> None:
        """Load weights without optimiser state.

        Args:
            path: Our checkpoint (EMA weights are preferred), an exported file, or an official one.
            strict: Refuse a file unless all tensors fit. False: take those that fit, also of
                another method, and list the others.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If the weights belong to another method or to other frozen weights, or
                tensors are missing, unexpected, of another shape, or no finite floating-point
                numbers; without ``strict`` only if none fits.
        """
        if self._find_weights is None:
            self.load_parts(file_of)
        weights = read_weights(path)
        if strict and weights.model not in (None, class_path(type(self))):
            raise ValueError(
                f"{path} was trained with {weights.model}, but the model here is "
                f"{class_path(type(self))}: set model.class_path to that, or name another file"
            )
        self.warn_if_unlike(weights.name, weights.trained_with)
        self._required_sources = {
            part: source
            for part, source in weights.frozen.items()
            if not f"{part}.".startswith(self.unchecked)
        }
        check_sources(self, self._required_sources)
        tensors = weights.tensors
        if weights.model:  # trained here, not an official file
            # Parts that only training needs may be missing; they start untrained.
            required = {
                name for name in self.checkpoint_keys() if not name.startswith(self.training_only)
            }
            tensors = {
                name: tensor
                for name, tensor in tensors.items()
                if not name.startswith(self._parts_with_own_files)
            }
        else:
            required = set(self.state_dict())
            if required.isdisjoint(tensors):  # the names are the authors'
                tensors = self.import_official(tensors)
                if self.released_parts and not strict:  # without the model's other parts
                    starts = tuple(f"{part}." for part in self.released_parts)
                    tensors = {k: v for k, v in tensors.items() if k.startswith(starts)}
        if strict:
            state = self._fitted(str(path), tensors, required)
        else:
            state = self._partly_fitted(weights.name, tensors)
        self.load_state_dict(state)
        self.weights_source = weights.name
        self.loaded_with = weights.trained_with
        weights.log()

    def mark_as_changed(self) -> None:
        """Note that the weights are no longer those of the file that they were loaded from."""
        source = self.weights_source
        if source is not None and not source.endswith(TRAINED_ON):
            self.weights_source = source + TRAINED_ON

    def warn_if_unlike(self, name: str, trained_with: dict[str, Any]) -> None:
        """Warn if weights of this name were trained with other settings of the model."""
        differences = unlike(self.trained_with, trained_with)
        if differences:
            log.warning(
                "%s was trained with other settings of the model (%s): its outputs are wrong until "
                "it has been trained further",
                name,
                "; ".join(differences),
            )

    @property
    def trained_with(self) -> dict[str, Any]:
        """Settings that weights are trained with and tensors do not show, of plain types.

        They are stored in checkpoints and exported files, and compared where weights are loaded.
        Those of a network are its attribute ``trained_with``, those of the method
        ``trained_settings``.
        """
        settings: dict[str, Any] = {}
        for name, part in self.named_children():
            if getattr(part, "trained_with", {}):
                settings[name] = part.trained_with
        for name, attribute in self.trained_settings.items():
            value = attrgetter(attribute)(self)
            settings[name] = list(value) if isinstance(value, tuple) else value
        return settings

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Hashes of frozen parts that the weights do not determine, such as an autoencoder.

        With them, results of the same weights and another autoencoder get another label.
        """
        hashes: dict[str, str | int | float] = {}
        if self.needs_weights:  # it has none yet, and so no outputs to label
            return hashes
        for name, source in sources(self).items():
            nested = "." in name
            only_trains = f"{name}.".startswith(self.training_only)
            in_weights = name in self._required_sources or str(self.weights_source) in source
            if not (nested or only_trains or in_weights):
                hashes[name] = hash_of(source)
        return hashes

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of the authors' file to this model's names.

        Files with this model's names are not mapped. Name the parts that a file has in
        ``released_parts``; the other parts stay. Override this if that is not enough.

        Args:
            tensors: Tensors by the names in the file, without those that DDP and compiling add.

        Returns:
            All tensors of the model, by this model's names.
        """
        if not self.released_parts:
            return tensors
        mapped = {}
        for name, tensor in self.state_dict().items():
            if name.partition(".")[0] not in self.released_parts:
                mapped[name] = tensor
        for part in self.released_parts:
            # By default a copy: the file has the part's own names.
            official = getattr(getattr(self, part), "official", dict)
            mapped |= {f"{part}.{name}": tensor for name, tensor in official(tensors).items()}
        return mapped

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Prefixes of frozen parts that may differ from those the weights were trained with."""
        return self.training_only

    def _fitted(
        self, where: str, state: dict[str, Tensor], required: set[str]
    ) -> dict[str, Tensor]:
        """Return all tensors of the model: those of a file, checked, and the current others."""
        current = self.state_dict()
        # What only training needs, such as a discriminator, may be in the file and not here.
        absent = tuple(
            prefix
            for prefix in self.training_only
            if not any(name.startswith(prefix) for name in current)
        )
        state = {name: tensor for name, tensor in state.items() if not name.startswith(absent)}
        return fitted(self, state, where, required).state

    def _partly_fitted(self, where: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """As ``_fitted``, but tensors that do not fit are left out and listed."""
        keys = self.checkpoint_keys()
        expected = {name for name in keys if not name.startswith(self.training_only)}
        fit = fitted(self, tensors, where, expected, strict=False)
        unfit = {
            "as initialised, as the file has another shape": fit.differences.reshaped,
            "as initialised, as the file lacks them": fit.differences.missing,
            "of the file and not used": fit.differences.unexpected,
        }
        taken = len(fit.taken & expected)  # without what only training needs
        self.partly_loaded = {"file": where, "taken": taken, "of": len(expected), **unfit}
        lines = [f"weights_strict is false: {taken} of {len(expected)} tensors are of {where}"]
        for kind, names in unfit.items():
            if names:
                lines.append(f"{len(names)} {kind}: {', '.join(names)}")
        log.warning("%s", "\n  ".join(lines))
        return fit.state

    def checkpoint_keys(self) -> list[str]:
        """Return the names that a checkpoint holds: all but frozen parts that have a ``source``.

        A buffer belongs to the nearest enclosing module with parameters. So running statistics
        without weights of their own train with their network, and those in such a part do not.
        """
        frozen = tuple(f"{name}." for name in frozen_parts(self) if name)
        is_stored: dict[str, bool] = {}  # by parameter
        module_stores: dict[str, bool] = {}  # by module with parameters: whether any is stored
        for name, parameter in self.named_parameters(remove_duplicate=False):
            is_stored[name] = parameter.requires_grad or not name.startswith(frozen)
            for module in _enclosing_modules(name):
                module_stores[module] = module_stores.get(module, False) or is_stored[name]
        keys = []
        for name in self.state_dict():
            around = _enclosing_modules(name)
            nearest = next((module for module in around if module in module_stores), None)
            of_module = True if nearest is None else module_stores[nearest]
            if is_stored.get(name, of_module):  # a buffer is as its module
                keys.append(name)
        return keys

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the source of a frozen part that has one, in place of its weights.

        Of ``save_hyperparameters`` only plain values are stored: others are not read again.
        """
        super().on_save_checkpoint(checkpoint)
        keys = set(self.checkpoint_keys())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keys}
        checkpoint["model"] = class_path(type(self))
        checkpoint["frozen"] = sources(self)
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
        keys = set(self.checkpoint_keys())
        checkpoint["state_dict"] = self._fitted("the checkpoint", checkpoint["state_dict"], keys)
        self.mark_as_changed()


def file_of(name: str, value: str) -> Path:
    """Return the file that an argument of a method made in Python names.

    Its value is a path. Only commands look up names of ``configs/weights.yaml``.

    Args:
        name: The argument.
        value: The path; environment variables are expanded.
    """
    return Path(expand_path(value, f"model.init_args.{name}"))


def _enclosing_modules(name: str) -> list[str]:
    """Return the names of the modules that hold a tensor, from the innermost to the root ("")."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]
