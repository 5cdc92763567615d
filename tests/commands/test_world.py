"""The number of processes: environment and trainer must agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

import main
from commands import world
from commands.distributed.launch import ExternalEnvironment, own_plugins
from commands.errors import ConfigurationError
from commands.world import OTHERS, PLAIN, SLURM, TORCHRUN, agree, claimed
from tests.quick import quick

Enlarger = Callable[..., None]
PLACE = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
HERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
RUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "1"}
RUN |= {"LOCAL_WORLD_SIZE": "3", "GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1"}
BY_HAND = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
KUBEFLOW = {"RANK": "1", "WORLD_SIZE": "2", **PLACE}
TASK = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NNODES": "2"}
TASK |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "enlarger"}
STEP = {"SLURM_STEP_NUM_TASKS": "4"}
MPI = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8"}
MPI |= {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
CHILD = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", **HERE}  # of Lightning's own


def trainer(devices: Any = "auto", num_nodes: int = 1, strategy: str = "auto") -> Namespace:
    return Namespace(
        devices=devices, num_nodes=num_nodes, strategy=strategy, accelerator="cpu", plugins=None
    )


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove variables of a launcher that may have started these tests."""
    given = {name for launcher in (TORCHRUN, SLURM, PLAIN) for name in launcher.variables}
    for name in {*given, *OTHERS, world.SIGN, *world.ADDRESS, "NODE_RANK", "GROUP_RANK"}:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "given", "rank", "becomes"),
    [
        ({}, trainer(), 0, (1, "auto", 1, "auto")),
        ({}, trainer(2), 0, (2, 2, 1, "auto")),
        (RUN, trainer(), 4, (6, 3, 2, "ddp")),
        (RUN, trainer([0, 1, 2], 2, "fsdp"), 4, (6, [0, 1, 2], 2, "fsdp")),
        (RUN, trainer("3", 2), 4, (6, "3", 2, "ddp")),
        ({**BY_HAND, **HERE}, trainer(), 1, (2, 2, 1, "ddp")),
        ({**BY_HAND, **PLACE}, trainer(2), 1, (2, 2, 1, "ddp")),
        ({**BY_HAND, **PLACE, "LOCAL_WORLD_SIZE": "2"}, trainer(), 1, (2, 2, 1, "ddp")),
        (KUBEFLOW, trainer(), 1, (2, 1, 2, "ddp")),
        ({**KUBEFLOW, "PET_NNODES": "2"}, trainer(), 1, (2, 1, 2, "ddp")),
        ({**TASK, **STEP}, trainer(), 3, (4, 2, 2, "ddp")),
        (TASK, trainer(2, 2, "ddp"), 3, (4, 2, 2, "ddp")),
        ({**TASK, **STEP, "RANK": "3", "WORLD_SIZE": "4"}, trainer(), 3, (4, 2, 2, "ddp")),
        ({**TASK, **RUN}, trainer(), 4, (6, 3, 2, "ddp")),
        ({**TASK, "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0"}, trainer(), 0, (1, "auto", 1)),
        ({**TASK, **STEP, "SLURM_JOB_NAME": "bash"}, trainer(), 3, (4, 2, 2, "ddp")),
        ({"SLURM_PROCID": "0", "SLURM_JOB_NAME": "x"}, trainer(2), 0, (2, 2, 1, "auto")),
        ({**MPI, **BY_HAND, **HERE}, trainer(), 1, (2, 2, 1, "ddp")),
        (CHILD, trainer(2, strategy="ddp"), 1, (2, 2, 1, "ddp")),
        ({"NODE_RANK": "1", **PLACE}, trainer(2, 2), 2, (4, 2, 2, "auto")),
        ({"RANK": "0"}, trainer(), 0, (1, "auto", 1, "auto")),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, trainer(), 0, (1, "auto", 1, "auto")),
        ({"WORLD_SIZE": "1"}, trainer(1), 0, (1, 1, 1, "auto")),
        ({"MASTER_PORT": ""}, trainer(1), 0, (1, 1, 1, "auto")),
        ({"MASTER_ADDR": "gone", "GROUP_RANK": "0"}, trainer(), 0, (1, "auto", 1, "auto")),
        ({**RUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
          "GROUP_WORLD_SIZE": "1"}, trainer(), 0, (1, 1, 1, "auto")),
    ],
)  # fmt: skip
def test_one_run_of_all_processes(
    environment: dict[str, str], given: Namespace, rank: int, becomes: tuple[Any, ...]
) -> None:
    found = agree(given, environment)
    assert found.rank == rank
    assert (found.size, found.devices, found.num_nodes, found.strategy)[: len(becomes)] == becomes
    assert found.is_first == (rank == 0) == claimed(environment).is_first


