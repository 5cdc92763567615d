"""References of FID and its family: features of a folder of images, computed once.

    python -m callbacks.reference IMAGES                                for FID and KID, clean-fid
    python -m callbacks.reference IMAGES --set preset=torch-fidelity
    python -m callbacks.reference IMAGES --side 1024 --out real.npz     cropped, to be shared
    python -m callbacks.reference IMAGES --metric callbacks.swd.SWD

The file is for a metric's argument ``reference``; a folder given there is computed likewise. It is
kept under the hash of the images' content, and refused by a metric of another protocol. Images are
hashed again only if a file's size or time changes.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from callbacks.picture_files import find_pictures, read_picture
from callbacks.processes import several
from callbacks.reference_files import (
    Reference,
    check_protocol,
    content_hash,
    hash_file,
    load_hash,
    load_reference,
    protocol_hash,
    save_hash,
    save_reference,
)
from callbacks.too_small import TooSmall
from degradations.bicubic import resize
from files.paths import expand_path

if TYPE_CHECKING:
    from callbacks.sets import SetMetric

log = logging.getLogger(__name__)

CACHE = "~/.cache/enlarger/references"
BATCH = 8
READING = 2  # version of image reading: since 2 with colour profiles, in all formats of training
READERS = 4
MANY = 5000  # images: more may take a CPU over half an hour, the time that other processes wait


def find_reference(metric: SetMetric, place: str, key: str = "reference") -> Reference:
    """Return the features that a metric's argument ``reference`` stands for.

    Args:
        metric: Ready to compute features.
        place: A file of features, or a folder of images; environment variables are expanded.
        key: The argument's name, if it is another.

    Raises:
        ValueError: If the place is missing, the file is damaged or of another protocol, an image is
            broken, or other processes would wait too long for the features.
    """
    path = Path(expand_path(place, f"`{key}` of {type(metric).__name__}"))
    if path.is_dir():
        check = partial(_check_waiting, metric, place, key) if several() else None
        return cached_reference([path], metric, check=check)[1]
    if not path.is_file():
        raise ValueError(
            f"`{key}` of {type(metric).__name__} is {place!r}, where there is neither a folder "
            "of images nor a file of `python -m callbacks.reference`"
        )
    reference = load_reference(path)
    check_protocol(path, reference, metric.features_protocol())
    return reference


def cached_reference(
    places: Sequence[str | Path],
    metric: SetMetric,
    side: int | None = None,
    check: Callable[[int], None] | None = None,
) -> tuple[Path, Reference]:
    """Return the features of all images below some places, from the cache if possible.

    Args:
        places: Folders or files.
        metric: Ready to compute features.
        side: Resize each image's shorter side to this many pixels, and cut out the centre.
        check: Called with the number of images before all of them are read; may raise.

    Returns:
        The file in the cache, and its content.

    Raises:
        ValueError: If an image is broken, or a place holds none.
    """
    pictures = images_by_name(places)
    check = check or (lambda count: None)
    known = hash_file(pictures, Path(CACHE).expanduser() / "contents")
    content, protocol = load_hash(known), metric.features_protocol()
    if content is None:
        check(len(pictures))
        content = content_hash(pictures.items())
        save_hash(known, content)
    prepared = "as they are" if side is None else f"shorter side to {side}, centre {side}x{side}"
    name = f"{content}-{protocol_hash(protocol, prepared, READING)}.npz"
    path = Path(CACHE).expanduser() / name
    if path.is_file():
        try:
            reference = load_reference(path)
            check_protocol(path, reference, protocol)
            return path, reference
        except ValueError as error:  # a damaged cache must not stop the run
            log.warning("computed again: %s", error)
    check(len(pictures))
    features = compute(metric, pictures, side)
    # Bytes of a name that are not UTF-8, which no table can show, are spelt out.
    names = [os.fsencode(Path(place).resolve().name) for place in places]
    title = ", ".join(name.decode("utf-8", "backslashreplace") for name in names)
    reference = Reference(features, title, content, prepared, protocol)
    save_reference(path, reference)
    return path, reference


def _check_waiting(metric: SetMetric, place: str, key: str, count: int) -> None:
    if count <= MANY:
        return
    kind = type(metric)
    needed = "" if key == "reference" else f" --set {key}=none"
    raise ValueError(
        f"`{key}` of {kind.__name__} is {place!r}, {count} images whose features are not there "
        "yet: all other processes would wait for the first one until they give up. Compute them "
        f"before, by `python -m callbacks.reference {place} --metric {kind.__module__}."
        f"{kind.__qualname__}{needed}` on the first node, with --set NAME=VALUE for each other "
        "argument of the metric that is set here, and start again"
    )


def images_by_name(places: Sequence[str | Path]) -> dict[str, Path]:
    """Return images by their path below their folder, without suffix.

    Raises:
        ValueError: If two have one name, or a place holds none.
    """
    named: dict[str, Path] = {}
    for place in map(Path, places):
        for path in find_pictures([place]):
            below = path.relative_to(place) if place.is_dir() else Path(path.name)
            name = below.with_suffix("").as_posix()
            if name in named:
                raise ValueError(f"{path} and {named[name]} have one name, {name!r}; rename one")
            named[name] = path
    return named


def compute(metric: SetMetric, pictures: dict[str, Path], side: int | None) -> Any:
    """Compute the (N, ...) float32 features of images, sorted by name.

    Raises:
        ValueError: If images are broken; all of them are named.
    """
    found: dict[str, Any] = {}
    broken: list[str] = []
    batch: list[tuple[str, Tensor]] = []

    def flush() -> None:
        if batch and not broken:
            names, images = [name for name, _ in batch], torch.cat([x for _, x in batch])
            try:
                features = metric.finite_features(images.to(device_of(metric)), {"key": names})
            except TooSmall as error:  # a set quoted by name and count must be complete
                broken.extend(f"{pictures[name]}: {error}; remove it" for name in names)
            else:
                found.update(zip(names, features.float().numpy(), strict=True))
        batch.clear()

    for name, picture in tqdm(_read(pictures), total=len(pictures), unit="picture", disable=None):
        if isinstance(picture, ValueError):
            broken.append(str(picture))
            continue
        image = picture if side is None else centre(picture, side)
        if len(batch) == BATCH or (batch and batch[0][1].shape != image.shape):
            flush()
        batch.append((name, image))
    flush()
    if broken:
        more = f"\n... and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise ValueError("\n".join(broken[:10]) + more)
    return np.stack([found[name] for name in sorted(found)])


def centre(picture: Tensor, side: int) -> Tensor:
    """Resize the shorter side by antialiased bicubic, and cut out the centre (1, 3, side, side)."""
    height, width = picture.shape[-2:]
    factor = side / min(height, width)
    resized = resize(picture, (max(side, round(height * factor)), max(side, round(width * factor))))
    top, left = (resized.shape[-2] - side) // 2, (resized.shape[-1] - side) // 2
    return resized[..., top : top + side, left : left + side]


def device_of(metric: SetMetric) -> torch.device:
    """Return the device of the metric's networks."""
    nets = [value for value in vars(metric).values() if isinstance(value, nn.Module)]
    return next((p.device for net in nets for p in net.parameters()), torch.device("cpu"))


