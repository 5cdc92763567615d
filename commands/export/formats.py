"""Export formats: safetensors, spandrel, diffusers, ONNX.

The graph takes ``lr`` (batch, 3, height, width) in [0, 1], with all three axes free, and returns
``sr`` (batch, 3, scale height, scale width), clamped to [0, 1].
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from commands.errors import ConfigurationError
from files.batch import Batch
from lightning_modules.base import ImageModel, SuperResolver
from lightning_modules.frozen import sources
from lightning_modules.methods.regression import OnePass

MEGABYTE = 1e6
TOLERANCE = 1e-4  # of values in [0, 1]: a fortieth of an 8-bit level
SHAPES = ((2, 48, 64), (1, 37, 51))  # images, height, width; the first one is traced, too
AXES = {0: "batch", 2: "height", 3: "width"}


def exported_tensors(model: ImageModel) -> dict[str, Tensor]:
    """Return the tensors of an exported file, by name.

    Excluded are parts that only training needs, and frozen parts with a source of their own, which
    the metadata names.

    Args:
        model: The model.
    """
    trained = set(model.checkpoint_keys())
    sources_of_parts = tuple(f"{part}." if part else "" for part in sources(model))
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(model.training_only)
        and (name in trained or not name.startswith(sources_of_parts))
    }


def write_tensors(model: ImageModel, path: Path, about: dict[str, str]) -> str:
    """Write the file.

    Args:
        model: The model with its weights.
        path: The file.
        about: Its metadata.

    Returns:
        A line for the user.

    Raises:
        SafetensorError: If the file could not be written.
    """
    tensors = exported_tensors(model)
    # Tied tensors are copied: the format has one name for each tensor.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(copies, path, about)
    size = path.stat().st_size / MEGABYTE
    return f"{path.name}: {len(tensors)} tensors, {size:.1f} MB"


def are_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether tensors have the same names and values, whatever their number types."""
    if one.keys() != other.keys():
        return False
    return all(torch.equal(tensor, other[name].to(tensor.dtype)) for name, tensor in one.items())


def check_community(model: ImageModel) -> None:
    """Raise for a network that has no names in spandrel, before anything is written.

    Args:
        model: The model.

    Raises:
        ConfigurationError: If so.
    """
    part = model.network if isinstance(model, OnePass) else model
    if not hasattr(part, "community"):
        raise ConfigurationError(
            f"{type(part).__name__} is no network that spandrel reads (RRDBNet, SRVGGNetCompact, "
            "Spandrel): remove --export.community"
        )


def write_community(model: ImageModel, path: Path) -> str:
    """Write the network alone, and compare its output with what spandrel reads and computes.

    Args:
        model: A model that ``check_community`` accepts.
        path: The file.

    Returns:
        A line for the user.

    Raises:
        ImportError: If spandrel is not installed.
        ConfigurationError: If its output differs.
    """
    from lightning_modules.networks.spandrel import Spandrel

    network = cast(Any, model).network
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in network.community().items()}
    save_file(tensors, path, {"format": "pt"})
    again = Spandrel(model.scale, str(path)).eval()
    lr = _example_inputs((1, 48, 64))
    with torch.no_grad():
        difference = float((again(lr) - network(lr).clamp(0, 1)).abs().max())
    if not difference <= TOLERANCE:
        raise ConfigurationError(
            f"spandrel's network differs from the model's by up to {difference:.1e}, where "
            f"{TOLERANCE:g} is allowed: remove --export.community"
        )
    name = again.descriptor.architecture.name
    return f"{path.name}: {name}, read again by spandrel, at most {difference:.1e} away"


def backbones(model: ImageModel) -> dict[str, Any]:
    """Return the networks of diffusers in a model, by the folder of each, such as ``unet``.

    Args:
        model: The model. Parts that only training needs are left out.
    """
    networks: dict[str, Any] = {}
    for name, part in model.named_modules():
        is_inner = name.startswith(tuple(f"{outer}." for outer in networks))
        is_network = type(part).__module__.startswith("diffusers.")
        is_network &= hasattr(part, "save_pretrained")
        if is_network and not is_inner and not name.startswith(model.training_only):
            networks[name] = part
    folders: dict[str, Any] = {}
    for name, network in networks.items():
        folder = name.rpartition(".")[2]
        folders[name if folder in folders else folder] = network
    return folders


