"""A folder of measured kernels, which the repository does not contain."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from degradations.stages.blur import MeasuredPSF

CORNER = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 27]], np.float64)  # sum 63, no symmetry at all


def measured() -> MeasuredPSF:
    """Make the stage of a removed folder with two kernels of 3x3 and 1x7 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "corner.npy"), CORNER)
        np.save(Path(folder, "line.npy"), np.arange(1, 8)[None])
        return MeasuredPSF(folder)
