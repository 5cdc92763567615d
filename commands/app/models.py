"""The methods that the page offers, one in memory at a time; imports torch when it loads one."""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from commands.interface.models import Enlarger


CHECKED = 0.1  # seconds between looks whether a method that is being loaded is still wanted
SAFE_CLASSES = ("lightning_modules.", "torch.nn.", "torch.optim.")
PLAIN = re.compile(r"[\w ,-]*")  # no path, variable, address or class


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
        ValueError: If it cannot be read, or names classes that are not of this program, or other
            files.
    """
    from commands.interface.weights_file import method_of_file
    from datamodules.base import checked_scale

    name = path.name
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(part.file_size for part in archive.infolist())
            if unpacked > path.stat().st_size:  # torch compresses nothing
                raise ValueError(f"{name} unpacks to {unpacked / 1e6:g} MB, more than it has")
        model, scale = method_of_file(path)
        checked_scale(scale, f"{name}: its ")
        _check_texts(model, path)
    except (ImportError, ValueError) as error:
        raise ValueError(str(error).replace(str(path), name)) from error
    except Exception as error:  # a stranger's file may hold anything
        raise ValueError(f"{name} cannot be read: {error!r}") from error
    return Offer(str(path), name, scale)


def _check_texts(value: Any, path: Path, key: str = "") -> None:
    """Raise if a description names a class that may do anything, or what is not in its file.

    Args:
        value: The description, or a part of it.
        path: The file.
        key: The key of the part.

    Raises:
        ValueError: If so.
    """
    from callbacks.weights import manifest, place_of

    if isinstance(value, dict):
        for inner_key, part in value.items():
            _check_texts(part, path, inner_key)
    if isinstance(value, list):
        for part in value:
            _check_texts(part, path, key)
    if not isinstance(value, str) or value in ("", str(path)):
        return
    if key == "class_path":
        if not value.startswith(SAFE_CLASSES):
            raise ValueError(f"{path.name} needs {value}, which is not a class of this program")
        return
    is_missing = value in manifest() and place_of(manifest()[value]) is None
    if is_missing or not PLAIN.fullmatch(value) or Path(value).exists():
        raise ValueError(
            f"{path.name} needs {value} for its {key}: a visitor's model has to be complete, or "
            "have published weights beside it that are on this machine"
        )


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
        self._loading: dict[tuple[str, int | None], Future[Enlarger]] = {}
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
                behind in its thread, where a download becomes complete for the next use; who wants
                it before waits for the same thread.

        Raises:
            Stopped: If it is not wanted any more.
            ValueError: If it cannot be loaded, or cannot take so many steps.
        """
        key = source, steps or self._default_steps.get(source)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees its memory first
            loading = self._loading.get((source, steps))
            if loading is None:
                loading = self._loading[source, steps] = Future()
                threading.Thread(
                    target=self._load_into, args=(loading, source, steps), daemon=True
                ).start()
            is_loaded = False
            while not is_loaded:
                is_loaded = bool(wait([loading], CHECKED).done)
                if not is_wanted():  # and perhaps deleted
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
        finally:
            del self._loading[source, steps]

    def forget(self, folder: Path) -> None:
        """Free the memory of a method whose file is in a folder that is deleted."""
        loaded = self._loaded
        if loaded is not None and Path(loaded[0][0]).is_relative_to(folder):
            self._loaded = None
