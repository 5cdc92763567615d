"""Networks that come with weights: their tensors fitted strictly, frozen ones named in checkpoints.

A checkpoint holds what training changes. Of a frozen part it holds where its weights came from and
a hash of them, so that it cannot be continued beside others in silence.
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

_HASH = re.compile(r"\b[0-9a-f]{16}\b")  # of space.fingerprint
_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_DISTRIBUTED = "module."  # in front of all names
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a block, in a tensor's name


def bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that they had before a network was compiled or distributed."""
    return {
        _COMPILED.sub("", name).removeprefix(_DISTRIBUTED): tensor
        for name, tensor in tensors.items()
    }


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Those of one part of a model, by the part's own names; empty where it has none."""
    start = f"{part}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


class Recognises(Protocol):
    """A network that takes from weights what they were trained with, where shapes don't show it."""

    def recognise(self, tensors: dict[str, Tensor], prefix: str, where: str) -> None:
        """Set itself accordingly, and leave in ``tensors`` what it can load.

        Args:
            tensors: By the network's own names behind ``prefix``; changed.
            prefix: Of the names.
            where: What they were read from, for the message.

        Raises:
            ValueError: They contradict an argument of the network.
        """


def recognised(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors to load, after all networks within have taken from them what they say.

    Args:
        module: What is to be filled.
        tensors: By the module's own names.
        where: What they were read from, for the message.

    Raises:
        ValueError: They contradict an argument of a network.
    """
    found = dict(tensors)
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        if hasattr(type(part), "recognise") and any(key.startswith(prefix) for key in found):
            cast(Recognises, part).recognise(found, prefix, where)
    return found


def fit(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors, all of them and into all of the module.

    Args:
        module: What is filled.
        tensors: By the module's own names.
        where: What they were read from, for the message.

    Raises:
        ValueError: Tensors are missing, unexpected or of another shape, or hold NaN; see `refuse`.
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
    """Load what a file has for a module: a run's part of this name, else all of a released file.

    Args:
        module: What is filled.
        found: The file's.
        part: What the module was called in a run.
        official: Gives tensors of a released file the module's own names.
        key: Of ``model.init_args``: what named the file, for the message.

    Returns:
        What was loaded, by the module's own names.

    Raises:
        ValueError: As of ``fit``.
    """
    tensors = bare_names(found.tensors)
    own = part_of(tensors, part) or official(tensors)
    fit(module, own, found.name if key is None else f"{found.name} (model.init_args.{key})")
    return own


def check_numbers(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers, of which nothing but NaN could be made.

    Raises:
        ValueError: A tensor has NaN; the first one is named.
    """
    spoiled = [name for name, tensor in tensors.items() if tensor.isnan().any()]
    if spoiled:
        raise ValueError(
            f"{where} has NaN in {len(spoiled)} of its tensors, such as {spoiled[0]}: it is "
            "damaged, or of a training that diverged; name another file"
        )


def refuse(
    message: str,
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
    hint: str = "Is it another network, or one of another size?",
    shown: int = 3,
) -> None:
    """Say which tensors of a file do not fit, where there are such.

    The error names the first ``shown`` of each kind; where there are more, all are logged before.

    Raises:
        ValueError: One of the lists is not empty.
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
    """All of many tensors' names in few lines.

    Names that differ only in the number of a block are one line: ``blocks.{0-3,7}.weight``. Several
    numbers stand in one line only where each goes with each.
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
    """As messages write it: 1x3x64x64."""
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
    """Refuse tensors that do not fit a model.

    Args:
        where: What they are of, for the message.
        own: The model's.
        state: Those that are to be its.
        missing: Names of those that it lacks.
        explain: Says what they are of, if that can be told; asked where they do not fit.

    Raises:
        ValueError: Some are missing, unexpected, or of another shape.
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
    """Parts whose weights come from files of their own: what they say of it, "" for not yet."""
    modules = model.named_modules()
    said = {name: getattr(module, "source", None) for name, module in modules}
    return {name: source for name, source in said.items() if isinstance(source, str)}


def sources(model: nn.Module) -> dict[str, str]:
    """Where the weights of a model's frozen parts came from, with their hashes, by part."""
    return {
        name: source
        for name, source in loaded_apart(model).items()
        if source and not _trains_whole(model.get_submodule(name))
    }


def same_weights(one: str, other: str) -> bool:
    """Whether two sources name the same weights: hashes are compared, for files are moved."""
    return _HASH.findall(one) == _HASH.findall(other)


def check_sources(model: nn.Module, stored: Mapping[str, str]) -> None:
    """Refuse to continue beside frozen weights that a checkpoint was not trained with.

    Hashes are compared, not places: a folder may have been moved.

    Args:
        model: The model as it is.
        stored: What ``sources`` gave when the checkpoint was written.

    Raises:
        ValueError: A frozen part has other weights now.
    """
    now = sources(model)
    for name, source in stored.items():
        found = now.get(name, "")
        if not same_weights(found, source):
            raise ValueError(
                f"the checkpoint was trained with {name} from {source}, and here it is "
                f"{found or 'not there'}: name the same weights in model.init_args"
            )


def _trains_whole(module: nn.Module) -> bool:
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and all(trained)
