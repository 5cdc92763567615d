"""Checkpoints: their content, which are kept and which is best, damage, kills and full disks."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from callbacks import PSNR
from commands.errors import ConfigurationError
from commands.run.checkpoints import Checkpoints
from commands.run.files import (
    checksum_of,
    file_hash,
    fingerprint,
    is_whole,
    list_checkpoints,
    newest_whole,
    write_whole,
)
from files import owned
from files.owned import hidden
from lightning_modules.networks.edsr import EDSR
from tests.commands.test_resume import assert_same, newest

FIT = "fit --config tiny.yaml"
FOLDER = Path("runs/tiny/checkpoints")


def steps():
    """The steps of the run's checkpoints, newest first."""
    return [int(path.stem.removeprefix("step-")) for path in list_checkpoints(FOLDER)]


def name_of(step):
    return f"step-{step:09d}.ckpt"


def ranking():
    return json.loads((FOLDER / "best.json").read_text())


def damage(path):
    """Flip one bit in the middle, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


# -------------------------------------------------------------------------------------- its content


def test_a_checkpoint_holds_weights_averages_and_progress_and_nothing_else(trained):
    """What is saved besides, such as a loss network, would make each of many files larger.

    `newest` loads it with ``weights_only=True``: it holds no object of another class.
    """
    checkpoint = newest("tiny")
    network = EDSR(2, blocks=1, channels=8, global_skip=True)  # that of tiny.yaml
    names = """state_dict callbacks optimizer_states lr_schedulers loops epoch global_step
        pytorch-lightning_version model SRDataModule frozen trained_with"""
    assert set(checkpoint) == set(names.split())
    assert checkpoint["frozen"] == {}
    # Arguments that no tensor shows, with which the weights would give other images.
    assert checkpoint["trained_with"] == {"network": {"res_scale": 1.0, "global_skip": True}}
    assert set(checkpoint["state_dict"]) == {f"network.{name}" for name in network.state_dict()}
    assert set(checkpoint["callbacks"]) == {"EMA"}
    averaged = {f"network.{name}" for name, _ in network.named_parameters()}
    assert set(checkpoint["callbacks"]["EMA"]["weights"]) == averaged
    assert checkpoint["global_step"] == 12  # max_steps of tiny.yaml
    assert checkpoint["model"] == "lightning_modules.Regression"


class HasNumPy(Callback):
    """Has a number of NumPy's as its state; or an array, which is refused."""

    def __init__(self, array: bool = False):
        self.best = np.zeros(2) if array else np.float64(2)

    def state_dict(self):
        return {"best": self.best}


class FreezesHead(Callback):
    def setup(self, trainer, pl_module, stage):
        pl_module.network.head.requires_grad_(False)


def test_a_number_of_numpy_in_a_callbacks_state_is_saved_as_a_plain_number(tiny, enlarger):
    """torch.load with ``weights_only=True`` would refuse NumPy's, so nothing could be resumed."""
    enlarger(f"{FIT} --trainer.callbacks+ {__name__}.HasNumPy --trainer.max_steps 2")
    assert newest("tiny")["callbacks"]["HasNumPy"] == {"best": 2}


def test_a_layer_that_a_callback_froze_keeps_its_weights_in_a_resumed_run(tiny, enlarger):
    """Frozen weights of published files are left out of checkpoints; these are nowhere else."""
    command = f"{FIT} --trainer.callbacks+ {__name__}.FreezesHead --trainer.max_steps"
    enlarger(f"{command} 2")
    before = newest("tiny")["state_dict"]
    enlarger(f"{command} 3")
    head = "network.head.0.weight"
    assert torch.equal(newest("tiny")["state_dict"][head], before[head])


def test_a_checkpoint_of_an_earlier_version_from_within_a_validation_is_refused():
    """It is marked `validation_due`: that version made up for it, and this one would skip it."""
    with pytest.raises(ConfigurationError, match="resumes from the one before"):
        Checkpoints().load_state_dict({"validation_due": True})


# -------------------------------------------------------------------------- which are kept and best


def test_the_last_two_checkpoints_and_the_best_one_are_kept(trained):
    (best,) = ranking()["best"]
    # Written at the ends of epochs of 5 steps, and at the end of the run.
    expected = {name_of(12), name_of(10), best}
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {"best.json", *expected, *(f"{name}.sha256" for name in expected)}
    assert all(is_whole(path) for path in list_checkpoints(FOLDER))


