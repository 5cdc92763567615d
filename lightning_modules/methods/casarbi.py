"""CasArbi: a cascade of diffusion models for any scale.

CasArbi (arXiv 2506.07813): one network is trained on a narrow range of factors and applied
repeatedly. Each stage enlarges with a regression network and adds its residual by residual
shifting.

y     the stage's input, (B, 3, h, w)       b        the base's output for it, (B, 3, H, W)
r_0   HR - b, the diffusion's target        sigma_r  standard deviation of r_0 over training pairs
eta   how far r_0 has shifted to 0          kappa    noise after the full shift

The paper's code, weights and sizes are not public. The process is ResShift's, written equivalently
for r = x - b. The U-Net, the level of the noise augmentation, the scaling by sigma_r and the form
of the guidance are our choices, and each is an argument.

Source: CasArbi (arXiv 2506.07813) for the fixed factor and the three orders. Its formula is not
public; ours multiplies, since the floor of logarithms may round the wrong way, as for
log 1000 / log 10.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from degradations.bicubic import resize
from files.batch import Batch, Box, Span, Tile, length_of, tiles_of
from files.method import changed
from files.numbers import NonNegativeInt, PositiveFloat, UnitInterval
from files.weights import fingerprint, load_part, read_weights
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.base import SuperResolver, first_batches
from lightning_modules.loading import file_of
from lightning_modules.networks.liif import LIIF
from lightning_modules.noise import Noise, Size, augmented
from lightning_modules.optimisation import adamw
from lightning_modules.sampling.solvers import ShiftSampler, ShiftSolver

log = logging.getLogger(__name__)
T = TypeVar("T", Tensor, float)
Order = Literal["remainder_last", "remainder_first", "uniform"]
MEASURED_BATCHES = 16  # per rank, for sigma_r
ADAMW = partial(adamw, lr=1e-4)
_TOLERANCE = 1e-9  # of rounding, so that a ratio of 8 holds three factors of 2


@dataclass(frozen=True)
class Stages:
    """How an enlargement is divided into stages.

    Args:
        fixed: Factor of a full stage, above 1; larger than every scale for a single stage.
        order: ``remainder_last`` (the paper's): fixed factors, then the remainder;
            ``remainder_first``; ``uniform``: as many stages, of one factor.

    Raises:
        ValueError: If ``fixed`` is not above 1.
    """

    fixed: PositiveFloat = 2.0
    order: Order = "remainder_last"

    def __post_init__(self) -> None:
        if not self.fixed > 1:
            raise ValueError(f"the fixed factor is {self.fixed}; expected a number above 1")

    def sizes(self, size: Size, target: Size) -> list[Size]:
        """Return the sizes after each stage; the last one is exactly the target.

        If the smaller of the two ratios of target to size holds k fixed factors, the remainder is
        the rest of each ratio, unless that is half a pixel, which the target's rounding explains.
        Intermediate sizes are rounded, halves up, from the first size.

        Args:
            size: (h, w) of the input.
            target: (H, W) of the output.

        Returns:
            One size per stage; empty if the target is the input's size.
        """
        h, w = size
        H, W = target
        if (h, w) == (H, W):
            return []
        sizes = []
        height_factor = width_factor = 1.0
        factors = _stage_factors((H / h, W / w), (H, W), self.fixed, self.order)
        for vertical, horizontal in factors[:-1]:  # the last one leads to the target exactly
            height_factor *= vertical
            width_factor *= horizontal
            height = min(max(math.floor(h * height_factor + 0.5), h), H)
            width = min(max(math.floor(w * width_factor + 0.5), w), W)
            sizes.append((height, width))
        return [*sizes, target]


def _stage_factors(
    ratios: tuple[float, float], target: Size, fixed: float, order: Order
) -> list[tuple[float, float]]:
    """Return the factors (vertical, horizontal) of each stage; their products are ``ratios``."""
    full_stages = 0  # with the fixed factor along both sides
    while fixed ** (full_stages + 1) <= min(ratios) * (1 + _TOLERANCE):
        full_stages += 1
    rest = ratios[0] / fixed**full_stages, ratios[1] / fixed**full_stages
    stages = [(fixed, fixed)] * full_stages
    remainders: list[tuple[float, float]] = []
    while max(rest) > fixed * (1 + _TOLERANCE):  # one side grows by more than the other
        step = min(rest[0], fixed), min(rest[1], fixed)
        remainders.append(step)
        rest = rest[0] / step[0], rest[1] / step[1]
    # Half a pixel is not a stage: the target's rounding explains it.
    sides = zip(target, rest, strict=True)
    if any(side - side / ratio > 0.5 + _TOLERANCE for side, ratio in sides):
        remainders.append(rest)
    if order == "uniform":
        count = len(stages) + len(remainders)
        return [(ratios[0] ** (1 / count), ratios[1] ** (1 / count))] * count
    if order == "remainder_first":
        return remainders + stages
    return stages + remainders


def stage_spans(span: Span, sides: Sequence[int]) -> list[Span]:
    """Return where one side of a tile lies in the input and output of each stage.

    A tile keeps its share of the image in all stages::

        lr       |..[####].......|     span.lr of span.lr_side
        stage 1  |...[######]..........|     its output is the input of stage 2
        sr       |.....[##########]..............|     span.out of span.out_side

    Args:
        span: The tile in the LR image and in the output.
        sides: Side of the whole image after each stage.
    """
    if not sides:
        return []
    stages = []
    place = span.lr
    side = span.lr_side
    for out_side in sides[:-1]:
        # The length follows from the tile's alone, rounded up: tiles of one size keep one size.
        length = min(-(-length_of(span.lr) * out_side // span.lr_side), out_side)
        # The start is rounded half up.
        start = (2 * span.lr.start * out_side + span.lr_side) // (2 * span.lr_side)
        start = min(start, out_side - length)
        out = slice(start, start + length)
        stages.append(Span(place, out, side, out_side))
        place = out
        side = out_side
    return [*stages, Span(place, span.out, side, span.out_side)]


@dataclass(frozen=True)
class ShiftSampling:
    """How a cascade samples each stage.

    Args:
        timesteps: Timesteps of sampling, from the last one down, such as [14, 9, 4, 0]; all by
            default.
        solver: ``posterior``, as in the paper; ``ddim``, deterministic; or ``dpm_solver_2m``, which
            delivers more detail with the same network and number of calls. By the default process,
            ``posterior`` delivers 0.27 of the residual's power at a deviation of 0.05, and 0.40 at
            0.2.
        guidance: Share of the difference between the stage's input and the downscaled prediction
            that is added to each prediction; 0 for none.
    """

    timesteps: Sequence[NonNegativeInt] | None = None
    solver: ShiftSolver = "posterior"
    guidance: UnitInterval = 0.0


class CasArbi(SuperResolver):
    """Self-cascaded residual diffusion for arbitrary scales.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        base: The frozen regression network: a class whose first argument is the scale, with
            ``encode`` and ``render`` as in LIIF.
        base_weights: Its weights: a file, the folder of a run that trained it with
            ``lightning_modules.Regression``, or a name of ``configs/weights.yaml``. Not for a base
            that loads them itself, such as ``AnySize`` with ``Spandrel``.
        network: Predicts r_0 / sigma_r; without it the cascade has only the base, the control of
            the paper's tables.
        process: The shift and its noise, for values in [-1, 1] or, with ``relative``, in units of
            sigma_r; by default that of ResShift's 15 steps, as in the paper. ``configs/experiment``
            has a relative one, which delivers more of the residual.
        stages: How the factor is divided: ``fixed`` and ``order``.
        domain: ``residual`` as in the paper, or ``image``: the same process from HR to b, and a
            network that predicts the image.
        noise_probability: Share of training inputs with added noise, so that later stages handle
            artefacts of earlier ones; the network gets its level.
        sampling: Timesteps, solver and guidance.
        optimizer: Makes the optimiser of the trainable parameters.

    Raises:
        ValueError: If the process sets what the network predicts or its input's scale.

    Attributes:
        sigma_r: Measured on the first training pairs, for values in [-1, 1]; kept in checkpoints.

    Examples:
        >>> from lightning_modules import LIIF, CasArbi, SFTUNet
        >>> network = SFTUNet(width=16, multipliers=(1, 2), blocks=1)
        >>> model = CasArbi(4, LIIF, network=network)
        >>> Trainer(max_steps=1000).fit(model, data)  # doctest: +SKIP
    """

    half_outputs = False
    trained_parts = ("network",)
    part_files: ClassVar[Mapping[str, str]] = {"base_weights": "load_base"}
    trained_settings: ClassVar[Mapping[str, str]] = {
        "process": "process.settings",
        "domain": "domain",
    }
    sigma_r: Tensor

    def __init__(
        self,
        scale: float,
        base: Callable[[float], nn.Module] = LIIF,
        base_weights: str | None = None,
        network: nn.Module | None = None,
        process: ResidualShift | None = None,
        stages: Stages = Stages(),
        domain: Literal["residual", "image"] = "residual",
        noise_probability: UnitInterval = 0.5,
        sampling: ShiftSampling = ShiftSampling(),
        optimizer: OptimizerCallable = ADAMW,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.base = base(self.scale)
        self.base_weights = base_weights
        cast(Any, self.base).source = ""  # its weights are its own, and in no checkpoint
        # Tiles begin at multiples of it, so that the base sees pixels in their phase in the image.
        self.tile_multiple = int(getattr(self.base, "divisor", 1))
        self.network = network
        self.process = process or ResidualShift()
        if (self.process.prediction, self.process.input_scale) != ("sample", "latent"):
            raise ValueError(
                "the cascade's network predicts r_0 from an input of deviation 1: leave "
                "prediction and input_scale of model.init_args.process out"
            )
        self.sampled = self.process
        if sampling.timesteps is not None:
            self.sampled = self.process.respaced(sampling.timesteps)
        self.sampler = ShiftSampler(self.sampled, sampling.solver)
        self.division = stages
        self.sampling = sampling
        self.domain = domain
        self.noise_probability = noise_probability
        # A buffer outside the frozen base, so that checkpoints and exported files hold it.
        self.register_buffer("sigma_r", torch.tensor(0.0))

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings of stages and sampling that are not defaults."""
        settings = super().output_settings | changed(self.division) | changed(self.sampling)
        if self.network is None:
            settings["network"] = "none"
        return settings

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the error of the predicted residual at a random timestep, in units of sigma_r."""
        network = cast(nn.Module, self.network)
        hr = batch["hr"] * 2 - 1
        lr = batch["lr"]
        y, level = augmented(lr, self.noise_probability)
        b, features = self.base_output(y, batch["size"])
        x_0 = hr if self.domain == "image" else hr - b
        t = torch.randint(self.process.steps, (len(hr),), device=hr.device)
        eps = self._noise_unit(self.sigma_r) * torch.randn_like(hr)
        x = self.process.add_noise(x_0, self._anchor(b), eps, t)
        size = (lr.shape[-2], lr.shape[-1])
        raw = network(self._network_input(x, t), t, b, features, size, level)
        loss = functional.mse_loss(raw, x_0 / self._prediction_unit(self.sigma_r))
        self.log("train/loss", loss)
        return loss

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all stages, with one network call per timestep in each."""
        y = batch["lr"]
        plans = [self.stages(tile) for tile in tiles_of(batch)]
        for number, tiles in enumerate(zip(*plans, strict=True)):
            # A stage has its own noise, so targets that share a stage share its output.
            y = self.stage(y, tiles, noise.stream(number, tiles))
        return y

    def stages(self, tile: Tile) -> list[Tile]:
        """Return where a tile lies in the whole image, before and after each stage."""
        rows, columns = tile
        size, target = (rows.lr_side, columns.lr_side), (rows.out_side, columns.out_side)
        sizes = self.division.sizes(size, target)
        heights = stage_spans(rows, [H for H, _ in sizes])
        widths = stage_spans(columns, [W for _, W in sizes])
        return [Tile(*sides) for sides in zip(heights, widths, strict=True)]

    def stage(self, y: Tensor, tiles: Sequence[Tile], noise: Noise) -> Tensor:
        """Run one stage.

        Args:
            y: (B, 3, h, w) in [0, 1].
            tiles: Where the B inputs and outputs lie in their whole images; all of one size.
            noise: Noise of this stage.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        boxes = [tile.box for tile in tiles]
        b, features = self.base_output(y, tiles[0].size, boxes)
        network = self.network
        if network is None:
            return (b + 1) / 2
        process = self.sampled
        lr_size = (y.shape[-2], y.shape[-1])
        level = torch.zeros(len(y), device=y.device)
        # All in units of sigma_r, as the network's output. In Lightning's sanity check before
        # training, it is not measured yet.
        sigma = self.sigma_r.item() or 1.0
        unit = self._prediction_unit(sigma)
        noise_unit = self._noise_unit(sigma)
        # Of plain numbers: the table is on the CPU, and sigma_r may be elsewhere.
        deviations = (self._deviations(process.etas, unit, noise_unit) / unit).tolist()

        def clean(x: Tensor, step: int) -> Tensor:
            """Return the clean sample that the network predicts, for the sampler."""
            t = torch.full((len(x),), process.timesteps[step], device=x.device)
            raw = network(x / deviations[step], t, b, features, lr_size, level, boxes)
            return self._back_projected(raw, b, y, unit, tiles)

        anchor = self._anchor(b)
        x = process.prior(anchor, noise_unit * noise.normal(b.shape)) / unit
        x = self.sampler.denoise(x, anchor / unit, clean, noise, unit / noise_unit)
        return (self._image_of(x, b, unit).clamp(-1, 1) + 1) / 2

    def base_output(
        self, y: Tensor, size: Size, boxes: Sequence[Box] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the base's b (B, 3, *size) in [-1, 1], and its features of y (B, 3, h, w).

        Args:
            y: (B, 3, h, w) in [0, 1].
            size: (H, W) of b.
            boxes: B parts of y that b covers; by default all of it.
        """
        base: Any = self.base
        with torch.no_grad():
            features = base.encode(y)
            b = base.render(features, y, size, boxes).clamp(0, 1) * 2 - 1
        return b, features

    def _back_projected(
        self, x_0: Tensor, b: Tensor, y: Tensor, unit: float, tiles: Sequence[Tile]
    ) -> Tensor:
        """Return the prediction, moved by ``guidance`` towards one that downscales to ``y``."""
        # Downscaling the output should give the stage's input: add a share of what it lacks.
        if not self.sampling.guidance:
            return x_0
        hr = self._image_of(x_0, b, unit)
        back = [tile.back.box for tile in tiles]
        error = (y * 2 - 1) - resize(hr, y.shape[-2:], clamp=False, boxes=back)
        boxes = [tile.box for tile in tiles]
        enlarged_error = resize(error, b.shape[-2:], clamp=False, boxes=boxes)
        return x_0 + self.sampling.guidance / unit * enlarged_error

    # --------------------------------------------------------------------------------------- domain

    def _anchor(self, b: Tensor) -> Tensor:
        """Return what the diffused variable has shifted to at the last timestep."""
        return b if self.domain == "image" else torch.zeros_like(b)

    def _image_of(self, x: Tensor, b: Tensor, unit: float) -> Tensor:
        """Return the image in [-1, 1] from the diffused variable in units of the prediction."""
        return x if self.domain == "image" else b + unit * x

    def _prediction_unit(self, sigma: T) -> T | float:
        """Return the unit of the network's prediction, in which it has a deviation of about 1."""
        return 1.0 if self.domain == "image" else sigma

    def _noise_unit(self, sigma: T) -> T | float:
        """Return the unit of kappa: sigma_r if the process is relative to it."""
        # Unit of kappa. The shift eta has none, so it is the same for any sigma_r.
        return sigma if self.process.relative else 1.0

    def _network_input(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the diffused variable, scaled to a deviation of about 1."""
        eta, _ = self.process.at(t, x)
        unit = self._prediction_unit(self.sigma_r)
        return x / self._deviations(eta, unit, self._noise_unit(self.sigma_r))

    def _deviations(self, eta: Tensor, unit: Tensor | float, noise: Tensor | float) -> Tensor:
        """Return the deviation of the diffused variable after the shift ``eta``."""
        # Of the diffused variable after the shift eta. A residual shrinks; an image does not, since
        # the shift is to another image.
        signal = (1 - eta) * unit if self.domain == "residual" else 1.0
        return (signal**2 + (noise * self.process.kappa) ** 2 * eta).sqrt()

    def on_train_start(self) -> None:
        """Measure sigma_r on the first training pairs, unless it is known."""
        super().on_train_start()
        if self.sigma_r == 0 and self.trainer.ckpt_path is None:
            self.sigma_r.copy_(self._measure_sigma_r())
            log.info("sigma_r, the deviation of HR - base, is %.4f", self.sigma_r.item())

    @torch.no_grad()
    def _measure_sigma_r(self) -> Tensor:
        """Return the deviation of HR - b over the first training batches of all ranks."""
        # Over all ranks, without batches that are not finite: Guard skips their steps, too.
        errors = torch.stack(
            [
                self._mean_square_residual(batch["hr"], batch["lr"])
                for batch in first_batches(self, MEASURED_BATCHES)
            ]
        )
        mean = errors.where(errors.isfinite(), torch.nan).nanmean()
        return cast(Tensor, self.all_gather(mean)).mean().sqrt()

    def _mean_square_residual(self, hr: Tensor, lr: Tensor) -> Tensor:
        """Return the mean of (HR - b)^2, for values in [-1, 1]."""
        b, _ = self.base_output(lr, (hr.shape[-2], hr.shape[-1]))
        return (hr * 2 - 1 - b).square().mean()

    # ----------------------------------------------------------------------------------------- base

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the base.

        Raises:
            ValueError: If its file is not set, or belongs to another network.
        """
        super().load_parts(find)
        if self.base_weights is not None:
            return
        # A base that loads its weights itself, such as Spandrel's, names their source.
        source = getattr(self.base, "weights_source", None)
        if source is not None:
            self._name_base(source)
        elif find is not file_of:  # in Python the base may be a network that is trained already
            raise ValueError(
                "CasArbi needs a trained base: set model.init_args.base_weights to a file, or to "
                "the run that trained it"
            )

    def load_base(self, path: Path) -> None:
        """Load the base from a run's checkpoint or an official file.

        Raises:
            ValueError: If the file belongs to another network, or one with other settings.
        """
        weights = read_weights(path)
        load_part(self.base, weights, "network")
        self._name_base(weights.name)

    def _name_base(self, name: str) -> None:
        """Record the source of the base's weights, and label outputs without a network by it."""
        source = f"{name} {fingerprint(self.base.state_dict())}"
        cast(Any, self.base).source = source  # recorded in checkpoints
        if self.network is None:
            self.weights_source = name
        log.info("base: %s", name)
