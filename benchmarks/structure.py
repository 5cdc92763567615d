"""Structure of the code: files, kinds of lines, import circles, and files that a batch passes.

``python -m benchmarks.structure`` prints what the table in docs/architecture.md holds. The files of
a batch are those whose functions are called from the start of one training step to the start of the
next one (or of one validated batch), in a short run of ``real_esrgan_quickstart``.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import grimp
import lightning
import numpy as np
from scipy.sparse.csgraph import connected_components

from benchmarks.report import parser

ROOT = Path.cwd()
ROOMS = ("files", "degradations", "datamodules", "callbacks", "lightning_modules", "commands")
FOUND = "ENLARGER_STRUCTURE"


class Passed(lightning.Callback):
    """Writes which files of the rooms the second batch of each kind passes."""

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {"training batch": set(), "validated image": set()}

    def _turn(self, kind: str, batch_idx: int) -> None:
        def record(frame: FrameType, event: str, arg: object) -> None:
            if event == "call":
                self.files[kind].add(frame.f_code.co_filename)

        recorded = record if batch_idx == 1 else None
        sys.setprofile(recorded)
        threading.setprofile(recorded)

    def on_train_batch_start(self, *args: Any) -> None:
        """Record from the start of the second batch to that of the third."""
        self._turn("training batch", args[-1])

    def on_validation_batch_start(self, *args: Any) -> None:
        """Record from the start of the second batch to that of the third."""
        self._turn("validated image", args[3])

    def on_fit_end(self, *args: Any) -> None:
        """Write the numbers of files."""
        sys.setprofile(None)
        ours = {
            kind: sorted(
                path.relative_to(ROOT).as_posix()
                for path in map(Path, names)
                if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS
            )
            for kind, names in self.files.items()
        }
        Path(os.environ[FOUND]).write_text(json.dumps(ours), encoding="utf-8")


def passed() -> dict[str, list[str]]:
    """Files that a training batch and a validated image pass, in a run of seconds."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        fit = [
            *("main.py", "fit", "--config", "configs/experiment/real_esrgan_quickstart.yaml"),
            *("--trainer.max_steps", "4", "--trainer.val_check_interval", "4"),
            *("--data.init_args.workers", "0", "--run.root", folder),
            *("--trainer.callbacks+", "benchmarks.structure.Passed"),
        ]
        subprocess.run([sys.executable, *fit], check=True, env={**os.environ, FOUND: str(found)})
        files: dict[str, list[str]] = json.loads(found.read_text(encoding="utf-8"))
    return files


def modules() -> dict[str, Path]:
    """Every module of the rooms by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    }


def circles() -> list[list[str]]:
    """Groups of modules that import each other."""
    graph = grimp.build_graph(*ROOMS, exclude_type_checking_imports=True, cache_dir=None)
    names = sorted(graph.modules)
    imports = [np.isin(names, [*graph.find_modules_directly_imported_by(n)]) for n in names]
    _, labels = connected_components(np.array(imports), connection="strong")
    groups = [
        [n for n, label in zip(names, labels, strict=True) if label == k] for k in set(labels)
    ]
    return [group for group in groups if len(group) > 1]


def largest_constructor() -> tuple[int, str]:
    """The most arguments that a constructor of a class of the rooms names."""
    counts = []
    for name in modules():
        if name.endswith("__main__"):
            continue
        for cls in vars(import_module(name)).values():
            if inspect.isclass(cls) and cls.__module__ == name and "__init__" in vars(cls):
                given = inspect.signature(cls.__init__).parameters.values()
                named = [p for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
                counts.append((len(named) - 1, f"{name}.{cls.__qualname__}"))
    return max(counts)


def rooms() -> dict[str, dict[str, Any]]:
    """Files, lines and the largest folder of each room."""
    table = {}
    for room in ROOMS:
        files = list((ROOT / room).rglob("*.py"))
        if not files:
            continue
        folders = [len(list(folder.glob("*.py"))) for folder in {path.parent for path in files}]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
        table[room] = {"files": len(files), "lines": lines, "largest folder": max(folders)}
    return table


def kinds_of_lines(files: Iterable[Path]) -> dict[str, int]:
    """Lines of code, docstrings, comments and blanks; a line with code is code."""
    counts = dict.fromkeys(("code", "docstrings", "comments", "blank"), 0)
    for file in files:
        text = file.read_text(encoding="utf-8")
        documented = set[int]()
        for node in ast.walk(ast.parse(text)):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                documented |= {*range(body[0].lineno, body[0].end_lineno + 1)}
        for number, line in enumerate(text.splitlines(), 1):
            kind = "comments" if line.lstrip().startswith("#") else "code"
            kind = "docstrings" if number in documented else kind
            counts[kind if line.strip() else "blank"] += 1
    return counts


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def lengths() -> dict[str, int]:
    """Median and 95th percentile of the lines of a function of the rooms, docstring included."""
    found = sorted(
        node.end_lineno - node.lineno + 1
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    )
    return {"median": found[len(found) // 2], "95 %": found[len(found) * 95 // 100]}


def main() -> None:
    """Print all of it as JSON."""
    parser(__doc__).parse_args()
    count, name = largest_constructor()
    files = passed()
    result = {
        "rooms": rooms(),
        "lines": {
            "rooms, interface, main": kinds_of_lines(
                [*modules().values(), ROOT / "enlarger.py", ROOT / "main.py"]
            ),
            "benchmarks": kinds_of_lines((ROOT / "benchmarks").rglob("*.py")),
            "tests": kinds_of_lines((ROOT / "tests").rglob("*.py")),
        },
        "lines of a function": lengths(),
        "import circles": circles(),
        "constructor with the most arguments": [count, name],
        "files passed": {kind: len(names) for kind, names in files.items()},
        "their names": files,
    }
    sys.stdout.write(f"{json.dumps(result, indent=2)}\n")


if __name__ == "__main__":
    main()
