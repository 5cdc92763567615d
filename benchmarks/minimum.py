"""The quick tests with the oldest versions that `pyproject.toml` allows: `make test-minimum`.

Run by the Python of that environment; arguments are pytest's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.report import write_report

REPO = Path(__file__).resolve().parents[1]
EXTRAS = ("lmdb", "onnx", "spandrel")  # those that `make install` brings besides the tools


def main() -> None:
    """Run the tests, write what came of them, and end with pytest's status."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "tests.xml")
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *sys.argv[1:]]
        status = subprocess.run(command, cwd=REPO, check=False).returncode
        results = {"status": status, **outcome(report)} if report.exists() else {"status": status}
    write_report("minimum", {**results, "versions": versions()}, seed=0)
    raise SystemExit(status)


def outcome(report: Path) -> dict[str, Any]:
    """What pytest counted.

    Args:
        report: Its report in JUnit's form.
    """
    suite = next(ElementTree.parse(report).iter("testsuite"))
    cases = list(suite.iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {
        "tests": len(cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
        "failed": sorted(failed),
        "seconds": round(float(suite.get("time", "nan"))),
    }


def versions() -> dict[str, str]:
    """Of each package that the project asks for, the one that is installed."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in EXTRAS:
        asked += project["optional-dependencies"][extra]
    names = [re.split(r"[\[<>=~! ]", text)[0] for text in asked]
    return {name: version(name) for name in names}


if __name__ == "__main__":
    main()
