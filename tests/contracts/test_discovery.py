"""Discovery finds what it should and nothing else; `--plugin` reaches a folder outside the repo."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from degradations.base import Degradation, Stage
from degradations.bicubic import Bicubic
from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise
from tests.contracts import discovery

HERE = Path(__file__).parent

TREE = {
    "zoo/__init__.py": "",
    "zoo/base.py": """
from abc import ABC, abstractmethod
class Animal(ABC):
    @abstractmethod
    def voice(self): ...
""",
    "zoo/cats.py": """
from zoo.base import Animal
class Cat(Animal):
    def voice(self): ...
class _Draft(Cat): ...
class Feline(Animal): ...
class Stone: ...
""",
    "zoo/house/__init__.py": "",
    "zoo/house/dogs.py": """
from zoo.cats import Cat
class Dog(Cat): ...
""",
    "zoo/__main__.py": "raise SystemExit('started')",
}

PLUGIN = """
import torch
from degradations.base import Stage

class Banding(Stage):
    def draw(self, draws, shape):
        return {"levels": draws.integers(8, 32)}

    def forward(self, x, params):
        n = params["levels"].view(-1, 1, 1, 1)
        return (x * n).round() / n

class Careless(Banding):
    def forward(self, x, params):
        return x + torch.randn_like(x)

class Demanding(Banding):
    def __init__(self, strength):
        super().__init__()
"""


def write(root, tree):
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    write(tmp_path, TREE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
        del sys.modules[name]


@pytest.mark.usefixtures("zoo")
class TestConcreteSubclasses:
    def names(self, *packages):
        from zoo.base import Animal

        return [
            discovery.full_name(cls) for cls in discovery.concrete_subclasses(Animal, *packages)
        ]

    def test_finds_concrete_public_ones_where_they_are_defined(self):
        assert self.names("zoo") == ["zoo.cats.Cat", "zoo.house.dogs.Dog"]

    def test_a_module_alone(self):
        assert self.names("zoo.house.dogs") == ["zoo.house.dogs.Dog"]

    def test_several_packages_do_not_repeat(self):
        assert self.names("zoo", "zoo.cats") == self.names("zoo")

    def test_a_module_that_fails_to_import_is_not_passed_over(self, tmp_path):
        write(tmp_path, {"zoo/broken.py": "import no_such_module"})
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            self.names("zoo")


def test_finds_ours():
    assert {Bicubic, Pipeline} <= set(discovery.concrete_subclasses(Degradation, "degradations"))
    assert GaussianNoise in discovery.concrete_subclasses(Stage, "degradations")


def test_required_arguments():
    assert discovery.required_arguments(Pipeline) == ["scale", "stages"]
    assert discovery.required_arguments(GaussianNoise) == []


class FakeMetafunc:
    fixturenames = ("cls",)

    def __init__(self, config):
        self.config = config


def test_an_empty_package_is_an_error(pytestconfig):
    class Lonely(ABC):
        @abstractmethod
        def nothing(self): ...

    with pytest.raises(LookupError, match=r"no concrete .*Lonely in the package 'degradations'"):
        discovery.parametrize(FakeMetafunc(pytestconfig), "cls", Lonely, "degradations")


@pytest.mark.slow
def test_plugin_option(tmp_path):
    """Of a folder outside the repository: one class keeps the contract, two do not."""
    write(tmp_path, {"my_sr/degradations.py": PLUGIN})
    # Quick tests of the contract are enough: the option is what is tested here.
    tests = [f"{HERE}/test_degradations.py", "--plugin", "my_sr.degradations"]
    chosen = ["-k", "my_sr and (same_seeds or global_generator)"]
    options = ["-q", "-rfE", "--no-header", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, *chosen, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 1, report
    assert "2 failed, 2 passed" in report, report
    assert "1 error" in report, report
    for name in ("same_seeds_give_the_same_bits", "no_global_generator_is_used"):
        assert f"{name}[my_sr.degradations.Careless]" in report
        assert f"{name}[my_sr.degradations.Banding]" not in report
    assert "the global generator of torch was used: draw from `draws` only" in report
    assert "my_sr.degradations.Demanding cannot be made without strength" in report
