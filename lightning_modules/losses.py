"""Terms of a training loss, chosen in YAML; each has a weight and a step from which it counts.

A term compares outputs with HR. ``GAN`` holds both sides of an adversarial loss. Sources are named
at each class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from degradations.base import ieee_float32
from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat
from files.vgg import DEVIATION, MEAN, DISTSNetwork
from files.weights import fingerprint, load_strictly, read_weights
from lightning_modules.networks.running import Frozen, without_fp16

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM's scales, the finest first
CONVOLUTIONS = (2, 2, 4, 4, 4)  # of VGG19's stages
LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


class Term(nn.Module, ABC):
    """Base class of ``Loss`` and ``TrainedLoss``.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
    """

    # Weights that the term needs in training: a file, or a name of ``configs/weights.yaml``.
    file: str | None = None
    # Whether ``forward`` has a third argument: the output of the averaged weights of ``EMA``.
    takes_average = False

    def __init__(self, weight: NonNegativeFloat = 1.0, start: NonNegativeInt = 0) -> None:
        super().__init__()
        self.weight = weight
        self.start = start

    @abstractmethod
    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the unweighted term, a scalar.

        Args:
            sr: (B, 3, H, W), about [0, 1], not clamped.
            hr: (B, 3, H, W) in [0, 1].
        """

    def load(self, path: Path) -> None:
        """Load the weights of ``file``; only training needs them."""


class Loss(Frozen, Term):
    """One term of a loss. Networks that it holds are frozen.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
    """

    def refuse_training(self, key: str) -> None:
        """Raise if the term has a parameter of its own: only that of a network can be frozen.

        Args:
            key: Key of the term, for the message.

        Raises:
            ValueError: If so.
        """
        for name, parameter in self.named_parameters(recurse=False):
            if parameter.requires_grad:
                raise ValueError(
                    f"{key}, a {type(self).__name__}, has the parameter {name}, and a Loss does "
                    "not train: make it a lightning_modules.TrainedLoss, or a constant with "
                    "register_buffer"
                )


class TrainedLoss(Term):
    """One term of a loss whose parameters the network's optimiser trains.

    Checkpoints have them; averages and exports do not.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
    """


# ------------------------------------------------------------------------------------- per pixel


class L1(Loss):
    """Mean absolute difference.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the mean of abs(sr - hr)."""
        return functional.l1_loss(sr, hr)


class Charbonnier(Loss):
    """A smooth L1.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
        eps: Difference below which it is nearly quadratic.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        start: NonNegativeInt = 0,
        eps: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(weight, start)
        self.eps = eps

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
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


# ------------------------------------------------------------------------------------- structure


class MSSSIM(Loss):
    """1 - MS-SSIM, of SSIM with a Gaussian window of 11 pixels.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.

    Sides of HR must have more than 160 pixels.

    Source: Wang et al., 2003, "Multiscale structural similarity for image quality assessment",
    equation 7. Negative contrasts count as 0, without a gradient.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the mean over images.

        Raises:
            ValueError: If the images are too small.
        """
        too_small = 10 * 2 ** (len(EXPONENTS) - 1)  # the coarsest scale is smaller than the window
        if min(sr.shape[-2:]) <= too_small:
            raise ValueError(
                f"MSSSIM needs more than {too_small} pixels a side, and has "
                f"{sr.shape[-2]}x{sr.shape[-1]}: set a larger data.init_args.crop_size"
            )
        # Variances are differences of means, which fewer bits would round to noise.
        with torch.autocast(sr.device.type, enabled=False), ieee_float32(sr.device):
            return 1 - self._similarity(sr.float(), hr.float()).mean()

    def _similarity(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return MS-SSIM of each image, (B,)."""
        similarity = sr.new_ones(len(sr))
        for scale, exponent in enumerate(EXPONENTS, 1):
            ssim, contrast = structural_similarity_index_measure(
                sr, hr, data_range=1.0, reduction="none", return_contrast_sensitivity=True
            )
            # As in the paper, luminance counts at the coarsest scale alone.
            factor = ssim if scale == len(EXPONENTS) else contrast
            # Not clamped to 0, where the gradient of the power is infinite.
            similarity = similarity * factor.clamp(min=1e-6) ** exponent
            sr = functional.avg_pool2d(sr, 2)
            hr = functional.avg_pool2d(hr, 2)
        return similarity


