"""What torchrun has started is what the trainer trains on."""

from __future__ import annotations

import pytest
from jsonargparse import Namespace

from commands.errors import ConfigurationError
from commands.launcher import follow_torchrun


@pytest.fixture
def torchrun(monkeypatch):
    """Two nodes of three processes."""
    for name, value in {"LOCAL_WORLD_SIZE": "3", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")


def trainer(devices="auto", num_nodes=1, strategy="auto"):
    return Namespace(devices=devices, num_nodes=num_nodes, strategy=strategy)


def test_defaults_follow(torchrun):
    given = trainer()
    follow_torchrun(given)
    assert given == trainer(3, 2, "ddp")


@pytest.mark.parametrize("devices", [3, "3", [0, 1, 2]])
def test_what_fits_is_left(torchrun, devices):
    given = trainer(devices, 2, "fsdp")
    follow_torchrun(given)
    assert given == trainer(devices, 2, "fsdp")


@pytest.mark.parametrize(("devices", "num_nodes"), [(2, 2), (3, 3), ([0], 2)])
def test_what_does_not_fit_is_an_error(torchrun, devices, num_nodes):
    with pytest.raises(ConfigurationError, match=r"3 processes on each of 2 nodes, .* set them"):
        follow_torchrun(trainer(devices, num_nodes))


def test_nothing_without_torchrun_or_with_one_process(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    given = trainer()
    follow_torchrun(given)
    assert given == trainer()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    follow_torchrun(given)
    assert given == trainer()
