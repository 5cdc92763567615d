"""A chain with a run as a part, by YAML and in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import enlarger as api
from lightning_modules import Bicubic


def test_of_a_run_by_yaml_and_in_python(
    trained: Path, enlarger: Callable[..., None], tmp_path: Path
) -> None:
    Path("chain.yaml").write_text(f"""\
class_path: lightning_modules.Chain
init_args:
  parts:
    - {{class_path: lightning_modules.Bicubic, init_args: {{scale: 1.5}}}}
    - class_path: lightning_modules.Regression
      init_args:
        scale: 2
        weights: {trained}
        network:
          class_path: lightning_modules.EDSR
          init_args: {{blocks: 1, channels: 8, global_skip: true}}
""")
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(image).save("a.png")
    enlarger(
        *("predict", "--model", "chain.yaml", "--data", "datamodules.SRDataModule"),
        *("--data.scale", 3, "--data.predict", "a.png", "--data.workers", 0),
        *("--writer.folder", "out", "--trainer.accelerator", "cpu", "--trainer.logger", "false"),
    )
    written = np.asarray(Image.open("out/a.png")).astype(int)
    first = api.Enlarger(Bicubic(1.5), "cpu")
    chain = api.chain(first, api.load(trained, device="cpu"))
    assert chain.scale == 3
    assert written.shape == (30, 36, 3)
    assert np.abs(chain.enlarge(image).astype(int) - written).max() <= 1
    plain = api.load("bicubic", scale=3, device="cpu").enlarge(image)
    assert not np.array_equal(plain, written)
