"""Published IMDN on Set5 and Set14: `ENLARGER_WEIGHTS=... python -m benchmarks.speed.imdn`.

Runs the test of each set and scale, with `$ENLARGER_DATA` as well and bicubic beside it, and writes
benchmarks/results/imdn.json and the table of docs/metrics.md, with the paper's figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import REPOSITORY, parser, placed, write_report
from callbacks.results.files import read_file
from files.owned import write_whole

CONTROLLED = "configs/callbacks/quality.yaml"  # PSNR and SSIM alone, and bicubic
MARKS = ("<!-- imdn -->", "<!-- end of imdn -->")
SETS, SCALES = ("set5", "set14"), (2, 3, 4)
TITLES = {"set5": "Set5", "set14": "Set14"}

# By Hui et al. (arXiv 1909.11856).
PUBLISHED = {
    "set5": {"x2": "38.00 (0.9605)", "x3": "34.36", "x4": "32.21 (0.8948)"},
    "set14": {"x2": "33.63", "x3": "30.32", "x4": "28.58"},
}


def main() -> None:
    """Test, write JSON and table."""
    parser(__doc__).parse_args()
    if missing := [
        name for name in ("ENLARGER_DATA", "ENLARGER_WEIGHTS") if name not in os.environ
    ]:
        sys.exit(f"{' and '.join(missing)} not set: name the folders of set5 and imdn-x2.pth")
    found = {name: {f"x{scale}": test(name, scale) for scale in SCALES} for name in SETS}
    write_report("imdn", found, seed=0)
    page = REPOSITORY / "docs/metrics.md"
    write_whole(page, placed(page.read_text(encoding="utf-8"), table(found), MARKS))


def test(name: str, scale: int) -> dict[str, Any]:
    """One set at one scale.

    Args:
        name: Of the set.
        scale: The factor.

    Returns:
        PSNR-Y and SSIM-Y of IMDN and of bicubic, and the number of images.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = ["test", "--config", "configs/experiment/benchmark.yaml"]
        words += ["--model", "configs/model/imdn.yaml", "--data", f"configs/data/{name}.yaml"]
        words += ["--data.init_args.scale", str(scale), "--run.root", folder, "--run.name", "imdn"]
        words += ["--trainer.callbacks", CONTROLLED]
        subprocess.run([sys.executable, "main.py", *words], cwd=REPOSITORY, check=True)
        rows = read_file(Path(folder, "imdn", "results.json"))
    found: dict[str, Any] = {"imdn": {}, "bicubic": {}}
    for row in rows:
        if row.metric in ("psnr", "ssim"):
            model = "bicubic" if row.checkpoint == "bicubic" else "imdn"
            found[model][row.metric] = round(row.value, 4)
            found["images"] = row.n
    return found


def table(found: dict[str, Any]) -> str:
    """The table of docs/metrics.md.

    Args:
        found: What JSON holds.
    """
    cells = [(name, scale) for name in found for scale in found[name]]
    heads = [f"{TITLES[n]} {s}" if s == "x2" else s for n, s in cells]
    rows = [["IMDN, published", *(PUBLISHED[n][s] for n, s in cells)]]
    for label, model in (("IMDN", "imdn"), ("bicubic", "bicubic")):
        numbers = [found[n][s][model] for n, s in cells]
        texts = [f"{each['psnr']:.2f} ({each['ssim']:.4f})" for each in numbers]
        rows.append([f"{label}, measured here", *texts])
    lines = [["PSNR-Y (SSIM-Y)", *heads], ["---"] * (len(cells) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
