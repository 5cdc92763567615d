"""The limit of open files: raised, never lowered, and reported if it is too low for a run."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from commands.distributed import heartbeat as company_module
from commands.distributed.heartbeat import Ranks
from commands.errors import ConfigurationError
from commands.process import MOST, raise_limit, raised

FILES = resource.RLIMIT_NOFILE


@pytest.fixture
def low() -> Iterator[int]:
    """Set a soft limit that may be raised; return the hard one."""
    soft, hard = resource.getrlimit(FILES)
    if 0 <= hard <= 512:
        pytest.skip("this machine has too low a limit")
    resource.setrlimit(FILES, (512, hard))
    yield hard
    resource.setrlimit(FILES, (soft, hard))


def test_a_command_raises_it(low: int, tiny: Path, refusal: Any) -> None:
    refusal("fit", "--config", "tiny.yaml", "--trainer.max_steps", "many")  # the parser's error
    assert resource.getrlimit(FILES) == (MOST if low < 0 else min(low, MOST), low)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 20, MOST),
        (1024, -1, MOST),
        (4096, 4096, 4096),
        (1 << 20, 1 << 20, 1 << 20),
        (-1, -1, -1),
    ],
)
def test_it_is_never_lowered(soft: int, hard: int, wanted: int) -> None:
    assert raised(soft, hard) == wanted


def test_a_system_that_refuses_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refused(*limit: Any) -> None:
        asked.append(limit)
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refused)
    raise_limit()
    assert len(asked) == 1


def meet(folder: Path, world: int) -> None:
    """Meet as rank 0 of many processes, which do not exist."""
    trainer: Any = SimpleNamespace(global_rank=0, world_size=world)
    trainer.strategy = DDPStrategy(cluster_environment=LightningEnvironment())
    Ranks(folder, 0.1, 1.0, 9.0).meet(trainer, {"config": {}})


def test_a_limit_too_low_is_named_before_anyone_is_waited_for(
    low: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_store(*_: Any) -> None:
        opened.append(True)
        raise ConnectionError("the store is not reached in this test")

    monkeypatch.setattr(company_module, "open_store", open_store)
    with pytest.raises(ConfigurationError, match="may have 512 files open here, but 86 processes"):
        meet(tmp_path, 86)
    assert not opened
    with pytest.raises(ConnectionError):
        meet(tmp_path, 85)
