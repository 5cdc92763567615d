"""HR and LR of one image: found by their names, held against each other by their sizes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import TypeVar

from files.images.decode import UnreadableImage
from files.words import first_of

T = TypeVar("T")
Size = tuple[int, int]  # width and height
Scene = dict[str, int]  # numbers of the images of a scene, by what marks each one's name

SAMPLES = 20  # images of a set whose partners are looked for
LARGEST_SCENE = 8  # images of one scene; more share a part of their names by chance
# A mark of HR or LR in a name: its first or last word, or a factor at its end, as in 0001x4.
_HEAD = re.compile(r"[^\W_]+[\W_]+")
_TAIL = re.compile(r"(?:[\W_]+[^\W_]+|x\d\w*)$")


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
    what: str, keys: Sequence[str], size_of: Callable[[int], Size], scale: float = 1
) -> None:
    """Raise if a set of images has HR and LR of the same scenes as images of their own.

    Two parts of the set have equal names but for their folders or one word, and one part has
    exactly the scale, or one whole factor, times the size of the other. Few LR images among many
    others are not noticed.

    Args:
        what: The set, for the message.
        keys: The images' names.
        size_of: Returns (W, H) of the image ``keys[index]``; if it raises, the image is skipped, as
            reading it raises.
        scale: How many times larger HR is than LR, if it is known.

    Raises:
        ValueError: If it has.
    """
    samples = keys[:: len(keys) // SAMPLES + 1]
    contrasts: dict[tuple[str, str], list[Scene]] = {}  # scenes by each two of their marks
    for scene in _scenes_of(samples, keys):
        for marks in combinations(sorted(scene), 2):
            contrasts.setdefault(marks, []).append(scene)
    for marks, scenes in contrasts.items():
        if len(scenes) < max(2, len(samples) / 4):
            continue
        if _has_one_ratio(marks, scenes, size_of, scale):
            first, second = (scenes[0][mark] for mark in marks)
            raise ValueError(
                f"{what}: images are there in two sizes by their names, such as {keys[first]!r} "
                f"and {keys[second]!r}: LR images would count as HR. Keep HR and LR in folders of "
                "their own (datamodules.Paired, pack --lr), or in a tar as KEY.hr.png and "
                "KEY.lr.png; other images of equal names belong to sources of their own "
                "(datamodules.Mix)"
            )


def _scenes_of(samples: Sequence[str], keys: Sequence[str]) -> list[Scene]:
    """Return the scenes that samples may show."""
    scenes: dict[str, Scene] = {}
    stems: set[str] = set()
    for sample in samples:
        scenes |= {scene: {} for scene, _ in _scenes(sample)}
        stems |= {stem for stem, _ in _stems(sample)}
    for index, key in enumerate(keys):
        if any(stem in stems for stem, _ in _stems(key)):
            for scene, mark in _scenes(key):
                if scene in scenes and len(scenes[scene]) <= LARGEST_SCENE:
                    scenes[scene][mark] = index
    return [scene for scene in scenes.values() if 1 < len(scene) <= LARGEST_SCENE]


def _has_one_ratio(
    marks: tuple[str, str], scenes: list[Scene], size_of: Callable[[int], Size], scale: float
) -> bool:
    """Return whether the images of one mark are larger than those of the other, all as much."""
    ratios: set[float | None] = set()
    for scene in scenes:
        sizes: dict[str, Size] = {}
        for mark, index in scene.items():
            with suppress(UnreadableImage, OSError):
                sizes[mark] = size_of(index)
        if sizes.keys() >= set(marks):
            largest = max(sizes.values())
            is_alone = list(sizes.values()).count(largest) == 1  # as the HR of a scene is
            first, second = (sizes[mark] for mark in marks)
            ratios.add(_ratio(first, second, scale) if is_alone else None)
        if len(ratios) > 1 or None in ratios:
            return False
    return bool(ratios)


def _ratio(first: Size, second: Size, scale: float) -> float | None:
    """Return how many times larger the first image is: the scale, or a whole number; or None."""
    large, small = max(first, second), min(first, second)
    for factor in (scale, round(large[0] / small[0])):
        if factor > 1 and misfit(large, small, factor) is None:
            return factor if first == large else 1 / factor
    return None


def _scenes(key: str) -> Iterator[tuple[str, str]]:
    """Yield the names that a key's scene may have, and the mark: what the key has besides."""
    *folders, _ = _plain(key).split("/")
    for stem, word in _stems(key):
        yield "/".join([*folders, stem]), word
        for start, end in combinations(range(len(folders) + 1), 2):
            mark = "/".join([*folders[start:end], word])
            yield "/".join([*folders[:start], *folders[end:], stem]), mark


def _stems(key: str) -> Iterator[tuple[str, str]]:
    """Yield a file's name whole, and without a mark at its end or beginning; and the mark."""
    name = _plain(key).rpartition("/")[2]
    yield name, ""
    if (tail := _TAIL.search(name)) and tail.start():
        yield name[: tail.start()], tail[0]
    if (head := _HEAD.match(name)) and head.end() < len(name):
        yield name[head.end() :], head[0]


def _plain(key: str) -> str:
    return key.casefold() if key.isascii() else unicodedata.normalize("NFC", key).casefold()
