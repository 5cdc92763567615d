"""Pack the photographs for a rented machine: `python -m benchmarks.photographs.pack FOLDER`.

Of `$ENLARGER_DATA` the folder has the training photographs of `bsds400` as lossy WebP, the tars of
`natural` as they are (they hold WebP of quality 88), and of each of `kodak24` the square that rows
are tested on, without loss; of `$ENLARGER_WEIGHTS` it has NIQE's. Names are the same, so with the
folder as both variables the same commands run on the same squares: 46 MB.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks import report
from datamodules import Crops, Folder

QUALITY = 90  # of WebP
SQUARE = 384  # pixels, as in the configurations of the test sets
NIQE = "niqe-pristine.npz"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0.
    """
    known = report.parser(__doc__)
    known.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to write")
    folder: Path = known.parse_args(arguments).folder
    source = Path(os.environ["ENLARGER_DATA"])
    for name in ("bsds400", "natural", "kodak24"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "bsds400").iterdir()):
        with Image.open(path) as image:
            target = folder / "bsds400" / f"{path.stem}.webp"
            image.convert("RGB").save(target, quality=QUALITY, method=6)
    for path in (source / "natural").glob("*.tar*"):
        shutil.copyfile(path, folder / "natural" / path.name)
    shutil.copyfile(Path(os.environ["ENLARGER_WEIGHTS"], NIQE), folder / NIQE)
    squares = Crops(Folder(str(source / "kodak24")), size=SQUARE, per_image=1)
    squares.prepare(1)
    for index, key in enumerate(squares.keys):
        square = Image.fromarray(squares.read(index)["hr"])
        square.save(folder / "kodak24" / f"{Path(key).parent.name}.png", optimize=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    sys.stdout.write(f"{folder}: {len(files)} files, {megabytes:.1f} MB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
