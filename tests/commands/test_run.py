"""The run directory: name, configuration, lock, other runs and the weights that are used."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch.testing import assert_close

from commands.errors import ConfigurationError, TemporaryError
from commands.run import directory
from commands.run.directory import RunDirectory, alone_in
from commands.run.files import write_whole
from commands.run.folder_lock import HOLDER
from commands.run.weights import choose_weights, find_weights, load_trained
from files.manifest import MANIFEST
from lightning_modules import EDSR, Regression
from tests.commands.test_checkpoints import damage
from tests.commands.test_resume import newest
from tests.files.test_weights import Bomb
from tests.make import files_of

FIT = "fit --config tiny.yaml"
TEST = "test --config tiny.yaml"


def read_config(run):
    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.fixture
def config(trained):
    """The configuration of the trained run."""
    return read_config(trained)


def why_refused(run, config, change=False):
    """Why a run does not go on with a configuration; empty where it does."""
    try:
        RunDirectory(run).check(config, change=change)
    except ConfigurationError as error:
        return str(error)
    return ""


# ----------------------------------------------------------------------------- its configuration


def test_changes_that_a_resume_allows_are_logged_and_kept(trained, enlarger, caplog):
    command = f"{FIT} --checkpoint.keep_last 3 --data.workers 1 --trainer.devices 1"

    enlarger(f"{command} --trainer.max_steps 13")

    for key in ("checkpoint.keep_last", "data.init_args.workers", "trainer.devices"):
        assert f"changed on resume: {key}: " in caplog.text
    assert "changed on resume: trainer.max_steps: 12 -> 13" in caplog.text
    assert newest("tiny")["global_step"] == 13
    assert read_config(trained)["checkpoint"]["keep_last"] == 3


def test_changes_that_a_resume_refuses_are_all_listed(trained, config, refusal):
    sentence = refusal(
        f"{FIT} --data.crops.flips false --seed_everything 1 --model.loss charbonnier "
        "--trainer.log_every_n_steps 5 --trainer.max_steps 11 --trainer.benchmark true "
        "--run.matmul_precision high --run.seeds 2"
    )

    first, *changes, last = [line.strip() for line in sentence.splitlines()]
    assert first == "the run in runs/tiny was started with another configuration:"
    # Not trainer.log_every_n_steps and run.seeds, which a resume allows.
    assert changes == [
        "data.crops.flips: True -> False",
        "model.loss: l1 -> charbonnier",
        "run.matmul_precision: None -> high",
        "seed_everything: 0 -> 1",
        "trainer.benchmark: None -> True",
        "trainer.max_steps: 12 -> 11",
    ]
    for way_out in ("--run.change true", "--run.name NAME", "--run.overwrite true"):
        assert way_out in last
    assert read_config(trained) == config


CHANGES = yaml.safe_load(Path(__file__).with_name("changes.yaml").read_text())


def set_keys(config, values):
    for key, value in values.items():
        groups, _, name = key.rpartition(".")
        group = config
        for part in groups.split(".") if groups else []:
            group = group[part]
        group[name] = value


@pytest.mark.parametrize("row", CHANGES["rows"], ids=lambda row: " ".join(row["after"]))
def test_a_change_is_refused_where_it_matters_or_would_have_no_effect(trained, config, row):
    """A row of changes.yaml has what a run was started with (`before`) and resumed with (`after`).

    Adam's rate, say, comes from the checkpoint: a change of `model.init_args.optimizer` is refused
    even with `--run.change true` (``change: true``), as "so this has no effect" (`words`).
    """
    set_keys(config, row["before"])
    (trained / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    set_keys(config, row["after"])

    sentence = why_refused(trained, config, change=row.get("change", False))
    if "words" in row:
        assert row["words"] in sentence
    else:
        assert sentence == ""  # allowed


@pytest.mark.parametrize(
    "content", [b"- a\n", b"a: [1", b"\xff\xfe\x00"], ids=["a list", "cut off", "binary"]
)
def test_a_damaged_configuration_is_not_compared(trained, content):
    """If it counted as empty, all keys would be changed."""
    run = RunDirectory(trained)
    run.config_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is damaged: restore it, or"):
        run.trained_config()
    assert "is damaged: restore it, or" in why_refused(trained, {"a": 1})
    assert why_refused(trained, {"a": 1}, change=True) == ""  # the way out


def test_a_missing_configuration_is_not_compared(trained):
    (trained / "config.yaml").unlink()
    assert "is missing: restore it, or" in why_refused(trained, {"a": 1})
    assert why_refused(trained, {"a": 1}, change=True) == ""  # the way out


def test_a_run_whose_configuration_has_keys_of_an_earlier_version_goes_on(
    trained, enlarger, caplog
):
    file = trained / "config.yaml"
    earlier = "run:\n  lost_after_seconds: 60.0\n  preflight_minutes: 10.0\n"
    file.write_text(file.read_text().replace("run:\n", earlier))
    enlarger(f"{FIT} --trainer.max_steps 13")  # which writes the file without them
    file.write_text(file.read_text().replace("run:\n", earlier))
    enlarger(f"fit --config {file} --trainer.max_steps 14")
    assert caplog.text.count("resuming the run in runs/tiny from") == 2
    assert newest("tiny")["global_step"] == 14


# ------------------------------------------------------------------------------------ a new start


def checkpoints_of(run):
    return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}


def test_overwrite_moves_the_old_run_aside(trained, enlarger, caplog):
    before = checkpoints_of(trained)
    enlarger(f"{FIT} --trainer.max_steps 2 --run.overwrite true")
    (aside,) = Path("runs").glob("tiny.*")
    assert newest("tiny")["global_step"] == 2
    assert checkpoints_of(aside) == before
    assert f"the run in runs/tiny was moved to {aside}" in caplog.text
    assert read_config(trained)["run"]["overwrite"] is False


def test_a_run_begins_with_a_given_checkpoint_and_goes_on_with_its_own(trained, enlarger, caplog):
    given = max((trained / "checkpoints").glob("*.ckpt"))
    command = f"{FIT} --ckpt_path {given} --run.name second --trainer.max_steps"

    enlarger(f"{command} 13")

    (written,) = Path("runs/second/checkpoints").glob("*.ckpt")  # none of steps 5 and 10
    assert written.name == "step-000000013.ckpt"
    given.unlink()  # it is not needed again
    caplog.clear()

    enlarger(f"{command} 14")

    assert f"resuming the run in runs/second from {written}" in caplog.text
    assert newest("second")["global_step"] == 14


def test_beginning_from_a_checkpoint_without_a_schedule_warns_of_its_rate(trained, config, caplog):
    """Its schedule may have lowered the rate almost to 0."""
    given = max((trained / "checkpoints").glob("*.ckpt"))
    second = RunDirectory(trained.with_name("second"))
    warning = "lr_scheduler is null: the learning rate stays that of the checkpoint"

    assert second.begin_from(str(given), config) == given  # with the same schedule
    assert warning not in caplog.text

    config["model"]["init_args"]["lr_scheduler"] = None
    second.begin_from(str(given), config)
    assert warning in caplog.text


def test_beginning_from_a_checkpoint_of_another_optimiser_is_refused(trained, config):
    """Adam's state would be loaded into SGD."""
    given = max((trained / "checkpoints").glob("*.ckpt"))
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
    config["model"]["init_args"]["optimizer"] = sgd
    with pytest.raises(ConfigurationError, match=r"optimizer: \S*adam -> torch.optim.SGD; undo"):
        RunDirectory(trained.with_name("second")).begin_from(str(given), config)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"pytorch-lightning_version": "2", "x": Bomb(Path("ran"))}, "loading that would run code"),
        ([1, 2], "bad.ckpt holds a list"),
        ({"params": {"a": torch.ones(1)}}, "no checkpoint of fit: for weights alone, use --model"),
    ],
    ids=["code", "a list", "weights alone"],
)
def test_fit_refuses_to_begin_from_a_file_that_is_no_checkpoint(tiny, refusal, content, expected):
    torch.save(content, "bad.ckpt")
    assert expected in refusal(f"{FIT} --ckpt_path bad.ckpt")
    assert not Path("ran").exists()
    assert not Path("runs/tiny/config.yaml").exists()


