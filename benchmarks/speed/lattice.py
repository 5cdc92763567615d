"""What a decoder's lattice costs: `python -m benchmarks.speed.lattice runs/miniature_invsr`.

The rows of a miniature as they are and without their lattice: the multiples of 1/8 cycle a pixel
are set to zero in each image's spectrum, and all else is left. NIQE and SWD of both, beside HR
and bicubic, treated alike; and of HR with the lattice of one row added.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.miniature.swd import distance
from benchmarks.report import write_report
from callbacks.metrics.niqe import NIQE
from callbacks.metrics.sets import read_image
from callbacks.metrics.swd import SWD

ROWS = ("bicubic", "ae_hr", "ae_bicubic", "control", "noised_200", "one", "three", "mse_one")
PERIOD = 8  # pixels a latent
LENDS = "control"  # the row whose lattice HR gets
HR = "hr"


def without(images: Tensor, period: int = PERIOD) -> Tensor:
    """Images without the lattice of a period; their means stay.

    Args:
        images: (B, C, H, W), sides multiples of the period.
        period: Pixels.
    """
    h, w = images.shape[-2:]
    spectrum = torch.fft.fft2(images)
    means = spectrum[..., 0, 0].clone()
    spectrum[..., :: h // period, :: w // period] = 0
    spectrum[..., 0, 0] = means
    return torch.fft.ifft2(spectrum).real


def patches(images: Tensor, keys: Sequence[str]) -> Tensor:
    """What SWD compares.

    Args:
        images: (N, 3, H, W), about [0, 1].
        keys: Names of the images, on which the places of patches depend.
    """
    return SWD(levels=1).finite_features(images.clamp(0, 1), {"key": list(keys)}).double()


def numbers(images: Tensor, real: Tensor, keys: Sequence[str], niqe: NIQE) -> dict[str, float]:
    """Mean NIQE, and SWD of all of them to HR.

    Args:
        images: (N, 3, H, W), about [0, 1].
        real: ``patches`` of HR.
        keys: Names of the images.
        niqe: Loaded.
    """
    batch: Any = {"key": list(keys)}
    found = torch.cat([niqe.compute(x[None].clamp(0, 1), x[None], batch) for x in images])
    return {"niqe": float(found.mean()), "swd": distance(patches(images, keys), real)}


def measure(table: Path, niqe: NIQE) -> dict[str, Any]:
    """Of each row that is there.

    Args:
        table: The folder of a miniature's rows, which have kept their outputs.
        niqe: Loaded.

    Raises:
        FileNotFoundError: A row has kept nothing.
    """
    rows = [name for name in ROWS if (table / name).is_dir()]
    own = table / LENDS / "outputs"
    keys = sorted(str(p.relative_to(own / HR).with_suffix("")) for p in (own / HR).rglob("*.png"))
    if not keys:
        raise FileNotFoundError(f"{own / HR} has no images: run the miniature first")
    hr = _read(own / HR, keys)
    real = patches(hr, keys)
    found: dict[str, Any] = {}
    sets = {HR: hr, **{name: _read(table / name / "outputs" / "0", keys) for name in rows}}
    for name, images in sets.items():
        plain = without(images)
        found[name] = {
            "as it is": numbers(images, real, keys, niqe),
            "without lattice": numbers(plain, real, keys, niqe),
        }
    lattice = sets[LENDS] - without(sets[LENDS])
    found[f"{HR} with the lattice of {LENDS}"] = {
        "as it is": numbers(hr + lattice, real, keys, niqe)
    }
    return {"images": len(keys), "rows": found}


def _read(folder: Path, keys: Sequence[str]) -> Tensor:
    return torch.stack([read_image(folder / f"{key}.png") for key in keys])[:, 0]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.lattice", description=__doc__)
    parser.add_argument("table", type=Path, help="rows of a miniature, as runs/miniature_invsr")
    table = parser.parse_args().table
    torch.set_num_threads(1)
    niqe = NIQE()
    niqe.load()
    write_report("lattice", measure(table, niqe), seed=0)


if __name__ == "__main__":
    main()
