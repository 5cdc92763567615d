"""Benchmark: the folder of a scale."""

from __future__ import annotations

import pytest

from datamodules.sources.paired import Benchmark
from tests.datamodules.image_files import save


@pytest.fixture
def root(tmp_path):
    for scale in ("2", "3", "2.5"):
        save(tmp_path / f"x{scale}" / "hr" / "a.png", (round(4 * float(scale)), 10))
        save(tmp_path / f"x{scale}" / "lr" / "a.png", (4, round(10 / float(scale))))
    return tmp_path


@pytest.mark.parametrize(("scale", "folder"), [(2.0, "x2"), (2.5, "x2.5")])
def test_folder_of_the_scale(root, scale, folder):
    source = Benchmark(str(root))
    source.prepare(scale)
    assert source.keys == ["a"]
    assert source.read(0)["meta"]["path"] == str(root / folder / "hr" / "a.png")


def test_scale_without_a_folder_lists_the_others(root):
    message = r"has no folder x4 for data.init_args.scale 4: it has x2, x2\.5, x3"
    with pytest.raises(ValueError, match=message):
        Benchmark(str(root)).prepare(4.0)


def test_plain_folder_is_told_from_a_benchmark(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"it has none such as x2/hr.*Folder"):
        Benchmark(str(tmp_path)).prepare(2.0)
    with pytest.raises(ValueError, match=r"Benchmark.root '.*nowhere' does not exist"):
        Benchmark(str(tmp_path / "nowhere")).prepare(2.0)