def write_backbones(model: ImageModel, folder: Path) -> list[str]:
    """Write each network, and compare it with what diffusers reads again.

    Args:
        model: The model with its weights.
        folder: Parent folder.

    Returns:
        A line for each network.

    Raises:
        ConfigurationError: If diffusers can no longer read a network.
    """
    lines = []
    for name, network in backbones(model).items():
        kind = type(network).__name__
        network.to(memory_format=torch.contiguous_format)  # the format has no memory layouts
        network.save_pretrained(folder / name)
        # Or it would require accelerate.
        again = type(network).from_pretrained(folder / name, low_cpu_mem_usage=False)
        if not are_same(again.state_dict(), network.state_dict()):
            raise ConfigurationError(
                f"{name} is no longer a plain {kind} of diffusers, which would read different "
                "weights: remove --export.diffusers"
            )
        count = sum(parameter.numel() for parameter in network.parameters())
        lines.append(f"{name}: {kind}, {count:,} parameters, read again by diffusers")
    return lines


class Graph(nn.Module):
    """A method from LR to the clamped output, for ONNX.

    Args:
        model: The method; its scale is a whole number.
    """

    def __init__(self, model: SuperResolver) -> None:
        super().__init__()
        self.model, self.factor = model, int(model.scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Return (B, 3, scale h, scale w) for lr (B, 3, h, w)."""
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
    reason = ""
    packages = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not isinstance(model, SuperResolver) or not model.one_pass:
        reason = f"{type(model).__name__} is not one pass of a network"
    elif model.scale % 1:
        reason = f"data.init_args.scale is {model.scale:g}, which is not a whole factor"
    elif model.color_fix != "none":
        reason = f"model.init_args.color_fix is {model.color_fix}: give none"
    elif "self_ensemble" in model.output_settings:
        reason = "model.init_args.self_ensemble is eight passes: set it to false"
    if reason:
        raise ConfigurationError(f"--export.onnx cannot write the model: {reason}")
    if missing:
        raise ConfigurationError(
            f"--export.onnx requires {', '.join(missing)}: install the extra: "
            "pip install -c constraints.txt -e '.[onnx]'"
        )


def write_onnx(model: ImageModel, path: Path, about: dict[str, str]) -> str:
    """Write the file, and compare its outputs with torch's.

    Args:
        model: A model that ``check_one_pass`` accepts.
        path: The file.
        about: Its metadata.

    Returns:
        A line for the user.

    Raises:
        ConfigurationError: If the network cannot be traced for all sizes, or outputs differ.
    """
    network = Graph(cast(SuperResolver, model)).eval()
    try:
        _trace(network, path, about)
        difference = max(_difference(network, path, shape) for shape in SHAPES)
    except Exception as error:  # of many types; errors of onnxruntime have no common base
        part = type(model.network if isinstance(model, OnePass) else model).__name__
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigurationError(
            f"{part} cannot be traced to ONNX of any height and width ({reason}): remove "
            "--export.onnx"
        ) from error
    sizes = ", ".join(f"{h}x{w}" for _, h, w in SHAPES)
    if not difference <= TOLERANCE:
        raise ConfigurationError(
            f"{path.name} differs from torch by up to {difference:.1e}, where {TOLERANCE:g} is "
            "allowed: remove --export.onnx"
        )
    return f"{path.name}: on photographs of {sizes} at most {difference:.1e} from torch"


def _trace(network: Graph, path: Path, about: dict[str, str]) -> None:
    """Trace a network and write its graph, for any number and size of images."""
    axes = {axis: torch.export.Dim(name) for axis, name in AXES.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        # Traced separately: after a failure, torch.onnx.export tries other ways for minutes.
        traced = torch.export.export(network, (_example_inputs(SHAPES[0]),), dynamic_shapes=(axes,))
        program: Any = torch.onnx.export(
            traced,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes=(axes,),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    program.model.metadata_props.update(about)
    program.save(path)


def _difference(network: Graph, path: Path, shape: tuple[int, int, int]) -> float:
    """Return the largest difference between onnxruntime's output and torch's, on a photograph."""
    import onnxruntime

    lr = _example_inputs(shape)
    with torch.no_grad():
        expected = network(lr)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sr = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
    return float((sr - expected).abs().max()) if sr.shape == expected.shape else math.inf


def _example_inputs(shape: tuple[int, int, int]) -> Tensor:
    """Return natural pixels (B, 3, H, W), to trace a network and to compare its export with it.

    Args:
        shape: (B, H, W).
    """
    from skimage import data

    count, height, width = shape
    photo = torch.from_numpy(cast(Any, data).astronaut())
    squares = [photo[100 : 100 + height, 200 + n : 200 + n + width] for n in range(count)]
    return torch.stack(squares).movedim(-1, 1) / 255
