"""``export``: a one-pass method as ONNX, compared with torch on images of two sizes.

The graph takes ``lr`` (1, 3, h, w) in [0, 1] of any height and width, and returns ``sr``
(1, 3, scale h, scale w), clamped to [0, 1].
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from commands.errors import ConfigurationError
from commands.export_tensors import head
from lightning_modules.base import SuperResolver
from lightning_modules.image_model import ImageModel

if TYPE_CHECKING:
    from commands.export_about import About
    from datamodules.base import Batch

TOLERANCE = 1e-4  # of values in [0, 1]: a fortieth of an 8-bit level
SIZES = ((48, 64), (37, 51))  # the first one is traced, too


class OnePass(nn.Module):
    """A method from LR to the clamped output, for ONNX.

    Args:
        model: The method; its scale is a whole number.
    """

    def __init__(self, model: SuperResolver) -> None:
        super().__init__()
        self.model, self.factor = model, int(model.scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Return (1, 3, scale h, scale w) for lr (1, 3, h, w)."""
        size = (lr.shape[-2] * self.factor, lr.shape[-1] * self.factor)
        batch = cast("Batch", {"lr": lr, "size": size})
        return self.model.restore(batch, cast(Any, None)).clamp(0, 1)  # it draws no noise


def check_one_pass(model: ImageModel) -> None:
    """Raise for a model that ONNX cannot hold, before anything is written.

    Args:
        model: The model.

    Raises:
        ConfigurationError: If it is not a one-pass method, its scale is not a whole number, colours
            are fixed outside of the network, or a package is missing.
    """
    name = type(model).__name__
    if not isinstance(model, SuperResolver) or not model.one_pass:
        raise ConfigurationError(
            f"{name} is not one pass of a network, as ONNX requires: remove --export.onnx"
        )
    if model.scale != int(model.scale):
        raise ConfigurationError(
            f"data.init_args.scale is {model.scale:g}, but ONNX requires a whole factor: set "
            "--data.init_args.scale, or remove --export.onnx"
        )
    if model.color_fix != "none":
        raise ConfigurationError(
            f"model.init_args.color_fix is {model.color_fix}, which runs outside of the network: "
            "give --model.init_args.color_fix none, or remove --export.onnx"
        )
    missing = [p for p in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(p)]
    if missing:
        raise ConfigurationError(
            f"--export.onnx requires {', '.join(missing)}: install the extra: "
            "pip install -c constraints.txt -e '.[onnx]'"
        )


def write_onnx(model: ImageModel, path: Path, about: About) -> str:
    """Write the file, and compare its outputs with torch's.

    Args:
        model: A model that ``check_one_pass`` accepts.
        path: The file.
        about: Facts about the weights, which the file stores.

    Returns:
        A line for the user.

    Raises:
        ConfigurationError: If the network cannot be traced for all sizes, or outputs differ.
    """
    network = OnePass(cast(SuperResolver, model)).eval()
    _traced(network, path, about)
    try:
        difference = max(_difference(network, path, size) for size in SIZES)
    except Exception as error:  # errors of onnxruntime have no common base
        raise ConfigurationError(_untraced(model, error)) from error
    sizes = ", ".join(f"{h}x{w}" for h, w in SIZES)
    if not difference <= TOLERANCE:
        raise ConfigurationError(
            f"{path.name} differs from torch by up to {difference:.1e}, where {TOLERANCE:g} is "
            "allowed: remove --export.onnx"
        )
    return f"{path.name}: on photographs of {sizes} at most {difference:.1e} from torch"


def _traced(network: OnePass, path: Path, about: About) -> None:
    free = torch.export.Dim.DYNAMIC
    shapes = ({2: free, 3: free},)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch, about itself
            # Traced separately: after a failure, torch.onnx.export tries other ways for minutes.
            traced = torch.export.export(network, (_photo(SIZES[0]),), dynamic_shapes=shapes)
            program = torch.onnx.export(
                traced,
                input_names=["lr"],
                output_names=["sr"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # of many types
        raise ConfigurationError(_untraced(network.model, error)) from error
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program; Enlarger was tested with torch 2.15")
    program.model.metadata_props.update(head(about))
    program.save(path)


def _difference(network: OnePass, path: Path, size: tuple[int, int]) -> float:
    import onnxruntime

    lr = _photo(size)
    with torch.no_grad():
        expected = network(lr)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
    return float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")


def _photo(size: tuple[int, int]) -> Tensor:
    from skimage import data

    height, width = size
    photo = cast(Any, data).astronaut()
    pixels = torch.from_numpy(photo[100 : 100 + height, 200 : 200 + width].copy())
    return pixels.permute(2, 0, 1)[None] / 255


def _untraced(model: ImageModel, error: Exception) -> str:
    network = type(getattr(model, "network", model)).__name__
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"{network} cannot be traced to ONNX of any height and width ({reason}): remove "
        "--export.onnx"
    )
