"""Only `files/` expands, searches and opens paths of users."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPO
from tests.syntax import parsed

ROOMS = ("callbacks", "commands", "datamodules", "degradations", "lightning_modules")
CALLS = {"expandvars", "expanduser", "walk", "glob", "iglob", "rglob", "scandir"}
# Calls for other paths than those of users, with the reason.
ALLOWED = {
    ("callbacks/metrics/sets.py", "expanduser"): "the cache's constant path",
    ("callbacks/weights.py", "glob"): "the cache of Hugging Face, whose place it says itself",
    ("commands/arguments/early.py", "glob"): "a suggestion in a message",
    ("commands/arguments/early.py", "rglob"): "Enlarger's own code and configurations",
    ("commands/arguments/listing.py", "rglob"): "Enlarger's own code",
    ("commands/export/export.py", "rglob"): "the folder that it has just written",
    ("commands/distributed/preflight.py", "rglob"): "Enlarger's own code",
    ("commands/released.py", "glob"): "Enlarger's own configurations",
    ("commands/run/weights.py", "glob"): "one file's name in an exported folder, a fixed pattern",
    ("datamodules/shards/cache.py", "scandir"): "own files in the cache",
    ("datamodules/shards/remote.py", "glob"): "a remote system's, not a path",
    ("datamodules/shards/writer.py", "glob"): "own files, a fixed pattern",
}
# Modules that read images, lists and recipes of users open paths only through `files/`.
READERS = (
    *("datamodules/files/decode.py", "datamodules/files/paths.py", "datamodules/pack/images.py"),
    *("datamodules/pack/inputs.py", "datamodules/sources/clips.py"),
    *("datamodules/sources/folder.py", "datamodules/sources/paired.py"),
    *("datamodules/sources/prompts.py", "datamodules/sources/triplets.py"),
    *("degradations/images.py", "degradations/stages/blur.py", "degradations/tools/configure.py"),
    "lightning_modules/controls/simple.py",
)
OPENS = {"open", "read_bytes", "read_text", "load"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield name, node


def test_nothing_else_expands_or_searches_a_path() -> None:
    found = {
        (path.relative_to(REPO).as_posix(), name)
        for room in ROOMS
        for path in (REPO / room).rglob("*.py")
        for name, node in calls(path)
        if name in CALLS and (name != "walk" or ast.unparse(node).startswith("os."))
    }
    assert found - ALLOWED.keys() == set(), "use files.paths instead"
    assert ALLOWED.keys() - found == set(), "no longer there"


def test_readers_of_images_and_lists_open_through_it() -> None:
    for name in READERS:
        for called, node in calls(REPO / name):
            text = ast.unparse(node)
            if called not in OPENS or text.startswith(("yaml.load", "json.load", "lmdb.open")):
                continue
            own = called in ("read_bytes", "read_text") and isinstance(node.func, ast.Name)
            memory = text.startswith(("Image.open(io.BytesIO(", "np.load(io.BytesIO("))
            opened = text.startswith(("Image.open(file, formats", "np.load(file"))
            assert own or memory or opened, f"{name}: {text}"
