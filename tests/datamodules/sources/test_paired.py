"""Paired: matching by name, and the check of sizes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from datamodules.sources.paired import Paired
from tests.datamodules.image_files import pixels, save


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(["a", "sub/b"]):
        save(tmp_path / "hr" / f"{name}.png", (12, 8), seed=number)
        save(tmp_path / "lr" / f"{name}.png", (6, 4), seed=number + 10)
    return tmp_path


def prepared(root, scale=2.0, **options):
    source = Paired(str(root / "hr"), str(root / "lr"), **options)
    source.prepare(scale)
    return source


def test_pairs_are_matched_by_name(root):
    (root / "lr" / "a.png").rename(root / "lr" / "a.bmp")  # whatever its extension
    source = pickle.loads(pickle.dumps(prepared(root)))
    assert source.keys == ["a", "sub/b"]
    sample = source.read(1)
    np.testing.assert_array_equal(sample["hr"], pixels((12, 8), seed=1))
    np.testing.assert_array_equal(sample["lr"], pixels((6, 4), seed=11))
    assert sample["meta"]["path"].endswith("hr/sub/b.png")


def test_div2k_names(tmp_path):
    save(tmp_path / "hr" / "0001.png", (12, 8))
    save(tmp_path / "LR" / "X2" / "0001x2.png", (6, 4))
    source = Paired(str(tmp_path / "hr"), str(tmp_path / "LR" / "X{scale}"), lr_suffix="x{scale}")
    source.prepare(2.0)
    assert source.keys == ["0001"]
    assert source.read(0)["lr"].shape == (4, 6, 3)


@pytest.mark.parametrize("lr", [(4, 2), (7, 4), (5, 4)])
def test_sizes_that_do_not_fit(tmp_path, lr):
    save(tmp_path / "hr" / "a.png", (12, 8))
    save(tmp_path / "lr" / "a.png", lr)
    message = rf"1 pairs .* do not fit scale 2: a \(HR 12x8, LR {lr[0]}x{lr[1]}, expected HR"
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path)


def test_partners_that_are_missing_are_listed(root):
    for number in range(7):
        save(root / "hr" / f"m{number}.png", (12, 8))
    save(root / "lr" / "extra.png", (6, 4))
    message = r"7 of .*hr have no LR in .*lr: m0, m1, m2, m3, m4 and 2 more; 1 of .*lr have no HR"
    with pytest.raises(ValueError, match=message):
        prepared(root)


def test_a_broken_header_is_left_to_the_reader(root):
    (root / "lr" / "a.png").write_text("x")
    assert prepared(root).keys == ["a", "sub/b"]
