"""Terms of a training loss, chosen in YAML; each has a weight and a step from which it counts.

A term compares outputs with HR. ``GAN`` holds both sides of an adversarial loss. Sources are named
at each class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.weights import fingerprint, load_strictly, read_weights


class Loss(nn.Module, ABC):
    """One term of a loss.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.

    Raises:
        ValueError: If one is negative.
    """

    # Whether ``forward`` also needs the outputs of the averaged weights.
    compares_average = False
    # Weights that the term needs in training: a file, or a name of ``configs/weights.yaml``.
    file: str | None = None

    def __init__(self, weight: float = 1.0, start: int = 0) -> None:
        super().__init__()
        check_schedule(type(self).__name__, weight, start)
        self.weight, self.start = weight, start

    @abstractmethod
    def forward(self, sr: Tensor, hr: Tensor, averaged: Tensor | None = None) -> Tensor:
        """Return the unweighted term, a scalar.

        Args:
            sr: (B, 3, H, W), about [0, 1], not clamped.
            hr: (B, 3, H, W) in [0, 1].
            averaged: As ``sr``, by the averaged weights, without gradients; only if
                ``compares_average``.
        """

    def load(self, path: Path) -> None:
        """Load the weights of ``file``; only training needs them."""


def check_schedule(name: str, weight: float, start: int) -> None:
    """Check a term's weight and first step.

    Raises:
        ValueError: If one is negative.
    """
    if not weight >= 0 or start < 0:
        raise ValueError(f"{name} has weight {weight:g} and start {start}; expected 0 or more")


# ------------------------------------------------------------------------------------- per pixel


class L1(Loss):
    """Mean absolute difference.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
    """

    def forward(self, sr: Tensor, hr: Tensor, averaged: Tensor | None = None) -> Tensor:
        """Return the mean of abs(sr - hr)."""
        return functional.l1_loss(sr, hr)


class Charbonnier(Loss):
    """A smooth L1.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
        eps: Difference below which it is nearly quadratic.

    Raises:
        ValueError: If ``eps`` is not positive.
    """

    def __init__(self, weight: float = 1.0, start: int = 0, eps: float = 1e-3) -> None:
        super().__init__(weight, start)
        if not eps > 0:
            raise ValueError(f"eps of Charbonnier is {eps:g}; expected a number above 0")
        self.eps = eps

    def forward(self, sr: Tensor, hr: Tensor, averaged: Tensor | None = None) -> Tensor:
        """Return ``charbonnier``."""
        return charbonnier(sr, hr, self.eps)


def charbonnier(sr: Tensor, hr: Tensor, eps: float = 1e-3) -> Tensor:
    """Return the mean of sqrt(d^2 + eps^2), a scalar; d is the difference.

    Args:
        sr: Any shape.
        hr: In the shape of ``sr``.
        eps: Difference below which it is nearly quadratic, in their units.

    Source: Charbonnier et al., ICIP 1994; eps of LapSRN (Lai et al., 2017; arXiv 1710.01992).
    """
    return ((sr - hr).square() + eps**2).sqrt().mean()


class LDL(Loss):
    """L1 where an image looks like an artifact of adversarial training.

    With r = the absolute difference from HR, summed over channels, an image's map is
    var(r)^(1/5) times the variance of r within a window around each pixel, and 0 where the
    averaged weights are farther from HR. The term is the mean of map x abs(sr - hr). Variances are
    unbiased. It requires ``callbacks.EMA``.

    Args:
        weight: Factor of the term: 1 in the paper, beside an L1 of 0.01.
        start: Step of training from which the term counts; 0 for all steps.
        window: Side of the window in pixels, odd.

    Raises:
        ValueError: If the window is even or below 3.

    Source: Liang et al., CVPR 2022 (arXiv 2203.09195), and its released code. Differs in: the map
    is constant in gradients; in the released code they pass through it.
    """

    compares_average = True

    def __init__(self, weight: float = 1.0, start: int = 0, window: int = 7) -> None:
        super().__init__(weight, start)
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window of LDL is {window}; expected an odd number from 3")
        self.window = window

    def forward(self, sr: Tensor, hr: Tensor, averaged: Tensor | None = None) -> Tensor:
        """Return the mean of map x abs(sr - hr).

        Raises:
            ValueError: If there are no outputs of averaged weights.
        """
        if averaged is None:
            raise ValueError("LDL compares with averaged weights: add callbacks.EMA")
        return (self.artifacts(sr, hr, averaged) * (sr.float() - hr.float()).abs()).mean()

    @torch.no_grad()
    def artifacts(self, sr: Tensor, hr: Tensor, averaged: Tensor) -> Tensor:
        """Return the map (B, 1, H, W); arguments as ``forward``."""
        r, r_averaged = (
            (hr.float() - image.float()).abs().sum(1, keepdim=True) for image in (sr, averaged)
        )
        n = self.window // 2
        around = functional.pad(r, (n, n, n, n), mode="reflect")
        local = around.unfold(2, self.window, 1).unfold(3, self.window, 1).var((-2, -1))
        whole = r.var((1, 2, 3), keepdim=True) ** 0.2
        return torch.where(r < r_averaged, 0, whole * local)


# ------------------------------------------------------------------------------------ perceptual

VGG19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and width of each stage
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


class VGG19Features(nn.Module):
    """The convolutions of VGG19 up to the deepest of some layers.

    Args:
        layers: Names of the layers, from ``conv1_1`` to ``conv5_4``.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.places: dict[str, int] = {}  # in torchvision's file, by layer
        found, inputs, place = nn.ModuleDict(), 3, 0
        for stage, (count, width) in enumerate(VGG19, 1):
            for number in range(1, count + 1):
                if set(self.layers) <= found.keys():
                    break
                name = f"conv{stage}_{number}"
                # Without random numbers: the weights are loaded.
                empty: Any = nn.utils.skip_init
                found[name] = empty(nn.Conv2d, inputs, width, 3, padding=1)
                self.places[name], inputs, place = place, width, place + 2
            place += 1
        self.convolutions = found
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the layers' outputs before their ReLU, by name.

        Args:
            images: (B, 3, H, W), about [0, 1].
        """
        x, outputs = (images - self.mean) / self.deviation, {}
        for name, convolution in self.convolutions.items():
            if name.endswith("_1") and name != "conv1_1":
                x = functional.max_pool2d(x, 2)
            x = convolution(x)
            if name in self.layers:
                outputs[name] = x
            x = functional.relu(x)
        return outputs

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of torchvision's file that this network has, by its own names."""
        return {
            f"convolutions.{name}.{kind}": tensors[f"features.{place}.{kind}"]
            for name, place in self.places.items()
            for kind in ("weight", "bias")
            if f"features.{place}.{kind}" in tensors
        }


