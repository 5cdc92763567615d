"""The examples of docs/plugins/ train, measure and keep their contracts, as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from datamodules.pack import __main__ as pack
from degradations.tools import preview
from files.method import Method
from tests.conftest import REPO
from tests.docs.blocks import blocks, files

PLUGINS = "tests/docs/test_plugins.py"
PAGES = {path.stem: path for path in (REPO / "docs" / "plugins").glob("*.md")}
NAMES = {
    "degradation": "banding",
    "dataset": "gradients",
    "method": "sr3",
    "network": "espcn",
    "metric": "gradient_error",
}
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
        for name, text in files(page).items():
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


def typed(page: str, start: str) -> list[str]:
    """What follows in the page's command that begins so, with this checkout as `~/enlarger`.

    Args:
        page: Its name.
        start: `python ~/enlarger/main.py`, say.
    """
    text = "".join(block.text for block in blocks(PAGES[page])).replace("\\\n", "")
    line = next(line for line in text.splitlines() if line.startswith(start))
    return shlex.split(line.removeprefix(start).replace("~/enlarger", str(REPO)))


def test_every_page_has_an_example() -> None:
    assert set(PAGES) == set(NAMES)
    for page, name in NAMES.items():
        assert {f"my_sr/{name}.py", f"{name}.yaml"} == files(PAGES[page]).keys()


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"metric"}))
def test_trains(folder: Path, enlarger: Callable[..., None], page: str) -> None:
    name = NAMES[page]
    command = typed(page, "python ~/enlarger/main.py")
    assert command[-4:] == ["--config", f"{name}.yaml", "--run.name", name]
    enlarger(*command, *SMALL)
    assert list(Path("runs", name, "checkpoints").glob("step-000000002.ckpt"))
    assert f"my_sr.{name}." in Path("runs", name, "config.yaml").read_text()


def test_the_readmes_method_trains_on_packed_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enlarger: Callable[..., None]
) -> None:
    forget()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in files(REPO / "README.md").items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    photos = Path("my", "photos")
    photos.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (160, 144), (60 * number, 90, 0)).save(photos / f"{number}.png")
    block = next(block for block in blocks(REPO / "README.md") if block.why == PLUGINS)
    (_, *packed), fit = [shlex.split(line)[2:] for line in block.text.splitlines()]

    pack.main(packed)
    enlarger(*fit, *SMALL, "--trainer.callbacks", "[callbacks.PSNR]")

    assert list(Path("runs", "subpixel", "checkpoints").glob("step-000000002.ckpt"))
    forget()


@pytest.mark.slow
def test_keep_their_contracts(folder: Path) -> None:
    tests, chosen = str(REPO / "tests" / "contracts"), ["-k", "my_sr"]
    plugins = []
    for page in sorted(PAGES.keys() - {"network"}):
        plugins += ["--plugin", f"my_sr.{NAMES[page]}"]
        assert typed(page, "pytest") == [tests, *plugins[-2:], *chosen]
    command = [sys.executable, "-m", "pytest", "-q", tests, *plugins, *chosen]  # in one run of all
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_the_stage_of_the_page_is_previewed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = typed("degradation", "python ~/enlarger/main.py preview")
    photo = Path(arguments[-1])
    photo.parent.mkdir()
    Image.new("RGB", (64, 64), "teal").save(photo)
    with caplog.at_level("INFO"):
        preview.main(arguments)
    assert "2. Banding: Banding, levels" in caplog.text


def test_the_page_names_all_that_is_read_of_a_method() -> None:
    page = PAGES["method"].read_text()
    declared = [name for name in vars(Method) if not name.startswith("_")]
    missing = [name for name in declared if not re.search(rf"`{name}[`(]", page)]
    assert missing == ["set_noise_seed"]  # for commands
