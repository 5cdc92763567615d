"""Free memory, what a piece of work takes, and the tiles that follow from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules import tile_side
from lightning_modules.base import SuperResolver
from lightning_modules.memory import free_bytes, free_on_host, peak_bytes
from lightning_modules.tile_side import TileSide
from lightning_modules.tiling import Tiling
from tests.lightning_modules.tiny import batch_of

CPU = torch.device("cpu")
GB = 1_000_000_000


def files(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n"}
VERSION_2 = {"proc/self/cgroup": "0::/pods/mine\n"}
VERSION_1 = {"proc/self/cgroup": "5:cpu:/\n4:memory:/mine\n"}
GROUP = "sys/fs/cgroup"


class TestFree:
    def test_of_this_machine(self) -> None:
        free = free_bytes(CPU)
        assert free is not None
        assert free > 1_000_000

    def test_where_it_is_not_known(self) -> None:
        assert free_bytes(torch.device("meta")) is None

    @pytest.mark.parametrize(
        ("group", "expected"),
        [
            ({}, 8_192_000_000),
            (VERSION_2, 8_192_000_000),
            # A limit of one's own, one of a group around it, and none.
            (
                {**VERSION_2, f"{GROUP}/pods/mine/memory.max": f"{3 * GB}\n"}
                | {f"{GROUP}/pods/mine/memory.current": f"{GB}\n"},
                2 * GB,
            ),
            (
                {**VERSION_2, f"{GROUP}/pods/mine/memory.max": "max\n"}
                | {f"{GROUP}/pods/mine/memory.current": f"{GB}\n"}
                | {f"{GROUP}/pods/memory.max": f"{4 * GB}\n"}
                | {f"{GROUP}/pods/memory.current": f"{3 * GB}\n"},
                GB,
            ),
            (  # within a container, where the group is the root
                {**VERSION_2, f"{GROUP}/memory.max": f"{GB}\n"}
                | {f"{GROUP}/memory.current": f"{2 * GB}\n"},
                0,
            ),
            (
                {**VERSION_1, f"{GROUP}/memory/mine/memory.limit_in_bytes": f"{5 * GB}\n"}
                | {f"{GROUP}/memory/mine/memory.usage_in_bytes": f"{GB}\n"},
                4 * GB,
            ),
            (  # files that were read and are not wanted any more, in both versions
                {**VERSION_2, f"{GROUP}/memory.max": f"{4 * GB}\n"}
                | {f"{GROUP}/memory.current": f"{3 * GB}\n"}
                | {f"{GROUP}/memory.stat": f"anon 5\nactive_file 7\ninactive_file {2 * GB}\n"},
                3 * GB,
            ),
            (
                {**VERSION_1, f"{GROUP}/memory/mine/memory.limit_in_bytes": f"{5 * GB}\n"}
                | {f"{GROUP}/memory/mine/memory.usage_in_bytes": f"{3 * GB}\n"}
                | {
                    f"{GROUP}/memory/mine/memory.stat": f"inactive_file 9\n"
                    f"total_inactive_file {GB}\n"
                },
                3 * GB,
            ),
            (
                {**VERSION_1, f"{GROUP}/memory/memory.limit_in_bytes": "9223372036854771712\n"}
                | {f"{GROUP}/memory/memory.usage_in_bytes": f"{GB}\n"},
                8_192_000_000,
            ),
        ],
    )
    def test_a_containers_limit_holds(
        self, tmp_path: Path, group: dict[str, str], expected: int
    ) -> None:
        assert free_on_host(files(tmp_path, {**MEMINFO, **group})) == expected

    def test_another_system(self, tmp_path: Path) -> None:
        assert free_on_host(tmp_path) is None


class TestPeak:
    def test_what_lives_at_the_same_time(self) -> None:
        def work() -> Tensor:
            a = torch.ones(1000)  # 4000 bytes
            b = a + 1
            del a
            c = b * 2
            c.add_(1)  # in place
            return c.view(10, 100)[:5]  # of the same memory

        assert peak_bytes(work, CPU) == 8000

    def test_what_was_there_before_does_not_count(self) -> None:
        layer, x = nn.Conv2d(3, 8, 1), torch.ones(1, 3, 10, 10)
        with torch.no_grad():
            assert peak_bytes(lambda: layer(x).relu_(), CPU) == 4 * 8 * 100

    def test_as_prediction_runs(self) -> None:
        layer, x = nn.Conv2d(3, 8, 1), torch.ones(1, 3, 10, 10)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            taken = peak_bytes(lambda: layer(x), CPU)
        assert 2 * 8 * 100 <= taken < 4 * 8 * 100


class Wide(SuperResolver):
    """Takes a known amount of memory: 20 times as much as its output, of which 16 in one tensor."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__(scale)
        self.gain = nn.Parameter(torch.ones(()))
        self.sides: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError

    def restore(self, batch: Any, noise: Any) -> Tensor:
        self.sides.append(max(batch["lr"].shape[-2:]))
        sr = functional.interpolate(batch["lr"], batch["size"]) * self.gain
        wide = sr.repeat(16, 1, 1, 1)
        return sr + 0 * wide[:1]


