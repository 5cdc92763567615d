"""All miniatures, by method.

A further one is a file ``benchmarks/configs/miniature/METHOD.yaml``, with the configurations that
it names and two marks in ``docs/methods/METHOD.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.miniature import generators as miniature_generators
from benchmarks.miniature import picture as miniature_picture
from benchmarks.miniature import plan as miniature_plan
from benchmarks.miniature import report as miniature_report
from benchmarks.miniature import sheet as miniature_sheet
from benchmarks.miniature.spec import FILES, Generators, Method, load

METHODS: dict[str, Method] = {path.stem: load(path) for path in sorted(FILES.glob("*.yaml"))}


class Kind(NamedTuple):
    """How a miniature's measurements are reported.

    collect: All numbers, for JSON.
    markdown: The page's part, from those and the method's name.
    draw: The figure, or figures beside it; None where a row of it is missing.
    """

    collect: Callable[[miniature_plan.Plan], dict[str, Any]]
    markdown: Callable[[dict[str, Any], str], str]
    draw: Callable[[miniature_plan.Plan, Path], Path | None]


SUPER_RESOLVERS = Kind(miniature_report.collect, miniature_report.markdown, miniature_picture.draw)
GENERATORS = Kind(miniature_generators.collect, miniature_generators.markdown, miniature_sheet.draw)


def kind_of(method: Method) -> Kind:
    """Super-resolvers are compared by scale and image, generators by sets."""
    return GENERATORS if isinstance(method, Generators) else SUPER_RESOLVERS
