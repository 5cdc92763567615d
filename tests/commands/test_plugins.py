"""Classes of a user, in a folder outside of the repository: one class and one YAML file each."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.test_resume import newest
from tests.conftest import REPO
from tests.quick import quick

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps", "2")
FILES = {
    "my_sr/degradations.py": '''
import torch
from degradations.base import Stage


class Banding(Stage):
    """Leave few levels.

    Args:
        levels: Range of their number.
    """

    def __init__(self, levels: tuple[int, int] = (4, 16)) -> None:
        super().__init__()
        self.levels = levels

    def draw(self, draws, shape):
        return {"levels": draws.integers(*self.levels)}

    def forward(self, x, params):
        levels = params["levels"].view(-1, 1, 1, 1).float()
        Banding.last = (x * levels).round() / levels
        return Banding.last
''',
    "my_sr/data.py": '''
import numpy as np
from datamodules.base import Source


class Stripes(Source):
    """Stripes of each width.

    Args:
        widths: How wide.
    """

    def __init__(self, widths: list[int], scale: float | None = None) -> None:
        super().__init__(scale)
        self.widths = widths

    @property
    def keys(self):
        return [f"stripes-{width}" for width in self.widths]

    def read(self, index):
        row = np.arange(48) // self.widths[index] % 2 * 255
        return {"hr": np.broadcast_to(row[None, :, None], (40, 48, 3)).astype(np.uint8)}
''',
    "my_sr/method.py": '''
import torch
from torch import nn
from lightning_modules.base import SuperResolver
from degradations.bicubic import resize


class Sharpened(SuperResolver):
    """Bicubic, and one convolution.

    Args:
        scale: Set by data.init_args.scale.
        size: Of the kernel.
    """

    def __init__(self, scale: float, size: int = 3) -> None:
        super().__init__(scale)
        self.filter = nn.Conv2d(3, 3, size, padding="same")

    def training_step(self, batch, batch_idx):
        loss = (self.restore(batch, None) - batch["hr"]).abs().mean()
        self.log("train/loss", loss)
        return loss

    def restore(self, batch, noise):
        return resize(batch["lr"], batch["size"]) + self.filter(resize(batch["lr"], batch["size"]))
''',
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
    "banding.yaml": """
degradation:
  class_path: degradations.Pipeline
  init_args:
    stages:
    - class_path: my_sr.degradations.Banding
      init_args: {levels: [4, 8]}
""",
    "stripes.yaml": """
data:
  init_args:
    train: {class_path: my_sr.data.Stripes, init_args: {widths: [1, 2, 3, 4]}}
    val:
      stripes: {class_path: my_sr.data.Stripes, init_args: {widths: [5, 6]}}
""",
    "sharpened.yaml": """
model:
  class_path: my_sr.method.Sharpened
  init_args: {size: 5}
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


def test_a_degradation(outside: Path, enlarger: Enlarger) -> None:
    enlarger(*FIT, "--config", "banding.yaml")
    made: Any = sys.modules["my_sr.degradations"].Banding.last
    assert made.shape[:2] == (1, 3)  # the last image: a CPU runs them one by one
    for image in made:
        assert 2 <= len(image.unique()) <= 9


def test_a_dataset(outside: Path, enlarger: Enlarger) -> None:
    enlarger(*FIT, "--config", "stripes.yaml", "--data.init_args.workers", 1)
    order = newest("tiny")["SRDataModule"]
    assert order["groups"] == [4]


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


def test_a_function_that_does_not_say_what_it_returns(
    outside: Path, enlarger: Enlarger, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("my_sr/pipelines.py")
    path.write_text(path.read_text().replace(" -> wds.WebDataset", ""))
    with pytest.raises(SystemExit):
        enlarger(*FIT, "--config", "piped.yaml")
    error = capsys.readouterr().err
    assert "train.init_args.pipeline is {'class_path': 'my_sr.pipelines.shuffled'" in error
    assert "which is not a subclass of DataPipeline" in error


def test_a_method(outside: Path, enlarger: Enlarger) -> None:
    enlarger(*FIT, "--config", "sharpened.yaml")
    checkpoint = newest("tiny")
    assert checkpoint["global_step"] == 2
    assert checkpoint["model"] == "my_sr.method.Sharpened"
    assert checkpoint["state_dict"]["filter.weight"].shape == (3, 3, 5, 5)
    enlarger("test", "--config", "tiny.yaml", "--config", "sharpened.yaml")
    assert "step-000000002.ckpt" in Path("runs/tiny/results.json").read_text()
    # and it goes on
    enlarger(*FIT, "--config", "sharpened.yaml", "--trainer.max_steps", 3)
    assert newest("tiny")["global_step"] == 3


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


@pytest.mark.slow
def test_as_it_is_typed(outside: Path) -> None:
    """In a process of its own, with folders named like ours."""
    for name in ("callbacks", "commands", "datamodules", "degradations", "lightning_modules"):
        (outside / name).mkdir()
        (outside / name / "__init__.py").write_text("raise ImportError('this is not Enlarger')\n")
    (outside / "main.py").write_text("raise ImportError('this is not Enlarger')\n")
    configs = ("banding.yaml", "stripes.yaml", "sharpened.yaml")
    more = (word for name in configs for word in ("--config", name))
    done = subprocess.run(
        [sys.executable, str(REPO / "main.py"), *FIT, *more],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert newest("tiny")["model"] == "my_sr.method.Sharpened"
    assert "Traceback" not in done.stderr
