"""A folder that looks like a checkout, with all that the pages take for granted, small."""

import contextlib
import functools
import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.pack import command as pack
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from lightning_modules.networks.imdn import IMDN
from tests.conftest import REPO
from tests.docs.blocks import QUICKSTART, blocks, files
from tests.docs.stand_in import FOLDER, PROGRAMS, command

NOT_SHARED = (".git", ".venv", "runs", "site")


def save_images(folder, count, width, height, suffix="png", seed=0):
    """Write small smooth images with numbers as names into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        colours = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.{suffix}")


def save_data(folder):
    """Write images: `my/photos`, `$ENLARGER_DATA` and the like."""
    my = folder / "my"
    data = my / "data"
    save_images(my / "photos", 12, 224, 208)
    save_images(my / "hr", 12, 544, 512)
    save_images(my / "real", 12, 208, 176)
    save_images(my / "single", 1, 320, 288, seed=1)
    (my / "single/0.png").rename(my / "photo.png")
    (folder / "photos").symlink_to(my / "photos")
    save_images(data / "bsds400", 400, 176, 144, suffix="jpg")
    save_images(data / "kodak24", 4, 384, 256)
    save_images(folder / "cars", 64, 32, 32)
    for name in ("train-automobile", "test-automobile"):
        pack_shards(folder / "cars", data / "cifar10", name)
    for name in ("set5", "set14"):
        for scale in (2, 3, 4):
            save_images(data / name / f"x{scale}" / "hr", 5, 240, 216)
            save_images(data / name / f"x{scale}" / "lr", 5, 240 // scale, 216 // scale)
    (folder / "lists").mkdir()
    (folder / "lists" / "best.txt").write_text("\n".join(str(p) for p in data.glob("bsds400/*")))


def pack_shards(images, out, name):
    """Pack images, without a word."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pack.main([str(images), str(out), "--name", name])


def save_weights(folder):
    """Write random weights: IMDN's x4, TAEF2's, and a network that spandrel reads."""
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


@functools.cache
def trained():
    """A folder with the quickstart's run of two steps, for all pages that begin with one."""
    folder = tempfile.TemporaryDirectory()
    _, fit = command("python", [str(REPO / "main.py"), "fit", "--config", str(REPO / QUICKSTART)])
    subprocess.run(fit, cwd=folder.name, check=True, capture_output=True)
    return folder


def runs_before(page):
    """Names of runs that a page uses and does not train."""
    text = "".join(block.text for block in blocks(page) if block.how != "test")
    text = text.replace("\\\n", "")
    names = set(re.findall(r"main\.py export runs/(\w+)", text))
    if re.search(rf"main\.py (?:test|predict) --config {QUICKSTART}(?!.*--run\.name)", text):
        names.add("quickstart")
    if re.search(rf"main\.py fit --config {QUICKSTART}$", text, re.MULTILINE):
        names.discard("quickstart")
    return names


def make_folder(folder, page):
    """Fill a folder so that a page's commands can be typed in it."""
    for path in REPO.iterdir():
        if path.name not in NOT_SHARED:
            (folder / path.name).symlink_to(path)
    (folder / "enlarger").symlink_to(REPO)  # of `~/enlarger`
    save_data(folder)
    save_weights(folder)
    if "pack my/photos my/shards" not in page.read_text():
        pack_shards(folder / "my" / "photos", folder / "my" / "shards", "shard")
    for name in runs_before(page):
        shutil.copytree(Path(trained().name, "runs", "quickstart"), folder / "runs" / name)
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    for shown in [*sorted((REPO / "docs" / "plugins").glob("*.md")), page]:
        for name, text in files(shown).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    (folder / FOLDER).mkdir()
    for name in PROGRAMS:
        call = shlex.join([sys.executable, str(REPO / "tests" / "docs" / "stand_in.py"), name])
        program = folder / FOLDER / name
        program.write_text(f'#!/usr/bin/env bash\nexec {call} "$@"\n')
        program.chmod(0o755)
