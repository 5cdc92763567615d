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
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from degradations.device import copy_to
from lightning_modules.adversarial import Adversarial, hinge_discriminator, hinge_generator
from lightning_modules.backbone.condition import Condition, FixedPrompt, guided
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.schedule import Schedule, explicit
from lightning_modules.backbone.space import Space
from lightning_modules.latents import (
    InLatents,
    check_run,
    compare_schedule,
    enlarged,
    latent_pair,
    whole_lr,
)
from lightning_modules.networks.noise_predictor import (
    Gaussian,
    NoisePredictor,
    from_official,
    lr_side,
)
from lightning_modules.noise import Noise
from lightning_modules.optimisation import adamw
from lightning_modules.sampling.solvers import euler, euler_ancestral
from lightning_modules.sampling.tiling import padded
from lightning_modules.weights import Weights, fingerprint, load_part, read_weights, same_weights

if TYPE_CHECKING:
    from files.batch import Batch

STARTS = (250, 200, 150, 100)  # section 3.2: enough of the signal is left
LADDER = (*STARTS, 50)

# As released. The paper's ablations also use others.
RELEASED = {1: [200], 2: [200, 100], 3: [200, 100, 50], 4: [200, 150, 100, 50], 5: [*LADDER]}
Solver = Literal["euler", "ancestral", "predicted"]
CLAMP = 10.0  # of the discriminator's inputs
Conditions = tuple[Condition, Condition]  # with the text, and without
Part = TypeVar("Part", bound=nn.Module)
log = logging.getLogger(__name__)


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
        timesteps: All timesteps, from the first one down, instead of ``steps`` and ``start``;
            counted from 1, as everywhere in these arguments.
        solver: ``euler`` goes from step to step without new noise, as released; ``ancestral`` adds
            unpredicted noise (algorithm 1); ``predicted`` adds noise that ``middle`` predicts.
        deterministic: Take the means of the predictors' and the autoencoder's distributions instead
            of drawing from them, when sampling; unpredicted noise is still drawn. In training only
            the autoencoder's.
        middle: The predictor of noise between the steps, trained with ``training.starting`` false.
        middle_weights: Its weights: a run that trained it, or a file.
        color_misaligned: Take the colours from the mirrored LR image, squeezed to the output, as
            released: they lie beside their places wherever a side is below ``patch`` or no multiple
            of 16. Only for the published numbers.
    """

    guidance: float = 1.0
    steps: int = 1
    start: int | None = None
    timesteps: Sequence[int] | None = None
    solver: Solver = "euler"
    deterministic: bool = False
    middle: NoisePredictor | None = None
    middle_weights: str | None = None
    color_misaligned: bool = False


@dataclass(frozen=True)
class Training:
    """What InvSR's predictor is trained for.

    Args:
        starts: Timesteps that are trained for, the first one first. The default is the paper's, for
            scale 4 in Stable Diffusion's latents.
        starting: Train the predictor for the start. False: for noise between the steps, which is
            put on the latent of HR, at all of ``starts`` but the first.
        perceptual: Distance of two batches of latents, (B,), such as
            ``lightning_modules.LatentLPIPS``; frozen.
        perceptual_weights: Its weights: a file, a run that trained it, or a name of
            ``configs/weights.yaml``.
        perceptual_weight: Weight of the perceptual loss.
        adversarial_weight: Weight of the adversarial loss.
        adversarial_start: Steps without the adversarial loss, in which the discriminator is already
            trained.
    """

    starts: Sequence[int] = STARTS
    starting: bool = True
    perceptual: nn.Module | None = None
    perceptual_weights: str | None = None
    perceptual_weight: float = 2.0
    adversarial_weight: float = 0.1
    adversarial_start: int = 10_000


def adam_l2(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 5e-5 and an L2 penalty, as released for the discriminator."""
    return torch.optim.Adam(parameters, lr=5e-5, weight_decay=1e-3, fused=True)


