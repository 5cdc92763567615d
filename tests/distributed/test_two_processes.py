"""The command line on several gloo processes, and the same run on another number of processes."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from torch.nn import functional

from callbacks.predict.predictions import NAME
from lightning_modules.base import SuperResolver
from tests.conftest import REPO
from tests.distributed.processes import LIMIT, ends, srun_tasks, start, succeeds
from tests.distributed.records import global_batches, images_of, newest, steps_of
from tests.make import assert_near

pytestmark = pytest.mark.distributed
FIT = "fit --config tiny.yaml"
OWN = "tests.distributed.own"
TWO_NODES = "--trainer.num_nodes 2 --trainer.devices 1 --trainer.strategy ddp"

# ---------------------------------------------------------------------- as on one process


@pytest.mark.slow
def test_a_run_on_two_four_and_one_process_has_the_batches_and_weights_of_one(tiny, enlarger):
    """The same images and crops in each global batch, and their LR up to rounding."""
    steps = 12  # 2.4 epochs
    light = REPO / "configs" / "degradation" / "real_esrgan_light.yaml"
    record = "--trainer.callbacks+ tests.distributed.records.Record --trainer.callbacks.images true"
    data = f"--data.crop_size 32 --data.val null --degradation {light}"
    command = f"{FIT} {data} {record}"
    on_one = f"{command} --trainer.callbacks.folder one --run.name one"
    moved = f"{command} --trainer.callbacks.folder moved --run.name moved"

    enlarger(f"{on_one} --trainer.max_steps {steps}")
    succeeds(f"{moved} --trainer.max_steps 4", processes=2)
    succeeds(f"{moved} --trainer.max_steps 8", processes=4)
    enlarger(f"{moved} --trainer.max_steps {steps}")

    assert list(global_batches(Path("one"))) == list(range(1, steps + 1))
    assert global_batches(Path("moved")) == global_batches(Path("one"))
    for step, processes in ((4, 2), (8, 4), (12, 1)):
        assert len(list(Path("moved").glob(f"step-{step}-*"))) == processes
    for step in range(1, steps + 1):
        assert_near(images_of(Path("moved"), step), images_of(Path("one"), step), 1e-5)
    weights = newest(Path("runs/moved"))["state_dict"]
    assert_near(weights, newest(Path("runs/one"))["state_dict"], 1e-5)


@pytest.mark.slow
def test_manual_optimisation_by_ddp_and_fsdp_trains_the_weights_of_one_process(tiny, enlarger):
    """By SGD, as Adam would hide a wrong factor of the gradients."""
    method = f"--model {OWN}.Loop --trainer.callbacks [] --data.val null"
    command = f"{FIT} {method} --run.name"
    enlarger(f"{command} alone")
    # FSDP also goes on after step 5.
    succeeds(f"{command} fsdp --trainer.strategy fsdp --trainer.max_steps 5")
    succeeds(f"{command} fsdp --trainer.strategy fsdp")
    succeeds(f"{command} ddp --trainer.strategy ddp_find_unused_parameters_true")
    alone = newest(Path("runs/alone"))["state_dict"]
    assert_near(newest(Path("runs/fsdp"))["state_dict"], alone, 1e-6)
    assert_near(newest(Path("runs/ddp"))["state_dict"], alone, 1e-6)


@pytest.mark.slow
def test_a_learned_null_text_trains_by_fsdp_as_by_ddp(tiny):
    """It is a sharded parameter, which is read outside the denoiser's `forward`."""
    command = f"{FIT} --model {OWN}.Guided --trainer.callbacks [] --data.val null --run.name"
    succeeds(f"{command} ddp --trainer.strategy ddp")
    succeeds(f"{command} fsdp --trainer.strategy fsdp")
    ddp = newest(Path("runs/ddp"))["state_dict"]
    assert ddp["denoiser.null"].any()  # it begins as zeros
    assert_near(newest(Path("runs/fsdp"))["state_dict"], ddp, 1e-6)


def logged_losses(folder):
    (table,) = Path(folder).rglob("metrics.csv")
    with table.open() as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


@pytest.mark.slow
def test_the_logged_loss_is_the_mean_over_processes(tiny, enlarger):
    steps = "--data.val null --trainer.max_steps 4 --trainer.log_every_n_steps 2"
    logger = "--trainer.logger lightning.pytorch.loggers.CSVLogger --trainer.logger.save_dir"
    enlarger(f"{FIT} {steps} {logger} one --run.name one")
    succeeds(f"{FIT} {steps} {logger} two --run.name two")
    assert len(logged_losses("one")) == 2  # after steps 2 and 4
    assert logged_losses("two") == pytest.approx(logged_losses("one"), rel=1e-5)


