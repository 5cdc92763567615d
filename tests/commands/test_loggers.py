"""Loggers of other packages: the report has the curves, and so have they."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from callbacks.report.runs import Curve, read_run
from commands.run.loggers import OF_TRAINER, hyperparameters
from tests.conftest import REPO

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml", "--trainer.val_check_interval", 2)
CSV = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs}}"
TAGS = ("train/loss", "val/psnr", "bicubic/val/psnr", "lr-Adam")


def needs(*packages: str) -> pytest.MarkDecorator:
    # A folder `wandb` in the working directory, which W&B writes, is no package.
    found = [(name, find_spec(name)) for name in packages]
    missing = [name for name, spec in found if spec is None or spec.origin is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


@pytest.fixture
def curves(
    tiny: Path,
    enlarger: Enlarger,
    fitted: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., dict[str, Curve]]:
    """Fit with a logger, check the report, and return its curves."""
    expected = read_run(fitted("--trainer.val_check_interval", 2, name="without"), "without")

    def fit(*logger: object) -> dict[str, Curve]:
        enlarger(*FIT, "--trainer.logger", *logger)
        assert "cannot reproduce this run" not in caplog.text
        found = read_run(Path("runs/tiny"), "tiny").curves
        assert {tag: found[tag] for tag in TAGS} == {tag: expected.curves[tag] for tag in TAGS}
        page = Path("runs/tiny/report.html").read_text()
        assert all(f'<span class="name">{tag}</span>' in page for tag in TAGS[:2])
        return found

    return fit


def test_csv(curves: Callable[..., dict[str, Curve]]) -> None:
    curves(CSV)
    (file,) = Path("logs").rglob("metrics.csv")
    assert "train/loss" in file.read_text()


@needs("mlflow", "sqlalchemy")
@pytest.mark.parametrize("place", ["sqlite:///mlflow.db", "file:./mlruns"])
def test_mlflow(
    curves: Callable[..., dict[str, Curve]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # it advises against files
    given = () if place.startswith("sqlite") else ("--trainer.logger.tracking_uri", place)
    found = curves(REPO / "configs/logger/mlflow.yaml", *given)
    client = MlflowClient(place)
    (experiment,) = client.search_experiments(filter_string="name = 'enlarger'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "tiny"
    assert run.info.status == "FINISHED"
    logged = client.get_metric_history(run.info.run_id, "val/psnr")
    assert {m.step: m.value for m in logged} == pytest.approx(
        dict(zip(found["val/psnr"].steps, found["val/psnr"].values, strict=True))
    )


@needs("wandb")
def test_wandb(
    curves: Callable[..., dict[str, Curve]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    curves(REPO / "configs/logger/wandb.yaml")
    assert wandb.run is not None
    assert wandb.run.name == "tiny"
    assert wandb.run.settings.mode in ("offline", "dryrun")  # two names of one mode
    assert wandb.run.summary["val/psnr"] > 20
    wandb.finish()
    (folder,) = Path("wandb").glob("offline-run-*")
    assert next(folder.glob("run-*.wandb")).stat().st_size > 1000


def test_a_name_that_is_given_stays(tiny: Path, configured: Callable[..., object]) -> None:
    logger = REPO / "configs/logger/wandb.yaml"
    for more, name in ((), "tiny"), (("--trainer.logger.name", "mine"), "mine"):
        found = configured(*FIT, "--trainer.logger", logger, *more)
        assert found.trainer.logger.init_args.name == name  # type: ignore[attr-defined]


EXPECTED = {
    "model": "lightning_modules.Regression",
    "model.network": "lightning_modules.EDSR",
    "model.network.blocks": 1,
    "model.lr_scheduler.gamma": 0.9,
    "data.batch_size": 4,
    "degradation": "degradations.Bicubic",
    "trainer.max_steps": 12,
    "seed_everything": 0,
    "lr": 2e-4,
}


def library(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Put a stand-in of a module where imports find it."""
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


class WandbRun:
    """The parts of `wandb.Run` that Lightning calls, with their documented arguments."""

    def __init__(self) -> None:
        self.config, self.logged = self, []  # type: ignore[var-annotated]
        self.values: dict[str, Any] = {}

    def update(self, d: Any, allow_val_change: bool | None = None) -> None:
        changed = {k for k, v in d.items() if self.values.get(k, v) != v}
        if changed and not allow_val_change:
            raise ValueError(f"{changed}")
        self.values |= d

    def log(self, data: Any, step: int | None = None, commit: bool | None = None) -> None:
        self.logged.append(data)


