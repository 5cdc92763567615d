"""What ``--help`` says without importing torch; ``COMMAND --help all`` is the parser's own."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from commands.names import ABOUT, BY_GROUP

TRAIN = ("fit", "check")
EVALUATE = ("validate", "test")
PREDICT = ("predict",)
ENCODE = ("encode",)
EXPORT = ("export",)
TRAIN_AND_EVALUATE = (*TRAIN, *EVALUATE)
RUN = (*TRAIN_AND_EVALUATE, *PREDICT)
RUN_AND_ENCODE = (*RUN, *ENCODE)
# The options that people set: the key, the commands that have it, and what it is.
OPTIONS = (
    ("RUN", EXPORT, "folder of the run"),
    (
        "config",
        RUN_AND_ENCODE,
        "an experiment (main.py list experiments); of several, later ones win",
    ),
    ("model", RUN, "a method (main.py list methods), a file, or for predict a released model"),
    ("model.weights", RUN_AND_ENCODE, "initial weights: a file, or a name of main.py list weights"),
    ("data", RUN, "images: a class, or a file of configs/data"),
    (
        "data.train.root",
        (*TRAIN, *ENCODE),
        "folder of the training images, where the experiment reads one",
    ),
    (
        "data.predict",
        PREDICT,
        "images to enlarge: a file, a folder, or a pattern in quotation marks",
    ),
    ("data.scale", RUN, "factor by which images are enlarged, possibly fractional"),
    ("data.size", PREDICT, "height and width of the outputs of predict, whatever scale is"),
    ("data.batch_size", TRAIN, "training crops in a micro-batch, over all processes (default: 16)"),
    ("data.eval_batch_size", EVALUATE, "images per batch in validation and test (default: 1)"),
    ("data.crop_size", TRAIN, "side of the training crops in HR pixels (default: 96)"),
    ("data.workers", TRAIN_AND_EVALUATE, "reader processes of each training process (default: 2)"),
    ("data.degradation_seed", EVALUATE, "seed of the LR in validation and test (default: 0)"),
    ("degradation", TRAIN_AND_EVALUATE, "makes LR images (main.py list degradations)"),
    ("writer.folder", PREDICT, "where to write"),
    ("writer.suffix", PREDICT, "added to each name, such as _x2"),
    ("writer.format", PREDICT, "file format (default: png)"),
    ("encode.out", ENCODE, "folder of the shards"),
    ("encode.crop", ENCODE, "side of the squares cut from the images"),
    ("encode.crops_per_image", ENCODE, "squares of each image (default: 1)"),
    ("encode.flips", ENCODE, "flip and transpose squares at random; horizontal: only sideways"),
    ("encode.hr", ENCODE, "also write HR, for methods that need it in training"),
    ("encode.pairs", ENCODE, "also write LR, and the latent of its enlargement, as ResShift needs"),
    ("encode.texts", ENCODE, "also write the features of each caption"),
    ("encode.dtype", ENCODE, "number type of the latents (default: float16)"),
    ("encode.part", ENCODE, "I/N makes each N-th shard, from shard I on (default: 0/1)"),
    ("export.out", EXPORT, "output folder"),
    ("export.onnx", EXPORT, "also write model.onnx, for a method that is one pass of a network"),
    ("export.diffusers", EXPORT, "also write networks and autoencoders as diffusers does"),
    ("export.community", EXPORT, "also write network.safetensors, which spandrel reads"),
    ("trainer.max_steps", TRAIN, "optimiser steps to train"),
    ("trainer.val_check_interval", TRAIN, "training batches between two validations"),
    (
        "trainer.callbacks",
        TRAIN_AND_EVALUATE,
        "metrics (main.py list metrics) and others; + adds one",
    ),
    (
        "run.seeds",
        EVALUATE,
        "evaluations of a stochastic method, each with its own noise (default: 1)",
    ),
    ("ckpt_path", (*EVALUATE, *PREDICT, *EXPORT), "a checkpoint in place of the run's own"),
    ("tiling.size", (*EVALUATE, *PREDICT), "largest side of a tile in LR pixels (default: auto)"),
    ("trainer.devices", TRAIN_AND_EVALUATE, "GPUs, or processes on a CPU, of each machine"),
    ("trainer.num_nodes", TRAIN_AND_EVALUATE, "machines; torchrun and SLURM set it"),
    ("trainer.accelerator", RUN_AND_ENCODE, "auto, cpu, cuda or mps"),
    ("trainer.precision", RUN, "32-true, bf16-mixed, 16-mixed or bf16-true"),
    ("checkpoint.every_n_minutes", TRAIN, "minutes between two checkpoints (default: 15)"),
    ("checkpoint.monitor", TRAIN, "the logged value that ranks checkpoints (default: PSNR)"),
    ("run.name", RUN, "name of the run's folder"),
    ("run.root", RUN, "folder of all runs (default: runs)"),
    ("run.overwrite", TRAIN, "start a new run"),
    ("run.change", TRAIN, "resume although the configuration differs from that of the run"),
    ("seed_everything", RUN_AND_ENCODE, "seed of all random numbers"),
    ("debug", (*RUN, *ENCODE, *EXPORT), "show tracebacks"),
    ("print_config", RUN_AND_ENCODE, "print the whole configuration, and end"),
)
SHOWN = {
    command: tuple(key for key, commands, _ in OPTIONS if command in commands)
    for command in (*RUN, *ENCODE, *EXPORT)
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
    width = max(map(len, SHOWN[command])) + 6
    for key, commands, about in OPTIONS:
        if command in commands:
            option = key if key == "RUN" else f"--{key}"
            text = f"  {option:<{width - 2}}{about}"
            lines += textwrap.wrap(text, 100, subsequent_indent=" " * width)
    lines += [
        "",
        "Each key of the configuration is an option by its path: --data.train.root photos.",
        f"main.py {command} --help all lists all; --model.help CLASS the arguments of a class.",
    ]
    return "\n".join(lines) + "\n"
