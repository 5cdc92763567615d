"""Tiles of one image on several gloo processes are those of one process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional

from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise
from lightning_modules.sampling.stopping import Stopped
from lightning_modules.sampling.tiling import Tiling
from tests.quick import quick

SIZES = {"odd": (45, 71), "one_tile": (12, 9), "fewer_tiles_than_processes": (16, 30)}
FULL = (48, 64)  # an image for which one process has no memory for tiles above 16 pixels
SMALL = (20, 24)


class Noisy(SuperResolver):
    """Nearest neighbour with noise of the image's own."""

    tile_overlap, tile = 4, 32

    def restore(self, batch: Any, noise: Noise) -> Tensor:
        lr = batch["lr"]
        full = 0 if batch["key"][0] == "first" else 1  # the process without memory
        if dist.is_initialized() and dist.get_rank() == full and lr.shape[-1] > 16:
            raise torch.OutOfMemoryError("full")
        if batch["key"][0] == "stopped" and dist.get_rank() == 1:
            raise Stopped(signal.SIGTERM, "in one process")
        large: Tensor = functional.interpolate(lr, batch["size"], mode="nearest-exact")
        return large * 0.5 + 0.02 * noise.normal(large.shape)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError


def enlarged(size: tuple[int, int], side: int | str, key: str = "a", together: bool = True) -> Any:
    h, w = size
    model = Noisy(2).eval()
    model.set_tiling(Tiling(size=side, batch=2, together=together))  # type: ignore[arg-type]
    lr = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))
    batch = {"key": [key], "seed": torch.tensor([3]), "lr": lr, "size": (2 * h, 2 * w)}
    return {**model.predict_step(batch, 0), "tiles": model.tile_count}  # type: ignore[dict-item, arg-type]


def member(rank: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process has no pool of threads
    place = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=count)
    found = {name: enlarged(size, 16) for name, size in SIZES.items()}
    found["full"] = enlarged(FULL, "auto")
    found["full_in_one_tile"] = enlarged(SMALL, "auto", key="first")
    found["full_elsewhere"] = enlarged(SMALL, "auto")
    for name, wrong in (
        ("keys", lambda: enlarged(FULL, 16, key=str(rank))),
        ("memory", lambda: enlarged(FULL, 24)),
        ("stopped", lambda: enlarged(FULL, 16, key="stopped")),
    ):
        try:
            found[name] = wrong()
        except (ValueError, torch.OutOfMemoryError, Stopped) as error:
            found[name] = f"{type(error).__name__}: {error}"
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("count", quick([2, 3], 2))
def test_processes_together(tmp_path: Path, count: int) -> None:
    mp.start_processes(member, (count, str(tmp_path)), nprocs=count, start_method="fork")  # type: ignore[no-untyped-call]
    alone = {name: enlarged(size, 16, together=False) for name, size in SIZES.items()}
    alone["full"] = enlarged(FULL, 16, together=False)  # halved once, by all
    alone["full_in_one_tile"] = enlarged(SMALL, 16, together=False)
    alone["full_elsewhere"] = enlarged(SMALL, 32, together=False)
    assert [alone[name]["tiles"] for name in ("odd", "one_tile")] == [24, 1]
    for rank in range(count):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, one in alone.items():
            assert torch.equal(found[name]["sr"], one["sr"]), name
            assert found[name]["tiles"] == one["tiles"], name
        assert found["keys"].startswith("ValueError: tiling.together is true, and the processes")
        assert found["memory"].startswith("OutOfMemoryError: tiles do not fit")
        assert found["stopped"].startswith("Stopped: stopped by SIGTERM")
