"""Begin a stage of your own: ``python -m degradations.plugin NAME``.

Writes a commented template, its test and a YAML file that uses it, and says what to do next.
"""

from __future__ import annotations

import argparse
import keyword
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]  # of the checkout: main.py and the contract's tests

STAGE = Template('''\
"""$title: TODO say in a sentence what happens to a picture here."""

from __future__ import annotations

import torch
from torch import Tensor

from degradations.base import Stage, check_range
from degradations.draws import Draws
from degradations.params import Params, per_image


class $cls(Stage):
    """Raise each picture to a power of its own (TODO: an example; put yours in its place).

    Args:
        gamma: Range of the power; 1 leaves a picture as it is.
    """

    # The text under Args is the help on the command line, and init_args in YAML are these
    # arguments. Give each a type and a default, and check it here: an error shall name the key.
    def __init__(self, gamma: tuple[float, float] = (0.7, 1.4)) -> None:
        super().__init__()
        self.gamma = check_range(gamma, "gamma", low=0.1, high=10.0)

    # The only place of chance. `draws` has a stream of its own for each image: uniform, integers,
    # choice, bernoulli and normal give one number an image; give back arrays of (B,) or (B, ...).
    # For noise draw only `draws.seeds()`, and make the field of it in `forward`, with
    # `degradations.fields.seeded_randn_like(x, params["field_seeds"])`.
    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`gamma` (B,)."""
        return {"gamma": draws.uniform(*self.gamma)}

    # What is drawn arrives here as tensors on the picture's device. `x` is (B, 3, H, W) float32,
    # about [0, 1]: an earlier stage may have overshot, so clamp where it matters, as here: a power
    # of a negative number is NaN. Do not change `x` in place, and make what you need beside it from
    # `x` (its dtype and device). `per_image` gives (B,) the shape (B, 1, 1, 1).
    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply it, (B, C, H, W)."""
        return x.clamp(0.0, 1.0) ** per_image(params["gamma"], x)

    # True: each pixel is changed by itself, wherever it lies and whatever is around it, so that a
    # GPU may do images of differing sizes at once. Delete the line for a stage that looks at
    # places, neighbours, sizes or whole images: it then gets one image at a time.
    pixelwise = True

    # There is more, for stages that need it (see degradations/base.py):
    # - `prepare(params)`: work out something for a whole batch at once, such as kernels;
    # - `on_canvas(canvas, params)`: how it runs for all pictures at once on a GPU, where one image
    #   at a time is too slow for what is not `pixelwise`;
    # - `resizes = True`: pictures come out with sizes of their own; then `on_canvas` is a must.
''')

TEST = Template('''\
"""$cls keeps the contract of stages, and does what it says."""

from __future__ import annotations

import pytest
import torch

from $module import $cls
from tests.contracts.degradation_contract import StageContract


class TestContract(StageContract):
    """Some twenty tests: any size, any batch, no other chance than `draw`, hostile pictures."""

    @pytest.fixture
    def stage(self):
        return $cls()


# TODO yours: what must come out for a picture of which you know it.
def test_a_power_of_1_changes_nothing():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal($cls()(x, {"gamma": torch.ones(2)}), x)


def test_a_power_of_2_squares():
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    y = $cls()(x, {"gamma": torch.tensor([2.0])})
    assert y.flatten().tolist() == [0.0, 0.25, 1.0]


def test_a_range_that_is_reversed():
    with pytest.raises(ValueError, match="gamma"):
        $cls((2.0, 1.0))
''')

YAML = Template("""\
# python main.py fit --config EXPERIMENT.yaml --config $yaml
# Replaces the experiment's degradation: this stage alone, then bicubic to the LR's size. Put it
# into a recipe of more stages under a name: what the others draw stays as it was.
degradation:
  class_path: degradations.pipeline.Pipeline
  init_args:
    stages:
    - class_path: $module.$cls
      init_args: {gamma: [0.7, 1.4]}
""")


