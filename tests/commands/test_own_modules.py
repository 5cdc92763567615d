"""Nothing in the working directory runs, except the module of a class path and its own imports."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from files.own_modules import OWN, import_own
from tests.conftest import REPO
from tests.quick import quick

# A finder that answers nothing, in each Python process of a command, also in those that it starts:
# it writes a script of each name that is asked for, before Python looks for it. The names of the
# standard library were imported before it: they are written, too.
TRACER = """
import importlib, os, sys
class Tracer:
    def find_spec(self, name, path=None, target=None):
        if path is None:
            write(name)
            importlib.invalidate_caches()
def write(name):
    script = os.path.join({folder!r}, name + ".py")
    if name != "mine" and name != "blocks" and not os.path.exists(script):
        with open(script, "w") as file:
            file.write("open({ran!r}, 'a').write(__name__ + chr(10))\\n")
for name in sys.stdlib_module_names:
    write(name)
sys.meta_path.insert(0, Tracer())
"""
MINE = """
import importlib
from degradations.base import Stage
from blocks import half


class Half(Stage):
    '''Darken.'''

    def draw(self, draws, shape):
        return {}

    def forward(self, x, params):
        assert importlib.import_module("blocks").half is half
        return half(x)
"""
FIT = "fit --config tiny.yaml --trainer.max_steps 2 --data.init_args.workers 1"
HALF = "--degradation degradations.Pipeline --degradation.stages '[{class_path: mine.Half}]'"
COMMANDS = [
    "predict --model lightning_modules.Bicubic --data datamodules.SRDataModule --data.scale 2 "
    "--data.predict a.png",
    f"{FIT} {HALF}",
    "pack PHOTOS packed --workers 2",
    "check",
]


@pytest.fixture
def folder(tiny: Path, photo_folder: Path) -> Path:
    """Return a working directory with an image and a class of the user's."""
    Image.new("RGB", (24, 24)).save("a.png")
    Path("mine.py").write_text(MINE)
    Path("blocks.py").write_text("def half(x):\n    return x / 2\n")
    Path("PHOTOS").symlink_to(photo_folder)
    return tiny


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("command", quick(COMMANDS, COMMANDS[2]))
def test_no_script_of_a_name_that_is_asked_for_runs(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, command: str
) -> None:
    site, ran = tmp_path_factory.mktemp("site"), folder / "RAN"
    (site / "sitecustomize.py").write_text(TRACER.format(folder=str(folder), ran=str(ran)))
    run(str(REPO / "main.py"), *shlex.split(command), PYTHONPATH=str(site))
    assert len(list(folder.glob("*.py"))) > 300
    assert not ran.exists(), ran.read_text()


def test_a_neighbour_is_found_by_a_user_s_module_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OWN, "folder", str(folder))
    for name in ("mine", "blocks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("blocks")  # by this test, as by a library
    assert find_spec("blocks") is None
    import_own("mine")
    assert sys.modules["blocks"].half(2) == 1