def test_wandb_gets_hyperparameters_and_images(
    tiny: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = WandbRun()
    library(monkeypatch, "wandb", run=None, init=lambda **_: run, Image=lambda data: data)
    library(monkeypatch, "wandb.sdk", lib=None)
    library(monkeypatch, "wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {}))
    library(monkeypatch, "wandb.wandb_run", Run=type("Run", (), {}))
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    command = [*FIT, "--trainer.logger", REPO / "configs/logger/wandb.yaml"]
    enlarger(*command, "--trainer.max_steps", 4)
    assert run.values.items() >= (EXPECTED | {"trainer.max_steps": 4}).items()
    shown = {d["trainer/global_step"]: d["samples/val"] for d in run.logged if "samples/val" in d}
    assert list(shown) == [2, 4]
    assert all(image.dtype == np.uint8 and image.shape[-1] == 3 for [image] in shown.values())
    enlarger(*command, "--run.change", "true", "--model.init_args.lr_scheduler.step_size", 5)
    assert run.values["model.lr_scheduler.step_size"] == 5


class MlflowClient:
    """The parts of `mlflow.MlflowClient` that are called, with their documented arguments."""

    params: dict[str, str] = {}  # noqa: RUF012  (a server's)
    images: list[tuple[str | None, int | None, tuple[int, ...]]] = []  # noqa: RUF012

    def __init__(self, tracking_uri: str | None = None) -> None: ...

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(experiment_id="1", run_id=run_id))

    def log_batch(
        self,
        run_id: str,
        metrics: Any = (),
        params: Any = (),
        tags: Any = (),
        synchronous: bool | None = None,
    ) -> None:
        for param in params:
            if self.params.setdefault(param.key, param.value) != param.value:
                raise RuntimeError(f"Changing param values is not allowed: {param.key}")

    def log_image(
        self,
        run_id: str,
        image: Any,
        artifact_file: str | None = None,
        *,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
        synchronous: bool | None = None,
    ) -> None:
        self.images.append((key, step, image.shape))

    def set_terminated(self, run_id: str, status: str | None = None) -> None: ...


def test_mlflow_gets_hyperparameters_and_images(
    tiny: Path,
    enlarger: Enlarger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(MlflowClient, "params", {})
    monkeypatch.setattr(MlflowClient, "images", [])
    library(monkeypatch, "mlflow", set_tracking_uri=lambda uri: None)
    library(monkeypatch, "mlflow.tracking", MlflowClient=MlflowClient)
    library(monkeypatch, "mlflow.entities", Param=SimpleNamespace, Metric=SimpleNamespace)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", True)
    command = [*FIT, "--trainer.logger", REPO / "configs/logger/mlflow.yaml"]
    command += ["--trainer.logger.run_id", "mine"]  # the same run in each start
    enlarger(*command, "--trainer.max_steps", 4)
    expected = {key: str(value) for key, value in EXPECTED.items()} | {"trainer.max_steps": "4"}
    assert MlflowClient.params.items() >= expected.items()
    assert [(key, step) for key, step, _ in MlflowClient.images] == [
        ("samples/val", 2),
        ("samples/val", 4),
    ]
    enlarger(*command, "--trainer.max_steps", 4)  # nothing to do
    assert "did not take" not in caplog.text
    enlarger(*command, "--trainer.max_steps", 7, "--run.change", "true")
    assert "MLFlowLogger did not take the hyperparameters: Changing param values" in caplog.text
    assert MlflowClient.params["trainer.max_steps"] == "4"


def test_tensorboard_gets_hyperparameters_and_no_metric_of_them(
    tiny: Path, enlarger: Enlarger
) -> None:
    enlarger(*FIT, "--trainer.logger", "true")
    events = EventAccumulator("runs/tiny/tensorboard").Reload()  # type: ignore[no-untyped-call]
    metadata = events.summary_metadata["_hparams_/session_start_info"]
    shown = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    found = {name: value.number_value or value.string_value for name, value in shown.items()}
    assert {key: found[key] for key in EXPECTED if EXPECTED[key]} == {
        key: value for key, value in EXPECTED.items() if value
    }
    assert "hp_metric" not in events.Tags()["scalars"]


def test_csv_gets_hyperparameters(tiny: Path, enlarger: Enlarger) -> None:
    enlarger(*FIT, "--trainer.logger", CSV)
    (file,) = Path("logs").rglob("hparams.yaml")
    assert yaml.safe_load(file.read_text()).items() >= EXPECTED.items()


def test_hyperparameters_of_lists_and_addresses() -> None:
    stage = {"class_path": "degradations.Blur", "init_args": {"sigma": [0.2, 3.0]}}
    shards = {"urls": ["https://user:word@host/a.tar?signature=secret"], "weights": None}
    found = hyperparameters(
        {
            "model": {"class_path": "lightning_modules.Bicubic"},
            "data": {"class_path": "D", "init_args": {"train": shards, "val": {"a": shards}}},
            "degradation": {"class_path": "C", "init_args": {"stages": [stage, stage]}},
            "seed_everything": 1,
            "trainer": dict.fromkeys(OF_TRAINER),
        }
    )
    assert found == {
        "model": "lightning_modules.Bicubic",
        "data": "D",
        "data.train.urls": "['https://host/a.tar?...']",
        "degradation": "C",
        "degradation.stages.0": "degradations.Blur",
        "degradation.stages.0.sigma": "[0.2, 3.0]",
        "degradation.stages.1": "degradations.Blur",
        "degradation.stages.1.sigma": "[0.2, 3.0]",
        "seed_everything": 1,
    }
