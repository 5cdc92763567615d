"""What outputs are made of: the mean of samples, and details by octave."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from benchmarks.miniature import anatomy
from benchmarks.report import RESULTS, placed


def test_the_mean_of_samples_is_told_from_what_they_differ_by() -> None:
    torch.manual_seed(0)
    hr = 255 * torch.rand(1, 1, 128, 128, dtype=torch.float64)
    mean = hr + 8 * torch.randn_like(hr)
    found = [
        anatomy.of_mean(mean + 16 * torch.randn(3, *hr.shape[1:], dtype=hr.dtype), hr)
        for _ in range(8)
    ]
    own, of_mean = torch.tensor(found).mean(0).tolist()
    assert own == pytest.approx(20 * math.log10(255 / math.hypot(8, 16)), abs=0.05)
    assert of_mean == pytest.approx(20 * math.log10(255 / 8), abs=0.1)
    one = anatomy.of_mean(mean, hr)
    assert one[0] == one[1] == pytest.approx(30.07, abs=0.2)


def test_details_by_octave() -> None:
    """Half of HR's amplitude in one octave, the other sign in another, as it is in the others."""
    torch.manual_seed(0)
    waves = []
    for period in (3, 6, 12, 24):  # one in each octave
        angle = torch.arange(192, dtype=torch.float64) * 2 * torch.pi / period
        waves.append(torch.outer(angle.sin(), torch.ones(192, dtype=torch.float64)))
    hr = sum(waves)
    assert isinstance(hr, torch.Tensor)
    ours, theirs, common = anatomy.octaves(
        (hr - 0.5 * waves[0] - 2 * waves[2])[None, None], hr[None, None]
    )
    torch.testing.assert_close((ours / theirs).tolist(), [0.25, 1.0, 1.0, 1.0], atol=0.02, rtol=0)
    right = (common / (ours * theirs).sqrt()).tolist()
    torch.testing.assert_close(right, [1.0, 1.0, -1.0, 1.0], atol=0.02, rtol=0)


def rows(folder: Path) -> Path:
    torch.manual_seed(0)
    table = folder / "miniature_small"
    hr = torch.rand(3, 48, 48)
    for row, seeds in (("plain", 1), ("sampled", 2)):
        pictures = {"hr": hr, **{str(s): (hr + 0.1 * torch.randn_like(hr)) for s in range(seeds)}}
        for place, picture in pictures.items():
            for dataset in ("a_x4", "b_x4"):
                target = table / row / "outputs" / place / dataset / "one" / "0.png"
                target.parent.mkdir(parents=True)
                save_image(picture, target)
        lines = [{"dataset": dataset, "scale": 4.0} for dataset in ("a_x4", "b_x4")]
        (table / row / "results.json").write_text(json.dumps({"results": lines}))
    return table


def test_rows_are_measured(tmp_path: Path) -> None:
    found = anatomy.measure(rows(tmp_path))
    assert list(found) == ["plain", "sampled"]
    plain, sampled = found["plain"]["x4"], found["sampled"]["x4"]
    assert (plain["samples"], sampled["samples"], plain["pictures"]) == (1, 2, 2)
    assert plain["psnr of the mean"] == plain["psnr"]
    assert sampled["psnr of the mean"] > sampled["psnr"] + 5
    assert list(anatomy.measure(rows(tmp_path / "b"), ["sampled"])) == ["sampled"]

    report = {"command": "anatomy", "commit": "0" * 40, "results": found}
    (tmp_path / "a.json").write_text(json.dumps(report))
    text = anatomy.text_of(tmp_path / "a.json")
    assert "2 crops a scale" in text
    assert "as estimated from two draws; " in text
    assert f"| plain | {plain['psnr']:.2f}; " in text
    assert f"{sampled['psnr']:.2f} → {sampled['psnr of the mean']:.2f}; " in text


def test_without_outputs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the miniature first"):
        anatomy.measure(tmp_path)


@pytest.mark.parametrize("page", sorted(anatomy.PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_pages_say_what_the_numbers_say(page: Path) -> None:
    content = page.read_text()
    path = RESULTS / f"{page.stem}{anatomy.SUFFIX}.json"
    assert (anatomy.MARKS[0] in content) == path.is_file()
    if path.is_file():
        assert placed(content, anatomy.text_of(path), anatomy.MARKS) == content
