"""Content of checkpoints, which are kept, and failures to read or write them."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from commands.errors import ConfigurationError
from commands.run.checkpoints import Checkpoints
from commands.run.files import is_whole, list_checkpoints
from files.owned import hidden
from lightning_modules.networks.edsr import EDSR
from tests.commands.test_resume import assert_same, newest
from tests.quick import quick

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")


def steps(run: str = "tiny") -> list[int]:
    found = list_checkpoints(Path("runs", run, "checkpoints"))
    return [int(p.stem.removeprefix("step-")) for p in found]


def files(folder: Path) -> dict[Path, bytes]:
    """Return all files and their contents, without links: /dev/full never ends."""
    return {p: b"" if p.is_symlink() else p.read_bytes() for p in folder.iterdir()}


def damage(path: Path) -> None:
    """Flip one bit in the middle, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def ranking() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("runs/tiny/checkpoints/best.json").read_text())
    return content


# -------------------------------------------------------------------------------------- its content


def test_holds_what_the_design_lists_and_nothing_else(trained: Path) -> None:
    checkpoint = newest("tiny")  # with weights_only=True
    assert set(checkpoint) == {
        *("state_dict", "callbacks", "optimizer_states", "lr_schedulers", "loops"),
        *("epoch", "global_step", "pytorch-lightning_version", "model", "SRDataModule"),
        *("frozen", "trained_with"),
    }
    assert checkpoint["frozen"] == {}
    assert checkpoint["trained_with"] == {"network": {"res_scale": 1.0, "global_skip": True}}
    network = EDSR(2, blocks=1, channels=8, global_skip=True)
    assert set(checkpoint["state_dict"]) == {f"network.{name}" for name in network.state_dict()}
    assert set(checkpoint["callbacks"]) == {"EMA"}
    trained_names = {f"network.{name}" for name, _ in network.named_parameters()}
    assert set(checkpoint["callbacks"]["EMA"]["weights"]) == trained_names
    assert checkpoint["global_step"] == 12
    assert checkpoint["model"] == "lightning_modules.Regression"


class Own(Callback):
    """Freezes the first layer, and keeps a number of NumPy's; or an array, which is refused."""

    def __init__(self, array: bool = False) -> None:
        self.best = np.zeros(2) if array else np.float64(2)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.get_submodule("network.head").requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}


def heads() -> list[torch.Tensor]:
    return [value for name, value in newest("tiny")["state_dict"].items() if "head" in name]


def test_a_frozen_layer_and_numpys_numbers_are_there_again(tiny: Path, enlarger: Enlarger) -> None:
    own = ("--trainer.callbacks+", f"{__name__}.Own")
    enlarger(*FIT, "--trainer.max_steps", 2, *own)
    (head, *_) = heads()
    enlarger(*FIT, "--trainer.max_steps", 3, *own)
    assert newest("tiny")["callbacks"]["Own"] == {"best": 2}
    assert torch.equal(heads()[0], head)


def test_a_checkpoint_that_no_start_could_read_is_refused(tiny: Path, refusal: Refusal) -> None:
    own = ("--trainer.callbacks+", f"{__name__}.Own", "--trainer.callbacks.array", "true")
    assert "numpy" in refusal(*FIT, "--trainer.max_steps", 2, *own)
    assert steps() == []


def test_a_checkpoint_from_within_a_validation_is_refused() -> None:
    """Earlier versions wrote such ones."""
    with pytest.raises(ConfigurationError, match="resumes from the one before"):
        Checkpoints().load_state_dict({"validation_due": True})


# --------------------------------------------------------------------------------- which are kept


def test_keeps_the_last_two_and_the_best_and_the_rest_is_gone(trained: Path) -> None:
    assert steps()[:2] == [12, 10]
    assert set(steps()) == {12, 10, *(int(re.findall(r"\d+", n)[0]) for n in ranking()["best"])}
    names = {p.name for p in (trained / "checkpoints").iterdir()}
    kept = {f"step-{step:09d}.ckpt" for step in steps()}
    assert names == {"best.json", *kept, *(f"{name}.sha256" for name in kept)}
    assert all(is_whole(path) for path in list_checkpoints(trained / "checkpoints"))


