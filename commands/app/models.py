"""The methods that the page offers, one in memory at a time; imports torch when it loads one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from commands.interface.models import Enlarger


class Offer(NamedTuple):
    """A method as the page names it.

    source: What ``load`` of ``enlarger.py`` takes.
    name: The source without its folders, where that is unique.
    scale: Factor of enlargement of released weights.
    file: Its weights file, if that is not on this machine.
    address: Where that file is.
    """

    source: str
    name: str
    scale: int | None = None
    file: str = ""
    address: str = ""


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

    def load(self, source: str, steps: int | None = None) -> Enlarger:
        """Return a method, from memory if it was the last one.

        Args:
            source: One of ``sources``.
            steps: Sampling steps; by default the method's own.

        Raises:
            ValueError: If it cannot be loaded, or cannot take so many steps.
        """
        from commands.interface.models import load

        key = source, steps or self._default_steps.get(source)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees its memory first
            model = load(source)
            default = model.module.default_steps
            self._default_steps[source] = default
            if steps and default and steps != default:
                arguments = model.module.arguments_for_steps(steps)
                del model
                model = load(source, **arguments)
            self._loaded = (source, steps or default), model
        return self._loaded[1]