class InvSR(InLatents, Adversarial):
    """Diffusion inversion with a predicted start.

    The discriminator judges latents, given timestep and text. ``weights`` may be as released.
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
        training: What the predictor is trained for, and the losses.
        patch: Side in LR pixels that it was trained for. Smaller images are mirrored up to it;
            larger ones go through tiles of that size, also in validation and test. By default that
            of 512 pixels of the output, 128 at scale 4.
        discriminator_weights: Weights from which the discriminator starts, as released.
        discriminator_optimizer: Makes the discriminator's optimiser.
        optimizer: Makes the predictor's optimiser.

    Raises:
        ValueError: If sampling would start at an untrained step, steps do not fall, the scale is
            not the predictor's, or parts do not fit together.
    """

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
        patch: int | None = None,
        discriminator_weights: str | None = None,
        discriminator_optimizer: OptimizerCallable = adam_l2,
        optimizer: OptimizerCallable = adamw,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            scale, discriminator_optimizer=discriminator_optimizer, optimizer=optimizer, **kwargs
        )
        self.predictor, self.denoiser, self.space = predictor, denoiser, space
        self.denoiser_weights, self.patch = denoiser_weights, lr_side(patch, scale)
        self.prompt = prompt
        self.schedule = schedule or Schedule(variance="exploding")
        self.sampling, self.guidance = sampling, sampling.guidance
        self.middle = _frozen(sampling.middle)
        self.deterministic = sampling.deterministic
        self.losses, self.starting = training, training.starting  # torch has `training`
        self.starts = tuple(training.starts)
        self.perceptual = _frozen(training.perceptual)
        self._find_perceptual: Callable[[], Path] | None = None
        self.discriminator_weights = discriminator_weights
        self.tile, self.tile_overlap, self.tile_window = self.patch, self.patch // 2, "gaussian"
        self.tile_least = self.patch
        self.tile_always = self.tiles_latents = True
        check_arguments(self)
        self.tile_multiple = self.multiple
        self.plan()  # raises if sampling is impossible

    training_only = ("discriminator.", "perceptual.")
    half_outputs = False
    latent_pairs = True

    @property
    def default_steps(self) -> int:
        """Sampling steps."""
        return self.sampling.steps

    def arguments_for_steps(self, steps: int) -> dict[str, Any]:
        """Return the group that has them."""
        return {"sampling": {"steps": steps}}

    # ------------------------------------------------------------------------------------- training

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Equation 11: MSE, perceptual and adversarial loss of the predicted clean latent.

        The batch has HR and LR images, or latents of ``main.py encode --encode.pairs true``.
        """
        noise = None if self.deterministic else Noise(batch["seed"], self.device)
        z, y = latent_pair(self.space, batch, noise)
        choices = copy_to(torch.tensor(self.trained), z.device)
        t = choices[torch.randint(len(choices), (len(z),), device=z.device)]
        known = self._conditions(batch)
        x0 = self.predicted(batch["lr"], y if self.starting else z, t, known)
        loss = functional.mse_loss(x0, z)
        self.log("train/mse", loss)
        if self.perceptual is not None:
            distance = self.perceptual(x0, z).mean()
            self.log("train/perceptual", distance)
            loss = loss + self.losses.perceptual_weight * distance
        if (
            self.discriminator is not None
            and self.trainer.global_step >= self.losses.adversarial_start
        ):
            adversarial = hinge_generator(self._discriminator_logits(x0, t, known))
            self.log("train/adversarial", adversarial)
            loss = loss + self.losses.adversarial_weight * adversarial
        self.log("train/loss", loss, prog_bar=True)
        return loss, (z, x0.detach(), t, known)

    def discriminator_loss(self, made: Any) -> Tensor:
        """Return the hinge loss of latents of HR and predicted ones, at the same timesteps."""
        z, x0, t, known = made
        discriminator = cast(nn.Module, self.discriminator)
        loss = hinge_discriminator(
            discriminator(z, t, known[0].text), self._discriminator_logits(x0, t, known)
        )
        self.log("train/discriminator", loss, prog_bar=True)
        return loss

    def predicted(self, lr: Tensor, y: Tensor, t: Tensor, known: Conditions) -> Tensor:
        """Equation 9: x0 of a latent with the noise predicted from LR.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            y: (B, C, h', w'), the latent to add the noise to.
            t: (B,) indices of timesteps, from 0.
            known: Conditions with and without the text.
        """
        noise = cast(NoisePredictor, self.predictor)(lr, t)
        eps = torch.randn(noise.mean.shape, device=y.device)  # independent of memory layouts
        z_t = self.schedule.add_noise(y, noise.sample(eps), t)
        return self._clean(z_t, t, known)

    def _discriminator_logits(self, x0: Tensor, t: Tensor, known: Conditions) -> list[Tensor]:
        discriminator = cast(nn.Module, self.discriminator)
        return cast("list[Tensor]", discriminator(x0.clamp(-CLAMP, CLAMP), t, known[0].text))

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Algorithm 1, with one denoiser call per step and one call of the predictor.

        Raises:
            ValueError: If the predictor was trained for the noise between the steps.
        """
        if not self.starting:
            raise ValueError(
                "model.init_args.training.starting is false: the predictor was trained for the "
                "noise between steps, not for the start. Set its run as middle_weights of another "
                "predictor, with sampling.solver predicted; in fit, set "
                "trainer.limit_val_batches to 0"
            )
        mirrored = padded(batch["lr"], self.multiple, self.patch)
        lr, indices = mirrored.lr, [t - 1 for t in self.plan()]
        y = self._encoded(lr, noise.stream("encoder"))
        sigma = self.schedule.level(indices[0]).sigma
        z = y + sigma * self._noise(self.predictor, lr, y, indices[0], noise.stream("start"))
        known = self._conditions(batch)
        for now, then in itertools.pairwise([*indices, -1]):
            x0 = self.in_tiles(
                partial(self._clean, t=now, known=known, guidance=self.guidance),
                *(z, self._per_lr, 1, self._sides),
            )
            levels = self.schedule.level(now), self.schedule.level(then)
            if self.sampling.solver == "euler" or then < 0:
                z = euler(z, x0, *levels)
            else:
                by = self.middle if self.sampling.solver == "predicted" else None
                fresh = self._noise(by, lr, y, then, noise.stream(then))
                z = euler_ancestral(z, x0, *levels, fresh)
        image = self.in_tiles(self.space.decode, z, self._per_lr, self.space.factor)
        return mirrored.crop(image, batch["size"])

    def _encoded(self, lr: Tensor, noise: Noise) -> Tensor:
        def moments(image: Tensor) -> Tensor:
            mean, deviation = self.space.distribution(image)
            return mean if deviation is None else torch.cat([mean, deviation], 1)

        size = (round(lr.shape[-2] * self.scale), round(lr.shape[-1] * self.scale))
        factor = self.space.factor
        found = self.in_tiles(
            moments, enlarged(lr, size), self.scale, Fraction(1, factor), factor * self._sides
        )
        mean, deviation = found.tensor_split([self.space.channels], 1)
        if self.deterministic or not deviation.shape[1]:
            return mean
        return mean + deviation * noise.normal(mean.shape)

    def _noise(
        self, predictor: NoisePredictor | None, lr: Tensor, y: Tensor, t: int, noise: Noise
    ) -> Tensor:
        if predictor is None:
            return noise.normal(y.shape)
        unit = predictor.divisor

        def moments(image: Tensor) -> Tensor:
            return torch.cat(predictor(image, float(t)), 1)

        found = self.in_tiles(moments, lr, 1, Fraction(1, unit), unit)
        gaussian = Gaussian(*found.chunk(2, 1))
        return gaussian.mean if self.deterministic else gaussian.sample(noise.normal(y.shape))

    def _clean(
        self, z_t: Tensor, t: Tensor | int, known: Conditions, guidance: float = 1.0
    ) -> Tensor:
        def predict(z: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return cast(Tensor, self.denoiser(z, t, condition))

        count = len(z_t)
        steps = torch.full((count,), t, device=z_t.device) if isinstance(t, int) else t
        with_it, without = (_repeated(condition, count) for condition in known)
        z = self.schedule.scale_input(z_t, t)
        raw = guided(predict, z, steps, with_it, without, guidance)
        return self.schedule.to_x0(raw, z_t, t)

    @torch.no_grad()
    def _conditions(self, batch: Batch) -> Conditions:
        count = len(batch["lr"])
        if self.prompt is None:
            return Condition(), Condition()
        known = self.prompt.condition(count)
        return known, known if self.guidance == 1 else self.prompt.unconditional(count)

    def color_reference(self, batch: Batch) -> Tensor:
        """Return the LR image, mirrored with ``color_misaligned``."""
        lr = batch["lr"]
        return padded(lr, self.multiple, self.patch).lr if self.sampling.color_misaligned else lr

    # -------------------------------------------------------------------------------- the plan

    @property
    def trained(self) -> list[int]:
        """The indices, from 0, of the timesteps that are trained for."""
        return [t - 1 for t in (self.starts if self.starting else self.starts[1:])]

    def plan(self) -> list[int]:
        """Return the timesteps of sampling, counted from 1, noisiest first.

        Raises:
            ValueError: If the timesteps do not fall, or the first is not trained as a start.
        """
        if self.sampling.timesteps is not None:
            found = explicit(self.schedule.steps, self.sampling.timesteps, first=1)
        else:
            found = timesteps_for(self.sampling.steps, self.sampling.start)
            if self.sampling.start is None and found[0] not in self.starts:
                found = timesteps_for(self.sampling.steps, self.starts[0])
        if found[0] not in self.starts:
            raise ValueError(
                f"sampling would start at timestep {found[0]}, for which the predictor was not "
                "trained: set model.init_args.sampling.start, or the first of sampling.timesteps, "
                f"to one of {', '.join(map(str, self.starts))}"
            )
        return explicit(self.schedule.steps, found, first=1)

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs: timesteps, solver, side of tiles and others."""
        options: dict[str, str | int | float] = {"timesteps": " ".join(map(str, self.plan()))}
        if self.sampling.solver != "euler":
            options["solver"] = self.sampling.solver
        if self.middle is not None:
            options["middle"] = getattr(self.middle, "source", "").rpartition(" ")[2]
        if self.predictor is None:
            options["denoiser (unpredicted noise)"] = self.denoiser.source.rpartition(" ")[2]
        if self.guidance != 1:
            options["guidance"] = self.guidance
        if self.deterministic:
            options["deterministic"] = "true"
        if self.sampling.color_misaligned:
            options["color_misaligned"] = "true"
        if self.patch != lr_side(None, self.scale):
            options["patch"] = self.patch
        return {**super().output_settings, **options}

    @property
    def multiple(self) -> int:
        """The LR side lengths must be multiples of this."""
        unit = whole_lr(self.space.factor * self._sides, self.scale)
        return math.lcm(unit, *(p.divisor for p in (self.predictor, self.middle) if p is not None))

    @property
    def _sides(self) -> int:
        # The denoiser requires latents' sides to be multiples of this.
        return int(2 ** (len(self.denoiser.unet.config.block_out_channels) - 1))

    @property
    def _per_lr(self) -> float:
        return self.scale / self.space.factor

    # ------------------------------------------------------------------------- checks and weights

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load autoencoder, denoiser, middle predictor and discriminator.

        Only ``setup`` for training loads the perceptual distance.
        """
        super().load_parts(find)
        if self.denoiser_weights is not None:
            self.denoiser.load(find("denoiser_weights", self.denoiser_weights))
            check_run(self.denoiser, self.space, self.schedule)
        if self.middle is not None and self.sampling.middle_weights is not None:
            key = "sampling.middle_weights"
            found = read_weights(find(key, self.sampling.middle_weights))
            # In the run that trained it, it was the predictor.
            own = load_part(self.middle, found, "predictor", from_official, key)
            self._compare_uses(found, between=True)
            # It is frozen, so checkpoints and results name its source.
            cast(Any, self.middle).source = f"{found.name} {fingerprint(own)}"
        weights = self.losses.perceptual_weights
        if self.perceptual is not None and weights is not None:
            self._find_perceptual = partial(find, "training.perceptual_weights", weights)
        if self.discriminator is not None and self.discriminator_weights is not None:
            key = "discriminator_weights"
            found = read_weights(find(key, self.discriminator_weights))
            load_part(self.discriminator, found, "discriminator", from_official, key)

    @property
    def trained_with(self) -> dict[str, Any]:
        """The starts, and whether the predictor is for them."""
        return {"starts": list(self.starts), "starting": self.starting}

    def compare(self, weights: Weights) -> None:
        """Warn if sampling uses the predictor for what it was not trained for."""
        super().compare(weights)
        if self.predictor is not None and self.starting:
            self._compare_uses(weights, between=False)

    def _compare_uses(self, weights: Weights, between: bool) -> None:
        # Of a predictor, for the noise between the steps or at the start.
        known = weights.trained_with
        if "starts" not in known:
            return
        if known["starting"] == between:
            log.warning(
                "%s was trained with training.starting %s, and it predicts the noise %s here: its "
                "outputs are wrong until it has been trained further",
                *(weights.name, str(known["starting"]).lower()),
                "between the steps" if between else "at the start",
            )
            return
        used = set(self.plan()[1:] if between else self.plan()[:1])
        trained = known["starts"][1:] if between else known["starts"]
        if unknown := used.difference(trained):
            log.warning(
                "model.init_args.sampling uses %s at timesteps %s, and it was trained for %s: its "
                "outputs are wrong until it has been trained further, or set %s",
                *(weights.name, sorted(unknown, reverse=True), trained),
                "sampling.timesteps that it was trained for"
                if between
                else f"training.starts to {trained}",
            )

    def _load_perceptual(self) -> None:
        if self._find_perceptual is not None:
            cast(Any, self.perceptual).load(self._find_perceptual())
            self._find_perceptual = None
        if getattr(self.perceptual, "source", None) == "":
            raise ValueError(
                "model.init_args.training.perceptual has random weights: set perceptual_weights "
                "beside it to a run of configs/experiment/latent_lpips.yaml, or to a name of "
                "configs/weights.yaml"
            )
        trained_in = getattr(self.perceptual, "space", "")
        if trained_in and not same_weights(trained_in, self.space.source):
            raise ValueError(
                "model.init_args.training.perceptual_weights were trained in latents of "
                f"{trained_in}, and the space here is {self.space.source}: train them in this one"
            )

    def setup(self, stage: str) -> None:
        """Raise if a frozen part has no trained weights; warn of a schedule unlike the base's.

        Raises:
            FileNotFoundError: If the file of the perceptual distance is missing.
            ValueError: If the denoiser, the autoencoder, or another part has random weights.
        """
        super().setup(stage)
        compare_schedule(self.denoiser, self.schedule)
        check_weights(self, trains=stage == "fit")
        if stage == "fit":
            self._load_perceptual()

    @property
    def needs_weights(self) -> bool:
        """Whether weights are missing; without a predictor there are none."""
        return self.predictor is not None and super().needs_weights

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map a released file, which has only the predictor; other parts stay."""
        own = self.state_dict().items()
        kept = {k: v for k, v in own if not k.startswith("predictor.")}
        found = {f"predictor.{name}": tensor for name, tensor in from_official(tensors).items()}
        return {**kept, **found}


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
    below, wanted = [t for t in LADDER if t < start], steps - 1
    if start in LADDER and wanted <= len(below):
        return [start, *(below[-(-n * len(below) // wanted) - 1] for n in range(1, steps))]
    # NumPy's rounding is part of the released lists, e.g. of 30 steps.
    even = np.linspace(start, 0, steps, endpoint=False, dtype=np.int64)
    return [int(t) for t in even]


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
    if (sampling.solver == "predicted") != bool(method.middle):
        raise ValueError(
            f"model.init_args.sampling.solver is {sampling.solver!r} and sampling.middle "
            f"{'set' if method.middle else 'missing'}; expected euler, ancestral, or "
            "predicted with a middle"
        )
    if sampling.middle_weights is not None and method.middle is None:
        raise ValueError(
            f"model.init_args.sampling.middle_weights is {sampling.middle_weights}, and middle, "
            "whose weights they are, is missing: set it beside them, with solver predicted"
        )
    if sampling.color_misaligned and method.color_fix == "none":
        raise ValueError(
            "model.init_args.sampling.color_misaligned is true, and color_fix, which it changes, "
            "is none: set model.init_args.color_fix, or leave color_misaligned out"
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
    starts = list(method.starts)
    if not starts or not all(1 <= t <= method.schedule.steps for t in starts):
        raise ValueError(
            f"model.init_args.training.starts is {starts}; expected timesteps from 1 to "
            f"{method.schedule.steps}"
        )
    if not method.starting and len(starts) < 2:
        raise ValueError(
            "model.init_args.training.starting is false, and starts has only the first one"
        )
    if sampling.steps < 1 or method.patch < 1:
        raise ValueError(
            f"model.init_args.sampling.steps is {sampling.steps} and patch {method.patch}; "
            "expected 1 or more"
        )
    losses = method.losses
    for name in ("perceptual_weight", "adversarial_weight", "adversarial_start"):
        if not getattr(losses, name) >= 0:
            raise ValueError(
                f"model.init_args.training.{name} is {getattr(losses, name):g}; expected 0 or more"
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
        ValueError: If the denoiser, the autoencoder, or another part has random weights; the base
            was not trained at a start; or weights are set for a part of training that is missing.
    """
    if not method.denoiser.source:
        raise ValueError(
            "InvSR needs a trained denoiser that is frozen: set its folder or hub name in "
            "model.init_args.denoiser, or set denoiser_weights to the run that trained it, and "
            "flags.frozen to true"
        )
    if method.middle is not None and method.sampling.middle_weights is None:
        raise ValueError(
            "model.init_args.sampling.middle has random weights: set middle_weights beside it"
        )
    if not trains:
        return
    known, first = method.denoiser.trained_timesteps, max(method.starts)
    if known is not None and not first - 1 < known[1]:
        raise ValueError(
            f"model.init_args.training.starts has timestep {first}, and the base of "
            f"denoiser_weights was trained on timesteps {known[0]} to {known[1] - 1} from 0: train "
            f"it with timesteps [0, {first}] or more, or set lower starts"
        )
    if method.predictor is None:
        raise ValueError("there is nothing to train: set model.init_args.predictor")
    if method.losses.perceptual_weights is not None and method.perceptual is None:
        raise ValueError(
            "model.init_args.training.perceptual_weights is "
            f"{method.losses.perceptual_weights}, and perceptual, whose weights they are, is "
            "missing: set it beside them, or leave them out"
        )


def _check_predictor(method: InvSR, predictor: NoisePredictor) -> None:
    predictor.fit_to(method.scale, method.space.factor)
    made_for = method.space.factor / predictor.divisor
    if method.scale != made_for:
        raise ValueError(
            f"InvSR got scale {method.scale:g}, and its predictor halves the LR image's sides "
            f"to 1/{predictor.divisor} where latents have 1/{method.space.factor} of the "
            f"output's: that is only scale {made_for:g}. Set data.init_args.scale to it, or do not "
            "set the predictor's halvings, and train it"
        )
    if predictor.latent != method.space.channels:
        raise ValueError(
            f"the predictor is for latents of {predictor.latent} channels and the space has "
            f"{method.space.channels}: set the predictor's latent"
        )


def _frozen(module: Part | None) -> Part | None:
    return None if module is None else module.requires_grad_(False)


def _repeated(condition: Condition, count: int) -> Condition:
    # For `count` tiles, which are in order of tiles, not of images.
    parts = condition.used.items()
    return Condition(**{name: torch.cat([part] * (count // len(part))) for name, part in parts})
