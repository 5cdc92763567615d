"""`main.py list`, the overview of all commands, and commands that start without Lightning."""

from __future__ import annotations

from importlib import import_module

import pytest

import main
from commands.arguments import listing
from commands.errors import ConfigurationError
from commands.names import TOOLS
from tests.conftest import REPO


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
    found = [entry.name for kind in KINDS for entry in listing.entries(kind)]
    exported = [f"{room}.{name}" for room in listing.ROOMS for name in import_module(room).__all__]
    exported.remove("datamodules.UnreadableImage")  # of files/, passed on
    assert sorted(found) == sorted(exported)
    methods = {entry.name: entry.about for entry in listing.entries("methods")}
    assert methods["lightning_modules.InvSR"] == "Diffusion inversion with a predicted start"
    assert "lightning_modules.Autoencoder" in methods  # through a class that is not public
    assert "lightning_modules.EDSR" not in methods
    # Another file of the room has a class of this name.
    datasets = {entry.name: entry.about for entry in listing.entries("datasets")}
    assert datasets["datamodules.Inputs"].startswith("A folder of LR images without HR references")
    degradations = {entry.name: entry.about for entry in listing.entries("degradations")}
    assert degradations["degradations.KorniaAugmentation"].endswith("does not move pixels")
    networks = {entry.name.partition(".")[2] for entry in listing.entries("networks")}
    assert "EDSR" in networks
    assert networks.isdisjoint({"Schedule", "T5", "GAN", "WarmUp", "PixelSpace"})
    losses = {entry.name for entry in listing.entries("losses")}
    assert {"lightning_modules.L1", "lightning_modules.Charbonnier"} <= losses


def test_experiments_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    files = {entry.name for entry in listing.entries("experiments")}
    assert all((REPO / "configs/experiment" / name).exists() for name in files)
    assert "quickstart.yaml" in files
    assert listing.main(["weights"]) == 0
    assert "imdn-x2" in capsys.readouterr().out
    assert listing.main([]) == 0
    assert capsys.readouterr().out.count("main.py list ") == len(listing.HINTS)
    with pytest.raises(ConfigurationError, match=r"not 'method'; did you mean 'methods'\?"):
        listing.main(["method"])
