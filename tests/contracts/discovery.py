"""Find the classes that the contract tests run on: a new class is tested by existing.

Use, in a test module of this folder:

    def pytest_generate_tests(metafunc):
        discovery.parametrize(metafunc, "stage_class", Stage, "degradations")

    def test_something(stage_class): ...

Classes of modules given as `pytest tests/contracts --plugin my_sr.degradations` are found as ours
are. Import this module as `from tests.contracts import discovery`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

import pytest

from files.own_modules import import_own


def import_tree(name):
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


def concrete_subclasses(base, *names):
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


def full_name(cls):
    """The class path as a YAML file says it: `degradations.GaussianNoise`."""
    return f"{cls.__module__}.{cls.__qualname__}"


def plugins(config):
    """Modules given with `--plugin`; none when pytest was started on a folder above this one."""
    return list(config.getoption("plugin", default=None) or [])


def parametrize(metafunc, argument, base, package, slow=()):
    """Run the test once for each class below `base` in `package` and in the plug-ins.

    Does nothing for a test that does not ask for `argument`. Classes of `package` whose names
    are in `slow` are left to slow tests.

    Raises:
        LookupError: `package` holds no such class, so that the test would check nothing.
    """
    if argument not in metafunc.fixturenames:
        return
    ours = _of_ours(base, package)
    if not ours:
        raise LookupError(f"no concrete {full_name(base)} in the package {package!r}")
    rows = [pytest.param(c, marks=pytest.mark.slow if c.__name__ in slow else ()) for c in ours]
    rows += concrete_subclasses(base, *plugins(metafunc.config))
    metafunc.parametrize(argument, rows, ids=full_name)


def made(cls, advice, *arguments):
    """An instance, with `arguments` alone.

    Args:
        cls: The class.
        advice: What to do about a class that needs more.
        arguments: What every class of the kind takes first.
    """
    required = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = required[len(arguments) :]
    if missing:
        pytest.fail(
            f"{full_name(cls)} cannot be made without {', '.join(missing)}: give them defaults, "
            f"or {advice}; a class outside of the repository needs a test file of your own, as "
            "the docstrings of tests/contracts/*_contract.py show",
            False,
        )
    return cls(*arguments)