# ------------------------------------------------------------------------------- one at a time

FORK = multiprocessing.get_context("fork")  # without the seconds of an import
PATIENCE = 0.3  # seconds


@pytest.fixture
def impatient(monkeypatch):
    """Wait for a lock for a moment only."""
    monkeypatch.setattr(directory, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(directory, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("commands.table.LOCK_SECONDS", 0.4)


def is_locked(folder):
    try:
        with alone_in(folder, PATIENCE):
            return False
    except TemporaryError:
        return True


@pytest.mark.parametrize("options", ["", "--run.overwrite true"])
def test_fit_is_refused_until_another_ends(trained, enlarger, impatient, capsys, caplog, options):
    with alone_in(trained, PATIENCE):
        before = files_of(trained)
        with pytest.raises(SystemExit, match="75"):  # EX_TEMPFAIL: try again
            enlarger(f"{FIT} --trainer.max_steps 13 {options}")
        holder = f"process {os.getpid()} on {os.uname().nodename}"
        assert f"{holder} writes to runs/tiny" in capsys.readouterr().err
        assert caplog.text.count("waiting for it to end") == 1
        assert files_of(trained) == before

    enlarger(f"{FIT} --trainer.max_steps 13 {options}")
    assert newest("tiny")["global_step"] == 13
    assert not (trained / HOLDER).exists()  # the note of who holds the lock


def test_check_and_a_dry_run_write_nothing_so_they_run_beside_a_fit(trained, enlarger, impatient):
    with alone_in(trained, PATIENCE):
        before = files_of(trained)
        enlarger("check --config tiny.yaml")
        enlarger(f"{FIT} --trainer.fast_dev_run true")
        assert files_of(trained) == before


def hold(run, worker_end):
    """Lock a run, and fork a worker that lives until it gets a message by `worker_end`."""
    with alone_in(run, PATIENCE):
        is_worker = os.fork() == 0
        if not is_worker:
            signal.pause()  # until it is killed
    worker_end.send("the worker has left alone_in")
    worker_end.poll(60)
    os._exit(0)


def test_a_killed_run_frees_its_folder_though_its_workers_live(tmp_path, impatient):
    """A lock by `flock` lasts while its file is open anywhere, and forked workers inherit it.

    They close it at once; and leaving `alone_in` in a worker does not free the run's folder.
    """
    test_end, worker_end = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path / "run", worker_end))
    process.start()
    test_end.recv()
    assert is_locked(tmp_path / "run")

    process.kill()
    process.join()

    assert not is_locked(tmp_path / "run")
    assert not test_end.poll()  # else the worker would have ended
    test_end.send("end")


