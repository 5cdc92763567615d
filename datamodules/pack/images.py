"""Check, shrink, cut and encode one image for packing."""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.files.captions import caption_of
from datamodules.files.decode import FORMATS, DecodedImage, UnreadableImage, decode, reason_of
from datamodules.files.pairs import misfit
from datamodules.files.roles import Roles, roles_of
from datamodules.pack.places import Entry
from datamodules.workers import TIME_LIMIT, lost_in_decoding, time_limit
from files.png_text import of_any_size, open_image

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # of Pillow's formats, if not the lower-case name
PNG_HEADER = 33  # bytes of the signature and of the IHDR chunk
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
        offsets: Offsets of its restart markers, as stored in a shard, or None.
        notes: Events to count.
    """

    extension: str
    data: bytes
    offsets: bytes | None = None
    notes: tuple[str, ...] = ()


def encode(
    original: Original, planes: Planes | None, encoding: Encoding, restart_markers: bool
) -> Made:
    """Encode an image. The file of an unchanged image is kept if it has the wanted format.

    Args:
        original: The image.
        planes: Its changed colours, and alpha if present; None if it is unchanged.
        encoding: The wanted encoding.
        restart_markers: Whether to give a JPEG restart markers.

    Raises:
        Refusal: If the encoding cannot hold the image.
    """
    kind, format_ = encoding.kind, format_of(original.data)
    if planes is None:
        if kind == "keep" or (kind.upper() == format_ and kind != "jpeg"):
            return Made(original.extension, original.data)
        planes = _planes(original.image)
    if kind == "jpeg":
        return _jpeg(original, planes, encoding.quality, restart_markers)
    if kind == "webp":
        return Made(kind, _webp(original, planes))
    return Made("png", _png(planes, original.image.icc))


def format_of(data: bytes) -> str:
    """Return Pillow's name of an image file's format, or "" if it is not an image."""
    try:
        with open_image(io.BytesIO(data), FORMATS) as image:
            return image.format or ""
    except Exception:  # a broken header raises anything; the decoder reports the problem
        return ""


def extension_of(data: bytes) -> str:
    """Return the extension for an image file, from its bytes."""
    format_ = format_of(data)
    return EXTENSIONS.get(format_, format_.lower())


def pixels_of(data: bytes) -> int | None:
    """Return the number of pixels from an image's header; None if the header is broken."""
    try:
        # Pillow's refusal would hide the number.
        with of_any_size(), open_image(io.BytesIO(data), FORMATS) as image:
            return image.width * image.height
    except Exception:  # as in format_of
        return None


# ---------------------------------------------------------------------------------------- the kinds
def _jpeg(original: Original, planes: Planes, quality: int, restart_markers: bool) -> Made:
    _check_depth(original, planes, "JPEG")
    rgb = cast(NDArray[np.uint8], np.ascontiguousarray(planes[0]))
    notes = ("images whose alpha was left out, as JPEG has none",) if len(planes) > 1 else ()
    if not restart_markers:
        return Made("jpg", _saved(rgb, "JPEG", {"quality": quality}), notes=notes)
    from datamodules.files.restart import encode_jpeg, restart_offsets

    data = encode_jpeg(rgb, quality)
    return Made("jpg", data, restart_offsets(data).astype("<u4").tobytes(), notes)


def _webp(original: Original, planes: Planes) -> bytes:
    _check_depth(original, planes, "WebP")
    height, width = planes[0].shape[:2]
    if max(height, width) > WEBP_SIDE:
        raise Refusal(
            "too large for WebP",
            f"{original.where}: {width}x{height}, but a WebP's sides have at most {WEBP_SIDE} "
            "pixels: use --encode png, --crop or --max-long-side",
        )
    # exact: training sees the colours of transparent pixels.
    options = {"lossless": True, "exact": True, "icc_profile": original.image.icc or b""}
    return _saved(_joined(planes), "WEBP", {**options, **WEBP_EFFORT})


