"""Stands in the place of a program while commands of the pages are checked.

Called as ``stand_in.py PROGRAM ARGUMENTS``: `python` runs, made small: two steps, two
batches. What needs other machines, or all of CI, never runs; neither does what a page has parsed
only, which the caller does (tests/docs/parsed.py). Appends a line of JSON to the file that
``DOCS_LOG`` names.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDER = ".programs"  # where the stand-ins lie, first in PATH
ELSEWHERE = ("torchrun", "srun", "sbatch")  # start processes that are not on this machine
PROGRAMS = ("python", *ELSEWHERE, "make", "pip", "pytest", "tensorboard", "hf", "ffmpeg", "docker")
# Typed before --config, which may say 0 where nothing can be validated.
VALIDATED = "--trainer.limit_val_batches 1"
CPU = "--trainer.accelerator cpu --trainer.devices 1"
STEPS = f"""{CPU} --trainer.max_steps 2 --trainer.val_check_interval 2
    --trainer.num_sanity_val_steps 0 --data.init_args.batch_size 4 --data.init_args.streams 4
    --data.init_args.workers 0"""
MADE_SMALL = {
    "fit": STEPS,
    "check": STEPS,
    "encode": f"{CPU} --encode.crops_per_image 1",
    "validate": CPU,
    "test": f"{CPU} --trainer.limit_test_batches 1",
    "predict": f"{CPU} --data.init_args.workers 0 --trainer.limit_predict_batches 2",
}


def parsed_words(program, args):
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


def command(program, args, parse=False):
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
        text = args[1] if args[0] == "-c" else Path(args[0]).read_text()
        return "compiled", [here, "-c", "import ast, sys; ast.parse(sys.argv[1])", text]
    if program == "python":
        return "run", [here, *args]
    if program == "make":
        return "make -n", ["make", "-C", str(REPO), "-n", *args]
    if program == "pip":
        _refuse_unknown_extras(args)
        return "extras are there", [here, "-c", ""]
    if program == "pytest":
        return "collected", [here, "-m", "pytest", "--collect-only", "-q", *args]
    if program == "hf":
        return "--help", [str(Path(here).with_name("hf")), *args, "--help"]
    if program == "tensorboard":
        return "--help", [here, "-m", "tensorboard.main", "--help"]
    if program in ("docker", "ffmpeg") and parse:  # not the project's, and often not there
        return "left to the reader", []
    raise ValueError(f"{program} {' '.join(args)} is nothing that could be checked")


def asks(args):
    """Whether a command only asks for help, or for its configuration."""
    return any(word.endswith((".help", "--help", "--print_config")) for word in args)


def _run_small(args):
    verb = next((word for word in args[1:] if word in MADE_SMALL), None)
    if verb is None or asks(args) or args[0] == "-m" or args[1:] == ["check"]:
        return "run", [sys.executable, *args]
    after = args.index(verb) + 1
    words = [*args[:after], *VALIDATED.split(), *args[after:], *MADE_SMALL[verb].split()]
    return "run small", [sys.executable, *words]


def _refuse_unknown_extras(args):
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    for word in args:
        for extras in re.findall(r"\[(.+)\]", word):
            for extra in extras.split(","):
                if extra not in project["optional-dependencies"]:
                    raise ValueError(f"there is no extra {extra}")


def main(program, *args):
    """Check one command, and note it; return the status of what was run."""
    how, words = command(program, args, os.environ.get("DOCS_CHECK") == "parse")
    # What runs finds the programs themselves: `make` by the name of its stand-in would not end.
    places = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p).name != FOLDER]
    environment = {**os.environ, "PATH": os.pathsep.join(places)}
    status = subprocess.run(words, env=environment).returncode if words else 0
    entry = {
        "command": [program, *args],
        "how": how,
        "status": status,
        "words": parsed_words(program, args),
        "set": {name: v for name, v in os.environ.items() if name.startswith("ENLARGER_")},
    }
    with Path(os.environ["DOCS_LOG"]).open("a") as log:
        log.write(json.dumps(entry) + "\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
