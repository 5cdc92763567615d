"""How a miniature's numbers were made: command, time, machine and commit, as pages say it."""

from __future__ import annotations

from typing import Any


def minutes(report: dict[str, Any]) -> tuple[float, float]:
    """Of training and of evaluation, summed over processes.

    Args:
        report: As the JSON file holds it.
    """
    parts = (report["results"][what].values() for what in ("trainings", "evaluations"))
    training, evaluation = (sum(part["seconds"] for part in found) / 60 for found in parts)
    return training, evaluation


def made(report: dict[str, Any], stored: str, each: bool = False) -> str:
    """A sentence without its full stop.

    Args:
        report: As the JSON file holds it.
        stored: That file, relative to the page.
        each: Whether to name each training with its minutes.
    """
    machine, (training, evaluation) = report["machine"], minutes(report)
    parts = report["results"]["trainings"].items()
    named = ", ".join(f"{name} {part['seconds'] / 60:.0f}" for name, part in parts)
    return (
        f"`{report['command']}` ([JSON]({stored})), {training:.0f} minutes of training"
        f"{f' ({named})' if each else ''} and {evaluation:.0f} of evaluation, summed over "
        f"processes, on {machine['cpu']} ({machine['cores']} cores), commit {report['commit'][:7]}"
    )
