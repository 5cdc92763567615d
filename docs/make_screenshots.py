"""Make docs/app.webp and docs/tensorboard.webp, the pages as they are.

    python docs/make_screenshots.py

It needs the images of ``ENLARGER_DATA`` (bsds400, kodak24), the weights ``imdn-x4`` in
``ENLARGER_WEIGHTS``, Chromium with its driver, and some minutes. ``docs/screenshots.json`` has the
SHA-256 of what each image shows; a test fails when that has changed since.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
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

from tests.browser import Browser, Visitor, wait

SHOWN = {
    "app.webp": ["commands/app.py"],
    "tensorboard.webp": ["callbacks/tensorboard.py", "callbacks/validation_images.py"],
}
DIGESTS = ROOT / "docs" / "screenshots.json"

# The page of main.py app
HEIGHT = 1660
PHOTOGRAPHS = ("kodim15.png", "kodim23.png")

# TensorBoard
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
CHOSEN = {"tagFilter": "kodim19|kodim23|train/loss|val/psnr", "darkMode": "false"}
SETTINGS = {
    "timeSeriesSettingsPaneOpened": False,
    "timeSeriesCardMinWidth": 500,
    "stepSelectorEnabled": False,
    "ignoreOutliers": False,
}


def main() -> None:
    """Write both images, and the digests of what they show."""
    with tempfile.TemporaryDirectory() as folder:
        write_app(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        write_tensorboard(Path(folder))
    DIGESTS.write_text(json.dumps(digests(), indent=2) + "\n")


def digests() -> dict[str, dict[str, str]]:
    """Return the SHA-256 of the files that each image shows."""
    return {
        image: {file: hashlib.sha256((ROOT / file).read_bytes()).hexdigest() for file in files}
        for image, files in SHOWN.items()
    }


def write_app(folder: Path) -> None:
    """Enlarge photographs in the page, and write its image."""
    serve = [sys.executable, "main.py", "app", "imdn-x4", "--port", "0", "--folder", str(folder)]
    server = subprocess.Popen(serve, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    photographs = [Path(os.environ["ENLARGER_DATA"], "kodak24", name) for name in PHOTOGRAPHS]
    try:
        address = address_in(server.stderr)
        with tempfile.TemporaryDirectory() as profile, Visitor(Path(profile)) as visitor:
            visitor.tell("Emulation.setDeviceMetricsOverride", {**SIZE, "height": HEIGHT})
            visitor.tell("Emulation.setScrollbarsHidden", {"hidden": True})
            visitor.open(address)
            visitor.choose(*map(str, photographs))
            visitor.press("Enlarge")
            wait(lambda: visitor.sees(f"{PHOTOGRAPHS[-1]}: 3072 x 2048 pixels"))
            time.sleep(5)  # until the slider is drawn
            save(visitor, "app.webp")
    finally:
        server.terminate()


def write_tensorboard(folder: Path) -> None:
    """Train, test, serve the log, and write the image of its page."""
    run = ["--run.root", str(folder), "--run.name", "quickstart"]
    subprocess.run([sys.executable, "main.py", *FIT, *run], cwd=ROOT, check=True)
    test = ["test", "--config", f"{folder}/quickstart/config.yaml", *run]
    subprocess.run([sys.executable, "main.py", *test], cwd=ROOT, check=True)
    serve = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    server = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    store = "localStorage.setItem('_tb_global_settings', arguments[0])"
    try:
        address = f"{address_in(server.stderr)}?{urlencode(CHOSEN)}#timeseries"
        with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
            browser.tell("Emulation.setDeviceMetricsOverride", SIZE)
            browser.tell("Emulation.setScrollbarsHidden", {"hidden": True})
            browser.open(address)
            browser.run(store, json.dumps(SETTINGS))
            browser.open("about:blank")
            browser.open(address)
            time.sleep(SECONDS)
            save(browser, "tensorboard.webp")
    finally:
        server.terminate()


def address_in(lines: Iterable[str]) -> str:
    """Return the address that a server prints."""
    for line in lines:
        found = re.search(r"http://[^\s)]+", line)
        if found:
            return found.group()
    raise RuntimeError("the server did not start")


def save(browser: Browser, name: str) -> None:
    """Write what a browser shows."""
    shot = browser.tell("Page.captureScreenshot", {"format": "png"})
    with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
        image.convert("RGB").save(ROOT / "docs" / name, quality=85, method=6)


if __name__ == "__main__":
    main()
