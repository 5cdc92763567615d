"""Check where outputs are written: never over inputs, nor over anything that is not an output."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

OTHER = "set another writer.folder, or a writer.suffix"


class OutputPlaces:
    """Check the places of outputs before any work, without changing anything.

    Args:
        root: The writer's folder.
        inputs: The input files.
    """

    def __init__(self, root: Path, inputs: Iterable[str]) -> None:
        self.root = root
        self._inputs = {os.path.realpath(path): path for path in inputs}
        self._parents: set[Path] = set()  # folders already checked

    def check_all(self, targets: Mapping[str, Path]) -> None:
        """Check that no output of a run is to lie in another.

        Args:
            targets: Places by key.

        Raises:
            ValueError: If an output is a folder above another output.
        """
        owners = {target: key for key, target in targets.items()}
        for key, target in targets.items():
            above = next((parent for parent in target.parents if parent in owners), None)
            if above is not None:
                raise ValueError(
                    f"the output of {owners[above]!r} would be {above}, in which the output of "
                    f"{key!r} is to lie: rename one of the inputs, or set a writer.suffix"
                )

    def check(self, key: str, target: Path, folder: bool) -> None:
        """Check the place of one output.

        Args:
            key: The input's key, for the message.
            target: The place.
            folder: Whether the output is a folder of frames, not a file.

        Raises:
            ValueError: If the place is an input's, lies below a file, or holds anything other
                than an output.
        """
        self._check_parents(key, target)
        found, real = _state(target), os.path.realpath(target)
        same = None if found is None else self._by_number.get((found.st_dev, found.st_ino))
        if same is not None or real in self._inputs:
            raise ValueError(
                f"the output of {key!r} would overwrite the input {same or target}; {OTHER}"
            )
        if found is None and not os.path.islink(target):
            return
        is_kind = stat.S_ISDIR if folder else stat.S_ISREG
        if found is None or not is_kind(found.st_mode) or real in self._above_inputs:
            raise ValueError(
                f"{target}, the place of the output of {key!r}, holds something else: move it "
                f"away, or {OTHER}"
            )

    def _check_parents(self, key: str, target: Path) -> None:
        for parent in target.parents:
            if parent == self.root or parent in self._parents:
                break
            found = _state(parent)
            leads_nowhere = found is None and os.path.islink(parent)
            if leads_nowhere or (found is not None and not stat.S_ISDIR(found.st_mode)):
                raise ValueError(
                    f"the output of {key!r} is to lie in the folder {parent}, where a file lies; "
                    f"move it away, or {OTHER}"
                )
            self._parents.add(parent)

    @cached_property
    def _above_inputs(self) -> set[str]:
        found: set[str] = set()
        for path in self._inputs:
            while (path := os.path.dirname(path)) not in found:
                found.add(path)
        return found

    @cached_property
    def _by_number(self) -> dict[tuple[int, int], str]:
        # Hard links, and names on a case-insensitive disk.
        found = {}
        for path in self._inputs.values():
            if (state := _state(Path(path))) is not None and state.st_ino:
                found[state.st_dev, state.st_ino] = path
        return found


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        return None