class LDL(Loss):
    """L1 where the output has artefacts: locally discriminative learning.

    An artefact is where the residual varies, within 7x7 pixels and within the image, and is larger
    than that of the averaged weights. Needs ``callbacks.EMA``.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.

    Source: Liang, Zeng, Zhang, CVPR 2022 (arXiv 2203.09195); as in the released code, gradients
    also pass through the map.
    """

    takes_average = True

    def forward(self, sr: Tensor, hr: Tensor, average: Tensor | None = None) -> Tensor:
        """Return the mean of abs(map * (sr - hr)).

        Args:
            sr: (B, 3, H, W), about [0, 1].
            hr: (B, 3, H, W) in [0, 1].
            average: As ``sr``, of the averaged weights.
        """
        residual = (hr - sr).abs().sum(1, keepdim=True)
        residual_of_average = (hr - cast(Tensor, average)).abs().sum(1, keepdim=True)
        padded = functional.pad(residual, (3, 3, 3, 3), mode="reflect")
        local = padded.unfold(2, 7, 1).unfold(3, 7, 1).var((-2, -1))  # of 7x7 pixels
        # The root's gradient is infinite at 0, as of a black crop that the network keeps black.
        variance = residual.var((1, 2, 3), keepdim=True).clamp(min=1e-12)
        artefacts = variance**0.2 * local  # the paper's exponent
        artefacts = artefacts.masked_fill(residual < residual_of_average, 0)
        return functional.l1_loss(artefacts * sr, artefacts * hr)


# ------------------------------------------------------------------------------------- frequency


class FFT(Loss):
    """L1 of the real and imaginary parts of the two-dimensional Fourier transform.

    Args:
        weight: Factor of the term; 0.1 in the paper.
        start: Step of training from which the term counts; 0 for all steps.

    Source: MIMO-UNet (Cho et al., ICCV 2021; arXiv 2108.05054), at one scale.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the mean of the absolute differences."""
        # The transform is linear, so one of the difference is enough. It lacks bfloat16.
        difference = torch.fft.fft2(sr.float() - hr.float())
        return torch.view_as_real(difference).abs().mean()


class FocalFrequency(Loss):
    """Squared difference of spectra, weighted by how large it is at each frequency.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.

    Source: Jiang et al., ICCV 2021 (arXiv 2012.12821), with alpha 1, of an orthonormal transform,
    as in the released code.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the mean over frequencies."""
        difference = torch.fft.fft2(sr.float() - hr.float(), norm="ortho")
        distance = torch.view_as_real(difference).square().sum(-1)
        weights = distance.detach().sqrt()  # constants: the loss does not train its own weights
        largest = weights.amax((-2, -1), keepdim=True).clamp(min=torch.finfo().tiny)
        return (weights / largest * distance).mean()


# ------------------------------------------------------------------------------------ perceptual


def convolution_indices() -> dict[str, int]:
    """Return where VGG19's convolutions are in torchvision's list of layers, by name."""
    indices = {}
    place = 0
    for stage, count in enumerate(CONVOLUTIONS, 1):
        for number in range(1, count + 1):
            indices[f"conv{stage}_{number}"] = place
            place += 2  # with its ReLU
        place += 1  # the pooling
    return indices


class VGG19Features(nn.Module):
    """torchvision's VGG19 up to the deepest of some layers.

    Args:
        layers: Names of the layers, from ``conv1_1`` to ``conv5_4``.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers  # takes a second

        indices = convolution_indices()
        self.outputs = {indices[name]: name for name in layers}
        self.features = make_layers(cfgs["E"])[: max(self.outputs) + 1]  # its E is VGG19
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the layers' outputs before their ReLU, by name.

        Args:
            images: (B, 3, H, W), about [0, 1].
        """
        x = (images - self.mean) / self.deviation
        outputs = {}
        for place, layer in enumerate(self.features):
            # torchvision's ReLU would change the outputs in place.
            x = functional.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if place in self.outputs:
                outputs[self.outputs[place]] = x
        return outputs


