"""The examples of docs/plugins/ train, measure and keep their contracts, as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from datamodules.pack import command as pack
from degradations.tools import preview
from files.method import Method
from tests.conftest import REPO, words_of
from tests.docs.blocks import blocks, files

README = REPO / "README.md"
PAGES = {path.stem: path for path in (REPO / "docs" / "plugins").glob("*.md")}
NAMES = {page: Path(min(files(path))).stem for page, path in PAGES.items()}  # sr3 of method.md
SMALL = words_of(
    """--trainer.max_steps 2 --trainer.val_check_interval null --trainer.logger false
    --trainer.accelerator cpu --trainer.enable_progress_bar false
    --data.val null --data.batch_size 4 --data.workers 0"""
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files of all pages, to work in."""
    for page in (README, *PAGES.values()):
        for name, text in files(page).items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_my_sr()  # other tests have examples in it, too
    yield tmp_path
    forget_my_sr()


def forget_my_sr():
    for name in [name for name in sys.modules if name.split(".")[0] == "my_sr"]:
        del sys.modules[name]


def typed(page, start):
    """The words after the start of the page's command, with this checkout as `~/enlarger`."""
    text = "".join(block.text for block in blocks(PAGES[page])).replace("\\\n", "")
    line = next(line for line in text.splitlines() if line.startswith(start))
    return shlex.split(line.removeprefix(start).replace("~/enlarger", str(REPO)))


def test_every_page_of_plugins_has_a_class_and_its_configuration():
    assert set(PAGES) == {"degradation", "dataset", "method", "network", "metric"}
    for page, name in NAMES.items():
        assert {f"my_sr/{name}.py", f"{name}.yaml"} == files(PAGES[page]).keys()


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"metric"}))  # which trains nothing
def test_the_example_of_a_page_trains_by_the_command_of_the_page(folder, enlarger, page):
    name = NAMES[page]
    command = typed(page, "python ~/enlarger/main.py")
    assert command[-4:] == ["--config", f"{name}.yaml", "--run.name", name]
    enlarger(*command, *SMALL)
    assert Path("runs", name, "checkpoints", "step-000000002.ckpt").is_file()
    assert f"my_sr.{name}." in Path("runs", name, "config.yaml").read_text()


def test_the_readmes_method_trains_on_packed_shards(folder, enlarger):
    Path("my/photos").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (160, 144), (60 * number, 90, 0)).save(f"my/photos/{number}.png")
    block = next(block for block in blocks(README) if block.how == "test")
    packing, training = block.text.splitlines()
    pack.main(shlex.split(packing.removeprefix("python ~/enlarger/main.py pack")))
    command = training.removeprefix("python ~/enlarger/main.py ")
    enlarger(command, *SMALL, "--trainer.callbacks", "[callbacks.PSNR]")
    assert Path("runs/subpixel/checkpoints/step-000000002.ckpt").is_file()


@pytest.mark.slow
def test_the_examples_pass_the_contract_tests_by_the_commands_of_their_pages(folder):
    tests = str(REPO / "tests" / "contracts")
    plugins = []
    for page in sorted(PAGES.keys() - {"network"}):
        plugin = ["--plugin", f"my_sr.{NAMES[page]}"]
        assert typed(page, "pytest") == [tests, *plugin, "-k", "my_sr"]
        plugins += plugin
    options = ["-q", "-p", "no:cacheprovider", "-k", "my_sr"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", tests, *plugins, *options],  # in one run of all
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_the_preview_command_of_the_degradation_page_shows_its_stage(folder, caplog):
    """The page's pipeline is GaussianNoise and, second, Banding, which draws its `levels`."""
    caplog.set_level("INFO")
    arguments = typed("degradation", "python ~/enlarger/main.py preview")
    photo = Path(arguments[-1])
    photo.parent.mkdir()
    Image.new("RGB", (64, 64), "teal").save(photo)
    preview.main(arguments)
    assert "2. Banding: Banding, levels" in caplog.text


def test_the_page_of_methods_names_each_attribute_of_class_method():
    page = PAGES["method"].read_text()
    declared = [name for name in vars(Method) if not name.startswith("_")]
    missing = [name for name in declared if not re.search(rf"`{name}[`(]", page)]
    assert missing == ["set_noise_seed"]  # only commands call it
