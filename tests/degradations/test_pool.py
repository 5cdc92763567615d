"""The pair pool: pairs are kept intact, draws follow from seeds, checkpoints are complete."""

from __future__ import annotations

import io
from collections import Counter

import pytest
import torch

from degradations.pool import PairPool, Pairs

B, SIZE = 4, 12


def batch(number: int, count: int = B) -> Pairs:
    """Return pairs whose pixels and notes hold their number."""
    names = [number * count + i for i in range(count)]
    assert names[-1] < 250
    level = torch.tensor(names).view(-1, 1, 1, 1)
    hr = (level.expand(count, 3, 8, 6)).float().div_(255)
    lr = (level.expand(count, 3, 4, 3) + 1).float().div_(255)
    notes = {"key": [f"k{name}" for name in names], "text": [f"t{name}" for name in names]}
    return Pairs(hr, lr, notes)


def seeds(number: int, count: int = B) -> list[int]:
    return [1000 * number + i for i in range(count)]


def names(pairs: Pairs) -> list[int]:
    """Return the numbers of pairs, and check that their parts belong together."""
    found = [round(value * 255) for value in pairs.hr[:, 0, 0, 0].tolist()]
    for name, hr, lr, key, text in zip(found, *pairs[:2], *pairs.notes.values(), strict=True):
        assert torch.equal(hr, torch.full((3, 8, 6), float(name)).div_(255))
        assert torch.equal(lr, torch.full((3, 4, 3), float(name + 1)).div_(255))
        assert (key, text) == (f"k{name}", f"t{name}")
    return found


def run(pool: PairPool, numbers: range) -> list[list[int]]:
    return [names(pool.exchange(batch(n), seeds(n))) for n in numbers]


def test_then_as_many_come_out_as_go_in():
    given = run(PairPool(SIZE), range(40))
    inside = set(range(SIZE))
    for number, out in enumerate(given[3:], 3):
        assert len(set(out)) == B
        assert set(out) <= inside  # neither pairs of this batch nor removed ones
        inside = inside - set(out) | set(range(number * B, number * B + B))
        assert len(inside) == SIZE


def test_every_pair_has_the_same_chance():
    """Chi-square of the slots of 4 out of 12 pairs, over 3000 batches."""
    pool = PairPool(SIZE)
    run(pool, range(3))
    picked: Counter[int] = Counter()
    for number in range(3000):
        pool.exchange(batch(number % 60), [number])  # only the seeds matter
        picked.update(pool._last.slots)
    expected = 3000 * B / SIZE
    chi2 = sum((picked[slot] - expected) ** 2 / expected for slot in range(SIZE))
    assert chi2 < 31.3  # p = 0.001 of 11 degrees; without replacement it is smaller still


def saved(pool: PairPool) -> list[dict]:
    """Save to a file and load it, like a checkpoint."""
    file = io.BytesIO()
    torch.save(pool.states(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("ahead", [False, True])
def test_resume(stop, ahead):
    """Also for a checkpoint that is written after the next batch has passed."""
    whole = run(PairPool(SIZE), range(14))
    pool = PairPool(SIZE)
    assert run(pool, range(stop)) == whole[:stop]
    if ahead:
        assert run(pool, range(stop, stop + 1)) == whole[stop : stop + 1]
    state = saved(pool)
    run(pool, range(20, 25))  # a state does not change afterwards
    resumed = PairPool(SIZE)
    resumed.load(state, 0, 1)
    assert run(resumed, range(stop, 14)) == whole[stop:]


def test_another_number_of_processes_is_refused():
    pool = PairPool(SIZE)
    run(pool, range(3))
    with pytest.raises(ValueError, match=r"init_args\.pool\) of 1 processes, but there are 2 now"):
        PairPool(SIZE).load(pool.states(), 0, 2)


@pytest.mark.parametrize("name", ["hr", "lr"])
@pytest.mark.parametrize(
    ("added", "what"), [(1e-4, "more"), (torch.nan, "pixels that are not finite")]
)
def test_more_than_8_bits_are_refused(name, added, what):
    pool = PairPool(SIZE)
    pool.exchange(batch(0), seeds(0))
    pairs = batch(1)._replace(**{name: getattr(batch(1), name) + added})
    message = rf"init_args\.pool\) stores 8 bits, but {name} has {what}: "
    with pytest.raises(ValueError, match=message):
        pool.exchange(pairs, seeds(1))


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="10 pairs is not a multiple of the batch size 4"):
        PairPool(10).exchange(batch(0), seeds(0))