def test_files_that_a_user_copied_among_the_checkpoints_of_a_run_are_not_pruned(trained, enlarger):
    """Only files that best.json lists as `written` are: all but the newest two and the best."""
    newest_file = FOLDER / name_of(12)
    with_checksum = FOLDER / name_of(1)
    shutil.copy(newest_file, with_checksum)
    shutil.copy(checksum_of(newest_file), checksum_of(with_checksum))
    without_checksum = FOLDER / name_of(2)
    shutil.copy(newest_file, without_checksum)
    cut_off = FOLDER / name_of(99)  # damaged, so the run resumes from step 12
    cut_off.write_bytes(b"half")
    copies = [with_checksum, checksum_of(with_checksum), without_checksum, cut_off]
    before = [path.read_bytes() for path in copies]

    enlarger(f"{FIT} --trainer.max_steps 16 --checkpoint.every_n_steps 1 --run.change true")

    assert [path.read_bytes() for path in copies] == before
    own = {name_of(16), name_of(15), *ranking()["best"]}
    assert ranking()["written"] == sorted(own)
    assert {name_of(step) for step in steps()} == own | {name_of(step) for step in (1, 2, 99)}


SWD = """'{"class_path": "callbacks.SWD", "init_args": {"levels": 1}}'"""
MEASURED = f"--trainer.max_steps 4 --trainer.val_check_interval 1 --trainer.callbacks+ {SWD}"


@pytest.mark.parametrize(("monitor", "best_of"), [("val/swd", min), ("val/psnr", max)])
def test_the_best_checkpoint_is_by_the_direction_of_the_metric(fitted, monitor, best_of):
    fitted(f"{MEASURED} --checkpoint.monitor {monitor} --checkpoint.keep_last 4")
    values = {name: score["value"] for name, score in ranking()["scores"].items()}
    assert len(values) == 4  # one for each step
    assert ranking()["mode"] == best_of.__name__
    assert ranking()["best"] == [best_of(values, key=values.get)]


class Score(Callback):
    """Log a value of unknown direction: 1, 9, 0, 8."""

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            pl_module.log("val/score", float([1, 9, 0, 8][trainer.global_step - 1]))


def test_a_value_of_unknown_direction_is_ranked_by_the_given_mode_or_max(tiny, enlarger, caplog):
    score = f"--trainer.callbacks+ {__name__}.Score --checkpoint.monitor val/score"
    enlarger(f"{FIT} {MEASURED} {score}")
    assert ranking()["best"] == [name_of(2)]  # its score is 9
    assert caplog.text.count("set checkpoint.mode to max or min") == 1
    caplog.clear()
    enlarger(f"{FIT} {MEASURED} {score} --checkpoint.mode min --run.overwrite true")
    assert ranking()["best"] == [name_of(3)]  # its score is 0
    assert "set checkpoint.mode" not in caplog.text


def test_a_gan_keeps_a_best_checkpoint_only_if_an_option_asks_for_it(tiny, enlarger):
    """The best val/psnr is the checkpoint that has learned least (docs/decisions.md)."""
    patch_gan = """'{"class_path": "lightning_modules.PatchGAN",
        "init_args": {"width": 4, "layers": 1}}'"""
    gan = f"--model lightning_modules.RealESRGAN --model.discriminator {patch_gan}"
    counts = {"": 0, "--checkpoint.monitor val/swd": 1, "--checkpoint.keep_best 1": 1}
    for options, count in counts.items():
        enlarger(f"{FIT} {MEASURED} {gan} {options} --run.overwrite true")
        assert len(ranking()["best"]) == count


def test_a_run_that_keeps_no_best_forgets_an_earlier_one(trained, enlarger):
    """Else `test` would use it for ever, however much better the run has become.

    Here the validation has changed, too (tiles), which alone would keep the earlier best.
    """
    assert ranking()["best"]
    none = "--checkpoint.keep_best 0 --tiling.size 8 --run.change true"
    enlarger(f"{FIT} {none} --trainer.max_steps 15")  # three more steps, and a validation
    assert ranking()["best"] == []


