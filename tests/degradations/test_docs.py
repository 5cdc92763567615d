"""docs/degradations.md names every stage and recipe, and only things that exist."""

from __future__ import annotations

import re

import pytest
import yaml

from degradations.tools.configure import degradation_of
from tests.conftest import REPO

TEXT = (REPO / "docs" / "degradations.md").read_text()
BLOCKS = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


@pytest.mark.parametrize("name", ["own.yaml", "milder.yaml", "levels.yaml"])
def test_examples_make_degradations(tmp_path, name):
    (tmp_path / name).write_text(BLOCKS[name])
    first = [REPO / "configs" / "degradation" / "real_esrgan.yaml"] if name == "milder.yaml" else []
    degradation_of([*first, tmp_path / name], 4.0)
    assert yaml.safe_load(BLOCKS[name])
