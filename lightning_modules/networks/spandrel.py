"""Any network that the package spandrel knows (ESRGAN, SwinIR, HAT, ...), and its checkpoints.

A published file as it is, a file that is fine-tuned, or an architecture that is trained from
scratch. What was trained is read again by spandrel, and so by programs that use it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from files.paths import expand_path
from files.weights import check_numbers, is_plain, read_weights

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

KEY = "model.init_args.network.init_args"
FILES = "main.py list networks names files with arguments that work"
# What spandrel's classes call their factor of enlargement.
FACTORS = ("scale", "upscale", "up_scale", "upscale_factor", "upscaling_factor")


class Spandrel(nn.Module):
    """A network of spandrel: published weights, also to fine-tune, or an architecture to train.

    Args:
        scale: Factor of enlargement, which must be the file's (linked from data.init_args.scale).
        path: File of weights: .safetensors, or .pth, .pt or .ckpt with plain tensors. Environment
            variables are expanded. No code in it is run. Architecture and sizes follow from it.
        train: Train the network of a file. False: frozen, for testing and prediction, one image
            at a time, as spandrel runs it.
        architecture: Instead of a path, a class of spandrel to train from scratch, such as
            ``SwinIR``, ``HAT`` or ``SPAN``; ``configs/network`` has files for some.
        arguments: Arguments of that class, which has few useful defaults; the factor of enlargement
            is added.

    Raises:
        FileNotFoundError: If there is no file at ``path``.
        ImportError: If the package spandrel is not installed.
        ValueError: If the file is corrupt or would run code, has an architecture that spandrel
            does not support, another scale or other channels; if the class is unknown or refuses
            its arguments; or if arguments contradict each other.
    """

    def __init__(
        self,
        scale: float,
        path: str | None = None,
        train: bool = False,
        architecture: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if path is not None and (architecture is not None or arguments):
            raise ValueError(f"{KEY}.path has its own architecture: remove the other arguments")
        self.trains = train or path is None
        # Reported by the method as the source of its weights; None for random ones.
        self.weights_source: str | None = None
        # The model is registered, so that it moves between devices.
        if path is not None:
            weights = read_weights(expand_path(path, f"{KEY}.path"))
            origin = weights.path
            self.descriptor = described(weights.tensors, origin)
            self.model = self.descriptor.model
            self.weights_source = weights.name
            weights.log()
        else:
            origin = f"{KEY}.architecture {architecture}"
            self.model = _untrained(str(architecture), scale, arguments or {})
            self.descriptor = described(self.model.state_dict(), origin)
        channels = self.descriptor.input_channels, self.descriptor.output_channels
        if channels != (3, 3):
            raise ValueError(f"{origin} has {channels} channels of input and output, expected RGB")
        if self.descriptor.scale != scale:
            raise ValueError(
                f"{origin} ({self.descriptor.architecture.name}) enlarges by "
                f"{self.descriptor.scale}, but data.init_args.scale is {scale:g}"
            )
        for name, parameter in self.model.named_parameters():
            # SPAN computes the first from its others, so they have no gradients, and DDP refuses
            # that; the others are RCAN's mean colour, which its authors keep constant.
            is_fixed = ".eval_conv." in name or name.startswith(("sub_mean.", "add_mean."))
            parameter.requires_grad = self.trains and not is_fixed
        self.scale = self.descriptor.scale
        self.divisor = self.descriptor.size_requirements.multiple_of  # of LR sides

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1]; padded if the architecture needs certain sizes.

        Returns:
            (B, 3, scale * h, scale * w) in [0, 1]; with ``train`` not clamped.
        """
        lr = lr.clone()  # RCAN multiplies its input in place
        if not (self.trains or torch.compiler.is_exporting()):  # an exported file takes any batch
            # One image at a time, as spandrel requires. cat leaves spandrel's inference mode, so
            # that the result may be changed in place.
            return torch.cat([self.descriptor(image) for image in torch.split(lr, 1)])
        h, w = lr.shape[-2:]
        # The descriptor's own call computes without gradients. Some networks give several outputs,
        # or another range, which this function knows.
        sr: Tensor = self.descriptor._call_fn(self.model, self._padded(lr))
        sr = sr[..., : self.scale * h, : self.scale * w]
        return sr if self.trains else sr.clamp(0, 1)

    def _padded(self, lr: Tensor) -> Tensor:
        """Pad to a size that the network takes: mirrored as far as there are pixels, then repeated.

        As spandrel does, but as plain arithmetic, which can be traced for any size.
        """
        needs = self.descriptor.size_requirements
        if needs.none:
            return lr
        multiple = needs.multiple_of
        sides: list[Any] = [torch.sym_max(n, needs.minimum) for n in lr.shape[-2:]]
        sides = [(n + multiple - 1) // multiple * multiple for n in sides]
        if needs.square:
            sides = [torch.sym_max(*sides)] * 2
        for axis, side in zip((-2, -1), sides, strict=True):
            pixels = lr.shape[axis]
            # Beyond the border, count back from it; beyond the first pixel, repeat that one.
            index = torch.arange(side, device=lr.device)
            index = torch.where(index < pixels, index, (2 * pixels - 2 - index).clamp(min=0))
            lr = lr.index_select(axis, index)
        return lr

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published file by this network's names.

        Args:
            tensors: Flat state dict, by any names that spandrel knows for the architecture.
        """
        model = described(tensors, "the file of model.init_args.weights").model
        return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}

    def community(self) -> dict[str, Tensor]:
        """Return the tensors by names that spandrel knows."""
        return dict(self.model.state_dict())

    def without_path(self) -> dict[str, Any]:
        """Return arguments of this class that build the same network without its file."""
        names = {kind: name for name, kind in architectures().items()}
        settings: dict[str, Any] = self.model.hyperparameters  # spandrel's record of them
        # Its readers leave the others, which are classes of layers, at their defaults.
        plain = {name: value for name, value in settings.items() if is_plain(value)}
        arguments = json.loads(json.dumps(plain))  # lists for tuples
        return {"train": True, "architecture": names[type(self.model)], "arguments": arguments}


def _spandrel() -> Any:
    """Import the package spandrel, which is optional."""
    try:
        import spandrel
    except ImportError as error:
        raise ImportError(
            "the network Spandrel needs the package spandrel, which is optional: "
            "pip install -c constraints.txt -e '.[spandrel]'"
        ) from error
    return spandrel


def described(tensors: Mapping[str, Tensor], where: str) -> ImageModelDescriptor[Any]:
    """Return the model of tensors with spandrel's description.

    Args:
        tensors: Flat state dict.
        where: Name of the file, for messages.

    Raises:
        ImportError: If the package spandrel is not installed.
        ValueError: If spandrel does not know the network.
    """
    spandrel = _spandrel()
    state = dict(spandrel.canonicalize_state_dict(dict(tensors)))  # some networks' readers pop
    try:
        descriptor: Any = spandrel.ModelLoader().load_from_state_dict(state)
    except Exception as error:  # of foreign code, which checks little
        raise ValueError(
            f"spandrel {spandrel.__version__} cannot read {where}: {type(error).__name__}: {error}"
        ) from error
    check_numbers(where, tensors, descriptor.model.state_dict())
    return cast("ImageModelDescriptor[Any]", descriptor)


def architectures() -> dict[str, type[nn.Module]]:
    """Return the networks of spandrel, by the names of their classes.

    Raises:
        ImportError: If the package spandrel is not installed.
    """
    folder = _spandrel().architectures
    networks: dict[str, type[nn.Module]] = {}
    for info in pkgutil.iter_modules(folder.__path__):
        if info.name.startswith("_"):  # code that several share
            continue
        module = importlib.import_module(f"{folder.__name__}.{info.name}")
        for name in module.__all__:
            public = getattr(module, name)
            if issubclass(public, nn.Module):
                networks[name] = public
    return networks


def _untrained(name: str, scale: float, arguments: dict[str, Any]) -> nn.Module:
    """Return a network with random weights: ``Spandrel``'s ``architecture`` and ``arguments``."""
    networks = architectures()
    if name not in networks:
        names = ", ".join(sorted(networks))
        raise ValueError(f"{KEY}.architecture is {name!r}; spandrel has {names}")
    parameters = inspect.signature(networks[name]).parameters
    # Classes name the factor of enlargement differently; the user's own argument wins below.
    factors = {factor: int(scale) for factor in FACTORS if factor in parameters}
    upsampler = parameters["upsampler"].default if "upsampler" in parameters else "its own"
    if scale != 1 and not arguments.get("upsampler", upsampler):
        raise ValueError(
            f"without {KEY}.arguments.upsampler, such as pixelshuffle, {name} does not enlarge, "
            f"but data.init_args.scale is {scale:g}; {FILES}"
        )
    try:
        return networks[name](**{**factors, **arguments})
    except Exception as error:  # of foreign code, which checks little
        raise ValueError(
            f"{KEY}.arguments of {name}: {type(error).__name__}: {error}; {FILES}"
        ) from error
