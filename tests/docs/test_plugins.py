"""The examples of docs/plugins/ train, measure and keep their contracts, as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO

PAGES = {path.stem: path.read_text() for path in (REPO / "docs" / "plugins").glob("*.md")}
FILE = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
NAMES = {
    "degradation": "banding",
    "dataset": "gradients",
    "method": "sharpened",
    "network": "espcn",
    "metric": "gradient_error",
}
QUICKSTART = REPO / "configs" / "experiment" / "quickstart.yaml"
SMALL = (
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "null"),
    *("--trainer.logger", "false", "--data.init_args.val", "null"),
    *("--data.init_args.batch_size", "4", "--data.init_args.workers", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of all pages, to work in."""
    forget()
    for page in PAGES.values():
        for name, text in FILE.findall(page):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


def forget() -> None:
    """Other tests have examples in `my_sr`, too."""
    for name in [name for name in sys.modules if name.split(".")[0] == "my_sr"]:
        del sys.modules[name]


def test_every_page_has_an_example() -> None:
    assert set(PAGES) == set(NAMES)
    for page, name in NAMES.items():
        assert {f"my_sr/{name}.py", f"{name}.yaml"} == {
            found for found, _ in FILE.findall(PAGES[page])
        }
        assert f"--config {name}.yaml" in PAGES[page]
        assert f"--plugin my_sr.{name}" in PAGES[page] or page == "network"


@pytest.mark.parametrize("name", [name for name in NAMES.values() if name != "gradient_error"])
def test_trains(folder: Path, enlarger: Callable[..., None], name: str) -> None:
    command = ["fit", "--config", QUICKSTART, "--config", f"{name}.yaml", "--run.name", name]
    enlarger(*command, *SMALL)
    assert list(Path("runs", name, "checkpoints").glob("step-000000002.ckpt"))
    assert f"my_sr.{name}." in Path("runs", name, "config.yaml").read_text()


def test_the_metric_measures(folder: Path, enlarger: Callable[..., None]) -> None:
    bicubic = ("--model", REPO / "configs" / "model" / "bicubic.yaml", "--run.name", "gradients")
    small = ("--trainer.accelerator", "cpu", "--trainer.logger", "false")
    enlarger(
        *("test", "--config", QUICKSTART, "--config", "gradient_error.yaml", *bicubic, *small),
        *("--trainer.limit_test_batches", "1", "--data.init_args.workers", "0"),
    )
    measured = json.loads(Path("runs/gradients/results.json").read_text())["results"]
    number, control = [r for r in measured if r["metric"] == "gradient_error"]
    assert number["protocol"]["implementation"] == "my_sr 1"
    assert number["value"] == control["value"] > 0  # of bicubic, both


@pytest.mark.slow
def test_keep_their_contracts(folder: Path) -> None:
    plugins = [f"--plugin=my_sr.{name}" for page, name in NAMES.items() if page != "network"]
    command = [sys.executable, "-m", "pytest", "-q", str(REPO / "tests" / "contracts"), *plugins]
    done = subprocess.run(
        [*command, "-k", "my_sr", "-p", "no:cacheprovider"],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
