"""``doctor``: what is installed, against what pyproject.toml asks for and constraints.txt names."""

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
PAIR_MEND = "install both at once, from one index: pip install -c constraints.txt torch torchvision"
# What the optional packages of pyproject.toml are for.
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
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        yield broken("Python", f"{found}, and {needed} is the oldest that will do: make PYTHON=...")
    elif OWN.is_dir() and not OWN.samefile(sys.prefix):
        yield look("Python", f"{found}, not of {OWN}, which is there: source {OWN}/bin/activate")
    else:
        yield ok("Python", f"{found}, {sys.executable}")


def checkout(options: Options) -> Iterator[Line]:
    """Which Enlarger this is, for who is asked about it."""
    version = _project()["version"]
    try:
        asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
        commit = f"commit {told.stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        commit = "not a git checkout"
    yield ok("Enlarger", f"{version}, {commit}")


def packages(options: Options) -> Iterator[Line]:
    """All that is required: a line for each that is missing or of a wrong version."""
    wrong, count = 0, 0
    for requirement in _requirements(_project()["dependencies"]):
        count += 1
        found = _installed(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            continue
        wrong += 1
        is_now = "is missing" if found is None else f"is {found}"
        wanted = f"pyproject.toml asks for {requirement.specifier or 'it'}"
        yield broken(requirement.name, f"{is_now}, and {wanted}: {INSTALL}")
    if not wrong:
        yield ok("packages", f"{count} of {count} as pyproject.toml asks{_untested()}")


def pair(options: Options) -> Iterator[Line]:
    """Whether torchvision is of this torch, by what both say of themselves."""
    from packaging.requirements import Requirement

    versions = [_installed(name) for name in ("torch", "torchvision")]
    torch, vision = versions
    if torch is None or vision is None:
        absent = " and ".join(n for n in ("torch", "torchvision") if _installed(n) is None)
        yield broken(PAIR, f"without {absent}: {PAIR_MEND}")
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
        yield broken(PAIR, f"{both}, and this torchvision is for torch{refused[0]}: {PAIR_MEND}")
    elif all(builds) and builds[0] != builds[1]:
        yield look(PAIR, f"{both} are builds for different devices: {PAIR_MEND}")
    else:
        yield ok(PAIR, f"{both}, which go together by what torchvision asks for")


def extras(options: Options) -> Iterator[Line]:
    """The optional packages, and what each is for."""
    optional = _project()["optional-dependencies"]
    for extra, purpose in EXTRAS.items():
        name, mend = f"extra {extra}", f"pip install -c constraints.txt -e '.[{extra}]'"
        for requirement in _requirements(optional[extra]):
            found = _installed(requirement.name)
            if found is None:
                yield ok(name, f"not installed, and only needed for {purpose}: {mend}")
            elif requirement.specifier.contains(found, prereleases=True):
                yield ok(name, f"{requirement.name} {found}, for {purpose}")
            else:
                asked = f"pyproject.toml asks for {requirement.specifier}"
                yield broken(name, f"{requirement.name} is {found}, and {asked}: {mend}")


CHECKS: dict[str, Check] = {
    "Python": python,
    "Enlarger": checkout,
    "packages": packages,
    PAIR: pair,
    "extras": extras,
}


# ------------------------------------------------------------------------------------------- parts


def _project() -> dict[str, Any]:
    import tomllib  # here: Python 3.10, which is to be told that it is too old, has none

    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def _requirements(texts: list[str]) -> Iterator[Requirement]:
    """Those that apply here; ``fsspec[http]`` is followed by what its ``http`` asks for."""
    from packaging.requirements import Requirement

    for text in texts:
        requirement = Requirement(text)
        yield requirement
        if not requirement.extras or _installed(requirement.name) is None:
            continue
        for more in importlib.metadata.requires(requirement.name) or ():
            inner = Requirement(more)
            # Those without an extra were there when it was installed.
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
    # No fault: pyproject.toml says what will do, constraints.txt what CI has tried.
    others = []
    for row in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, equals, version = row.partition("#")[0].strip().partition("==")
        found = _installed(name) if equals else None
        if found is not None and found.partition("+")[0] != version:
            others.append(f"{name} {found}")
    if not others:
        return ", none of another version than constraints.txt names"
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"; not those of constraints.txt: {', '.join(others[:MOST_NAMED])}{more}"
