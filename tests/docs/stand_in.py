"""Stands in the place of a program while commands of the pages are checked.

Called as ``stand_in.py PROGRAM ARGUMENTS``: `python` runs, made small: two steps, two
batches. What needs other machines, or all of CI, never runs; neither does what a page has parsed
only, which the caller does (tests/docs/parsed.py). Appends a line of JSON to the file that
``DOCS_LOG`` names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDER = ".programs"  # where the stand-ins lie, first in PATH
ELSEWHERE = ("torchrun", "srun", "sbatch")  # start processes that are not on this machine
PROGRAMS = ("python", *ELSEWHERE, "make", "pip", "pytest", "tensorboard", "hf", "ffmpeg", "docker")
CPU = ("--trainer.accelerator", "cpu", "--trainer.devices", "1")
# Typed before --config, which may say 0 where nothing can be validated.
VALIDATED = ("--trainer.limit_val_batches", "1")
STEPS = (
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--trainer.num_sanity_val_steps", "0"),
    *("--data.init_args.batch_size", "4", "--data.init_args.streams", "4"),
    *("--data.init_args.workers", "0"),
)
MADE_SMALL = {
    "fit": (*CPU, *STEPS),
    "check": (*CPU, *STEPS),
    "encode": (*CPU, "--encode.crops_per_image", "1"),
    "validate": CPU,
    "test": (*CPU, "--trainer.limit_test_batches", "1"),
    "predict": (*CPU, "--data.init_args.workers", "0", "--trainer.limit_predict_batches", "2"),
    "export": (),
}


def parsed_words(program: str, args: Sequence[str]) -> list[str]:
    """The words of a command that can be parsed without running it, or none.

    Args:
        program: As typed.
        args: As typed.

    Returns:
        `main.py ...` or `-m MODULE ...`, after `torchrun ...` where that starts it.
    """
    if program == "sbatch":
        # As docs/pack.sbatch and docs/train.sbatch do.
        starts = ["pack"] if Path(args[0]).stem == "pack" else ["fit", "--config"]
        return ["main.py", *starts, *args[1:]]
    if program == "docker":  # what the image is given; the repository is in /enlarger there
        image = next((n for n, word in enumerate(args) if word.startswith("enlarger")), len(args))
        inside = [word.removeprefix("/enlarger/") for word in args[image + 1 :]]
        return ["main.py", *inside] if args[0] == "run" and inside else []
    start = next((n for n, word in enumerate(args) if Path(word).name == "main.py"), None)
    if start is not None and program in ("python", *ELSEWHERE):
        launcher = [program, *args[:start]] if program == "torchrun" else []
        return [*launcher, "main.py", *args[start + 1 :]]
    return list(args) if program == "python" and args[0] == "-m" else []


def command(program: str, args: Sequence[str], parse: bool = False) -> tuple[str, list[str]]:
    """How a command is checked, and what is run for it: nothing where it is to be parsed.

    Args:
        program: As typed.
        args: As typed.
        parse: Whether it is not to be run.

    Raises:
        ValueError: There is nothing by which it could be checked.
    """
    here = sys.executable
    if program == "sbatch":
        subprocess.run(["bash", "-n", str(REPO / args[0])], check=True)
    if parsed_words(program, args):
        serves = [*args[1:2]] == ["app"]  # until it is stopped
        if parse or program in ELSEWHERE or serves:
            return "parsed", []
        return _run_small(list(args))
    if program == "python" and parse:
        text = args[1] if args[0] == "-c" else Path(args[0]).read_text(encoding="utf-8")
        return "compiled", [here, "-c", "import ast, sys; ast.parse(sys.argv[1])", text]
    if program == "python":
        return "run", [here, *args]
    if program == "make":
        return "make -n", ["make", "-C", str(REPO), "-n", *args]
    if program == "pip":
        return "extras are there", [here, "-c", "", *_known_extras(args)]
    if program == "pytest":
        return "collected", [here, "-m", "pytest", "--collect-only", "-q", *args]
    if program == "hf":
        return "--help", [str(Path(here).with_name("hf")), *args, "--help"]
    if program == "tensorboard":
        return "--help", [here, "-m", "tensorboard.main", "--help"]
    if program in ("docker", "ffmpeg") and parse:  # not the project's, and often not there
        return "left to the reader", []
    raise ValueError(f"{program} {' '.join(args)} is nothing that could be checked")


def asks(args: Sequence[str]) -> bool:
    """Whether a command only asks for help, or for its configuration."""
    return any(word.endswith((".help", "--help", "--print_config")) for word in args)


def _run_small(args: list[str]) -> tuple[str, list[str]]:
    verb = next((word for word in args[1:] if word in MADE_SMALL), "")
    if asks(args) or args[0] == "-m" or args[1:] == ["check"] or not MADE_SMALL.get(verb):
        return "run", [sys.executable, *args]
    after = args.index(verb) + 1
    words = [*args[:after], *VALIDATED, *args[after:], *MADE_SMALL[verb]]
    return "run small", [sys.executable, *words]


def _known_extras(args: Sequence[str]) -> list[str]:
    there = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {e for word in args for part in re.findall(r"\[(.+)\]", word) for e in part.split(",")}
    if named - set(there):
        raise ValueError(f"there is no extra {', '.join(sorted(named - set(there)))}")
    return []


def main(args: Sequence[str]) -> int:
    """Check one command, and note it.

    Args:
        args: The program and its arguments.

    Returns:
        The status of what was run.
    """
    how, run = command(args[0], args[1:], os.environ.get("DOCS_CHECK") == "parse")
    # What runs finds the programs themselves: `make` by the name of its stand-in would not end.
    places = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p).name != FOLDER]
    there = {**os.environ, "PATH": os.pathsep.join(places)}
    status = subprocess.run(run, check=False, env=there).returncode if run else 0
    set_here = {k: v for k, v in os.environ.items() if k.startswith("ENLARGER_")}
    entry = {
        **{"command": list(args), "how": how, "status": status},
        **{"words": parsed_words(args[0], args[1:]), "set": set_here},
    }
    with Path(os.environ["DOCS_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
