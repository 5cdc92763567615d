"""The run directory: its name, what may change on resume, and which weights are used."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands.errors import ConfigurationError
from commands.run.directory import RunDirectory, run_folder
from tests.commands.test_resume import newest

Refusal = Callable[..., str]
Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")


# --------------------------------------------------------------------------------------- its name


def test_no_run_lies_where_all_runs_are(trained: Path, refusal: Refusal) -> None:
    """Overwriting it would rename all runs."""
    sentence = refusal(*FIT, "--run.name", "..", "--run.overwrite", "true")
    assert sentence.startswith("run.name is '..', which is not a folder below runs")
    assert newest("tiny")["global_step"] == 12
    for name in ("", ".", "a/.."):
        with pytest.raises(ConfigurationError, match=r"which is not a folder below runs"):
            run_folder("runs", name)


@pytest.mark.parametrize("name", ["/abs/x", "../x", "a/../../x"])
def test_no_run_lies_outside_of_the_folder_of_all(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="which is not a folder below"):
        run_folder(str(tmp_path), name)
    (tmp_path / "linked").symlink_to("/")
    for sound in ("a", "a/b", "a/../b", "..a", "linked/x"):
        assert run_folder(str(tmp_path), sound).resolve() == (tmp_path / sound).resolve()


def test_lightning_chooses_no_checkpoint(tiny: Path, refusal: Refusal) -> None:
    Path("runs/tiny").mkdir(parents=True)
    Path("runs/tiny/hpc_ckpt_1.ckpt").touch()
    assert "hpc_ckpt_1.ckpt is there, from which Lightning would resume" in refusal(*FIT)


def test_the_folder_above_a_link_is_its_targets(tmp_path: Path) -> None:
    """Lightning would write beside the link."""
    (tmp_path / "far/experiments").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/experiments")
    assert run_folder(f"{tmp_path}/link/../runs", "x") == tmp_path.resolve() / "far/runs/x"


# ----------------------------------------------------------------------------- its configuration


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
        *("--trainer.max_steps", "11", "--trainer.benchmark", "true"),
        *("--run.matmul_precision", "high", "--run.seeds", "2"),
    )
    lines = [line.strip() for line in sentence.splitlines()]
    assert lines[0] == "the run in runs/tiny was started with another configuration:"
    assert lines[1:-1] == [
        "data.crops.flips: True -> False",
        "model.loss: l1 -> charbonnier",
        "run.matmul_precision: None -> high",
        "seed_everything: 0 -> 1",
        "trainer.benchmark: None -> True",
        "trainer.max_steps: 12 -> 11",
    ]
    for way_out in ("--run.change true", "--run.name NAME", "--run.overwrite true"):
        assert way_out in lines[-1]
    assert (trained / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("schedule", "key", "accepted"),
    [
        ("torch.optim.lr_scheduler.StepLR", "optimizer.init_args.lr", False),
        (None, "optimizer.init_args.lr", False),
        ("torch.optim.lr_scheduler.StepLR", "lr_scheduler.init_args.gamma", False),
        ("lightning_modules.WarmUpCosine", "optimizer.init_args.lr", True),
        ("lightning_modules.WarmUpCosine", "lr_scheduler.init_args.steps", True),
        ("lightning_modules.WarmUpCosine", "optimizer.init_args.weight_decay", False),
        (None, "optimizer.init_args.of_another_torch", True),
    ],
)
def test_what_the_checkpoint_would_keep_is_refused(
    trained: Path, schedule: str | None, key: str, accepted: bool
) -> None:
    """Else a changed learning rate would be recorded, and not used."""
    content = yaml.safe_load((trained / "config.yaml").read_text())
    arguments = content["model"]["init_args"]
    arguments["optimizer"] = {"class_path": "torch.optim.Adam", "init_args": {}}
    arguments["lr_scheduler"] = schedule and {"class_path": schedule, "init_args": {}}
    config = copy.deepcopy(content)
    for number, settings in enumerate((content, config)):
        place, _, name = key.rpartition(".")
        part, _, _ = place.partition(".")
        if number or name != "of_another_torch":
            settings["model"]["init_args"][part]["init_args"][name] = 0.1 + number
    (trained / "config.yaml").write_text(yaml.safe_dump(content))
    refused = pytest.raises(ConfigurationError, match="so this has no effect")
    with contextlib.nullcontext() if accepted else refused:
        RunDirectory(trained).check(config, change=True)


@pytest.mark.parametrize(
    ("key", "accepted"), [("limit_train_batches", False), ("gradient_clip_val", True)]
)
def test_one_batch_is_not_all_batches(trained: Path, key: str, accepted: bool) -> None:
    """1 and 1.0 of the trainer's limits; elsewhere they are one number."""
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["trainer"][key] = 1.0
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    config["trainer"][key] = 1
    refused = pytest.raises(ConfigurationError, match=rf"{key}: 1\.0 -> 1\n")
    with contextlib.nullcontext() if accepted else refused:
        RunDirectory(trained).check(config, change=False)


