"""Which member of a sample is what, by the names of its members: one rule for all readers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from files.paths import IMAGE_EXTENSIONS, walk

FIELDS = ("hr", "lr", "txt", "json", "latent", "lr_latent", "text_features")
SUFFIXES = frozenset(extension.removeprefix(".") for extension in IMAGE_EXTENSIONS)
ARRAYS = ("latent", "lr_latent", "text_features")  # fields that are .npy files
EXPECTED = "an image is EXT or hr.EXT, its LR lr.EXT, its caption txt"

_EXT = "|".join(sorted(SUFFIXES))
# Without an extension, only the bytes show an image's format.
_IMAGE = re.compile(rf"(?:(hr|lr)(?:\.|$))?(?:{_EXT})?", re.IGNORECASE)
_TEXT = re.compile(rf"(?:(?:hr\.)?(?:{_EXT})\.)?(txt|caption|json)", re.IGNORECASE)


class Roles(NamedTuple):
    """The roles of the members of one sample.

    Attributes:
        members: The suffix of the member that is each field, by the names of ``FIELDS``.
        unused: Suffixes of images without a role, such as ``mask.png``.
        problem: Why the sample cannot be used, if so.
    """

    members: dict[str, str]
    unused: tuple[str, ...]
    problem: str | None = None


def role_of(suffix: str) -> str | None:
    """Return the field that a member is, by its suffix; None if it has no role."""
    if image := _IMAGE.fullmatch(suffix):
        return (image[1] or "hr").lower()
    if text := _TEXT.fullmatch(suffix):
        return "json" if text[1].lower() == "json" else "txt"
    name = suffix.removesuffix(".npy")
    return name if name != suffix and name in ARRAYS else None


@functools.lru_cache
def roles_of(suffixes: tuple[str, ...]) -> Roles:
    """Return the roles of the members of a sample.

    Args:
        suffixes: What follows the key and a dot in each member's name: ``png``, ``hr.png``,
            ``jpg.txt``.

    Returns:
        The roles; their ``problem`` is that a role has several members, or an LR has no HR.
    """
    members: dict[str, str] = {}
    unused = []
    problem = None
    for suffix in suffixes:
        role = role_of(suffix)
        if role in members:
            problem = f"it has several {role} members: {members[role]}, {suffix}"
        elif role is not None:
            members[role] = suffix
        elif suffix.rpartition(".")[2].lower() in SUFFIXES:
            unused.append(suffix)
    if "lr" in members and not members.keys() & {"hr", "latent"}:
        problem = (
            f"it has an LR ({members['lr']}) but no HR; both need the same name, in upper and "
            "lower case and in the Unicode form of its accents, too, and for Stream they lie next "
            "to each other in a tar (tar --sort=name)"
        )
    return Roles(members, tuple(unused), problem)


def checked_roles(shard: str, key: str, suffixes: tuple[str, ...]) -> Roles:
    """Return the roles of the members of a sample of a shard. ``suffixes`` as for ``roles_of``.

    Raises:
        ValueError: If they have a problem; the message names the shard and the sample's key.
    """
    roles = roles_of(suffixes)
    if roles.problem is not None:
        raise ValueError(f"shard {shard}: {key!r}: {roles.problem}")
    return roles


def texts_beside(images: Iterable[Path]) -> Iterator[dict[str, str]]:
    """Yield for each image file the captions and metadata beside it: paths by suffix.

    ``a.txt`` and ``a.jpg.txt`` are beside ``a.jpg``, and have the suffixes ``txt`` and ``jpg.txt``.
    """
    texts_in = functools.cache(_texts_in)
    for image in images:
        texts = texts_in(image.parent)
        names = {name for start in (image.stem, image.name) for name in texts.get(start, ())}
        yield {n[len(image.stem) + 1 :]: str(image.parent / n) for n in sorted(names)}


def _texts_in(folder: Path) -> dict[str, list[str]]:
    """Return the names of the captions and metadata in a folder, by what precedes ``.txt``."""
    found: dict[str, list[str]] = {}
    # Reading an image of a folder that is missing says so.
    _, _, names = next(walk(folder)) if folder.is_dir() else (folder, [], [])
    for name in names:
        start, _, extension = name.rpartition(".")
        if start and _TEXT.fullmatch(extension):
            found.setdefault(start, []).append(name)
    return found
