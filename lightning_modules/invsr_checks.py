"""InvSR's checks of arguments and of parts with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from lightning_modules.frozen_base import check_space
from lightning_modules.invsr_plan import Solver
from lightning_modules.networks.noise_predictor import NoisePredictor

if TYPE_CHECKING:
    from lightning_modules.invsr import InvSR


def check_arguments(method: InvSR) -> None:
    """Raise if arguments contradict each other.

    Raises:
        ValueError: If so; the message names the keys to set.
    """
    sampling = method.sampling
    if sampling.timesteps is not None and (sampling.start is not None or sampling.steps != 1):
        raise ValueError(
            "model.init_args.sampling.timesteps already fixes steps and start: set either "
            "timesteps, or steps and start"
        )
    predicted = sampling.solver == "predicted"
    if sampling.solver not in get_args(Solver) or predicted != bool(method.middle):
        raise ValueError(
            f"model.init_args.sampling.solver is {sampling.solver!r} and middle "
            f"{'set' if method.middle else 'missing'}; expected euler, ancestral, or "
            "predicted with a middle"
        )
    if method.schedule.variance != "exploding" or method.schedule.prediction == "sample":
        raise ValueError(
            "model.init_args.schedule must have variance exploding, and predict epsilon or "
            f"v_prediction; it has {method.schedule.variance} and {method.schedule.prediction}"
        )
    if method.guidance != 1 and method.prompt is None:
        raise ValueError(
            f"model.init_args.sampling.guidance is {method.guidance:g}, and a prompt, whose "
            "negative it leads away from, is missing: set model.init_args.prompt, or guidance to 1"
        )
    if not method.starts or not all(1 <= t <= method.schedule.steps for t in method.starts):
        raise ValueError(
            f"model.init_args.training.starts is {list(method.starts)}; expected timesteps from 1 "
            f"to {method.schedule.steps}"
        )
    if not method.starting and len(method.starts) < 2:
        raise ValueError(
            "model.init_args.training.starting is false, and starts has only the first one"
        )
    if sampling.steps < 1 or method.patch < 1:
        raise ValueError(
            f"model.init_args.sampling.steps is {sampling.steps} and patch {method.patch}; "
            "expected 1 or more"
        )
    for predictor in (method.predictor, method.middle):
        if predictor is not None:
            _check_predictor(method, predictor)
    judged = getattr(getattr(method.discriminator, "conv_in", None), "in_channels", None)
    if judged not in (None, method.space.channels):
        raise ValueError(
            f"the discriminator is for latents of {judged} channels and the space has "
            f"{method.space.channels}: set the discriminator's latent"
        )
    if method.denoiser.channels != method.space.channels:
        raise ValueError(
            f"the denoiser is for {method.denoiser.channels} channels and the space has "
            f"{method.space.channels}: set model.init_args.denoiser or model.init_args.space"
        )


def check_weights(method: InvSR, trains: bool) -> None:
    """Raise if a part has no trained weights.

    Args:
        method: The method, with loaded parts.
        trains: Whether it will be trained.

    Raises:
        ValueError: If the denoiser, the autoencoder, or another part has random weights.
    """
    if not method.denoiser.source:
        raise ValueError(
            "InvSR needs a trained denoiser that is frozen: set its folder or hub name in "
            "model.init_args.denoiser, or set denoiser_weights to the run that trained it, and "
            "flags.frozen to true"
        )
    check_space(method.space)
    if method.middle is not None and method.middle_weights is None:
        raise ValueError("model.init_args.middle has random weights: set middle_weights")
    if trains and method.predictor is None:
        raise ValueError("there is nothing to train: set model.init_args.predictor")


def _check_predictor(method: InvSR, predictor: NoisePredictor) -> None:
    made_for = method.space.factor / predictor.divisor
    if method.scale != made_for:
        raise ValueError(
            f"InvSR got scale {method.scale:g}, and its predictor halves the LR image's sides "
            f"to 1/{predictor.divisor} where latents have 1/{method.space.factor} of the "
            f"output's: that is only scale {made_for:g}. Set data.init_args.scale to it; "
            "another scale needs a predictor with other halvings, trained for it"
        )
    if predictor.latent != method.space.channels:
        raise ValueError(
            f"the predictor is for latents of {predictor.latent} channels and the space has "
            f"{method.space.channels}: set the predictor's latent"
        )