def _check_depth(original: Original, planes: Planes, kind: str) -> None:
    if planes[0].dtype != np.uint8:
        raise Refusal(
            "16 bits", f"{original.where}: has 16 bits, but {kind} holds 8: use --encode png"
        )


def _png(planes: list[Pixels], icc: bytes | None) -> bytes:
    if planes[0].dtype == np.uint8:
        return _saved(_joined(planes), "PNG", {"icc_profile": icc, **PNG_EFFORT})
    # Pillow writes no 16-bit colour. OpenCV does, but no profile: a chunk after the header.
    import cv2  # here, as its import is slow and few images have 16 bits

    planes = [planes[0][..., ::-1], *planes[1:]]
    done, encoded = cv2.imencode(".png", _joined(planes))
    if not done:
        raise ValueError(f"OpenCV cannot encode {planes[0].shape} of 16 bits as PNG")
    data = bytes(encoded.tobytes())
    if not icc:
        return data
    body = b"iCCP" + b"icc\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:PNG_HEADER] + chunk + data[PNG_HEADER:]


def _joined(planes: list[Pixels]) -> Pixels:
    return cast(Pixels, np.ascontiguousarray(np.dstack(planes)))


def _saved(pixels: Pixels, format_: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_, **options)
    return buffer.getvalue()


Planes = list[Pixels]  # colours (H, W, 3), and alpha (H, W) if present


class Grid(NamedTuple):
    """A grid of squares.

    Attributes:
        size: Side of a square.
        step: Distance from one square to the next.
        thresh: Pixels that may remain at the end; if more remain, one more square ends there.
    """

    size: int
    step: int
    thresh: float = 0


