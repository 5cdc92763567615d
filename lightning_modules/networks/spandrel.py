"""Any community checkpoint that the package spandrel supports (ESRGAN, SwinIR, HAT, ...).

For testing and prediction only: spandrel runs its models without gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from files.paths import expand_path
from lightning_modules.weights import read_file

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor


class Spandrel(nn.Module):
    """A published network with its weights; architecture and sizes follow from the file.

    Args:
        scale: Factor of enlargement, which must be the file's (linked from data.init_args.scale).
        path: File of weights: .safetensors, or .pth, .pt or .ckpt with plain tensors. Environment
            variables are expanded. No code in it is run.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ImportError: If the package spandrel is not installed.
        ValueError: If the file is corrupt or would run code, has an architecture that spandrel
            does not support, has another scale, or does not map RGB to RGB.
    """

    def __init__(self, scale: float, path: str) -> None:
        super().__init__()
        file = _existing(path)
        self.descriptor = _descriptor(file)
        _check(self.descriptor, scale, file)
        # Registered, so that it moves between devices; the descriptor refers to the same object.
        self.model = self.descriptor.model.requires_grad_(False)
        self.scale = self.descriptor.scale
        # Reported by the method as the source of its weights, which are not random.
        self.weights_source = str(file)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1]; padded if the architecture needs certain sizes.

        Returns:
            (B, 3, scale * h, scale * w) in [0, 1].
        """
        # One image at a time, as spandrel requires. cat leaves spandrel's inference mode, so that
        # the result may be changed in place.
        return torch.cat([self.descriptor(image) for image in torch.split(lr, 1)])


def scale_of_file(path: str) -> float:
    """Return the factor by which the network of a file enlarges.

    Args:
        path: As of ``Spandrel``.

    Raises:
        FileNotFoundError: As ``Spandrel``; likewise the others.
        ImportError: If the package spandrel is not installed.
        ValueError: If the file is no such network.
    """
    return float(_descriptor(_existing(path)).scale)


def _existing(path: str) -> Path:
    """Return the file at `path`, with environment variables and ~ expanded."""
    key = "model.init_args.network.init_args.path"
    file = Path(expand_path(path, key))
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}, given as {key}")
    return file


def _descriptor(file: Path) -> ImageModelDescriptor[Any]:
    """Return the model of a file with spandrel's description."""
    try:
        import spandrel
    except ImportError as error:
        raise ImportError(
            "the network Spandrel needs the package spandrel, which is optional: "
            "pip install -c constraints.txt -e '.[spandrel]'"
        ) from error
    # Read by us, not by spandrel: torch's weights-only reader, and no TorchScript.
    state = spandrel.canonicalize_state_dict(read_file(file))
    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise ValueError(
            f"{file} is of no architecture that spandrel {spandrel.__version__} knows; set "
            "model.init_args.network.init_args.path to another file"
        ) from error
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise ValueError(
            f"{file} is a {descriptor.architecture.name} for inpainting, expected a model that "
            "takes an image alone; set model.init_args.network.init_args.path to another file"
        )
    return descriptor


def _check(descriptor: ImageModelDescriptor[Any], scale: float, file: Path) -> None:
    """Raise if a model does not map RGB to RGB, or has another scale."""
    name = descriptor.architecture.name
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels != (3, 3):
        raise ValueError(
            f"{file} ({name}) goes from {channels[0]} to {channels[1]} channels, expected RGB, 3 "
            "to 3; set model.init_args.network.init_args.path to another file"
        )
    if descriptor.scale != scale:
        raise ValueError(
            f"{file} ({name}) enlarges by {descriptor.scale}, but data.init_args.scale is "
            f"{scale:g}; use {descriptor.scale}, or another file"
        )
