"""Make docs/tensorboard.webp: TensorBoard after a short training.

    python docs/make_tensorboard.py

It needs the images of ``ENLARGER_DATA`` (bsds400, kodak24), Chromium, and a few minutes.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIZE = (1440, 1130)  # of the window, in pixels
FOLDER = "{{class_path: datamodules.Folder, init_args: {{root: $ENLARGER_DATA/{}}}}}"
KODAK = FOLDER.format("kodak24, files: [kodim05.png, kodim08.png, kodim19.png, kodim23.png]")
FIT = (
    *("fit", "--config", "configs/experiment/quickstart.yaml"),
    *("--data.train", FOLDER.format("bsds400"), "--data.val", f"{{kodak24: {KODAK}}}"),
    *("--trainer.max_steps", "300", "--trainer.val_check_interval", "50"),
    *("--model.lr_scheduler.T_max", "300", "--data.batch_size", "8"),
    *("--trainer.log_every_n_steps", "10"),
)
SHOWN = {"tagFilter": "kodim05|kodim19|val/|train/loss", "darkMode": "false"}


def main() -> None:
    """Train, serve the log, and write the image."""
    with tempfile.TemporaryDirectory() as folder:
        root = ["--run.root", folder, "--run.name", "quickstart"]
        subprocess.run([sys.executable, "main.py", *FIT, *root], cwd=ROOT, check=True)
        subprocess.run(
            [sys.executable, "main.py", "test", "--model", f"{folder}/quickstart"],
            cwd=ROOT,
            check=True,
        )
        serve = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0"]
        server = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        try:
            address = next(filter(None, map(_address, server.stderr)))
            shot = _screenshot(f"{address}?{urlencode(SHOWN)}#timeseries", Path(folder))
        finally:
            server.terminate()
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(ROOT / "docs" / "tensorboard.webp", quality=85, method=6)


def _address(line: str) -> str:
    found = re.search(r"http://\S+", line)
    return found.group() if found else ""


def _screenshot(address: str, folder: Path) -> bytes:
    shot = folder / "shot.png"
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    browser += [f"--user-data-dir={folder / 'browser'}", f"--screenshot={shot}"]
    browser += ["--window-size={},{}".format(*SIZE), "--virtual-time-budget=30000", address]
    subprocess.run(browser, check=True, env={**os.environ, "HOME": str(folder)})
    return shot.read_bytes()


if __name__ == "__main__":
    main()
