"""Find the classes that the contract tests run on: a new class is tested by existing.

Use, in a test module of this folder:

    def pytest_generate_tests(metafunc):
        discovery.parametrize(metafunc, "stage_class", Stage, "degradations")

    def test_something(stage_class): ...

Classes of modules given as `pytest tests/contracts --plugin my_sr.degradations` are found as ours
are; those that need arguments get the ones of a YAML file that names them. Import this module as
`from tests.contracts import discovery`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import pytest
import yaml
from jsonargparse import ArgumentParser

from files.own_modules import import_own
from files.ranges import register_ranges

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
FILES: list[Path] = []  # of `--plugin-yaml`


class Written(NamedTuple):
    """What a YAML file says of a class.

    file: The file.
    arguments: Its `init_args`.
    """

    file: Path
    arguments: dict[str, Any]


def import_tree(name: str) -> list[ModuleType]:
    """Import the module `name` and, when it is a package, every module below it.

    Raises:
        ImportError: whatever the first module that cannot be imported raised; a module that
            nobody can import would otherwise leave its classes untested in silence.
    """
    root = import_own(name)
    if not hasattr(root, "__path__"):
        return [root]
    below = sorted(found.name for found in pkgutil.walk_packages(root.__path__, prefix=f"{name}."))
    # `python -m package` runs __main__: importing it would start the program.
    names = [module for module in below if not module.endswith(".__main__")]
    return [root, *(importlib.import_module(module) for module in names)]


def concrete_subclasses(base: type[T], *names: str) -> list[type[T]]:
    """All public classes below `base` that have no abstract method left, sorted by full name.

    Args:
        base: The contract's class; not itself in the answer.
        names: Packages or modules; a class counts where it is defined, not where it is imported.
    """
    found = {
        cls
        for name in names
        for module in import_tree(name)
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, base)
        and cls is not base
        and cls.__module__ == module.__name__
        and not cls.__name__.startswith("_")
        and not inspect.isabstract(cls)
    }
    return sorted(found, key=full_name)


_of_ours = functools.cache(concrete_subclasses)


def full_name(cls: type) -> str:
    """The class path as a YAML file says it: `degradations.GaussianNoise`."""
    return f"{cls.__module__}.{cls.__qualname__}"


def plugins(config: pytest.Config) -> list[str]:
    """Modules given with `--plugin`; none when pytest was started on a folder above this one."""
    return list(config.getoption("plugin", default=None) or [])


def parametrize(
    metafunc: pytest.Metafunc,
    argument: str,
    base: type,
    package: str,
    slow: Callable[[type], bool] = lambda _: False,
) -> None:
    """Run the test once for each class below `base` in `package` and in the plug-ins.

    Does nothing for a test that does not ask for `argument`. Classes of `package` for which `slow`
    is true are left to slow tests.

    Raises:
        LookupError: `package` holds no such class, so that the test would check nothing.
    """
    if argument not in metafunc.fixturenames:
        return
    ours = _of_ours(base, package)
    if not ours:
        raise LookupError(f"no concrete {full_name(base)} in the package {package!r}")
    rows = [pytest.param(cls, marks=pytest.mark.slow if slow(cls) else ()) for cls in ours]
    rows += concrete_subclasses(base, *plugins(metafunc.config))
    metafunc.parametrize(argument, rows, ids=full_name)


def required_arguments(cls: type) -> list[str]:
    """Names of the arguments that `cls(...)` cannot do without."""
    return [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def written(cls: type, taken: int = 0) -> Written | None:
    """The arguments of a plug-in's class, of the first YAML file that has all it cannot do without.

    Files are those of `--plugin-yaml`, of the current folder, and of the folder of the class.

    Args:
        cls: The class.
        taken: How many arguments it gets from the tests, the first ones: the scale.
    """
    required = set(required_arguments(cls)[taken:])
    folders = (Path.cwd(), Path(inspect.getfile(cls)).parent)
    near = (path for folder in folders for path in sorted(folder.glob("*.y*ml")))
    for file in dict.fromkeys([*FILES, *near]):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue  # not ours: a template, say
        for arguments in _init_args(content, full_name(cls)):
            if required <= arguments.keys():
                return Written(file, arguments)
    return None


def _init_args(content: Any, class_path: str) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        if content.get("class_path") == class_path:
            yield content.get("init_args") or {}
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from _init_args(part, class_path)


def is_plugin(cls: type) -> bool:
    """Whether a class lies outside the repository."""
    return not Path(inspect.getfile(cls)).resolve().is_relative_to(REPOSITORY)


def from_yaml(cls: type[T], found: Written, *arguments: Any) -> T:
    """An instance with the arguments of a YAML file, as `main.py` would make it.

    Args:
        cls: The class.
        found: What `written` gave.
        arguments: The first ones, of the tests.
    """
    names = list(inspect.signature(cls).parameters)[: len(arguments)]
    rest = {name: value for name, value in found.arguments.items() if name not in names}
    register_ranges()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "made", skip={len(names)} if names else None)
    values = parser.parse_object({"made": rest})
    return cls(
        *arguments, **vars(parser.instantiate_classes(values, instantiate_groups=False).made)
    )


def made(cls: type[T], advice: str, *arguments: Any) -> T:
    """An instance: with `arguments` alone, or for a plug-in's class with those of a YAML file too.

    Args:
        cls: The class.
        advice: What to do about a class of ours that needs more.
        arguments: What every class of the kind takes first.
    """
    missing = required_arguments(cls)[len(arguments) :]
    if not missing:
        return cls(*arguments)
    found = written(cls, len(arguments)) if is_plugin(cls) else None
    if found is not None:
        return from_yaml(cls, found, *arguments)
    fix = (
        f"write `class_path: {full_name(cls)}` with these init_args into a YAML file in this "
        "folder or beside the class, or name the file with --plugin-yaml"
        if is_plugin(cls)
        else f"give them defaults, or {advice}"
    )
    pytest.fail(f"{full_name(cls)} cannot be made without {', '.join(missing)}: {fix}", False)
