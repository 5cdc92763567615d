"""Loggers of other packages: the report has the curves, and so have they."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from callbacks.report.runs import Curve, read_run
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
