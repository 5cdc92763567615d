"""Names of classes, and modules of a user's own in the working directory.

The working directory is not on ``sys.path``: modules are imported from there only by class paths.

A library asks for many packages that are not installed. A script that happens to have such a name,
in the folder where a command is typed, must not run. So that folder is searched only for the module
of a class path, and for what a module found there imports itself.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType

# Functions that import what a user named. Private names: the tests of plug-ins fail without them.
LOOKUPS = {
    (__name__, "import_own"),
    ("jsonargparse._util", "import_object"),
    ("multiprocessing.spawn", "_main"),  # the pickled work of a new process
}
SAFE_PATH = ("PYTHONSAFEPATH", "enlarger")  # Python takes any text as yes


class OwnModules:
    """A finder at the end of ``sys.meta_path``, so that it never hides another module.

    Attributes:
        folder: Where a user's modules are; by default the working directory at each import.
    """

    def __init__(self) -> None:
        self.folder = ""
        self._modules: set[str] = set()  # top-level names that were found there

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a top-level module; those below it are found through its ``__path__``."""
        if path is not None or not self._may_import(_importer()):
            return None
        spec = PathFinder.find_spec(name, [self.folder])
        if spec is not None:
            self._modules.add(name)
            if spec.submodule_search_locations is not None:  # a namespace would follow sys.path
                spec.submodule_search_locations = [*spec.submodule_search_locations]
        return spec

    def _may_import(self, importer: FrameType | None) -> bool:
        """Return whether the importing code is one of ``LOOKUPS``, or a module found here."""
        if importer is None:
            return False
        module = _module_of(importer)
        is_own = module.partition(".")[0] in self._modules
        return is_own or (module, importer.f_code.co_name) in LOOKUPS


OWN = OwnModules()


def start_safely() -> None:
    """Keep the working directory off the path of Python processes that this one starts.

    ``multiprocessing`` starts them by ``python -c``, which would import from there.
    """
    os.environ.setdefault(*SAFE_PATH)


def own_environment() -> dict[str, str]:
    """Return the environment variables for commands of a user: without that of ``start_safely``."""
    return dict(os.environ.items() - {SAFE_PATH})


def import_own(name: str) -> ModuleType:
    """Import a module that a user named, also from the working directory.

    ``OwnModules`` searches that directory for imports by functions in ``LOOKUPS`` alone. This one
    is among them: a bare ``importlib.import_module`` would not look there.

    Raises:
        ImportError: If there is no such module, or it cannot be imported.
    """
    return importlib.import_module(name)


def _importer() -> FrameType | None:
    """Return the frame of the code whose import calls ``find_spec``, past those of importlib."""
    frame: FrameType | None = sys._getframe(2)  # of the caller of find_spec
    while frame is not None and _module_of(frame).partition(".")[0] == "importlib":
        frame = frame.f_back
    return frame


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def class_path(cls: type) -> str:
    """Return the shortest path under which a configuration finds a class.

    A room's public names, such as ``callbacks.PSNR``, stay the same when files move.

    Args:
        cls: The class.
    """
    package = cls.__module__.partition(".")[0]
    public = getattr(sys.modules.get(package), cls.__name__, None)
    return f"{package if public is cls else cls.__module__}.{cls.__qualname__}"
