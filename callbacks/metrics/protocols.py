"""Presets: the metrics of a paper or a library, with its protocol.

    python main.py protocols                          show all presets
    python main.py protocols liif-div2k               show its metrics and protocols
    python main.py protocols liif-div2k resshift  show the differences by metric

A preset is a file in configs/callbacks/: name it under `trainer.callbacks`. Numbers of two presets
are comparable only if this command finds no difference.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from callbacks.metrics.base import Metric
from callbacks.tensorboard import MetricProtocol

log = logging.getLogger(__name__)
FOLDER = Path(__file__).resolve().parents[2] / "configs" / "callbacks"
NAMES = (
    "liif-div2k",
    "idm-faces",
    "invsr-imagenet",
    "resshift",
    "nsarm-real",
    "selfcascade-fid",
    "clean-fid",
    "torch-fidelity",
    "torchmetrics",
)


class Preset(NamedTuple):
    """A file of metrics.

    name: Its name, without suffix.
    about: Its comment: paper, tables, caveats.
    metrics: The metrics, ready for a trainer.
    """

    name: str
    about: str
    metrics: list[Metric]


def load_preset(name: str) -> Preset:
    """Read a preset and build its metrics.

    Raises:
        ValueError: If there is no such preset.
    """
    if name not in NAMES:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(NAMES)}")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    about = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    metrics = []
    for entry in yaml.safe_load(text):
        class_path = entry if isinstance(entry, str) else entry["class_path"]
        arguments = {} if isinstance(entry, str) else entry.get("init_args", {})
        module, _, kind = class_path.rpartition(".")
        metrics.append(getattr(importlib.import_module(module), kind)(**arguments))
    return Preset(name, " ".join(about), metrics)


def differences(one: MetricProtocol, two: MetricProtocol) -> list[str]:
    """Return the differences of two protocols; empty if their numbers are comparable."""
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    return [f"{name}: {one.get(name)} / {two.get(name)}" for name in names]


def describe_preset(preset: Preset) -> list[str]:
    """Return a preset in lines: its description, then each metric with its protocol."""
    lines = [f"{preset.name}: {preset.about}"]
    for metric in preset.metrics:
        protocol = ", ".join(f"{key} {value}" for key, value in metric.protocol().items())
        lines.append(f"  {metric.name}: {protocol}")
    return lines


def compare_presets(one: Preset, two: Preset) -> list[str]:
    """Return the differences of two presets, one line for each metric."""
    first, second = ({m.name: m.protocol() for m in p.metrics} for p in (one, two))
    lines = []
    for name in {**first, **second}:
        if name not in first or name not in second:
            lines.append(f"{name}: only in {one.name if name in first else two.name}")
            continue
        found = differences(first[name], second[name])
        lines.append(f"{name}: {'; '.join(found) if found else 'comparable'}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; those of this process by default.

    Returns:
        0, or 2 for an unknown name.
    """
    parser = argparse.ArgumentParser(
        prog="main.py protocols",
        description="Show what the presets in configs/callbacks/ measure and how they differ.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="PRESET", help="two are compared; by default all are shown"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        presets = [load_preset(name) for name in options.names or NAMES]
    except ValueError as error:
        log.error("error: %s", error)
        return 2
    if len(options.names) == 2:
        lines = compare_presets(*presets)
    else:
        lines = [line for preset in presets for line in describe_preset(preset)]
    for line in lines:
        log.info("%s", line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
