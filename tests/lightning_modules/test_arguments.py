"""Constructor arguments: parents' arguments come through ``kwargs``, with help and defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lightning_modules.base import ImageModel
from lightning_modules.controls.finetune import LoRA
from tests.contracts import discovery

METHODS = discovery.concrete_subclasses(ImageModel, "lightning_modules")
LARGEST = 15  # number of a class's own arguments


def arguments_of(method: type) -> dict[str, Any]:
    """The command line's arguments of a method."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(method, None, fail_untyped=False)
    return {action.dest: action for action in parser._actions}


@pytest.mark.parametrize("method", METHODS, ids=discovery.full_name)
def test_no_method_has_too_many_of_its_own(method: type) -> None:
    own, *parents = (
        {*inspect.signature(c).parameters} for c in method.__mro__ if issubclass(c, ImageModel)
    )
    assert len(own - {"kwargs"}.union(*parents)) <= LARGEST


def test_those_of_all_parents_are_on_the_command_line() -> None:
    found = arguments_of(LoRA)
    expected = {"rank", "caption_dropout", "denoiser", "sampler", "weights"}
    assert expected <= found.keys()
    assert all(found[name].help for name in expected)
    assert found["caption_dropout"].default == 0.1
    assert "patch" not in found  # which the parent fixes
