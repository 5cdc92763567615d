"""The command, commit and versions that wrote a file of a run."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "torchmetrics", "numpy")


def provenance() -> dict[str, Any]:
    """Return what wrote a file: the command as it was typed, commit, versions, and arithmetic.

    The last is the precision of float32 matrix products, and torch's other switches.
    """
    cudnn: Any = torch.backends.cudnn
    return {
        "command": shlex.join(sys.argv),
        "commit": commit(),
        "versions": versions(),
        "arithmetic": {
            "matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_benchmark": cudnn.benchmark,
            "cudnn_tf32": cudnn.conv.fp32_precision == "tf32",
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
    }


def commit() -> str | None:
    """Return the commit of this code, ``-dirty`` with local changes; None if it is unknown.

    What a benchmark has written into its results is no change of the code. A copy without git, as
    in a container, has the commit in the variable ``ENLARGER_COMMIT``.
    """
    try:
        head = _git("rev-parse", "HEAD")
        code = (":/", ":(top,exclude)benchmarks/results")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return os.environ.get("ENLARGER_COMMIT") or None
    return f"{head}-dirty" if changes else head


def _git(*words: str) -> str:
    here = Path(__file__).resolve().parent
    return subprocess.run(
        ["git", *words],
        capture_output=True,
        text=True,
        cwd=here,
        # A copy may lie in the repository of another program.
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(here.parents[1])},
        timeout=10,
        check=True,
    ).stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
