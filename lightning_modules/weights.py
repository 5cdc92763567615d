"""Read weights files, without ever running code from them."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WRAPPERS = (
    *("params_ema", "params", "state_dict", "model", "sd"),
    *("trainer", "gpt_ema_fsdp", "gpt_fsdp", "ema", "vae"),
)


INDEX = ".index.json"  # suffix of the index of weights in several files
# Metadata key in files of `main.py export`: the version of this project.
EXPORTED = "enlarger"


@dataclass
class Weights:
    """Tensors of a file.

    Args:
        tensors: Tensors by name.
        model: Class path of the model they belong to, or None for a file that is not ours.
        name: Name in results: the file's path, and whether EMA weights were used.
        frozen: Source of the weights of each frozen part.
    """

    tensors: dict[str, Tensor]
    model: str | None
    name: str
    frozen: dict[str, str] = field(default_factory=dict)


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
            f"no weights at {path}: set model.init_args.weights to an existing file"
        )
    if path.name.endswith(INDEX):
        return Weights(_parts(path), None, str(path))
    content = read_file(path)
    if path.suffix == ".safetensors":
        about = read_metadata(path)
        if EXPORTED not in about:
            return Weights(content, None, str(path))
        frozen = json.loads(about.get("frozen", "{}"))
        return Weights(content, about.get("model"), str(path), frozen)
    if "pytorch-lightning_version" in content and isinstance(content.get("state_dict"), dict):
        ema = content.get("callbacks", {}).get("EMA")
        tensors = {**content["state_dict"], **(ema["weights"] if ema else {})}
        name = f"{path} (EMA)" if ema else str(path)
        return Weights(tensors, content.get("model"), name, content.get("frozen", {}))
    return Weights(_state_dict(content, path), None, str(path))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if it has none."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _parts(index: Path) -> dict[str, Tensor]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is no index of weights: it has no weight_map") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(names):
        part = index.parent / name
        if not part.is_file():
            raise FileNotFoundError(f"{index} names {name}, which is not beside it: copy it there")
        tensors |= read_file(part)
    return tensors


def read_file(path: Path) -> dict[str, Any]:
    """Return the content of a weights file or checkpoint: only plain types and tensors.

    Args:
        path: The file.

    Raises:
        ValueError: If the file is corrupt, or loading it would run code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch and safetensors raise many types here (UnpicklingError, RuntimeError, EOFError,
        # SafetensorError, ...), which all mean the same to a user.
        raise ValueError(f"{path} {_reason(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return content


def _reason(error: Exception) -> str:
    message = str(error)
    foreign = re.search(r"GLOBAL (\S+)", message)
    if isinstance(error, pickle.UnpicklingError) and foreign:
        # torch's own message advises to load the file anyway.
        return (
            f"holds {foreign[1]}, and loading that would run code: only tensors and plain types "
            "are read; if you trust the file, convert it to safetensors"
        )
    # Other errors of unpickling are meaningless ("101"), or repeat torch's advice.
    if isinstance(error, pickle.UnpicklingError | LookupError) or not message:
        return "is corrupt or no weights file"
    return f"is corrupt or no weights file: {message.splitlines()[0]}"


def _state_dict(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    # Authors wrap the same flat dict in one of these; Infinity's trainer in two of them.
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; its keys are {list(content)[:5]}")
    return tensors


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the first 16 digits of the SHA-256 of names and values; machine-independent."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
