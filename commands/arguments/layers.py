"""Layers of configuration: files, by the rule of ``files/layers.py``, and typed values."""

from __future__ import annotations

import os
from typing import Any

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from files.layers import replaced
from files.yaml_loader import NO_CONFIGURATION, is_configuration


class ConfigFile(ActionConfigFile):
    """``--config``: a file that is merged over the earlier layers."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Remove what the file replaces, then read it.

        Raises:
            TypeError: If it is no configuration.
        """
        if os.path.exists(str(values)) and not is_configuration(str(values)):
            raise TypeError(f"{values!r} {NO_CONFIGURATION}")
        if cfg.get(self.dest):  # the first file only overrides defaults
            replaced(cfg, str(values))
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]
        parser.check_groups(cfg)  # here: a key that is typed would replace what is no group


def replace_typed(config: Namespace, option: str) -> None:
    """Remove a list or dictionary that a typed one replaces.

    Args:
        config: The configuration so far; changed in place.
        option: As typed, such as ``--data.init_args.val``.
    """
    key = option.removeprefix("--")
    holder, _, name = key.rpartition(".")
    inner = config.get(holder) if holder else config
    if isinstance(inner, Namespace) and "class_path" in inner and name not in inner:
        inner = inner.get("init_args")
    if isinstance(inner, Namespace) and isinstance(inner.get(name), dict | list):
        del inner[name]
