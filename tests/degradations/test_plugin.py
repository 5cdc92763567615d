"""The template of a user's own stage: it runs as it is, and so do the commands that are printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from degradations import plugin
from degradations.configure import degradation_of
from tests.conftest import REPO


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is not the checkout; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("my_sr", "own")]:
        del sys.modules[name]


def written(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*.*") if "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def commands(name: str) -> list[str]:
    steps = plugin.next_steps(plugin.plugin_of(name, Path("my_sr")))
    return [line.strip() for line in steps if line.startswith("    ")]


def test_three_files(folder, caplog):
    with caplog.at_level("INFO"):
        assert plugin.main(["RainDrops"]) == 0
    assert sorted(written(folder)) == [
        "my_sr/rain_drops.py",
        "my_sr/rain_drops.yaml",
        "my_sr/test_rain_drops.py",
    ]
    assert caplog.messages == plugin.next_steps(plugin.plugin_of("RainDrops", Path("my_sr")))
    assert "$" not in "".join(written(folder).values())


def test_the_yaml_parses_and_degrades(folder):
    assert plugin.main(["RainDrops", "--folder", "own/stages"]) == 0
    degradation = degradation_of(["own/stages/rain_drops.yaml"], 2.0)
    hr = torch.full((4, 3, 8, 8), 0.25)
    lr = degradation(hr, torch.arange(4))
    gamma = degradation.params_of(torch.arange(4), hr.shape)["RainDrops"]["gamma"]
    for image, power in zip(lr, gamma, strict=True):
        expected = torch.full((3, 4, 4), 0.25**power)
        torch.testing.assert_close(image, expected, rtol=0, atol=0.51 / 255)
    assert len(set(gamma)) == 4


@pytest.mark.slow
def test_its_test_passes_as_printed(folder):
    assert plugin.main(["RainDrops"]) == 0
    (command,) = [line for line in commands("RainDrops") if " -m pytest " in line]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command,
        shell=True,
        check=False,
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["my_sr"]


def test_the_preview_runs_as_printed(folder):
    assert plugin.main(["Rain"]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    Image.fromarray(pixels).save("picture.png")
    (command,) = [line for line in commands("Rain") if ".preview " in line]
    arguments = shlex.split(command.replace("PICTURE", "picture.png"))
    assert arguments[:4] == [f"PYTHONPATH={REPO}", sys.executable, "-m", "degradations.preview"]
    from degradations import preview

    assert not preview.main(arguments[4:])


@pytest.mark.parametrize(
    ("name", "cls", "stem"),
    [
        ("Rain", "Rain", "rain"),
        ("rain", "Rain", "rain"),
        ("RainDrops", "RainDrops", "rain_drops"),
        ("rain_drops", "RainDrops", "rain_drops"),
        ("rain-drops", "RainDrops", "rain_drops"),
        ("JPEG2000", "JPEG2000", "jpeg_2000"),
        ("USMSharp", "USMSharp", "usm_sharp"),
    ],
)
def test_names(name, cls, stem):
    made = plugin.plugin_of(name, Path("my_sr"))
    assert (made.cls, made.module) == (cls, f"my_sr.{stem}")
    for path, content in made.files.items():
        if path.suffix == ".py":
            compile(content, path, "exec")


@pytest.mark.parametrize("name", ["", "1x", "a b", "a/b", "../a", "class", "Stage", "true!"])
def test_what_is_no_name(folder, name, caplog):
    assert plugin.main(["--", name]) == 2
    assert "expected the name of a class" in caplog.text
    assert written(folder) == {}


@pytest.mark.parametrize("package", ["/tmp/x", ".", "..", "a b", "a/../b", "class", "1a"])
def test_what_is_no_package(folder, package, caplog):
    assert plugin.main(["Rain", "--folder", package]) == 2
    assert "expected a package below this folder" in caplog.text
    assert written(folder) == {}


def test_ours_are_not_for_plugins(folder, caplog):
    assert plugin.main(["Rain", "--folder", "degradations"]) == 2
    assert "one of Enlarger's own packages" in caplog.text


@pytest.mark.parametrize("present", ["rain.py", "rain.yaml", "test_rain.py"])
def test_nothing_is_overwritten(folder, present, caplog):
    (folder / "my_sr").mkdir()
    (folder / "my_sr" / present).write_text("mine")
    assert plugin.main(["Rain"]) == 2
    assert "is there already, and nothing is overwritten" in caplog.text
    assert written(folder) == {f"my_sr/{present}": "mine"}
