"""The run directory: its name, what may change on resume, and which weights are used."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace

from commands.errors import ConfigurationError
from commands.run.directory import RunDirectory, run_folder
from lightning_modules.base import SuperResolver
from tests.commands.test_resume import newest
from tests.conftest import REPO

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
Configured = Callable[..., Namespace]
FIT = ("fit", "--config", "tiny.yaml")
MORE = ("--trainer.max_steps", "13")


def results(run: str = "tiny") -> list[dict[str, Any]]:
    content = json.loads(Path("runs", run, "results.json").read_text())
    measured: list[dict[str, Any]] = content["results"]
    return measured


# --------------------------------------------------------------------------------------- its name


def test_is_named_after_the_experiment_file(trained: Path) -> None:
    assert trained == Path("runs/tiny")
    assert (trained / "config.yaml").is_file()
    assert [p.name for p in trained.parent.iterdir()] == ["tiny"]


def test_is_named_after_the_first_of_several_files(tiny: Path, configured: Configured) -> None:
    Path("more.yaml").write_text("trainer: {max_steps: 1}\n")
    assert configured(*FIT, "--config", "more.yaml").run.name == "tiny"


def test_is_named_by_hand(tiny: Path, enlarger: Enlarger) -> None:
    enlarger(*FIT, "--trainer.max_steps", 1, "--run.name", "mine", "--run.root", "elsewhere/all")
    assert newest_step(Path("elsewhere/all/mine")) == 1
    assert not Path("runs").exists()


@pytest.mark.slow
def test_variables_are_filled_in(
    tiny: Path,
    enlarger: Enlarger,
    configured: Configured,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In all paths: a folder called `$SCRATCH` is never wanted."""
    monkeypatch.setenv("SCRATCH", str(tiny / "disk"))
    one = ("--trainer.max_steps", 1, "--trainer.limit_val_batches", 0)
    enlarger(*FIT, *one, "--run.root", "$SCRATCH/runs")
    assert newest_step(tiny / "disk/runs/tiny") == 1
    enlarger("export", "disk/runs/tiny", "--export.out", "${SCRATCH}/exported")
    assert (tiny / "disk/exported/model.safetensors").is_file()
    checkpoint = "$SCRATCH/runs/tiny/checkpoints/step-000000001.ckpt"
    config = configured("test", "--config", "tiny.yaml", "--ckpt_path", checkpoint)
    assert Path(config.ckpt_path).is_file()
    assert not any("$" in path.name for path in tiny.iterdir())
    for key in ("run.root", "ckpt_path"):
        sentence = refusal(*FIT, f"--{key}", "$SCRATHC/x")
        assert f"{key} is '$SCRATHC/x', but the environment variable SCRATHC is not set" in sentence


def test_a_checkpoint_to_test_that_is_not_there(trained: Path, refusal: Refusal) -> None:
    sentence = refusal("test", "--config", "tiny.yaml", "--ckpt_path", "best")
    assert sentence == "ckpt_path is best, and there is no such file"


def test_no_run_lies_where_all_runs_are(trained: Path, refusal: Refusal) -> None:
    """Overwriting it would rename all runs."""
    sentence = refusal(*FIT, "--run.name", "..", "--run.overwrite", "true")
    assert sentence.startswith("run.name is '..', which is not a folder below runs")
    assert newest_step(trained) == 12
    for name in ("", ".", "a/.."):
        with pytest.raises(ConfigurationError, match=r"which is not a folder below runs"):
            run_folder("runs", name)


@pytest.mark.parametrize("name", ["/abs/x", "../x", "a/../../x"])
def test_no_run_lies_outside_of_the_folder_of_all(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"which leads out of .*: set run.root instead"):
        run_folder(str(tmp_path), name)
    (tmp_path / "linked").symlink_to("/")
    for sound in ("a", "a/b", "a/../b", "..a", "linked/x"):
        assert run_folder(str(tmp_path), sound) == tmp_path / sound


def test_no_folder_is_called_null(tiny: Path, refusal: Refusal) -> None:
    Path("more.yaml").write_text("run: {root: null}\n")
    for more in (("--run.root", "null"), ("--config", "more.yaml")):
        sentence = refusal(*FIT, *more)
        assert re.match(r"run\.root is null(: remove it|; .*leave it out)", sentence)
    assert not Path("null").exists()


def test_is_named_after_the_class_without_a_file(tiny: Path, enlarger: Enlarger) -> None:
    command = ["test", "--model", "lightning_modules.Bicubic"]
    for group in ("data", "degradation"):
        content = yaml.safe_load(Path("tiny.yaml").read_text())[group]
        Path(f"{group}.yaml").write_text(yaml.safe_dump(content))
        command += [f"--{group}", f"{group}.yaml"]
    enlarger(
        *command,
        "--trainer.callbacks",
        "callbacks.PSNR",
        "--trainer.logger",
        "false",
    )
    assert results("bicubic")


