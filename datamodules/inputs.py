"""Pictures to enlarge that have no HR: real photographs, for metrics that need no reference."""

from __future__ import annotations

from datamodules.folder import Folder
from datamodules.source import Sample


class Inputs(Folder):
    """A folder of LR pictures, in ``test`` and ``validate``; HR nobody has.

    Metrics that compare with HR give no number on it.

    Args:
        root: The folder, or one picture. May hold environment variables, ``$ENLARGER_DATA/set``.
        files: Instead of all of ``root``, these: files, folders, or patterns such as ``1*.png`` and
            ``**/*.jpg``. They are relative to ``root`` if that is given. Without ``root``, keys are
            relative to the named folder, or to the part of a pattern before its first ``*``.
        recursive: Look into subfolders.
        scale: Scale of this source alone, in an evaluation over several scales.
    """

    def __init__(
        self,
        root: str | None = None,
        files: list[str] | None = None,
        recursive: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__(root, files, recursive, scale)

    def read(self, index: int) -> Sample:
        """The picture ``keys[index]``, as LR."""
        sample = super().read(index)
        return {"lr": sample["hr"], "meta": sample["meta"]}