class Moves(Callback):
    """Move the run's folder after the third step, and put another one in its place."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 3:
            Path("runs/tiny").rename("runs/other")
            Path("runs/tiny").mkdir()


def test_a_run_whose_folder_is_moved_writes_to_no_other(tiny, refusal):
    assert "runs/tiny was moved" in refusal(f"{FIT} --trainer.callbacks+ {__name__}.Moves")
    assert list(Path("runs/tiny").iterdir()) == []


def test_only_one_predict_at_a_time_writes_to_a_folder(bicubic, photo_folder, enlarger, impatient):
    command = f"predict --config {bicubic} --data.predict {photo_folder} --writer.folder out"
    with alone_in(Path("out"), PATIENCE), pytest.raises(SystemExit, match="75"):
        enlarger(command)
    enlarger(command)
    assert len(list(Path("out").glob("*.png"))) == 10  # all of photo_folder


def lock_on_nfs(descriptor, operation, flock=fcntl.flock):
    """Lock files alone, as NFS does."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EBADF, "Bad file descriptor")
    flock(descriptor, operation)


@pytest.mark.parametrize("nfs", [False, True])
def test_a_locked_run_is_locked_by_any_other_path_to_it(tmp_path, impatient, monkeypatch, nfs):
    if nfs:
        monkeypatch.setattr(fcntl, "flock", lock_on_nfs)
    runs = tmp_path / "runs"
    (runs / "by").mkdir(parents=True)
    (runs / "alias").symlink_to("run")
    (runs / "links").symlink_to(runs)
    for name in ("alias", "links/run", "by/../../runs/run"):
        with alone_in(runs / "run", PATIENCE):
            assert is_locked(runs / name)
        assert not is_locked(runs / name)


