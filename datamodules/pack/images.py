"""Check, cut and encode one image for packing."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, cast

import numpy as np

from datamodules.files.captions import parse_caption
from datamodules.files.members import parse_json, parse_member
from datamodules.files.pairs import size_problem
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

# On photographs, a third of the time of Pillow's defaults (54 ms of 162 for a WebP of a fifth of a
# megapixel, 22 of 57 for a PNG) for 1 % more bytes.
WEBP_EFFORT = {"method": 2, "quality": 50}  # in lossless mode, quality is effort as well
PNG_EFFORT = {"compress_level": 3}


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
    """One image of an input: where it is, the extension and bytes of its file, and its pixels."""

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
        UnreadableImage: If the encoding cannot hold the image.
    """
    kind = encoding.kind
    if planes is None:
        if kind == "keep" or (kind in ("webp", "png") and kind.upper() == _format_of(original)):
            return Encoded(original.extension, original.data)
        planes = _planes(original.image)
    if kind in ("keep", "png"):
        return Encoded("png", _encode_png(planes, original.image))
    try:
        return _encode_webp_or_jpeg(planes, original.image, encoding)
    except (OSError, TypeError, ValueError) as error:  # of too many pixels or bits, by Pillow
        height, width = planes[0].shape[:2]
        raise UnreadableImage(
            f"{original.where}: {kind} cannot hold {width}x{height} pixels of {planes[0].dtype} "
            f"({error}): use --encode png, or --crop",
            f"impossible as {kind}",
        ) from error


def _format_of(original: Original) -> str:
    """Return Pillow's name of an image's format, such as ``PNG``; "" if Pillow cannot tell."""
    with suppress(Exception):  # of a JPEG with damaged metadata, which the decoder reads
        return open_header(io.BytesIO(original.data)).format
    return ""


# ---------------------------------------------------------------------------------------- the kinds
def _encode_webp_or_jpeg(planes: Planes, image: DecodedImage, encoding: Encoding) -> Encoded:
    """Return 8-bit colours, and alpha if present, as a JPEG or a lossless WebP."""
    notes = []
    if encoding.kind == "jpeg":
        if len(planes) > 1:
            notes.append("images whose alpha was left out, as JPEG has none")
        colours = np.ascontiguousarray(planes[0])
        options: dict[str, Any] = {"quality": encoding.quality, "subsampling": 0}
        data = encoded_by_pillow(colours, "JPEG", icc_profile=image.icc or b"", **options)
    else:
        # exact: training sees the colours of transparent pixels.
        options = {"lossless": True, "exact": True, "icc_profile": image.icc or b""}
        data = encoded_by_pillow(_with_alpha(planes), "WEBP", **options, **WEBP_EFFORT)
    if image.cicp:
        notes.append(
            f"images that lost their colours (cICP code points, as of HDR), which {encoding.kind} "
            "cannot hold"
        )
    extension = "jpg" if encoding.kind == "jpeg" else "webp"
    return Encoded(extension, data, tuple(notes))


def _encode_png(planes: list[Pixels], image: DecodedImage) -> bytes:
    """Return a PNG of 8 or 16 bits, with the colour tags of the original."""
    chunks = [b"cICP" + image.cicp] if image.cicp else []
    if planes[0].dtype == np.uint8:
        data = encoded_by_pillow(_with_alpha(planes), "PNG", icc_profile=image.icc, **PNG_EFFORT)
    else:
        data = png_of_16_bits(cast(Any, _with_alpha(planes)))
        chunks += [profile_chunk(image.icc)] if image.icc else []
    return with_chunks(data, *chunks)


