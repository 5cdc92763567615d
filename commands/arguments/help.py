"""What ``--help`` says without importing torch; ``COMMAND --help all`` is the parser's own."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from commands.names import ABOUT, BY_GROUP
from commands.options import SOURCES, options

# Help that is in no docstring, or not in words for the command line.
SAID = {
    "config": "an experiment (main.py list experiments); of several, later ones win",
    "model": "a method (main.py list methods), or a file of configs/model; of predict also a "
    "released model (docs/models.md), by default realesr-general-x4",
    "model.weights": "weights to start from: a file, or a name of main.py list weights",
    "data": "images: a class, or a file of configs/data",
    "data.train.root": "folder of the images to train on, where the experiment reads a folder",
    "data.predict": "images to enlarge: a file, a folder, or a pattern in quotation marks",
    "degradation": "makes LR images (main.py list degradations), or a file of configs/degradation",
    "writer.suffix": "added to each name, such as _x2",
    "encode.flips": "flip and transpose the squares at random; horizontal: only left and right",
    "trainer.callbacks": "metrics and other callbacks (main.py list metrics); + adds one",
    "trainer.max_steps": "optimiser steps to train",
    "trainer.val_check_interval": "training batches between two validations",
    "trainer.devices": "GPUs, or processes on a CPU, of each machine",
    "trainer.num_nodes": "machines; torchrun and SLURM set it",
    "trainer.accelerator": "auto, cpu, cuda or mps",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed or bf16-true",
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
        "encode.overwrite",
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
        "export.overwrite",
        "export.community",
        "ckpt_path",
        "debug",
    ),
}


# Options without a class after them, and what they list.
LISTS = {
    "--model.help": "methods",
    "--model.network.help": "networks",
    "--degradation.help": "degradations",
    "--data.train.help": "datasets",
    "--trainer.callbacks.help": "metrics",
}


def answered(words: Sequence[str]) -> bool:
    """Print what a command line asks for, if it is the overview, a short help or a list of classes.

    Args:
        words: As typed after ``main.py``.

    Returns:
        False if it asks for none of them.
    """
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return True
    if not words or words[0] not in SHOWN:
        return False
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in ("-h", "--help"):
            if after == "all":
                return False
            sys.stdout.write(short_help(words[0]))
            return True
        if word in LISTS and (not after or after.startswith("--")):
            from commands.arguments import listing

            listing.main([LISTS[word]])
            return True
    return False


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
    rows = [(key if key == "RUN" else f"--{key}", _about(key)) for key in SHOWN[command]]
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


def _about(key: str) -> str:
    if key in SAID:
        return SAID[key]
    group, _, name = key.partition(".")
    about, default = options(group)[name] if group in SOURCES else ("", "")
    said, value = f"{about[:1].lower()}{about[1:]}", default.strip("'")
    return said if value in ("", "None", "False") else f"{said} (default: {value})"
