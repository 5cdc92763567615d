"""Make the images of docs/degradations.md and the README: ``python docs/make_degradations.py``.

From photographs of scikit-image; all draws follow from the seeds below.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from skimage import data
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from degradations.base import Stage
from degradations.draws import (
    Draws,
    to_device,
)
from degradations.images import as_image
from degradations.stages.adapters import (
    Albumentations,
    KorniaAugmentation,
)
from degradations.stages.blur import (
    Blur,
    DefocusBlur,
    MotionBlur,
    Sinc,
)
from degradations.stages.jpeg import JPEG
from degradations.stages.noise import (
    GaussianNoise,
    PoissonNoise,
)
from degradations.stages.resize import MODES, Resize
from degradations.stages.sharpen import USM
from degradations.tools.configure import degradation_of
from degradations.tools.preview import (
    GAP,
    Section,
    Tile,
    preview,
    sheet,
)

SIDE = 160  # of a tile, in pixels
RECIPES = (
    "real_esrgan",
    "real_esrgan_light",
    "resshift",
    "invsr_imagenet_test",
    "bsrgan",
    "mixture",
)
Shown = Sequence[tuple[Stage, str]]  # each with its caption


def photograph(name: str, top: int, left: int, side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1]."""
    pixels = getattr(data, name)()[top : top + side, left : left + side]
    return torch.from_numpy(pixels / 255.0).float().permute(2, 0, 1).unsqueeze(0)


def strip(out: Path, name: str, hr: Tensor, stages: Shown, seed: int = 1) -> None:
    """One image after each stage alone, side by side."""
    tiles = [Tile(as_image(hr), "none", ["the image itself"])]
    for stage, caption in stages:
        params = stage.draw(Draws(torch.tensor([seed])), hr.shape)
        made = stage(hr, stage.prepare(to_device(params, 1, hr.device)))
        tiles.append(Tile(as_image(made), type(stage).__name__, [caption]))
    rows = -(-len(tiles) // 7)
    columns = -(-len(tiles) // rows)
    page = sheet([Section("", tiles, SIDE)], columns * (SIDE + GAP) + GAP)
    save(page.crop((0, 40, page.width, page.height)), out / f"{name}.jpg")


def save(page: Image.Image, path: Path) -> None:
    """Write a JPEG of at most 150 kB."""
    for quality in (92, 88, 84, 80, 75, 70, 65, 60):
        page.save(path, quality=quality, subsampling=0, optimize=True)
        if path.stat().st_size < 150_000:
            break
    print(f"{path.relative_to(ROOT)} {page.size} {path.stat().st_size / 1000:.0f} kB")


def blurs() -> Shown:
    """Each family of kernels."""

    def family(number: int) -> Blur:
        chosen: Any = tuple(float(number == n) for n in range(6))
        return Blur((21, 21), chosen, (2.0, 3.0), (0.5, 4.0), (1.0, 2.0), sinc=0.0)

    families = (
        *("isotropic Gaussian", "anisotropic Gaussian", "isotropic generalized Gaussian"),
        *("anisotropic generalized Gaussian", "isotropic plateau", "anisotropic plateau"),
    )
    return [
        *((family(number), f"{name}, 21 px") for number, name in enumerate(families)),
        (Sinc((21, 21), (math.pi / 3, math.pi / 3)), "cut-off pi/3, 21 px"),
        (MotionBlur((12.0, 12.0)), "12 px"),
        (DefocusBlur((4.0, 4.0)), "radius 4 px"),
    ]


def resizes() -> Shown:
    """Each kernel, and two of them with antialiasing."""
    small = partial(Resize, down=(0.3, 0.3), p=(0.0, 1.0, 0.0))
    return [
        *((small(modes=(mode,)), f"x 0.3, {mode}") for mode in MODES),
        *((small(modes=(m,), antialias=True), f"x 0.3, {m}, antialiased") for m in MODES[1:3]),
    ]


def noises() -> Shown:
    """Each kind of noise."""
    return [
        (GaussianNoise((20.0, 20.0)), "sigma 20 of 255"),
        (GaussianNoise((20.0, 20.0), grey=1.0), "sigma 20 of 255, grey"),
        (PoissonNoise((2.0, 2.0)), "strength 2"),
        (PoissonNoise((2.0, 2.0), grey=1.0), "strength 2, grey"),
    ]


def codecs() -> Shown:
    """JPEG at two qualities, and without subsampling."""
    return [
        (JPEG((60, 60)), "quality 60"),
        (JPEG((20, 20)), "quality 20"),
        (JPEG((20, 20), {"4:4:4": 1.0}), "quality 20, 4:4:4"),
    ]


def others() -> Shown:
    """Sharpening, and augmentations of other libraries."""
    import albumentations
    from kornia import augmentation

    return [
        (USM(), "weight 0.5, radius 50"),
        (USM(weight=1.5, radius=11, threshold=0.0), "weight 1.5, radius 11"),
        (KorniaAugmentation(augmentation.RandomPosterize(3, p=1.0)), "RandomPosterize, 3 bits"),
        (
            KorniaAugmentation(augmentation.RandomSaltAndPepperNoise(0.05, p=1.0)),
            "RandomSaltAndPepperNoise, 5%",
        ),
        (Albumentations(albumentations.RandomFog(p=1.0)), "RandomFog"),
        (Albumentations(albumentations.GlassBlur(p=1.0)), "GlassBlur"),
    ]


def recipes(out: Path) -> None:
    """Six draws of each recipe."""
    hr = photograph("astronaut", 0, 96, 256)
    sections = []
    for name in RECIPES:
        degradation = degradation_of([ROOT / "configs" / "degradation" / f"{name}.yaml"], 4.0)
        lrs = [degradation(hr, torch.tensor([seed])) for seed in range(16, 22)]
        sections.append(Section(name, [Tile(as_image(lr), "") for lr in lrs], 128))
    save(sheet(sections, 6 * (128 + GAP) + GAP), out / "recipes.jpg")


def contact_sheet(path: Path, seed: int = 13) -> None:
    """The README's image: one draw stage by stage, and sixteen draws."""
    hr = photograph("astronaut", 0, 96, 256)
    degradation = degradation_of([ROOT / "configs" / "degradation" / "real_esrgan.yaml"], 4.0)
    steps, draws = preview(degradation, hr, range(seed, seed + 16), rows=1)
    steps, draws = steps._replace(side=152), draws._replace(side=128)
    # 256 colours: noise in full colour would take some megabytes.
    page = sheet([steps, draws], 7 * (152 + GAP) + GAP).quantize(256, dither=Image.Dither.NONE)
    page.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)} {page.size} {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make all images."""
    out = ROOT / "docs" / "degradations"
    out.mkdir(exist_ok=True)
    face = photograph("astronaut", 20, 150, SIDE)
    cup = photograph("coffee", 100, 250, SIDE)
    strip(out, "blur", face, blurs())
    strip(out, "resize", face, resizes())
    strip(out, "noise", face, noises())
    strip(out, "codec", cup, codecs())
    strip(out, "others", cup, others())
    recipes(out)
    contact_sheet(ROOT / "docs" / "real_esrgan.png")


if __name__ == "__main__":
    main()
