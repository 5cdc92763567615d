"""docs/degradations.md names every stage and recipe, and only things that exist."""

from __future__ import annotations

import importlib
import pkgutil
import re

import kornia.augmentation
import pytest
import yaml

import degradations
from degradations.base import Stage
from degradations.tools.configure import degradation_of
from tests.conftest import REPO

TEXT = (REPO / "docs" / "degradations.md").read_text()
BLOCKS = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


def modules():
    return [m.name for m in pkgutil.walk_packages(degradations.__path__, "degradations.")]


def stages():
    """Return the public stages of the package."""
    found = set()
    for module in modules():
        members = vars(importlib.import_module(module))
        found |= {
            name
            for name, member in members.items()
            if isinstance(member, type)
            and issubclass(member, Stage)
            and not name.startswith("_")
            and not getattr(member, "__abstractmethods__", None)
        }
    return sorted(found)


def test_every_stage_and_recipe_is_named():
    assert len(stages()) > 15
    assert [name for name in stages() if f"`{name}`" not in TEXT] == []
    recipes = [path.stem for path in (REPO / "configs" / "degradation").glob("*.yaml")]
    assert [name for name in recipes if f"| `{name}` |" not in TEXT] == []


def test_named_classes_exist():
    members = set(dir(kornia.augmentation))
    for module in modules():
        members |= vars(importlib.import_module(module)).keys()
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w*)`", TEXT))
    assert len(named) > 10
    assert named - members == set()


@pytest.mark.parametrize("name", ["own.yaml", "milder.yaml", "levels.yaml"])
def test_examples_make_degradations(tmp_path, name):
    (tmp_path / name).write_text(BLOCKS[name])
    first = [REPO / "configs" / "degradation" / "real_esrgan.yaml"] if name == "milder.yaml" else []
    degradation_of([*first, tmp_path / name], 4.0)
    assert yaml.safe_load(BLOCKS[name])
