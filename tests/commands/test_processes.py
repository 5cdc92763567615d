"""The number of processes, how they begin, compare what they have, and end together."""

import hashlib
import importlib
import os
import re
import resource
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy

from callbacks.evaluation import FailedElsewhereError
from commands.distributed import preflight, ranks
from commands.distributed.launch import DDP, FullySharded, own_strategy
from commands.distributed.preflight import differences, start_facts, versions
from commands.distributed.ranks import LOST, Ranks, is_broken_link, seconds_after_launcher
from commands.errors import ConfigurationError, TemporaryError
from commands.process import MOST
from commands.run.files import fingerprint, wait_for, write_whole
from commands.world import agree, claimed
from files.waits import WAITS
from tests.conftest import REPO

# ---------------------------------------------------------------------------------- how many

TABLE = yaml.safe_load(Path(__file__).with_name("launchers.yaml").read_text())


def world_of(monkeypatch, variables, devices="auto", num_nodes=1, strategy="auto"):
    """What the variables of a launcher and the arguments of the trainer agree on."""
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    counts = {"devices": devices, "num_nodes": num_nodes}
    return agree(Namespace(strategy=strategy, accelerator="cpu", plugins=None, **counts))


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize("row", TABLE["runs"].values(), ids=TABLE["runs"])
def test_launcher_and_trainer_agree_on_one_run(monkeypatch, row):
    """Processes that each believed to be alone would write to one folder.

    A row of launchers.yaml has the variables that a launcher such as torchrun sets, ``RANK: 4,
    WORLD_SIZE: 6, LOCAL_WORLD_SIZE: 3 ...``, the arguments of the trainer, ``devices: 3``, and
    the run that follows, ``rank: 4, size: 6, devices: 3, num_nodes: 2, strategy: ddp``.
    """
    world = world_of(monkeypatch, row["variables"], **row.get("trainer", {}))
    for key in ("rank", "size", "devices", "num_nodes", "strategy"):
        assert getattr(world, key) == row[key]
    assert world.is_first == (row["rank"] == 0)
    assert claimed().is_first == (row["rank"] == 0)


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize("row", TABLE["refused"], ids=lambda row: row["words"])
def test_launcher_and_trainer_that_contradict_are_refused(monkeypatch, row):
    """Such as torchrun with 3 processes a node and ``devices: 2``: "or set them to 3 and 2"."""
    with pytest.raises(ConfigurationError, match=re.escape(row["words"])):
        world_of(monkeypatch, row["variables"], **row.get("trainer", {}))


@pytest.mark.usefixtures("no_launcher")
def test_a_variable_that_is_no_number_is_named_before_lightning_reads_it(refusal, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "x")  # Lightning converts it to an int
    assert "WORLD_SIZE is 'x'" in refusal("fit --help all")


def test_the_strategy_of_one_process_and_one_that_is_an_object_stay_as_they_are():
    strategy = DDPStrategy()
    assert own_strategy("auto", accelerator="auto", processes=1) == "auto"
    assert own_strategy(strategy, accelerator="auto", processes=2) is strategy


BOTH = "cpu:gloo,cuda:nccl"  # a backend for each kind of tensor
DEVICES = [(True, "auto", BOTH), (True, "gpu", BOTH), (True, "cpu", None), (False, "auto", None)]