def newest_step(run: Path) -> int:
    return max(int(p.stem.removeprefix("step-")) for p in (run / "checkpoints").glob("*.ckpt"))


# ----------------------------------------------------------------------------- its configuration


def test_the_saved_configuration_reruns_the_run(trained: Path, enlarger: Enlarger) -> None:
    saved = trained / "config.yaml"
    enlarger("fit", "--config", saved, "--run.name", "again")
    a, b = newest("tiny"), newest("again")
    torch.testing.assert_close(a["state_dict"], b["state_dict"], rtol=0, atol=0)
    again = yaml.safe_load(Path("runs/again/config.yaml").read_text())
    assert again.pop("run")["name"] == "again"
    first = yaml.safe_load(saved.read_text())
    assert first.pop("run")["name"] == "tiny"
    assert again == first


def test_the_saved_configuration_names_its_run(trained: Path, configured: Configured) -> None:
    for command in ("test", "fit"):
        assert configured(command, "--config", trained / "config.yaml").run.name == "tiny"


def test_free_changes_are_accepted_and_told(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    free = {
        "trainer.log_every_n_steps": "5",
        "trainer.val_check_interval": "2",
        "trainer.devices": "1",
        "checkpoint.keep_last": "3",
        "data.init_args.workers": "1",
        "trainer.max_steps": "13",
    }
    enlarger(*FIT, *(word for key, value in free.items() for word in (f"--{key}", value)))
    got = [r.getMessage() for r in caplog.records if "changed on resume" in r.getMessage()]
    assert sorted(line.split(": ")[1] for line in got) == sorted(free)
    assert "changed on resume: trainer.max_steps: 12 -> 13" in got
    assert newest("tiny")["global_step"] == 13
    assert yaml.safe_load((trained / "config.yaml").read_text())["checkpoint"]["keep_last"] == 3


def test_other_changes_are_refused_and_all_listed(trained: Path, refusal: Refusal) -> None:
    before = (trained / "config.yaml").read_text()
    sentence = refusal(
        *FIT,
        *("--data.init_args.crops.flips", "false", "--seed_everything", "1"),
        *("--model.init_args.loss", "charbonnier", "--trainer.log_every_n_steps", "5"),
    )
    lines = [line.strip() for line in sentence.splitlines()]
    assert lines[0] == "the run in runs/tiny was started with another configuration:"
    assert lines[1:-1] == [
        "data.crops.flips: True -> False",
        "model.loss: l1 -> charbonnier",
        "seed_everything: 0 -> 1",
    ]
    for way_out in ("--run.change true", "--run.name NAME", "--run.overwrite true"):
        assert way_out in lines[-1]
    assert (trained / "config.yaml").read_text() == before


def test_a_change_is_accepted_when_told_to(
    trained: Path, enlarger: Enlarger, configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    changed = (*FIT, *MORE, "--data.init_args.crops.flips", "false")
    enlarger(*changed, "--run.change", "true")
    assert "--run.change: resuming with data.init_args.crops.flips: True -> False" in caplog.text
    assert newest("tiny")["global_step"] == 13
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["data"]["init_args"]["crops"]["flips"] is False
    assert config["run"]["change"] is False
    configured(*changed)  # from now on it is the run's own


@pytest.mark.parametrize(
    ("path", "accepted"),
    [
        ("lightning_modules.base.adam", True),
        ("lightning_modules.one_pass.real_esrgan.adam", False),
        ("lightning_modules.gone.adam", False),
    ],
)
def test_another_path_of_the_same_function_is_no_change(
    trained: Path, path: str, accepted: bool
) -> None:
    """As when its file has moved since the run began."""
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"] == "lightning_modules.optimisation.adam"
    config["model"]["init_args"]["optimizer"] = path
    refused = pytest.raises(ConfigurationError, match=f"optimizer: .*adam -> {path}")
    with contextlib.nullcontext() if accepted else refused:
        RunDirectory(trained).check(config, change=False)


def test_a_change_that_the_data_refuses_leaves_the_run_as_it_was(
    trained: Path, refusal: Refusal
) -> None:
    before = (trained / "config.yaml").read_text()
    sentence = refusal(*FIT, *MORE, "--data.init_args.batch_size", 2, "--run.change", "true")
    assert "batch_size was 4, now it is 2" in sentence
    assert (trained / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "accepted"),
    [
        (12, 13, True),
        (12, -1, True),
        (12, 11, False),
        (-1, 12, False),
    ],
)
def test_more_steps_are_free_but_not_fewer(
    trained: Path, old: int, new: int, accepted: bool
) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["trainer"]["max_steps"] = old
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    config["trainer"]["max_steps"] = new
    refused = pytest.raises(ConfigurationError, match=f"trainer.max_steps: {old} -> {new}")
    with contextlib.nullcontext() if accepted else refused:
        RunDirectory(trained).check(config, change=False)


DAMAGED = [
    b"",
    b"null\n",
    b"- a\n",
    b"a text",
    b"a: [1",
    b"a: 1\n---\nb: 2\n",
    b"\xff\xfe\x00",
    b"[" * 2000,
]


SAID = "runs/tiny/config.yaml, the configuration of the run, is damaged: restore it, or "


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:20]))
def test_a_damaged_configuration_is_reported(trained: Path, content: bytes) -> None:
    """Compared with an empty one, all keys would be changed."""
    (trained / "config.yaml").write_bytes(content)
    run = RunDirectory(trained)
    with pytest.raises(ConfigurationError, match=SAID):
        run.check({"a": 1}, change=False)
    with pytest.raises(ConfigurationError, match=SAID):
        run.trained_config()
    run.check({"a": 1}, change=True)


