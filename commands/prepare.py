"""``main.py prepare NAME ARCHIVE``: a downloaded set in the form that configurations read.

``configs/needs.yaml`` has the sets: which images each has, and whether they become squares, pairs
or shards. Images that are there already are kept, so that the same command goes on.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from commands.errors import CONFIGS, ConfigurationError
from files.owned import whole_file
from files.paths import expand_path, list_images
from files.yaml import read_yaml


def main(words: Sequence[str]) -> int:
    """Run the command.

    Args:
        words: As typed after ``main.py prepare``.

    Returns:
        0; the status of ``pack`` where the set becomes shards.

    Raises:
        ConfigurationError: If the archive is damaged, or has another number of images than the set.
    """
    recipes = read_yaml(CONFIGS / "needs.yaml")["prepare"]
    parser = argparse.ArgumentParser(
        prog="main.py prepare",
        description="Turn a downloaded set of images into what configurations read.",
    )
    parser.add_argument("name", choices=recipes, help="The folder's name in configurations.")
    parser.add_argument("archive", help="A zip or tar file, or the folder that it was unpacked to.")
    parser.add_argument("--out", help="The new folder; by default $ENLARGER_DATA/NAME.")
    options = parser.parse_args(words)
    out = Path(expand_path(options.out or f"$ENLARGER_DATA/{options.name}", "--out"))
    archive = Path(expand_path(options.archive, "ARCHIVE"))
    if archive.is_dir():
        return _prepare(archive, out, recipes[options.name])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        # A tar may name places outside; shutil takes no filter for zip files, which may not.
        filters: dict[str, Any] = {} if archive.suffix == ".zip" else {"filter": "data"}
        try:
            shutil.unpack_archive(archive, folder, **filters)
        except Exception as error:  # of many types, as its decompressors have
            raise ConfigurationError(f"prepare cannot unpack {archive}: {error}") from error
        return _prepare(Path(folder), out, recipes[options.name])


def _prepare(source: Path, out: Path, recipe: Mapping[str, Any]) -> int:
    """Copy, crop, degrade or pack the images of a set, as its recipe says; return the status."""
    images = _images_of_set(source, recipe.get("images", {".": "([^/]+)"}))
    count = recipe["count"]
    if "start" in recipe:
        images = dict(list(images.items())[recipe["start"] :][:count])
    if len(images) != count:
        raise ConfigurationError(
            f"{source} has {len(images):,} images of this set, which has {count:,}: is the "
            "download complete?"
        )
    if "pack" in recipe:
        from datamodules.pack.command import main as pack

        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as paths:
            paths.writelines(f"{path.resolve()}\n" for path in images.values())
            paths.flush()
            return pack([paths.name, str(out), *recipe["pack"]])
    for name, path in images.items():
        target = out / name
        if recipe.get("side"):
            target = target.with_suffix(".png")
        if not target.is_file():
            _write_image(path, target, recipe.get("side"))
        lr = out / "lr" / target.name
        if "degradation" in recipe and not lr.is_file():
            _write_lr(target, lr, recipe)
    sys.stdout.write(f"{count:,} images in {out}\n")
    return 0


def _images_of_set(source: Path, patterns: Mapping[str, str]) -> dict[str, Path]:
    """Return the images of a set by their names in the new folder.

    Args:
        source: The downloaded folder.
        patterns: What ends the path of an image of this set, without its ending, by the part of the
            new folder that it belongs to; the group is its new name.
    """
    images = {}
    for path in list_images(source):
        for part, pattern in patterns.items():
            match = re.search(f"/{pattern}$", path.absolute().with_suffix("").as_posix())
            if match:
                images[f"{part}/{match[1]}{path.suffix}"] = path
    return images


def _write_image(path: Path, target: Path, side: int | None) -> None:
    """Copy an image, or the square in its middle; whole, or not at all."""
    with whole_file(target) as file, Image.open(path) as image:
        if side is None or image.size == (side, side):
            file.write(path.read_bytes())
        else:
            width, height = image.size
            edge = min(width, height)
            left = (width - edge) // 2
            top = (height - edge) // 2
            box = (left, top, left + edge, top + edge)
            square = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box)
            square.save(file, "PNG")


def _write_lr(hr: Path, lr: Path, recipe: Mapping[str, Any]) -> None:
    """Degrade an image; its name is the seed."""
    import torch

    from degradations.images import as_image, read_image
    from degradations.seeds import seed_of
    from degradations.tools.configure import degradation_of

    file = CONFIGS / "degradation" / f"{recipe['degradation']}.yaml"
    degradation = degradation_of([file], recipe["scale"])
    seeds = torch.tensor([seed_of(hr.name)])
    with whole_file(lr) as written:
        as_image(degradation(read_image(hr), seeds)).save(written, "PNG")
