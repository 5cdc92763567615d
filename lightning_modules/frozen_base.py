"""Checks of frozen parts: the trained diffusion model and the autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from lightning_modules.backbone.denoiser import UNet2D
    from lightning_modules.backbone.space import Space


def check_base(denoiser: UNet2D, space: Space, frozen: bool = True) -> None:
    """Raise if the base is not frozen, or does not fit the space.

    Args:
        denoiser: The base.
        space: Its latents.
        frozen: Whether the base must be frozen.

    Raises:
        ValueError: If so; the message names the key to change.
    """
    if frozen and not denoiser.flags.frozen:
        raise ValueError(
            "the base is never trained here: set frozen in "
            "model.init_args.denoiser.init_args.flags to true"
        )
    if denoiser.channels != space.channels:
        raise ValueError(
            f"the denoiser is for {denoiser.channels} channels and the space has {space.channels}: "
            "set model.init_args.denoiser or model.init_args.space"
        )


def check_trained(denoiser: UNet2D | None, space: Space) -> None:
    """Raise if a frozen part has no trained weights.

    Args:
        denoiser: The base; None to check only the space.
        space: Its latents.

    Raises:
        ValueError: If the denoiser or the autoencoder has random weights.
    """
    if denoiser is not None and not (denoiser.source or denoiser.begun):
        raise ValueError(
            "a trained base is required: set its folder or hub name in model.init_args.denoiser, "
            "or model.init_args.denoiser_weights to the run that trained it"
        )
    check_space(space)


def check_space(space: Space, other_key: str | None = None) -> None:
    """Raise if the autoencoder of a space has random weights.

    Args:
        space: The space.
        other_key: Another key of ``model.init_args`` that may set its weights.

    Raises:
        ValueError: If the autoencoder has weights without a source.
    """
    if not space.source and any(True for _ in space.parameters()):
        other = "" if other_key is None else f", or set model.init_args.{other_key}"
        raise ValueError(
            f"the autoencoder of model.init_args.space, {type(space).__name__}, has random "
            f"weights: set its files{other}"
        )


def check_choice(name: str, value: str, kind: Any) -> None:
    """Raise if the value of an argument is not one of its choices.

    Args:
        name: Name of the argument.
        value: The value to check.
        kind: The type, a ``Literal``.

    Raises:
        ValueError: If the value is unknown; the message lists the choices.
    """
    if value not in get_args(kind):
        expected = " or ".join(get_args(kind))
        raise ValueError(f"model.init_args.{name} is {value!r}; expected {expected}")