def _with_alpha(planes: list[Pixels]) -> Pixels:
    """Return (H, W, 3), or (H, W, 4) with alpha."""
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
    """Read an input and make its samples; an image that cannot be packed is refused.

    Args:
        recipe: Settings of the processing.
        entry: The input.
    """
    roles = roles_of(tuple(entry.members))
    notes = [f"members {suffix}: images without a role, kept" for suffix in roles.unused]
    try:
        content = {suffix: place.read() for suffix, place in entry.members.items()}
        originals = _decode_images(entry, content, roles, recipe)
        for original in originals.values():
            notes += [f"images that are read without their {what}" for what in original.image.lost]
        others = _members_beside_images(entry, content, roles)
        samples = list(_samples(entry.key, originals, others, recipe, notes))
    except (UnreadableImage, OSError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error.reason
        return Outcome(refused=Refused(entry.key, reason, str(error)))
    return Outcome(samples, notes=notes)


def _decode_images(
    entry: Entry, content: dict[str, bytes], roles: Roles, recipe: Recipe
) -> dict[str, Original]:
    """Return the checked images, by what is before the extension: "", ``hr.`` or ``lr.``."""
    if "hr" not in roles.members:
        message = f"{entry.where}: its sample has no image, nor one named hr.<ext>"
        raise UnreadableImage(message, "no image")
    originals: dict[str, Original] = {}
    for field in ("hr", "lr"):
        suffix = roles.members.get(field)
        if suffix is None:
            continue
        data, place = content[suffix], entry.members[suffix]
        role = f"{field}." if suffix.startswith(field) else ""
        image = _decode_for(recipe, data, place.where, role)
        originals[role] = Original(place.where, suffix[len(role) :], data, image)
    if "lr." in originals:
        _check_pair(_hr_of(originals), originals["lr."], recipe)
    return originals


def _hr_of(originals: dict[str, Original]) -> Original:
    """Return the HR image of a sample: ``hr.png``, or ``png`` alone."""
    return originals.get("hr.") or originals[""]


def _check_pair(hr: Original, lr: Original, recipe: Recipe) -> None:
    """Raise if HR is not ``--scale`` times LR, or a pair is to be cut at an unknown scale."""
    problem = None
    if recipe.scale is not None:
        problem = size_problem(_width_and_height(hr), _width_and_height(lr), recipe.scale)
    elif recipe.crop is not None:
        problem = "it is needed to cut both"
    if problem:
        message = f"{hr.where}: the pair does not fit --scale {recipe.scale}: {problem}"
        raise UnreadableImage(message, "sizes of the pair")


def _decode_for(recipe: Recipe, data: bytes, where: str, role: str) -> DecodedImage:
    """Decode an image into the colour space in which the recipe's encoding stores it."""
    # Programs without colour management take a JPEG for sRGB.
    jpeg = recipe.encode.kind == "jpeg" and role != "lr."
    image = decode(data, where, srgb=jpeg)
    # Other formats keep the profile, unless it is for CMYK or grey: we write RGB.
    writes = recipe.encode != KEEP or recipe.crop is not None
    if not jpeg and image.mode[:3] != "RGB" and writes:
        return decode(data, where, srgb=True)
    return image


def _width_and_height(original: Original) -> tuple[int, int]:
    """Return (W, H) of a decoded image."""
    height, width = original.image.rgb.shape[:2]
    return width, height


def _members_beside_images(entry: Entry, content: dict[str, bytes], roles: Roles) -> Members:
    """Return the members beside HR and LR: a caption in UTF-8, metadata, and others of a tar."""
    images = {roles.members.get("hr"), roles.members.get("lr")}
    others = {suffix: data for suffix, data in content.items() if suffix not in images}
    for field in {"txt", "json"} & roles.members.keys():
        others[field] = others.pop(roles.members[field])
    if "json" in others:  # checked, and packed as it is
        parse_member(parse_json, others["json"], f"{entry.where}: its json")
    if "txt" in others:
        caption = parse_member(parse_caption, others["txt"], f"{entry.where}: its caption")
        others["txt"] = caption.encode()
    return others


def _samples(
    key: str, originals: dict[str, Original], others: Members, recipe: Recipe, notes: list[str]
) -> Iterator[tuple[str, Members]]:
    """Yield the key and the members of an image's one sample, or of one for each square.

    What was lost in encoding is added to ``notes``.
    """
    if recipe.crop is None:
        yield key, {**_encode_images(originals, None, recipe, notes), **others}
        return
    further = roles_of(tuple(others)).unused
    if further:
        raise UnreadableImage(
            f"{_hr_of(originals).where}: its sample has another image {further[0]}, which may or "
            "may not need the same cut: pack it whole, or without that member",
            "further images",
        )
    for number, square in enumerate(_squares(originals, recipe, recipe.crop), start=1):
        counted = notes if number == 1 else []  # once per image
        images = _encode_images(originals, square, recipe, counted)
        yield f"{key}_s{number:03d}", {**images, **others}


def _planes(image: DecodedImage) -> Planes:
    """Return the colours of an image, and its alpha if present."""
    return [image.rgb] if image.alpha is None else [image.rgb, image.alpha]


def _squares(
    originals: dict[str, Original], recipe: Recipe, crop: int
) -> Iterator[dict[str, Planes]]:
    """Yield the squares of one sample, row by row: HR and LR of the same part, by role.

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
        hr = _hr_of(originals)
        size = "x".join(map(str, _width_and_height(hr)))
        raise UnreadableImage(f"{hr.where}: {size}; --crop is {crop}", "too small")
    for top in square_starts(height, lr_side, lr_stride):
        for left in square_starts(width, lr_side, lr_stride):
            yield {
                role: [_cut(plane, top, left, lr_side, factors[role]) for plane in planes]
                for role, planes in planes_of.items()
            }


def square_starts(length: int, side: int, step: int) -> list[int]:
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


def _cut(plane: Pixels, top: int, left: int, side: int, factor: int) -> Pixels:
    """Return a square of a plane; its place and side are in units of ``factor`` pixels."""
    rows = slice(top * factor, (top + side) * factor)
    return plane[rows, left * factor : (left + side) * factor]


def _encode_images(
    originals: dict[str, Original],
    square: dict[str, Planes] | None,
    recipe: Recipe,
    notes: list[str],
) -> Members:
    """Return the encoded images of a sample by suffix: whole, or the planes of a square."""
    members: Members = {}
    for role, original in originals.items():
        planes = None if square is None else square[role]
        lossy = recipe.encode.kind == "jpeg"
        encoding = KEEP if lossy and role == "lr." else recipe.encode  # LR without loss
        encoded = encode(original, planes, encoding)
        notes += encoded.notes
        members[f"{role}{encoded.extension}"] = encoded.data
    return members
