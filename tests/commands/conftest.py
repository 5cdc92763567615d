"""Fixtures of the command-line tests: what is typed, and what comes of it."""

import functools
import os
import re
import shutil
from pathlib import Path

import lightning.pytorch  # noqa: F401  (it logs to the stderr of its import: none of a test's)
import pytest

import main
from tests.conftest import words_of, write_tiny

BICUBIC = """\
model: lightning_modules.Bicubic
data: {class_path: datamodules.SRDataModule, init_args: {scale: 2, workers: 0}}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false, callbacks: [callbacks.PSNR]}
"""


@pytest.fixture
def bicubic(tiny):
    """Name of a configuration that needs no training, whose run is called tiny, too."""
    (tiny / "bicubic").mkdir()
    (tiny / "bicubic" / "tiny.yaml").write_text(BICUBIC)
    return "bicubic/tiny.yaml"


@pytest.fixture
def command(enlarger):
    """The fixture `enlarger`, by another name where that is the module."""
    return enlarger


@pytest.fixture
def refusal(capsys):
    """Run a command that must fail with status 2 and one sentence; return the sentence."""

    def run(*typed):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main.main(words_of(*typed))
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
def configured(monkeypatch):
    """Do what a command does before it builds anything, and return its configuration."""
    from commands.cli import EnlargerCLI

    def run(*typed):
        configs = []

        def read(cli):
            configs.append(cli.config)
            raise Read

        with monkeypatch.context() as patch:
            patch.setattr(EnlargerCLI, "instantiate_classes", read)
            with pytest.raises(Read):
                main.main(words_of(*typed))
        return configs[0]

    return run


@pytest.fixture(scope="session")
def _fitted(tmp_path_factory, photo_folder):
    @functools.cache
    def fit(options):
        folder = tmp_path_factory.mktemp("fitted")
        write_tiny(folder, photo_folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            main.main(words_of(f"fit --config tiny.yaml {options}"))
        return folder / "runs" / "tiny"

    return fit


@pytest.fixture
def fitted(tiny, _fitted):
    """Copy the run directory of `fit --config tiny.yaml OPTIONS`, which is trained once."""

    def copy(options="", name="tiny"):
        return Path(shutil.copytree(_fitted(options), Path("runs", name)))

    return copy


@pytest.fixture
def trained(fitted):
    """The run directory of `fit --config tiny.yaml` in `tiny`."""
    return fitted()


@pytest.fixture
def no_launcher(monkeypatch):
    """Remove the variables of a launcher that may have started the tests."""
    for name in [*os.environ]:
        if re.match("SLURM_|TORCHELASTIC_|GROUP_|MASTER_|(LOCAL_|NODE_)?RANK|(LOCAL_)?WORLD", name):
            monkeypatch.delenv(name)
