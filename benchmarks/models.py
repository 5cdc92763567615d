"""Released models: seconds a megapixel, and the same crops of photographs enlarged.

`python -m benchmarks.models` writes `benchmarks/results/models.json`, the seconds of
docs/models.md, `docs/models.webp` and README's `docs/front.webp`. Seconds are those of one core;
weights do not change them. Photographs are `kodak24` in `$ENLARGER_DATA`; `--weights NAME=FILE`
names a copy of weights.
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
    _draw(copies)


def _draw(copies: dict[str, str]) -> None:
    columns: dict[str, enlarger.Enlarger | None] = {"bicubic": None}
    for name in ("imdn-x4", "realesr-general-x4"):
        columns[name] = enlarger.load(name, weights=copies.get(name), device="cpu")
    _sheet(columns).save(REPOSITORY / "docs/models.webp", quality=90, method=6)
    _front(columns["realesr-general-x4"]).save(REPOSITORY / "docs/front.webp", quality=90, method=6)


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
    """Return a row for each photograph, and a column for each model."""
    step = SHOWN + GAP
    paper = Image.new("RGB", (len(columns) * step - GAP, HEAD + len(CROPS) * step - GAP), "white")
    pen = ImageDraw.Draw(paper)
    for x, (label, model) in enumerate(columns.items()):
        pen.text((x * step + 2, 2), label, "black")
        for y, name in enumerate(CROPS):
            paper.paste(_crop(name, model), (x * step, HEAD + y * step))
    return paper


def _front(model: enlarger.Enlarger | None) -> Image.Image:
    """Return one row: of each photograph the half by bicubic, and the same half by the model."""
    step, half = SHOWN + GAP, SHOWN // 2
    paper = Image.new("RGB", (len(CROPS) * step - GAP, SHOWN), "white")
    for x, name in enumerate(CROPS):
        paper.paste(_crop(name, model), (x * step, 0))
        paper.paste(_crop(name, None).crop((0, 0, half, SHOWN)), (x * step, 0))
        paper.paste("white", (x * step + half - 1, 0, x * step + half + 1, SHOWN))
    return paper


def _crop(name: str, model: enlarger.Enlarger | None) -> Image.Image:
    """Return a square of a photograph of Kodak's, enlarged by 4; by bicubic without a model."""
    left, top = CROPS[name]
    part = SHOWN // 4
    with Image.open(Path(os.environ["ENLARGER_DATA"], "kodak24", f"{name}.png")) as photo:
        lr = photo.convert("RGB").crop((left - 32, top - 32, left + part + 32, top + part + 32))
    size = (lr.width * 4, lr.height * 4)
    sr = model.enlarge(lr) if model else lr.resize(size, Image.Resampling.BICUBIC)
    return sr.crop((128, 128, 128 + SHOWN, 128 + SHOWN))


if __name__ == "__main__":
    main()
