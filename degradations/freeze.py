"""Freeze a validation set: ``python -m degradations.freeze --config CONFIG --out SHARDS IMAGES``.

Each picture is degraded once, by the seed that validation would give it, and HR, LR and parameters
are kept in WebDataset shards. Nothing else has a say in it: no batch, no order, no run's seed.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from degradations.base import Degradation, cut_size
from degradations.configure import degradation_of
from degradations.draws import seed_of
from degradations.pictures import as_image, cropped, list_pictures, read_picture
from degradations.preview import positive
from degradations.record import records_of
from files.owned import hidden, put_in_place, remove_file
from files.paths import open_regular
from files.png_text import open_image

log = logging.getLogger(__name__)

Members = dict[str, bytes]  # suffix: content


class Settings(NamedTuple):
    """What a frozen set depends on, beside the pictures.

    degradation: Makes the LR, for its scale.
    name: Name of the source in the validation that the LR is to be that of.
    degradation_seed: As `data.init_args.degradation_seed`.
    crop: Side of the square that is cut out of each picture's middle; None for whole pictures.
    """

    degradation: Degradation
    name: str
    degradation_seed: int = 0
    crop: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0 if the set was frozen, 2 if nothing was done.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _run(options)
    except (ValueError, TypeError, OSError) as error:
        log.error("error: %s", error)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    _check_free(options.out, options.name)
    degradation = degradation_of(options.config, options.scale)
    settings = Settings(degradation, options.name, options.degradation_seed, options.crop)
    pictures = keyed(options.images)
    samples = frozen(tqdm(pictures.items(), unit=" pictures", disable=None), settings)
    shards = write_shards(samples, options.out, options.name, options.samples_per_shard)
    log.info("%d pictures frozen into %d shards", len(pictures), len(shards))
    log.info("to validate on them, at data.init_args.scale %g:", degradation.scale)
    log.info("data: {init_args: {val: {%s: {", options.name)
    log.info("  class_path: datamodules.shards.Shards,")
    log.info('  init_args: {urls: "%s"}}}}}', options.out.resolve() / f"{options.name}-*.tar")


def keyed(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their keys, in the keys' order; hidden files are none.

    Raises:
        ValueError: There are none, or two have one key.
    """
    found: dict[str, Path] = {}
    for path in list_pictures(folder):
        key = path.relative_to(folder).with_suffix("").as_posix()
        other = found.setdefault(key, path)
        if other != path:
            raise ValueError(
                f"{other} and {path} would both have the key {key!r}, and keys must be unique: "
                "rename or move one of them"
            )
    return dict(sorted(found.items()))


def frozen(
    pictures: Iterable[tuple[str, Path]], settings: Settings
) -> Iterator[tuple[str, Members]]:
    """Degrade pictures.

    Args:
        pictures: Keys and files.
        settings: How.

    Yields:
        The key in the shard, where a picture's name has no dots, and the sample's members.

    Raises:
        ValueError: A picture cannot be read, has more than 8 bits or too few pixels, or LR is not
            rounded to 8 bits.
    """
    version = _version()
    taken: dict[str, str] = {}
    for key, path in pictures:
        in_shard = _without_dots(key)
        if taken.setdefault(in_shard, key) != key:
            raise ValueError(
                f"{taken[in_shard]!r} and {key!r} would both have the key {in_shard!r}, as a key "
                "in a shard cannot have dots: rename one"
            )
        hr = _fitting(path, settings)
        seeds = torch.tensor([seed_of(settings.degradation_seed, f"{settings.name}/{key}")])
        degradation = settings.degradation
        params = degradation.params_of(seeds, hr.shape)
        lr = degradation.replay(hr, params)
        record = records_of(seeds, hr.shape, degradation, params)[0]
        about = {**record, "key": f"{settings.name}/{key}", "enlarger": version}
        yield (
            in_shard,
            {
                "hr.png": _png(hr, path),
                "lr.png": _png(lr, path),
                "json": json.dumps(about, separators=(",", ":")).encode(),
            },
        )


