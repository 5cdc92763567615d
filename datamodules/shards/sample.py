"""From a webdataset sample (``__key__``, members by suffix) to a ``Sample`` of pixels and text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.files.captions import parse_caption
from datamodules.files.members import parse_floats, parse_json, parse_member
from datamodules.files.roles import EXPECTED, checked_roles
from datamodules.shards.remote import hide_secrets
from datamodules.shards.table import RULE
from datamodules.source import Sample
from files.images.decode import decode

log = logging.getLogger(__name__)
_WARNED: set[tuple[str, str]] = set()  # messages, and the tars that they are about


class Raw(NamedTuple):
    """A sample before it is decoded.

    shard: Name of its tar in messages.
    key: The sample's name.
    fields: ``hr`` and, where they exist, ``lr``, ``txt``, ``text_features`` and ``json``: bytes, or
        what a stage or a pipeline has decoded.
    """

    shard: str
    key: str
    fields: dict[str, Any]


def raw_of(sample: dict[str, Any]) -> Raw | None:
    """Return the fields of one of webdataset's samples; None if it has no image.

    Args:
        sample: ``__key__``, and members by suffix. They may also be called ``hr`` and ``lr``.

    Raises:
        ValueError: If the roles of its members are not clear.
    """
    key, shard = sample["__key__"], hide_secrets(str(sample.get("__url__", "a pipeline")))
    members = {name: value for name, value in sample.items() if not name.startswith("__")}
    roles = checked_roles(shard, key, tuple(members))
    if "hr" not in roles.members:
        example = f"{key!r} with {', '.join(members)} ({RULE})"
        warn_once("%s: left out samples without an image, such as %s", shard, example)
        return None
    if roles.unused:
        example = f"{key}.{roles.unused[0]} ({EXPECTED})"
        warn_once("%s: left out images without a role, such as %s", shard, example)
    fields = {field: members[name] for field, name in roles.members.items()}
    return Raw(shard, key, fields)


def warn_once(message: str, shard: str, example: str) -> None:
    """Warn of samples of a tar once, although each pass reads them."""
    if (message, shard) not in _WARNED:
        _WARNED.add((message, shard))
        log.warning(message, shard, example)


def decode_sample(raw: Raw, srgb: bool) -> Sample:
    """Return what a ``Source`` gives for a sample.

    Args:
        raw: The sample; what is not bytes is taken as it is.
        srgb: As ``Source.srgb``.

    Raises:
        UnreadableImage: If an image or a caption is broken.
    """
    name, fields = f"{raw.shard}: {raw.key}", raw.fields
    if isinstance(fields["hr"], bytes):
        hr = decode(fields["hr"], name, srgb)
        sample = Sample(hr=hr.rgb, meta=hr.meta(raw.shard))
    else:
        sample = Sample(hr=_pixels(fields["hr"], name, srgb), meta={"path": raw.shard})
    if "lr" in fields:
        sample["lr"] = _pixels(fields["lr"], f"{name} (lr)", srgb)
    add_text(sample, raw)
    return sample


def add_text(sample: Sample, raw: Raw) -> None:
    """Add a sample's caption, its features and its JSON.

    Raises:
        UnreadableImage: If one of them is broken.
    """
    features = raw.fields.get("text_features", b"")
    # Of a sample without them, collate says that only some have them.
    if not isinstance(features, bytes) or features:
        sample["text_features"] = _parsed(raw, "text_features", partial(parse_floats, dimensions=2))
    if "txt" in raw.fields:
        sample["text"] = _parsed(raw, "txt", parse_caption)
    if "json" in raw.fields:
        sample["meta"]["json"] = _parsed(raw, "json", parse_json)


def _parsed(raw: Raw, field: str, parse: Callable[[bytes], Any]) -> Any:
    """Return the parsed content of a field that is no image, unless a stage has parsed it."""
    value = raw.fields[field]
    if not isinstance(value, bytes):
        return value
    return parse_member(parse, value, f"{raw.shard}: {raw.key}: its {field}")


def _pixels(value: Any, name: str, srgb: bool) -> Any:
    """Return the pixels of an image, which a stage may have decoded, as Pillow's image or array."""
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"))
    return decode(value, name, srgb).rgb if isinstance(value, bytes) else value
