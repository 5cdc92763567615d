"""Pictures to enlarge that have no HR: real photographs, for metrics that need no reference."""

from __future__ import annotations

from typing import Any

from datamodules.folder import Folder
from datamodules.source import Sample


class Inputs(Folder):
    """A folder of LR pictures, in ``test`` and ``validate``; HR nobody has.

    Metrics that compare with HR give no number on it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(degradation=None, **kwargs)

    def read(self, index: int) -> Sample:
        """The picture ``keys[index]``, as LR."""
        sample = super().read(index)
        return {"lr": sample["hr"], "meta": sample["meta"]}
