"""Private names of jsonargparse, in one file, each with the reason why no public name does."""

from __future__ import annotations

from argparse import Action
from collections.abc import Callable, Iterator
from typing import Any, get_origin

from jsonargparse import Namespace, _actions, _typehints
from lightning.pytorch.cli import LightningArgumentParser

ActionTypeHint = _typehints.ActionTypeHint
_sorted_types: Any = _typehints.sort_subtypes_for_union


def _sorted_by_shape(types: Any, value: Any, earlier: Any, append: bool) -> Any:
    # The library reports the error of the first type that it tries. A mapping is no list.
    in_order = _sorted_types(types, value, earlier, append)
    if isinstance(value, dict | Namespace) and not append:
        return sorted(in_order, key=_is_list)
    return in_order


def _is_list(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is list


_typehints.sort_subtypes_for_union = _sorted_by_shape


class HookedParser(LightningArgumentParser):
    """A parser with hooks that the library lacks.

    The public ``parse_*`` methods of the library do not call each other, and parsers of nested
    classes are called by none of them.
    """

    def check_config(self, config: Namespace) -> None:
        """Check a configuration before the library does; a subclass may raise."""

    def check_value(
        self, action: Action, value: Any, append: bool, check: Callable[[Any], Any]
    ) -> Any:
        """Return the checked value of an argument; ``check`` is that of the library."""
        return check(value)

    def check_type(self, action: Action, value: Any, config: Namespace) -> None:
        """Raise if a value does not fit the type of an argument."""
        self._check_value_key(action, value, action.dest, config)

    def _check_value_key(self, action: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        def check(given: Any) -> Any:
            return super(HookedParser, self)._check_value_key(action, given, *args, **kwargs)

        return self.check_value(action, value, bool(kwargs.get("append")), check)

    def _parse_common(self, cfg: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        self.check_config(cfg)
        return super()._parse_common(cfg, *args, **kwargs)


def arguments_of(parser: Any) -> Iterator[Action]:
    """Yield all arguments of a parser; argparse has no public list of them."""
    yield from parser._actions


def hint_of(action: Action) -> Any:
    """Return the type of an argument, or None without one."""
    return getattr(action, "_typehint", None)


def is_group(action: Action) -> bool:
    """Return whether an argument is a group of keys, those of a dataclass."""
    return isinstance(action, _actions._ActionConfigLoad)


def is_class_hint(hint: Any) -> bool:
    """Return whether values of a type are objects, given by the path of their class."""
    check: Any = ActionTypeHint.is_subclass_typehint
    return bool(check(hint, all_subtypes=False))


def expects_mapping(action: Action) -> bool:
    """Return whether an argument is a dictionary."""
    check: Any = ActionTypeHint.is_mapping_typehint
    return bool(check(hint_of(action)))
