"""Fixtures of the command-line tests."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonargparse import Namespace

import main
from tests.conftest import REPO

BICUBIC = """\
model: lightning_modules.Bicubic
data: {class_path: datamodules.SRDataModule, init_args: {scale: 2, workers: 0}}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false, callbacks: [callbacks.PSNR]}
"""


@pytest.fixture
def bicubic(tiny: Path) -> str:
    """Return the name of a file like `tiny.yaml` without what training needs; it is read sooner."""
    (tiny / "bicubic").mkdir()
    (tiny / "bicubic" / "tiny.yaml").write_text(BICUBIC)
    return "bicubic/tiny.yaml"


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail with status 2 and one sentence; return the sentence."""

    def run(*args: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main.main([str(arg) for arg in args])
        assert stopped.value.code == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        before, error, sentence = printed.err.partition("error: ")
        assert error, before
        return sentence.strip()

    return run


class Read(Exception):  # noqa: N818  (no error)
    """Ends a command whose configuration is read."""


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Namespace]:
    """Do what a command does before it builds anything, and return its configuration."""
    from commands.cli import EnlargerCLI

    def run(*args: object) -> Namespace:
        found: list[Namespace] = []

        def read(cli: EnlargerCLI) -> None:
            found.append(cli.config)
            raise Read

        with monkeypatch.context() as patch:
            patch.setattr(EnlargerCLI, "instantiate_classes", read)
            with pytest.raises(Read):
                main.main([str(arg) for arg in args])
        return found[0]

    return run


@pytest.fixture(scope="session")
def _fitted(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Callable[..., Path]:
    text = (REPO / "tests" / "tiny.yaml").read_text().replace("PHOTOS", str(photo_folder))

    @functools.cache
    def fit(*args: str) -> Path:
        folder = tmp_path_factory.mktemp("fitted")
        (folder / "tiny.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            main.main(["fit", "--config", "tiny.yaml", *args])
        return folder / "runs" / "tiny"

    return fit


@pytest.fixture
def fitted(tiny: Path, _fitted: Callable[..., Path]) -> Callable[..., Path]:
    """Return a run directory as of `fit --config tiny.yaml` with more arguments, made once."""

    def copy(*args: object, name: str = "tiny") -> Path:
        return Path(shutil.copytree(_fitted(*map(str, args)), Path("runs", name)))

    return copy


@pytest.fixture
def trained(fitted: Callable[..., Path]) -> Path:
    """Return the run directory of `fit --config tiny.yaml` in `tiny`."""
    return fitted()
