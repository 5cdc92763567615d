"""Fixtures of the command-line tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import main
from tests.conftest import REPO


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


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    text = (REPO / "tests" / "tiny.yaml").read_text().replace("PHOTOS", str(photo_folder))
    (folder / "tiny.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main.main(["fit", "--config", "tiny.yaml"])
    return folder / "runs"


@pytest.fixture
def trained(tiny: Path, _trained_once: Path) -> Path:
    """Return the run directory of `fit --config tiny.yaml` in `tiny`."""
    shutil.copytree(_trained_once, tiny / "runs")
    return Path("runs", "tiny")
