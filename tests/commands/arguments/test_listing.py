"""`main.py list`, the overview of all commands, and commands that start without Lightning."""

from __future__ import annotations

from importlib import import_module

import pytest

import main
from commands.arguments import listing
from commands.names import TOOLS


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_the_main_of_its_module(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(import_module(TOOLS[name]).main)
    if name != "list":
        with pytest.raises(SystemExit) as ended:
            main.main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: main.py {name} ")


KINDS = ("methods", "networks", "parts", "losses", "degradations", "datasets", "metrics")


def test_each_public_name_is_listed_once() -> None:
    listed = [entry.name for kind in KINDS for entry in listing.entries(kind)]
    found = [name for name in listed if not name.endswith(".yaml")]
    exported = [f"{room}.{name}" for room in listing.ROOMS for name in import_module(room).__all__]
    exported.remove("datamodules.UnreadableImage")  # of files/, passed on
    assert sorted(found) == sorted(exported)
