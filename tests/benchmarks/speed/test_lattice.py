"""What a lattice costs: it is taken away whole, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from benchmarks.speed import lattice
from callbacks.metrics.niqe import NIQE


def of_period(period: int, side: int = 192) -> Tensor:
    torch.manual_seed(1)
    one = torch.rand(1, 3, period, period)
    whole = one.repeat(1, 1, side // period, side // period)
    return whole - whole.mean((2, 3), keepdim=True)


def test_a_lattice_is_taken_away_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    plain = lattice.without(torch.rand(2, 3, 192, 192))
    torch.testing.assert_close(lattice.without(plain), plain)
    torch.testing.assert_close(lattice.without(plain + of_period(8)), plain)
    torch.testing.assert_close(lattice.without(plain + 0.25), plain + 0.25)


def test_other_periods_are_not_touched() -> None:
    other = of_period(6)
    other = other - lattice.without(other, 6)
    kept = other - lattice.without(other, 2)  # what both periods share
    torch.testing.assert_close(lattice.without(other) + kept, other)


def test_rows_are_measured_with_and_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hr = lattice.without(torch.rand(2, 3, 192, 192))
    for row in ("one", lattice.LENDS):
        for folder, added in (("hr", 0.0), ("0", 0.1)):
            target = tmp_path / row / "outputs" / folder / "set"
            target.mkdir(parents=True)
            for number, image in enumerate(hr):
                spoiled = image * 0.5 + 0.25 + added * of_period(8)[0]
                save_image(spoiled, target / f"{number}.png")
    niqe = NIQE()
    niqe.pristine = (torch.zeros(36, dtype=torch.float64), torch.eye(36, dtype=torch.float64))
    found = lattice.measure(tmp_path, niqe)
    assert found["images"] == 2
    rows = found["rows"]
    assert list(rows) == ["hr", "control", "one", "hr with the lattice of control"]
    assert rows["hr"]["as it is"]["swd"] == 0
    assert rows["one"] == rows["control"]
    lent, own = rows["hr with the lattice of control"]["as it is"], rows["control"]["as it is"]
    assert lent == pytest.approx(own, rel=0.02)
    assert rows["control"]["without lattice"]["swd"] < 0.25 * own["swd"]


def test_without_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the miniature first"):
        lattice.measure(tmp_path, NIQE())
