"""The README's own examples: its plug-ins train two steps, and every file it names exists."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPO

README = (REPO / "README.md").read_text()
BLOCK = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
SMALL = [
    *(
        "--trainer.max_steps",
        "2",
        "--trainer.val_check_interval",
        "null",
        "--trainer.logger",
        "false",
    ),
    *(
        "--data.init_args.val",
        "null",
        "--data.init_args.batch_size",
        "4",
        "--data.init_args.workers",
        "0",
    ),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the README's examples, to work in."""
    for name, text in BLOCK.findall(README):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("plugin", ["banding", "gradients", "sharpened"])
def test_plugins_train(examples: Path, enlarger: Callable[..., None], plugin: str) -> None:
    assert (examples / f"{plugin}.yaml").is_file(), "the README shows no such example any more"
    experiment = REPO / "configs" / "experiment" / "quickstart.yaml"
    command = ["fit", "--config", experiment, "--config", f"{plugin}.yaml", "--run.name", plugin]
    enlarger(*command, *SMALL)
    assert list(Path("runs", plugin, "checkpoints").glob("step-000000002.ckpt"))


def test_named_files_exist() -> None:
    named = re.findall(r"\b((?:configs|docs|callbacks|tests|benchmarks)/[\w./-]+\.\w+)", README)
    assert len(named) > 5
    missing = [name for name in named if not (REPO / name).exists()]
    assert not missing
