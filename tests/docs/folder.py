"""A folder that looks like a checkout, with all that the pages take for granted, small."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.pack import __main__ as pack
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from lightning_modules.networks.imdn import IMDN
from tests.conftest import REPO
from tests.docs.blocks import QUICKSTART, blocks, files
from tests.docs.stand_in import FOLDER, PROGRAMS, command

NOT_SHARED = (".git", ".venv", "runs", "site")


def make_images(folder: Path, names: Sequence[str], size: tuple[int, int], seed: int = 0) -> None:
    """Write small smooth images.

    Args:
        folder: Is made.
        names: With their endings.
        size: Width and height.
        seed: Of the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for name in names:
        blocks_of_colour = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(blocks_of_colour).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / name)


def make_data(folder: Path) -> None:
    """Images: `my/photos`, `$ENLARGER_DATA` and the like.

    Args:
        folder: Of the page.
    """
    photos = [f"{number}.png" for number in range(12)]
    for name, size in (("photos", (224, 208)), ("hr", (544, 512)), ("real", (208, 176))):
        make_images(folder / "my" / name, photos, size)
    make_images(folder / "my", ["photo.png"], (320, 288), seed=1)
    (folder / "photos").symlink_to(folder / "my" / "photos")
    data = folder / "my" / "data"
    make_images(data / "bsds400", [f"{number}.jpg" for number in range(400)], (176, 144))
    make_images(data / "kodak24", [f"{number}.png" for number in range(4)], (384, 256))
    make_images(folder / "cars", [f"{number}.png" for number in range(64)], (32, 32))
    for name in ("train-automobile", "test-automobile"):
        make_shards(folder / "cars", data / "cifar10", name)
    for name in ("set5", "set14"):
        for scale in (2, 3, 4):
            for side, size in (("hr", (240, 216)), ("lr", (240 // scale, 216 // scale))):
                images = [f"img_{number:03}.png" for number in range(1, 6)]
                make_images(data / name / f"x{scale}" / side, images, size)
    (folder / "lists").mkdir()
    (folder / "lists" / "best.txt").write_text("\n".join(str(p) for p in data.glob("bsds400/*")))


def make_shards(images: Path, out: Path, name: str) -> None:
    """Pack images, without a word.

    Args:
        images: Folder of them.
        out: Is made.
        name: Of the shards.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pack.main([str(images), str(out), "--name", name])


def make_weights(folder: Path) -> None:
    """Files of weights that tell nothing: IMDN's x4, TAEF2's, and a network that spandrel reads.

    Args:
        folder: That holds `my`.
    """
    weights = folder / "my" / "weights"
    weights.mkdir()
    torch.save(taef2_encoder().state_dict(), weights / "taef2_encoder.pth")
    torch.save(taef2_decoder().state_dict(), weights / "taef2_decoder.pth")
    torch.save(IMDN(4).state_dict(), folder / "my" / "IMDN_x4.pth")
    # Tensors of Real-ESRGAN's compact network (SRVGGNetCompact), x4.
    shapes = {0: (4, 3, 3, 3), 1: (4,), 2: (4, 4, 3, 3), 3: (4,), 4: (48, 4, 3, 3)}
    state = {f"body.{n}.weight": torch.full(shape, 0.01) for n, shape in shapes.items()}
    state |= {f"body.{n}.bias": torch.zeros(shapes[n][0]) for n in (0, 2, 4)}
    torch.save({"params": state}, folder / "my" / "4x_network.pth")


@cache
def trained() -> tempfile.TemporaryDirectory[str]:
    """A folder with the quickstart's run of two steps, for all pages that begin with one."""
    folder = tempfile.TemporaryDirectory()
    _, fit = command("python", [str(REPO / "main.py"), "fit", "--config", str(REPO / QUICKSTART)])
    subprocess.run(fit, cwd=folder.name, check=True, capture_output=True)
    return folder


def runs_before(page: Path) -> set[str]:
    """Names of runs that a page uses and does not train.

    Args:
        page: The page.
    """
    shown = [block.text for block in blocks(page) if block.how != "test"]
    text = "\n".join(shown).replace("\\\n", "")
    names = set(re.findall(r"main\.py export runs/(\w+)", text))
    if re.search(rf"main\.py (?:test|predict) --config {QUICKSTART}(?!.*--run\.name)", text):
        names.add("quickstart")
    trains = re.search(rf"main\.py fit --config {QUICKSTART}$", text, re.MULTILINE)
    return names - {"quickstart"} if trains else names


def make_folder(folder: Path, page: Path) -> None:
    """A folder in which a page's commands can be typed.

    Args:
        folder: Empty.
        page: Whose files lie there.
    """
    for path in REPO.iterdir():
        if path.name not in NOT_SHARED:
            (folder / path.name).symlink_to(path)
    (folder / "enlarger").symlink_to(REPO)  # of `~/enlarger`
    make_data(folder)
    make_weights(folder)
    if "pack my/photos my/shards" not in page.read_text(encoding="utf-8"):
        make_shards(folder / "my" / "photos", folder / "my" / "shards", "shard")
    for name in runs_before(page):
        shutil.copytree(Path(trained().name, "runs", "quickstart"), folder / "runs" / name)
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    for other in [*sorted((REPO / "docs" / "plugins").glob("*.md")), page]:
        for name, text in files(other).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    programs = folder / FOLDER
    programs.mkdir()
    stand_in = [sys.executable, str(REPO / "tests" / "docs" / "stand_in.py")]
    for name in PROGRAMS:
        call = shlex.join([*stand_in, name])
        (programs / name).write_text(f'#!/usr/bin/env bash\nexec {call} "$@"\n')
        (programs / name).chmod(0o755)
