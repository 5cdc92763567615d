"""Inputs of the recipes: photographs in place of their data, random weights of the same layout."""

from __future__ import annotations

import functools
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from datamodules.sources.photos import photo_path
from files import manifest
from files.own_modules import class_path
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from tests import small_t5
from tests.lightning_modules.vgg19 import save_vgg19
from tests.matrix.bases import save_base
from tests.matrix.recipes import SIDE, class_of
from tests.matrix.small_sd import save_sd
from tests.stand_ins import save_niqe_model

PHOTOGRAPHS = ("astronaut", "coffee", "rocket")  # an odd number: two processes have 2 and 1
FRAMES = 4
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
HUB = {  # by the names that recipes have
    "stabilityai/stable-diffusion-2-1-base": "sd21",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "damo-vilab/text-to-video-ms-1.7b": "video",
}


# -------------------------------------------------------------------------------------------- data


@functools.cache
def photograph(name: str, side: int) -> Image.Image:
    """Return a photograph as a square."""
    image = Image.open(photo_path(name)).convert("RGB")
    edge = min(image.size)
    return image.crop((0, 0, edge, edge)).resize((side, side), Image.Resampling.LANCZOS)


def save_folder(folder: Path, side: int, suffix: str = "", captions: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        photograph(name, side).save(folder / f"{name}{suffix}.png")
        if captions:
            (folder / f"{name}.txt").write_text(f"a photograph of {name}")


def save_tar(path: Path, side: int, frames: bool) -> None:
    """Write a shard: images, or frames of clips, with captions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for name in PHOTOGRAPHS:
            for frame in range(FRAMES if frames else 1):
                png = io.BytesIO()
                photograph(name, side + frame).crop((frame, 0, side + frame, side)).save(png, "PNG")
                add(f"{name}.{frame:04}.png" if frames else f"{name}.png", png.getvalue())
            add(f"{name}.txt", f"a photograph of {name}".encode())


def save_triplets(root: Path, side: int) -> None:
    for part, smaller in (("ref", side), ("p0", side // 2), ("p1", side // 4)):
        (root / part).mkdir(parents=True, exist_ok=True)
        for name in PHOTOGRAPHS:
            photograph(name, smaller).resize((side, side)).save(root / part / f"{name}.png")
    (root / "judge").mkdir(exist_ok=True)
    for name in PHOTOGRAPHS:
        np.save(root / "judge" / f"{name}.npy", np.array([0.25], np.float32))


def sources(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the classes within a content and their arguments."""
    if isinstance(value, dict):
        if isinstance(value.get("init_args"), dict):
            yield class_of(value), value["init_args"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from sources(inner)


def save_data(content: dict[str, Any]) -> None:
    """Write what the sources of a small recipe read, where it says."""
    data = content["data"]["init_args"]
    side, scale = data.get("crop_size", SIDE), data["scale"]
    captions = "encoder" in content["model"].get("init_args", {})
    whole = (data.get("crops", {}).get("scales") or {}).get("whole", False)
    trained = [given for _, given in sources([data.get("train")])]
    for kind, given in sources(data):
        larger = side if whole and given in trained else side * 3 // 2
        places = {
            key: Path(os.path.expandvars(str(value).replace("{scale}", f"{scale:g}")))
            for key, value in given.items()
            if key in ("root", "hr", "lr", "urls", "file")
        }
        if kind == "Folder":
            for below in given.get("files") or ["."]:
                save_folder(places["root"] / below, larger)
        if kind == "Paired":
            save_folder(places["hr"], side, captions=captions)
            save_folder(places["lr"], round(side / scale), given.get("lr_suffix", ""))
        if kind in ("Shards", "ClipShards"):
            path = Path(str(places["urls"]).replace("*", "000000"))
            save_tar(path, larger, kind == "ClipShards")
        if kind == "Triplets":
            save_triplets(places["root"], larger)
        if kind == "Prompts":
            places["file"].parent.mkdir(parents=True, exist_ok=True)
            places["file"].write_text("a red car\na\nb\n")


# ----------------------------------------------------------------------------------------- weights


def save_published(folder: Path) -> None:
    """Write the networks that recipes name and do not describe, each as it is published.

    Args:
        folder: Where folders with names of the hub, and `weights`, are made.
    """
    torch.manual_seed(0)
    own = folder / "weights"
    own.mkdir(parents=True)
    for place, name in HUB.items():
        save_base(folder / place, name)
    save_sd(folder / "stabilityai/sd-turbo")
    small_t5.write(folder / "google/flan-t5-xl")
    torch.save(taef2_encoder().state_dict(), own / "taef2_encoder.pth")
    torch.save(taef2_decoder().state_dict(), own / "taef2_decoder.pth")
    (folder / "stabilityai/sd-turbo/prompt.safetensors").rename(own / "invsr_prompt.safetensors")
    (folder / "stabilityai/sd-turbo/lpips.pth").rename(own / file_of("latent-lpips-sd-turbo"))
    save_vgg19(own, [f"conv{n}_{m}" for n in range(1, 6) for m in range(1, 5)])
    save_vgg16(own / file_of("vgg16"))
    zeros, eye = torch.zeros(36, dtype=torch.float64), torch.eye(36, dtype=torch.float64)
    save_niqe_model(own / file_of("niqe-pristine"), zeros, eye)


def save_vgg16(path: Path) -> None:
    state, inputs, place = {}, 3, 0
    for width in VGG16:
        if isinstance(width, int):
            state[f"features.{place}.weight"] = torch.randn(width, inputs, 3, 3) / inputs**0.5 / 3
            state[f"features.{place}.bias"] = torch.zeros(width)
            inputs, place = width, place + 1  # its ReLU
        place += 1
    torch.save(state, path)


def file_of(name: str) -> str:
    return manifest.manifest()[name]["file"]


def save_manifest(folder: Path) -> Path:
    """Write configs/weights.yaml without hashes, which are those of the published files."""
    path = folder / "weights.yaml"
    entries = {name: {**entry, "sha256": None} for name, entry in manifest.manifest().items()}
    path.write_text(yaml.safe_dump(entries))
    return path


def named_weights(content: Any) -> Iterator[str]:
    """Yield the values of weights arguments: names and paths, not runs of other recipes."""
    for _, arguments in sources(content):
        for key, value in arguments.items():
            group = value if isinstance(value, dict) else {key: value}
            for inner, name in group.items():
                is_weights = inner == "weights" or inner.endswith("_weights")
                if is_weights and isinstance(name, str) and not name.startswith("runs/"):
                    yield name


def save_weights(model: Any, content: dict[str, Any]) -> None:
    """Write the weights that a recipe names and describes: those of its model as initialised."""
    for name in named_weights(content["model"]):
        filled = name.replace("{scale}", f"{content['data']['init_args']['scale']:g}")
        known = filled in manifest.manifest()
        published = Path(os.environ["ENLARGER_WEIGHTS"]) / (file_of(filled) if known else "")
        path = published if known else Path(os.path.expandvars(filled))
        if not path.exists():
            state = model.state_dict()
            if path.name.startswith("infinity_vae"):  # a tokenizer's, by its own names
                own = {k: v for k, v in state.items() if k.startswith("space.vae.")}
                state = {k.removeprefix("space."): v for k, v in own.items()}
            torch.save({"model": class_path(type(model)), "state_dict": state}, path)
