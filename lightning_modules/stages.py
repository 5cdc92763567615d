"""CasArbi's stage plan: the sizes of a cascade up to its target.

Source: CasArbi (arXiv 2506.07813) for the fixed factor and the three orders. Its formula is not
public; ours multiplies, since the floor of logarithms may round the wrong way, as for
log 125 / log 5.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

Order = Literal["remainder_last", "remainder_first", "uniform"]
Size = tuple[int, int]

_TOLERANCE = 1e-9


def stage_sizes(
    size: Size,
    target: Size,
    fixed: float,
    order: Order = "remainder_last",
    least_remainder: float = 1.0,
) -> list[Size]:
    """Return the sizes after each stage; the last one is exactly the target.

    If the smaller of the two ratios of target to size holds k fixed factors, the remainder is the
    rest of each ratio. Intermediate sizes are rounded, halves up, from the first size.

    Args:
        size: (h, w) of the input.
        target: (H, W) of the output.
        fixed: The factor of a full stage, above 1.
        order: ``remainder_last`` (the paper's): fixed factors, then the remainder;
            ``remainder_first``; ``uniform``: as many stages, of one factor.
        least_remainder: A remainder below this is merged into the last full stage.

    Returns:
        One size per stage; empty if the target is the input's size.

    Raises:
        ValueError: If the target is smaller than the input, or an argument is out of range.
    """
    if order not in get_args(Order):
        raise ValueError(f"order is {order!r}; expected one of {', '.join(get_args(Order))}")
    if not 1 < fixed < math.inf:
        raise ValueError(f"the fixed factor is {fixed}; expected a number above 1")
    if least_remainder < 1:
        raise ValueError(f"least_remainder is {least_remainder}; expected 1 or more")
    if min(*size, *target) < 1 or target[0] < size[0] or target[1] < size[1]:
        raise ValueError(
            f"the target of {target[0]}x{target[1]} px is smaller than the input of "
            f"{size[0]}x{size[1]}: choose a data.init_args.scale of at least 1"
        )
    if target == size:
        return []
    ratios = target[0] / size[0], target[1] / size[1]
    factors = _factors(ratios, fixed, order, least_remainder)
    sizes, grown = [], (1.0, 1.0)
    for factor in factors[:-1]:
        grown = grown[0] * factor[0], grown[1] * factor[1]
        between = tuple(
            min(max(math.floor(n * by + 0.5), n), end)
            for n, by, end in zip(size, grown, target, strict=True)
        )
        sizes.append((between[0], between[1]))
    return [*sizes, target]


def _factors(
    ratios: tuple[float, float], fixed: float, order: Order, least: float
) -> list[tuple[float, float]]:
    full = 0  # stages with the fixed factor along both sides
    while fixed ** (full + 1) <= min(ratios) * (1 + _TOLERANCE):
        full += 1
    rest = ratios[0] / fixed**full, ratios[1] / fixed**full
    stages = [(fixed, fixed)] * full
    remainders: list[tuple[float, float]] = []
    while max(rest) > fixed * (1 + _TOLERANCE):  # one side grows by more than the other
        step = min(rest[0], fixed), min(rest[1], fixed)
        remainders.append(step)
        rest = rest[0] / step[0], rest[1] / step[1]
    if max(rest) > 1 + _TOLERANCE:
        if max(rest) < least and (stages or remainders):
            last = remainders if remainders else stages
            last[-1] = last[-1][0] * rest[0], last[-1][1] * rest[1]
        else:
            remainders.append(rest)
    if order == "uniform":
        count = len(stages) + len(remainders)
        return [(ratios[0] ** (1 / count), ratios[1] ** (1 / count))] * count
    return stages + remainders if order == "remainder_last" else remainders + stages
