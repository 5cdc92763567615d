"""Sizes of Self-Cascade's stages, each of which has up to four times as many pixels.

Guo et al., ECCV 2024 (arXiv 2402.10491), section 3.2: R = ceil(log_4(d_R / d)), d and d_R being
numbers of pixels, not sides. The paper does not fix the sizes in between if the ratio is no power
of four, nor how to change the aspect ratio; both are arguments here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

from lightning_modules.stages import Size

Rule = Literal["geometric", "x4_then_rest"]
Aspect = Literal["target", "base"]


def count_stages(base: Size, target: Size) -> int:
    """Return R, the least number for which 4^R times ``base`` has at least ``target``'s pixels.

    Computed in integers, so that no logarithm is rounded.

    Args:
        base: (h, w).
        target: (H, W).

    Returns:
        R; 0 if the target is no larger.
    """
    pixels, stages = base[0] * base[1], 0
    while pixels * 4**stages < target[0] * target[1]:
        stages += 1
    return stages


def base_of(target: Size, scale: float) -> Size:
    """Return ``target`` divided by ``scale`` along both sides.

    Raises:
        ValueError: If the result is not whole.
    """
    height, width = (round(side / scale) for side in target)
    if (round(height * scale), round(width * scale)) != tuple(target):
        raise ValueError(
            f"images of {target[0]}x{target[1]} are no multiple of data.init_args.scale "
            f"{scale:g}: choose other sizes, or set model.init_args.base_size"
        )
    return height, width


def ladder(
    base: Size,
    target: Size,
    rule: Rule | Sequence[Size] = "geometric",
    aspect: Aspect = "target",
    multiple: int = 8,
) -> list[Size]:
    """Return the sizes from the base stage to the target.

    Args:
        base: (h, w) that the base model was trained for.
        target: (H, W) of the output.
        rule: ``geometric``: equal factors; ``x4_then_rest``: four times the pixels, and the rest in
            the last stage; or the sizes of all stages after the base's, with the target last.
        aspect: ``target``: the base stage has the target's aspect ratio and as many pixels as
            ``base``; ``base``: it has the size of ``base``, and the first stage changes the aspect.
        multiple: Sides are multiples of this; intermediate ones are rounded to it, halves up.

    Returns:
        R + 1 sizes, the target last. For equal sizes only the target; for equal numbers of pixels
        and different aspect ratios, one stage.

    Raises:
        ValueError: If the target has fewer pixels than the base, a side is no multiple, or an
            argument is unknown.
    """
    target = (target[0], target[1])  # on its way to a GPU a tuple becomes a list
    _check(base, target, rule, aspect, multiple)
    stages = count_stages(base, target)
    pixels = base[0] * base[1]
    first = base if aspect == "base" else _of(pixels, target, multiple)
    if first == target:
        return [target]
    if not isinstance(rule, str):
        _check_explicit(first, target, rule)
        return [first, *rule]
    factor = 4.0
    if rule == "geometric" and stages:
        factor = (target[0] * target[1] / pixels) ** (1 / stages)
    between = [_of(pixels * factor**stage, target, multiple) for stage in range(1, stages)]
    return [first, *between, target]


def _of(pixels: float, target: Size, multiple: int) -> Size:
    """Return a size with so many pixels and the target's aspect ratio, at most the target."""
    shrunk = math.sqrt(pixels / (target[0] * target[1]))
    height, width = (
        min(max(math.floor(side * shrunk / multiple + 0.5), 1) * multiple, side) for side in target
    )
    return height, width


def _check(
    base: Size, target: Size, rule: Rule | Sequence[Size], aspect: Aspect, multiple: int
) -> None:
    if isinstance(rule, str) and rule not in get_args(Rule):
        raise ValueError(
            f"stages is {rule!r}; expected {', '.join(get_args(Rule))}, or a list of [height, "
            "width]"
        )
    if aspect not in get_args(Aspect):
        raise ValueError(f"aspect is {aspect!r}; expected {' or '.join(get_args(Aspect))}")
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}; expected 1 or more")
    explicit = [] if isinstance(rule, str) else rule
    for what, size in (("base", base), ("output", target), *(("stage", size) for size in explicit)):
        if min(size) < 1 or size[0] % multiple or size[1] % multiple:
            raise ValueError(
                f"the {what} of {size[0]}x{size[1]} has a side that is no multiple of {multiple}: "
                "choose sizes of images, data.init_args.scale, model.init_args.base_size and "
                "stages accordingly"
            )
    if target[0] * target[1] < base[0] * base[1]:
        raise ValueError(
            f"the output of {target[0]}x{target[1]} has fewer pixels than the base's "
            f"{base[0]}x{base[1]}: request larger images, or set model.init_args.base_size"
        )


def _check_explicit(first: Size, target: Size, sizes: Sequence[Size]) -> None:
    areas = [height * width for height, width in (first, *sizes)]
    rises = all(before <= after for before, after in itertools.pairwise(areas))
    if not sizes or tuple(sizes[-1]) != target or not rises:
        raise ValueError(
            f"model.init_args.stages is {[list(size) for size in sizes]}; expected sizes that rise "
            f"from the base's {first[0]}x{first[1]} to the output's {list(target)}, which is the "
            "last one"
        )
