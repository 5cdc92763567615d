"""One method at x4 against two at x2: `python -m benchmarks.chain`.

IMDN's published weights on the 24 photographs of Kodak, reduced by bicubic; needs $ENLARGER_DATA
and $ENLARGER_WEIGHTS. Writes benchmarks/results/chain.json: each metric of both, and the 95 %
interval of its difference; and docs/chain.png: bicubic, both, and HR of a photograph in
scikit-image.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

import enlarger
from benchmarks.miniature.jobs import REPOSITORY
from benchmarks.report import without_options, write_report
from callbacks.results.compare import RunNumbers, compare, load_run

MODELS = ("imdn", "chain_imdn")
KODAK = "{kodak: {class_path: datamodules.Folder, init_args: {root: $ENLARGER_DATA/kodak24}}}"


def main() -> None:
    """Test both, and write JSON."""
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            words = ["test", "--config", "configs/experiment/benchmark.yaml", "--run.root", folder]
            words += ["--model", f"configs/model/{model}.yaml", "--run.name", model]
            words += ["--data.test", KODAK, "--data.scale", "4", "--trainer.accelerator", "cpu"]
            words += ["--degradation", "degradations.Bicubic"]
            subprocess.run([sys.executable, "main.py", *words], cwd=REPOSITORY, check=True)
        whole, twice = (load_run(str(Path(folder, model))) for model in MODELS)
        write_report("chain", {"kodak x4": _rows(whole, twice)}, seed=0)
    _draw(REPOSITORY / "docs" / "chain.png")


def _draw(path: Path) -> None:
    hr = skimage.data.coffee()[60:316, 180:436]
    lr = enlarger.degrade(hr, "bicubic", scale=4)
    models = [enlarger.load(name, scale=4) for name in ("bicubic", *MODELS)]
    Image.fromarray(np.concatenate([*(model.enlarge(lr) for model in models), hr], 1)).save(path)


def _rows(whole: RunNumbers, twice: RunNumbers) -> dict[str, Any]:
    found = {}
    for row in compare(whole, twice)[0]:
        numbers = {"x4": row.a["value"], "x2, x2": row.b["value"]}
        ends = row.interval or ()
        found[row.a["metric"]] = {
            **{name: round(value, 4) for name, value in numbers.items()},
            "interval of the difference": [round(end, 4) for end in ends],
            "verdict": row.verdict,
            "images": row.a["n"],
        }
    return found


if __name__ == "__main__":
    without_options(__doc__)
    main()