def test_the_folder_that_replaces_a_run_is_locked_too(tmp_path, impatient):
    run = RunDirectory(tmp_path / "run")
    with run.alone(PATIENCE):
        run.config_file.touch()
        run.move_aside()
        assert is_locked(tmp_path / "run")
    (aside,) = tmp_path.iterdir()  # the new folder is empty, so it is removed
    assert [path.name for path in aside.iterdir()] == ["config.yaml"]


def test_on_a_disk_without_locks_runs_are_not_refused(tmp_path, monkeypatch, caplog):
    no_locks = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=no_locks))
    with alone_in(tmp_path / "run", PATIENCE):
        assert not is_locked(tmp_path / "run")
    assert "No locks available" in caplog.text


# ---------------------------------------------------------------------------- which weights it uses


def test_test_uses_the_best_checkpoint_and_says_so(trained, enlarger, caplog):
    ranking = json.loads((trained / "checkpoints" / "best.json").read_text())
    (best,) = ranking["best"]
    value = ranking["scores"][best]["value"]
    enlarger(TEST)
    assert best != "step-000000012.ckpt"  # the newest is another one
    assert f"test uses best val/psnr {value:.4f} of the run in runs/tiny" in caplog.text
    assert best in (trained / "results.json").read_text()


def test_a_run_stands_for_its_best_checkpoint_or_else_its_newest(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    one = folder / "step-000000001.ckpt"
    two = folder / "step-000000002.ckpt"
    for path in (one, two):
        write_whole(path, lambda file: torch.save({}, file))
    assert find_weights(str(tmp_path / "run"), scale=2) == two  # no best is known
    best = {"monitor": "val/psnr", "best": [one.name], "scores": {one.name: 30.0}}
    (folder / "best.json").write_text(json.dumps(best))
    assert find_weights(str(tmp_path / "run"), scale=2) == one


def test_if_fit_deletes_the_chosen_checkpoint_another_one_is_loaded(trained):
    """As `fit` may, in another process, between the choice and the loading."""
    run = RunDirectory(trained)
    newest_file = trained / "checkpoints" / "step-000000012.ckpt"
    choice = choose_weights(run, initial=None, ckpt_path=None)
    assert choice.checkpoint != newest_file  # but the best
    model = Regression(2, EDSR(2, blocks=1, channels=8, global_skip=True))
    choice.checkpoint.unlink()

    path = load_trained(model, run, "test", choice)

    assert path == newest_file
    averages = newest("tiny")["callbacks"]["EMA"]["weights"]
    assert_close(dict(model.named_parameters()), averages, rtol=0, atol=0)


def test_a_damaged_checkpoint_is_refused_as_beginning_and_as_weights(trained, refusal):
    shutil.copy(trained / "checkpoints/step-000000012.ckpt", "bad.ckpt")
    damage(Path("bad.ckpt"))
    assert "bad.ckpt is damaged" in refusal(f"{FIT} --ckpt_path bad.ckpt --run.name x")
    assert "bad.ckpt is damaged" in refusal(f"{TEST} --model.weights bad.ckpt --run.name x")


def test_each_entry_of_the_shipped_manifest_has_a_licence_a_source_and_a_hash_if_it_is_known():
    entries = yaml.safe_load(MANIFEST.read_text())
    assert {"imdn-x2", "imdn-x3", "imdn-x4"} <= set(entries)
    for name, entry in entries.items():
        assert set(entry) == {"file", "sha256", "licence", "source", "used_by"}, name
        assert entry["sha256"] is None or re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]), name
        assert entry["licence"], name
        assert entry["source"].startswith("https://"), name
