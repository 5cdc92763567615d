"""What ``--help`` says without importing torch; ``COMMAND --help all`` is the parser's own."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from commands.names import ABOUT, BY_GROUP

# What each option is, in a line.
SAID = {
    "config": "an experiment (main.py list experiments); of several, later ones win",
    "model": "a method (main.py list methods), or a file of configs/model; of predict also a "
    "released model (docs/models.md), by default realesr-general-x4",
    "model.weights": "weights to start from: a file, or a name of main.py list weights",
    "data": "images: a class, or a file of configs/data",
    "data.train.root": "folder of the images to train on, where the experiment reads a folder",
    "data.predict": "images to enlarge: a file, a folder, or a pattern in quotation marks",
    "data.scale": "factor by which images are enlarged, possibly fractional",
    "data.size": "height and width to which predict enlarges every image, whatever scale is",
    "data.batch_size": "training crops in one micro-batch, over all processes (default: 16)",
    "data.eval_batch_size": "images per batch in validation and test (default: 1)",
    "data.crop_size": "side of the training crops in HR pixels (default: 96)",
    "data.workers": "reader processes for each training process (default: 2)",
    "data.degradation_seed": "seed of the LR in validation and test (default: 0)",
    "degradation": "makes LR images (main.py list degradations), or a file of configs/degradation",
    "writer.folder": "where to write",
    "writer.suffix": "added to each name, such as _x2",
    "writer.format": "file format (default: png)",
    "tiling.size": "largest side of a tile in LR pixels (default: auto)",
    "encode.out": "folder of the shards",
    "encode.crop": "side of the squares cut from the images",
    "encode.crops_per_image": "squares of each image (default: 1)",
    "encode.flips": "flip and transpose the squares at random; horizontal: only left and right",
    "encode.hr": "also write HR, for methods that need it in training",
    "encode.pairs": "also write LR, and the latent of its enlargement, as ResShift needs",
    "encode.texts": "also write the features of each caption",
    "encode.dtype": "number type of the latents (default: float16)",
    "encode.part": "I/N makes each N-th shard, from shard I on (default: 0/1)",
    "export.out": "output folder",
    "export.onnx": "also write model.onnx, for a method that is one pass of a network",
    "export.diffusers": "also write diffusion networks and autoencoders as diffusers does",
    "export.community": "also write network.safetensors, which spandrel reads",
    "checkpoint.every_n_minutes": "minutes between two checkpoints (default: 15)",
    "checkpoint.monitor": "the logged value that ranks checkpoints (default: PSNR)",
    "trainer.callbacks": "metrics and other callbacks (main.py list metrics); + adds one",
    "trainer.max_steps": "optimiser steps to train",
    "trainer.val_check_interval": "training batches between two validations",
    "trainer.devices": "GPUs, or processes on a CPU, of each machine",
    "trainer.num_nodes": "machines; torchrun and SLURM set it",
    "trainer.accelerator": "auto, cpu, cuda or mps",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed or bf16-true",
    "run.name": "name of the run's folder",
    "run.root": "folder of all runs (default: runs)",
    "run.overwrite": "start a new run",
    "run.change": "resume although the configuration differs from that of the run",
    "run.seeds": "evaluations of a stochastic method, each with noise of its own (default: 1)",
    "seed_everything": "seed of all random numbers",
    "ckpt_path": "a checkpoint in place of the run's own",
    "debug": "show tracebacks",
    "print_config": "print the whole configuration, and end",
    "RUN": "folder of the run",
}
_WHICH = ("config", "model", "model.weights", "data")
_TRAIN = (
    "data.train.root",
    "data.scale",
    "data.batch_size",
    "data.crop_size",
    "data.workers",
    "degradation",
    "trainer.max_steps",
    "trainer.val_check_interval",
    "trainer.callbacks",
)
_MACHINE = ("trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.precision")
_RUN = ("run.name", "run.root")
_LAST = ("seed_everything", "debug", "print_config")
_EVALUATE = (
    *_WHICH,
    "degradation",
    "data.scale",
    "data.eval_batch_size",
    "data.workers",
    "data.degradation_seed",
    "trainer.callbacks",
    "run.seeds",
    "ckpt_path",
    "tiling.size",
    *_MACHINE,
    *_RUN,
    *_LAST,
)
_FIT = (
    *_WHICH,
    *_TRAIN,
    *_MACHINE,
    "checkpoint.every_n_minutes",
    "checkpoint.monitor",
    *_RUN,
    "run.overwrite",
    "run.change",
    *_LAST,
)
SHOWN: dict[str, tuple[str, ...]] = {
    "fit": _FIT,
    "check": _FIT,
    "validate": _EVALUATE,
    "test": _EVALUATE,
    "predict": (
        *_WHICH,
        "data.predict",
        "data.scale",
        "data.size",
        "ckpt_path",
        "writer.folder",
        "writer.suffix",
        "writer.format",
        "tiling.size",
        "trainer.accelerator",
        "trainer.precision",
        *_RUN,
        *_LAST,
    ),
    "encode": (
        "config",
        "encode.out",
        "encode.crop",
        "encode.crops_per_image",
        "encode.flips",
        "encode.hr",
        "encode.pairs",
        "encode.texts",
        "encode.dtype",
        "encode.part",
        "model.weights",
        "data.train.root",
        "trainer.accelerator",
        *_LAST,
    ),
    "export": (
        "RUN",
        "export.out",
        "export.onnx",
        "export.diffusers",
        "export.community",
        "ckpt_path",
        "debug",
    ),
}


def print_help(words: Sequence[str]) -> bool:
    """Print the overview or the short help of a command, if a command line asks for one.

    Args:
        words: As typed after ``main.py``.

    Returns:
        Whether it asked for one.
    """
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return True
    asks = {"-h", "--help"} & {*words} and words[-1] != "all"
    if not asks or words[0] not in SHOWN:
        return False
    sys.stdout.write(short_help(words[0]))
    return True


def overview() -> str:
    """Return the help of ``main.py``: all commands, in groups."""
    lines = ["usage: main.py COMMAND ...", "", "Train, compare and run image super-resolution."]
    for group, commands in BY_GROUP.items():
        lines += ["", f"{group}:", *(f"  {name:<11} {about}" for name, about in commands.items())]
    lines += [
        "",
        "main.py COMMAND --help explains a command. Most take --config FILE.yaml; main.py list",
        "experiments names files to start from.",
    ]
    return "\n".join(lines) + "\n"


def short_help(command: str) -> str:
    """Return the options of a command that people set, each with a line.

    Args:
        command: A key of ``SHOWN``.
    """
    typed = {"export": "RUN", "predict": "--data.predict FOLDER"}.get(command, "--config FILE.yaml")
    lines = [f"usage: main.py {command} {typed} [--KEY VALUE ...]", "", ABOUT[command], ""]
    rows = [(key if key == "RUN" else f"--{key}", SAID[key]) for key in SHOWN[command]]
    width = max(len(option) for option, _ in rows) + 4
    for option, about in rows:
        lines += textwrap.wrap(
            f"{f'  {option}':<{width}}{about}", 100, subsequent_indent=" " * width
        )
    lines += [
        "",
        "Each key of the configuration is an option by its path: --data.train.root photos.",
        f"main.py {command} --help all lists all; --model.help CLASS the arguments of a class.",
    ]
    return "\n".join(lines) + "\n"
