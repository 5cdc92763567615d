"""Keys that are made on demand, and names in two arrays, with the behaviour of a list."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order.keys import Keys, Names, digest_of

QUICK = settings(max_examples=40)
TEXTS = st.lists(st.text(max_size=6))  # also "", "\n", emoji
SOURCES = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.text(min_size=1, max_size=4), max_size=6)
)


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
