"""HR and LR of one image: found by their names, held against each other by their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import permutations
from typing import TypeVar

from files.images.decode import UnreadableImage
from files.words import first_of

T = TypeVar("T")
Size = tuple[int, int]  # width and height
SAMPLES = 20  # names of a set whose images are compared


def fill_scale(text: str, scale: float) -> str:
    """Replace ``{scale}`` by the scale, without a trailing .0: ``x{scale}`` becomes ``x2``."""
    return text.replace("{scale}", f"{scale:g}")


def match_pairs(
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
            problems.append(
                f"{len(missing)} of {names[0]} have no LR in {names[1]}: {first_of(missing)}"
            )
        if extra:
            problems.append(f"{len(extra)} of {names[1]} have no HR: {first_of(extra)}")
        suffix = f" followed by {lr_suffix!r}" if lr_suffix else ""
        raise ValueError(
            f"names of HR and LR do not match. {'; '.join(problems)}. An LR image has the name "
            f"of its HR image{suffix} (lr_suffix), whatever its extension"
        )
    return {key: (found, small[key + lr_suffix]) for key, found in large.items()}


def size_problem(large: tuple[int, int], small: tuple[int, int], scale: float) -> str | None:
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


def refuse_mixed(
    what: str, keys: Sequence[str], size_of: Callable[[int], Size], scale: float
) -> None:
    """Raise if a set of images has HR and LR of the same scenes as images of their own.

    Such images have equal names in several folders and all differ in size, two of them by exactly
    the scale.

    Args:
        what: The set, for the message.
        keys: The images' names.
        size_of: Returns (W, H) of the image ``keys[index]``; if it raises, the image is skipped, as
            reading it raises.
        scale: How many times larger HR is than LR.

    Raises:
        ValueError: If it has.
    """
    by_name: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        by_name.setdefault(key.rpartition("/")[2], []).append(index)
    # A name in more folders is that of a frame, in the folder of each clip.
    copies = [indices for indices in by_name.values() if 2 <= len(indices) <= SAMPLES]
    pairs = []
    for indices in copies[:: len(copies) // SAMPLES + 1]:
        with suppress(UnreadableImage, OSError):
            pairs.append(_find_pair(indices, size_of, scale))
    fitting = [pair for pair in pairs if pair is not None]
    if len(fitting) < max(2, len(pairs)):  # two images may have one name by chance
        return
    first, second = (keys[index] for index in fitting[0])
    raise ValueError(
        f"{what}: images are there in several sizes, such as {first!r} and {second!r}: LR images "
        "would count as HR. Keep HR and LR in folders of their own (datamodules.Paired, pack "
        "--lr), or in a tar as KEY.hr.png and KEY.lr.png; other images of equal names belong to "
        "sources of their own (datamodules.Mix)"
    )


def _find_pair(
    indices: Sequence[int], size_of: Callable[[int], Size], scale: float
) -> tuple[int, int] | None:
    """Return HR and LR among images of one name; None if two have one size, or no two fit."""
    by_size = {size_of(index): index for index in indices}
    if len(by_size) < len(indices):
        return None
    for (large, hr), (small, lr) in permutations(by_size.items(), 2):
        if size_problem(large, small, scale) is None:
            return hr, lr
    return None
