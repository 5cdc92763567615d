"""The hash of keys, and the first that occurs twice."""

from __future__ import annotations

from datamodules.order.keys import digest_of, first_duplicate


def test_the_hash_is_of_names_and_order() -> None:
    names = ["a", "b", "\udcff"]  # a file name that is no UTF-8
    assert digest_of(names) == digest_of(list(names))
    assert digest_of(names) != digest_of(names[::-1])


def test_the_first_key_that_occurs_twice() -> None:
    assert first_duplicate(["a", "b", "c", "b", "a"]) == "b"
    assert first_duplicate(["a", "b"]) is None
