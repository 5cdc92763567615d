"""Networks that come with weights: their tensors fitted strictly, frozen ones named in checkpoints.

A checkpoint holds what training changes. Of a frozen part it holds where its weights came from and
a hash of them, so that it cannot be continued beside others in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

_HASH = re.compile(r"\b[0-9a-f]{16}\b")  # of space.fingerprint
_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_DISTRIBUTED = "module."  # in front of all names


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


def fit(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors, all of them and into all of the module.

    Args:
        module: What is filled.
        tensors: By the module's own names.
        where: What they were read from, for the message.

    Raises:
        ValueError: Tensors are missing, unexpected or of another shape, or hold NaN; the first ones
            are named.
    """
    check_numbers(where, tensors)
    own = module.state_dict()
    refuse(
        where,
        missing=[name for name in own if name not in tensors],
        unexpected=[name for name in tensors if name not in own],
        reshaped=_reshaped(own, tensors),
    )
    module.load_state_dict(tensors)


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


def refuse(where: str, missing: list[str], unexpected: list[str], reshaped: list[str]) -> None:
    """Say which tensors of a file do not fit a network, where there are such.

    Raises:
        ValueError: One of the lists is not empty.
    """
    if problems := counted(missing, unexpected, reshaped, 3):
        raise ValueError(
            f"the tensors of {where} do not fit the network: {problems}. Is it another network, or "
            "one of another size?"
        )


def counted(missing: list[str], unexpected: list[str], reshaped: list[str], shown: int) -> str:
    """How many tensors do not fit, and the first ``shown`` of each kind; empty where all do."""
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:shown])}{', ...' if len(names) > shown else ''})"
        for what, names in problems.items()
        if names
    )


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
    where: str | Path, own: dict[str, Tensor], state: dict[str, Tensor], missing: list[str]
) -> None:
    """Refuse tensors that do not fit a model.

    Args:
        where: What they are of, for the message.
        own: The model's.
        state: Those that are to be its.
        missing: Names of those that it lacks.

    Raises:
        ValueError: Some are missing, unexpected, or of another shape.
    """
    unexpected = [k for k in state if k not in own]
    if problems := counted(missing, unexpected, _reshaped(own, state), 4):
        raise ValueError(
            f"the tensors of {where} do not fit the model: {problems}. Is it another network, size "
            "or scale? See model.init_args and data.init_args.scale"
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
