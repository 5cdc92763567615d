"""InvSR: super-resolution by diffusion inversion.

Yue et al., CVPR 2025 (arXiv 2412.09013). A frozen diffusion model denoises the noised latent of the
enlarged LR image. Only the network that predicts this noise is trained.

z     latent of the HR image              y      latent of the LR image, brought to its size
z_t   y with noise of standard deviation sigma_t, not scaled (variance exploding)
f     noise predictor                     x0     predicted clean latent

Differs from the paper in: no noise is added between the steps (`solver`), as released; algorithm 1
adds it. The discriminator's accumulated gradient is divided by the number of batches, unlike in
the release.

Timesteps in arguments and results count from 1, as in the paper. Networks and noise levels use
indices, which are one less: timestep 250 is index 249, in training and in sampling.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from degradations.device import copy_to
from files.batch import Batch
from files.method import changed
from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from files.weights import unlike
from lightning_modules.adversarial import Adversarial, hinge_discriminator, hinge_generator
from lightning_modules.backbone.condition import Condition, FixedPrompt, guided
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.schedule import Schedule, explicit
from lightning_modules.backbone.space import Space
from lightning_modules.frozen import same_weights
from lightning_modules.latents import InLatents, check_base, enlarged, latent_pair, whole_lr
from lightning_modules.networks.noise_predictor import Gaussian, NoisePredictor, lr_side
from lightning_modules.noise import Noise
from lightning_modules.optimisation import adamw
from lightning_modules.sampling.solvers import ddim
from lightning_modules.sampling.tiling import padded

CLAMP = 10.0  # largest absolute value of the discriminator's inputs, as released
Conditions = tuple[Condition, Condition]  # with the text, and without
STARTS = (250, 200, 150, 100)  # section 3.2: enough of the signal is left
LADDER = (*STARTS, 50)

# As released. The paper's ablations also use others.
RELEASED = {1: [200], 2: [200, 100], 3: [200, 100, 50], 4: [200, 150, 100, 50], 5: [*LADDER]}


@dataclass(frozen=True)
class Sampling:
    """How InvSR samples.

    Args:
        guidance: Strength of classifier-free guidance; 1 for none, as in the paper. Training has
            none, as released.
        steps: Steps of sampling.
        start: Timestep to start at, one of ``training.starts``. By default that of the release for
            so many steps, or the first of ``training.starts`` if that is not trained. The steps are
            spread from the start down.
        timesteps: All timesteps, from the first one down, instead of ``steps`` and ``start``, which
            are ignored then; counted from 1, as everywhere in these arguments.
        solver: ``euler`` goes from step to step without new noise, as released; ``ancestral`` adds
            noise (algorithm 1).
        deterministic: Take the means of the predictor's and the autoencoder's distributions instead
            of drawing from them, when sampling; unpredicted noise is still drawn. In training only
            the autoencoder's.
        color_misaligned: Take the colours from the mirrored LR image, squeezed to the output, as
            released: they lie beside their places wherever a side is below ``patch`` or no multiple
            of 16. Only for the published numbers.
    """

    guidance: float = 1.0
    steps: PositiveInt = 1
    start: PositiveInt | None = None
    timesteps: Sequence[PositiveInt] | None = None
    solver: Literal["euler", "ancestral"] = "euler"
    deterministic: bool = False
    color_misaligned: bool = False


def adam_l2(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 5e-5 and an L2 penalty, as released for the discriminator."""
    return torch.optim.Adam(parameters, lr=5e-5, weight_decay=1e-3, fused=True)


@dataclass(frozen=True)
class Training:
    """What InvSR's predictor is trained for, and against what.

    Args:
        starts: Timesteps that are trained for, the first one first. The default is the paper's, for
            scale 4 in Stable Diffusion's latents.
        perceptual: Distance of two batches of latents, (B,), such as
            ``lightning_modules.LatentLPIPS``; frozen.
        perceptual_weights: Its weights: a file, a run that trained it, or a name of
            ``configs/weights.yaml``.
        perceptual_weight: Weight of the perceptual loss.
        adversarial_weight: Weight of the adversarial loss.
        adversarial_start: Steps without the adversarial loss, in which the discriminator is already
            trained.
        discriminator: Judges latents, given timestep and text.
        discriminator_weights: Weights from which it starts, as released.
        discriminator_optimizer: Makes its optimiser.
        accumulate: Batches per step, whose gradients are accumulated.
        clip: Largest norm of the gradient of a step, for each optimiser; unlimited by default.
    """

    starts: Sequence[PositiveInt] = STARTS
    perceptual: nn.Module | None = None
    perceptual_weights: str | None = None
    perceptual_weight: NonNegativeFloat = 2.0
    adversarial_weight: NonNegativeFloat = 0.1
    adversarial_start: NonNegativeInt = 10_000
    discriminator: nn.Module | None = None
    discriminator_weights: str | None = None
    discriminator_optimizer: OptimizerCallable = adam_l2
    accumulate: PositiveInt = 1
    clip: PositiveFloat | None = None


