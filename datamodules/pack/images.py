"""Check, cut and encode one image for packing."""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.files.captions import caption_of
from datamodules.files.pairs import misfit
from datamodules.files.roles import Roles, roles_of
from datamodules.pack.places import Entry
from files.images.decode import DecodedImage, UnreadableImage, decode, reason_of
from files.images.deep import Pixels
from files.images.pillow import (
    open_image,
    png_of_16_bits,
    profile_chunk,
    saved,
    with_chunks,
)

Planes = list[Pixels]  # colours (H, W, 3), and alpha (H, W) if present
Members = dict[str, bytes]  # suffix: content
EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # of Pillow's formats, if not the lower-case name
WEBP_SIDE = 16383  # largest side of a WebP in pixels

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


class Made(NamedTuple):
    """An encoded image.

    Attributes:
        extension: Extension of its file.
        data: Content of its file.
        notes: Events to count.
    """

    extension: str
    data: bytes
    notes: tuple[str, ...] = ()


def encode(original: Original, planes: Planes | None, encoding: Encoding) -> Made:
    """Encode an image. The file of an unchanged image is kept if it has the wanted format.

    Args:
        original: The image.
        planes: Its changed colours, and alpha if present; None if it is unchanged.
        encoding: The wanted encoding.

    Raises:
        Refusal: If the encoding cannot hold the image.
    """
    kind, format_ = encoding.kind, format_of(original.data)
    if planes is None:
        if kind == "keep" or (kind.upper() == format_ and kind != "jpeg"):
            return Made(original.extension, original.data)
        planes = _planes(original.image)
    if kind not in ("jpeg", "webp"):
        return Made("png", _png(planes, original.image))
    if kind == "jpeg":
        made = _jpeg(original, planes, encoding.quality)
    else:
        made = Made(kind, _webp(original, planes))
    lost = f"images that lost their colours (cICP code points, as of HDR), which {kind} cannot hold"
    return made._replace(notes=(*made.notes, lost)) if original.image.cicp else made


def format_of(data: bytes) -> str:
    """Return Pillow's name of an image file's format, or "" if it is not an image."""
    try:
        with open_image(io.BytesIO(data)) as image:
            return image.format or ""
    except Exception:  # a broken header raises anything; the decoder reports the problem
        return ""


def extension_of(data: bytes) -> str:
    """Return the extension for an image file, from its bytes."""
    format_ = format_of(data)
    return EXTENSIONS.get(format_, format_.lower())


# ---------------------------------------------------------------------------------------- the kinds
def _jpeg(original: Original, planes: Planes, quality: int) -> Made:
    _check_depth(original, planes, "JPEG")
    rgb = cast(NDArray[np.uint8], np.ascontiguousarray(planes[0]))
    notes = ("images whose alpha was left out, as JPEG has none",) if len(planes) > 1 else ()
    return Made("jpg", saved(rgb, "JPEG", quality=quality, subsampling=0), notes)


def _webp(original: Original, planes: Planes) -> bytes:
    _check_depth(original, planes, "WebP")
    height, width = planes[0].shape[:2]
    if max(height, width) > WEBP_SIDE:
        raise Refusal(
            "too large for WebP",
            f"{original.where}: {width}x{height}, but a WebP's sides have at most {WEBP_SIDE} "
            "pixels: use --encode png, or --crop",
        )
    # exact: training sees the colours of transparent pixels.
    options = {"lossless": True, "exact": True, "icc_profile": original.image.icc or b""}
    return saved(_joined(planes), "WEBP", **options, **WEBP_EFFORT)


def _check_depth(original: Original, planes: Planes, kind: str) -> None:
    if planes[0].dtype != np.uint8:
        raise Refusal(
            "16 bits",
            f"{original.where}: {kind} holds no more than 8 bits: use --encode png",
        )


def _png(planes: list[Pixels], image: DecodedImage) -> bytes:
    chunks = [b"cICP" + image.cicp] if image.cicp else []
    if planes[0].dtype == np.uint8:
        data = saved(_joined(planes), "PNG", icc_profile=image.icc, **PNG_EFFORT)
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


