"""The recipes of configs/experiment/, each whole in one file and made small by rule."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from files.yaml import plain_yaml
from tests.conftest import REPO

FOLDER = REPO / "configs" / "experiment"
MODEL = REPO / "configs" / "model" / "bicubic.yaml"  # of a recipe for any model
STEPS = 4
SIDE = 64  # pixels of a crop, or of what a pretrained base makes

# Sizes of each class: a recipe's own number is lowered to it, and a default replaced by it.
SIZES: dict[str, dict[str, Any]] = {
    # one pass
    "EDSR": {"blocks": 1, "channels": 8},
    "LIIF": {"blocks": 1, "channels": 8, "hidden": [8, 8]},
    "RRDBNet": {"blocks": 1, "channels": 8},
    "SRVGGNetCompact": {"channels": 8, "convolutions": 2},
    "Spandrel": {"arguments": {"embed_dim": 12, "depths": [2], "num_heads": [2]}},
    # judges
    "UNetDiscriminator": {"width": 4},
    "PatchGAN": {"width": 8, "layers": 2},
    "LatentDiscriminator": {
        **{"widths": [32, 64, 64], "heads": 4, "text_width": 96, "text_heads": 4},
    },
    "LatentLPIPS": {"widths": [8, 8, 16, 16, 16]},
    # diffusion
    "UNet2D": {"network": {"block_out_channels": [16], "norm_num_groups": 8}},
    "UNet3D": {"network": {"block_out_channels": [16], "norm_num_groups": 8}},
    "SwinUNet": {"width": 32, "multipliers": [1, 2], "blocks": 1, "swin_width": 48, "window": 2},
    "SFTUNet": {"features": 8, "width": 32, "multipliers": [1, 2], "blocks": 1},
    "NoisePredictor": {"widths": [32, 64], "head_width": 32, "layers": 1},
    "ResidualShift": {"steps": 3},
    "ScaleCrafter": {"tau": 1},
    # autoencoders
    "ResShiftVQ": {"channels": [32, 32, 32], "entries": 16},
    "BitwiseVAE": {"widths": [32, 32, 32, 32], "layers": 1, "groups": 8},
    "BitwiseSpace": {"vae": "lightning_modules.BitwiseVAE", "grids": [[1, 1], [2, 2], [4, 4]]},
    # next scale
    "InfinityTransformer": {
        **{"depth": 1, "width": 64, "heads": 2, "text_width": 128, "text_length": 8},
    },
    "Transformation": {
        **{"size": [2, 2], "grids": [[2, 2], [4, 4]], "branches": [[16, 1, 2], [16, 1, 2]]},
    },
    "T5": {"length": 8},
    # methods: steps of sampling, and what joins training later
    **{name: {"sampler": {"steps": 2}} for name in ("Diffusion", "SelfCascade", "Direct")},
    **{name: {"sampler": {"steps": 2}} for name in ("FineTune", "LoRA", "SDSR")},
    "ResShift": {"process": "lightning_modules.ResidualShift"},
    "CasArbi": {"process": "lightning_modules.ResidualShift"},
    "InvSR": {"training": {"adversarial_start": 1}, "patch": 8},
    "Tokenizer": {"losses": {"adversarial_start": 1}},
    "RealESRGAN": {"gan": {"start": 1}},
    "VGG19Perceptual": {"start": 1},
    # data
    "SRDataModule": {
        **{"batch_size": 4, "eval_batch_size": 2, "workers": 0, "crops": {"per_image": 4}},
    },
    "Crops": {"size": SIDE, "per_image": 1},
    "MovingCrops": {"frames": 4, "reduce": 1, "per_image": 1},
    "ClipShards": {"frames": 4, "stride": 1},
    "Seeds": {"count": 3},
}
DEFAULTS = ("grids", "vae", "process")  # replaced only where a recipe leaves the default
# Numbers of pixels, which become smaller together.
PIXELS = ("crop_size", "base_size", "size", "side", "lr_sides", "lr_side")
TRAINER = {
    **{"max_steps": STEPS, "val_check_interval": 2, "log_every_n_steps": 1},
    **{"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
}


@dataclass(frozen=True)
class Recipe:
    """A file of configs/experiment/.

    Args:
        path: The file.
    """

    path: Path

    @cached_property
    def name(self) -> str:
        """Its path below the folder, without a suffix."""
        return self.path.relative_to(FOLDER).with_suffix("").as_posix()

    @cached_property
    def run(self) -> str:
        """The folder of its results below runs/, by which other recipes name it."""
        out = re.search(r"--encode.out runs/(\w+)", self.path.read_text())
        return out[1] if out else self.name.replace("/", "_")

    @cached_property
    def command(self) -> list[str]:
        """The words of its first line from the command on, without --config and what follows."""
        line = self.path.read_text().partition("main.py ")[2].splitlines()[0]
        verb, _, _, *options = shlex.split(line.partition(" --model ")[0])
        return [verb, *options]

    @property
    def verb(self) -> str:
        return self.command[0]

    @property
    def trains(self) -> bool:
        return self.verb == "fit"

    @property
    def predicts(self) -> bool:
        """Whether it says what it is to enlarge or to make."""
        return "predict" in self.shipped["data"]["init_args"]

    @cached_property
    def shipped(self) -> dict[str, Any]:
        """Its content, with that of all files that it names."""
        return {"model": whole(MODEL), **whole(self.path)}

    @cached_property
    def small(self) -> dict[str, Any]:
        """The same, small."""
        content = shrink(self.shipped, _factor(self.shipped))
        trainer = content.setdefault("trainer", {}) | TRAINER
        content["trainer"] = {k: v for k, v in trainer.items() if k not in ("devices", "strategy")}
        if "every_n_steps" in content.get("checkpoint", {}):
            content["checkpoint"]["every_n_steps"] = 2
        watch = {"class_path": "tests.matrix.watch.Watch"}
        content["trainer"]["callbacks"] = [*(trainer.get("callbacks") or []), watch]
        for name in ("val", "test"):
            for source in (content["data"]["init_args"].get(name) or {}).values():
                crop(source)
        return content

    @cached_property
    def needs(self) -> set[str]:
        """Names of the runs that it stands on."""
        return {name for text in texts(self.shipped) for name in re.findall(r"\bruns/(\w+)", text)}

    @property
    def family(self) -> tuple[str, str]:
        """The classes of its model and of its training data."""
        train = self.shipped["data"]["init_args"].get("train") or {"class_path": "none"}
        return class_of(self.shipped["model"]), class_of(train)


RECIPES = [Recipe(path) for path in sorted(FOLDER.rglob("*.yaml"))]


def whole(path: Path) -> Any:
    """Return a file's content, in place of other files' names their content."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        if isinstance(value, str) and value.endswith(".yaml"):
            return whole((path.parent / value).resolve())
        return value

    return filled(plain_yaml(path.read_text()))


