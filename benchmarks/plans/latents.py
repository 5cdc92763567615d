"""CasArbi in latents beside pixels, of equal time, on cars: `python -m benchmarks.plans.latents`.

Stages stay images; residuals are of an autoencoder's latents. Trains for about 20 CPU minutes, in
runs/plans, and writes `plans_latents.json` and `plans_latents.webp` into benchmarks/results. Images
as for `benchmarks.miniature`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.miniature import report as tables
from benchmarks.miniature import sheet
from benchmarks.miniature.table import load
from benchmarks.plans.trained import TABLE, done
from benchmarks.report import RESULTS, without_options, write_report
from lightning_modules.backbone.space import Space
from lightning_modules.casarbi import CasArbi
from lightning_modules.latents import InLatents
from lightning_modules.sampling.tiling import padded


class LatentCasArbi(InLatents, CasArbi):
    """CasArbi whose process is from the latents of HR to those of the base's image.

    All is scaled as in pixels: the network's input to a deviation of 1, its output by sigma_r,
    measured in latents; with ``process.relative``, kappa is a multiple of that as well.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: Space of the diffusion.

    Raises:
        ValueError: If there is guidance, which is for pixels.
    """

    def __init__(self, scale: float, space: Space, **kwargs: Any) -> None:
        super().__init__(scale, **kwargs)
        self.space = space
        if self.guidance:
            raise ValueError(f"guidance is {self.guidance}; expected 0, as it is for pixels")

    def encoded(self, image: Tensor) -> Tensor:
        """Return latents of images (B, 3, H, W) in [0, 1], mirrored to whole positions."""
        return self.space.encode(padded(image, self.space.factor).lr)

    def decoded(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images (B, 3, *size) in [0, 1] of latents."""
        return self.space.decode(x)[..., : size[0], : size[1]].clamp(0, 1)


def main() -> None:
    """Train, test, and write JSON and image."""
    rows = [row for row in load(TABLE).rows if row.task != "photos"]
    plan, data = done([row.name for row in rows])
    write_report("plans_latents", tables.collect(plan, data), seed=0)
    shown = [row.name for row in rows if row.shown]
    sheet.sheet(sheet.lines(plan, shown)).save(RESULTS / "plans_latents.webp", lossless=True)


if __name__ == "__main__":
    without_options(__doc__)
    main()