def timesteps_for(steps: int, start: int | None = None) -> list[int]:
    """Return timesteps, noisiest first.

    Without a start those of the release; evenly spaced from 250 for more than five steps. With a
    start those of the paper's table 4 if possible; evenly spaced below a start that the paper does
    not have, or if there are too few in between.

    Args:
        steps: Number of timesteps, at least 1.
        start: The first timestep.
    """
    released = RELEASED.get(steps)
    if released is not None and start in (None, released[0]):
        return released
    if start is None:
        start = LADDER[0]
    below = [t for t in LADDER if t < start]
    later = steps - 1
    # The n-th later step is number ceil(n len(below) / later): spread evenly, down to the lowest.
    if start in LADDER and later <= len(below):
        return [start, *(below[-(-n * len(below) // later) - 1] for n in range(1, steps))]
    # NumPy's rounding is part of the released lists, e.g. of 30 steps.
    even = np.linspace(start, 0, steps, endpoint=False, dtype=np.int64)
    return [int(t) for t in even]


class InvSR(InLatents, Adversarial):
    """Diffusion inversion with a predicted start.

    ``weights`` may be as released.
    ``color_fix`` is ``wavelet`` for the paper's ImageNet-Test and RealSR, ``none`` for RealSet80.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``: the space's
            factor, or a half, a quarter, ... of it, by the predictor's halvings; 4 for the released
            weights, 1 to restore images at their own size.
        predictor: Predicts the noise to start with; ``null`` for unpredicted noise, the comparison
            of the paper's figure 2, for which nothing is trained.
        denoiser: The frozen diffusion model.
        space: Its latents.
        denoiser_weights: Weights of a denoiser that was trained here: a run of ``Diffusion``, or a
            file. Not for a denoiser that is set by its folder.
        schedule: The denoiser's process, with exploding variance; Stable Diffusion's by default.
        prompt: Embedding of the fixed prompt; without it the denoiser's null text.
        sampling: Timesteps, solver and other settings of sampling.
        training: What the predictor is trained for, the losses, and the discriminator.
        patch: Side in LR pixels that it was trained for. Smaller images are mirrored up to it;
            larger ones go through tiles of that size, also in validation and test. By default that
            of 512 pixels of the output, 128 at scale 4.
        optimizer: Makes the predictor's optimiser.

    Raises:
        ValueError: If sampling would start at an untrained step, steps do not fall, the scale is
            not the predictor's, or parts do not fit together.

    Examples:
        >>> import enlarger
        >>> model = enlarger.load("invsr", scale=4, weights="invsr")  # doctest: +SKIP
        >>> sr = model.enlarge(image, seed=1)  # doctest: +SKIP
    """

    group = "training."
    trained_parts = ("predictor", "discriminator")
    training_only = ("discriminator.", "perceptual.")
    released_parts = ("predictor",)
    trained_settings: ClassVar = {**InLatents.trained_settings, "starts": "losses.starts"}
    part_files: ClassVar = {
        **InLatents.part_files,
        "denoiser_weights": "denoiser.load",
        "training.discriminator_weights": "load_discriminator",
    }
    pretrained_parts: ClassVar = {
        **InLatents.pretrained_parts,
        "training.perceptual_weights": "perceptual",
    }
    half_outputs = False
    latent_pairs = True

    def __init__(
        self,
        scale: float,
        predictor: NoisePredictor | None,
        denoiser: UNet2D,
        space: Space,
        denoiser_weights: str | None = None,
        schedule: Schedule | None = None,
        prompt: FixedPrompt | None = None,
        sampling: Sampling = Sampling(),
        training: Training = Training(),
        patch: PositiveInt | None = None,
        optimizer: OptimizerCallable = adamw,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            scale,
            discriminator=training.discriminator,
            discriminator_weights=training.discriminator_weights,
            discriminator_optimizer=training.discriminator_optimizer,
            accumulate=training.accumulate,
            clip=training.clip,
            optimizer=optimizer,
            **kwargs,
        )
        self.predictor = predictor
        self.denoiser = denoiser
        self.denoiser_weights = denoiser_weights
        self.space = space
        self.schedule = schedule or Schedule(variance="exploding")
        self.prompt = prompt
        self.sampling = sampling
        self.losses = training
        self.perceptual = training.perceptual
        # All images go through tiles of the size that the predictor was trained for.
        self.patch = lr_side(patch, scale)
        self.tile = self.tile_least = self.patch
        self.tile_overlap = self.patch // 2
        self.tile_window = "gaussian"
        self.tile_always = True
        self._check_parts()
        self.tile_multiple = self.multiple
        self.plan()  # raises if sampling is impossible

    # ------------------------------------------------------------------------------------- training

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Equation 11: MSE, perceptual and adversarial loss of the predicted clean latent.

        The batch has HR and LR images, or latents of ``main.py encode --encode.pairs true``.
        """
        noise = None if self.sampling.deterministic else Noise(batch["seed"], self.device)
        z, y = latent_pair(self.space, batch, noise)
        # Arguments count timesteps from 1, the schedule from 0.
        starts = copy_to(torch.tensor([t - 1 for t in self.losses.starts]), z.device)
        t = starts[torch.randint(len(starts), (len(z),), device=z.device)]
        conditions = self._conditions(batch)
        x0 = self.predicted(batch["lr"], y, t, conditions)
        loss = functional.mse_loss(x0, z)
        self.log("train/mse", loss)
        if self.perceptual is not None:
            distance = self.perceptual(x0, z).mean()
            self.log("train/perceptual", distance)
            loss = loss + self.losses.perceptual_weight * distance
        start = self.losses.adversarial_start
        if self.discriminator is not None and self.trainer.global_step >= start:
            adversarial = hinge_generator(self._discriminator_logits(x0, t, conditions))
            self.log("train/adversarial", adversarial)
            loss = loss + self.losses.adversarial_weight * adversarial
        self.log("train/loss", loss)
        return loss, (z, x0.detach(), t, conditions)

    def discriminator_loss(self, judged: Any) -> Tensor:
        """Return the hinge loss of latents of HR and predicted ones, at the same timesteps."""
        z, x0, t, conditions = judged
        real = cast(nn.Module, self.discriminator)(z, t, conditions[0].text)
        loss = hinge_discriminator(real, self._discriminator_logits(x0, t, conditions))
        self.log("train/discriminator", loss)
        return loss

    def predicted(self, lr: Tensor, y: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Equation 9: x0 of a latent with the noise predicted from LR.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            y: (B, C, h', w'), the latent to add the noise to.
            t: (B,) indices of timesteps, from 0.
            conditions: With and without the text.
        """
        noise = cast(NoisePredictor, self.predictor)(lr, t)
        # Not `randn_like`, whose values depend on the memory layout of its argument.
        eps = torch.randn(noise.mean.shape, device=y.device)
        z_t = self.schedule.add_noise(y, noise.sample(eps), t)
        return self._predict_x0(z_t, t, conditions)

    def _discriminator_logits(self, x0: Tensor, t: Tensor, conditions: Conditions) -> list[Tensor]:
        """Return the discriminator's maps of logits for predicted latents."""
        discriminator = cast(nn.Module, self.discriminator)
        return discriminator(x0.clamp(-CLAMP, CLAMP), t, conditions[0].text)

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Algorithm 1, with one denoiser call per step and one call of the predictor."""
        mirrored = padded(batch["lr"], self.multiple, self.patch)
        lr = mirrored.lr
        indices = [t - 1 for t in self.plan()]
        encoder_noise = None if self.sampling.deterministic else noise.stream("encoder")
        y = self.space.encode(enlarged(lr, self.own_size(lr)), encoder_noise)
        sigma = self.schedule.level(indices[0]).sigma
        z = y + sigma * self._initial_noise(lr, y, indices[0], noise.stream("start"))
        conditions = self._conditions(batch)
        for t, t_next in itertools.pairwise([*indices, -1]):  # after the last one, no noise is left
            x0 = self._predict_x0(z, t, conditions, self.sampling.guidance)
            level = self.schedule.level(t)
            level_next = self.schedule.level(t_next)
            if self.sampling.solver == "ancestral" and t_next >= 0:
                fresh = noise.stream(t_next).normal(y.shape)
                z = ddim(z, x0, level, level_next, eta=1.0, noise=fresh)
            else:
                z = ddim(z, x0, level, level_next)
        return mirrored.crop(self.space.decode(z), self.own_size(batch["lr"]))

    def _initial_noise(self, lr: Tensor, y: Tensor, t: int, noise: Noise) -> Tensor:
        """Return the noise that sampling starts with: predicted, or without a predictor normal."""
        if self.predictor is None:
            return noise.normal(y.shape)
        gaussian: Gaussian = self.predictor(lr, float(t))
        if self.sampling.deterministic:
            return gaussian.mean
        return gaussian.sample(noise.normal(y.shape))

    def _predict_x0(
        self, z_t: Tensor, t: Tensor | int, conditions: Conditions, guidance: float = 1.0
    ) -> Tensor:
        """Return the clean latents that the frozen denoiser predicts from ``z_t``."""
        steps = torch.full((len(z_t),), t, device=z_t.device) if isinstance(t, int) else t
        raw = guided(self.denoiser, self.schedule.scale_input(z_t, t), steps, *conditions, guidance)
        return self.schedule.to_x0(raw, z_t, t)

    @torch.no_grad()
    def _conditions(self, batch: Batch) -> Conditions:
        """Return the fixed prompt's conditions, with the text and without."""
        count = len(batch["lr"])
        if self.prompt is None:
            return Condition(), Condition()
        text = self.prompt.condition(count)
        if self.sampling.guidance == 1:
            return text, text
        return text, self.prompt.unconditional(count)

    def color_reference(self, batch: Batch) -> Tensor:
        """Return the LR image that the colours are from: with ``color_misaligned`` mirrored."""
        lr = batch["lr"]
        return padded(lr, self.multiple, self.patch).lr if self.sampling.color_misaligned else lr

    # -------------------------------------------------------------------------------- the plan

    def plan(self) -> list[int]:
        """Return the timesteps of sampling, counted from 1, noisiest first.

        Raises:
            ValueError: If the timesteps do not fall, or the first is not trained as a start.
        """
        starts = self.losses.starts
        sampling = self.sampling
        if sampling.timesteps is not None:
            timesteps = list(sampling.timesteps)
        else:
            timesteps = timesteps_for(sampling.steps, sampling.start)
            if sampling.start is None and timesteps[0] not in starts:
                timesteps = timesteps_for(sampling.steps, starts[0])
        if timesteps[0] not in starts:
            raise ValueError(
                f"sampling would start at timestep {timesteps[0]}, for which the predictor was not "
                f"trained: set sampling.start to one of {', '.join(map(str, starts))}"
            )
        return explicit(self.schedule.steps, timesteps, first=1)

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs: timesteps, solver, side of tiles and others."""
        sampling = replace(self.sampling, steps=1, start=None)  # the timesteps tell both
        options = changed(sampling) | {"timesteps": " ".join(map(str, self.plan()))}
        if self.patch != lr_side(None, self.scale):
            options["patch"] = self.patch
        if self.predictor is None:
            options["predictor"] = "none"
        return {**super().output_settings, **options}

    @property
    def multiple(self) -> int:
        """LR sides must be multiples of this, so that the U-Net can halve its latents evenly."""
        halvings = len(self.denoiser.unet.config.block_out_channels) - 1
        unit = whole_lr(self.space.factor * 2**halvings, self.scale)
        return unit if self.predictor is None else math.lcm(unit, self.predictor.divisor)

    # ------------------------------------------------------------------------- checks and weights

    def load_training_parts(self) -> None:
        """Load the perceptual distance.

        Raises:
            FileNotFoundError: If its file is missing.
            ValueError: If it was trained in other latents.
        """
        super().load_training_parts()
        weights = self.losses.perceptual_weights
        perceptual: Any = self.perceptual
        if perceptual is None:
            return
        if weights is not None and self._find_weights is not None:
            perceptual.load(self._find_weights("training.perceptual_weights", weights))
        trained_in = getattr(perceptual, "space", "")
        differences = unlike(self.space.settings, getattr(perceptual, "latents", {}))
        if trained_in and not same_weights(trained_in, self.space.source):
            differences.append(f"{self.space.source}, there {trained_in}")
        if differences:
            raise ValueError(
                "model.init_args.training.perceptual_weights were trained in other latents than "
                f"those of model.init_args.space ({'; '.join(differences)}): train them in these"
            )

    def setup(self, stage: str) -> None:
        """Raise if a frozen part has no trained weights, or another than the base was trained with.

        Raises:
            FileNotFoundError: If the file of the perceptual distance is missing.
            ValueError: If the denoiser, the autoencoder, or another part has random weights; or the
                base was trained with others, with another schedule, or not at a timestep.
        """
        super().setup(stage)
        timesteps = [*self.plan(), *(self.losses.starts if stage == "fit" else ())]
        check_base(self.denoiser, self.space, self.schedule, [t - 1 for t in timesteps])

    def _check_parts(self) -> None:
        """Raise if schedule, prompt or predictor do not fit the method."""
        schedule = self.schedule
        if schedule.variance != "exploding" or schedule.prediction == "sample":
            raise ValueError(
                "model.init_args.schedule must have variance exploding, and predict epsilon or "
                f"v_prediction; it has {schedule.variance} and {schedule.prediction}"
            )
        if self.sampling.guidance != 1 and self.prompt is None:
            raise ValueError(
                f"model.init_args.sampling.guidance is {self.sampling.guidance:g}, and a prompt, "
                "whose negative it leads away from, is missing: set model.init_args.prompt"
            )
        if self.predictor is not None:
            self.predictor.fit_to(self.scale, self.space.factor)
