"""Keys that are made on demand, and names in two arrays, with the behaviour of a list."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order.keys import Keys, Names, digest_of

QUICK = settings(max_examples=40)
TEXTS = st.lists(st.text(max_size=6))  # also "", "\n", emoji
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


@given(TEXTS)
@QUICK
def test_is_the_list(texts):
    names = Names.of(iter(texts))
    assert isinstance(names, Sequence)
    assert len(names) == len(texts)
    assert list(names) == texts
    assert names == texts
    assert names == Names.of(texts)
    assert [names[i] for i in range(-len(texts), len(texts))] == texts + texts
    assert names[1:-1:2] == texts[1:-1:2]
    assert pickle.loads(pickle.dumps(names)) == texts


@given(st.lists(TEXTS, max_size=5))
@QUICK
def test_several_become_one(parts):
    joined = [text for part in parts for text in part]
    assert Names.concatenate([Names.of(part) for part in parts]) == Names.of(joined)


@given(TEXTS)
@QUICK
def test_first_duplicate(texts):
    expected = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    assert Names.of(texts).duplicate == expected


def test_equal_hashes_are_no_duplicates(monkeypatch):
    monkeypatch.setattr("xxhash.xxh3_64_intdigest", len)
    assert Names.of(["aa", "bb", "c", "dd"]).duplicate is None
    assert Names.of(["aa", "bb", "c", "bb"]).duplicate == "bb"


def test_names_of_bytes_that_are_no_utf8():
    names = ["a\udcff", "b"]
    assert list(Names.of(names)) == names


def test_differs():
    names = Names.of(["a", "bc"])
    assert names != ["ab", "c"]
    assert names != Names.of(["ab", "c"])
    assert names != "abc"
    with pytest.raises(IndexError, match="no name 2 among 2"):
        names[2]
    with pytest.raises(IndexError):
        names[-3]
