"""What callbacks and commands may ask of a method, and a method of callbacks.

Any other LightningModule has the defaults of ``Method``.

``lightning_modules.base.ImageModel`` is a ``Method``. An attribute that is not declared here, or on
a base class of ``lightning_modules``, is the method's own and means nothing to the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, final

Option = str | int | float  # a setting as results show it


class Method:
    """The contract, with its defaults.

    Attributes:
        training_only: Prefixes of parts that only training needs, such as a discriminator. EMA and
            exports leave them out, and checkpoints with them also load into a model without them.
        weights_source: The weights that were loaded, and whether they were trained on since; None
            while all are as initialised.
        in_pieces: Whether ``predict_step`` gets ``lr`` as levels in uint8, and returns ``pieces``
            instead of ``sr``: an iterator over the parts of the output. A callback that takes them
            sets it; None if the method cannot.
    """

    training_only: tuple[str, ...] = ()
    weights_source: str | None = None
    in_pieces: bool | None = None
    _noise_seed = 0
    _drew_noise = False
    _tile_count: int | None = None
    _tile_size: tuple[int, int] | None = None
    _uses_bf16 = False

    @property
    @final
    def noise_seed(self) -> int:
        """The run's seed, which selects the output of a stochastic method."""
        return self._noise_seed

    @final
    def set_noise_seed(self, seed: int) -> None:
        """Set ``noise_seed``; a command does so before it runs the method."""
        self._noise_seed = seed

    @property
    @final
    def drew_noise(self) -> bool:
        """Whether any output has depended on ``noise_seed`` so far."""
        return self._drew_noise

    @property
    @final
    def tile_count(self) -> int | None:
        """Tiles of the latest image; None if the method has no tiles."""
        return self._tile_count

    @property
    @final
    def tile_size(self) -> tuple[int, int] | None:
        """(h, w) of the latest image's tiles in LR pixels; None for a whole image."""
        return self._tile_size

    @property
    @final
    def uses_bf16(self) -> bool:
        """Whether the method chose to compute the latest image in bfloat16."""
        return self._uses_bf16

    @property
    def output_settings(self) -> dict[str, Option]:
        """Settings that change outputs of the same weights; they label results."""
        return {}

    @property
    def uses_last_weights(self) -> bool:
        """Whether the last weights are the result, and not those of the best PSNR.

        PSNR prefers a generative model that has learned little.
        """
        return False

    @property
    def batches_per_step(self) -> int | None:
        """Batches per step, if the method optimises manually; None for the trainer's number."""
        return None


class Averages(ABC):
    """A callback that averages weights, as a method may ask of it."""

    @abstractmethod
    def swap_in(self, module: Any) -> None:
        """Replace the weights of ``module`` by the averages, until ``swap_out``."""

    @abstractmethod
    def swap_out(self) -> None:
        """Restore the weights."""


_FOREIGN = Method()


def method_of(module: object) -> Method:
    """Return a LightningModule's side of the contract: itself, or the defaults.

    Args:
        module: A method, or any other LightningModule.
    """
    return module if isinstance(module, Method) else _FOREIGN


def changed(settings: Any) -> dict[str, Option]:
    """Return the plain settings of a dataclass that differ from their defaults.

    Args:
        settings: The dataclass.
    """
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    defaults = {field.name: field.default for field in fields(settings)}
    return {name: as_option(v) for name, v in values.items() if v != defaults[name]}


def as_option(value: Any) -> Option:
    """Return a setting as results show it: lists as words, true and false as in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, str | int | float) else type(value).__name__
