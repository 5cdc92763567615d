"""InvSR with names of classes as captions and without: `python -m benchmarks.invsr_captions`.

Trains at x4, on four classes of CIFAR-10, what `benchmarks/configs/invsr_captions.yaml` lists: a
base that knows the names of the classes, and two predictors on it, with names and without. Tests
them, also with wrong names, and measures what a name is worth to the base. Writes
`invsr_captions.json` and `invsr_captions.webp` into benchmarks/results. About 20 CPU minutes; typed
again, it goes on where it ended, in runs/invsr_captions. Images are those of the folder
$ENLARGER_CIFAR10, with `train/CLASS` and `test/CLASS`; without it torchvision downloads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

import enlarger
from benchmarks.miniature import report as tables
from benchmarks.miniature import sheet
from benchmarks.miniature.__main__ import Line
from benchmarks.miniature.data import ORIGIN, write_part
from benchmarks.miniature.jobs import REPOSITORY, run_jobs
from benchmarks.miniature.table import Plan, load
from benchmarks.report import RESULTS, without_options, write_report
from datamodules.source import Source
from datamodules.sources.folder import Folder
from datamodules.sources.torchvision import Torchvision
from files.owned import write_whole
from lightning_modules.backbone.condition import Condition, TextEncoder
from lightning_modules.invsr import InvSR

TABLE = REPOSITORY / "benchmarks/configs/invsr_captions.yaml"
RUNS = Path("runs/invsr_captions")
SEEDS = 2  # of sampling
STEPS = (100, 200, 300, 400, 499)  # of the base's 1000
CLASSES = ("automobile", "frog", "horse", "ship")
# Of each class: the split of CIFAR-10, and the first and last image.
PARTS = {"train": ("train", 0, 4500), "val": ("train", 4500, 4564), "test": ("test", 0, 64)}
FOLDER, VARIABLE = "ENLARGER_CIFAR10", "ENLARGER_CLASSES"
HINT = f"check ${FOLDER}, or unset it to download CIFAR-10"


class ClassNames(TextEncoder):
    """Names of classes as one fixed token each, for a network that learns what they mean.

    Args:
        names: All names.
        width: Channels of a token.
    """

    tokens: Tensor

    def __init__(self, names: Sequence[str], width: int) -> None:
        nn.Module.__init__(self)  # there is no model to load
        self.numbers = {name: number for number, name in enumerate(names)}
        tokens = torch.randn(len(names), 1, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("tokens", tokens, persistent=False)
        self.source = f"names of classes {', '.join(names)}"

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return tokens (B, 1, width) of B names."""
        return self.tokens[[self.numbers[text] for text in texts]]


def main() -> None:
    """Train, test, and write JSON and image."""
    plan, line = Plan(load(TABLE), RUNS, SEEDS), Line()
    data = write_images(plan.data)
    run_jobs(plan.jobs(), 1, line.show, {VARIABLE: str(plan.data.resolve())})
    line.end()
    results = {**tables.collect(plan, data), "base": errors_of_base(plan)}
    write_report("invsr_captions", results, seed=0)
    ((title, found),) = sheet.lines(plan, [row.name for row in plan.rows])
    some = [(label, files[:: len(files) // sheet.COUNT]) for label, files in found]
    sheet.sheet([(title, some)]).save(RESULTS / "invsr_captions.webp", lossless=True)


@torch.inference_mode()
def errors_of_base(plan: Plan) -> dict[str, dict[str, float]]:
    """Return the mean squared errors of the clean latents that the base predicts of noisy ones.

    Args:
        plan: Its commands are done.

    Returns:
        For each timestep the error with right names, with wrong ones and with none; the latter two
        also less the first, with the half of their 95 % interval over the test images.
    """
    model = cast(InvSR, enlarger.load(plan.trained("captions"), device="cpu").module)
    source = Folder(str(plan.data / "test"))
    source.prepare(1.0)
    images = torch.stack([torch.tensor(source.read(at)["hr"]) for at in range(len(source.keys))])
    names = [key.split("/")[0] for key in source.keys]
    other = dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True))
    encoder = cast(ClassNames, model.encoder)
    texts = {
        "right": Condition(text=encoder(names)),
        "wrong": Condition(text=encoder([other[name] for name in names])),
        "none": Condition(),
    }
    z = model.space.encode(images.permute(0, 3, 1, 2) / 255)
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for t in STEPS:
        steps = torch.full((len(z),), t)
        z_t = model.schedule.add_noise(z, eps, steps)
        scaled = model.schedule.scale_input(z_t, t)
        errors = {
            name: (model.schedule.to_x0(model.denoiser(scaled, steps, text), z_t, t) - z)
            .square()
            .flatten(1)
            .mean(1)
            for name, text in texts.items()
        }
        found[f"t = {t}"] = {name: round(float(error.mean()), 5) for name, error in errors.items()}
        for name in ("wrong", "none"):
            more = errors[name] - errors["right"]
            found[f"t = {t}"] |= {
                f"{name} less right": round(float(more.mean()), 5),
                f"{name} less right, +-": round(1.96 * float(more.std()) / len(more) ** 0.5, 5),
            }
    return found


def write_images(folder: Path) -> str:
    """Write the images of all parts, a folder for each class, unless they are there.

    Args:
        folder: Where to; it gets a folder for each part.

    Returns:
        Where the images are from.

    Raises:
        ValueError: If there are too few images.
    """
    note = folder / ORIGIN
    if note.is_file():
        return str(json.loads(note.read_text(encoding="utf-8"))["from"])
    for name in CLASSES:
        sources = {split: _source(folder, split, name) for split in ("train", "test")}
        for part, (split, start, stop) in PARTS.items():
            what = f"the images of {split}/{name}"
            write_part(folder / part / name, sources[split], (start, stop), what, HINT)
    found = f"the folder ${FOLDER}" if os.environ.get(FOLDER) else "torchvision's CIFAR10"
    write_whole(note, json.dumps({"from": found}) + "\n")
    return found


def _source(folder: Path, split: str, name: str) -> Source:
    own = os.environ.get(FOLDER)
    source: Source
    if own:
        source = Folder(str(Path(own) / split / name))
    else:
        root = str(folder / "cifar10")
        source = Torchvision("CIFAR10", root, [name], train=split == "train", download=True)
    source.prepare(1.0)
    return source


if __name__ == "__main__":
    without_options(__doc__)
    main()
