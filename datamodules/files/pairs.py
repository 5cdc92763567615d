"""HR and LR of one image: found by their names, held against each other by their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

SHOWN = 5  # names in a message; the others are counted
T = TypeVar("T")


def with_scale(text: str, scale: float) -> str:
    """Replace ``{scale}`` by the scale, without a trailing .0: ``x{scale}`` becomes ``x2``."""
    return text.replace("{scale}", f"{scale:g}")


def match(
    large: Mapping[str, T], small: Mapping[str, T], names: tuple[str, str], lr_suffix: str = ""
) -> dict[str, tuple[T, T]]:
    """Find the LR of every HR by its key.

    Args:
        large: The HR by key.
        small: The LR by key.
        names: Origins of HR and LR, for the message.
        lr_suffix: Suffix of an LR key after the HR's key.

    Returns:
        HR and LR by the HR's key, in the order of ``large``.

    Raises:
        ValueError: If keys lack a partner; they are listed.
    """
    wanted = {key + lr_suffix for key in large}
    missing = [key for key in large if key + lr_suffix not in small]
    extra = [key for key in small if key not in wanted]
    if missing or extra:
        problems = []
        if missing:
            problems.append(f"{len(missing)} of {names[0]} have no LR: {shown(missing)}")
        if extra:
            problems.append(f"{len(extra)} of {names[1]} have no HR: {shown(extra)}")
        suffix = f" followed by {lr_suffix!r}" if lr_suffix else ""
        raise ValueError(
            f"names of HR and LR do not match. {'; '.join(problems)}. An LR image has the name "
            f"of its HR image{suffix} (lr_suffix), whatever its extension"
        )
    return {key: (found, small[key + lr_suffix]) for key, found in large.items()}


def misfit(large: tuple[int, int], small: tuple[int, int], scale: float) -> str | None:
    """Return how the sizes of a pair contradict the scale.

    Args:
        large: (W, H) of the HR image.
        small: (W, H) of the LR image.
        scale: HR must be ``scale`` times LR, rounded; fewer than ``scale`` further pixels are cut
            off when the pair is read.

    Returns:
        Both sizes and the expected one; None if they fit.
    """
    rests = [side - round(scale * low) for side, low in zip(large, small, strict=True)]
    if all(0 <= rest < scale for rest in rests):
        return None
    return (
        f"HR {large[0]}x{large[1]}, LR {small[0]}x{small[1]}, "
        f"expected HR {round(scale * small[0])}x{round(scale * small[1])}"
    )


def shown(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
