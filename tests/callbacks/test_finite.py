"""Outputs with pixels that are not finite: counted, named once, and an error if set."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.evaluation import FiniteOutputs, are_finite
from callbacks.metrics.pixels import PSNR
from callbacks.results.results import Results
from tests.callbacks.tiny import Images, Tiny, collate, loader, trainer

BROKEN = {
    "class_path": "tests.callbacks.broken.NaNOutputs",  # of 3.png and 4.png
    "init_args": {},
}


class Broken(Tiny):
    """A model that corrupts one pixel of chosen outputs.

    Args:
        bad: Value by key.
    """

    def __init__(self, bad: dict[str, float]) -> None:
        super().__init__()
        self.bad = bad

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        sr = super().validation_step(batch, batch_idx)["sr"].clone()
        for image, key in zip(sr, batch["key"], strict=True):
            image[2, -1, -1] = self.bad.get(key, image[2, -1, -1])
        return {"sr": sr}


BAD = {"tiny/01": float("nan"), "tiny/06": float("inf"), "other/02": float("-inf")}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "callbacks.evaluation"]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_named_once_for_all_datasets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    callback = FiniteOutputs()
    loaders = [loader(batch_size=3), loader(Images(4, "other")), loader(Images(2, "sound"))]
    getattr(trainer(tmp_path, callback), verb)(Broken(BAD), loaders, verbose=False)
    assert callback.found == {"tiny": ["tiny/01", "tiny/06"], "other": ["other/02"]}
    assert said(caplog) == [
        "outputs with pixels that are NaN or infinite: 2 of the 7 of tiny (tiny/01, tiny/06); "
        "1 of the 4 of other (other/02); so their numbers are not finite either"
    ]


def test_many_are_not_all_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = {f"tiny/{n:02d}": float("nan") for n in range(7)}
    trainer(tmp_path, FiniteOutputs()).test(Broken(bad), loader(), verbose=False)
    [line] = said(caplog)
    assert "7 of the 7 of tiny (tiny/00, tiny/01, tiny/02, tiny/03, tiny/04, ...)" in line


def test_sound_outputs_are_no_word_worth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = FiniteOutputs(strict=True)
    trainer(tmp_path, callback).test(Tiny(), loader(), verbose=False)
    assert (callback.found, said(caplog)) == ({}, [])


def test_an_evaluation_starts_afresh(tmp_path: Path) -> None:
    callback = FiniteOutputs()
    run = trainer(tmp_path, callback)
    run.test(Broken(BAD), loader(), verbose=False)
    run.test(Tiny(), loader(), verbose=False)
    assert callback.found == {}


def test_large_sums_are_finite() -> None:
    images = torch.full((2, 3, 300, 300), 1.0, dtype=torch.float16)
    images[1, 0, 7, 7] = torch.nan
    assert are_finite(images).tolist() == [True, False]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_strict_fails_after_the_numbers_are_stored(tmp_path: Path, verb: str) -> None:
    """The callback comes first, and its error last."""
    run = trainer(tmp_path, FiniteOutputs(strict=True), PSNR(), Results())
    with pytest.raises(ValueError, match=r"1 of the 7 of tiny \(tiny/01\); FiniteOutputs.strict"):
        getattr(run, verb)(Broken({"tiny/01": float("nan")}), loader(), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [r["value"] for r in results] == ["nan"]


def test_strict_stops_training_at_the_validation(tmp_path: Path) -> None:
    callback = FiniteOutputs(strict=True)
    run = trainer(tmp_path, callback, max_epochs=3, num_sanity_val_steps=2)
    with pytest.raises(ValueError, match="strict allows none"):
        run.fit(Broken(BAD), loader(), loader())
    assert run.global_step == 4  # an epoch; the sanity check does not count


def test_training_goes_on_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, FiniteOutputs(), max_epochs=2, num_sanity_val_steps=2)
    run.fit(Broken(BAD), loader(), loader())
    assert len(said(caplog)) == 2


class Sharded(Broken):
    """A dataset of which each process has every second image: 4 and 3."""

    def test_dataloader(self) -> DataLoader[Any]:
        own = range(self.trainer.global_rank, 7, self.trainer.world_size)
        return DataLoader(Images(), 1, sampler=list(own), collate_fn=collate)


class Save(Callback):
    """Write what each process found and logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self.folder / f"{trainer.global_rank}.log"
        logging.getLogger("callbacks.evaluation").addHandler(logging.FileHandler(path))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = next(c for c in trainer.callbacks if isinstance(c, FiniteOutputs)).found
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_know_the_same(tmp_path: Path) -> None:
    callbacks = [FiniteOutputs(), Save(tmp_path)]
    run = trainer(tmp_path, *callbacks, devices=2, strategy="ddp_spawn")
    run.test(Sharded({**BAD, "tiny/04": float("nan")}), verbose=False)
    for rank in (0, 1):
        known = json.loads((tmp_path / f"{rank}.json").read_text())
        assert known == {"tiny": ["tiny/01", "tiny/04", "tiny/06"]}
    assert "3 of the 7 of tiny" in (tmp_path / "0.log").read_text()
    assert (tmp_path / "1.log").read_text() == ""


@pytest.mark.parametrize("strict", [False, True])
def test_the_command_ends_with_one_sentence(
    tiny: Path, enlarger: Callable[..., None], capsys: pytest.CaptureFixture[str], strict: bool
) -> None:
    own = {
        "class_path": "callbacks.FiniteOutputs",
        "init_args": {"strict": strict},
    }
    (tiny / "own.yaml").write_text(
        json.dumps({"model": BROKEN, "trainer": {"callbacks": [own, "callbacks.PSNR"]}})
    )
    command = ["test", "--config", "own.yaml", "--run.name", "broken"]
    text = (tiny / "tiny.yaml").read_text()
    (tiny / "data.yaml").write_text(text[text.index("data:") : text.index("trainer:")])
    command += ["--config", "data.yaml", "--trainer.accelerator", "cpu"]
    if strict:
        with pytest.raises(SystemExit) as stopped:
            enlarger(*command)
        assert stopped.value.code == 2
    else:
        enlarger(*command)
    got = capsys.readouterr().err
    assert got.count("error: outputs with pixels that are NaN or infinite: 2 of the 2") == strict
    assert "Traceback" not in got
    assert json.loads(Path("runs/broken/results.json").read_text())["results"][0]["value"] == "nan"
    assert Path("runs/broken/report.html").exists()
