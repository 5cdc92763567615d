"""Arguments of a class that a YAML file can name: made, typed and explained."""

from __future__ import annotations

import inspect
import re
import typing

from tests.contracts import discovery


def build(cls, examples, table, *arguments):
    """An instance of a class that was found: by its line in `examples`, or by `discovery.made`.

    Args:
        cls: The class.
        examples: For classes that need more: functions that make an instance from `arguments`.
        table: Where `examples` is, for the message about a class of ours.
        arguments: What every class of the kind takes first.
    """
    if cls in examples:
        return examples[cls](*arguments)
    return discovery.made(cls, f"add a line for it to {table}", *arguments)


def check_arguments(cls):
    """The parser can read the types of all arguments, and the help has a text for each.

    Raises:
        AssertionError: naming the arguments that have none.
    """
    name = discovery.full_name(cls)
    try:
        types = typing.get_type_hints(cls.__init__)
    except NameError as error:
        raise AssertionError(
            f"{name}.__init__ has a type that is only imported for type checking: {error}"
        ) from error
    parameters = inspect.signature(cls).parameters.values()
    arguments = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    untyped = [argument for argument in arguments if argument not in types]
    assert not untyped, f"{name}.__init__ has no type for {', '.join(untyped)}"
    explained = set()
    for part in cls.__mro__:  # down to the class that has the arguments
        explained |= documented(inspect.cleandoc(part.__doc__ or ""))
        if "__init__" in vars(part):
            break
    missing = [argument for argument in arguments if argument not in explained]
    assert not missing, (
        f"the docstring of {name} does not explain {', '.join(missing)} under Args:, which is "
        "what --help shows"
    )


def documented(docstring):
    """Names under `Args:`."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    return set(re.findall(r"^    (\w+):", section[1], re.MULTILINE)) if section else set()
