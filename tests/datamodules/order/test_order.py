"""The order of samples: pure, the same on any number of processes, and fixed for good."""

import pickle
from collections import Counter
from dataclasses import replace
from itertools import chain

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
    default_streams,
)
from datamodules.order.shuffle import BLOCK, Mixture

PLAN = Plan(groups=(3, 5, 2, 4), seed=7, batch_size=4, streams=2, repeats=2, window=2)
EPOCHS = st.integers(0, 3)
fifty_examples = settings(max_examples=50, deadline=None)


@st.composite
def plans(draw):
    streams = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    groups = st.lists(st.integers(0, 12), min_size=1, max_size=20)
    return Plan(
        groups=tuple(draw(groups)),
        seed=draw(st.integers(0, 2**31)),
        batch_size=streams * draw(st.integers(1, 4)),
        streams=streams,
        repeats=draw(st.integers(1, 3)),
        window=draw(st.integers(1, 5)),
    )


@st.composite
def mixtures(draw):
    """Plans of two to four sources, small and large beside their shares."""
    groups = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)
    sources = draw(st.lists(groups, min_size=2, max_size=4))
    counts = [len(groups) for groups in sources]
    weights = [draw(st.floats(0.01, 100)) for _ in sources]
    mixture = Mixture(tuple(counts), tuple(weights), samples=draw(st.integers(1, 700)))
    return replace(draw(plans()), groups=tuple(chain(*sources)), mixture=mixture)


def batches_of(plan, epoch=0, start=0, rank=0, world=1):
    return list(plan.batches(epoch, start, rank, world))


def images_of(plan, epoch):
    """The images of an epoch by their places."""
    items = sorted(chain(*batches_of(plan, epoch)), key=lambda item: item.position)
    return np.array([item.image for item in items])


def sources_of(plan, images):
    """To which source of a mixture each image belongs."""
    last_groups = np.cumsum(plan.mixture.groups) - 1
    return np.searchsorted(np.cumsum(plan.groups)[last_groups], images, "right")


def divisors(number):
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


# ------------------------------------------------------------------------------------- an epoch


@given(plans(), EPOCHS)
@fifty_examples
def test_an_epoch_has_every_sample_at_most_once_and_leaves_less_than_a_batch_out(plan, epoch):
    batches = batches_of(plan, epoch)
    counts = Counter(item.image for item in chain(*batches))

    assert len(batches) == len(plan)
    assert all(len(batch) == plan.batch_size for batch in batches)
    assert set(counts) <= set(range(sum(plan.groups)))
    # Each image counts as ``repeats`` samples.
    assert max(counts.values(), default=0) <= plan.repeats
    assert plan.total - counts.total() < plan.batch_size


