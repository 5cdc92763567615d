"""Images to enlarge that have no HR, such as real photographs, for metrics without reference."""

from __future__ import annotations

from typing import Any

from datamodules.folder import Folder
from datamodules.source import Sample


class Inputs(Folder):
    """A folder of LR images without HR references, for ``test`` and ``validate``.

    Metrics that compare with HR give no number on it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(degradation=None, **kwargs)

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]`` as LR."""
        sample = super().read(index)
        return {"lr": sample["hr"], "meta": sample["meta"]}
