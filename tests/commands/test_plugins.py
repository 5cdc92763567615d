"""Classes of a user, in a folder outside of the repository: one class and one YAML file each."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.commands.test_resume import newest
from tests.conftest import REPO
from tests.quick import quick

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps", "2")
FILES = {
    "my_sr/pipelines.py": '''
import webdataset as wds


def shuffled(urls: str, buffer: int = 4) -> wds.WebDataset:
    """A pipeline of one's own.

    Args:
        urls: Of the tars.
        buffer: Samples that are shuffled together.
    """
    shuffled.buffer = buffer
    data = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node)
    return data.shuffle(buffer, seed=0).decode("pil")
''',
    "piped.yaml": """
data:
  init_args:
    train:
      class_path: datamodules.Stream
      init_args:
        samples: 8
        pipeline:
          class_path: my_sr.pipelines.shuffled
          init_args: {urls: photos.tar, buffer: 6}
""",
    "bare.yaml": """
data:
  init_args:
    train:
      class_path: datamodules.Stream
      init_args:
        samples: 8
        pipeline:
          class_path: webdataset.WebDataset
          init_args: {urls: photos.tar, shardshuffle: false}
""",
}


@pytest.fixture
def outside(tiny: Path) -> Iterator[Path]:
    """Return a working directory with a package of the user, which is not installed."""
    for name, content in FILES.items():
        (tiny / name).parent.mkdir(exist_ok=True)
        (tiny / name).write_text(content)
    assert not tiny.is_relative_to(REPO)
    yield tiny
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_sr"]:
        del sys.modules[name]


@pytest.mark.parametrize("config", quick(["piped.yaml", "bare.yaml"], "piped.yaml"))
def test_a_pipeline_of_webdataset(
    outside: Path, photo_folder: Path, enlarger: Enlarger, config: str
) -> None:
    with tarfile.open("photos.tar", "w") as tar:
        for path in sorted(photo_folder.glob("*.png"))[:4]:
            tar.add(path, path.name)
    enlarger(*FIT, "--config", config, "--data.init_args.workers", 1)
    order = newest("tiny")["SRDataModule"]
    assert order["groups"] == [8]
    kept = yaml.safe_load(next(Path("runs/tiny").glob("*config*.yaml")).read_text())
    pipeline = kept["data"]["init_args"]["train"]["init_args"]["pipeline"]
    if config == "piped.yaml":
        assert sys.modules["my_sr.pipelines"].shuffled.buffer == 6
        assert pipeline["class_path"] == "my_sr.pipelines.shuffled"


@pytest.mark.parametrize("given", ["", f":{REPO}", f"{REPO}::{REPO}"])
def test_ours_come_first_and_the_working_directory_is_left_out(outside: Path, given: str) -> None:
    code = f"import sys; sys.path.append({str(REPO)!r}); import main; main._set_paths(); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.path, sep='\\n')"],
        env={**os.environ, "PYTHONPATH": given},
        capture_output=True,
        text=True,
        check=True,
    )
    path = done.stdout.split("\n")[:-1]
    assert path[0] == str(REPO)
    assert not {"", str(outside)} & {*path}
