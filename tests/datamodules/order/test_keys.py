"""Keys that are made on demand."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.order.keys import Keys, Names, digest_of

SOURCES = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.text(min_size=1, max_size=4), max_size=6)
)


@pytest.mark.slow
@given(SOURCES, st.integers(-20, 20), st.booleans())
def test_as_a_list(sources, number, names):
    expected = [f"{name}/{key}" for name, keys in sources.items() for key in keys]
    keys = Keys({n: Names.of(k) if names else k for n, k in sources.items()})
    assert list(keys) == expected
    assert keys == expected
    assert len(keys) == len(expected)
    assert keys[number:] == expected[number:]
    assert keys[::-2] == expected[::-2]
    assert keys[:number] == expected[:number]
    assert pickle.loads(pickle.dumps(keys)) == expected
    if -len(expected) <= number < len(expected):
        assert keys[number] == expected[number]
    else:
        with pytest.raises(IndexError):
            keys[number]
    twice = keys.duplicate
    assert (twice is None) == (len(set(expected)) == len(expected))
    assert twice is None or expected.count(twice) > 1


@given(SOURCES, SOURCES)
def test_the_digest_is_that_of_the_keys(one, other):
    for kind in (list, Names.of):
        first, second = (Keys({n: kind(k) for n, k in s.items()}) for s in (one, other))
        assert (digest_of(first) == digest_of(second)) == (list(one.items()) == list(other.items()))


def test_unlike_other_keys():
    assert Keys({"a": ["b"]}) != ["a/c"]
    assert Keys({"a": ["b"]}) != "a/b"
