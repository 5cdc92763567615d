"""The order of samples: pure, the same on any number of processes, and fixed for good."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datamodules.order.keys import digest_of
from datamodules.order.plan import (
    ATTEMPTS_IN_STREAM,
    ATTEMPTS_NEAR,
    NEAR,
    EvaluationSampler,
    Item,
    Plan,
    PlanSampler,
    check_world,
    default_streams,
)
from datamodules.order.shuffle import Mixture

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


@st.composite
def mixtures(draw: st.DrawFn) -> Plan:
    """Plans of two to four sources, small and large beside their shares."""
    streams = draw(st.sampled_from([1, 2, 3, 4]))
    sizes = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)
    parts = draw(st.lists(sizes, min_size=2, max_size=4))
    weight = st.one_of(st.integers(1, 9).map(float), st.floats(0.01, 100))
    return Plan(
        groups=tuple(size for part in parts for size in part),
        seed=draw(st.integers(0, 2**31)),
        batch_size=streams * draw(st.integers(1, 4)),
        streams=streams,
        repeats=draw(st.integers(1, 3)),
        window=draw(st.integers(1, 5)),
        mixture=Mixture(
            tuple(len(part) for part in parts),
            tuple(draw(weight) for _ in parts),
            draw(st.integers(1, 700)),
        ),
    )


def epoch_of(plan: Plan, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1):
    return list(plan.batches(epoch, start, rank, world))


def images_of(plan: Plan, epoch: int = 0, rank: int = 0, world: int = 1) -> list[int]:
    return [item.image for batch in epoch_of(plan, epoch, 0, rank, world) for item in batch]


def sequence_of(plan, epoch):
    """(samples,) of image * repeats + repeat, in order.

    Of a mixture the samples that the epoch takes; else all, with omitted ones last.
    """
    return plan._samples(epoch, 0, plan._epoch_length)


@given(plans(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_sample_at_most_once_and_few_are_left_out(plan, epoch):
    batches = epoch_of(plan, epoch)
    total = sum(plan.groups) * plan.repeats
    assert len(batches) == len(plan) == total // plan.batch_size
    assert all(len(batch) == plan.batch_size for batch in batches)
    counts = Counter(item.image for batch in batches for item in batch)
    assert all(0 <= image < sum(plan.groups) for image in counts)
    assert all(n <= plan.repeats for n in counts.values())
    assert total - counts.total() <= plan.batch_size - 1


@given(plans() | mixtures(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_global_batch_is_the_same_on_any_number_of_processes(plan, epoch):
    alone = [set(batch) for batch in epoch_of(plan, epoch)]
    for world in divisors(plan.streams):
        ranks = [epoch_of(plan, epoch, 0, rank, world) for rank in range(world)]
        assert all(len(b) == plan.batch_size // world for batches in ranks for b in batches)
        assert [set().union(*parts) for parts in zip(*ranks, strict=True)] == alone


@given(plans() | mixtures(), st.integers(0, 8), st.data())
@settings(max_examples=60, deadline=None)
def test_seeking_equals_skipping(plan, start, data):
    world = data.draw(st.sampled_from(divisors(plan.streams)))
    rank = data.draw(st.integers(0, world - 1))
    whole = epoch_of(plan, 2, 0, rank, world)
    assert epoch_of(plan, 2, start, rank, world) == whole[start:]


@given(plans() | mixtures(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_seeds_are_all_different(plan, epoch):
    seeds = [item.seed for batch in epoch_of(plan, epoch) for item in batch]
    seeds += [item.seed for batch in epoch_of(plan, epoch + 1) for item in batch]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(plans() | mixtures(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_place_says_in_which_batch_it_is(plan, epoch):
    for world in divisors(plan.streams):
        for number, batch in enumerate(plan.batches(epoch, 0, world - 1, world)):
            assert {plan.batch_of(item.position) for item in batch} == {number}


def test_the_order_never_changes():
    """If this fails, runs can no longer resume exactly: the order must never change."""
    batches = epoch_of(PLAN, 0)
    assert [[item.image for item in batch] for batch in batches] == ORDER_0
    assert [item.seed for item in batches[0]] == SEEDS_0
    assert [[item.image for item in batch] for batch in epoch_of(PLAN, 1)] == ORDER_1
    assert epoch_of(PLAN, 0, 3, 1, 2)[0] == batches[3][2:]


def stream_of(plan: Plan, position: int) -> range:
    start = position // plan.stream_length * plan.stream_length
    return range(start, start + plan.stream_length)


@given(plans(), st.integers(0, 2), st.data())
@settings(max_examples=60, deadline=None)
def test_a_replacement_is_another_image_of_the_same_stream(plan, epoch, data):
    assume(len(plan))
    position = data.draw(st.integers(0, len(plan) * plan.batch_size - 1))
    attempt = data.draw(st.integers(0, ATTEMPTS_IN_STREAM - 1))
    image = plan.replacement(epoch, position, attempt)
    sequence = sequence_of(plan, epoch) // plan.repeats
    own = sequence[position]
    stream = stream_of(plan, position)
    others = set(sequence[stream.start : stream.stop].tolist()) - {own}
    if others:
        assert image in others
    elif len(set(sequence[: len(plan) * plan.batch_size].tolist())) > 1:
        assert image != own
    assert image == pickle.loads(pickle.dumps(plan)).replacement(epoch, position, attempt)


def test_a_replacement_lies_near_the_place_at_first():
    plan = Plan((100,) * 400, 0, 4, 4, window=2)
    sequence = sequence_of(plan, 1)
    for position in (0, 9_999, 10_000, 25_000, 39_999):
        stream = stream_of(plan, position)
        start = max(stream.start, position - NEAR)
        stop = min(stream.stop, position + NEAR)
        near = set(sequence[start:stop].tolist())
        tried = [plan.replacement(1, position, attempt) for attempt in range(ATTEMPTS_NEAR)]
        assert set(tried) <= near
        assert len(set(tried)) > 4
        far = [plan.replacement(1, position, a) for a in range(ATTEMPTS_NEAR, 60)]
        assert not set(far) <= near
        assert set(far) <= set(sequence[stream.start : stream.stop].tolist())


@given(mixtures(), st.integers(0, 2), st.data())
@settings(max_examples=60, deadline=None)
def test_a_replacement_in_a_mixture_is_of_the_same_source(plan, epoch, data):
    assume(len(plan))
    ends = np.cumsum(plan.groups)[np.cumsum(plan.mixture.groups) - 1]
    position = data.draw(st.integers(0, len(plan) * plan.batch_size - 1))
    own = sequence_of(plan, epoch)[position] // plan.repeats
    image = plan.replacement(epoch, position, data.draw(st.integers(0, 200)))
    assert np.searchsorted(ends, image, "right") == np.searchsorted(ends, own, "right")


@given(plans() | mixtures(), st.integers(0, 2), st.data())
@settings(max_examples=40, deadline=None)
def test_each_group_is_announced_before_it_is_read(plan, epoch, data):
    assume(len(plan.groups) > 1)
    world = data.draw(st.sampled_from(divisors(plan.streams)))
    rank = data.draw(st.integers(0, world - 1))
    start = data.draw(st.integers(0, max(0, len(plan) - 1)))
    got: list[list[int]] = []
    sampler = PlanSampler(plan, rank, world, lambda: (epoch, start), got.append)
    ends = np.cumsum(plan.groups)
    for batch in sampler:
        groups = np.searchsorted(ends, [item.image for item in batch], "right")
        assert set(groups.tolist()) <= set(got[-1])
    assert all(len(set(groups)) == len(groups) for groups in got)
    assert all(type(group) is int for groups in got for group in groups)


@pytest.mark.slow
@given(mixtures(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_shares_of_a_mixture_are_exact_and_nothing_is_left_out(plan, epochs):
    ends = np.cumsum(plan.groups)[np.cumsum(plan.mixture.groups) - 1]
    samples = np.concatenate([sequence_of(plan, epoch) for epoch in range(epochs + 1)])
    assert len(samples) == (epochs + 1) * len(plan) * plan.batch_size
    sources = np.searchsorted(ends, samples // plan.repeats, "right")
    counts = np.bincount(sources, minlength=len(ends))
    weights = np.array(plan.mixture.weights)
    expected = len(samples) * weights / weights.sum()
    # To a sample at the end of each block of about 256; within the last block by chance.
    within = np.minimum(256 * weights / weights.sum(), len(samples)) + len(ends) + 1
    assert (abs(counts - expected) <= within).all()


def test_an_epoch_of_a_mixture_goes_on_where_the_one_before_it_ended():
    plan = Plan((100,) * 5, 1, 10, 1, mixture=Mixture((3, 2), (1.0, 1.0), 100))
    epochs = [set(sequence_of(plan, epoch).tolist()) for epoch in range(4)]
    # About 50 per source and epoch: none of 300 and 200 repeats before all others occurred.
    assert all(len(epoch) == 100 for epoch in epochs)
    assert all(not a & b for i, a in enumerate(epochs[:3]) for b in epochs[:i])


def test_the_order_of_a_mixture_never_changes():
    plan = Plan((3, 5, 2, 4), 7, 4, 2, 2, 2, mixture=Mixture((2, 2), (1.0, 3.0), 10))
    assert [[item.image for item in batch] for batch in epoch_of(plan, 1)] == MIXED_1


MIXED_1 = [[10, 8, 4, 11], [0, 10, 3, 9], [9, 11, 7, 11], [7, 12, 12, 11], [13, 12, 5, 5]]
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
def test_streams_are_the_largest_divisor_up_to_64(batch_size, streams):
    assert default_streams(batch_size) == streams
    assert batch_size % streams == 0


def test_an_illegal_number_of_processes_lists_the_legal_ones():
    plan = Plan((100,), 0, 12, 12)
    with pytest.raises(ValueError, match=r"numbers of processes: \[1, 2, 3, 4, 6, 12\]"):
        PlanSampler(plan, 0, 8, lambda: (0, 0))
    for legal in (1, 2, 3, 4, 6, 12):
        check_world(plan, legal)


def test_a_sampler_asks_where_the_run_stands_whenever_an_epoch_begins():
    position = [0, 0]
    sampler = PlanSampler(PLAN, 1, 2, lambda: (position[0], position[1]))
    assert list(sampler) == epoch_of(PLAN, 0, 0, 1, 2)
    position[:] = [1, 3]
    assert list(sampler) == epoch_of(PLAN, 1, 3, 1, 2)


@given(st.integers(0, 20), st.integers(1, 4), st.integers(1, 6), st.lists(st.integers(0, 2**62)))
@settings(max_examples=40, deadline=None)
def test_evaluation_has_each_image_once_over_uneven_processes(n, batch_size, world, seeds):
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
    # Lightning skips hooks if a loader is empty, and other processes wait in them.
    assert [len(s) for s in samplers] == [max(1, len(own)) for own in batches]


def test_the_hash_of_keys_is_of_names_and_order():
    names = ["a", "b", "\udcff"]  # a file name that is no UTF-8
    assert digest_of(names) == digest_of(list(names))
    assert digest_of(names) != digest_of(names[::-1])
