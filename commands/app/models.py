"""The methods that the page offers, one in memory at a time; imports torch when it loads one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commands.interface.models import Enlarger


class Stopped(Exception):  # noqa: N818  (no error)
    """Raised within an enlargement that was stopped."""


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
        self._at_work: object = None  # the latest enlargement, unless it was stopped

    def stop(self) -> None:
        """End the enlargement that runs now, at its next layer."""
        self._at_work = None

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let ``stop``, or another enlargement, end what this thread does within.

        Raises:
            Stopped: If so.
        """
        from torch.nn.modules.module import register_module_forward_pre_hook

        enlargement = object()
        thread = threading.get_ident()
        self._at_work = enlargement

        def check(*_: object) -> None:  # called for all threads
            if threading.get_ident() == thread and self._at_work is not enlargement:
                raise Stopped

        handle = register_module_forward_pre_hook(check)
        try:
            yield
        finally:
            handle.remove()

    def load(self, source: str, steps: int | None = None) -> Enlarger:
        """Return a method, from memory if it was the last one.

        Args:
            source: One of ``sources``.
            steps: Sampling steps; by default the method's own.

        Raises:
            ValueError: If it is not offered, cannot be loaded, or cannot take so many steps.
        """
        from commands.interface.models import load

        if source not in self.sources:
            raise ValueError(f"{source!r} is not offered here")
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
