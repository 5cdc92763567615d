"""The numbers of a run, for the commands that compare runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from callbacks.per_image import ImageNumbers, load_images
from callbacks.results_file import Result, identity, load_results

CONTROL = "bicubic"


class RunNumbers(NamedTuple):
    """The numbers of a run, or of one checkpoint in it.

    name: The run as given by the user.
    folder: The run's directory.
    results: Numbers of whole datasets.
    """

    name: str
    folder: Path
    results: list[Result]

    def images(self) -> dict[str, list[ImageNumbers]]:
        """Read the numbers of single images, one entry per seed, by ``identity`` of their result.

        Raises:
            FileNotFoundError: If the run has none.
            ValueError: If their file is damaged.
        """
        found: dict[str, list[ImageNumbers]] = {}
        for numbers in load_images(self.folder):
            found.setdefault(identity(numbers), []).append(numbers)
        return found


def load_run(asked: str, control: bool = False) -> RunNumbers:
    """Read a run's numbers.

    Args:
        asked: The run's directory; after an ``@`` a part of a checkpoint's name.
        control: Whether bicubic belongs to them where no checkpoint is named.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If they are damaged, or none are of that checkpoint.
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
    """Return the only result; None without any.

    Args:
        name: The run as given by the user.
        results: Results of one dataset, scale, metric and protocol, by checkpoint.

    Raises:
        ValueError: If there are several.
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
