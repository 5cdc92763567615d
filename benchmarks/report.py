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

from callbacks.files import commit

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results"


def write_report(
    name: str, results: dict[str, Any], seed: int, path: Path | None = None, device: str = "cpu"
) -> Path:
    """Write ``results/<name>.json`` and show it.

    Args:
        name: Name of the benchmark, that of its file.
        results: The numbers.
        seed: Seed of everything random in it.
        path: Another file to write.
        device: Where it was measured; of a GPU the file is ``<name>_cuda.json``, beside the CPU's.
    """
    report = {
        "command": shlex.join([*settings(), "python", "-m", module(name), *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "results": results,
    }
    path = path or RESULTS / f"{name}{'' if device == 'cpu' else f'_{device}'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    path.write_text(f"{text}\n", encoding="utf-8")
    sys.stdout.write(f"{text}\n{path}\n")
    return path


def module(name: str) -> str:
    """Return the module that ``python -m`` runs now.

    Args:
        name: Of the benchmark, if it was started otherwise, as by a test.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    found = "" if spec is None else spec.name.removesuffix(".__main__")
    return found if found.startswith("benchmarks.") else f"benchmarks.{name}"


def device() -> str:
    """Return the default device of commands: ``cuda`` if there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def without_options(what: str | None) -> None:
    """For a command that has none: `--help` says what it measures, and all else is refused.

    Args:
        what: The docstring of its file.
    """
    argparse.ArgumentParser(
        prog=f"python -m {module(Path(sys.argv[0]).stem)}",
        description=what,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()


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


def settings() -> list[str]:
    """Variables that are set and change the numbers, as they stand before a command."""
    return [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(("MALLOC_", "OMP_"))]


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
