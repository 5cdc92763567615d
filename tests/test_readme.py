"""Every file that the README names exists."""

from __future__ import annotations

import re

from tests.conftest import REPO

README = (REPO / "README.md").read_text()


def test_named_files_exist() -> None:
    named = re.findall(r"\b((?:configs|docs|callbacks|tests|benchmarks)/[\w./-]+\.\w+)", README)
    assert len(named) > 5
    missing = [name for name in named if not (REPO / name).exists()]
    assert not missing
