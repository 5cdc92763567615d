"""The command that builds the site refuses it where a link leads nowhere."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO

pytest.importorskip("mkdocs")  # of the extra docs, which the oldest versions are tested without


def build(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """By the words of the Makefile and our rules of what is wrong, a site of two pages."""
    (line,) = [line for line in (REPO / "Makefile").read_text().splitlines() if "mkdocs" in line]
    words = shlex.split(line.split("/mkdocs ", 1)[1])
    ours = yaml.safe_load((REPO / "mkdocs.yml").read_text())
    nav = [{"Home": "index.md"}, {"Other": "other.md"}]
    site = {"site_name": "small", "validation": ours["validation"], "nav": nav}
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(site))
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(page)
    (folder / "docs" / "other.md").write_text("# Other\n\n## Here\n")
    command = [sys.executable, "-m", "mkdocs", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("link", ["other.md", "other.md#here"])
def test_links_that_lead_somewhere(link: str, tmp_path: Path) -> None:
    done = build(f"[a link]({link})\n", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("link", ["nothing.md", "other.md#there", "/other.md"])
def test_links_that_lead_nowhere(link: str, tmp_path: Path) -> None:
    done = build(f"[a link]({link})\n", tmp_path)
    assert done.returncode == 1
    assert f"a link '{link}'" in done.stderr or "absolute link" in done.stderr
