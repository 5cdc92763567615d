"""Every recipe in every way: ``python -m tests.matrix [RECIPE ...] [--way WAY ...]``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.matrix.processes import warm

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> int:
    """Run the cells that are asked for; print the table.

    Returns:
        1 if one failed.
    """
    began = time.monotonic()
    warm()
    from tests.matrix.recipes import RECIPES
    from tests.matrix.table import Table
    from tests.matrix.ways import WAYS

    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("recipes", nargs="*", help="such as mini/nsarm/stage1; by default all")
    parser.add_argument("--way", action="append", help="only these; by default all")
    parser.add_argument("--json", type=Path, help="where to write the table")
    parser.add_argument("--keep", type=Path, help="a new folder for what the commands write")
    parser.add_argument("--limit", type=float, default=300, help="seconds of a cell")
    options = parser.parse_args()
    unknown = {*options.recipes} - {recipe.name for recipe in RECIPES}
    unknown |= {*(options.way or ())} - {*WAYS}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    root = options.keep or Path(tempfile.mkdtemp(prefix="matrix-"))
    keep = options.keep is not None
    table = Table(root.absolute(), options.recipes, options.way, options.limit, keep)
    table.run()
    print(table.text())
    if options.json:
        options.json.write_text(json.dumps(table.content(time.monotonic() - began), indent=1))
    failed = table.count("FAIL")
    if not keep and not failed:
        shutil.rmtree(root)
    print(f"{time.monotonic() - began:.0f} s; {root}")
    print(f"{table.count('ok')} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # libraries would list what they leak
