"""Numbers drawn for each image: known answers, distributions, and their way to a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from degradations.draws import GAMMA, Draws, mix, seed_of, to_device


class TestFrozen:
    """A change here changes the LR of every image and must be in the CHANGELOG.

    Other numbers than splitmix64's have no source: they are what this code gave from the first on.
    """

    def test_mix_is_splitmix64(self):
        """The first outputs of the reference implementation at seed 0."""
        counts = np.arange(1, 4, dtype=np.uint64)

        words = mix(counts * np.uint64(GAMMA))  # it adds GAMMA to its state before each output

        assert words.tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x6C45D188009454F]

    def test_words_of_a_stream_and_of_its_sub_streams(self):
        draws = Draws(np.array([0, 1, 2**62]))
        blur = draws.fold("blur")
        kernel = blur.fold("kernel")

        first = draws.words()
        second = draws.words()

        assert first.tolist() == [0xA706DD2F4D197E6F, 0x5E41AB087439611E, 0xBEF149404C014D94]
        assert second[0] == 0xB382A305F4414F5E
        assert blur.words()[0] == 0xF4854B26CD7549EF
        assert kernel.words()[0] == 0x227A23BF8442A802

    def test_draws_of_each_kind_in_turn(self):
        draws = Draws(np.array([0, 1]))

        uniform = draws.uniform(1.0, 30.0)
        integers = draws.integers(-3, 4)
        chosen = draws.choice([10, 20, 30], [0.2, 0.3, 0.5])
        truths = draws.bernoulli(0.5)
        normal = draws.normal(1.0, 2.0)
        seeds = draws.seeds()

        assert uniform.tolist() == [19.921006104846935, 11.677495953898415]
        assert integers.tolist() == [1, 3]
        assert chosen.tolist() == [20, 10]
        assert truths.tolist() == [False, False]
        # The logarithm's last bit may differ between machines.
        assert normal == pytest.approx([3.1371919874595986, 1.2147997192660722], rel=1e-14)
        assert seeds.tolist() == [7181796468100294495, 5776289877248233349]

    def test_seeds_of_names_and_numbers(self):
        assert seed_of() == 6510301506637419378
        assert seed_of("set5/img_001") == 6462156442455809686
        assert seed_of(0, 3, 17) == 8712633356971363495
        assert seed_of(b"1") == 6636475020452809388
        assert seed_of(-1) == 8266396364519549998
        assert seed_of(2**70) == 7214811506982208398


def test_seed_of_tells_types_and_borders_of_its_parts_apart():
    parts = [(1,), ("1",), (b"1",), ("i1",), ("ab", "c"), ("a", "bc"), ("abc",), (1, 23), (12, 3)]

    seeds = {seed_of(*part) for part in parts}

    assert len(seeds) == len(parts)


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_the_smallest_and_the_largest_word_give_possible_values(monkeypatch, word):
    """A choice of probability 0 is never drawn, also where the sum, 0.9999999, is below 1."""
    words = np.array([word], np.uint64)
    monkeypatch.setattr(Draws, "words", lambda draws: words)
    draws = Draws(np.array([1]))

    normal = draws.normal()
    [chosen] = draws.choice([0, 1, 2, 3, 4], [0.0, 0.7, 0.2, 0.0999999, 0.0])

    assert np.isfinite(normal).all()
    assert chosen in {1, 3}


def test_seeds_are_uniform_in_all_their_bits():
    """Also in the low half, the only one that some generators read."""
    seeds = Draws(np.arange(20_000)).seeds()

    low_half = seeds & 0xFFFFFFFF
    assert seeds.dtype == np.int64
    assert len(np.unique(seeds)) == 20_000
    assert stats.kstest(seeds / 2.0**63, "uniform").pvalue > 1e-3
    assert stats.kstest(low_half / 2.0**32, "uniform").pvalue > 1e-3


def test_parameters_become_tensors_of_the_device_with_their_types():
    drawn = {
        "Blur": {"sigma": np.array([0.1, 0.2, 0.3]), "on": np.array([True, False, True])},
        "seeds": np.array([2**62 + 1, 0, -5]),  # the first is no float64
        "order": np.arange(6).reshape(3, 2),
        "shared": 4,
        "empty": np.zeros((3, 0)),
    }

    moved = to_device(drawn, 3, torch.device("cpu"))

    assert torch.equal(moved["Blur"]["sigma"], torch.tensor([0.1, 0.2, 0.3]))
    assert moved["Blur"]["on"].tolist() == [True, False, True]
    assert moved["seeds"].tolist() == [2**62 + 1, 0, -5]
    assert moved["order"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert moved["shared"] == 4
    assert moved["empty"].shape == (3, 0)