# ----------------------------------------------------------------------------------- before a run


def output_of(tasks, status):
    """The output of processes that all end with a status."""
    output = ""
    for ended, text in ends(tasks):
        assert ended == status, text
        output += text
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("check --config tiny.yaml --data.train.root none", "1 of what fit needs are missing"),
        (f"{FIT} --data.batch_size 32", "fewer than data.batch_size 32"),  # of 10 images, 20 crops
        (f"{FIT} --model {OWN}.Reads --trainer.strategy fsdp", "attribute `called`"),
        (f"{FIT} --model {OWN}.Plain --trainer.strategy ddp", "ddp_find_unused_parameters_true"),
    ],
    ids=["no data", "too little data", "FSDP refuses the model", "DDP refuses the model"],
)
def test_an_error_of_a_command_is_printed_once_and_ends_both_processes(tiny, typed, words):
    """Else both would print it, or one would wait half an hour for the other."""
    no_metrics = "--trainer.callbacks [] --data.val null"  # FSDP refuses EMA
    output = output_of(srun_tasks(f"{typed} {no_metrics}"), status=2)  # a mistake of the user
    assert output.count(words) == 1


@pytest.mark.slow
def test_check_on_two_processes_has_one_verdict_and_makes_no_run(tiny):
    output = output_of(srun_tasks("check --config tiny.yaml"), status=0)
    assert output.count("all is well") == 1
    assert "exception" not in output  # by which check ends inside Lightning
    assert not Path("runs").exists()


@pytest.mark.slow
def test_an_option_that_differs_between_two_nodes_is_named(tiny):
    command = f"check --config tiny.yaml {TWO_NODES} --data.batch_size"
    tasks = srun_tasks(f"{command} 4", second=f"{command} 8", nodes=2)
    output = output_of(tasks, status=2)
    assert "rank 1 (on " in output
    assert "data.batch_size is 8 there, 4 on rank 0" in output


@pytest.mark.slow
def test_a_port_in_use_ends_both_processes(tiny):
    """The first starts the second, which inherits its pipe: output ends when both have ended.

    SLURM starts a job again that ends with EX_TEMPFAIL, as docs/train.sbatch asks it to.
    """
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        first = start(f"{FIT} --trainer.devices 2", MASTER_PORT=str(port))
        output = output_of([first], status=os.EX_TEMPFAIL)
    assert output.endswith(f"error: port {port} is in use: set MASTER_PORT\n")


@pytest.mark.slow
def test_a_process_that_never_starts_ends_the_other(tiny):
    """After `wait_minutes`, 3 s here; SLURM would let it wait to the end of the job's time."""
    alone, other = srun_tasks(f"{FIT} {TWO_NODES} --run.wait_minutes 0.05", nodes=2)
    other.kill()
    output_of([alone], status=os.EX_TEMPFAIL)
    assert not Path("runs/tiny/checkpoints").exists()  # it has not trained alone


# ------------------------------------------------------------------------- losses and signals


class Leaves(Callback):
    """Let the second process stop taking part before the fourth step, or raise at the end.

    Args:
        way: How: "stops" (SIGSTOP), "raises" or "raises at the end".
    """

    def __init__(self, way: str):
        self.way = way

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_rank == 0 or trainer.global_step < 3:
            return
        if self.way == "raises":
            raise ValueError("no more")
        if self.way == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)

    def on_train_end(self, trainer, *args):
        if trainer.global_rank == 1:
            raise ValueError("no more")


LOST = "another process, or the network to it, is lost .*: start the same command"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "expected", "reason"),
    [
        ("stops", os.EX_TEMPFAIL, LOST),
        ("raises", 1, "no more"),  # 1: as Python for any exception
        ("raises at the end", 1, "no more"),
    ],
)
def test_a_process_that_stops_taking_part_ends_the_other(tiny, way, expected, reason):
    """Which says why: it would wait in a collective, and at last print torch's traceback alone."""
    leaves = json.dumps({"class_path": f"{__name__}.Leaves", "init_args": {"way": way}})
    first, second = srun_tasks(f"{FIT} --run.wait_minutes 0.5 --trainer.callbacks+", leaves)
    output, _ = first.communicate(timeout=LIMIT)
    second.kill()
    assert first.returncode == expected, output
    assert re.search(reason, output), output
    assert "frame #" not in output  # torch's C++ traceback


