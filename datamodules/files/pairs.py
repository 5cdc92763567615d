"""HR and LR of one image: found by their names, held against each other by their sizes."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TypeVar

from files.images.decode import UnreadableImage
from files.words import first_of

MEASURED = 20  # groups of images that are compared by size
T = TypeVar("T")

# Words in the names of HR and LR images that the names of their partners lack: 0001x2, lr/0001,
# 0001x4m, LRbicx4, GTmod12. The number of LR4 is a mark as well, but does not tell two apart.
_WORDS = "hr|lr|hq|lq|gt|high|low|res|large|small|thumb|target|input|bicubic|bic|b[id]|dn|mod\\d+"
_FACTOR = r"x\d+(?:\.\d+)?"
_MARKS = re.compile(
    rf"(?<![^\W\d_])((?:{_WORDS})+(?:{_FACTOR}|\d+x)?|{_FACTOR}(?:[mdw]\d*)?)"
    r"(?:(?:[2348]|16)(?!\d))?(?![^\W\d_])|(?<![^\W_])(\d+x)(?![^\W_])",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"[\W_]+")


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
            problems.append(f"{len(missing)} of {names[0]} have no LR: {first_of(missing)}")
        if extra:
            problems.append(f"{len(extra)} of {names[1]} have no HR: {first_of(extra)}")
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


def refuse_mixed(
    what: str, keys: Sequence[str], size_of: Callable[[int], tuple[int, int]], scale: float = 1
) -> None:
    """Raise if a set of images has HR and LR of one scene as images of their own.

    Their names differ by words such as ``hr``, ``lr`` and ``x2`` alone, and their sizes by a whole
    factor or the scale.

    Args:
        what: The set, for the message.
        keys: The images' names.
        size_of: Returns (W, H) of the image ``keys[index]``; if it raises, the image is skipped, as
            reading it raises.
        scale: How many times larger HR is than LR, if it is known.

    Raises:
        ValueError: If it has.
    """
    # Marks of a folder that all images share separate nothing.
    start = len(os.path.commonpath([min(keys), max(keys)])) if keys else 0
    marked = {_scene(key[start:]) for key in keys if _MARKS.search(key, start)}
    scenes: dict[str, list[int]] = {}
    for index, key in enumerate(keys if marked else ()):
        if (scene := _scene(key[start:])) in marked:
            scenes.setdefault(scene, []).append(index)
    groups = [group for group in scenes.values() if len(group) > 1]
    for group in groups[:MEASURED]:
        sizes = []
        for index in group:
            with suppress(UnreadableImage, OSError):
                sizes.append((size_of(index), keys[index]))
        sizes.sort()
        for (small, lr), (large, hr) in pairwise(sizes):
            alike = _MARKS.findall(lr.casefold()) == _MARKS.findall(hr.casefold())
            factors = () if alike else (scale, round(large[0] / small[0]))
            if any(f > 1 and misfit(large, small, f) is None for f in factors):
                raise ValueError(
                    f"{what}: {len(groups)} images are there in several sizes by their names, such "
                    f"as {hr!r} ({large[0]}x{large[1]}) and {lr!r} ({small[0]}x{small[1]}): LR "
                    "images would count as HR. Keep HR and LR in folders of their own "
                    "(datamodules.Paired, pack --lr), or in a tar as KEY.hr.png and KEY.lr.png"
                )


def _scene(key: str) -> str:
    """Return a name without the words that only HR or LR images have."""
    text = unicodedata.normalize("NFC", key).casefold()
    return _BETWEEN.sub(" ", _MARKS.sub(" ", text)).strip()
