"""Any community checkpoint that the package spandrel knows (ESRGAN, SwinIR, HAT, ...).

For testing and prediction: spandrel runs its models without gradients, so nothing here is trained.
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
    """A published network with its weights; architecture and sizes are read off the file.

    Args:
        scale: Factor of enlargement, which has to be the file's (linked from
            data.init_args.scale).
        path: File of weights: .safetensors, or .pth, .pt or .ckpt with plain tensors. Environment
            variables are expanded. No code in it is run.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ImportError: The package spandrel is not installed.
        ValueError: The file is corrupt or would run code, is of no architecture that spandrel
            knows, is of another scale, or does not go from RGB to RGB.
    """

    def __init__(self, scale: float, path: str) -> None:
        super().__init__()
        file = _existing(path)
        self.descriptor = _descriptor(file)
        _check(self.descriptor, scale, file)
        # Registered, so that it moves between devices; the descriptor refers to the same object.
        self.model = self.descriptor.model.requires_grad_(False)
        self.scale = self.descriptor.scale
        # What a Lightning module reports as the source of its weights: these are not random.
        self.weights_source = str(file)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1]; padded inside where the architecture needs certain sizes.

        Returns:
            (B, 3, scale * h, scale * w) in [0, 1].
        """
        # One at a time, as spandrel asks; and cat leaves its inference mode, so that the result
        # may be written to.
        return torch.cat([self.descriptor(image) for image in torch.split(lr, 1)])


def _existing(path: str) -> Path:
    """The file at `path`, environment variables and ~ expanded."""
    key = "model.init_args.network.init_args.path"
    file = Path(expand_path(path, key))
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}, given as {key}")
    return file


def _descriptor(file: Path) -> ImageModelDescriptor[Any]:
    """The model of a file, and what spandrel knows about it."""
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
    """Refuse a model that is not from RGB to RGB, or of another scale."""
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
