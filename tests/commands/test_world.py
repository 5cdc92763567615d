"""The number of processes: environment and trainer must agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

import main
from commands.errors import ConfigurationError
from commands.world import agree, claimed

PLACE = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
RUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "1"}
RUN |= {"LOCAL_WORLD_SIZE": "3", "GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1"}
ONE = {**RUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
ONE |= {"LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "1"}
TASK = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NNODES": "2"}
TASK |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "enlarger"}
STEP = {"SLURM_STEP_NUM_TASKS": "4"}
CHILD = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", **PLACE}  # of Lightning's own


def trainer(devices: Any = "auto", num_nodes: int = 1, strategy: str = "auto") -> Namespace:
    return Namespace(
        devices=devices, num_nodes=num_nodes, strategy=strategy, accelerator="cpu", plugins=None
    )


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove variables of a launcher that may have started these tests."""
    for name in (*RUN, *TASK, *STEP, *CHILD):
        monkeypatch.delenv(name, raising=False)


def put(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "given", "rank", "becomes"),
    [
        ({}, trainer(), 0, (1, "auto", 1, "auto")),
        ({}, trainer(2), 0, (2, 2, 1, "auto")),
        (RUN, trainer(), 4, (6, 3, 2, "ddp")),
        (RUN, trainer([0, 1, 2], 2, "fsdp"), 4, (6, [0, 1, 2], 2, "fsdp")),
        (RUN, trainer("3", 2), 4, (6, "3", 2, "ddp")),
        (ONE, trainer(), 0, (1, 1, 1, "auto")),
        ({**TASK, **STEP}, trainer(), 3, (4, 2, 2, "ddp")),
        ({**TASK, **STEP, "RANK": "3", "WORLD_SIZE": "4"}, trainer(), 3, (4, 2, 2, "ddp")),
        ({**TASK, **RUN}, trainer(), 4, (6, 3, 2, "ddp")),
        ({**TASK, "SLURM_JOB_NAME": "bash"}, trainer(), 0, (1, "auto", 1, "auto")),
        ({**TASK, **STEP, "SLURM_JOB_NAME": "bash"}, trainer(), 3, (4, 2, 2, "ddp")),
        (CHILD, trainer(2, strategy="ddp"), 1, (2, 2, 1, "ddp")),
        ({"NODE_RANK": "1", **PLACE}, trainer(2, 2), 2, (4, 2, 2, "auto")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, trainer(), 0, (1, "auto", 1, "auto")),
    ],
)
def test_one_run_of_all_processes(
    environment: dict[str, str],
    given: Namespace,
    rank: int,
    becomes: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(environment, monkeypatch)
    found = agree(given)
    assert found.rank == rank
    assert (found.size, found.devices, found.num_nodes, found.strategy)[: len(becomes)] == becomes
    assert found.is_first == (rank == 0) == claimed().is_first


@pytest.mark.parametrize(
    ("environment", "given", "sentence"),
    [
        (RUN, trainer(2, 2), "3 processes on each of 2 nodes, .* or set them to 3 and 2"),
        ({"TORCHELASTIC_RUN_ID": "old"}, trainer(), "as torchrun does, but RANK"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, trainer(2), "neither torchrun nor srun .* -u RANK"),
        ({"WORLD_SIZE": "2"}, trainer(), "neither torchrun nor srun"),
        ({"LOCAL_RANK": "1"}, trainer(), "LOCAL_RANK is 1 .* but trainer.devices is auto"),
        (CHILD | {"NODE_RANK": "1"}, trainer(2), "NODE_RANK 1, but trainer.devices is 2"),
        ({"RANK": "one"}, trainer(), "RANK is 'one', but must be a whole number"),
        ({"WORLD_SIZE": ""}, trainer(), "WORLD_SIZE is '', but must be a whole number"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, trainer(), "--ntasks-per-node instead of"),
        ({**TASK, **STEP}, trainer(1, 2), "srun has started 2 processes on each of 2 nodes"),
        (TASK, trainer(), "start the command with srun"),
        ({"SLURM_NTASKS": "1"}, trainer(8), "1 processes on each .*devices is 8"),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, trainer(), "OMPI_COMM_WORLD_SIZE is 8, .*not supported"),
        ({}, trainer(2, 2), "set MASTER_ADDR, MASTER_PORT, NODE_RANK"),
    ],
)
def test_or_a_refusal_with_the_fix(
    environment: dict[str, str], given: Namespace, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(environment, monkeypatch)
    with pytest.raises(ConfigurationError, match=sentence):
        agree(given)


TWO = {**RUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def test_a_strategy_that_is_one_process_is_refused(
    tiny: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put({**TWO, "GROUP_WORLD_SIZE": "1", **PLACE}, monkeypatch)
    sentence = refusal(
        *("fit", "--config", "tiny.yaml", "--trainer.strategy"),
        "{class_path: lightning.pytorch.strategies.SingleDeviceStrategy, init_args: {device: cpu}}",
    )
    assert "this is process 0 of 2, but the trainer, by its strategy SingleDevice" in sentence


def test_what_is_no_number_is_said_before_lightning_reads_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(SystemExit) as ended:
        main.main(["fit", "--help", "all"])
    assert ended.value.code == 2
    assert "error: the environment variable WORLD_SIZE is 'x'" in capsys.readouterr().err
