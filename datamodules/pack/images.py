"""Check, cut and encode one image for packing."""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from datamodules.files.captions import caption_of
from datamodules.files.pairs import misfit
from datamodules.files.roles import Roles, roles_of
from datamodules.pack.places import Entry
from datamodules.pack.shard_set import Outcome, Refused
from datamodules.shards.writer import Members
from files.images.decode import DecodedImage, UnreadableImage, decode, reason_of
from files.images.deep import Pixels
from files.images.encoders import (
    encoded_by_pillow,
    png_of_16_bits,
    profile_chunk,
    with_chunks,
)
from files.images.header import open_header

Planes = list[Pixels]  # colours (H, W, 3), and alpha (H, W) if present
EXTENSIONS = {
    "JPEG": "jpg",
    "TIFF": "tif",
    "JPEG2000": "jp2",
}  # of Pillow's formats, if not the lower-case name

NO_CAPTION = "images without a caption"

# On photographs, a third of the time of Pillow's defaults (54 ms of 162 for a WebP of a fifth of a
# megapixel, 22 of 57 for a PNG) for 1 % more bytes.
WEBP_EFFORT = {"method": 2, "quality": 50}  # in lossless mode, quality is effort as well
PNG_EFFORT = {"compress_level": 3}


class Refusal(ValueError):  # noqa: N818  (names the outcome)
    """An input is refused: the reason in a word or two, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Encoding(NamedTuple):
    """The encoding of images: ``keep``, ``webp``, ``png`` or ``jpeg``, which has a quality."""

    kind: str
    quality: int = 0

    def __str__(self) -> str:
        """Return the encoding as on the command line."""
        return f"{self.kind}:{self.quality}" if self.kind == "jpeg" else self.kind


KEEP = Encoding("keep")


def parse_encoding(text: str) -> Encoding:
    """Parse ``keep``, ``webp``, ``png`` or ``jpeg:QUALITY``.

    Raises:
        ArgumentTypeError: If ``text`` is none of them.
    """
    match = re.fullmatch(r"(keep|webp|png)|jpeg:(\d{1,3})", text)
    if match is None or (match[2] and not 1 <= int(match[2]) <= 100):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an encoding; expected keep, webp, png, or jpeg:1 to jpeg:100"
        )
    return Encoding(match[1]) if match[1] else Encoding("jpeg", int(match[2]))


class Original(NamedTuple):
    """One image of an input: where it is, the extension and content of its file, and decoded."""

    where: str
    extension: str
    data: bytes
    image: DecodedImage


class Encoded(NamedTuple):
    """An encoded image.

    Attributes:
        extension: Extension of its file.
        data: Content of its file.
        notes: Events to count.
    """

    extension: str
    data: bytes
    notes: tuple[str, ...] = ()


def encode(original: Original, planes: Planes | None, encoding: Encoding) -> Encoded:
    """Encode an image. The file of an unchanged image is kept if it has the wanted format.

    Args:
        original: The image.
        planes: Its changed colours, and alpha if present; None if it is unchanged.
        encoding: The wanted encoding.

    Raises:
        Refusal: If the encoding cannot hold the image.
    """
    kind = encoding.kind
    if planes is None:
        if kind == "keep" or (kind != "jpeg" and kind.upper() == format_of(original.data)):
            return Encoded(original.extension, original.data)
        planes = _planes(original.image)
    if kind in ("keep", "png"):
        return Encoded("png", _png(planes, original.image))
    try:
        return _eight_bit(planes, original.image, encoding)
    except (TypeError, ValueError) as error:  # Pillow's, of 16 bits or of a side above 16,383
        raise Refusal(
            f"impossible as {kind}",
            f"{original.where}: {kind} cannot hold it ({error}): use --encode png, or --crop",
        ) from error


def format_of(data: bytes) -> str:
    """Return Pillow's name of an image file's format, or "" if it is not an image."""
    try:
        return open_header(io.BytesIO(data)).format
    except Exception:  # a broken header raises anything; the decoder reports the problem
        return ""


def extension_of(data: bytes) -> str:
    """Return the extension for an image file, from its bytes."""
    format_ = format_of(data)
    return EXTENSIONS.get(format_, format_.lower())


# ---------------------------------------------------------------------------------------- the kinds
def _eight_bit(planes: Planes, image: DecodedImage, encoding: Encoding) -> Encoded:
    """Return a JPEG or a lossless WebP."""
    notes = []
    if encoding.kind == "jpeg":
        if len(planes) > 1:
            notes.append("images whose alpha was left out, as JPEG has none")
        colours = np.ascontiguousarray(planes[0])
        data = encoded_by_pillow(colours, "JPEG", quality=encoding.quality, subsampling=0)
    else:
        # exact: training sees the colours of transparent pixels.
        options = {"lossless": True, "exact": True, "icc_profile": image.icc or b""}
        data = encoded_by_pillow(_joined(planes), "WEBP", **options, **WEBP_EFFORT)
    if image.cicp:
        notes.append(
            f"images that lost their colours (cICP code points, as of HDR), which {encoding.kind} "
            "cannot hold"
        )
    extension = "jpg" if encoding.kind == "jpeg" else "webp"
    return Encoded(extension, data, tuple(notes))


def _png(planes: list[Pixels], image: DecodedImage) -> bytes:
    chunks = [b"cICP" + image.cicp] if image.cicp else []
    if planes[0].dtype == np.uint8:
        data = encoded_by_pillow(_joined(planes), "PNG", icc_profile=image.icc, **PNG_EFFORT)
    else:
        data = png_of_16_bits(cast(Any, _joined(planes)))
        chunks += [profile_chunk(image.icc)] if image.icc else []
    return with_chunks(data, *chunks)


def _joined(planes: list[Pixels]) -> Pixels:
    return cast(Pixels, np.ascontiguousarray(np.dstack(planes)))


# --------------------------------------------------------------------------------------- processing
class Recipe(NamedTuple):
    """Settings for processing every input.

    Attributes:
        scale: How many times larger than its LR an image is, if there are LR images.
        crop: Side of the squares that images are cut into, or None to leave them whole.
        step: Pixels from one square to the next; None for the square's side.
        encode: Encoding of images.
    """

    scale: float | None = None
    crop: int | None = None
    step: int | None = None
    encode: Encoding = KEEP


def process(recipe: Recipe, entry: Entry) -> Outcome:
    """Read an input and make its samples.

    Args:
        recipe: Settings of the processing.
        entry: The input.
    """
    roles = roles_of(tuple(entry.members))
    notes = [f"members {suffix}: images without a role, kept" for suffix in roles.unused]
    try:
        content = {suffix: place.read() for suffix, place in entry.members.items()}
        originals = _decoded(entry, content, roles, recipe)
        for original in originals.values():
            notes += [f"images that are read without their {what}" for what in original.image.lost]
        others = _others(entry, content, roles)
        samples = list(_samples(entry.key, originals, others, recipe, notes))
    except (Refusal, UnreadableImage) as error:
        return Outcome(refused=Refused(entry.key, error.reason, str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
        return Outcome(refused=Refused(entry.key, reason_of(error), message))
    if not any(members.get("txt") for _, members in samples):
        notes.append(NO_CAPTION)
    return Outcome(samples, notes=notes)


def _decoded(
    entry: Entry, content: dict[str, bytes], roles: Roles, recipe: Recipe
) -> dict[str, Original]:
    """Return the checked images, by what is before the extension: "", ``hr.`` or ``lr.``."""
    if "hr" not in roles.members:
        raise Refusal("no image", f"{entry.where}: its sample has no image, nor one named hr.<ext>")
    originals: dict[str, Original] = {}
    for field in ("hr", "lr"):
        suffix = roles.members.get(field)
        if suffix is None:
            continue
        data, place = content[suffix], entry.members[suffix]
        role = f"{field}." if suffix.startswith(field) else ""
        extension = suffix[len(role) :] or extension_of(data)
        image = _image(data, place.where, recipe, role)
        originals[role] = Original(place.where, extension, data, image)
    if "lr." in originals:
        _check_pair(_large(originals), originals["lr."], recipe)
    return originals


def _large(originals: dict[str, Original]) -> Original:
    return originals.get("hr.") or originals[""]


def _check_pair(large: Original, small: Original, recipe: Recipe) -> None:
    problem = None
    if recipe.scale is not None:
        problem = misfit(_size(large.image), _size(small.image), recipe.scale)
    elif recipe.crop is not None:
        problem = "it is needed to cut both"
    if problem:
        message = f"{large.where}: the pair does not fit --scale {recipe.scale}: {problem}"
        raise Refusal("sizes of the pair", message)


def _image(data: bytes, where: str, recipe: Recipe, role: str) -> DecodedImage:
    # Our JPEGs have no profile, so their pixels must be sRGB.
    jpeg = recipe.encode.kind == "jpeg" and role != "lr."
    image = decode(data, where, srgb=jpeg)
    # Other formats keep the profile, unless it is for CMYK or grey: we write RGB.
    writes = recipe.encode != KEEP or recipe.crop is not None
    if not jpeg and image.mode[:3] != "RGB" and writes:
        return decode(data, where, srgb=True)
    return image


def _size(image: DecodedImage) -> tuple[int, int]:
    return image.rgb.shape[1], image.rgb.shape[0]


def _others(entry: Entry, content: dict[str, bytes], roles: Roles) -> Members:
    """Return the members beside the image: caption, metadata, and others of a tar."""
    images = {roles.members.get("hr"), roles.members.get("lr")}
    others = {suffix: data for suffix, data in content.items() if suffix not in images}
    for field in {"txt", "json"} & roles.members.keys():
        others[field] = others.pop(roles.members[field])
    try:
        json.loads(others.get("json") or "null")
        if "txt" in others:
            others["txt"] = caption_of(others["txt"]).encode()
    except (ValueError, RecursionError) as error:
        raise Refusal(
            "broken text", f"{entry.where}: its caption or JSON is broken: {error}"
        ) from error
    return others


def _samples(
    key: str, originals: dict[str, Original], others: Members, recipe: Recipe, notes: list[str]
) -> Iterator[tuple[str, Members]]:
    if recipe.crop is None:
        yield key, _encoded(originals, None, others, recipe, notes)
        return
    further = roles_of(tuple(others)).unused
    if further:
        raise Refusal(
            "further images",
            f"{_large(originals).where}: its sample has another image {further[0]}, which may or "
            "may not need the same cut: pack it whole, or without that member",
        )
    for number, square in enumerate(_squares(originals, recipe, recipe.crop), start=1):
        counted = notes if number == 1 else []  # once per image
        yield f"{key}_s{number:03d}", _encoded(originals, square, others, recipe, counted)


def _planes(image: DecodedImage) -> Planes:
    return [image.rgb] if image.alpha is None else [image.rgb, image.alpha]


def _squares(
    originals: dict[str, Original], recipe: Recipe, crop: int
) -> Iterator[dict[str, Planes]]:
    """Cut the images of one sample alike, row by row.

    All positions are in LR pixels; without LR, in HR pixels.
    """
    planes_of = {role: _planes(original.image) for role, original in originals.items()}
    lr_scale = round(recipe.scale or 1) if "lr." in originals else 1
    factors = {role: 1 if role == "lr." else lr_scale for role in originals}
    lr_side, lr_stride = crop // lr_scale, (recipe.step or crop) // lr_scale
    # Limited by both: HR may have some pixels more.
    height, width = (
        min(planes[0].shape[axis] // factors[role] for role, planes in planes_of.items())
        for axis in (0, 1)
    )
    if min(height, width) < lr_side:
        large = _large(originals)
        size = "x".join(map(str, _size(large.image)))
        raise Refusal("too small", f"{large.where}: {size}; --crop is {crop}")
    for top in places(height, lr_side, lr_stride):
        for left in places(width, lr_side, lr_stride):
            yield {
                role: [_cut(plane, top, left, lr_side, factors[role]) for plane in planes]
                for role, planes in planes_of.items()
            }


def places(length: int, side: int, step: int) -> list[int]:
    """Return the starts of squares along one side, as in BasicSR's ``extract_subimages``.

    Args:
        length: Length of the side, at least the square's.
        side: Side of a square.
        step: Distance from one square to the next; one more square ends where pixels remain.
    """
    starts = list(range(0, length - side + 1, step))
    if starts[-1] + side < length:
        starts.append(length - side)
    return starts


def _cut(plane: Pixels, top: int, left: int, size: int, factor: int) -> Pixels:
    rows = slice(top * factor, (top + size) * factor)
    return plane[rows, left * factor : (left + size) * factor]


def _encoded(
    originals: dict[str, Original],
    changed: dict[str, Planes] | None,
    others: Members,
    recipe: Recipe,
    notes: list[str],
) -> Members:
    """Return the members of a sample, images first."""
    members: Members = {}
    for role, original in originals.items():
        planes = None if changed is None else changed[role]
        lossy = recipe.encode.kind == "jpeg"
        encoding = KEEP if lossy and role == "lr." else recipe.encode  # LR without loss
        encoded = encode(original, planes, encoding)
        notes += encoded.notes
        members[f"{role}{encoded.extension}"] = encoded.data
    return {**members, **others}