class VGG19Perceptual(Loss):
    """L1 between features of VGG19, before their ReLU.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
        layers: Weight of each layer, by its name: ``conv1_1`` to ``conv5_4``.
        perceptual_weights: VGG19's weights as torchvision has them: a file, or a name of
            ``configs/weights.yaml``.

    Raises:
        ValueError: If a layer is unknown, or there is none.

    Source: Real-ESRGAN (Wang et al., ICCVW 2021; arXiv 2107.10833), section 4.1, which has these
    layers and weights; ESRGAN (arXiv 1809.00219), section 3.3, for features before their ReLU.
    """

    def __init__(
        self,
        weight: float = 1.0,
        start: int = 0,
        layers: dict[str, float] = LAYERS,
        perceptual_weights: str = "vgg19",
    ) -> None:
        super().__init__(weight, start)
        known = [f"conv{n}_{m + 1}" for n, (count, _) in enumerate(VGG19, 1) for m in range(count)]
        if not layers or not layers.keys() <= set(known):
            raise ValueError(
                f"layers of VGG19Perceptual is {layers}; expected weights of layers among "
                f"{', '.join(known)}"
            )
        self.layers, self.file = dict(layers), perceptual_weights
        self.network: VGG19Features | None = None
        self.source = ""  # of the frozen weights, for checkpoints

    def load(self, path: Path) -> None:
        """Load the network.

        Args:
            path: torchvision's file.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it has other tensors.
        """
        network, found = VGG19Features(list(self.layers)), read_weights(path)
        own = network.official(found.tensors)
        load_strictly(network, own, found.name)
        self.network = network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.source = f"{found.name} {fingerprint(own)}"

    def train(self, mode: bool = True) -> VGG19Perceptual:
        """Stay in evaluation mode, whatever the model does."""
        return super().train(False)

    def forward(self, sr: Tensor, hr: Tensor, averaged: Tensor | None = None) -> Tensor:
        """Return the weighted sum of the layers' mean absolute differences.

        Raises:
            RuntimeError: If the network is not loaded.
        """
        if self.network is None:
            raise RuntimeError("VGG19Perceptual has no network before `load` was called")
        with torch.no_grad():
            wanted = self.network(hr)
        return torch.stack(
            [
                self.layers[name] * functional.l1_loss(found, wanted[name])
                for name, found in self.network(sr).items()
            ]
        ).sum()


