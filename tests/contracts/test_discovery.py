"""Discovery finds what it should and nothing else; `--plugin` reaches a folder outside the repo."""

from __future__ import annotations

import sys

import pytest

from tests.contracts import discovery

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

    def test_a_module_that_fails_to_import_is_not_passed_over(self, tmp_path):
        write(tmp_path, {"zoo/broken.py": "import no_such_module"})
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            self.names("zoo")