# ---------------------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("how", quick(["bit", "cut", "empty", "no checksum"], "bit", "no checksum"))
def test_a_damaged_newest_one_falls_back_to_the_one_before(
    trained: Path,
    fitted: Callable[..., Path],
    enlarger: Enlarger,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    path = list_checkpoints(trained / "checkpoints")[0]
    assert path.name == "step-000000012.ckpt"
    if how == "bit":
        damage(path)
    elif how == "no checksum":
        path.with_name(f"{path.name}.sha256").unlink()
    else:
        path.write_bytes(path.read_bytes()[: 1000 if how == "cut" else 0])
    caplog.clear()
    enlarger(*FIT)
    loud = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(loud) == 1
    assert "DAMAGED CHECKPOINT: runs/tiny/checkpoints/step-000000012.ckpt" in loud[0]
    assert "step-000000010.ckpt" in caplog.text
    assert is_whole(path)  # the run wrote it again
    fitted(name="whole")
    assert_same("tiny", "whole")


def test_all_damaged(trained: Path, refusal: Refusal) -> None:
    for path in list_checkpoints(trained / "checkpoints"):
        damage(path)
    sentence = refusal(*FIT)
    assert "all checkpoints in runs/tiny/checkpoints are damaged" in sentence
    assert "--run.overwrite true" in sentence
    assert "needs trained weights" in refusal("test", "--config", "tiny.yaml")


def test_a_damaged_best_one(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    damage(trained / "checkpoints" / ranking()["best"][0])
    enlarger("test", "--config", "tiny.yaml")
    assert "DAMAGED CHECKPOINT: the best one" in caplog.text
    assert "test uses the newest of the run" in caplog.text
    assert "step-000000012.ckpt" in (trained / "results.json").read_text()


def test_what_a_killed_run_left_half_written_confuses_nobody(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained / "checkpoints"
    left = [hidden(folder / "step-000000013.ckpt"), hidden(folder / "step-000000001.ckpt")]
    left.append(folder / f".{uuid.uuid4().hex}.tmp")
    for path in left:
        path.write_bytes(b"half")
    (folder / "step-000000099.ckpt.sha256").write_text("0  step-000000099.ckpt\n")
    (folder / "step-x.ckpt").write_text("not ours")
    (folder / ".notes.tmp").write_text("not ours")
    enlarger(*FIT, "--trainer.max_steps", 13)
    assert newest_step() == 13
    assert "DAMAGED" not in caplog.text
    assert not any(path.exists() for path in left)
    assert (folder / ".notes.tmp").exists()


def test_checkpoints_of_other_runs_stay(trained: Path, enlarger: Enlarger) -> None:
    """Copies in the folder, with or without checksums: only the run's own are pruned."""
    folder = trained / "checkpoints"
    own = newest_step()
    mine = [folder / f"step-{step:09d}.ckpt" for step in (1, 2, 3)]
    for path in mine:
        shutil.copy(folder / f"step-{own:09d}.ckpt", path)
    shutil.copy(f"{folder}/step-{own:09d}.ckpt.sha256", f"{mine[0]}.sha256")
    (folder / "step-000000099.ckpt").write_bytes(b"of another run, and cut off")
    more = ("--checkpoint.every_n_steps", 1, "--run.change", "true")
    enlarger(*FIT, "--trainer.max_steps", own + 4, *more)
    assert all(path.exists() for path in mine)
    assert (folder / "step-000000099.ckpt").exists()
    assert (folder / "step-000000001.ckpt.sha256").exists()
    left = set(steps()) - {1, 2, 3, 99}
    assert {own + 4, own + 3} <= left
    assert len(left) <= 3  # the best one is among them
    assert ranking()["written"] == sorted(f"step-{step:09d}.ckpt" for step in left)


def newest_step() -> int:
    return steps()[0]


# ------------------------------------------------------------------------------------ what is best


@pytest.mark.parametrize(
    "other",
    [
        ("--data.init_args.val.photos.init_args.files", "[1.png]"),
        ("--data.init_args.degradation_seed", 1),
        ("--tiling.size", 8),
        ("--trainer.limit_val_batches", 1),
        ("--trainer.callbacks", "[{class_path: callbacks.PSNR, init_args: {border: 0}}]"),
    ],
)
def test_scores_of_another_validation_are_not_compared(
    other: tuple[Any, ...], trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    before = ranking()
    assert before["scores"]
    enlarger(*FIT, *other, "--run.change", "true", "--trainer.max_steps", 16)
    assert "best.json has scores of other images, settings or metrics" in caplog.text
    (old,) = before["best"]
    new, *kept = ranking()["best"]
    assert kept == [old]
    assert ranking()["scores"][old] == before["scores"][old]
    assert ranking()["scores"][new]["measured"] != before["scores"][old]["measured"]
    assert (trained / "checkpoints" / old).exists()
    caplog.clear()
    enlarger(*FIT, *other, "--trainer.max_steps", 21)
    assert "best.json" not in caplog.text
