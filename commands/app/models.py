"""The methods that the page offers, one in memory at a time; imports torch when it loads one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from commands.interface.models import Enlarger


CHECKED = 0.1  # seconds between looks whether a method that is being loaded is still wanted
OUR_CLASSES = ("lightning_modules.", "torch.")


class Stopped(Exception):  # noqa: N818  (no error)
    """Raised within work that was stopped."""


class Offer(NamedTuple):
    """A method as the page names it.

    source: What ``load`` of ``enlarger.py`` takes.
    name: The source without its folders, where that is unique.
    scale: Factor of enlargement, of weights whose factor is known.
    file: Its weights file, if that is not on this machine.
    address: Where that file is.
    """

    source: str
    name: str
    scale: float | None = None
    file: str = ""
    address: str = ""


def offer_of_file(path: Path) -> Offer:
    """Return the method of a file of weights that a visitor brought.

    Args:
        path: The file, under the visitor's name for it.

    Raises:
        ImportError: If only spandrel could read it, which is not installed.
        ValueError: If it cannot be read, or names classes that are not of this program.
    """
    from commands.interface.weights_file import method_of_file

    try:
        model, scale = method_of_file(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from error
    for name in re.findall(r'"class_path": "([^"]*)"', json.dumps(model)):
        if not name.startswith(OUR_CLASSES):
            raise ValueError(f"{path.name} needs {name}, which is not a class of this program")
    return Offer(str(path), path.name, scale)


class Models:
    """The methods that the page offers; one is in memory at a time.

    Args:
        sources: What ``load`` of ``enlarger.py`` takes.

    Attributes:
        names: As the page shows them: without folders where that is unique.
    """

    def __init__(self, sources: list[str]) -> None:
        self.sources = sources
        # An export is called as its run.
        short = [Path(source.removesuffix("/export")).absolute().name for source in sources]
        self.names = {
            source: name if short.count(name) == 1 else source
            for source, name in zip(sources, short, strict=True)
        }
        self._loaded: tuple[tuple[str, int | None], Enlarger] | None = None
        self._default_steps: dict[str, int | None] = {}

    def offers(self) -> list[Offer]:
        """Return the methods as they are now: a missing file may have come."""
        from callbacks.weights import manifest, place_of
        from commands.released import released

        offers = []
        for source, name in self.names.items():
            offer = Offer(source, name)
            if source in released():
                offer = offer._replace(scale=released()[source].scale)
                entry = manifest()[source]
                if place_of(entry) is None:
                    offer = offer._replace(file=entry["file"], address=entry["source"])
            offers.append(offer)
        return offers

    def load(
        self,
        source: str,
        steps: int | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Enlarger:
        """Return a method, from memory if it was the last one.

        Args:
            source: One of ``sources``, or a file.
            steps: Sampling steps; by default the method's own.
            is_wanted: Asked while it is fetched and loaded. What is not wanted any more is left
                behind in its thread, where a download becomes complete for the next use.

        Raises:
            Stopped: If it is not wanted any more.
            ValueError: If it cannot be loaded, or cannot take so many steps.
        """
        key = source, steps or self._default_steps.get(source)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees its memory first
            loading: Future[Enlarger] = Future()
            threading.Thread(
                target=self._load_into, args=(loading, source, steps), daemon=True
            ).start()
            while not wait([loading], CHECKED).done:
                if not is_wanted():
                    raise Stopped
            model = loading.result()
            self._loaded = (source, steps or self._default_steps[source]), model
        return self._loaded[1]

    def _load_into(self, loading: Future[Enlarger], source: str, steps: int | None) -> None:
        from commands.interface.models import load

        try:
            model = load(source)
            default = model.module.default_steps
            self._default_steps[source] = default
            if steps and default and steps != default:
                arguments = model.module.arguments_for_steps(steps)
                del model
                model = load(source, **arguments)
            loading.set_result(model)
        except BaseException as error:
            loading.set_exception(error)

    def forget(self, folder: Path) -> None:
        """Free the memory of a method whose file is in a folder that is deleted."""
        loaded = self._loaded
        if loaded is not None and Path(loaded[0][0]).is_relative_to(folder):
            self._loaded = None
