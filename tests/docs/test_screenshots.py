"""The screenshots of the pages show what is there now."""

from __future__ import annotations

import json

from docs.make_screenshots import DIGESTS, digests


def test_what_they_show_has_not_changed_since() -> None:
    made = json.loads(DIGESTS.read_text())

    assert made == digests(), "run docs/make_screenshots.py"