def test_a_missing_configuration_is_reported(trained: Path) -> None:
    """Nothing would be compared, and any other configuration would continue the run."""
    (trained / "config.yaml").unlink()
    run = RunDirectory(trained)
    with pytest.raises(ConfigurationError, match=SAID.replace("damaged", "missing")):
        run.check({"a": 1}, change=False)
    run.check({"a": 1}, change=True)


def test_a_damaged_configuration_can_be_left_alone(
    trained: Path, enlarger: Enlarger, refusal: Refusal
) -> None:
    said = SAID
    (trained / "config.yaml").write_bytes(b"a: [1")
    assert refusal(*FIT) == f"{said}resume without a comparison (--run.change true)"
    weights = ("--model.init_args.weights", "a.ckpt")
    sentence = refusal("test", "--config", "tiny.yaml", *weights)
    assert sentence == f"{said}name the weights to use with --ckpt_path FILE"
    enlarger(*FIT, *MORE, "--run.change", "true")
    assert newest("tiny")["global_step"] == 13
    assert yaml.safe_load((trained / "config.yaml").read_text())["trainer"]["max_steps"] == 13


def test_a_folder_in_the_place_of_the_configuration(tiny: Path, refusal: Refusal) -> None:
    Path("runs/tiny/config.yaml").mkdir(parents=True)
    sentence = refusal(*FIT, "--run.change", "true")
    assert sentence.startswith("runs/tiny/config.yaml is a folder, ")
    assert sentence.endswith(": move the folder away")


def test_a_run_that_wrote_nothing_binds_nobody(trained: Path, enlarger: Enlarger) -> None:
    shutil.rmtree(trained / "checkpoints")
    enlarger(*FIT, "--trainer.max_steps", 1, "--data.init_args.crops.flips", "false")
    assert newest("tiny")["global_step"] == 1


def test_overwrite_moves_the_old_run_aside(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    old = {p.name: p.read_bytes() for p in (trained / "checkpoints").iterdir()}
    enlarger(*FIT, "--trainer.max_steps", 2, "--run.overwrite", "true")
    assert newest("tiny")["global_step"] == 2
    (aside,) = (p for p in Path("runs").iterdir() if p.name != "tiny")
    assert aside.name.startswith("tiny.")
    assert {p.name: p.read_bytes() for p in (aside / "checkpoints").iterdir()} == old
    assert f"the run in runs/tiny was moved to {aside}" in caplog.text
    assert yaml.safe_load((trained / "config.yaml").read_text())["run"]["overwrite"] is False


COUNTED = """
from datamodules.sources.folder import Folder


class Counted(Folder):
    def prepare(self, scale):
        with open("prepared", "a") as file:
            file.write(f"{self.root}\\n")
        super().prepare(scale)
"""


def test_overwrite_opens_each_source_once(trained: Path, enlarger: Enlarger) -> None:
    """Before the old run is moved aside, and not again when training starts."""
    Path("counted_folder.py").write_text(COUNTED)
    val = next(iter(yaml.safe_load(Path("tiny.yaml").read_text())["data"]["init_args"]["val"]))
    for overwrite in ("true", "false"):
        Path("prepared").unlink(missing_ok=True)
        enlarger(
            *(*FIT, "--run.overwrite", overwrite, "--trainer.max_steps", 2),
            *("--data.init_args.train.class_path", "counted_folder.Counted"),
            *(f"--data.init_args.val.{val}.class_path", "counted_folder.Counted"),
        )
        assert len(Path("prepared").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "refused",
    [
        # By the trainer, one of its callbacks, a check of all together, and the model.
        ("--trainer.strategy", "ddp_spawn"),
        ("--trainer.callbacks+", "lightning.pytorch.callbacks.BackboneFinetuning"),
        ("--checkpoint.mode", "min"),
        ("--model.init_args.network.init_args.blocks", "-1"),
        ("--data.init_args.train.init_args.root", "missing"),
    ],
)
def test_a_refused_start_leaves_the_old_run_where_it_is(
    trained: Path, refusal: Refusal, refused: tuple[str, str]
) -> None:
    before = sorted(trained.parent.rglob("*"))
    refusal(*FIT, "--run.overwrite", "true", *refused)
    assert sorted(trained.parent.rglob("*")) == before


def test_what_was_moved_aside_in_the_same_second_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "20300101-000000")
    (tmp_path / "a.20300101-000000").mkdir()  # a rename would replace it
    for number in range(2):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / str(number)).touch()
        RunDirectory(tmp_path / "a").move_aside()
    assert sorted(p.name for p in tmp_path.glob("a*")) == [
        f"a.20300101-000000{end}" for end in ("", "-2", "-3")
    ]