def chosen(monkeypatch: Any, free: int | None, **settings: Any) -> list[int]:
    """Sides of the tiles of a picture of 600 x 602, behind the trial's."""
    monkeypatch.setattr(tile_side, "free_bytes", lambda device: free)
    model = Wide().eval()
    model.tiling = Tiling(**settings)
    model.predict_step(batch_of(1, 600), 0)
    return model.sides


class TestTileSide:
    def test_the_methods_own_where_there_is_room(self, monkeypatch: Any) -> None:
        sides = chosen(monkeypatch, 100 * GB)
        assert sides[0] == tile_side.TRIAL
        assert set(sides[1:]) == {512}

    def test_half_where_there_is_none(self, monkeypatch: Any) -> None:
        """512 x 512 tiles of 12-byte output pixels: 4 of them each, times some 20."""
        needed = 4 * 512**2 * 12 * 20
        assert set(chosen(monkeypatch, 2 * needed)[1:]) == {512}
        assert set(chosen(monkeypatch, needed)[1:]) == {256}
        assert set(chosen(monkeypatch, needed // 4)[1:]) == {128}

    def test_processes_of_one_machine_share_it(self, monkeypatch: Any) -> None:
        needed = 4 * 512**2 * 12 * 20
        monkeypatch.setattr(tile_side, "free_bytes", lambda device: 2 * needed)
        model = Wide().eval()
        model.trainer = Trainer(accelerator="cpu", devices=4, strategy="ddp", logger=False)
        model.predict_step(batch_of(1, 600), 0)
        assert set(model.sides[1:]) == {256}

    def test_some_size_has_to_do(self, monkeypatch: Any) -> None:
        assert set(chosen(monkeypatch, 0)[1:]) == {64}  # twice the overlap

    def test_several_at_once_are_smaller(self, monkeypatch: Any) -> None:
        needed = 4 * 512**2 * 12 * 20
        assert set(chosen(monkeypatch, 2 * needed, batch=4)[1:]) == {256}

    @pytest.mark.parametrize("free", [None, 0])
    def test_the_users_word_counts(self, monkeypatch: Any, free: int | None) -> None:
        assert set(chosen(monkeypatch, free, size=200)) == {200}

    def test_where_nothing_is_known(self, monkeypatch: Any) -> None:
        assert set(chosen(monkeypatch, None)) == {512}

    def test_small_pictures_are_not_worth_a_trial(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(tile_side, "free_bytes", lambda device: 0)
        model = Wide().eval()
        model.predict_step(batch_of(1, 120), 0)
        assert model.sides == [122]

    def test_one_trial_for_factors_near_each_other(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(tile_side, "free_bytes", lambda device: 100 * GB)
        model = Wide().eval()
        for scale in (2.0, 2.0, 2.2, 3.0):
            model.predict_step(batch_of(1, 300, scale), 0)
        assert model.sides.count(tile_side.TRIAL) == 2

    def test_the_same_each_time(self) -> None:
        batch: Any = batch_of(1, 300)
        figures = []
        for _ in range(2):
            side = TileSide()
            side.fitting(Wide().eval().restore, batch, 512, 64)
            figures += list(side._figures.values())
        assert figures[0] == figures[1]
        assert figures[0] == pytest.approx(12 * 20, rel=0.1)


@pytest.mark.gpu
def test_a_graphics_card() -> None:
    device = torch.device("cuda")
    free = free_bytes(device)
    assert free is not None
    kept = torch.ones(25_000_000, device=device)
    del kept
    assert free_bytes(device) == pytest.approx(free, abs=50_000_000)
    x = torch.ones(1_000_000, device=device)
    assert peak_bytes(lambda: x + 1 + 1, device) == pytest.approx(8_000_000, rel=0.05)
