"""Which lines of the code the quick tests run: `make coverage`, by what it left in `.coverage`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.report import without_options, write_report

LEAST = 90.0  # files with less are named


def main() -> None:
    """Sum up by folder and write it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        subprocess.run(
            [sys.executable, "-m", "coverage", "json", "-q", "-o", str(path)], check=True
        )
        found = json.loads(path.read_text(encoding="utf-8"))
    write_report("coverage", summary(found), seed=0)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Lines and the percentage of them that ran: in all, by folder, and of files with few.

    Args:
        found: What ``coverage json`` writes.
    """
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    least = {}
    for name, file in sorted(found["files"].items()):
        counts = file["summary"]
        for folder in ("all", Path(name).parts[0]):
            lines[folder][0] += counts["num_statements"]
            lines[folder][1] += counts["covered_lines"]
        if counts["num_statements"] and counts["percent_covered"] < LEAST:
            least[name] = round(counts["percent_covered"], 1)
    return {
        "lines, and percent that ran": {
            folder: [total, round(100 * ran / total, 1)] for folder, (total, ran) in lines.items()
        },
        f"files below {LEAST:.0f} percent": least,
    }


if __name__ == "__main__":
    without_options(__doc__)
    main()