def test_a_trial_of_the_code_leaves_nothing_behind(tiny: Path, enlarger: Enlarger) -> None:
    enlarger(*FIT, "--trainer.fast_dev_run", "true")
    assert not Path("runs/tiny/checkpoints").exists()
    assert not Path("runs/tiny/config.yaml").exists()


def test_a_trial_of_the_code_does_not_touch_a_run(trained: Path, enlarger: Enlarger) -> None:
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    enlarger(*FIT, "--trainer.fast_dev_run", "true", "--data.init_args.crops.flips", "false")
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


# ---------------------------------------------------------------------- beginning with another run


def test_begins_with_a_checkpoint_of_another_run_and_the_same_command_goes_on(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    given = sorted((trained / "checkpoints").glob("*.ckpt"))[-1]
    command = (*FIT, "--ckpt_path", given, "--run.name", "second")
    enlarger(*command, "--trainer.max_steps", 13)
    assert newest("second")["global_step"] == 13
    caplog.clear()
    given.unlink()  # even if that is gone by now
    enlarger(*command, "--trainer.max_steps", 14)
    assert "resuming the run in runs/second from" in caplog.text
    assert "step-000000013.ckpt" in caplog.text
    assert newest("second")["global_step"] == 14


def test_a_checkpoint_of_the_run_itself_is_no_beginning(trained: Path, refusal: Refusal) -> None:
    oldest = min((trained / "checkpoints").glob("*.ckpt"))
    assert newest("tiny")["global_step"] == 12
    for overwrite in ("true", "false"):
        sentence = refusal(*FIT, "--ckpt_path", oldest, "--run.overwrite", overwrite)
        assert "a checkpoint of the run itself" in sentence
        assert "--run.name" in sentence
    assert newest("tiny")["global_step"] == 12


# ------------------------------------------------------------------------------------- evaluation


def test_test_and_predict_refuse_nothing(
    trained: Path, enlarger: Enlarger, configured: Configured
) -> None:
    changed = ("--data.init_args.crops.flips", "false", "--seed_everything", "1")
    before = (trained / "config.yaml").read_text()
    enlarger("test", "--config", "tiny.yaml", *changed)
    configured("validate", "--config", "tiny.yaml", *changed)
    configured("predict", "--config", "tiny.yaml", *changed, "--data.init_args.predict", "tiny.png")
    assert (trained / "config.yaml").read_text() == before


@pytest.fixture(autouse=True)
def _one_image(tmp_path: Path, photo_folder: Path) -> None:
    shutil.copy(photo_folder / "1.png", tmp_path / "tiny.png")


def test_test_uses_the_best_and_says_so(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    best = json.loads((trained / "checkpoints" / "best.json").read_text())
    name = best["best"][0]
    enlarger("test", "--config", "tiny.yaml")
    assert (
        f"test uses best val/psnr {best['scores'][name]:.4f} of the run in runs/tiny" in caplog.text
    )
    assert name in results()[0]["checkpoint"]
    assert name != "step-000000012.ckpt"  # the newest is another one


def test_test_uses_the_newest_where_nothing_was_validated(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    (trained / "checkpoints" / "best.json").unlink()
    enlarger("test", "--config", "tiny.yaml")
    assert "test uses the newest of the run in runs/tiny" in caplog.text
    assert "step-000000012.ckpt" in results()[0]["checkpoint"]


def test_weights_on_the_command_line_win_over_the_runs(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(max((trained / "checkpoints").glob("*.ckpt")), "mine.ckpt")
    enlarger("test", "--config", "tiny.yaml", "--model.init_args.weights", "mine.ckpt")
    assert results()[0]["checkpoint"].startswith("mine.ckpt")
    assert "test uses" not in caplog.text


def test_a_checkpoint_on_the_command_line_wins_over_the_runs(
    trained: Path, enlarger: Enlarger
) -> None:
    shutil.copy(max((trained / "checkpoints").glob("*.ckpt")), "mine.ckpt")
    enlarger("test", "--config", "tiny.yaml", "--ckpt_path", "mine.ckpt")
    assert results()[0]["checkpoint"].startswith("mine.ckpt")


@pytest.mark.slow
def test_weights_that_training_started_from_do_not(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(max((trained / "checkpoints").glob("*.ckpt")), "start.ckpt")
    finetune = ("--config", "tiny.yaml", "--run.name", "finetuned")
    finetune += ("--model.init_args.weights", "start.ckpt", "--trainer.max_steps", "5")
    enlarger("fit", *finetune)
    assert "weights: start.ckpt" in caplog.text
    caplog.clear()
    enlarger("fit", *finetune[:-1], "6")  # goes on with its own
    assert "resuming the run" in caplog.text
    assert "weights: start.ckpt" not in caplog.text
    enlarger("test", *finetune)
    assert "runs/finetuned/checkpoints/step-000000005.ckpt" in results("finetuned")[0]["checkpoint"]
    shutil.copy("start.ckpt", "other.ckpt")
    enlarger("test", *finetune, "--model.init_args.weights", "other.ckpt")
    assert "other.ckpt" in {Path(e["checkpoint"].split()[0]).name for e in results("finetuned")}


def test_a_model_without_weights_needs_none(tiny: Path, enlarger: Enlarger) -> None:
    enlarger("test", "--config", "tiny.yaml", "--model", "lightning_modules.Bicubic")
    assert results()[0]["checkpoint"] is None
    assert logging.getLogger("commands").isEnabledFor(logging.INFO)


class HalfFrozen(SuperResolver):
    """A frozen convolution with weights of a file, before a trained one."""

    def __init__(self, scale: float, weights: str | None = None) -> None:
        super().__init__(scale, weights=weights)
        self.frozen = torch.nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.trains = torch.nn.Conv2d(3, 12, 1)

    def restore(self, batch: Any, noise: Any) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(self.trains(self.frozen(batch["lr"])), 2)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.restore(batch, None) - batch["hr"]).abs().mean()

    def on_fit_end(self) -> None:
        SEEN.append(float(self.frozen.weight.sum()))

    on_test_end = on_fit_end


SEEN: list[float] = []


def test_frozen_parts_are_the_files_in_every_command(tiny: Path, enlarger: Enlarger) -> None:
    """They are in no checkpoint; without loading them again they would be random."""
    torch.manual_seed(99)
    start = HalfFrozen(2.0)
    torch.save(start.state_dict(), "start.pth")
    own = Path("half_frozen.yaml")
    own.write_text(
        "model:\n  class_path: tests.commands.run.test_run_directory.HalfFrozen\n"
        "  init_args: {weights: start.pth}\n"
    )
    SEEN.clear()
    command = ["--config", "tiny.yaml", "--config", own]
    enlarger("fit", *command, "--trainer.max_steps", 1)
    enlarger("fit", *command, "--trainer.max_steps", 2)
    enlarger("test", *command)
    assert [float(start.frozen.weight.sum())] * 3 == SEEN


def test_numbers_of_some_images_do_not_replace_those_of_all(
    trained: Path, enlarger: Enlarger
) -> None:
    enlarger("test", "--config", "tiny.yaml")
    enlarger("test", "--config", "tiny.yaml", "--trainer.limit_test_batches", 1)
    results = json.loads((trained / "results.json").read_text())["results"]
    assert sorted(r["n"] for r in results if r["metric"] == "psnr") == [1, 2]


@pytest.mark.slow
def test_a_terminated_run_says_so(tiny: Path) -> None:
    """A launcher that starts the next command only after success must see a failure."""
    command = [sys.executable, str(REPO / "main.py"), "fit", "--config", "tiny.yaml"]
    steps = ["--trainer.max_steps", "1000000", "--checkpoint.every_n_steps", "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *steps], env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(Path("runs/tiny/checkpoints").glob("step-*.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command continues" in printed
