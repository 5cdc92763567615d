"""Weights: a file of any author as tensors, tensors into a network, and fingerprints.

No code in a file is run. Averaged weights are preferred, and numbers are checked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor, nn

from files.checksums import check_intact

INDEX = ".index.json"  # suffix of the index of weights in several files
EXPORTED = "enlarger"  # metadata key in files of `main.py export`: the version of this project

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
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

log = logging.getLogger(__name__)
_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_DISTRIBUTED = "module."  # prefix of all names
_SHOWN = 3  # names of each kind in an error


# --------------------------------------------------------------------------------------- reading


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
    """Read our checkpoint (EMA preferred), an exported file, or one of any author.

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
            f"no weights at {path}: set an existing file (enlarger.load and main.py also take "
            "the folder of a run, or a name of configs/weights.yaml)"
        )
    content: dict[str, Any] = _read_parts(path) if path.name.endswith(INDEX) else read_file(path)
    about = read_metadata(path)
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
        averaged = content.get("callbacks", {}).get("EMA", {}).get("weights", {})
        return Weights(
            {**state, **averaged},
            model,
            str(path),
            averages="EMA" if averaged else "",
            frozen=content.get("frozen", {}),
            trained_with=content.get("trained_with", {}),
        )
    try:
        tensors, group = unwrapped(content, path)
    except RecursionError as error:
        raise ValueError(f"{path} has a group that contains itself") from error
    return Weights(tensors, None, str(path), averages=group)  # such as params_ema


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


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if it has none, or is another file."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Return the tensors of all files that an index of transformers names."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is no index of weights: it has no weight_map") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(names):
        tensors |= read_file(index.parent / name)
    return tensors


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
    """Return whether nested content has only numbers, texts and tensors.

    Only these are in checkpoints: ``read_file`` refuses all others.
    """
    if type(value) is dict:
        return is_plain([*value.keys(), *value.values()])
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)


# ----------------------------------------------------------------------- files of other authors


def unwrapped(content: Mapping[str, Any], where: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file of any author, by bare names: its averages if it has some.

    Args:
        content: Content of the file.
        where: The file, for messages.

    Returns:
        The tensors, and the name of the averages' group or prefix, or "".

    Raises:
        ValueError: If there are no tensors by name, or averages without names.
    """
    groups: dict[str, dict[str, Any]] = {}
    averaged = []
    for name, value in content.items():
        if isinstance(value, dict) and _has_tensors(value):
            groups[name] = value
            if _is_average(name):
                averaged.append(name)
        if _is_average(name) and _has_unnamed_tensors(value):
            raise ValueError(
                f"{where} has averages without names in {name}: store them by name, or remove them "
                "from the file to use the weights beside them"
            )
    tensors = _tensors_in(content)
    wrapper = next((name for name in WRAPPERS if name in groups), None)
    if wrapper is None and len(groups) == 1 and not tensors:
        wrapper = next(iter(groups))
    averaged_in_wrapper = ""
    if wrapper is not None:
        tensors, averaged_in_wrapper = unwrapped(groups[wrapper], where)

    if averaged:
        name = _chosen_average(averaged, where)
        averages, _ = unwrapped(groups[name], where)
        if averages.keys() <= tensors.keys():  # buffers and frozen parts may be left out
            averages = {**tensors, **averages}
        return averages, name
    if not tensors:
        raise ValueError(f"{where} holds no tensors by name; its keys are {list(content)[:5]}")
    if wrapper is not None:
        return tensors, averaged_in_wrapper
    return _with_prefixed_averages(tensors, where)


def _tensors_in(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors by name, without the prefixes that compiling and DDP add to names."""
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Tensor) and name not in COUNTERS:
            tensors[_COMPILED.sub("", name).removeprefix(_DISTRIBUTED)] = value
    return tensors


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    """Return whether a group, or any group inside it, has tensors."""
    if _tensors_in(content):
        return True
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, dict) and _has_tensors(value):
            return True
    return False


def _is_average(name: object) -> bool:
    """Return whether a group's name has a word for averages, such as ``ema`` in ``netEMA_0``."""
    if not isinstance(name, str):
        return False
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return any(map(AVERAGED.fullmatch, words))


def _has_unnamed_tensors(group: Any) -> bool:
    """Return whether a group has a list of tensors, such as ``shadow_params`` of torch_ema."""
    if isinstance(group, dict):
        return any(map(_has_unnamed_tensors, group.values()))
    if not isinstance(group, list | tuple):
        return False
    return any(isinstance(value, Tensor) and value.ndim for value in group)


def _chosen_average(averages: list[str], where: str | Path) -> str:
    """Return the first name of several averages, and log that the others are not used."""
    first, *others = averages
    if others:
        text = "%s has several averages: %s is used, not %s; remove it from the file to use another"
        log.warning(text, where, first, ", ".join(others))
    return first


