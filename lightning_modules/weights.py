"""Read weights files, fit them into a model or a frozen part, and take fingerprints.

A checkpoint holds what training changes. For a frozen part it holds the source of its weights and
their hash, so that a run cannot silently continue with other weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from files.tensors import check_numbers, read_file, read_metadata, unwrapped

log = logging.getLogger(__name__)
INDEX = ".index.json"  # suffix of the index of weights in several files

# Metadata key in files of `main.py export`: the version of this project.
EXPORTED = "enlarger"
_SHOWN = 3  # names of each kind in an error
_HASH = re.compile(r"\b[0-9a-f]{16}\b")  # as of `fingerprint`


@dataclass
class Weights:
    """Tensors of a file.

    Args:
        tensors: Tensors by name.
        model: Class path of the model they belong to, or None for a file that is not ours.
        path: The file.
        averages: Name of the group in the file that has averages of the weights, which are used;
            "" for none.
        frozen: Source of the weights of each frozen part.
        trained_with: What is known of ``ImageModel.trained_with`` when they were trained.
    """

    tensors: dict[str, Tensor]
    model: str | None
    path: str
    averages: str = ""
    frozen: dict[str, str] = field(default_factory=dict)
    trained_with: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in results: the file's path, and whether it is the EMA of a run."""
        return f"{self.path} (EMA)" if self.model and self.averages else self.path

    def log(self) -> None:
        """Log the file, and whether its averages are used."""
        averages = f", its averages ({self.averages})" if self.averages else ""
        log.info("weights: %s%s", self.path, averages)


def read_weights(path: str | Path) -> Weights:
    """Read our checkpoint (EMA preferred), an exported file, or an official one.

    Args:
        path: The file, or an index (``*.index.json``) of several files beside it, as transformers
            writes them.

    Raises:
        FileNotFoundError: If the file, or one that the index names, is missing.
        ValueError: If the file is corrupt, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: set an existing file (runs and names of configs/weights.yaml "
            "are for enlarger.load and main.py)"
        )
    content: dict[str, Any] = _parts(path) if path.name.endswith(INDEX) else read_file(path)
    about = read_metadata(path) if path.suffix == ".safetensors" else {}
    if EXPORTED in about:
        return Weights(
            content,
            about.get("model"),
            str(path),
            frozen=json.loads(about.get("frozen", "{}")),
            trained_with=json.loads(about.get("trained_with", "{}")),
        )
    model = content.get("model")
    state = content.get("state_dict")
    if isinstance(model, str) and isinstance(state, dict):
        averages = content.get("callbacks", {}).get("EMA", {}).get("weights", {})
        return Weights(
            {**state, **averages},
            model,
            str(path),
            averages="EMA" if averages else "",
            frozen=content.get("frozen", {}),
            trained_with=content.get("trained_with", {}),
        )
    tensors, group = unwrapped(content, path)
    return Weights(tensors, None, str(path), group)


def unlike(settings: Mapping[str, Any], trained: Mapping[str, Any]) -> list[str]:
    """Return the settings that differ, such as ``process.steps 15, there 4``.

    Args:
        settings: Settings by name, or groups of them.
        trained: Those of some weights; only what both have is compared.
    """
    differences = []
    for name, here in settings.items():
        if name not in trained:
            continue
        there = trained[name]
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            differences += [f"{name}.{difference}" for difference in unlike(here, there)]
        elif here != there:
            differences.append(f"{name} {here}, there {there}")
    return differences


def _parts(index: Path) -> dict[str, Tensor]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is no index of weights: it has no weight_map") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(names):
        tensors |= read_file(index.parent / name)
    return tensors


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the first 16 digits of the SHA-256 of names and values; machine-independent."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a model, by the part's own names; may be empty."""
    start = f"{part}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def recognise(module: nn.Module, names: Iterable[str]) -> None:
    """Have networks within read from weights what shapes do not show, such as ResShift's mask.

    Args:
        module: The module to load into.
        names: Names of the tensors.
    """
    for prefix, part in module.named_modules():
        if not hasattr(type(part), "recognise"):
            continue
        start = f"{prefix}." if prefix else ""
        inner = [name.removeprefix(start) for name in names if name.startswith(start)]
        if inner:
            cast(Any, part).recognise(inner)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors strictly: all of them, into all of the module.

    Args:
        module: The module to load into.
        tensors: Tensors by the module's own names.
        where: Name of the file, for messages.

    Raises:
        ValueError: If tensors are missing, unexpected, of another shape, or no finite
            floating-point numbers.
    """
    recognise(module, tensors)
    current = module.state_dict()
    check_tensors(where, current, tensors, required=current)
    module.load_state_dict(tensors)


def renamed_by(
    tensors: Mapping[str, Tensor], rules: Sequence[tuple[re.Pattern[str], str]]
) -> dict[str, Tensor]:
    """Return tensors by other names.

    Args:
        tensors: Flat state dict.
        rules: Patterns of names, and their replacements; each is tried on each name.
    """
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = pattern.sub(replacement, name)
        result[name] = tensor
    return result


def load_part(
    module: nn.Module,
    weights: Weights,
    part: str,
    official: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Load a module from a file: a run's part of this name, or else a whole released file.

    Args:
        module: The module to load into.
        weights: Weights of the file.
        part: Name of the module in a run.
        official: Maps tensors of a released file to the module's own names.

    Returns:
        The loaded tensors, by the module's own names.

    Raises:
        ValueError: As in ``load_strictly`` and ``refuse_unlike``.
    """
    tensors = part_of(weights.tensors, part) or official(weights.tensors)
    load_strictly(module, tensors, weights.name)
    refuse_unlike(module, weights, part)
    return tensors


