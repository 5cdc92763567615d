"""Freeze a validation set: ``python main.py freeze --config FILE --out DIR IMAGES``.

Each image is degraded once, with the seed that validation would give it. HR, LR and parameters are
written to a WebDataset shard. The result does not depend on batches, order, or the seed of a run.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from degradations.base import Degradation, cut_size
from degradations.draws import Params, seed_of
from degradations.images import as_image, read_image
from degradations.tools.configure import degradation_of
from degradations.tools.preview import add_config_argument
from files.images import decode
from files.images.pillow import saved
from files.own_modules import class_path
from files.owned import whole_file
from files.paths import images_by_key, shard_key, unique
from files.versions import installed

log = logging.getLogger(__name__)
Members = dict[str, bytes]  # suffix: content


class Settings(NamedTuple):
    """Settings of a frozen set.

    degradation: Makes the LR.
    name: Name of the validation source that would have the same LR.
    degradation_seed: As `data.init_args.degradation_seed`.
    """

    degradation: Degradation
    name: str
    degradation_seed: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line; by default that of this process.

    Returns:
        0 after success.

    Raises:
        ValueError: If nothing was written; ``main.py`` prints its message.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shard = options.out / f"{options.name}-000000.tar"
    _check_unused(shard)
    degradation = degradation_of(options.config, options.scale)
    settings = Settings(degradation, options.name, options.degradation_seed)
    images = images_by_key(options.images)
    dotless = ((shard_key(key), (key, path)) for key, path in images.items())
    unique_images = unique(dotless, "IMAGES", lambda image: image[1])
    progress = tqdm(unique_images.items(), unit=" images", disable=None)
    samples = degrade_images(progress, settings)
    count = write_shard(samples, shard)
    log.info("%d images frozen into %s", count, shard)
    log.info("to validate on them at data.init_args.scale %g:", degradation.scale)
    log.info("data: {init_args: {val: {%s: {", options.name)
    log.info("  class_path: datamodules.Shards,")
    log.info('  init_args: {urls: "%s"}}}}}', shard.resolve())
    return 0


def degrade_images(
    images: Iterable[tuple[str, tuple[str, Path]]], settings: Settings
) -> Iterator[tuple[str, Members]]:
    """Degrade images.

    Args:
        images: Keys in the shard, without dots, with keys and files.
        settings: Settings of the set.

    Yields:
        The key in the shard, and the members of the sample.

    Raises:
        ValueError: An image cannot be read, has more than 8 bits or too few pixels, or its LR is
            not rounded to 8 bits.
    """
    degradation = settings.degradation
    for dotless_key, (key, path) in images:
        hr = _read_hr(path, settings)
        seed = seed_of(settings.degradation_seed, f"{settings.name}/{key}")
        params = degradation.params_of(torch.tensor([seed]), hr.shape)
        lr = degradation.replay(hr, params)
        record = {
            "seed": seed,
            "shape": list(hr.shape[1:]),
            "scale": degradation.scale,
            "recipe": class_path(type(degradation)),
            "params": _plain(params),
            "key": f"{settings.name}/{key}",
            "enlarger": installed("enlarger") or "unknown",  # a bare checkout
        }
        members = {
            "hr.png": _png(hr, path),
            "lr.png": _png(lr, path),
            "json": json.dumps(record, separators=(",", ":")).encode(),
        }
        yield dotless_key, members


def _plain(params: Params) -> dict[str, Any]:
    # The parameters of a batch of one image, for JSON.
    plain: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            plain[name] = _plain(value)
        elif isinstance(value, np.ndarray):
            plain[name] = value.tolist()[0]
        else:  # a number, which all images share
            plain[name] = value
    return plain


def write_shard(samples: Iterable[tuple[str, Members]], path: Path) -> int:
    """Write samples to a tar, which appears when it is complete, and return their number.

    Args:
        samples: Keys, and members by suffix.
        path: The tar; its folder is made.
    """
    number = 0
    with (
        whole_file(path, before=lambda: _check_unused(path)) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for key, members in samples:
            number += 1
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")  # no time: reproducible bytes
                member.size = len(data)
                member.mode = 0o444
                tar.addfile(member, io.BytesIO(data))
    return number


def _check_unused(path: Path) -> None:
    if path.exists():
        raise ValueError(
            f"{path} exists, and a frozen set is never overwritten: give another --out or --name"
        )


def _read_hr(path: Path, settings: Settings) -> Tensor:
    # Cut as in validation: the upper left part with whole LR pixels.
    if decode.read_image(path).bit_depth > 8:  # as stored: in sRGB it may have 8
        raise ValueError(f"{path} has more than 8 bits, but only 8 are frozen: convert it first")
    hr = read_image(path)
    H, W = hr.shape[-2:]
    scale = settings.degradation.scale
    height, width = cut_size((H, W), scale)
    if not (height and width):
        raise ValueError(
            f"{path} is {H} x {W} px, less than one LR pixel at scale {scale:g}: remove it"
        )
    return hr[..., :height, :width].contiguous()


def _png(image: Tensor, path: Path) -> bytes:
    levels = image * 255
    if not torch.equal(levels.round() / 255, image):
        raise ValueError(
            f"the LR of {path} is not rounded to 8 bits, as files require: set quantize: true "
            "(degradation.init_args.quantize)"
        )
    return saved(np.asarray(as_image(image)), "PNG")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py freeze",
        description="Freeze a validation set: degrade each image of a folder with the seed that "
        "validation would give it, and write HR, LR and the drawn parameters to a WebDataset "
        "shard, which datamodules.Shards reads. The same images give the same bytes.",
        epilog="example: python main.py freeze --config configs/degradation/"
        "real_esrgan.yaml --scale 4 --name kodak24 --out frozen $ENLARGER_DATA/kodak24",
    )
    parser.add_argument(
        "images", metavar="IMAGES", type=Path, help="folder of HR images, including subfolders"
    )
    add_config_argument(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder for the shard"
    )
    parser.add_argument(
        "--name",
        default="val",
        help="name of the source in data.init_args.val or test, which is part of the images' keys "
        "and thus of their seeds; the shard is NAME-000000.tar (default: %(default)s)",
    )
    parser.add_argument(
        "--degradation-seed",
        type=int,
        default=0,
        metavar="N",
        help="as data.init_args.degradation_seed (default: %(default)s)",
    )
    return parser
