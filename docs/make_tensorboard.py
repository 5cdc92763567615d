"""Make docs/tensorboard.webp: TensorBoard after a short training.

    python docs/make_tensorboard.py

It needs the images of ``ENLARGER_DATA`` (bsds400, kodak24), Chromium with its driver, and some
minutes.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.callbacks.browser import Browser

SIZE = {"width": 1360, "height": 900, "deviceScaleFactor": 1, "mobile": False}  # of the window
SECONDS = 45  # until all is drawn
FOLDER = "{{class_path: datamodules.Folder, init_args: {{root: $ENLARGER_DATA/{}}}}}"
KODAK = FOLDER.format("kodak24, files: [kodim05.png, kodim08.png, kodim19.png, kodim23.png]")
FIT = (
    *("fit", "--config", "configs/experiment/quickstart.yaml"),
    *("--data.train", FOLDER.format("bsds400"), "--data.val", f"{{kodak24: {KODAK}}}"),
    *("--trainer.max_steps", "120", "--trainer.val_check_interval", "20"),
    *("--model.lr_scheduler.T_max", "120", "--data.batch_size", "4"),
    *("--trainer.log_every_n_steps", "5"),
)
SHOWN = {"tagFilter": "kodim19|kodim23|train/loss|val/psnr", "darkMode": "false"}
SETTINGS = {
    "timeSeriesSettingsPaneOpened": False,
    "timeSeriesCardMinWidth": 500,
    "stepSelectorEnabled": False,
    "ignoreOutliers": False,
}


def main() -> None:
    """Train, serve the log, and write the image."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["--run.root", folder, "--run.name", "quickstart"]
        subprocess.run([sys.executable, "main.py", *FIT, *run], cwd=ROOT, check=True)
        test = ["test", "--config", f"{folder}/quickstart/config.yaml", *run]
        subprocess.run([sys.executable, "main.py", *test], cwd=ROOT, check=True)
        write_screenshot(Path(folder))


def write_screenshot(runs: Path) -> None:
    """Write the image of a folder of runs."""
    serve = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0"]
    server = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        shot = screenshot(f"{address_in(server.stderr)}?{urlencode(SHOWN)}#timeseries")
    finally:
        server.terminate()
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(ROOT / "docs" / "tensorboard.webp", quality=85, method=6)


def address_in(lines: Iterable[str]) -> str:
    """Return the address that TensorBoard prints."""
    for line in lines:
        found = re.search(r"http://\S+", line)
        if found:
            return found.group()
    raise RuntimeError("TensorBoard did not start")


def screenshot(address: str) -> bytes:
    """Return the PNG of a page, with the settings of TensorBoard's side bar."""
    store = "localStorage.setItem('_tb_global_settings', arguments[0])"
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        browser.tell("Emulation.setDeviceMetricsOverride", SIZE)
        browser.tell("Emulation.setScrollbarsHidden", {"hidden": True})
        browser.open(address)
        browser.run(store, json.dumps(SETTINGS))
        browser.open("about:blank")
        browser.open(address)
        time.sleep(SECONDS)
        shot = browser.tell("Page.captureScreenshot", {"format": "png"})
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    main()