class VGG19Perceptual(Loss):
    """L1 between features of VGG19, before their ReLU.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
        layers: Weight of each layer, by its name: ``conv1_1`` to ``conv5_4``.
        perceptual_weights: VGG19's weights as torchvision has them: a file, or a name of
            ``configs/weights.yaml``.

    Source: Real-ESRGAN (Wang et al., ICCVW 2021; arXiv 2107.10833), section 4.1, which has these
    layers and weights; ESRGAN (arXiv 1809.00219), section 3.3, for features before their ReLU.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        start: NonNegativeInt = 0,
        layers: dict[str, float] = LAYERS,
        perceptual_weights: str = "vgg19",
    ) -> None:
        super().__init__(weight, start)
        self.layers = dict(layers)
        self.file = perceptual_weights
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
        network = VGG19Features(list(self.layers))
        weights = read_weights(path)
        names = network.state_dict().keys()  # without the layers behind the deepest one
        tensors = {name: tensor for name, tensor in weights.tensors.items() if name in names}
        load_strictly(network, tensors, weights.name)
        self.network = network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.source = f"{weights.name} {fingerprint(tensors)}"

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the weighted sum of the layers' mean absolute differences."""
        network = cast(VGG19Features, self.network)  # `load` sets it
        with torch.no_grad():
            features_of_hr = network(hr)
        distances = []
        for name, features in network(sr).items():
            distances.append(self.layers[name] * functional.l1_loss(features, features_of_hr[name]))
        return torch.stack(distances).sum()


class DISTS(Loss):
    """Distance of structure and texture between features of VGG16.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
        perceptual_weights: VGG16's weights as torchvision has them: a file, or a name of
            ``configs/weights.yaml``.

    Source: Ding et al., TPAMI 2020 (arXiv 2004.07728).
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 1.0,
        start: NonNegativeInt = 0,
        perceptual_weights: str = "vgg16",
    ) -> None:
        super().__init__(weight, start)
        self.file = perceptual_weights
        self.network: DISTSNetwork | None = None
        self.source = ""  # of the frozen weights, for checkpoints

    def load(self, path: Path) -> None:
        """Load the network.

        Args:
            path: torchvision's file.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it has other tensors.
        """
        self.network = DISTSNetwork(path).to(memory_format=torch.channels_last)
        self.source = f"{path} {fingerprint(self.network.features.state_dict())}"

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the mean distance of the images."""
        network = cast(DISTSNetwork, self.network)  # `load` sets it
        with torch.no_grad():
            features_of_hr = without_fp16(network, hr)
        features = without_fp16(network, sr)
        with torch.autocast(sr.device.type, enabled=False):
            return network.distances(features, features_of_hr).mean()


# ----------------------------------------------------------------------------------- adversarial


@dataclass(frozen=True)
class GAN:
    """Both sides of an adversarial loss, of logits x of one or more sizes.

    kind      of real images    of outputs
    vanilla   softplus(-x)      softplus(x)
    lsgan     (x - 1)^2         x^2
    hinge     relu(1 - x)       relu(1 + x)

    The discriminator's side is the sum of both. The generator's is the first one, of its outputs;
    that of ``hinge`` is -x.

    Args:
        weight: Factor of the generator's side; the discriminator's is always 1.
        start: Step of training from which the generator's side counts; the discriminator trains
            from the first step.
        kind: Form of the loss.

    Source: vanilla: Goodfellow et al., 2014 (arXiv 1406.2661); lsgan: Mao et al., ICCV 2017
    (arXiv 1611.04076), equation 9 without its factors of 1/2, as in BasicSR; hinge: Lim and Ye,
    2017 (arXiv 1705.02894), equations 13 and 14.
    """

    weight: NonNegativeFloat = 0.1
    start: NonNegativeInt = 0
    kind: Literal["vanilla", "lsgan", "hinge"] = "vanilla"

    def generator(self, fake: Sequence[Tensor]) -> Tensor:
        """Return the generator's side, unweighted.

        Args:
            fake: Logits (B, 1, h, w) of outputs.
        """
        if self.kind == "hinge":  # unbounded: relu(1 - x) would stop the gradient at x = 1
            return -torch.stack([x.float().mean() for x in fake]).mean()
        return self._mean_of_real(fake)

    def discriminator(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """Return the discriminator's side: the sum of its means on real and fake images.

        Args:
            real: Logits (B, 1, h, w) of data.
            fake: Logits of outputs.
        """
        return self._mean_of_real(real) + self._mean_of_fake(fake)

    def _mean_of_real(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the loss of logits of real images, averaged over each size, then over sizes."""
        return torch.stack([self._loss_of_real(x.float()).mean() for x in logits]).mean()

    def _mean_of_fake(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the same of logits of outputs."""
        # The loss of a fake image is that of a real one for mirrored logits: about 0, lsgan's 1/2.
        if self.kind == "lsgan":
            return self._mean_of_real([1 - x for x in logits])
        return self._mean_of_real([-x for x in logits])

    def _loss_of_real(self, x: Tensor) -> Tensor:
        """Return the loss of each logit x of a real image, as in the table of the class."""
        if self.kind == "lsgan":
            return (x - 1).square()
        if self.kind == "hinge":
            return functional.relu(1 - x)
        return functional.softplus(-x)
