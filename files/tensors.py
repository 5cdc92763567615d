"""Read files of tensors by name: no code in them is run, and averaged weights are preferred."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from files.checksums import check_intact

# Groups in authors' files, beside others such as the optimiser. One may be inside another.
WRAPPERS = (
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "sd",
    "trainer",
    "gpt_fsdp",
    "vae",
    "module",
    "net_g",
    "generator",
)
# A group or prefix with such a word has averages: params-ema, ema_0.9999, modelEMA, emaweights.
_OF = "(?:model|net|params|weights)?"
AVERAGED = re.compile(f"{_OF}(?:ema|swa|avg|averaged?|shadow|polyak){_OF}", re.IGNORECASE)
# Numbers that authors store among the averages.
COUNTERS = {"decay", "num_updates", "n_averaged", "initted", "step"}
STATISTICS = ("running_mean", "running_var")  # buffers, which lists of averages leave out
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

log = logging.getLogger(__name__)
_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_DISTRIBUTED = "module."  # prefix of all names


def read_file(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Return the content of a weights file or checkpoint: only plain types and tensors.

    Args:
        path: The file.
        mapped: Leave the tensors on the disk until they are used, and do not check their bytes.

    Raises:
        ValueError: If the file is corrupt, or loading it would run code.
    """
    if not mapped:
        check_intact(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        mapped = mapped and is_zipfile(path)
        content = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:
        # torch and safetensors raise many types here (UnpicklingError, RuntimeError, EOFError,
        # SafetensorError, ...), which all mean the same to a user.
        raise ValueError(f"{path} {_reason(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return content


def plain(content: Any) -> Any:
    """Return nested content with NumPy's numbers as Python's: ``read_file`` refuses the first."""
    if isinstance(content, np.generic):
        return content.item()
    if type(content) is dict:
        return {key: plain(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(map(plain, content))
    return content


def is_plain(value: Any) -> bool:
    """Return whether nested content has only numbers, texts and tensors, which are read again."""
    if type(value) is dict:
        return is_plain([*value.keys(), *value.values()])
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file of any author, by bare names.

    Raises:
        ValueError: As in ``read_file`` and ``unwrapped``.
    """
    return unwrapped(read_file(path), path)[0]


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if it has none."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def unwrapped(content: Mapping[str, Any], where: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file of any author, by bare names: its averages if it has some.

    Args:
        content: Content of the file.
        where: The file, for messages.

    Returns:
        The tensors, and the name of the averages' group or prefix, or "".

    Raises:
        ValueError: If there are no tensors by name, or averages that cannot be named.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        if isinstance(value, dict) and _has_tensors(value):
            groups[name] = value
    tensors = _tensors_in(content)
    wrapper = next((name for name in WRAPPERS if name in groups), None)
    if wrapper is None and len(groups) == 1 and not tensors:
        wrapper = next(iter(groups))
    averaged_in_wrapper = ""
    if wrapper is not None:
        tensors, averaged_in_wrapper = unwrapped(groups[wrapper], where)

    averaged = []
    for name, value in content.items():
        if _is_average(name) and (name in groups or _listed(value)):
            averaged.append(name)
    if averaged:
        name = _first_of(averaged, where)
        if name in groups:
            averages, _ = unwrapped(groups[name], where)
        else:
            averages = _paired(_listed(content[name]), tensors, f"{where}, {name},")
        if averages.keys() <= tensors.keys():  # buffers and frozen parts may be left out
            averages = {**tensors, **averages}
        return averages, name
    if not tensors:
        raise ValueError(f"{where} holds no tensors by name; its keys are {list(content)[:5]}")
    if wrapper is not None:
        return tensors, averaged_in_wrapper
    return _by_prefix(tensors, where)


def bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the name prefixes that compiling and DDP add."""
    return {
        _COMPILED.sub("", name).removeprefix(_DISTRIBUTED): tensor
        for name, tensor in tensors.items()
    }


def _tensors_in(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Tensor) and name not in COUNTERS:
            tensors[name] = value
    return bare_names(tensors)


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    if _tensors_in(content):
        return True
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, dict) and _has_tensors(value):
            return True
    return False


def _is_average(name: object) -> bool:
    if not isinstance(name, str):
        return False
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return any(map(AVERAGED.fullmatch, words))


def _first_of(averages: list[str], where: str | Path) -> str:
    first, *others = averages
    if others:
        text = "%s has several averages: %s is used, not %s; remove it from the file to use another"
        log.warning(text, where, first, ", ".join(others))
    return first


def _listed(group: Any) -> list[Tensor]:
    """Return averages without names, such as ``shadow_params`` of torch_ema and diffusers."""
    if isinstance(group, dict):
        lists = map(_listed, group.values())
        return next(filter(None, lists), [])
    if not isinstance(group, list | tuple):
        return []
    are_tensors = all(isinstance(value, Tensor) for value in group)
    if are_tensors and any(value.ndim for value in group):
        return list(group)
    return []


def _paired(averages: list[Tensor], tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Name averages of parameters, which are in their order, after the tensors beside them."""
    parameters = {}
    for name, value in tensors.items():
        if value.is_floating_point() and _last_part(name) not in STATISTICS:
            parameters[name] = value
    shapes = [value.shape for value in parameters.values()]
    if [value.shape for value in averages] != shapes:
        raise ValueError(
            f"{where} has {len(averages)} averages without names, which do not fit the "
            f"{len(parameters)} parameters beside them: store them by name"
        )
    return dict(zip(parameters, averages, strict=True))


def _by_prefix(tensors: dict[str, Tensor], where: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return averages that stand among the others, such as ``model_ema.`` beside ``model.``."""
    prefixes = []
    for prefix in dict.fromkeys(name.partition(".")[0] for name in tensors):
        is_part_of_network = "avg" in prefix.lower()  # avg_pool
        if _is_average(prefix) and not is_part_of_network:
            prefixes.append(prefix)
    if not prefixes:
        return tensors, ""
    averages = {}
    others = {}
    for name, value in tensors.items():
        prefix, _, rest = name.partition(".")
        if prefix not in prefixes:
            others[name] = value
        elif prefix == prefixes[0] and rest not in COUNTERS:
            averages[rest] = value
    if not others:
        return averages, _first_of(prefixes, where)

    # Some programs remove the dots of their names.
    whole_names = {name.replace(".", ""): name for name in others}
    inner_names = {name.partition(".")[2].replace(".", ""): name for name in others}
    for names in (whole_names, inner_names):
        undotted = {name.replace(".", ""): value for name, value in averages.items()}
        if not undotted.keys() <= names.keys():
            continue
        replaced = {names[name]: value for name, value in undotted.items()}
        result = others | replaced
        other_prefixes = {name.partition(".")[0] for name in others}
        if names is inner_names and len(other_prefixes) == 1:
            result = {name.partition(".")[2]: value for name, value in result.items()}
        return result, _first_of(prefixes, where)
    return tensors, ""  # a part of the network that is called so


# ---------------------------------------------------------------------------------- the numbers


def check_numbers(where: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise if tensors are no weights: not finite, without values, or integers, or quantised.

    Args:
        where: Name of the file, for messages.
        tensors: The tensors to load.
        own: Those of the network. Only the last parts of names have to agree.

    Raises:
        ValueError: If so; the message names the first one.
    """
    integers = {_last_part(name) for name, value in own.items() if value.dtype not in FLOATS}
    floats = {_last_part(name) for name in own} - integers
    damaged = []
    for name, value in tensors.items():
        if value.is_meta:
            raise ValueError(
                f"{where} has the shape of {name} and no values (device meta): set another file, "
                "saved from a model whose weights were loaded"
            )
        if _last_part(name) in floats and (value.dtype not in FLOATS or value.is_sparse):
            kind = "sparse" if value.is_sparse else str(value.dtype).removeprefix("torch.")
            raise ValueError(
                f"{where} has {name} as {kind}, not as floating-point numbers: set another file, "
                "one that is not quantised"
            )
        if not _is_sound(name, value, own.get(name)):
            damaged.append(name)
    if damaged:
        raise ValueError(
            f"{where} has NaN or infinity in {len(damaged)} of its tensors, such as {damaged[0]}: "
            "it is damaged, overflowed in half precision, or is from a training that diverged; "
            "set another file"
        )


def _is_sound(name: str, value: Tensor, initial: Tensor | None) -> bool:
    if value.dtype not in FLOATS or value.is_sparse:
        return True
    if "mask" in name:  # an additive mask of attention has -inf where nothing is seen
        return not value.isnan().any()
    is_finite = value.isfinite()
    if is_finite.all():
        return True
    # A buffer of the least value so far begins with infinity. Sharded tensors are weights.
    if initial is None or type(initial) is not Tensor or initial.is_meta:
        return False
    if initial.shape != value.shape:
        return False
    return bool((is_finite | (value == initial.to(value))).all())


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
