"""Files of rows: what replaces what, several seeds."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from callbacks.metrics.pixels import PSNR
from callbacks.results.files import append, read, read_file
from callbacks.results.results import Results
from callbacks.results.rows import Row
from files.method import Method
from files.owned import MovedError, write_whole
from tests.callbacks.results.measured import row
from tests.callbacks.tiny import Images, Tiny, loader, trainer


class Stochastic(Method, Tiny):
    """A model whose outputs depend on a seed, as of methods with noise."""

    _drew_noise = True

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        sr = super().test_step(batch, batch_idx)["sr"]
        return {"sr": (sr + 0.01 * self.noise_seed).clamp(0, 1)}


# ---------------------------------------------------------------------------- what is written


def test_every_image_and_those_of_bicubic(tmp_path: Path) -> None:
    metric = PSNR(control=True)
    datasets = [loader(), loader(Images(3, "other", 4))]
    trainer(tmp_path, metric, Results()).test(Tiny(), datasets, verbose=False)
    numbers = read_file(tmp_path / "results.json")
    images = read_file(tmp_path / "images.json")
    assert [(row.dataset, row.checkpoint) for row in numbers] == [
        ("tiny", None),
        ("other", None),
        ("tiny", "bicubic"),
        ("other", "bicubic"),
    ]
    assert [row.image for row in images[:7]] == Images().keys
    for number in numbers:
        values = [row.value for row in images if row.number == number.number]
        assert len(values) == number.n
        assert number.value == sum(values) / number.n


# ------------------------------------------------------------------------ what replaces what


def test_numbers_of_other_images_are_replaced_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, validation and test may both name their dataset photos."""

    def measured(digest: str, **changes: Any) -> list[Row]:
        return [row(digest=digest, **changes), row(image="set5/baby", digest=digest, **changes)]

    first = measured("00000001 9.0") + measured("00000001 9.0", metric="ssim")
    append(tmp_path, first)
    of_another_scale = measured("00000002 9.0", scale=4.0)
    append(tmp_path, of_another_scale)
    assert not caplog.records
    others = measured("00000002 9.0")
    append(tmp_path, others)
    warnings = [record.getMessage() for record in caplog.records]
    assert "other images of the same name" in warnings[0]
    assert "are replaced: set5 x2;" in warnings[0]
    assert "no longer among the results: ssim on set5 x2" in warnings[1]
    numbers, images = zip(of_another_scale, others, strict=True)
    assert read(tmp_path) == [*numbers, *images]


@pytest.mark.parametrize("written", [0, 1, 2])
@pytest.mark.parametrize("again", ["00000001", "00000002"])
def test_a_kill_between_two_writes_mixes_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, again: str
) -> None:
    """Of other images than before, or of the first ones, PSNR alone is measured again."""

    def measured(digest: str, *metrics: str) -> None:
        rows = []
        for metric in metrics:
            rows.append(row(metric=metric, value=int(digest)))
            rows.append(row(metric=metric, image="set5/baby", digest=digest))
        append(tmp_path, rows)

    measured("00000001", "psnr", "ssim")
    done = iter([write_whole] * written)
    with monkeypatch.context() as patch, contextlib.suppress(StopIteration):
        patch.setattr("callbacks.results.files.write_whole", lambda *file: next(done)(*file))
        measured("00000002", "psnr")
    measured(again, "psnr")
    found = read_file(tmp_path / "results.json")
    assert {row.value for row in found} == {int(again)}


# -------------------------------------------------------------------------------- several seeds


def test_evaluations_that_belong_together(tmp_path: Path, capsys: Any) -> None:
    model, keeper = Stochastic(), Results()
    run = trainer(tmp_path, PSNR(control=True), keeper)
    keeper.repeats = 3
    single = []
    for seed in (4, 5, 6):
        model.set_noise_seed(seed)
        run.test(model, loader(), verbose=False)
        single.append(run.callback_metrics["test/psnr"].item())
        so_far = read_file(tmp_path / "results.json")[0]
        assert so_far.seeds == list(range(4, seed + 1))  # an interrupt would leave these
    assert len(set(single)) == 3
    stored = read_file(tmp_path / "results.json")
    assert stored[0].value == pytest.approx(sum(single) / 3, rel=1e-6)
    assert stored[0].std == pytest.approx(torch.tensor(single).double().std().item(), rel=1e-4)
    assert stored[1].seeds is None  # bicubic
    seeds = {row.seed for row in read_file(tmp_path / "images.json")}
    assert seeds == {4, 5, 6, None}
    assert capsys.readouterr().out.count("checkpoint") == 1  # one table, at the end

    # Another evaluation replaces them.
    run.test(model, loader(), verbose=False)
    assert read_file(tmp_path / "results.json")[0].seeds == [6]


# ------------------------------------------------------------------------------ a folder that moves


def test_numbers_never_go_into_a_run_that_took_the_place_of_a_moved_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()

    class Moves(Callback):
        def on_test_batch_start(self, *args: Any) -> None:
            if not (tmp_path / "moved").exists():
                run.rename(tmp_path / "moved")
                run.mkdir()

    with pytest.raises(MovedError, match="was moved or deleted"):
        trainer(run, PSNR(), Results(), Moves()).test(Tiny(), loader(), verbose=False)
    assert not list(run.iterdir())
