"""Draws: known answers, distributions, independence of streams."""

from __future__ import annotations

import numpy as np
from scipy import stats

from degradations.draws import GAMMA, Draws, mix, seed_of

N = 20_000
SEEDS = np.arange(N)
# All tests run at fixed seeds, so they cannot fail by chance: this only sets how extreme a result
# must be to call the generator broken.
ALPHA = 1e-3


def first(seeds=(0, 1, 2**62)):
    return Draws(np.array(seeds))


class TestKnownAnswers:
    """Frozen: a change here changes the LR of every image and must be in the CHANGELOG."""

    def test_mix_is_splitmix64(self):
        # The first outputs of the reference implementation at seed 0.
        words = mix(np.arange(1, 4, dtype=np.uint64) * np.uint64(GAMMA))
        assert [hex(int(w)) for w in words] == [
            "0xe220a8397b1dcdaf",
            "0x6e789e6aa1b965f4",
            "0x6c45d188009454f",
        ]

    def test_words_and_folds(self):
        draws = first()
        assert draws.words().tolist() == [
            0xA706DD2F4D197E6F,
            0x5E41AB087439611E,
            0xBEF149404C014D94,
        ]
        assert draws.words()[0] == 0xB382A305F4414F5E
        assert draws.fold("blur").words()[0] == 0xF4854B26CD7549EF
        assert draws.fold("blur").fold("kernel").words()[0] == 0x227A23BF8442A802

    def test_each_kind_in_turn(self):
        draws = first()
        assert draws.uniform(1.0, 30.0).tolist() == [
            19.921006104846935,
            11.677495953898415,
            22.630207793929134,
        ]
        assert draws.integers(-3, 4).tolist() == [1, 3, 1]
        assert draws.choice([10, 20, 30], [0.2, 0.3, 0.5]).tolist() == [20, 10, 30]
        assert draws.bernoulli(0.5).tolist() == [False, False, False]
        # The logarithm's last bit may differ between machines.
        np.testing.assert_allclose(
            draws.normal(1.0, 2.0),
            [3.1371919874595986, 1.2147997192660722, 1.9457828882236887],
            rtol=1e-14,
        )
        assert draws.seeds().tolist() == [
            7181796468100294495,
            5776289877248233349,
            4724635531768001978,
        ]

    def test_seed_of(self):
        assert seed_of() == 6510301506637419378
        assert seed_of(0) == 6123453654292721103
        assert seed_of("set5/img_001") == 6462156442455809686
        assert seed_of(0, 3, 17) == 8712633356971363495
        assert seed_of(b"1") == 6636475020452809388
        assert seed_of(-1) == 8266396364519549998
        assert seed_of(2**70) == 7214811506982208398


class TestSeedOf:
    def test_types_and_borders_count(self):
        parts = [(1,), ("1",), (b"1",), ("ab", "c"), ("a", "bc"), ("abc",), (1, 23), (12, 3)]
        parts += [("i1",), (-1,)]
        assert len({seed_of(*part) for part in parts}) == len(parts)


class TestDistributions:
    def test_choice_never_takes_what_has_no_probability(self, monkeypatch):
        # Their sum is just below 1; the largest number of a stream is above it.
        p = [0.0, 0.7, 0.2, 0.0999999, 0.0]
        for word in (0, 2**64 - 1):
            draws = first((1,))
            monkeypatch.setattr(Draws, "words", lambda self, w=word: np.array([w], np.uint64))
            assert draws.choice([0, 1, 2, 3, 4], p)[0] in (1, 3)

    def test_normal_is_finite_at_both_ends(self, monkeypatch):
        draws = first((1,))
        for word in (0, 2**64 - 1):
            monkeypatch.setattr(Draws, "words", lambda self, w=word: np.array([w], np.uint64))
            assert np.isfinite(draws.normal()).all()

    def test_seeds(self):
        seeds = Draws(SEEDS).seeds()
        assert seeds.dtype == np.int64
        assert seeds.min() >= 0
        assert len(np.unique(seeds)) == N
        assert stats.kstest(seeds / 2.0**63, "uniform").pvalue > ALPHA
        # Generators that read only the low half must get different seeds, too.
        assert stats.kstest((seeds & 0xFFFFFFFF) / 2.0**32, "uniform").pvalue > ALPHA