def class_of(value: Any) -> str:
    """Return the short name of a class, as a recipe names it; "" for anything else."""
    if isinstance(value, dict):
        value = value.get("class_path", "")
    return str(value).rpartition(".")[2]


def texts(value: Any) -> list[str]:
    """Return all texts within a content."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


def _factor(content: dict[str, Any]) -> float:
    base = content["model"].get("init_args", {}).get("base_size")
    side = base or content["data"]["init_args"].get("crop_size", SIDE)
    return float(max(1.0, side / SIDE))


def shrink(value: Any, factor: float) -> Any:
    """Return a content with smaller numbers of pixels and smaller classes.

    Args:
        value: The content.
        factor: By how much numbers of pixels become smaller.
    """
    if isinstance(value, list):
        return [shrink(inner, factor) for inner in value]
    if isinstance(value, str) and class_of(value) in SIZES:
        value = {"class_path": value}
    if not isinstance(value, dict):
        return value
    small = {
        key: fewer_pixels(inner, factor) if key in PIXELS else shrink(inner, factor)
        for key, inner in value.items()
        if key != "class_path"
    }
    if "class_path" in value:
        small["class_path"] = value["class_path"]
    sizes = SIZES.get(class_of(small))
    if sizes is not None and not small["class_path"].startswith("degradations."):
        small["init_args"] = lowered(small.get("init_args") or {}, sizes, factor)
    if class_of(small) == "Photos":
        small["init_args"]["names"] = small["init_args"]["names"][:6]
    return small


def fewer_pixels(value: Any, factor: float) -> Any:
    """Return a side, or several."""
    if isinstance(value, list):
        return [fewer_pixels(inner, factor) for inner in value]
    return round(value / factor)


def lowered(given: Any, most: Any, factor: float) -> Any:
    """Return a number, list or group of keys without anything larger than in another one."""
    if isinstance(given, dict) and isinstance(most, dict):
        added = {k: shrink(v, factor) for k, v in most.items() if k not in given}
        if "block_out_channels" in added:  # of a network that a name stands for
            added = {}
        less = {k: lowered(given[k], most[k], factor) for k in given if k in most}
        return {**given, **added, **{k: v for k, v in less.items() if k not in DEFAULTS}}
    if isinstance(given, list) and isinstance(most, list):
        if isinstance(most[0], list):
            return [lowered(inner, most[0], factor) for inner in given]
        top = max(most)
        return [min(inner, top) for inner in given]
    if isinstance(given, int | float) and isinstance(most, int | float):
        return min(given, most)
    return given


def crop(source: dict[str, Any]) -> None:
    """Have three images of a set evaluated, photographs at the size of a crop."""
    if class_of(source) == "Photos":
        photos = dict(source)
        source["class_path"] = "datamodules.Crops"
        source["init_args"] = {"source": photos, "size": SIDE, "per_image": 1}
    if class_of(source) == "Crops" and class_of(source["init_args"]["source"]) == "Photos":
        names = source["init_args"]["source"]["init_args"]["names"]
        others = [name for name in ("chelsea", "coffee", "camera") if name not in names]
        source["init_args"]["source"]["init_args"]["names"] = [*names, *others][:3]
