"""Constructor arguments: no class has too many of its own."""

from __future__ import annotations

import inspect

import pytest

from lightning_modules.base import ImageModel
from tests.contracts import discovery

METHODS = discovery.concrete_subclasses(ImageModel, "lightning_modules")
LARGEST = 15  # number of a class's own arguments


@pytest.mark.parametrize("method", METHODS, ids=discovery.full_name)
def test_no_method_has_too_many_of_its_own(method: type) -> None:
    own, *parents = (
        {*inspect.signature(c).parameters} for c in method.__mro__ if issubclass(c, ImageModel)
    )
    assert len(own - {"kwargs"}.union(*parents)) <= LARGEST
