"""The miniatures there are, by method.

A further one is a ``Method`` in a file of its own, with a name here, configurations in
``configs/experiment/mini/<name>``, and two marks in ``docs/methods/<name>.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import (
    miniature_generators,
    miniature_picture,
    miniature_plan,
    miniature_report,
    miniature_sheet,
)
from benchmarks.miniature_casarbi import CASARBI
from benchmarks.miniature_comparison import COMPARISON
from benchmarks.miniature_generators import Generators
from benchmarks.miniature_invsr import INVSR
from benchmarks.miniature_nsarm import NSARM
from benchmarks.miniature_resshift import RESSHIFT
from benchmarks.miniature_self_cascade import SELF_CASCADE
from benchmarks.miniature_self_cascade_video import SELF_CASCADE_VIDEO
from benchmarks.miniature_spec import Method

METHODS: dict[str, Method] = {
    "casarbi": CASARBI,
    "comparison": COMPARISON,
    "invsr": INVSR,
    "nsarm": NSARM,
    "resshift": RESSHIFT,
    "self_cascade": SELF_CASCADE,
    "self_cascade_video": SELF_CASCADE_VIDEO,
}
SET14, KODAK, BSDS = (f"$ENLARGER_DATA/{name}" for name in ("set14", "kodak24", "bsds400"))
TAEF2 = ("$ENLARGER_WEIGHTS/taef2_encoder.pth", "$ENLARGER_WEIGHTS/taef2_decoder.pth")
NEEDS: dict[str, tuple[str, ...]] = {  # what they are trained, tested and made with
    "casarbi": ("$ENLARGER_DATA/set5", SET14, KODAK),
    "comparison": (BSDS, SET14, KODAK, *TAEF2),
    "invsr": (BSDS, SET14, KODAK, *TAEF2),
    "nsarm": (BSDS, SET14, KODAK),
    "resshift": (SET14, KODAK, *TAEF2),
    "self_cascade": ("$ENLARGER_DATA/cifar10",),
    "self_cascade_video": (BSDS, KODAK),
}


class Kind(NamedTuple):
    """How what a miniature measured is reported.

    collect: All numbers, for JSON.
    markdown: The page's part, from those and the method's name.
    draw: The picture, or pictures beside it; None where a row of it is missing.
    """

    collect: Callable[[miniature_plan.Plan], dict[str, Any]]
    markdown: Callable[[dict[str, Any], str], str]
    draw: Callable[[miniature_plan.Plan, Path], Path | None]


SUPER_RESOLVERS = Kind(miniature_report.collect, miniature_report.markdown, miniature_picture.draw)
GENERATORS = Kind(miniature_generators.collect, miniature_generators.markdown, miniature_sheet.draw)


def kind_of(method: Method) -> Kind:
    """Super-resolvers are compared by scale and picture, generators by sets."""
    return GENERATORS if isinstance(method, Generators) else SUPER_RESOLVERS
