"""Process one input of the packer: check, shrink, cut and encode its images; pure and local."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from datamodules.captions import caption_of
from datamodules.decode import Picture, UnreadableImage, decode
from datamodules.pack_cut import Grid, Planes, bounded, resized, squares
from datamodules.pack_encode import (
    KEEP,
    Encoding,
    Job,
    Refusal,
    encode,
    extension_of,
    pixels_of,
)
from datamodules.pack_inputs import Entry, File, Place, role_of
from datamodules.pairs import misfit
from files.paths import read_bytes

MAX_PIXELS = 2 * 89_478_485  # where Pillow reports a decompression bomb
# Reading a pickle executes its code: our readers never do, and others should not.
SIDECARS = {"txt": (".txt", ".TXT", ".caption"), "json": (".json", ".JSON")}
PICKLES = frozenset({"pyd", "pkl", "pickle", "pt", "pth"})

Members = dict[str, bytes]  # suffix: content


@dataclass(frozen=True)
class Recipe:
    """Settings for processing every input.

    Args:
        scale: How many times larger than its LR an image is, if there are LR images.
        crop: Side of the squares that images are cut into, or None to leave them whole.
        step: Pixels from one square to the next.
        thresh: Pixels that may remain at the right and the bottom; if more remain, one more square
            lies at the border.
        long_side: Largest long side; longer images are shrunk.
        short_side: Largest short side; longer ones are shrunk.
        min_side: Images whose short side is then below this are refused.
        max_pixels: Images with more pixels are refused before decoding.
        encoding: Encoding of images.
        restart_markers: Write JPEG with restart markers and their offsets.
        captions: Key of a caption in the JSON, or None to use the text file.
        sidecars: Use text and JSON beside an image.
    """

    scale: float | None = None
    crop: int | None = None
    step: int = 0
    thresh: int = 0
    long_side: int | None = None
    short_side: int | None = None
    min_side: int = 1
    max_pixels: int = MAX_PIXELS
    encoding: Encoding = KEEP
    restart_markers: bool = False
    captions: str | None = None
    sidecars: bool = True

    @property
    def writes(self) -> bool:
        """Whether images may be encoded again, instead of kept unchanged."""
        changes = (self.crop, self.long_side, self.short_side)
        return self.encoding != KEEP or any(side is not None for side in changes)


class Outcome(NamedTuple):
    """The result of one input.

    Attributes:
        samples: Keys, and members by suffix; none if it was refused.
        digest: Hash of the bytes of its images, hexadecimal; empty if it was refused.
        caption: Hash of its caption, hexadecimal; empty without one.
        reason: Why it was refused, in a word or two, or "".
        message: The reason in a sentence.
        notes: Events to count.
    """

    samples: list[tuple[str, Members]]
    digest: str = ""
    caption: str = ""
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()


class _Shot(NamedTuple):
    """One image of an input."""

    place: Place
    suffix: str
    data: bytes
    picture: Picture


def process(recipe: Recipe, entry: Entry) -> Outcome:
    """Read an input and make its samples.

    Args:
        recipe: Settings of the processing.
        entry: The input.
    """
    notes: list[str] = []
    try:
        content = {suffix: place.read() for suffix, place in entry.members.items()}
        shots = dict(_decoded(entry, content, recipe))
        others = _others(entry, content, recipe, notes)
        samples = list(_samples(entry.key, shots, others, recipe, notes))
    except Refusal as error:
        return Outcome([], reason=error.reason, message=str(error))
    except UnreadableImage as error:
        return Outcome([], reason=error.reason, message=str(error))
    except FileNotFoundError as error:
        message = f"{error.filename}: no such file" if error.filename else str(error)
        return Outcome([], reason="missing", message=message)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Outcome([], reason="unreadable", message=f"{where}{error.strerror or error}")
    caption = others.get("txt")
    digest = hashlib.blake2b(caption, digest_size=8).hexdigest() if caption else ""
    return Outcome(samples, _digest(shots), caption=digest, notes=tuple(notes))


def _digest(shots: dict[str, _Shot]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for role, shot in sorted(shots.items()):
        whole.update(f"{role}{len(shot.data)}:".encode() + shot.data)
    return whole.hexdigest()


# -------------------------------------------------------------------------------------------- input


def _decoded(
    entry: Entry, content: dict[str, bytes], recipe: Recipe
) -> Iterator[tuple[str, _Shot]]:
    """Return the checked images by their role."""
    found: dict[str, _Shot] = {}
    for suffix, data in content.items():
        role = role_of(suffix)
        if role is None:
            continue
        place = entry.members[suffix]
        if role in found:
            raise Refusal("several images", f"{place.where}: the sample has another {role}image")
        picture = _picture(data, place.where, recipe, role)
        kind = f"{role}{extension_of(data)}" if suffix == role else suffix
        found[role] = _Shot(place, kind, data, picture)
    if "" in found and "hr." in found:
        raise Refusal("several images", f"{found[''].place.where}: its sample also has an hr image")
    if not found.keys() & {"", "hr."}:
        where = next(iter(entry.members.values())).where
        raise Refusal("no image", f"{where}: its sample has no image, nor one named hr.<ext>")
    large, small = found.get("hr.") or found[""], found.get("lr.")
    if small is not None and recipe.scale is not None:
        problem = misfit(_size(large.picture), _size(small.picture), recipe.scale)
        if problem:
            fault = f"does not fit scale {recipe.scale:g}: {problem}"
            raise Refusal("sizes of the pair", f"{large.place.where}: the pair {fault}")
    yield from found.items()


def _picture(data: bytes, where: str, recipe: Recipe, role: str) -> Picture:
    pixels = pixels_of(data)
    if pixels is not None and pixels > recipe.max_pixels:
        raise Refusal(
            "too large",
            f"{where}: {pixels / 1e6:.0f} megapixels, more than --max-pixels "
            f"{recipe.max_pixels / 1e6:.0f}M: a decompression bomb, or raise it",
        )
    # Our JPEGs have no profile, so their pixels must be sRGB.
    jpeg = recipe.encoding.kind == "jpeg" and role != "lr."
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # our own limit was just checked, and may be higher
    try:
        picture = decode(data, where, srgb=jpeg)
        # Other formats keep the profile, unless it is for CMYK or grey: we write RGB.
        if not jpeg and picture.mode[:3] != "RGB" and recipe.writes:
            return decode(data, where, srgb=True)
        return picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _size(picture: Picture) -> tuple[int, int]:
    return picture.rgb.shape[1], picture.rgb.shape[0]


def _others(entry: Entry, content: dict[str, bytes], recipe: Recipe, notes: list[str]) -> Members:
    """Return the members beside the image: caption, metadata, and others of a tar."""
    others = {suffix: data for suffix, data in content.items() if role_of(suffix) is None}
    for suffix in PICKLES & others.keys():
        notes.append(f"members {suffix} (pickles) left out")
        del others[suffix]
    place = next(iter(entry.members.values()))
    where = place.where
    if recipe.sidecars and isinstance(place, File):
        others |= _sidecars(Path(place.path), notes)
    if recipe.captions is not None:
        caption = _caption(_json(others, where), recipe.captions, where)
        others.pop("txt", None)
        if caption is None:
            notes.append("images without a caption")
        else:
            others["txt"] = caption.encode()
    _json(others, where)
    if "txt" in others:
        try:
            others["txt"] = caption_of(others["txt"]).encode()
        except ValueError as error:
            raise Refusal("broken caption", f"{where}: {error}") from error
    return others


def _sidecars(picture: Path, notes: list[str]) -> Members:
    """Return the caption and JSON beside an image; several extensions are possible."""
    found: Members = {}
    for suffix, endings in SIDECARS.items():
        for path in [
            *(picture.with_suffix(ending) for ending in endings),
            Path(f"{picture}{endings[0]}"),  # a.jpg.txt
        ]:
            try:
                data = read_bytes(path)
            except (FileNotFoundError, IsADirectoryError):
                continue
            if found.setdefault(suffix, data) != data:
                notes.append(f"further {suffix} files beside an image, left out")
    return found


def _json(members: Members, where: str) -> Any:
    try:
        return json.loads(members["json"]) if members.get("json") else None
    except (ValueError, RecursionError) as error:
        raise Refusal("broken metadata", f"{where}: its JSON is broken: {error}") from error


def _caption(content: Any, key: str, where: str) -> str | None:
    caption = content.get(key) if isinstance(content, dict) else None
    if caption is not None and not isinstance(caption, str):
        raise Refusal(
            "broken caption", f"{where}: {key!r} in its JSON is {caption!r}; expected text"
        )
    return caption


# ------------------------------------------------------------------------------------------- output


def _samples(
    key: str, shots: dict[str, _Shot], others: Members, recipe: Recipe, notes: list[str]
) -> Iterator[tuple[str, Members]]:
    hr = "hr." if "hr." in shots else ""
    picture = shots[hr].picture
    size = bounded(_size(picture), recipe.long_side, recipe.short_side)
    if min(size) < recipe.min_side:
        raise Refusal(
            "too small",
            f"{shots[hr].place.where}: {size[0]}x{size[1]}; --min-side is {recipe.min_side}",
        )
    shrunk = size != _size(picture)
    if shrunk and "lr." in shots:
        raise Refusal("cannot be shrunk", f"{shots[hr].place.where}: its LR would no longer fit")
    if recipe.crop is None and not shrunk:
        yield key, _encoded(shots, None, others, recipe, notes)
        return
    _check_cut(shots[hr], others)
    whole = {role: _planes(shot.picture) for role, shot in shots.items()}
    if shrunk:
        notes.append("images shrunk")
        whole[hr] = [resized(plane, size) for plane in whole[hr]]
    if recipe.crop is None:
        yield key, _encoded(shots, whole, others, recipe, notes)
        return
    for number, cut in enumerate(_squares(whole, shots[hr], recipe, recipe.crop), start=1):
        done = notes if number == 1 else []  # counted once per image
        yield f"{key}_s{number:03d}", _encoded(shots, cut, others, recipe, done)


def _check_cut(shot: _Shot, others: Members) -> None:
    further = [suffix for suffix in others if role_of(suffix.rpartition(".")[2]) is not None]
    if further:
        raise Refusal(
            "further images",
            f"{shot.place.where}: its sample has another image {further[0]}, which may or may not "
            "need the same cut: pack it whole, or without that member",
        )


def _planes(picture: Picture) -> Planes:
    return [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha]


def _squares(
    whole: dict[str, Planes], shot: _Shot, recipe: Recipe, crop: int
) -> Iterator[dict[str, Planes]]:
    unit = _whole_scale(shot, recipe, crop) if "lr." in whole else 1
    factors = {role: 1 if role == "lr." else unit for role in whole}
    grid = Grid(crop // unit, recipe.step // unit, recipe.thresh / unit)
    height, width = next(planes for role, planes in whole.items() if role != "lr.")[0].shape[:2]
    # Limited by the LR, too: HR may have some pixels more.
    if min(height, width) < crop or min(min(p[0].shape[:2]) for p in whole.values()) < grid.size:
        raise Refusal("too small", f"{shot.place.where}: {width}x{height}; --crop is {crop}")
    yield from squares(whole, factors, grid)


def _whole_scale(shot: _Shot, recipe: Recipe, crop: int) -> int:
    scale = recipe.scale
    if scale is None or scale != round(scale):
        raise Refusal(
            "no scale", f"{shot.place.where}: has an LR; to cut it, --scale must be a whole number"
        )
    unit = round(scale)
    for name, value in (("--crop", crop), ("--step", recipe.step)):
        if value % unit:
            raise Refusal("no scale", f"{name} is {value}, not a multiple of the scale {unit}")
    return unit


def _encoded(
    shots: dict[str, _Shot],
    changed: dict[str, Planes] | None,
    others: Members,
    recipe: Recipe,
    notes: list[str],
) -> Members:
    """Return the members of a sample, images first."""
    members: Members = {}
    companions = dict(others)
    for role, shot in shots.items():
        kept_offsets = companions.pop(f"{role}rst", None)
        planes = None if changed is None else changed[role]
        made = encode(
            Job(
                where=shot.place.where,
                extension=shot.suffix.removeprefix(role),
                data=shot.data,
                planes=planes,
                picture=shot.picture,
                lossless=role == "lr.",
            ),
            recipe.encoding,
            recipe.restart_markers and role != "lr.",
        )
        notes += made.notes
        members[f"{role}{made.extension}"] = made.data
        offsets = kept_offsets if made.data is shot.data and made.offsets is None else made.offsets
        if offsets is not None:
            members[f"{role}rst"] = offsets
    return {**members, **companions}
