"""``python main.py schema``: JSON Schemas of configurations, with which editors complete keys.

Built from the signatures and docstrings of all classes of this checkout: ``experiment.json``, and a
small file that points into it for each other kind of file in ``configs/``. docs/configuration.md
explains their use.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args
from unittest.mock import patch

from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from commands.arguments.jsonargparse_internals import (
    ParserJsonschema,
    get_all_subclass_paths,
    get_callable_return_type,
    schema_library,
)
from commands.arguments.parser import DESCRIPTIONS
from commands.cli import EnlargerCLI
from files.numbers import (
    RANGED,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UnitInterval,
)

log = logging.getLogger(__name__)

Schema = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[1] / "configs" / "schema"
WHOLE = "experiment"
# Position of the other kinds of files in the whole schema.
KINDS = {
    "model": "#/properties/model",
    "data": "#/properties/data",
    "degradation": "#/properties/degradation",
    "trainer": "#/$defs/trainer",
    "callbacks": "#/$defs/trainer/properties/callbacks",
    "logger": "#/$defs/trainer/properties/logger",
    "backbone": "#/$defs/Space",
    "augment": "#/$defs/Augmentation",
}
ROOMS = ("lightning_modules", "datamodules", "degradations", "callbacks")
# The library would list the classes of every package: 900 modules of torch and others.
LISTED = (*(f"{room}." for room in ROOMS), "lightning.", "torch.optim.")
NETWORKS = ("lightning_modules.networks.", "callbacks.")
# Any other class: a user's, or one of a library.
OTHER: Schema = {
    "type": "object",
    "description": "A class of your own, named as folder.file.Class.",
    "properties": {
        "class_path": {"type": "string", "pattern": rf"^(?!({'|'.join(ROOMS)})\.)"},
        "init_args": {"type": "object"},
        "dict_kwargs": {"type": "object"},
    },
    "required": ["class_path"],
    "additionalProperties": False,
}


class _Ready(Exception):  # noqa: N818  (no error)
    def __init__(self, parser: LightningArgumentParser) -> None:
        super().__init__()
        self.parser = parser


class _UpToTheParser(EnlargerCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> NoReturn:
        raise _Ready(self.command_parsers["fit"])


BOUNDS: dict[Any, Schema] = {
    PositiveInt: {"minimum": 1},
    NonNegativeInt: {"minimum": 0},
    PositiveFloat: {"exclusiveMinimum": 0},
    NonNegativeFloat: {"minimum": 0},
    UnitInterval: {"minimum": 0, "maximum": 1},
}


class _Schemas(ParserJsonschema):
    def typehint_schema(self, typehint: Any, action: Any) -> Schema:
        found: Schema = super().typehint_schema(typehint, action)
        return {**found, **BOUNDS[typehint]} if typehint in RANGED else found

    def callable_schema(self, typehint: Any, action: Any) -> Schema:
        # The library describes factories of one type, but not of several, such as Lightning's
        # schedules.
        made = get_callable_return_type(typehint)  # type: ignore[no-untyped-call]
        kinds = [kind for kind in get_args(made) if isinstance(kind, type)]
        if not kinds:
            return dict(super().callable_schema(typehint, action))
        parts = [self.class_ref(kind, action, subclass=True) for kind in kinds]
        return {"anyOf": [{"type": "string"}, *parts]}


def schemas() -> dict[str, Schema]:
    """Return the schemas, by kind of file.

    Every key of every class is known, so that editors mark misspelt ones. No key is required: a
    file may be one of several layers.
    """
    for room in ROOMS:
        _import_all(room)
    try:
        _UpToTheParser(["fit"])
    except _Ready as ready:
        parser = ready.parser
    with patch.object(schema_library, "get_all_subclass_paths", _listed):
        whole: Schema = _Schemas().generate(parser)  # type: ignore[no-untyped-call]
    whole["title"], whole["description"] = "Enlarger", DESCRIPTIONS["fit"]
    for schema in list(_parts(whole)):
        _open(schema)
    _name_groups(whole)
    whole["properties"]["$schema"] = {"type": "string", "description": "This file."}
    others = {kind: {"$ref": f"{WHOLE}.json{pointer}"} for kind, pointer in KINDS.items()}
    return {WHOLE: whole, **others}


def _import_all(package: str) -> None:
    # A class is known once its module is imported.
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, prefix=f"{package}."):
        importlib.import_module(module.name)


def _listed(cls: type) -> list[str]:
    beginnings = NETWORKS if cls is nn.Module else LISTED
    paths = (path for path in get_all_subclass_paths(cls) if path.startswith(LISTED))
    return sorted(path for path in paths if f"{_module_of(path)}.".startswith(beginnings))


def _module_of(path: str) -> str:
    # Lightning creates classes during training, such as LightningAdam, that are in no module.
    module, _, name = path.rpartition(".")
    return str(getattr(getattr(sys.modules.get(module), name, None), "__module__", ""))


def _parts(schema: Schema) -> Iterator[Schema]:
    yield schema
    for key in ("properties", "$defs"):
        for part in schema.get(key, {}).values():
            yield from _parts(part)
    for key in ("anyOf", "prefixItems"):
        for part in schema.get(key, ()):
            yield from _parts(part)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _parts(schema[key])


def _open(schema: Schema) -> None:
    """Make the schema of a whole configuration fit parts of it, and users' classes."""
    schema.pop("required", None)
    properties = schema.get("properties", {})
    properties.pop("$schema", None)  # in each object, half of the file
    # `callbacks+:` appends to the list of an earlier file.
    properties |= {f"{name}+": part for name, part in properties.items() if _is_list(part)}
    if any(
        "const" in p.get("properties", {}).get("class_path", {}) for p in schema.get("anyOf", ())
    ):
        schema["anyOf"].append(OTHER)


def _is_list(schema: Schema) -> bool:
    kinds = schema.get("type", ())
    return "array" in kinds or any(_is_list(part) for part in schema.get("anyOf", ()))


def _name_groups(whole: Schema) -> None:
    # `trainer: ../trainer/long.yaml`: a group is its keys, or the path of a file with them.
    for name, group in whole["properties"].items():
        if "properties" in group:
            whole["$defs"][name] = group
            whole["properties"][name] = {
                "description": group.get("description", ""),
                "anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "string"}],
            }


def main(args: Sequence[str] | None = None) -> int:
    """Write the schemas.

    Args:
        args: Arguments as typed; by default those of the process.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(
        prog="main.py schema",
        description="Write JSON Schemas of configurations, with which editors complete keys.",
    )
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder of the schemas (default: configs/schema)"
    )
    out = parser.parse_args(args).out
    out.mkdir(parents=True, exist_ok=True)
    found = schemas()
    for kind, schema in found.items():
        (out / f"{kind}.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    log.info("%d schemas in %s", len(found), out)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    raise SystemExit(main())
