"""The miniatures there are, by method.

A further one is a ``Method`` in a file of its own, with a name here, configurations in
``configs/experiment/mini/<name>``, and two marks in ``docs/methods/<name>.md``.
"""

from __future__ import annotations

from benchmarks.miniature_casarbi import CASARBI
from benchmarks.miniature_invsr import INVSR
from benchmarks.miniature_resshift import RESSHIFT

METHODS = {"casarbi": CASARBI, "invsr": INVSR, "resshift": RESSHIFT}
