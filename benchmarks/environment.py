"""Tests whose outcome is committed: `make test-minimum`, `test-python`, `test-iqa`, `test-slow`.

`python -m benchmarks.environment NAME ...`, run by the Python of that environment; NAME is that of
the report, and what follows are pytest's arguments. `minimum` is the environment with the oldest
versions that `pyproject.toml` allows, and refuses any other version.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.report import RESULTS, write_report

REPO = Path(__file__).resolve().parents[1]
# Those that `make install` brings besides the tools.
EXTRAS = ("lmdb", "onnx", "s3", "spandrel", "video")
MINIMUM = "minimum"


def main() -> None:
    """Run the tests, write what came of them, and end with pytest's status.

    Raises:
        SystemExit: With that status, or with what is not the oldest version.
    """
    name, *options = sys.argv[1:]
    installed = versions()
    if name == MINIMUM and (newer := newer_than_bounds(installed)):
        raise SystemExit(
            f"not the oldest versions that pyproject.toml allows: {', '.join(newer)}; raise the "
            "bounds to these, where another package asks for them"
        )
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "tests.xml")
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *options]
        status = subprocess.run(command, cwd=REPO, check=False).returncode
        results = {"status": status, **outcome(report)} if report.exists() else {"status": status}
    path = RESULTS / f"{name}.json"
    write_report("environment", {**results, "versions": installed}, seed=0, path=path)
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
    found = {asked.name: version(asked.name) for asked in requirements()}
    with suppress(PackageNotFoundError):
        found["pyiqa"] = version("pyiqa")  # of the extra iqa, which is not in every environment
    return found


def newer_than_bounds(installed: dict[str, str]) -> list[str]:
    """Packages of which a newer version is there than the oldest one that is allowed.

    Args:
        installed: Version of each package.
    """
    found = []
    for asked in requirements():
        # Without what follows a plus sign, which names the build.
        have = Version(Version(installed[asked.name]).public)
        bounds = {bound.operator: Version(bound.version) for bound in asked.specifier}
        if have != bounds.get(">=", bounds.get("==")):
            found.append(f"{asked.name} {have}")
    return found


def requirements() -> list[Requirement]:
    """What the project asks for, and the extras that `make install` brings."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"]]
    for extra in EXTRAS:
        asked += project["optional-dependencies"][extra]
    return [Requirement(text) for text in asked]


if __name__ == "__main__":
    main()
