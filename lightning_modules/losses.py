"""Terms of a training loss, chosen in YAML; each has a weight and a step from which it counts.

A term compares outputs with HR. ``GAN`` holds both sides of an adversarial loss. Sources are named
at each class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from files.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat
from lightning_modules.networks.running import Frozen
from lightning_modules.weights import fingerprint, load_strictly, read_weights

CONVOLUTIONS = (2, 2, 4, 4, 4)  # of VGG19's stages
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


class Loss(Frozen, ABC):
    """One term of a loss. Networks that it holds are frozen.

    Args:
        weight: Factor of the term.
        start: Step of training from which the term counts; 0 for all steps.
    """

    # Weights that the term needs in training: a file, or a name of ``configs/weights.yaml``.
    file: str | None = None

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
                    f"{key}, a {type(self).__name__}, has the parameter {name}, and losses do not "
                    "train: make a constant of it with register_buffer, or train it in a method of "
                    "your own"
                )


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


# ------------------------------------------------------------------------------------ perceptual


def places() -> dict[str, int]:
    """Return the numbers of VGG19's convolutions in torchvision's network, by name."""
    numbers = {}
    place = 0
    for stage, count in enumerate(CONVOLUTIONS, 1):
        for number in range(1, count + 1):
            numbers[f"conv{stage}_{number}"] = place
            place += 2  # with its ReLU
        place += 1  # the pooling
    return numbers


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

        self.outputs = {place: name for name, place in places().items() if name in layers}
        self.features = make_layers(cfgs["E"])[: max(self.outputs) + 1]
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

    Raises:
        ValueError: If a layer is unknown, or there is none.

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
        if not layers or not layers.keys() <= places().keys():
            raise ValueError(f"VGG19Perceptual has layers {layers}; expected conv1_1 to conv5_4")
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
        names = network.state_dict().keys()
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


# ----------------------------------------------------------------------------------- adversarial


@dataclass(frozen=True)
class GAN:
    """Both sides of an adversarial loss: the cross-entropy of logits, of one or more sizes.

    Args:
        weight: Factor of the generator's side; the discriminator's is always 1.
        start: Step of training from which the generator's side counts; the discriminator trains
            from the first step.

    Source: Goodfellow et al., 2014 (arXiv 1406.2661).
    """

    weight: NonNegativeFloat = 0.1
    start: NonNegativeInt = 0

    def generator(self, fake: Sequence[Tensor]) -> Tensor:
        """Return the generator's side, unweighted.

        Args:
            fake: Logits (B, 1, h, w) of outputs.
        """
        return torch.stack([functional.softplus(-x.float()).mean() for x in fake]).mean()

    def discriminator(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """Return the discriminator's side: the sum of its means on real and fake images.

        Args:
            real: Logits (B, 1, h, w) of data.
            fake: Logits of outputs.
        """
        of_fake = torch.stack([functional.softplus(x.float()).mean() for x in fake]).mean()
        return self.generator(real) + of_fake
