"""Released models: seconds a megapixel, and the same crops of photographs enlarged.

`python -m benchmarks.models` writes `benchmarks/results/models.json`, the seconds of
docs/models.md, and `docs/models.webp`. Seconds are those of one core; weights do not change them.
Photographs are `kodak24` in `$ENLARGER_DATA`; `--weights NAME=FILE` names a copy of weights.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import nn

import enlarger
from benchmarks.report import REPOSITORY, parser, write_report
from benchmarks.timing import seconds
from lightning_modules import IMDN, RRDBNet, SRVGGNetCompact

NETWORKS = {  # by the names of configs/weights.yaml
    "realesr-general-x4": lambda: SRVGGNetCompact(4, convolutions=32),
    "realesrgan-x4": lambda: RRDBNet(4),
    "realesrgan-x2": lambda: RRDBNet(2),
    "imdn-x4": lambda: IMDN(4),
    "imdn-x2": lambda: IMDN(2),
}
SIDE = 192  # pixels of the square that is timed
CROPS = {"kodim04": (198, 300), "kodim19": (252, 105), "kodim23": (160, 185)}  # left, top
SHOWN, GAP, HEAD = 280, 4, 18  # pixels of a crop of an output, between, above


def main() -> None:
    """Measure, draw, write."""
    options = parser(__doc__)
    options.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE")
    copies = dict(word.split("=", 1) for word in options.parse_args().weights)
    torch.set_num_threads(1)
    write_report("models", {name: _cost(make()) for name, make in NETWORKS.items()}, seed=0)
    columns: dict[str, enlarger.Enlarger | None] = {"bicubic": None}
    for name in ("imdn-x4", "realesr-general-x4"):
        columns[name] = enlarger.load(
            name, **({"weights": copies[name]} if name in copies else {}), device="cpu"
        )
    _sheet(columns).save(REPOSITORY / "docs/models.webp", quality=90, method=6)


def _cost(network: nn.Module) -> dict[str, float]:
    # The first call allocates; of two others the faster one.
    call = partial(network.eval(), torch.rand(1, 3, SIDE, SIDE))
    with torch.inference_mode():
        _, *taken = (seconds(call) for _ in range(3))
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds a megapixel of the input, one core": round(min(taken) / SIDE**2 * 1e6, 1),
    }


def _sheet(columns: dict[str, enlarger.Enlarger | None]) -> Image.Image:
    step, part = SHOWN + GAP, SHOWN // 4
    size = (len(columns) * step - GAP, HEAD + len(CROPS) * step - GAP)
    paper = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(paper)
    for y, (name, (left, top)) in enumerate(CROPS.items()):
        with Image.open(Path(os.environ["ENLARGER_DATA"], "kodak24", f"{name}.png")) as photo:
            lr = photo.convert("RGB").crop((left - 32, top - 32, left + part + 32, top + part + 32))
        for x, (label, model) in enumerate(columns.items()):
            whole = (lr.width * 4, lr.height * 4)
            sr = model.enlarge(lr) if model else lr.resize(whole, Image.Resampling.BICUBIC)
            crop = sr.crop((128, 128, 128 + SHOWN, 128 + SHOWN))
            paper.paste(crop, (x * step, HEAD + y * step))
            pen.text((x * step + 2, 2), label, "black")
    return paper


if __name__ == "__main__":
    main()
