"""``doctor``: encode a few pixels with each codec, and decode them with the training reader."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

from commands.doctor_lines import INSTALL, Check, Line, Options, broken, look, ok

SIDE = 32
LOSSY = 12  # largest error, in levels of 255, of a smooth image coded at good quality


def jpeg(options: Options) -> Iterator[Line]:
    """Decode a whole JPEG, and check that half of it is refused."""
    from datamodules.decode import UnreadableImage, decode
    from datamodules.jpeg import AVAILABLE

    data = _by_pillow("JPEG", quality=95, subsampling=0)
    off = _off(decode(data, "doctor.jpg").rgb, _ramps(8))
    if off > LOSSY:
        yield broken("JPEG", f"pixels are off by {off} levels: {INSTALL}")
        return
    if not AVAILABLE:
        missing = "simplejpeg is missing: truncated images (half grey) are not detected"
        yield look("JPEG", f"read by Pillow, because {missing}: {INSTALL}")
        return
    try:
        decode(data[: len(data) // 2], "half.jpg")
    except UnreadableImage:
        yield ok("JPEG", f"{_version('simplejpeg')} reads it, and refuses a truncated one")
    else:
        yield broken("JPEG", f"{_version('simplejpeg')} accepts a truncated file: {INSTALL}")


def png(options: Options) -> Iterator[Line]:
    """Check 16-bit PNG, written by OpenCV."""
    import cv2

    pixels = _ramps(16)
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    if not done:
        yield broken(
            "16-bit PNG", f"{_version('opencv-python-headless')} cannot write it: {INSTALL}"
        )
        return
    yield _exact("16-bit PNG", data.tobytes(), pixels, "opencv-python-headless")


def tiff(options: Options) -> Iterator[Line]:
    """Check 16-bit TIFF, written by tifffile."""
    import tifffile

    pixels, file = _ramps(16), io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb")
    yield _exact("16-bit TIFF", file.getvalue(), pixels, "tifffile")


def webp(options: Options) -> Iterator[Line]:
    """Check lossless WebP, written by Pillow."""
    yield _exact("WebP", _by_pillow("WEBP", lossless=True, exact=True), _ramps(8), "pillow")


def avif(options: Options) -> Iterator[Line]:
    """Check lossy AVIF, written by Pillow."""
    from datamodules.decode import decode

    off = _off(decode(_by_pillow("AVIF", quality=95), "doctor.avif").rgb, _ramps(8))
    if off > LOSSY:
        yield broken("AVIF", f"pixels are off by {off} levels: {INSTALL}")
    else:
        yield ok("AVIF", f"{_version('pillow')} writes it, and it is read to within {off} levels")


def h264(options: Options) -> Iterator[Line]:
    """Check H.264 of PyAV, which is optional."""
    try:
        import av  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    except ModuleNotFoundError:
        yield ok("H.264", "not tried: the extra video is not installed")
        return
    from degradations.codec import H264

    off = _off(H264(crf=(18, 18)).encode_decode(_ramps(8), {"crf": 18}), _ramps(8))
    if off > 2 * LOSSY:  # its chroma has half the resolution
        yield broken("H.264", f"pixels are off by {off} levels: {INSTALL}")
    else:
        yield ok("H.264", f"{_version('av')} writes and reads a frame to within {off} levels")


CODEC_CHECKS: dict[str, Check] = {
    "JPEG": jpeg,
    "16-bit PNG": png,
    "16-bit TIFF": tiff,
    "WebP": webp,
    "AVIF": avif,
    "H.264": h264,
}


# ------------------------------------------------------------------------------------------- parts


def _ramps(bits: int) -> Any:
    """Return a (SIDE, SIDE, 3) image with a different smooth ramp in each channel."""
    import numpy as np

    ramp = np.linspace(0, 2**bits - 1, SIDE)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    pixels = np.stack([rows, columns, (rows + columns) / 2], axis=-1)
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


def _by_pillow(kind: str, **settings: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_ramps(8)).save(file, kind, **settings)
    return file.getvalue()


def _exact(name: str, data: bytes, pixels: Any, package: str) -> Line:
    from datamodules.decode import decode

    found = decode(data, f"doctor: {name}").rgb
    if found.dtype != pixels.dtype or _off(found, pixels):
        return broken(name, f"{_version(package)} changes the pixels: {INSTALL}")
    return ok(name, f"{_version(package)} writes it, and the same pixels are read")


def _off(found: Any, pixels: Any) -> int:
    import numpy as np

    return int(np.abs(found.astype(np.int64) - pixels.astype(np.int64)).max())


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
