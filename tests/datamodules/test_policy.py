"""Unusable images: counted by reason, logged now and then, and limited."""

from __future__ import annotations

import logging
import re

import pytest

from datamodules.base import SRDataModule
from datamodules.samples import Skipped, Tally
from tests.datamodules.memory import Memory, random_image, random_images, training
from tests.datamodules.test_base import data_of


def broken(number: int, reason: str = "truncated", planned: bool = True) -> Skipped:
    return Skipped(f"train/{number}", reason, f"/photos/{number}.jpg: {reason}", planned)


class TestTally:
    def test_counts_by_reason(self):
        tally = Tally(1.0)
        tally.add(16, [broken(1), broken(2, "missing"), broken(3, planned=False)])
        tally.add(16, [broken(1), broken(4, "small")])
        assert tally.summary() == "truncated 3, missing 1, small 1"
        assert (tally.samples, tally.failed, tally.unreadable) == (32, 3, 4)

    @pytest.mark.parametrize(("limit", "allowed"), [(0.01, 10), (0.0, 0), (0.5, 500)])
    def test_below_a_thousand_samples_the_share_is_of_a_thousand(self, limit, allowed):
        tally = Tally(limit)
        for number in range(allowed):
            tally.add(1, [broken(number)])
        message = (
            rf"{allowed + 1} of the {allowed + 1} training samples .* "
            rf"\(truncated {allowed + 1}\), more than the {allowed} that data\.init_args\."
        )
        with pytest.raises(ValueError, match=message):
            tally.add(1, [broken(allowed)])


class TestLimit:
    def data(self, source: Memory, **settings: object) -> SRDataModule:
        defaults = {"batch_size": 10, "crop_size": 8, "per_image": 50}
        return data_of(source, **defaults | settings)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_run_stops_with_the_list(self, workers):
        source = Memory({"bad": "shard-7.tar: bad: cut off", **random_images(9, 8, 8).samples})
        data = self.data(source, workers=workers)
        with pytest.raises(ValueError, match=r"11 of the \d+0 training samples") as caught:
            list(training(data))
        assert "(damaged 11), more than the 10 that" in str(caught.value)
        assert "unreadable_limit allows (0.01 of 1000)" in str(caught.value)
        assert str(caught.value).endswith("\n  shard-7.tar: bad: cut off")
        assert data.tally.samples < 200

    def test_small_ones_are_told_at_the_end(self, caplog):
        source = Memory({"dot": {"hr": random_image(2, 2)}, **random_images(9, 8, 8).samples})
        data = self.data(source, small="skip", unreadable_limit=0)
        assert len(list(training(data))) == 50
        data.teardown("validate")
        with caplog.at_level(logging.WARNING, "datamodules.base"):
            data.teardown("fit")
        message = r"not used in 500 samples of this process: small 5\d"
        assert re.search(message, caplog.text)