def refuse_unlike(module: nn.Module, weights: Weights, part: str) -> None:
    """Raise if a part of a run was trained with settings that the module does not have.

    Args:
        module: The module that has its weights.
        weights: Weights of the run.
        part: Name of the part in the run.

    Raises:
        ValueError: If so.
    """
    theirs = weights.trained_with.get(part, {})
    differences = unlike(getattr(module, "trained_with", {}), theirs)
    if differences:
        raise ValueError(
            f"{weights.name} was trained with other settings of its {part} "
            f"({'; '.join(differences)}): set them as there"
        )


def refuse(message: str, missing: list[str], unexpected: list[str], reshaped: list[str]) -> None:
    """Raise if tensors of a file do not fit.

    Raises:
        ValueError: If one of the lists is not empty.
    """
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    problems = []
    for kind, names in kinds.items():
        if names:
            ending = ", ..." if len(names) > _SHOWN else ""
            problems.append(f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{ending})")
    if problems:
        raise ValueError(
            f"{message}: {'; '.join(problems)}. Is it another network, size or scale? See "
            "model.init_args and data.init_args.scale; with model.init_args.weights_strict false, "
            "fit starts from those tensors of model.init_args.weights that fit"
        )


def shape_text(shape: Iterable[int]) -> str:
    """Format a shape for messages: 1x3x64x64."""
    return "x".join(map(str, shape))


def check_tensors(
    where: str,
    current: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    required: Container[str],
) -> None:
    """Raise if tensors do not fit a model.

    Args:
        where: Name of the file, for messages.
        current: The model's tensors.
        tensors: The tensors to load.
        required: Names of the model's tensors that must be among them.

    Raises:
        ValueError: If tensors are missing, unexpected, of another shape, or no finite
            floating-point numbers.
    """
    refuse(
        f"the tensors of {where} do not fit the model",
        missing=[name for name in current if name in required and name not in tensors],
        unexpected=[name for name in tensors if name not in current],
        reshaped=[
            f"{name} {shape_text(tensors[name].shape)} for {shape_text(tensor.shape)}"
            for name, tensor in current.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ],
    )
    check_numbers(where, tensors, current)


def frozen_parts(model: nn.Module) -> dict[str, str]:
    """Return the source and hash of the weights of each frozen part that has them from elsewhere.

    They are those with an attribute ``source``, which is empty until the weights are loaded.
    """
    frozen = {}
    for name, part in model.named_modules():
        source = getattr(part, "source", None)
        if isinstance(source, str) and not _trains_whole(part):
            frozen[name] = source
    return frozen


def is_random(part: nn.Module | None) -> bool:
    """Whether a frozen part has a ``source`` of its weights that is still empty.

    Args:
        part: A part of a method; None for a part that is left out.
    """
    if part is None or getattr(part, "source", None) != "":
        return False
    return any(True for _ in part.parameters()) and not _trains_whole(part)


def sources(model: nn.Module) -> dict[str, str]:
    """Return those frozen parts whose weights are loaded."""
    return {name: source for name, source in frozen_parts(model).items() if source}


def same_weights(one: str, other: str) -> bool:
    """Whether two sources are the same weights: only hashes count, as files may be moved."""
    return _HASH.findall(one) == _HASH.findall(other)


def hash_of(source: str) -> str:
    """Return the hashes of a source, or, of one without any, all of it."""
    return " ".join(_HASH.findall(source)) or source


def check_sources(model: nn.Module, stored: Mapping[str, str]) -> None:
    """Raise if a checkpoint was trained with other frozen weights.

    Only hashes count, as folders may be moved.

    Args:
        model: The model.
        stored: The result of ``sources`` when the checkpoint was written.

    Raises:
        ValueError: If a frozen part has other weights now.
    """
    current = sources(model)
    for name, source in stored.items():
        here = current.get(name, "")
        if not same_weights(here, source):
            raise ValueError(
                f"the checkpoint was trained with {name} from {source}, and here it is "
                f"{here or 'missing'}: set the same weights in model.init_args"
            )


def _trains_whole(module: nn.Module) -> bool:
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and all(trained)
