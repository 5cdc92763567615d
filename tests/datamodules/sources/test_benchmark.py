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


@pytest.mark.parametrize("scale", [2.0, 3.0, 4.0])
@pytest.mark.parametrize(("name", "count"), [("set5", 5), ("set14", 14)])
def test_shipped_sets(data_root, monkeypatch, name, count, scale):
    monkeypatch.setenv("ENLARGER_DATA", str(data_root))
    source = Benchmark(f"$ENLARGER_DATA/{name}")
    source.prepare(scale)
    assert len(source.keys) == count
    sample = source.read(0)
    assert sample["hr"].shape[0] == scale * sample["lr"].shape[0]
    assert sample["hr"].shape[2] == 3
