"""``doctor``: installed versions against those of pyproject.toml and constraints.txt."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from commands.doctor_lines import INSTALL, ROOT, Check, Line, Options, broken, look, ok

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OLDEST = (3, 11)  # Python
OWN = ROOT / ".venv"  # of `make install`
PAIR = "torch and torchvision"
PAIR_FIX = "install both at once, from one index: pip install -c constraints.txt torch torchvision"
# Purpose of each optional dependency of pyproject.toml.
EXTRAS = {
    "spandrel": "community checkpoints (RRDB, SwinIR, ...) as networks",
    "s3": "shards in s3://",
    "gs": "shards in gs://",
    "lmdb": "packing BasicSR's databases",
    "video": "H.264 as a degradation, and predictions as mp4",
    "iqa": "MUSIQ, MANIQA, CLIP-IQA, TOPIQ and PI",
    "onnx": "export to ONNX",
}
MOST_NAMED = 5


def python(options: Options) -> Iterator[Line]:
    """Check the Python interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        yield broken("Python", f"{found}, but {needed} or newer is required: make PYTHON=...")
    elif OWN.is_dir() and not OWN.samefile(sys.prefix):
        yield look("Python", f"{found}, not that of {OWN}: source {OWN}/bin/activate")
    else:
        yield ok("Python", f"{found}, {sys.executable}")


def checkout(options: Options) -> Iterator[Line]:
    """Report the version and the commit of Enlarger."""
    version = _project()["version"]
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        commit = f"commit {done.stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        commit = "not a git checkout"
    yield ok("Enlarger", f"{version}, {commit}")


def packages(options: Options) -> Iterator[Line]:
    """Check the required packages; yield a line for each that is missing or too old."""
    wrong, count = 0, 0
    for requirement in _requirements(_project()["dependencies"]):
        count += 1
        found = _installed(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            continue
        wrong += 1
        is_now = "is missing" if found is None else f"is {found}"
        wanted = f"pyproject.toml requires {requirement.specifier or 'it'}"
        yield broken(requirement.name, f"{is_now}, but {wanted}: {INSTALL}")
    if not wrong:
        yield ok("packages", f"{count} of {count} as pyproject.toml requires{_untested()}")


def pair(options: Options) -> Iterator[Line]:
    """Check that torch and torchvision fit, by the metadata of both."""
    from packaging.requirements import Requirement

    versions = [_installed(name) for name in ("torch", "torchvision")]
    torch, vision = versions
    if torch is None or vision is None:
        absent = " and ".join(n for n in ("torch", "torchvision") if _installed(n) is None)
        yield broken(PAIR, f"missing {absent}: {PAIR_FIX}")
        return
    wanted = [Requirement(text) for text in importlib.metadata.requires("torchvision") or ()]
    refused = [
        str(one.specifier)
        for one in wanted
        if one.name == "torch" and not one.specifier.contains(torch, prereleases=True)
    ]
    both = f"{torch} and {vision}"
    builds = [version.partition("+")[2] for version in (torch, vision)]
    if refused:
        yield broken(PAIR, f"{both}, but this torchvision needs torch{refused[0]}: {PAIR_FIX}")
    elif all(builds) and builds[0] != builds[1]:
        yield look(PAIR, f"{both} are builds for different devices: {PAIR_FIX}")
    else:
        yield ok(PAIR, f"{both}, as torchvision requires")


def extras(options: Options) -> Iterator[Line]:
    """Check the optional packages, and name their purpose."""
    optional = _project()["optional-dependencies"]
    for extra, purpose in EXTRAS.items():
        name, fix = f"extra {extra}", f"pip install -c constraints.txt -e '.[{extra}]'"
        for requirement in _requirements(optional[extra]):
            found = _installed(requirement.name)
            if found is None:
                yield ok(name, f"not installed, only needed for {purpose}: {fix}")
            elif requirement.specifier.contains(found, prereleases=True):
                yield ok(name, f"{requirement.name} {found}, for {purpose}")
            else:
                wanted = f"pyproject.toml requires {requirement.specifier}"
                yield broken(name, f"{requirement.name} is {found}, but {wanted}: {fix}")


VERSION_CHECKS: dict[str, Check] = {
    "Python": python,
    "Enlarger": checkout,
    "packages": packages,
    PAIR: pair,
    "extras": extras,
}


# ------------------------------------------------------------------------------------------- parts


def _project() -> dict[str, Any]:
    import tomllib  # missing in Python 3.10, which gets a line of its own

    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def _requirements(texts: list[str]) -> Iterator[Requirement]:
    """Yield the requirements that apply here; ``fsspec[http]`` also yields those of ``http``."""
    from packaging.requirements import Requirement

    for text in texts:
        requirement = Requirement(text)
        yield requirement
        if not requirement.extras or _installed(requirement.name) is None:
            continue
        for more in importlib.metadata.requires(requirement.name) or ():
            inner = Requirement(more)
            # Requirements without an extra were installed with the package.
            if not _applies(inner, "") and any(_applies(inner, e) for e in requirement.extras):
                yield inner


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _untested() -> str:
    # Not an error: pyproject.toml holds the bounds, constraints.txt the versions tested by CI.
    others = []
    for row in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, equals, version = row.partition("#")[0].strip().partition("==")
        found = _installed(name) if equals else None
        if found is not None and found.partition("+")[0] != version:
            others.append(f"{name} {found}")
    if not others:
        return ", all in the versions of constraints.txt"
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"; other versions than constraints.txt: {', '.join(others[:MOST_NAMED])}{more}"