class Outcome(NamedTuple):
    """The result of one input.

    Attributes:
        samples: Keys, and members by suffix; none if it was refused.
        reason: Why it was refused, in a word or two, or "".
        message: The reason in a sentence.
        notes: Events to count.
    """

    samples: list[tuple[str, Members]]
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()


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
        return Outcome([], reason=error.reason, message=str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
        return Outcome([], reason=reason_of(error), message=message)
    return Outcome(samples, notes=tuple(notes))


def _decoded(
    entry: Entry, content: dict[str, bytes], roles: Roles, recipe: Recipe
) -> dict[str, Original]:
    """Return the checked images, by what is before the extension: "", ``hr.`` or ``lr.``."""
    if "hr" not in roles.members:
        raise Refusal("no image", f"{entry.where}: its sample has no image, nor one named hr.<ext>")
    found: dict[str, Original] = {}
    for field in ("hr", "lr"):
        suffix = roles.members.get(field)
        if suffix is None:
            continue
        data, place = content[suffix], entry.members[suffix]
        role = f"{field}." if suffix.startswith(field) else ""
        extension = suffix[len(role) :] or extension_of(data)
        image = _image(data, place.where, recipe, role)
        found[role] = Original(place.where, extension, data, image)
    large, small = found.get("hr.") or found[""], found.get("lr.")
    if small is not None and recipe.scale is not None:
        problem = misfit(_size(large.image), _size(small.image), recipe.scale)
        if problem:
            fault = f"does not fit scale {recipe.scale:g}: {problem}"
            raise Refusal("sizes of the pair", f"{large.where}: the pair {fault}")
    return found


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
    where = entry.where
    try:
        json.loads(others.get("json") or "null")
    except (ValueError, RecursionError) as error:
        raise Refusal("broken metadata", f"{where}: its JSON is broken: {error}") from error
    try:
        if "txt" in others:
            others["txt"] = caption_of(others["txt"]).encode()
    except ValueError as error:
        raise Refusal("broken caption", f"{where}: {error}") from error
    return others


def _samples(
    key: str, originals: dict[str, Original], others: Members, recipe: Recipe, notes: list[str]
) -> Iterator[tuple[str, Members]]:
    if recipe.crop is None:
        yield key, _encoded(originals, None, others, recipe, notes)
        return
    large = originals.get("hr.") or originals[""]
    further = roles_of(tuple(others)).unused
    if further:
        raise Refusal(
            "further images",
            f"{large.where}: its sample has another image {further[0]}, which may or may "
            "not need the same cut: pack it whole, or without that member",
        )
    for number, cut in enumerate(_squares(originals, large, recipe, recipe.crop), start=1):
        done = notes if number == 1 else []  # counted once per image
        yield f"{key}_s{number:03d}", _encoded(originals, cut, others, recipe, done)


def _planes(image: DecodedImage) -> Planes:
    return [image.rgb] if image.alpha is None else [image.rgb, image.alpha]


def _squares(
    originals: dict[str, Original], large: Original, recipe: Recipe, crop: int
) -> Iterator[dict[str, Planes]]:
    """Cut the images of one sample alike, row by row."""
    whole = {role: _planes(original.image) for role, original in originals.items()}
    unit = _whole_scale(large, recipe) if "lr." in whole else 1
    factors = {role: 1 if role == "lr." else unit for role in whole}
    side, step = crop // unit, (recipe.step or crop) // unit
    # Limited by both: HR may have some pixels more.
    height, width = (
        min(planes[0].shape[axis] // factors[role] for role, planes in whole.items())
        for axis in (0, 1)
    )
    if min(height, width) < side:
        width, height = _size(large.image)
        raise Refusal("too small", f"{large.where}: {width}x{height}; --crop is {crop}")
    for top in places(height, side, step):
        for left in places(width, side, step):
            yield {
                role: [_cut(plane, top, left, side, factors[role]) for plane in planes]
                for role, planes in whole.items()
            }


def places(length: int, side: int, step: int) -> list[int]:
    """Return the starts of squares along one side, as in BasicSR's ``extract_subimages``.

    Args:
        length: Length of the side, at least the square's.
        side: Side of a square.
        step: Distance from one square to the next; one more square ends where pixels remain.
    """
    found = list(range(0, length - side + 1, step))
    return found if found[-1] + side == length else [*found, length - side]


def _cut(plane: Pixels, top: int, left: int, size: int, factor: int) -> Pixels:
    rows = slice(top * factor, (top + size) * factor)
    return plane[rows, left * factor : (left + size) * factor]


def _whole_scale(original: Original, recipe: Recipe) -> int:
    scale = recipe.scale
    if scale is None or scale != round(scale):
        raise Refusal(
            "no scale",
            f"{original.where}: has an LR; to cut it, --scale must be a whole number",
        )
    return round(scale)


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
        how = KEEP if lossy and role == "lr." else recipe.encode  # LR without loss
        made = encode(original, planes, how)
        notes += made.notes
        members[f"{role}{made.extension}"] = made.data
    return {**members, **others}
