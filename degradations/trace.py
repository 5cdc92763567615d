"""Watch what a degradation does to one image, stage by stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degradations.base import Degradation, Stage
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.params import Params


@dataclass
class Step:
    """One stage applied to one image.

    name: Names of the streams that lead to it, e.g. ``noise / gaussian``.
    stage: The stage.
    params: Its drawn parameters (arrays of one entry), without prepared ones.
    image: (1, C, H, W), its output; may overshoot [0, 1]. None if the stage was skipped.
    choices: Choices of the stages around it as text, outermost first.
    """

    name: str
    stage: Stage
    params: Params
    image: Tensor | None
    choices: list[str] = field(default_factory=list)


@dataclass
class Trace:
    """The steps of a degradation on one image.

    seed: Seed of the image.
    params: All drawn parameters.
    steps: The stages that were applied or skipped, first to last; empty for a degradation without
        stages.
    lr: (1, 3, h, w), the output of `degradation(hr, seeds)`.
    """

    seed: int
    params: Params
    steps: list[Step]
    lr: Tensor


@dataclass
class _Call:
    module: Stage
    path: str
    parent: _Call | None
    children: list[_Call] = field(default_factory=list)
    output: Tensor | None = None  # None if no inner stage ran


def trace(degradation: Degradation, hr: Tensor, seed: int) -> Trace:
    """Degrade one image, and collect the output of every stage.

    Hooks watch the stages, nothing runs twice: `Trace.lr` is bit-equal to the output of the
    degradation for this batch of one, by the executor ``images``.

    Args:
        degradation: The degradation.
        hr: (1, 3, H, W) float32 in [0, 1].
        seed: Seed of the image.
    """
    seeds = torch.tensor([seed])
    params = degradation.params_of(seeds, hr.shape)
    with _image_by_image(degradation), _watched(degradation) as calls, torch.no_grad():
        lr = degradation.replay(hr, params)  # not forward, which `Record` would record
    return Trace(seed, params, _steps(calls, params), lr)


@contextmanager
def _image_by_image(degradation: Degradation) -> Iterator[None]:
    # On a canvas all stages run on all images, which hides the path of an image.
    those = [module for module in degradation.modules() if hasattr(module, "executor")]
    before = [module.executor for module in those]
    for module in those:
        module.executor = "images"  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, executor in zip(those, before, strict=True):
            module.executor = executor


@contextmanager
def _watched(degradation: Degradation) -> Iterator[list[_Call]]:
    # One object may have several names, and is then called under each in turn.
    paths: dict[Stage, list[str]] = defaultdict(list)
    for path, module in degradation.named_modules(remove_duplicate=False):
        if isinstance(module, Stage):
            paths[module].append(path)
    outermost: list[_Call] = []
    open_calls: list[_Call] = []
    times: dict[Stage, int] = defaultdict(int)

    def before(module: Any, _: Any) -> None:
        parent = open_calls[-1] if open_calls else None
        names = paths[module]
        call = _Call(module, names[times[module] % len(names)], parent)
        times[module] += 1
        (parent.children if parent else outermost).append(call)
        open_calls.append(call)

    def after(module: Any, inputs: Any, output: Tensor) -> None:
        # A composed stage that returns its input has skipped its stages.
        composed = sum(isinstance(part, Stage) for part in module.modules()) > 1
        left_out = composed and output is inputs[0]
        open_calls.pop().output = None if left_out else output.detach().clone()

    handles = [
        handle
        for stage in paths
        for handle in (
            stage.register_forward_pre_hook(before),
            stage.register_forward_hook(after),
        )
    ]
    try:
        yield outermost
    finally:
        for handle in handles:
            handle.remove()


def stages_of(
    degradation: Degradation, params: Params
) -> Iterator[tuple[list[str], Stage | Degradation, Params]]:
    """Yield everything that draws, with inner stages: stream names, module, drawn parameters."""
    seen: list[Params] = []
    for path, module in degradation.named_modules(remove_duplicate=False):
        if isinstance(module, Stage | Degradation):
            names, own = _drawn_of(path, params)
            # A stage that another one uses internally has no parameters.
            if not any(own is other for other in seen):
                seen.append(own)
                yield names, module, own


def _steps(calls: list[_Call], params: Params) -> list[Step]:
    steps: list[Step] = []
    for call in calls:
        names, own = _drawn_of(call.path, params)
        for place, child in enumerate(call.children):
            inner = _steps([child], params)
            for step in inner:
                step.choices[:0] = _choice(call.module, own, child.path, place)
            steps += inner
        if not call.children:
            steps.append(Step(" / ".join(names) or call.path, call.module, own, call.output))
    return steps


def _drawn_of(path: str, params: Params) -> tuple[list[str], Params]:
    # Stream names are keys of the parameters; other parts of a module's path are attributes.
    names: list[str] = []
    for part in path.split("."):
        inner = params.get(part)
        if isinstance(inner, dict):
            names.append(part)
            params = inner
    shown = [name for name in names if name != "stage"]  # the only one of Sometimes
    return shown, params


def _choice(stage: Stage, params: Params, chosen: str, place: int) -> list[str]:
    if isinstance(stage, Sometimes):
        return [f"applied (probability {stage.p:.0%})"] if stage.p < 1 else []
    if isinstance(stage, OneOf):
        p = dict(zip(stage.stages, stage.p, strict=True))[chosen.rpartition(".")[2]]
        return [f"chosen of {len(stage.stages)} (probability {p:.0%})"]
    if isinstance(stage, Shuffled):
        return [f"number {place + 1} of {len(stage.stages)} in the drawn order"]
    return parameters_of(params)


def own_of(params: Params) -> Params:
    """Return the parameters of one number per image: no matrices, no seeds of noise fields."""
    inner = params.get("arguments")  # of the adapters
    own = {**params, **inner} if isinstance(inner, dict) else params
    return {
        name: value
        for name, value in own.items()
        if not isinstance(value, dict)
        and np.ndim(value) < 2
        and not name.endswith(("seed", "seeds"))
    }


def parameters_of(params: Params) -> list[str]:
    """Return names and values of one image's parameters, e.g. ``["quality 43", "grey False"]``."""
    values = {name: np.ravel(value)[0].item() for name, value in own_of(params).items()}
    return [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    ]


def name_of(stage: Stage) -> str:
    """Return the class of a stage, or the name of what it adapts."""
    for argument in ("function", "transform", "augmentation"):
        adapted = getattr(stage, argument, None)
        if adapted is not None:
            return adapted if isinstance(adapted, str) else type(adapted).__name__
    return type(stage).__name__
