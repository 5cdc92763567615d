"""What a run measured, as the commands that compare runs need it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from callbacks.per_image import ImageNumbers, load_images
from callbacks.results_file import Result, identity, load_results

CONTROL = "bicubic"


class RunNumbers(NamedTuple):
    """The numbers of a run, or of one checkpoint in it.

    name: As it was asked for.
    folder: The run's directory.
    results: Those of whole datasets.
    """

    name: str
    folder: Path
    results: list[Result]

    def images(self) -> dict[str, list[ImageNumbers]]:
        """The numbers of single images, one entry a seed, by ``identity`` of their result.

        Raises:
            FileNotFoundError: The run has none.
            ValueError: Their file is damaged.
        """
        found: dict[str, list[ImageNumbers]] = {}
        for numbers in load_images(self.folder):
            found.setdefault(identity(numbers), []).append(numbers)
        return found


def load_run(asked: str, control: bool = False) -> RunNumbers:
    """Read a run's numbers.

    Args:
        asked: The run's directory; behind an ``@`` a part of a checkpoint's name.
        control: Whether bicubic belongs to them where no checkpoint is named.

    Raises:
        FileNotFoundError: There are no results.
        ValueError: They are damaged, or none are of that checkpoint.
    """
    folder, part = Path(asked), ""
    if not folder.exists():
        before, _, part = asked.rpartition("@")
        folder = Path(before or asked)
    if folder.is_file():
        folder = folder.parent
    path = folder / "results.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: name the directory of a run that test or validate has measured"
        )
    everything = load_results(path)["results"]
    return RunNumbers(asked, folder, _chosen(everything, part, path, control))


def only_one(name: str, results: Iterable[Result]) -> Result | None:
    """The one result of several checkpoints' that is there; None without any.

    Args:
        name: Of the run, as it was asked for.
        results: Of one dataset, scale, metric and protocol.

    Raises:
        ValueError: There are several.
    """
    found = list(results)
    if len(found) > 1:
        first = found[0]
        names = ", ".join(str(result["checkpoint"]) for result in found)
        raise ValueError(
            f"{name} has {first['metric']} on {first['dataset']} x{first['scale']:g} of "
            f"{len(found)} checkpoints ({names}): say which by a part of its name, "
            f"{name.partition('@')[0]}@PART"
        )
    return found[0] if found else None


def _chosen(results: list[Result], part: str, path: Path, control: bool) -> list[Result]:
    if not part and control:
        return results
    if not part:
        own = [result for result in results if result["checkpoint"] != CONTROL]
        return own or results
    exact = [result for result in results if str(result["checkpoint"]) == part]
    chosen = exact or [result for result in results if part in str(result["checkpoint"])]
    if not chosen:
        there = ", ".join(dict.fromkeys(str(result["checkpoint"]) for result in results))
        raise ValueError(f"{path} has nothing of a checkpoint {part!r}; it has {there}")
    return chosen