@pytest.mark.parametrize(
    ("environment", "given", "sentence"),
    [
        (RUN, trainer(2, 2), "3 processes on each of 2 nodes, .* or set them to 3 and 2"),
        (RUN, trainer([0], 2), "torchrun has started 3 processes on each of 2 nodes"),
        ({"TORCHELASTIC_RUN_ID": "old"}, trainer(), "torchrun does, but RANK, WORLD_SIZE, .* -u"),
        ({**BY_HAND, **PLACE}, trainer(), "RANK is 1 and WORLD_SIZE is 2, but trainer.devices is "
         "auto .* makes 1 process: set --trainer.devices and --trainer.num_nodes"),
        (BY_HAND, trainer(2), "set MASTER_ADDR and MASTER_PORT"),
        ({**BY_HAND, "MASTER_ADDR": "127.0.0.1"}, trainer(), "set MASTER_PORT"),
        ({**BY_HAND, **HERE}, trainer(4), "makes 4 processes: set --trainer.devices 2 --trainer.n"),
        (KUBEFLOW, trainer(8, 2), "makes 16 processes: set --trainer.devices 1 --trainer.num_node"),
        ({**KUBEFLOW, "LOCAL_RANK": "1"}, trainer(1, 2), "LOCAL_RANK 1, but trainer.devices is 1"),
        ({"RANK": "1"}, trainer(), "RANK is 1, but .* makes 1 process"),
        ({"RANK": "0"}, trainer(2), "RANK is 0, but trainer.devices is 2"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, trainer(2), "2 processes: set --trainer.devices 1"),
        ({"WORLD_SIZE": "2"}, trainer(), "WORLD_SIZE is 2, but trainer.devices is auto"),
        ({"LOCAL_RANK": "1"}, trainer(), "LOCAL_RANK is 1, but trainer.devices is auto"),
        ({"NODE_RANK": "1"}, trainer(), "NODE_RANK is 1, but trainer.devices is auto"),
        ({"SLURM_PROCID": "1"}, trainer(), "SLURM_PROCID is 1, but"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, trainer(), "ranks must be from 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, trainer(), "ranks must be from 0"),
        ({"RANK": "one"}, trainer(), "RANK is 'one', but must be a whole number"),
        ({"WORLD_SIZE": ""}, trainer(), "WORLD_SIZE is '', but must be a whole number"),
        ({"RANK": "-1"}, trainer(), "RANK is '-1'"),
        ({**BY_HAND, "RANK": "0"}, trainer(2), "LOCAL_RANK 1, which must not exceed the rank"),
        ({**BY_HAND, "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"}, trainer(), "same number of"),
        ({**TASK, **BY_HAND, "WORLD_SIZE": "4"}, trainer(), "SLURM and the environment disagree"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, trainer(),
         "has started 2 tasks on 1 nodes.* --nodes 1 --ntasks-per-node 2 instead of --ntasks"),
        ({**TASK, "SLURM_NTASKS": "3", "SLURM_PROCID": "2"}, trainer(2, 2), "--ntasks-per-node N"),
        ({**TASK, **STEP}, trainer(1, 2), "SLURM has started 2 processes on each of 2 nodes"),
        (TASK, trainer(), "srun does not seem to have started .* --trainer.devices 2"),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "x"}, trainer(2), "SLURM_PROCID, the rank"),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "x"}, trainer(8),
         "SLURM has started 1 process|SLURM_NTASKS is 1, but trainer.devices is 8"),
        (MPI, trainer(), "OMPI_COMM_WORLD_SIZE is 8: start the processes with torchrun"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, trainer(), "PMI_SIZE is 2: start"),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "1"}, trainer(), "write torchrun instead of p"),
        ({"PET_NNODES": "1:4"}, trainer(), "write torchrun instead of python"),
        ({**KUBEFLOW, "PET_NPROC_PER_NODE": "2"}, trainer(), "write torchrun"),
        ({**KUBEFLOW, "MASTER_PORT": "tcp://10.0.0.1:29500"}, trainer(), "MASTER_PORT is 'tcp://"),
        ({"MASTER_PORT": ""}, trainer(2), "MASTER_PORT is '', but must be a whole number"),
        ({}, trainer(2, 2), "set MASTER_ADDR, MASTER_PORT, NODE_RANK"),
        (CHILD, trainer(3), "WORLD_SIZE is 2 and LOCAL_RANK is 1 and NODE_RANK is 0, but"),
    ],
)  # fmt: skip
def test_or_a_refusal_with_the_fix(
    environment: dict[str, str], given: Namespace, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        agree(given, environment)


def test_the_process_group_is_that_of_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**BY_HAND, "LOCAL_WORLD_SIZE": "2", **PLACE}.items():
        monkeypatch.setenv(name, value)
    found = agree(trainer())
    (made,) = own_plugins(None, "ddp", found)
    assert isinstance(made, ExternalEnvironment)
    assert (made.global_rank(), made.world_size(), made.local_rank(), made.node_rank()) == (
        *(1, 2),
        *(1, 0),
    )
    assert (made.main_address, made.main_port) == ("node0", 29500)
    own = object.__new__(ExternalEnvironment)
    assert own_plugins(own, "ddp", found) == [own]


OTHER = ("validate", "test", "predict", "check", "encode", "export")


@pytest.mark.parametrize(
    ("command", "left_over"),
    quick([("fit", {"RANK": "none"}), *((name, {"RANK": "1"}) for name in ("fit", *OTHER))], "fit"),
)
def test_no_command_goes_by_what_is_left_over(
    tiny: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    left_over: dict[str, str],
) -> None:
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    before = sorted(tiny.rglob("*"))
    sentence = refusal(command, "--config", "tiny.yaml")
    assert all(f"-u {name}" in sentence for name in left_over)
    assert sorted(tiny.rglob("*")) == before


def test_a_strategy_that_is_one_process_is_refused(
    tiny: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**BY_HAND, **HERE, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
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
