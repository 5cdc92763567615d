"""Load weights strictly, and record the source of frozen parts in checkpoints.

A checkpoint holds what training changes. For a frozen part it holds the source of its weights and
their hash, so that a run cannot silently continue with other weights.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor, nn

from lightning_modules.weights import Weights

log = logging.getLogger(__name__)

_HASH = re.compile(r"\b[0-9a-f]{16}\b")  # as of `fingerprint`
_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_DISTRIBUTED = "module."  # prefix of all names
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a block, in a tensor's name


def bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the name prefixes that compiling and DDP add."""
    return {
        _COMPILED.sub("", name).removeprefix(_DISTRIBUTED): tensor
        for name, tensor in tensors.items()
    }


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a model, by the part's own names; may be empty."""
    start = f"{part}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


class Recognises(Protocol):
    """A network that reads settings from weights that tensor shapes do not show."""

    def recognise(self, tensors: dict[str, Tensor], prefix: str, where: str) -> None:
        """Apply the settings, and leave only loadable tensors in ``tensors``.

        Args:
            tensors: Tensors by ``prefix`` and the network's own names; changed in place.
            prefix: Prefix of the names.
            where: Name of the file, for messages.

        Raises:
            ValueError: If the settings contradict an argument of the network.
        """


def recognised(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors to load, after each network within has read its settings from them.

    Args:
        module: The module to load into.
        tensors: Tensors by the module's own names.
        where: Name of the file, for messages.

    Raises:
        ValueError: If the settings contradict an argument of a network.
    """
    found = dict(tensors)
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        if hasattr(type(part), "recognise") and any(key.startswith(prefix) for key in found):
            cast(Recognises, part).recognise(found, prefix, where)
    return found


def fit(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors strictly: all of them, into all of the module.

    Args:
        module: The module to load into.
        tensors: Tensors by the module's own names.
        where: Name of the file, for messages.

    Raises:
        ValueError: If tensors are missing, unexpected, of another shape, or hold NaN.
    """
    check_numbers(where, tensors)
    tensors = recognised(module, tensors, where)
    own = module.state_dict()
    refuse(
        f"the tensors of {where} do not fit the network",
        missing=[name for name in own if name not in tensors],
        unexpected=[name for name in tensors if name not in own],
        reshaped=_reshaped(own, tensors),
    )
    module.load_state_dict(tensors)


def fit_part(
    module: nn.Module,
    found: Weights,
    part: str,
    official: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    key: str | None = None,
) -> dict[str, Tensor]:
    """Load a module from a file: a run's part of this name, or else a whole released file.

    Args:
        module: The module to load into.
        found: Weights of the file.
        part: Name of the module in a run.
        official: Maps tensors of a released file to the module's own names.
        key: Key of ``model.init_args`` that named the file, for messages.

    Returns:
        The loaded tensors, by the module's own names.

    Raises:
        ValueError: As in ``fit``.
    """
    tensors = bare_names(found.tensors)
    own = part_of(tensors, part) or official(tensors)
    fit(module, own, found.name if key is None else f"{found.name} (model.init_args.{key})")
    return own


def check_numbers(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise if weights hold NaN.

    Raises:
        ValueError: If a tensor has NaN; the message names the first one.
    """
    spoiled = [name for name, tensor in tensors.items() if tensor.isnan().any()]
    if spoiled:
        raise ValueError(
            f"{where} has NaN in {len(spoiled)} of its tensors, such as {spoiled[0]}: it is "
            "damaged, or from a training that diverged; set another file"
        )


def refuse(
    message: str,
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
    hint: str = "Is it another network, or one of another size?",
    shown: int = 3,
) -> None:
    """Raise if tensors of a file do not fit.

    The error names the first ``shown`` tensors of each kind; longer lists are logged before.

    Raises:
        ValueError: If one of the lists is not empty.
    """
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    kinds = {what: names for what, names in kinds.items() if names}
    if not kinds:
        return
    problems = "; ".join(
        f"{len(names)} {what} ({', '.join(names[:shown])}{', ...' if len(names) > shown else ''})"
        for what, names in kinds.items()
    )
    if any(len(names) > shown for names in kinds.values()):
        lines = [f"  {what}: {line}" for what, names in kinds.items() for line in folded(names)]
        log.error("%s:\n%s", message, "\n".join(lines))
    raise ValueError(f"{message}: {problems}. {hint}")


def folded(names: Iterable[str]) -> list[str]:
    """Abbreviate many tensors' names.

    Names that differ only in the number of a block become one: ``blocks.{0-3,7}.weight``. One line
    has several ranges only if it stands for all their combinations.
    """
    alike: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for name in names:
        numbers = tuple(int(number) for number in _NUMBER.findall(name))
        alike.setdefault(tuple(_NUMBER.split(name)), []).append(numbers)
    lines = []
    for texts, found in alike.items():
        columns = [sorted(set(column)) for column in zip(*found, strict=True)]
        if math.prod(map(len, columns)) == len(found):
            lines.append(_woven(texts, map(_ranges, columns)))
        else:
            lines += [_woven(texts, map(str, numbers)) for numbers in found]
    return lines


def _woven(texts: Sequence[str], numbers: Iterable[str]) -> str:
    return texts[0] + "".join(n + text for n, text in zip(numbers, texts[1:], strict=True))


def _ranges(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{{{','.join(texts)}}}"


def shape_text(shape: Iterable[int]) -> str:
    """Format a shape for messages: 1x3x64x64."""
    return "x".join(map(str, shape))


def _reshaped(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {shape_text(tensors[name].shape)} for {shape_text(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]


def check_tensors(
    where: str | Path,
    own: dict[str, Tensor],
    state: dict[str, Tensor],
    missing: list[str],
    explain: Callable[[], str] = str,
) -> None:
    """Raise if tensors do not fit a model.

    Args:
        where: Name of the file, for messages.
        own: The model's tensors.
        state: The tensors to load.
        missing: Names of missing tensors.
        explain: Returns an explanation for the message, or an empty text.

    Raises:
        ValueError: If tensors are missing, unexpected, or of another shape.
    """
    unexpected, reshaped = [name for name in state if name not in own], _reshaped(own, state)
    if not (missing or unexpected or reshaped):
        return
    refuse(
        f"the tensors of {where} do not fit the model",
        missing,
        unexpected=unexpected,
        reshaped=reshaped,
        hint=explain()
        or "Is it another network, size or scale? See model.init_args and data.init_args.scale",
        shown=4,
    )


def loaded_apart(model: nn.Module) -> dict[str, str]:
    """Return the source of each part with its own weights file; "" if not loaded yet."""
    modules = model.named_modules()
    said = {name: getattr(module, "source", None) for name, module in modules}
    return {name: source for name, source in said.items() if isinstance(source, str)}


def sources(model: nn.Module) -> dict[str, str]:
    """Return the source and hash of the weights of each frozen part."""
    return {
        name: source
        for name, source in loaded_apart(model).items()
        if source and not _trains_whole(model.get_submodule(name))
    }


def same_weights(one: str, other: str) -> bool:
    """Whether two sources are the same weights: only hashes count, as files may be moved."""
    return _HASH.findall(one) == _HASH.findall(other)


def check_sources(model: nn.Module, stored: Mapping[str, str]) -> None:
    """Raise if a checkpoint was trained with other frozen weights.

    Only hashes count, as folders may be moved.

    Args:
        model: The model.
        stored: The result of ``sources`` when the checkpoint was written.

    Raises:
        ValueError: If a frozen part has other weights now.
    """
    now = sources(model)
    for name, source in stored.items():
        found = now.get(name, "")
        if not same_weights(found, source):
            raise ValueError(
                f"the checkpoint was trained with {name} from {source}, and here it is "
                f"{found or 'missing'}: set the same weights in model.init_args"
            )


def _trains_whole(module: nn.Module) -> bool:
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and all(trained)
