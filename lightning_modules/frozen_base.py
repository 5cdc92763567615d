"""What methods ask of the parts that they stand on: a trained diffusion model, an autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from lightning_modules.backbone.denoiser import UNet2D
    from lightning_modules.backbone.space import Space


def check_base(denoiser: UNet2D, space: Space, frozen: bool = True) -> None:
    """Refuse a base that would be trained, or whose parts do not fit one another.

    Args:
        denoiser: The base.
        space: Its latents.
        frozen: Whether it must not be trained.

    Raises:
        ValueError: With the key to change.
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
    """See that nothing is computed with random weights.

    Args:
        denoiser: The base; None where its weights are seen to elsewhere.
        space: Its latents.

    Raises:
        ValueError: The denoiser or the autoencoder has no source.
    """
    if denoiser is not None and not (denoiser.source or denoiser.begun):
        raise ValueError(
            "a trained base is needed: name its folder or hub name in model.init_args.denoiser, or "
            "set model.init_args.denoiser_weights to the run that trained it"
        )
    check_space(space)


def check_space(space: Space, other_key: str | None = None) -> None:
    """See that latents are not those of an autoencoder with random weights.

    Args:
        space: Of the latents.
        other_key: Of ``model.init_args``: where its weights may be named, too.

    Raises:
        ValueError: It has weights, and they have no source.
    """
    if not space.source and any(True for _ in space.parameters()):
        other = "" if other_key is None else f", or set model.init_args.{other_key}"
        raise ValueError(
            f"the autoencoder of model.init_args.space, {type(space).__name__}, has random "
            f"weights: name its files{other}"
        )


def check_choice(name: str, value: str, kind: Any) -> None:
    """Refuse what an argument cannot be.

    Args:
        name: Of the argument.
        value: It.
        kind: A ``Literal``.

    Raises:
        ValueError: With the choices.
    """
    if value not in get_args(kind):
        expected = " or ".join(get_args(kind))
        raise ValueError(f"model.init_args.{name} is {value!r}; expected {expected}")
