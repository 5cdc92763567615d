"""docs/degradations.md names every stage and recipe, and only things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from degradations.tools.configure import degradation_of
from tests.conftest import REPO

TEXT = (REPO / "docs" / "degradations.md").read_text()
[SCRIPT] = re.findall(r"```python\n# degrade_folder.py\n(.*?)```", TEXT, re.DOTALL)
BLOCKS = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


@pytest.mark.parametrize("name", ["own.yaml", "milder.yaml", "levels.yaml"])
def test_examples_make_degradations(tmp_path, name):
    (tmp_path / name).write_text(BLOCKS[name])
    first = [REPO / "configs" / "degradation" / "real_esrgan.yaml"] if name == "milder.yaml" else []
    degradation_of([*first, tmp_path / name], 4.0)
    assert yaml.safe_load(BLOCKS[name])


def test_the_script_degrades_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my/hr").mkdir(parents=True)
    Image.new("RGB", (64, 48), "teal").save("my/hr/a.png")
    exec(SCRIPT, {})
    assert Image.open("held_out_x4/a.png").size == (16, 12)