WITHOUT_BORDER = "[{class_path: callbacks.PSNR, init_args: {border: 0}}]"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("--data.val.photos.files [1.png]", id="images"),
        pytest.param("--data.degradation_seed 1", id="their LR"),
        pytest.param("--tiling.size 8", id="tiles"),
        pytest.param("--trainer.limit_val_batches 1", id="fewer images"),
        pytest.param(f"--trainer.callbacks '{WITHOUT_BORDER}'", id="metric"),
    ],
)
def test_the_best_before_and_since_another_validation_are_kept(trained, enlarger, caplog, change):
    """A PSNR of other images is higher or lower for all checkpoints: the two are not compared."""
    before = ranking()
    (old,) = before["best"]

    enlarger(f"{FIT} {change} --run.change true --trainer.max_steps 16")

    assert "best.json has scores of other images, settings or metrics" in caplog.text
    new, kept = ranking()["best"]
    assert kept == old
    assert ranking()["scores"][old] == before["scores"][old]
    assert ranking()["scores"][new]["measured"] != before["scores"][old]["measured"]
    assert (FOLDER / old).exists()
    caplog.clear()
    enlarger(f"{FIT} {change} --trainer.max_steps 21")
    assert "best.json" not in caplog.text  # it was said once


def test_a_validation_within_an_accumulation_is_not_ranked(tiny, enlarger, caplog):
    """The 5 batches of an epoch make 2 steps, of 3 and 2 batches."""
    every = "--trainer.val_check_interval 2 --trainer.check_val_every_n_epoch null"
    keep = "--checkpoint.keep_best 20 --checkpoint.every_n_steps 0"
    steps = "--trainer.accumulate_grad_batches 3 --trainer.max_steps 6"
    enlarger(f"{FIT} {every} {keep} {steps}")
    # After batches 2, 4, ... 14 of the run; a step ends with batches 3, 5, 8, 10, 13 and 15.
    assert set(ranking()["scores"]) == {name_of(3), name_of(4)}
    # The other five of seven validations are within an accumulation.
    assert caplog.text.count("set trainer.val_check_interval to a multiple") == 5


def test_a_time_limit_waits_for_the_end_of_the_accumulation(tiny, enlarger, monkeypatch):
    """The time is over in the first batch; a step has three, so the run ends after one step."""
    validated = Mock()
    monkeypatch.setattr(PSNR, "on_validation_epoch_end", validated)
    time = "--trainer.accumulate_grad_batches 3 --trainer.max_time '{microseconds: 1}'"
    enlarger(f"{FIT} {time} --trainer.num_sanity_val_steps 0")
    assert steps() == [1]
    assert validated.call_count == 1  # at the end


# ------------------------------------------------------------------------------- damage and kills


def lose_checksum(path):
    checksum_of(path).unlink()


@pytest.mark.parametrize("harm", [damage, lose_checksum])
def test_a_run_whose_newest_checkpoint_is_damaged_resumes_from_the_one_before(
    trained, fitted, enlarger, caplog, harm
):
    path = FOLDER / name_of(12)
    harm(path)
    caplog.clear()

    enlarger(FIT)

    (loud,) = messages(caplog)
    assert f"DAMAGED CHECKPOINT: {path}" in loud
    assert name_of(10) in caplog.text
    assert is_whole(path)  # the run wrote it again
    fitted(name="whole")
    assert_same("tiny", "whole")


def test_a_run_whose_checkpoints_are_all_damaged_is_not_resumed(trained, refusal):
    for path in list_checkpoints(FOLDER):
        damage(path)
    sentence = refusal(FIT)
    assert "all checkpoints in runs/tiny/checkpoints are damaged" in sentence
    assert "--run.overwrite true" in sentence
    assert "needs trained weights" in refusal("test --config tiny.yaml")


def test_instead_of_a_damaged_best_checkpoint_the_newest_is_tested(trained, enlarger, caplog):
    damage(FOLDER / ranking()["best"][0])
    enlarger("test --config tiny.yaml")
    assert "DAMAGED CHECKPOINT: the best one" in caplog.text
    assert "test uses the newest of the run" in caplog.text
    assert name_of(12) in (trained / "results.json").read_text()


def test_what_a_killed_run_left_half_written_is_removed_and_files_of_others_stay(
    trained, enlarger, caplog
):
    """`hidden` is the name of a checkpoint until it is complete."""
    half_written = [
        hidden(FOLDER / name_of(13)),
        hidden(FOLDER / name_of(1)),
        FOLDER / f".{uuid.uuid4().hex}.tmp",
    ]
    of_others = [FOLDER / "step-x.ckpt", FOLDER / ".notes.tmp"]
    for path in (*half_written, *of_others):
        path.write_bytes(b"half")
    # A checksum is written before its checkpoint gets its name: it alone is no damage.
    checksum_of(FOLDER / name_of(99)).write_text(f"0  {name_of(99)}\n")

    enlarger(f"{FIT} --trainer.max_steps 13")

    assert steps()[0] == 13
    assert "DAMAGED" not in caplog.text
    assert not any(path.exists() for path in half_written)
    assert [path.read_bytes() for path in of_others] == [b"half", b"half"]


