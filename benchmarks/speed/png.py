"""Time and size of PNG files of photographs: ours, Pillow's and OpenCV's.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.png kodak24 bsds400 set14

Each argument is a folder of photographs. All encoders take turns with each photograph; time is that
of the processor. Writes `png.json`: means over the photographs of a folder.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import report
from benchmarks.timing import in_turns, seconds
from files.images.decode import read_image
from files.images.encoders import encoded_by_pillow
from files.images.rows import write_png

ENDINGS = {".png", ".jpg", ".webp"}
MOST = 48  # photographs of a folder


def ours(pixels: NDArray[np.uint8]) -> bytes:
    """The file that predict writes."""
    file = io.BytesIO()
    write_png(file, pixels, [])
    return file.getvalue()


def by_pillow(pixels: NDArray[np.uint8]) -> bytes:
    """Pillow's own settings."""
    return encoded_by_pillow(pixels, "PNG")


def by_opencv(pixels: NDArray[np.uint8]) -> bytes:
    """OpenCV's own settings; channels are stored in another order, which costs nothing here."""
    return cv2.imencode(".png", pixels)[1].tobytes()


ENCODERS: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    "ours": ours,
    "Pillow, level 6": by_pillow,
    "OpenCV": by_opencv,
}


def measure(folder: Path, turns: int) -> dict[str, Any]:
    """Mean time and size of each encoder's files."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS)[:MOST]
    times: dict[str, list[float]] = {name: [] for name in ENCODERS}
    sizes: dict[str, list[int]] = {name: [] for name in ENCODERS}
    megapixels = list[float]()
    for path in tqdm(paths, desc=folder.name, disable=None):
        pixels = np.ascontiguousarray(read_image(path).rgb, np.uint8)
        megapixels.append(pixels.shape[0] * pixels.shape[1] / 1e6)
        for name, encode in ENCODERS.items():
            sizes[name].append(len(encode(pixels)))
        columns = {
            name: lambda _, of=encode, image=pixels: seconds(lambda: of(image))
            for name, encode in ENCODERS.items()
        }
        for name, taken in in_turns(columns, turns, warm=0).items():
            times[name].append(statistics.median(taken))
    return {
        "photographs": len(paths),
        "megapixels": round(statistics.mean(megapixels), 3),
        **{
            name: {
                "ms": round(1000 * statistics.mean(times[name]), 1),
                "kB": round(statistics.mean(sizes[name]) / 1000, 1),
            }
            for name in ENCODERS
        },
    }


def main() -> None:
    """Measure and write the result."""
    parser = report.parser(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of photographs")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    results = {folder.name: measure(folder, arguments.turns) for folder in arguments.folders}
    report.write_report("png", results, seed=0)


if __name__ == "__main__":
    main()
