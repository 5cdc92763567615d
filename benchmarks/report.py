"""Provenance of every result: the command, the commit, the machine, the seed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from callbacks.provenance import commit

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results"


def write_report(name: str, results: dict[str, Any], seed: int, device: str = "cpu") -> Path:
    """Write ``results/<name>.json`` and show it.

    Args:
        name: Of the file.
        results: The numbers.
        seed: Seed of everything random in it.
        device: Where it was measured; of a GPU the file is ``<name>_cuda.json``, beside the CPU's.
    """
    path = RESULTS / f"{name}{'' if device == 'cpu' else f'_{device}'}.json"
    text = json.dumps(provenance(seed) | {"results": results}, indent=2)
    path.write_text(f"{text}\n", encoding="utf-8")
    sys.stdout.write(f"{text}\n{path}\n")
    return path


def provenance(seed: int) -> dict[str, Any]:
    """Command, with the variables that change numbers; commit, machine, seed."""
    kinds = ("MALLOC_", "OMP_")
    settings = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(kinds)]
    return {
        "command": shlex.join([*settings, "python", *sys.orig_argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
    }


def parser(what: str | None, timed: bool = False) -> argparse.ArgumentParser:
    """Parser of a benchmark's options.

    Args:
        what: The docstring of its file.
        timed: Whether it has ``--device`` and ``--threads``.
    """
    made = argparse.ArgumentParser(
        description=what, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if timed:
        made.add_argument("--device", default=device(), help="cuda or cpu; default: what is there")
        made.add_argument("--threads", type=int, default=1, help="CPU threads")
    return made


def device() -> str:
    """Return the default device of commands: ``cuda`` if there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def placed(page: str, text: str, marks: tuple[str, str]) -> str:
    """A page with the text between two marks.

    Args:
        page: As it was.
        text: What is to stand there.
        marks: Before it and after it.

    Raises:
        ValueError: It has no marks.
    """
    before, first, rest = page.partition(marks[0])
    _, second, after = rest.partition(marks[1])
    if not (first and second):
        raise ValueError(f"the page has no {marks[0]} followed by {marks[1]}: add both")
    return f"{before}{first}\n\n{text}\n{second}{after}"


def machine() -> dict[str, Any]:
    """Processor, graphics card where there is one, threads and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found: dict[str, Any] = {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
