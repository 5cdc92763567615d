"""How a miniature's numbers were made: command, time, machine and commit, as pages say it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def minutes(report: dict[str, Any]) -> tuple[float, float]:
    """Of training and of evaluation, summed over processes: CPU time where all is noted.

    Args:
        report: As the JSON file holds it.
    """
    results, time = report["results"], _time(report["results"])
    training, evaluation = (
        sum(part[time] for part in results[what].values()) / 60
        for what in ("trainings", "evaluations")
    )
    return training, evaluation


def time_of(commands: Iterable[dict[str, Any]]) -> str:
    """The key of seconds that all of them have: those of CPU time, or older ones on the wall.

    Args:
        commands: Of a report's trainings or evaluations.
    """
    known = all(command.get("cpu_seconds") is not None for command in commands)
    return "cpu_seconds" if known else "seconds"


def unit_of(results: dict[str, Any]) -> str:
    """What ``minutes`` are in.

    Args:
        results: Of a report.
    """
    return "CPU minutes" if _time(results) == "cpu_seconds" else "minutes"


def made(report: dict[str, Any], stored: str, each: bool = False) -> str:
    """A sentence without its full stop.

    Args:
        report: As the JSON file holds it.
        stored: That file, relative to the page.
        each: Whether to name each training with its minutes.
    """
    machine, (training, evaluation) = report["machine"], minutes(report)
    parts, time = report["results"]["trainings"].items(), _time(report["results"])
    unit = unit_of(report["results"])
    named = ", ".join(f"{name} {part[time] / 60:.0f}" for name, part in parts)
    return (
        f"`{report['command']}` ([JSON]({stored})), {training:.0f} {unit} of training"
        f"{f' ({named})' if each else ''} and {evaluation:.0f} of evaluation, summed over "
        f"processes, on {machine['cpu']} ({machine['cores']} cores), commit {report['commit'][:7]}"
    )


def _time(results: dict[str, Any]) -> str:
    return time_of([*results["trainings"].values(), *results["evaluations"].values()])