@pytest.mark.parametrize("name", [*DDP, "auto", "fsdp"])
@pytest.mark.parametrize(("gpu", "accelerator", "backend"), DEVICES)
def test_named_strategies_have_our_limit_and_backend(monkeypatch, name, gpu, accelerator, backend):
    """With torch's own limit, some processes would wait on after the others have given up.

    With NCCL alone, as by default, each exchange of a Python object would wait for the GPU. Without
    GPUs the backend is Lightning's choice (None).
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    strategy = own_strategy(name, accelerator=accelerator, processes=2)
    assert isinstance(strategy, FullySharded if name == "fsdp" else DDPStrategy)
    assert strategy.process_group_backend == backend
    assert strategy._timeout == timedelta(seconds=WAITS.limit)


# ------------------------------------------------------------------ what they compare at the start


def facts_of(batch_size):
    """What a process with a batch size compares with the others."""
    data = {"init_args": {"batch_size": batch_size, "seed": 0}}
    return start_facts({"data": data, "trainer": {"max_steps": 3}})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("python", "3.99.0", "Python: 3.99.0 there"),
        ("code", "0" * 16, "Enlarger's code: 0000000000000000 there"),
        ("plugins", "0" * 16, "the code of your own classes"),
        ("libraries", {**versions(), "torch": "1.0"}, "torch is 1.0 there"),
        ("config", facts_of(batch_size=8)["config"], "batch_size is 8 there, 4 on rank 0"),
        ("config", facts_of(batch_size=4.0)["config"], "batch_size is 4.0 there, 4 on rank 0"),
    ],
    ids=["Python", "our code", "a user's code", "a library", "a value", "the type of a value"],
)
def test_a_process_that_differs_is_named_with_what_differs_and_its_value(key, value, expected):
    """Processes that differ train to other weights without a word, or wait for each other."""
    same = facts_of(batch_size=4)
    hosts = [("node0", same), ("node1", same), ("node2", {**same, key: value})]  # ranks 0, 1, 2
    (difference,) = differences(hosts)
    assert difference.startswith("rank 2 (on node2) differs in ")
    assert expected in difference
    assert "seed" not in difference  # it is equal


@pytest.fixture
def our_main(tmp_path, monkeypatch):
    """The main.py of a checkout that stands for this one."""
    monkeypatch.setattr(preflight, "ROOT", tmp_path / "ours")
    (tmp_path / "ours" / "commands").mkdir(parents=True)
    (tmp_path / "ours" / "main.py").write_text("a = 1\n")
    return tmp_path / "ours" / "main.py"


def test_a_changed_or_added_file_of_ours_changes_the_digest_of_our_code(our_main):
    """By it a node with another checkout is found."""
    before = start_facts({})["code"]
    (our_main.parent / "commands" / "new.py").touch()
    added = start_facts({})["code"]
    our_main.write_text("a = 2\n")
    changed = start_facts({})["code"]
    assert len({before, added, changed}) == 3


def test_a_users_changed_class_changes_the_digest_of_plugins_alone(our_main, tmp_path, monkeypatch):
    own = tmp_path / "oursandmore" / "an_own_class.py"  # outside ours, though it begins alike
    own.parent.mkdir()
    own.write_text("class Own: pass\n")
    monkeypatch.syspath_prepend(own.parent)
    importlib.import_module("an_own_class")
    config = {"model": [{"class_path": "an_own_class.Own"}]}
    before = start_facts(config)
    own.write_text("class Own: x = 1\n")
    changed = start_facts(config)
    assert before["plugins"] != changed["plugins"]
    assert start_facts({})["plugins"] not in (before["plugins"], changed["plugins"])
    assert before["code"] == changed["code"]


def test_a_checkpoint_must_be_the_one_that_the_first_process_sees(tmp_path):
    path = tmp_path / "step-000000003.ckpt"
    write_whole(path, lambda file: file.write(b"content"))
    digest = fingerprint(path)
    assert digest == hashlib.sha256(b"content").hexdigest()
    wait_for(path, digest, patience=0.0)
    path.write_bytes(b"Content")
    with pytest.raises(ConfigurationError, match="its content differs"):
        wait_for(path, digest, patience=0.0)
    path.unlink()
    with pytest.raises(ConfigurationError, match="there is no such file"):
        wait_for(path, digest, patience=0.0)


# ------------------------------------------------------------------------------- how they end

PATIENCE = 60.0  # seconds
GLOO = RuntimeError(
    "[/a/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.77.0.2]:59033: "
    "Connection reset by peer. This is typically caused by a remote worker hanging."
)


class Process(Ranks):
    """One process, as a thread of this one with a real store; it notes its end."""

    def __init__(self, store, rank):
        super().__init__(limit=PATIENCE)
        self.rank = rank
        self.met = True
        self.ended = threading.Event()
        self.status = 0
        threading.Thread(target=self._listen, args=(store.clone(),), daemon=True).start()

    def _exit(self, reason, status):
        self.status = status
        self.ended.set()


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(ranks, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(ranks, "LAST_SECONDS", 0.0)
    return new_store()


def new_store():
    wait = timedelta(seconds=5)
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=wait)


def test_a_failure_of_one_process_ends_the_others_with_its_status(store):
    first, second, third = (Process(store, rank) for rank in range(3))
    assert second.fail(ValueError("no such key"), status=2) is None  # it raises its own error
    assert first.ended.wait(PATIENCE)
    assert third.ended.wait(PATIENCE)
    assert first.status == 2
    assert third.status == 2
    assert str(first.first).endswith("stopped: no such key")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(GLOO, "stopped: no such key", id="a lost connection"),
        pytest.param(FailedElsewhereError("no such key"), "says why", id="reported by the other"),
        pytest.param(ValueError("no such key"), "says why", id="the same mistake"),
    ],
)
def test_an_error_after_a_failure_elsewhere_takes_its_status(store, error, words):
    """A job that ends with a configuration error must not be started again."""
    first = Process(store, rank=0)
    second = Process(store, rank=1)
    second.fail(ValueError("no such key"), status=2)
    reason = first.fail(error, status=1)
    assert isinstance(reason, TemporaryError)
    assert reason.status == 2
    assert words in str(reason)


def test_a_lost_connection_without_a_reason_is_temporary(store, monkeypatch):
    monkeypatch.setattr(ranks, "HEAR_SECONDS", 0.1)  # for which it waits for a reason
    reason = Process(store, rank=0).fail(GLOO, status=1)
    assert isinstance(reason, TemporaryError)
    assert LOST == 75  # EX_TEMPFAIL of sysexits.h: a scheduler may try again
    assert reason.status == LOST
    assert "lost (Read error [10.77.0.2]:59033: Connection reset by peer.)" in str(reason)


def test_an_error_whose_path_contains_gloo_is_no_lost_connection():
    assert not is_broken_link(RuntimeError("/data/igloo/1.png cannot be read"))


def test_a_process_that_lightning_started_waits_for_the_first_one_to_end(monkeypatch):
    """Lightning kills the first one, which started the others, once one of them has ended.

    Its status would be lost, so it gets the time to hear of a failure and to end by itself.
    """
    assert seconds_after_launcher() == 0  # Lightning has not started this one
    monkeypatch.setenv("LOCAL_RANK", "1")
    needed = ranks.POLL_SECONDS + ranks.GRACE_SECONDS + ranks.LAST_SECONDS
    assert seconds_after_launcher() > needed


def test_a_store_that_is_gone_ends_a_process(store):
    server = new_store()
    process = Process(server, rank=1)
    del server
    assert process.ended.wait(PATIENCE)
    assert process.status == LOST


# ---------------------------------------------------------------------------- what the system gives


def test_a_command_raises_the_limit_of_open_files(tiny, refusal):
    """Mostly 1,024; and a DataLoader's workers pass each tensor as an open file.

    The command here is refused, but only after it has raised the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard <= 512:
        pytest.skip("this machine has too low a limit")
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))  # lower than systems begin with
    try:
        refusal("fit --config tiny.yaml --trainer.max_steps many")
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised == (MOST if hard < 0 else min(hard, MOST))  # below 0: no limit


def test_a_command_whose_stdout_is_closed_ends_well_without_a_word():
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, REPO / "main.py", "list", "methods"]
    ended = subprocess.run(command, text=True, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert ended.returncode == 0
    assert ended.stderr == ""
