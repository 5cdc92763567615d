"""Runs of rows as `main.py test` leaves them, made of noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 12


def write_run(folder: Path, noise: float, seeds: int = 2, count: int = COUNT) -> Path:
    """A row whose outputs are HR with noise.

    Args:
        folder: The run's folder.
        noise: Its deviation, in levels of 8 bits.
        seeds: Sampling seeds.
        count: Images.
    """
    draws = np.random.default_rng(7)
    hr = draws.normal(128, 40, (count, 32, 32, 3))
    images = {"hr": hr, "lr": hr[:, ::2, ::2]}
    images |= {str(n): hr + noise * draws.normal(size=hr.shape) for n in range(seeds)}
    for name, pixels in images.items():
        for number, image in enumerate(np.clip(pixels, 0, 255).astype(np.uint8)):
            path = folder / "outputs" / name / "cars" / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    about = {"dataset": "cars", "scale": 2.0, "protocol": {}, "checkpoint": None}
    costs = [{**about, "metric": m, "value": 3.0, "n": count} for m in ("calls", "seconds")]
    (folder / "results.json").write_text(json.dumps({"results": costs}))
    keys = [f"cars/{number:04d}" for number in range(count)]
    psnr = [
        {
            **about,
            "metric": "psnr",
            "seed": seed,
            "values": {key: 40 - noise + seed + n / 8 for n, key in enumerate(keys)},
        }
        for seed in range(seeds)
    ]
    (folder / "images.json").write_text(json.dumps({"images": psnr}))
    return folder
