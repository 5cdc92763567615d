"""The order of samples: pure, the same on any number of processes, never to change."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order import (
    EvaluationSampler,
    Item,
    Plan,
    PlanSampler,
    check_world,
    default_streams,
)

PLAN = Plan(groups=(3, 5, 2, 4), seed=7, batch_size=4, streams=2, repeats=2, window=2)


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    streams = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    return Plan(
        groups=tuple(draw(st.lists(st.integers(0, 12), min_size=1, max_size=20))),
        seed=draw(st.integers(0, 2**31)),
        batch_size=streams * draw(st.integers(1, 4)),
        streams=streams,
        repeats=draw(st.integers(1, 3)),
        window=draw(st.integers(1, 5)),
    )


def epoch_of(plan: Plan, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1):
    return list(plan.batches(epoch, start, rank, world))


class TestPlan:
    @given(plans(), st.integers(0, 3))
    @settings(max_examples=150, deadline=None)
    def test_every_sample_at_most_once_and_few_are_left_out(self, plan, epoch):
        batches = epoch_of(plan, epoch)
        total = sum(plan.groups) * plan.repeats
        assert len(batches) == len(plan) == total // plan.batch_size
        assert all(len(batch) == plan.batch_size for batch in batches)
        counts = Counter(item.picture for batch in batches for item in batch)
        assert all(0 <= picture < sum(plan.groups) for picture in counts)
        assert all(n <= plan.repeats for n in counts.values())
        assert total - counts.total() <= plan.batch_size - 1

    @given(plans())
    @settings(max_examples=60, deadline=None)
    def test_the_sequence_holds_every_repeat_of_every_picture_once(self, plan):
        total = sum(plan.groups) * plan.repeats
        assert sorted(plan.sequence(1)) == list(range(total))

    @given(plans(), st.integers(0, 3))
    @settings(max_examples=100, deadline=None)
    def test_a_global_batch_is_the_same_on_any_number_of_processes(self, plan, epoch):
        alone = [set(batch) for batch in epoch_of(plan, epoch)]
        for world in divisors(plan.streams):
            ranks = [epoch_of(plan, epoch, 0, rank, world) for rank in range(world)]
            assert all(len(b) == plan.batch_size // world for batches in ranks for b in batches)
            assert [set().union(*parts) for parts in zip(*ranks, strict=True)] == alone

    @given(plans(), st.integers(0, 8), st.data())
    @settings(max_examples=60, deadline=None)
    def test_seeking_equals_skipping(self, plan, start, data):
        world = data.draw(st.sampled_from(divisors(plan.streams)))
        rank = data.draw(st.integers(0, world - 1))
        whole = epoch_of(plan, 2, 0, rank, world)
        assert epoch_of(plan, 2, start, rank, world) == whole[start:]

    @given(plans(), st.integers(0, 3))
    @settings(max_examples=60, deadline=None)
    def test_seeds_are_all_different(self, plan, epoch):
        seeds = [item.seed for batch in epoch_of(plan, epoch) for item in batch]
        seeds += [item.seed for batch in epoch_of(plan, epoch + 1) for item in batch]
        assert len(set(seeds)) == len(seeds)
        assert all(0 <= seed < 2**63 for seed in seeds)

    def test_plain_numbers_for_the_workers(self):
        item = epoch_of(PLAN)[0][0]
        assert [type(value) for value in item] == [int, int, int, int]

    def test_epochs_and_seeds_differ(self):
        plan = Plan((100,), 0, 10, 2)
        orders = [
            [item.picture for batch in epoch_of(p, epoch) for item in batch]
            for p, epoch in ((plan, 0), (plan, 1), (Plan((100,), 1, 10, 2), 0))
        ]
        assert all(sorted(order) == list(range(100)) for order in orders)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            equal = sum(a == b for a, b in zip(orders[i], orders[j], strict=True))
            assert equal < 10  # 1 is expected

    def test_shuffling_favours_nobody(self):
        """Where a sample comes in an epoch, over 600 epochs: chi-square with 11 degrees."""
        plan = Plan((12,), 3, 12, 1)
        places = np.array([np.argsort(plan.sequence(epoch)) for epoch in range(600)])
        for sample in range(12):
            counts = np.bincount(places[:, sample], minlength=12)
            assert ((counts - 50) ** 2 / 50).sum() < 40  # 1 in 30,000 by chance

    def test_repeats_lie_apart_and_have_seeds_of_their_own(self):
        plan = Plan((50,), 0, 10, 1, repeats=4)
        items = [item for batch in epoch_of(plan) for item in batch]
        assert Counter(item.picture for item in items) == dict.fromkeys(range(50), 4)
        neighbours = sum(a.picture == b.picture for a, b in pairwise(items))
        assert neighbours < 15  # 3 are expected

    def test_a_process_reads_its_own_part_of_the_shards(self):
        groups, window, world = 64, 4, 4
        plan = Plan((10,) * groups, 0, 32, 16, window=window)
        for epoch in range(3):
            for rank in range(world):
                batches = epoch_of(plan, epoch, 0, rank, world)
                touched = {item.picture // 10 for batch in batches for item in batch}
                assert len(touched) <= groups // world + 2 * window

    @given(plans(), st.data())
    @settings(max_examples=60, deadline=None)
    def test_a_process_reads_a_contiguous_part(self, plan, data):
        world = data.draw(st.sampled_from(divisors(plan.streams)))
        share = len(plan) * plan.batch_size // world
        sequence = plan.sequence(0) // plan.repeats
        for rank in range(world):
            items = [item.picture for batch in epoch_of(plan, 0, 0, rank, world) for item in batch]
            part = sequence[rank * share : (rank + 1) * share]
            assert Counter(items) == Counter(part.tolist())

    def test_a_stream_looks_at_few_shards_at_a_time(self):
        plan = Plan((10,) * 64, 0, 8, 1, window=4)
        order = [item.picture // 10 for batch in epoch_of(plan) for item in batch]
        assert max(len(set(order[i : i + 40])) for i in range(0, len(order), 40)) <= 8
        # ... and shuffles within them: a shard does not come in one piece.
        assert sum(a == b for a, b in pairwise(order)) < len(order) / 2

    def test_shards_are_shuffled(self):
        plan = Plan((10,) * 64, 0, 8, 1, window=1)
        shards = [plan.sequence(epoch)[::10] // 10 for epoch in (0, 1)]
        assert list(shards[0]) != list(range(64))
        assert list(shards[0]) != list(shards[1])

    def test_less_than_a_batch_is_no_batch(self):
        plan = Plan((3,), 0, 4, 4)
        assert len(plan) == 0
        assert epoch_of(plan) == []

    def test_known_order(self):
        """If this fails, runs cannot be continued exactly any more: the order must never change."""
        batches = epoch_of(PLAN, 0)
        assert [[item.picture for item in batch] for batch in batches] == ORDER_0
        assert [item.seed for item in batches[0]] == SEEDS_0
        assert [[item.picture for item in batch] for batch in epoch_of(PLAN, 1)] == ORDER_1
        assert epoch_of(PLAN, 0, 3, 1, 2)[0] == batches[3][2:]


ORDER_0 = [
    [11, 5, 7, 6],
    [7, 4, 13, 10],
    [6, 11, 9, 8],
    [3, 12, 0, 2],
    [4, 13, 1, 9],
    [12, 10, 2, 0],
    [5, 3, 1, 8],
]
SEEDS_0 = [3605047630061863048, 2617941260270354862, 5619108488328686827, 7517982686557707609]
ORDER_1 = [
    [3, 13, 4, 5],
    [5, 10, 13, 11],
    [12, 6, 8, 0],
    [4, 7, 2, 0],
    [3, 7, 1, 8],
    [12, 6, 2, 1],
    [10, 11, 9, 9],
]


@pytest.mark.parametrize(
    ("batch_size", "streams"), [(1, 1), (16, 16), (64, 64), (96, 48), (97, 1), (256, 64), (130, 26)]
)
def test_default_streams(batch_size, streams):
    assert default_streams(batch_size) == streams
    assert batch_size % streams == 0


def test_an_illegal_number_of_processes_lists_the_legal_ones():
    plan = Plan((100,), 0, 12, 12)
    message = (
        r"8 processes cannot share data\.init_args\.batch_size 12 evenly \(12 streams\): "
        r"use a number of processes out of \[1, 2, 3, 4, 6, 12\]"
    )
    with pytest.raises(ValueError, match=message):
        check_world(plan, 8)
    with pytest.raises(ValueError, match=message):
        PlanSampler(plan, 0, 8, lambda: (0, 0))
    for legal in (1, 2, 3, 4, 6, 12):
        check_world(plan, legal)


class TestPlanSampler:
    def test_asks_where_the_run_stands_whenever_an_epoch_begins(self):
        position = [0, 0]
        sampler = PlanSampler(PLAN, 1, 2, lambda: (position[0], position[1]))
        assert list(sampler) == epoch_of(PLAN, 0, 0, 1, 2)
        position[:] = [1, 3]
        assert list(sampler) == epoch_of(PLAN, 1, 3, 1, 2)

    def test_an_epoch_that_was_begun_is_not_moved(self):
        position = [0, 0]
        batches = iter(PlanSampler(PLAN, 0, 1, lambda: (position[0], position[1])))
        first = list(islice(batches, 2))
        position[:] = [5, 1]
        assert first + list(batches) == epoch_of(PLAN, 0)

    def test_its_length_is_that_of_a_whole_epoch(self):
        assert len(PlanSampler(PLAN, 0, 1, lambda: (0, 5))) == len(PLAN) == 7


class TestEvaluationSampler:
    @given(
        st.integers(0, 20), st.integers(1, 4), st.integers(1, 6), st.lists(st.integers(0, 2**62))
    )
    @settings(max_examples=100, deadline=None)
    def test_each_picture_once_over_uneven_processes(self, n, batch_size, world, seeds):
        seeds = (seeds * n)[:n] or [0] * n
        seeds += [0] * (n - len(seeds))
        samplers = [
            EvaluationSampler(range(n), seeds.__getitem__, batch_size, rank, world)
            for rank in range(world)
        ]
        batches = [list(sampler) for sampler in samplers]
        items = [item for own in batches for batch in own for item in batch]
        assert sorted(items) == [Item(i, seed) for i, seed in enumerate(seeds)]
        counts = [sum(map(len, own)) for own in batches]
        assert max(counts) - min(counts) <= 1
        assert all(0 < len(batch) <= batch_size for own in batches for batch in own)
        # Lightning leaves hooks out where a loader is empty, and other processes wait in them.
        assert [len(s) for s in samplers] == [max(1, len(own)) for own in batches]

    def test_order_is_that_of_the_source(self):
        sampler = EvaluationSampler([4, 2, 9], lambda index: 10 * index, 2, 0, 1)
        assert list(sampler) == [[Item(4, 40), Item(2, 20)], [Item(9, 90)]]
        assert list(sampler) == list(sampler)
