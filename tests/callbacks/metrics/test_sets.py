"""SetMetric: every image once on any number of processes, cached references, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import Metric
from callbacks.metrics.fid import FID, KID, KIDThumb, kernel_distance
from callbacks.metrics.pixels import PSNR
from callbacks.metrics.sets import SetMetric
from callbacks.metrics.swd import SWD
from tests.callbacks.random_inception import inception, inception_file
from tests.callbacks.tiny import Images, OneThread, Tiny, collate, loader, outputs, trainer

__all__ = ["inception", "inception_file"]


class Color(SetMetric):
    """Distance of mean colours, and of their spreads."""

    name = "color"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.asked: list[int] = []
        self.seen: list[tuple[int, int]] = []

    def protocol(self) -> MetricProtocol:
        return {"implementation": "test"}

    def features(self, images: Tensor, batch: Any) -> Tensor:
        self.asked.append(len(images))
        return images.mean((2, 3))

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        assert sr.dtype == hr.dtype == torch.float64
        self.seen.append((len(sr), len(hr)))
        return float((sr.mean(0) - hr.mean(0)).norm())

    def distances(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        spread = float((sr.std(0) - hr.std(0)).norm())
        return {**super().distances(sr, hr), f"{self.name}_spread": spread}


def expected() -> float:
    sr, hr = (images.double().mean((0, 2, 3)) for images in outputs())
    return float((sr - hr).norm())


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_one_number_of_the_set_for_any_batch_size(tmp_path: Path, batch_size: int) -> None:
    metric = Color()
    run = trainer(tmp_path, metric)
    run.validate(Tiny(), loader(batch_size=batch_size), verbose=False)
    assert [r["metric"] for r in metric.records] == ["color", "color_spread"]
    assert set(run.callback_metrics) == {"val/color", "val/color_spread"}
    record = metric.records[0]
    assert record["value"] == pytest.approx(expected(), rel=1e-5)
    assert (record["n"], record["dataset"], record["scale"]) == (7, "tiny", 2.0)
    assert record["protocol"] == {"implementation": "test"}
    assert metric.seen == [(7, 7)]


def test_an_output_that_is_not_finite_leaves_none_of_the_numbers(tmp_path: Path) -> None:
    """Results and early stopping would go on with an earlier one."""

    class Broken(Tiny):
        def validation_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
            sr = super().validation_step(batch, *indices)["sr"]
            sr[:, 0, 0, 0] = torch.nan
            return {"sr": sr}

    metrics = [Color(), SWD(levels=2)]
    trainer(tmp_path, *metrics).validate(Broken(), loader(), verbose=False)
    found = {r["metric"]: (str(r["value"]), r["not_finite"]) for m in metrics for r in m.records}
    assert found == dict.fromkeys(["color", "color_spread", "swd", "swd_2"], ("nan", 7))


@pytest.mark.parametrize("sanity", [False, True])
def test_one_image_is_refused_before_anything_is_measured(tmp_path: Path, sanity: bool) -> None:
    metric = Color()
    message = "color needs at least 2 images, but 'tiny' has 1"
    data = loader(Images(1))
    run = trainer(tmp_path, metric, num_sanity_val_steps=1 if sanity else 0, max_steps=1)
    with pytest.raises(ValueError, match=message):
        run.fit(Tiny(), loader(), data) if sanity else run.validate(Tiny(), data, verbose=False)
    assert metric.asked == []


class Absent(Color):
    def absent(self) -> str:
        return "net.pth is missing"

    def load(self) -> None:
        raise AssertionError("nothing is loaded where something is missing")


def test_strict_weights_stop_the_run(tmp_path: Path) -> None:
    metric = Absent()
    metric.strict_weights = True
    with pytest.raises(FileNotFoundError, match=r"color .strict_weights is set.: net.pth is miss"):
        trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)


# ------------------------------------------------------------------------------ several processes


class Sharded(Tiny):
    """Tests on every world-th of 7 images, in batches of 2; the ranks' lengths differ."""

    def test_dataloader(self) -> DataLoader[Any]:
        own = list(range(self.trainer.global_rank, 7, self.trainer.world_size))
        if self.trainer.global_rank == 1:
            own.append(0)  # a repeat, as padding would give
        return DataLoader(Images(side=48), 2, sampler=own, collate_fn=collate)


class Save(PSNR):
    """Write what all metrics hold at the end, on each process."""

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        records = [r for c in trainer.callbacks if isinstance(c, Metric) for r in c.records]
        logged = {k: v.item() for k, v in trainer.callback_metrics.items()}
        torch.save((records, logged), Path(trainer.default_root_dir, f"{trainer.global_rank}.pt"))


class Fails(Color):
    def distance(self, sr: Tensor, hr: Tensor) -> float:
        raise ArithmeticError("no distance")


class AbsentOnOne(Color):
    """Fail as on a machine that lacks a file."""

    def absent(self) -> str:
        import torch.distributed as dist

        on_last = dist.is_initialized() and dist.get_rank() == dist.get_world_size() - 1
        return "missing here" if on_last else ""


class OfSubsets(KID):
    def distances(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        mean, deviation = kernel_distance(sr, hr, subsets=3, size=4)
        return {"kid": mean, "kid_std": deviation}


def set_metrics() -> list[Metric]:
    several = OfSubsets("torch-fidelity", label="kid_of_4")
    return [Color(control=True), FID(), KID(), several, SWD(), KIDThumb()]


@pytest.mark.slow
@pytest.mark.distributed
def test_one_two_and_three_processes_agree(inception: Path, tmp_path: Path) -> None:
    found = {}
    for world in (1, 2, 3):
        place = tmp_path / str(world)
        place.mkdir()
        several = {"devices": world, "strategy": "ddp_fork"} if world > 1 else {}
        metrics = set_metrics() if world == 1 else [*set_metrics(), AbsentOnOne(label="absent")]
        trainer(place, OneThread(), *metrics, Save(), **several).test(Sharded(), verbose=False)
        everyones = [torch.load(place / f"{rank}.pt") for rank in range(world)]
        assert all(one == everyones[0] for one in everyones)  # all processes have the same numbers
        found[world] = everyones[0][0]
    for world in (2, 3):
        assert [r["metric"] for r in found[world]] == [r["metric"] for r in found[1]]
        for one, other in zip(found[1], found[world], strict=True):
            assert one["n"] == other["n"] == 7
            assert other["value"] == pytest.approx(one["value"], rel=1e-5)


@pytest.mark.distributed
def test_an_error_on_the_first_process_ends_all(tmp_path: Path) -> None:
    run = trainer(tmp_path, OneThread(), Fails(), devices=2, strategy="ddp_fork")
    with pytest.raises(Exception, match="no distance"):
        run.test(Sharded(), verbose=False)