def _read(pictures: dict[str, Path]) -> Iterator[tuple[str, Tensor | ValueError]]:
    """Yield images in order, read ahead by threads; an error instead of a broken one."""
    ahead: deque[tuple[str, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for name, path in sorted(pictures.items()):
            ahead.append((name, pool.submit(read_picture, path)))
            if len(ahead) > 2 * READERS:
                yield _result(*ahead.popleft())
        while ahead:
            yield _result(*ahead.popleft())


def _result(name: str, reading: Future[Tensor]) -> tuple[str, Tensor | ValueError]:
    try:
        return name, reading.result()
    except ValueError as error:
        return name, error


# -------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; those of this process by default.

    Returns:
        0, or 2 after an error.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        metric = _made(options.metric, options.set)
        if options.side is not None and options.side < 1:
            raise ValueError(f"--side is {options.side}; it must be at least 1")
        if options.out is not None and options.out.suffix != ".npz":
            raise ValueError(f"--out is {str(options.out)!r}; expected a name ending in .npz")
        if reason := metric.absent():
            raise ValueError(reason)
        metric.load()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for value in vars(metric).values():
            if isinstance(value, nn.Module):
                value.to(device)
        path, reference = cached_reference(options.images, metric, options.side)
        if options.out is not None:
            path = options.out
            save_reference(path, reference)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    count, kind = len(reference.features), options.metric
    log.info("%d images (%s) for %s: %s", count, reference.pictures, kind, path)
    log.info("in trainer.callbacks: {class_path: %s, init_args: {reference: %s}}", kind, path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m callbacks.reference",
        description="Compute the features of reference images, which FID and its family compare "
        "outputs with.",
        epilog="The result is kept in "
        f"{CACHE} under a hash of the images, so a second call is quick.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders or files of images")
    parser.add_argument(
        "--metric",
        default="callbacks.fid.FID",
        metavar="CLASS",
        help="class path of the metric (default: %(default)s, whose features serve KID as well)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the metric, e.g. preset=torch-fidelity; may be given again",
    )
    parser.add_argument(
        "--side",
        type=int,
        help="bring each image's shorter side to this many pixels and cut out the centre; by "
        "default images are taken as they are",
    )
    parser.add_argument("--out", type=Path, help="also write the file here (.npz), to share it")
    return parser


def _made(class_path: str, settings: Sequence[str]) -> SetMetric:
    from callbacks.sets import SetMetric

    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--metric is {class_path!r}, which cannot be imported: {error}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, SetMetric)):
        raise ValueError(f"--metric is {class_path!r}, which is no SetMetric")
    arguments: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r} is not of the form NAME=VALUE")
        arguments[key] = yaml.safe_load(value)
    try:
        return kind(**arguments)
    except TypeError as error:  # an unknown argument
        raise ValueError(f"--set: {error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
