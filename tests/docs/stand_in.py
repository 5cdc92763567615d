"""Stands in the place of a program while commands of the pages are checked.

Called as ``stand_in.py PROGRAM ARGUMENTS``: `python` runs, with a training of two steps, or has its
options parsed only; what needs other machines, or all of CI, is always parsed only. Appends a line
of JSON to the file that ``DOCS_LOG`` names.
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
PROGRAMS = ("python", "torchrun", "sbatch", "make", "pip", "pytest", "tensorboard")
VERBS = ("fit", "validate", "test", "predict", "check", "throughput", "encode")
CPU = ("--trainer.accelerator", "cpu", "--trainer.devices", "1")
STEPS = (
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"),
    *("--data.init_args.batch_size", "4", "--data.init_args.streams", "4"),
    *("--data.init_args.workers", "0"),
)
MADE_SMALL = {
    "fit": (*CPU, *STEPS),
    "check": (*CPU, *STEPS),
    "throughput": CPU,
    "encode": CPU,
    "validate": (*CPU, "--trainer.limit_val_batches", "1"),
    "test": (*CPU, "--trainer.limit_test_batches", "1"),
    "predict": (*CPU, "--data.init_args.workers", "0"),
}


def command(program: str, args: Sequence[str], parse: bool) -> tuple[str, list[str]]:
    """How a command is checked, and what is run for it.

    Args:
        program: As typed.
        args: As typed.
        parse: Whether its options are parsed only.

    Raises:
        ValueError: There is nothing by which it could be checked.
    """
    here = sys.executable
    if program == "python":
        return _python(list(args), parse)
    if program == "torchrun":
        start = next(n for n, word in enumerate(args) if word.endswith("main.py"))
        return "options parsed", [here, *args[start:], "--print_config"]
    if program == "sbatch":
        subprocess.run(["bash", "-n", str(REPO / args[0])], check=True)
        typed = [here, "main.py", "fit", "--config", *args[1:]]
        return "options parsed", [*typed, "--print_config"]
    if program == "make":
        return "make -n", ["make", "-C", str(REPO), "-n", *args]
    if program == "pip":
        return "extras are there", [here, "-c", "", *_known_extras(args)]
    if program == "pytest":
        return "options parsed", [here, "-m", "pytest", "--collect-only", "-q", *args]
    return "--help", [here, "-m", "tensorboard.main", "--help"]


def _python(args: list[str], parse: bool) -> tuple[str, list[str]]:
    here = sys.executable
    if args[0].endswith("main.py"):
        verb = next((word for word in args[1:] if word in VERBS), None)
        asks = any(word.endswith((".help", "--help", "--print_config")) for word in args)
        if asks or verb is None:
            return "run", [here, *args]
        if parse:
            return "options parsed", [here, *args, "--print_config"]
        return "run small", [here, *args, *MADE_SMALL[verb]]
    if not parse:
        return "run", [here, *args]
    if args[0] == "-m":
        return "options known", [here, __file__, "--options", *args[1:]]
    if args[0] == "-c":
        return "compiled", [here, "-c", f"compile({args[1]!r}, 'page', 'exec')"]
    raise ValueError(f"python {args[0]} can only be run")


def _known_extras(args: Sequence[str]) -> list[str]:
    there = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {e for word in args for part in re.findall(r"\[(.+)\]", word) for e in part.split(",")}
    if named - set(there):
        raise ValueError(f"there is no extra {', '.join(sorted(named - set(there)))}")
    return []


def check_options(module: str, args: Sequence[str]) -> None:
    """See that a module's help names all options.

    Args:
        module: Of the repository, run by `python -m`.
        args: As typed.

    Raises:
        SystemExit: With the options that it does not name.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    typed = {word.partition("=")[0] for word in args if word.startswith("--")}
    unknown = sorted(word for word in typed if not re.search(rf"{word}\b", done.stdout))
    if unknown:
        raise SystemExit(f"python -m {module} has no {', '.join(unknown)}")


def main(args: Sequence[str]) -> int:
    """Check one command, and note it.

    Args:
        args: The program and its arguments.

    Returns:
        The status of what was run.
    """
    if args[0] == "--options":
        check_options(args[1], args[2:])
        return 0
    how, run = command(args[0], args[1:], os.environ.get("DOCS_CHECK") == "parse")
    # What runs finds the programs themselves: `make` by the name of its stand-in would not end.
    places = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p).name != FOLDER]
    there = {**os.environ, "PATH": os.pathsep.join(places)}
    status = subprocess.run(run, check=False, env=there).returncode
    with Path(os.environ["DOCS_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"command": list(args), "how": how, "status": status}) + "\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
