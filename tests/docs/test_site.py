"""The command that builds the site refuses it where a link leads nowhere."""

from __future__ import annotations

import re
import shlex
import shutil
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


def test_pages_that_are_opened_from_the_disk_have_their_search(tmp_path: Path) -> None:
    """Browsers load no JSON from there, and start no worker: both come as plain scripts of ours."""
    pytest.importorskip("material")
    ours = (REPO / "mkdocs.yml").read_text()
    site = yaml.safe_load(ours)
    wanted = ("theme", "extra", "use_directory_urls")
    plain = {"site_name": "small", **{key: site[key] for key in wanted}}
    plain["plugins"] = [one for one in site["plugins"] if isinstance(one, str)]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(plain))
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    for name in ("index.md", "deep/page.md"):
        (tmp_path / "docs" / name).write_text("# A title\n\nabracadabra\n")
    shutil.copytree(REPO / "docs" / "javascripts", tmp_path / "docs" / "javascripts")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "site/search/search_index.js").read_text()
    assert index.startswith("var __index = ")
    assert "abracadabra" in index
    for page in (tmp_path / "site/index.html", tmp_path / "site/deep/page.html"):
        html = page.read_text()
        scripts = re.findall(r'<script src="([^"]+)"', html)
        assert not [script for script in scripts if "//" in script]
        assert any(script.endswith("iframe-worker.js") for script in scripts)
        assert all((page.parent / script).is_file() for script in scripts)
        assert not re.search(r'<link[^>]+href="https?://(?!example)[^"]+\.(css|js)', html)


@pytest.mark.parametrize("link", ["other.md", "other.md#here"])
def test_links_that_lead_somewhere(link: str, tmp_path: Path) -> None:
    done = build(f"[a link]({link})\n", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("link", ["nothing.md", "other.md#there", "/other.md"])
def test_links_that_lead_nowhere(link: str, tmp_path: Path) -> None:
    done = build(f"[a link]({link})\n", tmp_path)
    assert done.returncode == 1
    assert f"a link '{link}'" in done.stderr or "absolute link" in done.stderr