NAMED = {"b": "JPEG", "a": "USM"}


@pytest.mark.parametrize("in_a_list", [False, True])
def test_another_order_of_stages_is_another_configuration(trained: Path, in_a_list: bool) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    stages: Any = {key: {"class_path": f"degradations.{name}"} for key, name in NAMED.items()}
    config["data"]["init_args"]["val"] = stages
    if in_a_list:
        stages = [{"class_path": "degradations.Shuffled", "init_args": {"stages": stages}}]
    config["degradation"] = {"class_path": "degradations.Pipeline", "init_args": {"stages": stages}}
    text = yaml.safe_dump(config, sort_keys=False)
    (trained / "config.yaml").write_text(text)
    RunDirectory(trained).check(yaml.safe_load(text), change=False)
    with pytest.raises(ConfigurationError, match=r"\('b', 'a'\) -> \('a', 'b'\)") as refused:
        RunDirectory(trained).check(yaml.safe_load(yaml.safe_dump(config)), change=False)
    assert "val" not in str(refused.value)


SAID = "runs/tiny/config.yaml, the configuration of the run, is {}: restore it, or "


@pytest.mark.parametrize("content", [b"", b"- a\n", b"a: [1", b"\xff\xfe\x00", None])
def test_a_damaged_or_missing_configuration_is_reported(
    trained: Path, content: bytes | None
) -> None:
    """Compared with an empty one, all keys would be changed."""
    run = RunDirectory(trained)
    run.config_file.unlink()
    if content is not None:
        run.config_file.write_bytes(content)
    said = SAID.format("missing" if content is None else "damaged")
    with pytest.raises(ConfigurationError, match=said):
        run.check({"a": 1}, change=False)
    if content is not None:
        with pytest.raises(ConfigurationError, match=said):
            run.trained_config()
    run.check({"a": 1}, change=True)


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


@pytest.mark.parametrize(
    "refused",
    [
        # By the trainer, one of its callbacks, and the model.
        ("--trainer.strategy", "ddp_spawn"),
        ("--trainer.callbacks+", "lightning.pytorch.callbacks.LearningRateFinder"),
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


def test_a_given_checkpoint_keeps_its_optimiser_and_its_rate(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = str(max((trained / "checkpoints").glob("*.ckpt")))
    config = yaml.safe_load((trained / "config.yaml").read_text())
    second, arguments = RunDirectory(trained.with_name("second")), config["model"]["init_args"]
    assert second.begin_from(given, config) == Path(given)
    arguments["lr_scheduler"] = None
    second.begin_from(given, config)
    assert "lr_scheduler is null: the learning rate stays that of the checkpoint" in caplog.text
    arguments["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
    with pytest.raises(ConfigurationError, match=r"optimizer: \S*adam -> torch.optim.SGD; undo"):
        second.begin_from(given, config)


def test_a_checkpoint_of_the_run_itself_is_no_beginning(trained: Path, refusal: Refusal) -> None:
    oldest = min((trained / "checkpoints").glob("*.ckpt"))
    assert newest("tiny")["global_step"] == 12
    for overwrite in ("true", "false"):
        sentence = refusal(*FIT, "--ckpt_path", oldest, "--run.overwrite", overwrite)
        assert "a checkpoint of the run itself" in sentence
        assert "--run.name" in sentence
    assert newest("tiny")["global_step"] == 12


# ------------------------------------------------------------------------------------- evaluation


def test_test_uses_the_best_and_says_so(
    trained: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    best = json.loads((trained / "checkpoints" / "best.json").read_text())
    name = best["best"][0]
    enlarger("test", "--config", "tiny.yaml")
    assert (
        f"test uses best val/psnr {best['scores'][name]['value']:.4f} of the run in runs/tiny"
        in caplog.text
    )
    measured = json.loads((trained / "results.json").read_text())["results"]
    assert name in measured[0]["checkpoint"]
    assert name != "step-000000012.ckpt"  # the newest is another one


def test_keys_of_an_earlier_version_in_the_configuration_of_a_run(
    trained: Path, enlarger: Enlarger
) -> None:
    file = trained / "config.yaml"
    earlier = "run:\n  lost_after_seconds: 60.0\n  preflight_minutes: 10.0\n"
    file.write_text(file.read_text().replace("run:\n", earlier))

    enlarger("fit", "--config", "tiny.yaml", "--trainer.max_steps", 13)
    file.write_text(file.read_text().replace("run:\n", earlier))
    enlarger("fit", "--config", file, "--trainer.max_steps", 14)

    assert newest("tiny")["global_step"] == 14