_TAKEN = ("Draws", "Params", "Stage", "Tensor")  # names that the template imports


class Plugin(NamedTuple):
    """What is written, and where.

    cls: Name of the class.
    module: Its module, as an import names it.
    files: Content by path.
    """

    cls: str
    module: str
    files: dict[Path, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0 if the files were written, 2 if nothing was done.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        plugin = plugin_of(options.name, options.folder)
        write(plugin)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    for line in next_steps(plugin):
        log.info("%s", line)
    return 0


def plugin_of(name: str, folder: Path) -> Plugin:
    """The files of a plug-in.

    Args:
        name: What the stage is called: ``Rain``, ``rain_drops`` or ``rain-drops``.
        folder: Package to write them to, relative to the folder that commands are started in.

    Raises:
        ValueError: They are no names of a class and a package.
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    cls, stem = "".join(word[0].upper() + word[1:] for word in words), "_".join(words).lower()
    good = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) and cls not in _TAKEN
    if not good or keyword.iskeyword(stem) or keyword.iskeyword(cls):
        raise ValueError(f"NAME is {name!r}; expected the name of a class, such as RainDrops")
    parts = folder.parts
    if folder.is_absolute() or not parts or not all(_is_name(part) for part in parts):
        raise ValueError(
            f"--folder is {str(folder)!r}; expected a package below this folder, such as my_sr"
        )
    if (ROOT / parts[0] / "__init__.py").exists():
        raise ValueError(
            f"--folder is {str(folder)!r}, which is one of Enlarger's own packages; expected one "
            "of yours, such as my_sr"
        )
    module = ".".join((*parts, stem))
    yaml = folder / f"{stem}.yaml"
    fields = {"cls": cls, "module": module, "title": " ".join(words), "yaml": yaml.as_posix()}
    return Plugin(
        cls,
        module,
        {
            folder / f"{stem}.py": STAGE.substitute(fields),
            folder / f"test_{stem}.py": TEST.substitute(fields),
            yaml: YAML.substitute(fields),
        },
    )


def write(plugin: Plugin) -> None:
    """Write the files; either all of them or none.

    Raises:
        ValueError: One of them is there already.
    """
    there = [str(path) for path in plugin.files if path.exists()]
    if there:
        raise ValueError(
            f"{', '.join(there)} is there already, and nothing is overwritten: take another NAME "
            "or --folder"
        )
    for path, content in plugin.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(content)


def next_steps(plugin: Plugin) -> list[str]:
    """Lines to print; the commands are those that begin with four spaces."""
    module, test, config = plugin.files
    root = shlex.quote(str(ROOT))
    python = f"PYTHONPATH={root} {shlex.quote(sys.executable)}"
    ours = f"-c {shlex.quote(str(ROOT / 'pyproject.toml'))} -p no:cacheprovider"
    main_py = shlex.quote(str(ROOT / "main.py"))
    experiment = shlex.quote(str(ROOT / "configs" / "experiment" / "quickstart.yaml"))
    return [
        *(f"wrote {path}" for path in plugin.files),
        f"Now write your stage into {module}, and after each change, in this folder:",
        f"    {python} -m pytest {ours} {test}",
        "see what it does to a picture:",
        f"    {python} -m degradations.preview --config {config} --scale 4 PICTURE",
        "and train with it, in the place of any experiment's degradation:",
        f"    {python} {main_py} fit --config {experiment} --config {config} --run.name "
        f"{config.stem}",
    ]


def _is_name(part: str) -> bool:
    return part.isidentifier() and not keyword.iskeyword(part)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m degradations.plugin",
        description="Write a commented template of a stage of your own, its test, and a YAML file "
        "that uses it, into a package in the current folder. Nothing is overwritten.",
        epilog="example: python -m degradations.plugin RainDrops",
    )
    parser.add_argument("name", metavar="NAME", help="name of the stage, such as RainDrops")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("my_sr"),
        metavar="PACKAGE",
        help="folder to write to (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