@given(plans() | mixtures(), EPOCHS)
@fifty_examples
def test_a_global_batch_is_the_same_on_any_number_of_processes(plan, epoch):
    """So a run trains on the same on one GPU as on four."""
    alone = [set(batch) for batch in batches_of(plan, epoch)]
    for world in divisors(plan.streams):
        processes = [batches_of(plan, epoch, rank=rank, world=world) for rank in range(world)]
        for number, parts in enumerate(zip(*processes, strict=True)):
            assert set(chain(*parts)) == alone[number]
            assert {len(part) for part in parts} == {plan.batch_size // world}
            assert {plan.batch_of(item.position) for item in chain(*parts)} == {number}


@given(plans() | mixtures(), st.integers(0, 8), st.data())
@fifty_examples
def test_an_epoch_from_a_batch_on_is_the_rest_of_the_whole_epoch(plan, start, data):
    """So a run that is resumed sees what it would have seen."""
    world = data.draw(st.sampled_from(divisors(plan.streams)))
    rank = data.draw(st.integers(0, world - 1))
    whole = batches_of(plan, epoch=2, rank=rank, world=world)
    assert batches_of(plan, epoch=2, start=start, rank=rank, world=world) == whole[start:]


@given(plans() | mixtures(), EPOCHS)
@fifty_examples
def test_seeds_of_two_epochs_are_all_different(plan, epoch):
    items = [*chain(*batches_of(plan, epoch)), *chain(*batches_of(plan, epoch + 1))]
    seeds = {item.seed for item in items}
    assert len(seeds) == len(items)
    assert all(0 <= seed < 2**63 for seed in seeds)  # they fit into torch's int64


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
MIXED_1 = [[10, 8, 4, 11], [0, 10, 3, 9], [9, 11, 7, 11], [7, 12, 12, 11], [13, 12, 5, 5]]


def test_the_order_never_changes():
    """If this fails, runs can no longer resume exactly. Recorded from the program."""
    items = list(chain(*batches_of(PLAN)))
    mixed = replace(PLAN, mixture=Mixture(groups=(2, 2), weights=(1.0, 3.0), samples=10))
    mixed_items = chain(*batches_of(mixed, epoch=1))

    assert [item.image for item in items] == list(chain(*ORDER_0))
    assert [item.seed for item in items[:4]] == SEEDS_0
    assert [item.image for item in mixed_items] == list(chain(*MIXED_1))


def test_a_pickled_plan_has_no_shuffled_windows_in_it():
    """They are kept in memory once they are used, and would be sent to each worker."""
    used = replace(PLAN)
    batches_of(used)
    assert pickle.dumps(used) == pickle.dumps(replace(PLAN))  # of one that was never used
    assert pickle.loads(pickle.dumps(used)) == PLAN


# --------------------------------------------------------------------------------- replacements


@given(plans(), st.data())
@fifty_examples
def test_an_unreadable_image_is_replaced_by_another_one_of_its_stream(plan, data):
    """A process reads only the shards of its own streams.

    A stream that holds no other image is left, if the epoch has another one.
    """
    assume(len(plan))
    images = images_of(plan, epoch=1)
    place = data.draw(st.integers(0, len(images) - 1))
    stream_start = place - place % plan.stream_length
    others = set(images[stream_start : stream_start + plan.stream_length]) - {images[place]}

    attempt = data.draw(st.integers(0, ATTEMPTS_IN_STREAM - 1))
    image = plan.replacement(epoch=1, position=place, attempt=attempt)

    if others:
        assert image in others
    elif len(set(images)) > 1:
        assert image != images[place]


def test_the_first_replacements_lie_near_the_unreadable_image():
    """So they are of shards that are open already; later ones are of anywhere in the stream.

    Near are NEAR places before and behind, for the first ATTEMPTS_NEAR attempts.
    """
    # 40,000 images are 4 streams of 10,000.
    plan = Plan(groups=(100,) * 400, seed=0, batch_size=4, streams=4, window=2)
    epoch = 1
    images = images_of(plan, epoch)
    for place in (10_000, 15_000, 19_999):  # of the second stream
        near = set(images[max(10_000, place - NEAR) : min(20_000, place + NEAR)])
        at_first = {plan.replacement(epoch, place, attempt) for attempt in range(ATTEMPTS_NEAR)}
        # Of ATTEMPTS_IN_STREAM, these 52 are enough to meet other parts of the stream.
        later = {plan.replacement(epoch, place, attempt) for attempt in range(ATTEMPTS_NEAR, 60)}
        assert at_first <= near
        assert len(at_first) > ATTEMPTS_NEAR / 2  # most attempts give another image
        assert not later <= near
        assert later <= set(images[10_000:20_000])


@given(mixtures(), EPOCHS, st.data())
@fifty_examples
def test_a_replacement_in_a_mixture_is_of_the_same_source(plan, epoch, data):
    """Else the sources' shares would change."""
    assume(len(plan))
    images = images_of(plan, epoch)
    place = data.draw(st.integers(0, len(images) - 1))
    # After ATTEMPTS_IN_STREAM, replacements are of anywhere in the epoch.
    image = plan.replacement(epoch, place, data.draw(st.integers(0, 2 * ATTEMPTS_IN_STREAM)))
    assert sources_of(plan, image) == sources_of(plan, images[place])


# -------------------------------------------------------------------------------------- mixtures


@pytest.mark.slow
@given(mixtures(), EPOCHS)
@fifty_examples
def test_shares_of_a_mixture_are_exact_to_a_block(plan, last_epoch):
    images = np.concatenate([images_of(plan, epoch) for epoch in range(last_epoch + 1)])
    assume(len(images))
    weights = np.array(plan.mixture.weights) / sum(plan.mixture.weights)
    counts = np.bincount(sources_of(plan, images), minlength=len(weights))
    # Exact to one sample at the end of each block of BLOCK places. The last block may be cut, and
    # then holds at most BLOCK w of a source; its ends are off by up to the number of sources.
    within = np.minimum(BLOCK * weights, len(images)) + len(weights) + 1
    assert (abs(counts - len(images) * weights) <= within).all()


def test_an_epoch_of_a_mixture_goes_on_where_the_one_before_it_ended():
    mixture = Mixture(groups=(3, 2), weights=(1.0, 1.0), samples=100)
    plan = Plan(groups=(100,) * 5, seed=1, batch_size=10, streams=1, mixture=mixture)
    images = np.concatenate([images_of(plan, epoch) for epoch in range(3)])
    # Three epochs take about 150 of the first source's 300 images and 150 of the second's 200:
    # an image comes again only after all others of its source.
    assert len(set(images)) == 300


# -------------------------------------------------------------------------------------- samplers


@given(plans() | mixtures(), EPOCHS, st.data())
@fifty_examples
def test_each_group_is_announced_to_its_source_before_it_is_read(plan, epoch, data):
    """A group is a shard, which a source downloads when it is announced, the soonest first."""
    assume(len(plan.groups) > 1)
    world = data.draw(st.sampled_from(divisors(plan.streams)))
    rank = data.draw(st.integers(0, world - 1))
    start = data.draw(st.integers(0, max(0, len(plan) - 1)))
    announced = []
    sampler = PlanSampler(plan, rank, world, lambda: (epoch, start), announced.append)

    for number, batch in enumerate(sampler):
        images = [item.image for item in batch]
        groups = np.searchsorted(np.cumsum(plan.groups), images, "right")
        assert set(groups.tolist()) <= set(announced[-1])
        assert len(set(announced[-1])) == len(announced[-1])
        if number == 0:
            assert announced[0][0] in groups


@pytest.mark.parametrize(
    ("batch_size", "streams"), [(1, 1), (64, 64), (96, 48), (97, 1), (256, 64), (130, 26)]
)
def test_streams_are_the_largest_divisor_up_to_64(batch_size, streams):
    """A batch takes equally many samples of each stream, and a process reads whole streams."""
    assert default_streams(batch_size) == streams


def test_an_illegal_number_of_processes_lists_the_legal_ones():
    plan = Plan(groups=(100,), seed=0, batch_size=12, streams=12)
    with pytest.raises(ValueError, match=r"numbers of processes: \[1, 2, 3, 4, 6, 12\]"):
        PlanSampler(plan, rank=0, world=8, position=lambda: (0, 0))


@given(st.integers(0, 20), st.integers(1, 4), st.integers(1, 6))
@fifty_examples
def test_evaluation_has_each_image_once_over_uneven_processes(count, batch_size, world):
    def seed(image):
        return image + 100

    samplers = [
        EvaluationSampler(range(count), seed, batch_size, rank, world) for rank in range(world)
    ]
    items = []
    counts = []
    for sampler in samplers:
        batches = list(sampler)
        items += chain(*batches)
        counts.append(sum(len(batch) for batch in batches))
        assert all(0 < len(batch) <= batch_size for batch in batches)
        # Lightning skips hooks if a loader is empty, and other processes wait in them.
        assert len(sampler) == max(1, len(batches))

    assert sorted(items) == [Item(image, seed(image)) for image in range(count)]
    assert max(counts) - min(counts) <= 1


def test_the_hash_of_keys_depends_on_names_and_order():
    """By it a resumed run, and each process, knows that it has the same images."""
    names = ["a", "b", "\udcff"]  # the last one is that of a file whose name is no UTF-8
    assert digest_of(names) != digest_of(["a", "c", "\udcff"])
    assert digest_of(names) != digest_of(names[::-1])
