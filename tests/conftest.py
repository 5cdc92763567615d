"""Fixtures shared by all tests."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import shlex
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

import main
from tests.ports import free_port

os.environ["HF_HUB_OFFLINE"] = "1"  # no test fetches weights, also where there is a network
settings.register_profile("enlarger", deadline=None)  # examples are slow on a busy machine
settings.load_profile("enlarger")

REPO = Path(__file__).resolve().parents[1]
LONGEST = "test_pretended_gpu.py"  # a minute, for which the others would wait at the end


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a busy machine fail a test of the marker `timing` twice; begin with the longest test."""
    items.sort(key=lambda item: item.path.name != LONGEST)
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.get_closest_marker("timing"):
                item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect nine thousand tests without looking for garbage among them, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # what is not freed at the end nanobind calls a leak


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell out what a test said of names that are no UTF-8: pytest-xdist cannot send them."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


BUILT: dict[str, Any] = {}


@pytest.fixture(scope="session", autouse=True)
def _no_second_is_waited_for() -> Generator[None]:
    """Nothing is written to the disk at once, looked up or built twice; ports are held."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # a run of a second has twenty files
        if "lightning.pytorch" in sys.modules:
            from lightning.fabric.plugins.environments import lightning
            from lightning.fabric.utilities import registry

            patch.setattr(lightning, "find_free_network_port", free_port)
            # Each trainer would look through all installed packages for callbacks.
            patch.setattr(registry, "entry_points", functools.cache(registry.entry_points))
        if "commands.cli" in sys.modules:
            from commands.cli import EnlargerCLI

            build = EnlargerCLI.setup_parser

            def setup_parser(cli: EnlargerCLI, *args: Any) -> None:
                if cli.command not in BUILT:  # which takes longer than reading words by it
                    build(cli, *args)
                    BUILT[cli.command] = cli.parser
                cli.parser = BUILT[cli.command]

            patch.setattr(EnlargerCLI, "setup_parser", setup_parser)
        yield


def _root(variable: str, folder: str) -> Path:
    for candidate in (os.environ.get(variable), REPO.parent / "shared" / folder):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip(f"needs ${variable}, which is not set")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of test photographs (set5, set14, kodak24, ...), or skip."""
    return _root("ENLARGER_DATA", "images")


@pytest.fixture(scope="session")
def weights_root() -> Path:
    """The folder of published weights (imdn-x2.pth, ...), or skip."""
    return _root("ENLARGER_WEIGHTS", "weights")


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten smooth images of 48x40 pixels, made from a seed."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(10):
        blocks = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(blocks).resize((48, 40), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def tiny(tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `tiny.yaml`: a run of 12 steps (2.4 epochs) that takes a second."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, photo_folder)
    return tmp_path


def write_tiny(folder: Path, photos: Path) -> None:
    text = (REPO / "tests" / "tiny.yaml").read_text()
    (folder / "tiny.yaml").write_text(text.replace("PHOTOS", str(photos)))


@pytest.fixture
def enlarger() -> Callable[..., None]:
    """`main.py` in this process: `enlarger("fit --config tiny.yaml --ckpt_path", path)`."""

    def run(*typed: object) -> None:
        main.main(words_of(*typed))

    return run


def words_of(typed: object, *more: object) -> list[str]:
    """The words of a command as it is typed, and further ones, such as paths, as they are."""
    return [*shlex.split(str(typed)), *map(str, more)]