def bounded(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """Return the (W, H) of an image whose long side is at most ``long_side``, if that is set."""
    ratio = min(1.0, (long_side or max(size)) / max(size))
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize pixels by Pillow's Lanczos; alpha is resized separately, without effect on colours.

    Args:
        pixels: (H, W, 3) or (H, W), of 8 or 16 bits.
        size: (W, H) of the result.
    """
    lanczos = Image.Resampling.LANCZOS
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, lanczos))
    # Pillow has no 16-bit colour, but single float planes.
    planes = np.atleast_3d(pixels).astype(np.float32)
    small = [
        np.asarray(Image.fromarray(np.ascontiguousarray(planes[..., n])).resize(size, lanczos))
        for n in range(planes.shape[2])
    ]
    rounded = np.stack(small, axis=-1).round().clip(0, 65535).astype(np.uint16)
    return rounded if pixels.ndim == 3 else rounded[..., 0]


def places(length: int, grid: Grid) -> list[int]:
    """Return the starts of squares along one side, as in BasicSR's ``extract_subimages``.

    Args:
        length: Length of the side, at least the square's.
        grid: The grid of squares.
    """
    found = list(range(0, length - grid.size + 1, grid.step))
    if length - (found[-1] + grid.size) > grid.thresh:
        found.append(length - grid.size)
    return found


def squares(
    whole: Mapping[str, Planes], factors: Mapping[str, int], grid: Grid
) -> Iterator[dict[str, Planes]]:
    """Cut the images of one sample alike, row by row.

    Args:
        whole: The images by their role.
        factors: Size of each image relative to the smallest.
        grid: The grid on the smallest image.
    """
    smallest = min(whole, key=lambda role: factors[role])
    height, width = whole[smallest][0].shape[:2]
    for top in places(height, grid):
        for left in places(width, grid):
            yield {
                role: [_cut(plane, top, left, grid.size, factors[role]) for plane in planes]
                for role, planes in whole.items()
            }


def _cut(plane: Pixels, top: int, left: int, size: int, factor: int) -> Pixels:
    rows = slice(top * factor, (top + size) * factor)
    return plane[rows, left * factor : (left + size) * factor]


MAX_PIXELS = 2 * 89_478_485  # where Pillow reports a decompression bomb

# Reading a pickle executes its code: our readers never do, and others should not.
PICKLES = frozenset({"pyd", "pkl", "pickle", "pt", "pth"})
Members = dict[str, bytes]  # suffix: content


@dataclass(frozen=True)
class Recipe:
    """Settings for processing every input.

    Args:
        scale: How many times larger than its LR an image is, if there are LR images.
        crop: Side of the squares that images are cut into, or None to leave them whole.
        step: Pixels from one square to the next; None for the square's side.
        thresh: Pixels that may remain at the right and the bottom; if more remain, one more square
            lies at the border.
        max_long_side: Largest long side; longer images are shrunk.
        min_side: Images whose short side is then below this are refused.
        max_pixels: Images with more pixels are refused before decoding.
        decode_timeout: Inputs whose decoding takes longer are refused.
        encode: Encoding of images.
        restart_markers: Write JPEG with restart markers and their offsets.
        captions: Key of a caption in the JSON, or None to use the text file.
    """

    scale: float | None = None
    crop: int | None = None
    step: int | None = None
    thresh: int = 0
    max_long_side: int | None = None
    min_side: int = 1
    max_pixels: int = MAX_PIXELS
    decode_timeout: float = TIME_LIMIT
    encode: Encoding = KEEP
    restart_markers: bool = False
    captions: str | None = None

    @property
    def writes(self) -> bool:
        """Whether images may be encoded again, instead of kept unchanged."""
        return self.encode != KEEP or self.crop is not None or self.max_long_side is not None


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
        with time_limit(recipe.decode_timeout):
            originals = dict(_decoded(entry, content, roles, recipe))
        others = _others(entry, content, roles, recipe, notes)
        samples = list(_samples(entry.key, originals, others, recipe, notes))
    except (Refusal, UnreadableImage) as error:
        return Outcome([], reason=error.reason, message=str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
        return Outcome([], reason=reason_of(error), message=message)
    return Outcome(samples, notes=tuple(notes))


def lost(recipe: Recipe, entry: Entry, reason: str) -> Outcome:
    """Return what becomes of an input that ended its worker; arguments as of ``in_order``."""
    message = lost_in_decoding(entry.where, reason, recipe.decode_timeout)
    return Outcome([], reason=reason, message=message)


# -------------------------------------------------------------------------------------------- input
def _decoded(
    entry: Entry, content: dict[str, bytes], roles: Roles, recipe: Recipe
) -> Iterator[tuple[str, Original]]:
    """Return the checked images, by what is before the extension: "", ``hr.`` or ``lr.``."""
    found: dict[str, Original] = {}
    if "hr" not in roles.members:
        raise Refusal("no image", f"{entry.where}: its sample has no image, nor one named hr.<ext>")
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
    yield from found.items()


def _image(data: bytes, where: str, recipe: Recipe, role: str) -> DecodedImage:
    pixels = pixels_of(data)
    if pixels is not None and pixels > recipe.max_pixels:
        raise Refusal(
            "too large",
            f"{where}: {pixels} pixels, more than --max-pixels {recipe.max_pixels}: a "
            "decompression bomb, or raise it",
        )
    # Our JPEGs have no profile, so their pixels must be sRGB.
    jpeg = recipe.encode.kind == "jpeg" and role != "lr."
    with of_any_size():  # our own limit was just checked, and may be higher
        image = decode(data, where, srgb=jpeg)
        # Other formats keep the profile, unless it is for CMYK or grey: we write RGB.
        if not jpeg and image.mode[:3] != "RGB" and recipe.writes:
            return decode(data, where, srgb=True)
        return image


def _size(image: DecodedImage) -> tuple[int, int]:
    return image.rgb.shape[1], image.rgb.shape[0]


def _others(
    entry: Entry, content: dict[str, bytes], roles: Roles, recipe: Recipe, notes: list[str]
) -> Members:
    """Return the members beside the image: caption, metadata, and others of a tar."""
    images = {roles.members.get("hr"), roles.members.get("lr")}
    others = {suffix: data for suffix, data in content.items() if suffix not in images}
    for suffix in PICKLES & others.keys():
        notes.append(f"members {suffix} (pickles) left out")
        del others[suffix]
    for field in {"txt", "json"} & roles.members.keys():
        others[field] = others.pop(roles.members[field])
    where = entry.where
    if recipe.captions is not None:
        caption = _caption(_json(others, where), recipe.captions, where)
        others.pop("txt", None)
        if caption is not None:
            others["txt"] = caption.encode()
    _json(others, where)
    if "txt" in others:
        try:
            others["txt"] = caption_of(others["txt"]).encode()
        except ValueError as error:
            raise Refusal("broken caption", f"{where}: {error}") from error
    return others


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
    key: str, originals: dict[str, Original], others: Members, recipe: Recipe, notes: list[str]
) -> Iterator[tuple[str, Members]]:
    hr = "hr." if "hr." in originals else ""
    image = originals[hr].image
    size = bounded(_size(image), recipe.max_long_side)
    if min(size) < recipe.min_side:
        raise Refusal(
            "too small",
            f"{originals[hr].where}: {size[0]}x{size[1]}; --min-side is {recipe.min_side}",
        )
    shrunk = size != _size(image)
    if shrunk and "lr." in originals:
        raise Refusal("cannot be shrunk", f"{originals[hr].where}: its LR would no longer fit")
    if recipe.crop is None and not shrunk:
        yield key, _encoded(originals, None, others, recipe, notes)
        return
    _check_cut(originals[hr], others)
    whole = {role: _planes(original.image) for role, original in originals.items()}
    if shrunk:
        notes.append("images shrunk")
        whole[hr] = [resized(plane, size) for plane in whole[hr]]
    if recipe.crop is None:
        yield key, _encoded(originals, whole, others, recipe, notes)
        return
    for number, cut in enumerate(_squares(whole, originals[hr], recipe, recipe.crop), start=1):
        done = notes if number == 1 else []  # counted once per image
        yield f"{key}_s{number:03d}", _encoded(originals, cut, others, recipe, done)


def _check_cut(original: Original, others: Members) -> None:
    further = roles_of(tuple(others)).unused
    if further:
        raise Refusal(
            "further images",
            f"{original.where}: its sample has another image {further[0]}, which may or may "
            "not need the same cut: pack it whole, or without that member",
        )


def _planes(image: DecodedImage) -> Planes:
    return [image.rgb] if image.alpha is None else [image.rgb, image.alpha]


def _squares(
    whole: dict[str, Planes], original: Original, recipe: Recipe, crop: int
) -> Iterator[dict[str, Planes]]:
    unit = _whole_scale(original, recipe) if "lr." in whole else 1
    factors = {role: 1 if role == "lr." else unit for role in whole}
    grid = Grid(crop // unit, (recipe.step or crop) // unit, recipe.thresh / unit)
    height, width = next(planes for role, planes in whole.items() if role != "lr.")[0].shape[:2]
    # Limited by the LR, too: HR may have some pixels more.
    if min(height, width) < crop or min(min(p[0].shape[:2]) for p in whole.values()) < grid.size:
        raise Refusal("too small", f"{original.where}: {width}x{height}; --crop is {crop}")
    yield from squares(whole, factors, grid)


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
    companions = dict(others)
    for role, original in originals.items():
        kept_offsets = companions.pop(f"{role}rst", None)
        planes = None if changed is None else changed[role]
        how, markers = recipe.encode, recipe.restart_markers
        if role == "lr.":  # without loss
            how, markers = KEEP if how.kind == "jpeg" else how, False
        made = encode(original, planes, how, markers)
        notes += made.notes
        members[f"{role}{made.extension}"] = made.data
        offsets = (
            kept_offsets if made.data is original.data and made.offsets is None else made.offsets
        )
        if offsets is not None:
            members[f"{role}rst"] = offsets
    return {**members, **companions}