def _with_prefixed_averages(
    tensors: dict[str, Tensor], where: str | Path
) -> tuple[dict[str, Tensor], str]:
    """Return tensors with averages in place of those that they are averages of.

    Some programs store both in one group, the averages under a prefix of their own, and without
    the dots in their names: ``model_ema.conv1weight`` is the average of ``model.conv1.weight``.

    Args:
        tensors: Of one group of a file.
        where: The file, for messages.

    Returns:
        The tensors, and the prefix of the averages, or "".
    """
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
        return averages, _chosen_average(prefixes, where)

    averages = {name.replace(".", ""): value for name, value in averages.items()}
    with_prefix = {name.replace(".", ""): name for name in others}
    without_prefix = {name.partition(".")[2].replace(".", ""): name for name in others}
    for averaged in (with_prefix, without_prefix):
        if not averages.keys() <= averaged.keys():
            continue
        result = others | {averaged[name]: value for name, value in averages.items()}
        other_prefixes = {name.partition(".")[0] for name in others}
        if averaged is without_prefix and len(other_prefixes) == 1:
            result = {name.partition(".")[2]: value for name, value in result.items()}
        return result, _chosen_average(prefixes, where)
    return tensors, ""  # a part of the network that is called so


# --------------------------------------------------------------------------------- into a network


class Differences(NamedTuple):
    """Names and shapes of the tensors by which a file and a network differ.

    missing: In the network only.
    unexpected: In the file only.
    reshaped: In both, of different shapes.
    """

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    def refuse(self, where: str) -> None:
        """Raise if there are any.

        Args:
            where: Name of the file, for messages.

        Raises:
            ValueError: If so.
        """
        kinds = zip(("missing", "unexpected", "of another shape"), self, strict=True)
        problems = []
        for kind, names in kinds:
            if names:
                ending = ", ..." if len(names) > _SHOWN else ""
                problems.append(f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{ending})")
        if problems:
            raise ValueError(
                f"the tensors of {where} do not fit the model: {'; '.join(problems)}. Is it "
                "another network, size or scale? See model.init_args and data.init_args.scale; "
                "with model.init_args.weights_strict false, fit starts from those tensors of "
                "model.init_args.weights that fit"
            )


class Fitted(NamedTuple):
    """All tensors of a network, some of them from a file.

    state: The network's state dict.
    taken: Names of those of the file.
    differences: What did not fit; of a strict fit, nothing.
    """

    state: dict[str, Tensor]
    taken: set[str]
    differences: Differences


def fitted(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    required: Container[str] | None = None,
    strict: bool = True,
) -> Fitted:
    """Return the state dict of a network with tensors of a file in it, checked.

    Args:
        module: The network.
        tensors: Tensors by the network's own names.
        where: Name of the file, for messages.
        required: Names that must be among them; all of the network by default.
        strict: Raise unless all fit. False: take those that do.

    Raises:
        ValueError: If tensors are missing, unexpected or of another shape; without ``strict`` only
            if no parameter fits. In both cases for tensors that are no finite floating-point
            numbers.
    """
    _recognise(module, tensors)
    current = module.state_dict()
    required = current if required is None else required
    differences = Differences([], [], [])
    for name, tensor in current.items():
        if name in required and name not in tensors:
            differences.missing.append(f"{name} {shape_text(tensor.shape)}")
    taken = {}
    for name, tensor in tensors.items():
        shape = shape_text(tensor.shape)
        if name not in current:
            differences.unexpected.append(f"{name} {shape}")
        elif tensor.shape != current[name].shape:
            differences.reshaped.append(f"{name} {shape} for {shape_text(current[name].shape)}")
        else:
            taken[name] = tensor
    if strict:
        differences.refuse(where)
    elif not any(name in taken for name, _ in module.named_parameters()):
        raise ValueError(
            f"no tensor of {where} fits the model, also with weights_strict: false: set "
            "model.init_args.weights to a file of a similar network"
        )
    check_numbers(where, taken, current)
    return Fitted({**current, **taken}, set(taken), differences)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors strictly: all of them, into all of the module.

    Args:
        module: The module to load into.
        tensors: Tensors by the module's own names.
        where: Name of the file, for messages.

    Raises:
        ValueError: As in ``fitted``.
    """
    module.load_state_dict(fitted(module, tensors, where).state)


def load_part(module: nn.Module, weights: Weights, part: str) -> None:
    """Load a module from a file: a run's part of this name, or else a whole released file.

    Args:
        module: The module to load into. If it has a function ``official``, that maps the tensors of
            a released file to the module's own names.
        weights: Weights of the file.
        part: Name of the module in a run.

    Raises:
        ValueError: As in ``fitted`` and ``refuse_other_settings``.
    """
    official: Any = getattr(module, "official", dict)
    tensors = part_of(weights.tensors, part) or official(weights.tensors)
    load_strictly(module, tensors, weights.name)
    refuse_other_settings(module, weights, part)


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a model, by the part's own names; may be empty."""
    start = f"{part}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def refuse_other_settings(module: nn.Module, weights: Weights, part: str) -> None:
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


def shape_text(shape: Iterable[int]) -> str:
    """Format a shape for messages: 1x3x64x64."""
    return "x".join(map(str, shape))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the first 16 digits of the SHA-256 of names and values; machine-independent."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _recognise(module: nn.Module, names: Iterable[str]) -> None:
    """Call ``recognise`` of each network in a module that has it, with its tensors' names.

    By these a network sets what shapes do not show, such as whether ResShift's has a mask.
    """
    for prefix, part in module.named_modules():
        if not hasattr(type(part), "recognise"):
            continue
        start = f"{prefix}." if prefix else ""
        inner = [name.removeprefix(start) for name in names if name.startswith(start)]
        if inner:
            cast(Any, part).recognise(inner)


# ------------------------------------------------------------------------------------ the numbers


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
    """Return whether a tensor is finite, except where it may be infinite.

    Args:
        name: Its name.
        value: The tensor of a file.
        initial: The network's own of this name.
    """
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