# ----------------------------------------------------------------------------------- adversarial

Kind = Literal["vanilla", "hinge", "lsgan"]


@dataclass(frozen=True)
class GAN:
    """Both sides of an adversarial loss, of logits of one or more sizes with equal weights.

    For logits x, the discriminator's losses on real and on fake images, and the generator's:
    softplus(-x), softplus(x) and softplus(-x) for ``vanilla``; max(0, 1 - x), max(0, 1 + x) and -x
    for ``hinge``; (x - 1)^2, x^2 and (x - 1)^2 for ``lsgan``.

    Args:
        kind: ``vanilla``, the cross-entropy of Real-ESRGAN; ``hinge``; or ``lsgan``, squares.
        weight: Factor of the generator's side; the discriminator's is always 1.
        start: Step of training from which the generator's side counts; the discriminator trains
            from the first step.
        r1: Factor gamma of R1, gamma / 2 times the squared gradient of the discriminator at real
            images; 0 for none. The discriminator's value of an image is the mean of its logits.

    Raises:
        ValueError: If the kind is unknown, or a number negative.

    Source: Goodfellow et al., 2014 (arXiv 1406.2661); Lim and Ye, 2017 (arXiv 1705.02894); Mao et
    al., ICCV 2017 (arXiv 1611.04076); R1: Mescheder et al., ICML 2018 (arXiv 1801.04406).
    """

    kind: Kind = "vanilla"
    weight: float = 0.1
    start: int = 0
    r1: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_schedule("model.init_args.gan", self.weight, self.start)
        if self.kind not in get_args(Kind) or not self.r1 >= 0:
            raise ValueError(
                f"model.init_args.gan has kind {self.kind!r} and r1 {self.r1:g}; expected "
                f"{', '.join(get_args(Kind))}, and 0 or more"
            )

    def generator(self, fake: Sequence[Tensor]) -> Tensor:
        """Return the generator's side, unweighted.

        Args:
            fake: Logits (B, 1, h, w) of outputs.
        """
        kinds: dict[Kind, Callable[[Tensor], Tensor]] = {
            "vanilla": lambda x: functional.softplus(-x),
            "hinge": lambda x: -x,
            "lsgan": lambda x: (x - 1).square(),
        }
        return _mean(kinds[self.kind], fake)

    def discriminator(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """Return the discriminator's side: the sum of its means on real and fake images.

        Args:
            real: Logits (B, 1, h, w) of data.
            fake: Logits of outputs.
        """
        kinds: dict[Kind, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
            "vanilla": (lambda x: functional.softplus(-x), functional.softplus),
            "hinge": (lambda x: functional.relu(1 - x), lambda x: functional.relu(1 + x)),
            "lsgan": (lambda x: (x - 1).square(), torch.square),
        }
        of_real, of_fake = kinds[self.kind]
        return _mean(of_real, real) + _mean(of_fake, fake)

    def penalty(self, real: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return R1, weighted.

        Args:
            real: Logits (B, 1, h, w) of ``images``.
            images: (B, 3, H, W), which require gradients.
        """
        value = torch.stack([x.float().mean((1, 2, 3)) for x in real]).mean(0)
        (gradient,) = torch.autograd.grad(value.sum(), images, create_graph=True)
        return self.r1 / 2 * gradient.float().square().sum((1, 2, 3)).mean()


def _mean(function: Callable[[Tensor], Tensor], logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([function(x.float()).mean() for x in logits]).mean()