class Late(SuperResolver):
    """A method that takes 4 s for each image on the second of two processes."""

    def training_step(self, batch, batch_idx):
        raise NotImplementedError

    def restore(self, batch, noise):
        if os.environ["SLURM_PROCID"] == "1":
            time.sleep(4)
        return functional.interpolate(batch["lr"], batch["size"])


@pytest.mark.slow
def test_a_process_waits_for_a_slow_one_that_is_still_at_work(tiny, photo_folder):
    """The second one takes 20 s for its 5 of 10 images, which is longer than the limit of 9 s."""
    predict = f"predict --config tiny.yaml --model {__name__}.Late --data.predict {photo_folder}"
    output = output_of(srun_tasks(f"{predict} --run.wait_minutes 0.15"), status=0)
    assert output.count("10 written, 0 skipped") == 1  # by both processes
    lines = [json.loads(text) for text in Path("runs/tiny/predict", NAME).read_text().splitlines()]
    assert sorted(line["output"] for line in lines) == [f"{number}.png" for number in range(10)]


class Signalled(Late):
    """A method that sends a signal to one of two processes at its first image."""

    def restore(self, batch, noise):
        if os.environ["SLURM_PROCID"] == os.environ["STOPPED"]:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        time.sleep(2)  # in which the other process learns of it
        return functional.interpolate(batch["lr"], batch["size"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "stopped", "number"),
    [
        ("predict", 1, signal.SIGINT),
        ("test", 1, signal.SIGTERM),
        ("validate", 0, signal.SIGTERM),
    ],
)
def test_a_signal_to_one_process_ends_both(tiny, photo_folder, verb, stopped, number):
    command = f"{verb} --config tiny.yaml --model {__name__}.Signalled"
    variables = {"STOPPED": str(stopped), "SIGNAL": str(int(number))}
    tasks = srun_tasks(f"{command} --data.predict {photo_folder}", **variables)
    output_of(tasks, status=128 + number)
    assert len(list(Path().rglob("predict/*.png"))) < 10  # images


@pytest.mark.slow
def test_slurms_warning_to_one_node_stops_training_on_both_after_the_same_step(tiny):
    """The warning before the end of a job's time is SIGUSR1. SLURM sends it to all nodes."""
    record = "--trainer.callbacks+ tests.distributed.records.Record --trainer.callbacks.folder out"
    slow = "--trainer.callbacks.seconds 0.2 --trainer.max_steps 100000"
    no_val = "--data.val null"  # a stop within a validation writes nothing
    tasks = srun_tasks(f"{FIT} {TWO_NODES} {record} {slow} {no_val}", nodes=2)
    while max(steps_of(Path("out"), 1), default=0) < 3:
        assert [task.poll() for task in tasks] == [None, None], tasks[0].communicate()
    tasks[0].send_signal(signal.SIGUSR1)
    output_of(tasks, status=128 + signal.SIGUSR1)
    assert steps_of(Path("out"), 0)[-1] == steps_of(Path("out"), 1)[-1]
    assert newest(Path("runs/tiny"))["global_step"] == steps_of(Path("out"), 0)[-1]


# ------------------------------------------------------------------------- docs/train.sbatch

SCRIPT = REPO / "docs" / "train.sbatch"


@pytest.mark.parametrize("checker", ["bash -n", "shellcheck"])
def test_the_script_for_slurm_has_no_error_of_syntax(checker):
    program, *options = checker.split()
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    subprocess.run([program, *options, SCRIPT], check=True)


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (0, 0, False),
        (138, 0, True),  # 128 + SIGUSR1: the job's time is over
        (75, 3, True),  # EX_TEMPFAIL: another process was lost
        (137, 0, True),  # 128 + SIGKILL, as for its memory
        (75, 50, False),  # restarts: the script's MOST
        (2, 0, False),  # a mistake of the user
        (143, 0, False),  # 128 + SIGTERM: cancelled, or started again by SLURM itself
    ],
)
def test_the_script_for_slurm_requeues_the_job_by_status_and_number_of_restarts(
    tmp_path, status, restarts, requeued
):
    for name, line in (("srun", f"exit {status}"), ("scontrol", 'echo "$@" > scontrol.log')):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    variables = {
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": str(restarts),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = subprocess.run(["bash", SCRIPT, "some.yaml"], env=variables, cwd=tmp_path)
    assert done.returncode == status
    calls = [path.read_text() for path in tmp_path.glob("scontrol.log")]
    assert calls == (["requeue 7\n"] if requeued else [])