def write_shards(
    samples: Iterable[tuple[str, Members]], out: Path, name: str, most: int
) -> list[Path]:
    """Write samples into ``name-000000.tar`` and so on; all of them appear at the end, or none.

    Args:
        samples: Keys, and members by suffix.
        out: Folder, made if it is not there.
        name: What the names of the shards begin with.
        most: Samples a shard, at most.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[Path, Path]] = []  # each shard until then, and then
    try:
        for number, batch in enumerate(_batches(samples, most)):
            parts.append((hidden(path := out / f"{name}-{number:06d}.tar"), path))
            _write_tar(parts[-1][0], batch)
        _check_free(out, name)  # it took a while
        for part, path in parts:
            put_in_place(part, path)
        return [path for _, path in parts]
    finally:
        for part, _ in parts:
            remove_file(part)


def _batches(
    samples: Iterable[tuple[str, Members]], most: int
) -> Iterator[list[tuple[str, Members]]]:
    batch: list[tuple[str, Members]] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_tar(path: Path, samples: list[tuple[str, Members]]) -> None:
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, members in samples:
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")  # no time: the same bytes again
                    member.size, member.mode = len(data), 0o444
                    tar.addfile(member, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())  # the name must not be on disk before the content is


def _check_free(out: Path, name: str) -> None:
    if "/" in name or name.startswith("."):
        raise ValueError(f"--name is {name!r}; expected a word such as kodak24")
    old = sorted(out.glob(f"{name}-*.tar"))
    if old:
        raise ValueError(
            f"{old[0]} is there already, and a frozen set is never overwritten: give another --out "
            "or --name, or remove it"
        )


def _without_dots(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.replace(".", "_")  # in a shard, a key ends at the first dot


def _fitting(path: Path, settings: Settings) -> Tensor:
    # As validation cuts pictures: a corner of the size that is a whole number of LR pixels.
    _check_depth(path)
    hr = read_picture(path)
    if settings.crop is not None:
        hr = cropped(hr, settings.crop, name=str(path))
    height, width = cut_size((hr.shape[-2], hr.shape[-1]), settings.degradation.scale)
    if not (height and width):
        raise ValueError(
            f"{path} is {hr.shape[-2]} x {hr.shape[-1]} px, less than one LR pixel at scale "
            f"{settings.degradation.scale:g}: leave it out"
        )
    return hr[..., :height, :width].contiguous()


def _check_depth(path: Path) -> None:
    # Pillow gives 8 of the 16 bits of a colour PNG without a word.
    try:
        with open_regular(path) as file, open_image(file) as image:
            deep = image.mode[0] in "IF"
            if image.format == "PNG":
                file.seek(24)
                deep |= file.read(1) == b"\x10"  # the bit depth in the header chunk
            elif image.format == "TIFF":
                deep |= max(image.tag_v2.get(258, (1,))) > 8  # type: ignore[attr-defined]
    except OSError:
        return  # whoever reads it says what is wrong
    if deep:
        raise ValueError(f"{path} has more than 8 bits, and only 8 are frozen: convert it first")


def _png(picture: Tensor, path: Path) -> bytes:
    levels = picture * 255
    if not torch.equal(levels.round() / 255, picture):
        raise ValueError(
            f"the LR of {path} is not rounded to 8 bits, as a file has them: set quantize: true "
            "(degradation.init_args.quantize)"
        )
    file = io.BytesIO()
    as_image(picture).save(file, "PNG")
    return file.getvalue()


def _version() -> str:
    try:
        return metadata.version("enlarger")
    except metadata.PackageNotFoundError:  # run from a checkout that is installed nowhere
        return "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m degradations.freeze",
        description="Freeze a validation set: degrade each picture of a folder by the seed that "
        "validation would give it, and write HR, LR and the drawn parameters into WebDataset "
        "shards, which datamodules.shards.Shards reads. The same pictures give the same shards, "
        "byte for byte.",
        epilog="example: python -m degradations.freeze --config configs/degradation/"
        "real_esrgan.yaml --scale 4 --name kodak24 --out frozen $ENLARGER_DATA/kodak24",
    )
    parser.add_argument(
        "images", metavar="IMAGES", type=Path, help="folder of HR pictures, with its subfolders"
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="FILE",
        help="a degradation (class_path and init_args), or an experiment whose key degradation is "
        "taken; give several and later ones win, as with main.py",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="SHARDS", help="folder to write the shards to"
    )
    parser.add_argument(
        "--scale",
        type=float,
        metavar="X",
        help="how many times smaller the LR is (default: data.init_args.scale of the files)",
    )
    parser.add_argument(
        "--name",
        default="val",
        help="name of the source in data.init_args.val or test, which is part of the pictures' "
        "keys and so of their seeds; shards are called NAME-000000.tar (default: %(default)s)",
    )
    parser.add_argument(
        "--degradation-seed",
        type=int,
        default=0,
        metavar="N",
        help="as data.init_args.degradation_seed (default: %(default)s)",
    )
    parser.add_argument(
        "--crop", type=positive, metavar="PX", help="take a square of this side of each middle"
    )
    parser.add_argument(
        "--samples-per-shard",
        type=positive,
        default=1000,
        metavar="N",
        help="pictures in each shard, at most (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
