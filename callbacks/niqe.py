"""NIQE, the distance of an image's local statistics from those of good photographs.

python -m callbacks.niqe fit IMAGES --out mine.npz     a model of your own photographs

Source: Mittal, Soundararajan, Bovik, "Making a completely blind image quality analyzer", IEEE
Signal Processing Letters 2013.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from callbacks import weights
from callbacks.base import ImageMetric
from callbacks.niqe_features import BLOCK, block_features, distance
from callbacks.niqe_model import fit_model, read_model, save_model
from callbacks.picture_files import find_pictures
from callbacks.pixels import to_pixels
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall
from files.paths import expand_path

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)

PRISTINE = "niqe-pristine"  # the name in configs/weights.yaml
WINDOW = f"two blocks of {BLOCK}x{BLOCK} pixels ({2 * BLOCK}x{BLOCK})"
YIQ = (0.299, 0.587, 0.114)  # its Y, in [0, 255]


class NIQE(ImageMetric):
    """Natural image quality evaluator: needs no HR image; lower is better.

    The number of the authors' MATLAB release (5.7296 for USC-SIPI's baboon) and of BasicSR's
    ``calculate_niqe``, to 1e-3. MATLAB's own ``niqe`` has another model and gives other numbers.
    Images of fewer than two blocks of 96x96 pixels (192x96) are skipped with a warning. Residual
    noise lowers NIQE, too: also look at a metric with reference.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], as the authors and BasicSR have it, or
            ``yiq`` for that of YIQ in [0, 255], as pyiqa has it; not to be compared.
        border: Pixels cut off at each side first; ``scale`` cuts as many as the scale, rounded up.
        round_8bit: Round images to 8 bit first, as numbers from saved PNG files are.
        model: Statistics of good photographs: ``niqe-pristine``, those of the authors, or a file
            made by ``python -m callbacks.niqe fit``.
        strict_weights: Stop the run if the model is missing; otherwise the metric is off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, with two models).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.

    Raises:
        ValueError: If a value is out of range, or a model that is neither a name nor a file.
    """

    name = "niqe"
    higher_is_better = False
    needs_hr = False

    def __init__(
        self,
        color: Literal["y", "yiq"] = "y",
        border: int | Literal["scale"] = 0,
        round_8bit: bool = True,
        model: str = PRISTINE,
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        if color not in ("y", "yiq"):
            raise ValueError(f"`color` of NIQE is {color!r}; expected 'y' or 'yiq'")
        if border != "scale" and border < 0:
            raise ValueError(f"`border` of NIQE is {border}; expected 'scale', or 0 or more")
        if model != PRISTINE and not _path(model).is_file():
            raise ValueError(
                f"`model` of NIQE is {model!r}, and there is no such file; expected {PRISTINE!r}, "
                "or a file made by `python -m callbacks.niqe fit IMAGES --out FILE`"
            )
        self.color, self.border, self.round_8bit, self.model = color, border, round_8bit, model
        self.strict_weights = strict_weights
        self.pristine: tuple[Tensor, Tensor] | None = None
        self.sha256: str | None = None

    def absent(self) -> str:
        """Name the missing model in one line; empty if found."""
        if self.model != PRISTINE or weights.obtain(PRISTINE):
            return ""
        return weights.missing(PRISTINE)

    def load(self) -> None:
        """Read the model.

        Raises:
            FileNotFoundError: If it is missing.
        """
        path = weights.find(PRISTINE) if self.model == PRISTINE else _path(self.model)
        if path is None:
            raise FileNotFoundError(weights.missing(PRISTINE))
        self.pristine, self.sha256 = read_model(path), weights.digest_of(path)

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding, range, block, and the model's hash."""
        return {
            "implementation": "enlarger niqe 1",
            "color": self.color,
            "border": self.border,
            "round_8bit": self.round_8bit,
            "data_range": 255,
            "block": BLOCK,
            "weights": f"{PRISTINE}.npz" if self.model == PRISTINE else _path(self.model).name,
            "sha256": self.sha256,
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) distances from the model.

        Raises:
            RuntimeError: If the model is not loaded yet.
            TooSmall: If the images have fewer than two blocks.
        """
        if self.pristine is None:
            raise RuntimeError("NIQE has no model before `load` was called")
        border = math.ceil(self.scale) if self.border == "scale" else self.border
        height, width = (side - 2 * border for side in sr.shape[-2:])
        rows, columns = height // BLOCK, width // BLOCK
        if min(height, width) < BLOCK or rows * columns < 2:
            raise TooSmall(sr, WINDOW)
        whole = sr[..., border : border + rows * BLOCK, border : border + columns * BLOCK]
        luma = self._luma(whole)
        mean, covariance = (x.to(luma.device) for x in self.pristine)
        return distance(mean, covariance, block_features(luma)[0])

    def _luma(self, image: Tensor) -> Tensor:
        """Return (B, H, W) float64, whole levels."""
        if self.color == "y":
            return to_pixels(image, "y", round_8bit=self.round_8bit)[:, 0].round()
        pixels = to_pixels(image, "rgb", round_8bit=self.round_8bit)
        return (pixels * pixels.new_tensor(YIQ).view(3, 1, 1)).sum(1).round()


def _path(model: str) -> Path:
    return Path(expand_path(model, "NIQE.model"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; those of this process by default.

    Returns:
        0, or 2 after an error.
    """
    parser = argparse.ArgumentParser(prog="python -m callbacks.niqe", description="NIQE's models.")
    verbs = parser.add_subparsers(required=True, metavar="fit")
    about = (
        "Make a model of good photographs: the statistics of their sharp blocks of 96x96 pixels."
    )
    verb = verbs.add_parser("fit", help=about, description=about)
    verb.add_argument("images", nargs="+", metavar="IMAGES", help="folders or files of photographs")
    verb.add_argument("--out", type=Path, required=True, help="the model's file, .npz")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.out.suffix != ".npz":
            raise ValueError(f"--out is {str(options.out)!r}; expected a name ending in .npz")
        paths = find_pictures(options.images)
        mean, covariance, blocks = fit_model(paths)
        save_model(options.out, mean, covariance)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    digest = weights.digest_of(options.out)
    log.info("%s: %d blocks of %d photographs, sha256 %s", options.out, blocks, len(paths), digest)
    log.info("to use it: callbacks.niqe.NIQE with model: %s", options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