FORK = multiprocessing.get_context("fork")  # without the seconds of an import


def content_of(step):
    return step.to_bytes(8, "little") * 40000


def write_steps(folder, first, sends):
    """Write checkpoint after checkpoint, and report each when it is written."""
    for step in itertools.count(first):
        write_whole(folder / name_of(step), lambda file, s=step: file.write(content_of(s)))
        sends.send(step)


def test_a_process_killed_while_writing_leaves_its_last_checkpoint_complete(tmp_path):
    """A child writes checkpoints, and is killed at 12 moments, up to 0.02 s after its first one."""
    chance = random.Random(3)
    first = 0
    for _ in range(12):
        receives, sends = FORK.Pipe(duplex=False)
        process = FORK.Process(target=write_steps, args=(tmp_path, first, sends))
        process.start()
        sends.close()
        reported = receives.recv()
        time.sleep(chance.uniform(0.0, 0.02))
        process.kill()
        process.join()
        with suppress(EOFError):  # at the end of what it has reported
            while True:
                reported = receives.recv()

        path = newest_whole(tmp_path)

        step = int(path.stem.removeprefix("step-"))
        # The next one, if the kill came after its rename and before its report.
        assert step in (reported, reported + 1)
        assert path.read_bytes() == content_of(step)
        assert path == list_checkpoints(tmp_path)[0]  # a named file is always complete
        first = step + 1


def test_a_kill_before_a_checkpoint_is_replaced_leaves_the_old_one_whole(tmp_path, monkeypatch):
    """By then its checksum file has the checksums of the old content and of the new one.

    `os.replace` fails in the place of a kill.
    """
    path = tmp_path / name_of(1)
    write_whole(path, lambda file: file.write(b"old"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Mock(side_effect=OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            write_whole(path, lambda file: file.write(b"new"))
    assert is_whole(path)

    write_whole(path, lambda file: file.write(b"newest"))
    # After the rename, the checksum of the new content alone.
    assert checksum_of(path).read_text() == f"{file_hash(path)}  {path.name}\n"
    assert fingerprint(path) == file_hash(path)


# ------------------------------------------------------------------------------------- a full disk

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture
def fill(monkeypatch):
    """Fill the disk for the next checkpoint, and for no other file."""
    begin = owned._open_temporary

    def begin_on_full_disk(path):
        file = begin(path)
        if path.suffix == ".ckpt":
            monkeypatch.setattr(owned, "_open_temporary", begin)
            os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())  # where every write fails
        return file

    return lambda: monkeypatch.setattr(owned, "_open_temporary", begin_on_full_disk)


def contents():
    return {path: path.read_bytes() for path in FOLDER.iterdir()}


class AtStepFive(Callback):
    """Note the folder's content between the failure and the next checkpoint."""

    contents: dict[Path, bytes] = {}  # noqa: RUF012  (set once, read by the test)

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 5:  # Checkpoints comes before all other callbacks
            AtStepFive.contents = contents()


@needs_full
def test_a_full_disk_costs_one_checkpoint(fitted, enlarger, fill, caplog):
    """The earlier ones are kept, training continues, and the next one is written."""
    fitted("--trainer.max_steps 4 --checkpoint.every_n_steps 2")
    before = contents()
    caplog.clear()
    fill()

    every = "--checkpoint.every_n_steps 2 --run.change true"
    enlarger(f"{FIT} --trainer.max_steps 12 {every} --trainer.callbacks+ {__name__}.AtStepFive")

    (loud,) = messages(caplog)
    assert f"{name_of(5)} could not be written" in loud  # validated at the epoch's end
    assert f"kept: {name_of(4)}, {name_of(2)}" in loud
    assert "Training continues" in loud
    assert AtStepFive.contents == before
    fitted(name="whole")
    assert_same("tiny", "whole")


@needs_full
def test_a_full_disk_at_the_end_is_an_error(fitted, refusal, enlarger, fill, caplog):
    fitted("--trainer.max_steps 4 --checkpoint.every_n_steps 2")
    before = contents()
    fill()
    command = f"{FIT} --data.val null --run.change true --trainer.max_steps 6"
    caplog.clear()

    sentence = refusal(command)

    assert f"{name_of(6)} could not be written" in sentence
    assert f"kept: {name_of(4)}" in sentence
    assert "Training continues" not in caplog.text
    assert contents() == before
    enlarger(command)  # there is room again
    assert steps()[0] == 6
