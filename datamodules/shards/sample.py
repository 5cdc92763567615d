"""From a webdataset sample (``__key__``, members by suffix) to a ``Sample`` of pixels and text."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.files.captions import caption_of
from datamodules.files.roles import EXPECTED, roles_in
from datamodules.shards.index import array_of
from datamodules.shards.remote import shown
from datamodules.shards.table import RULE
from datamodules.source import Sample
from files.images.decode import UnreadableImage, decode

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
    key, shard = sample["__key__"], shown(str(sample.get("__url__", "a pipeline")))
    members = {name: value for name, value in sample.items() if not name.startswith("__")}
    roles = roles_in(shard, key, tuple(members))
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


def decoded(raw: Raw, srgb: bool) -> Sample:
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
        sample = Sample(hr=_plain(fields["hr"]), meta={"path": raw.shard})
    if "lr" in fields:
        sample["lr"] = _plain(fields["lr"], lambda data: decode(data, f"{name} (lr)", srgb).rgb)
    add_text(sample, raw)
    return sample


def add_text(sample: Sample, raw: Raw) -> None:
    """Add a sample's caption, its features and its JSON.

    Raises:
        UnreadableImage: If one of them is broken.
    """
    name, fields = f"{raw.shard}: {raw.key}", raw.fields
    features = fields.get("text_features", b"")
    # Of a sample without them, collate says that only some have them.
    if not isinstance(features, bytes) or features:
        sample["text_features"] = _plain(
            features, lambda data: array_of(data, f"{name} (text_features)", 2)
        )
    try:
        if "txt" in fields:
            sample["text"] = _plain(fields["txt"], caption_of)
        if "json" in fields:
            sample["meta"]["json"] = _plain(fields["json"], lambda data: json.loads(data or "null"))
    except (ValueError, RecursionError) as error:
        raise UnreadableImage(f"{name}: its txt or json is broken: {error}") from error


def _plain(value: Any, read: Callable[[bytes], Any] | None = None) -> Any:
    """Return the content of a member, which a stage may have decoded."""
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"))
    return read(value) if read is not None and isinstance(value, bytes) else value
