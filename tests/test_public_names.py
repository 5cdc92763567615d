"""The short public names of the rooms: they exist, and they are what is stored and dumped."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys

import pytest

from files.own_modules import class_path
from tests.conftest import REPO

ROOMS = ("callbacks", "datamodules", "degradations", "lightning_modules")


@pytest.mark.parametrize("room", ROOMS)
def test_each_public_name_exists_and_is_the_stored_path_of_its_class(room: str) -> None:
    """Checkpoints and dumped configurations store it: so files may move within a package."""
    names = re.findall(r"import (\w+) as \1\n", (REPO / room / "__init__.pyi").read_text())
    package = importlib.import_module(room)
    assert len(names) > 20  # a room has more; or the pattern does not fit
    assert sorted(package.__all__) == sorted(names)
    for name in names:
        public = getattr(package, name)
        assert public.__name__ == name
        if inspect.isclass(public) and public.__module__.startswith(room):  # of this room's own
            assert class_path(public) == f"{room}.{name}"


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_package_imports_none_of_its_modules(room: str) -> None:
    """Each name loads its module when it is used: `--help` need not wait for all of them."""
    code = f"import sys, {room}; print([m for m in sys.modules if m.startswith('{room}.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
