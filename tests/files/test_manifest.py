"""Published weights by name: where files are searched, what is refused, and the command."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import torch
import yaml

from commands.weights import main
from files import manifest
from files.manifest import WrongWeightsError, locate

CONTENT = {"net": b"the published weights", "extra": b"other weights"}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A manifest of three files, empty folders, and no network."""
    entries: dict[str, Any] = {
        name: {
            "file": f"{name}-1.pth",
            "sha256": hashlib.sha256(content).hexdigest(),
            "licence": "MIT",
            "source": f"https://example.invalid/{name}.pth",
            "used_by": f"the metric of {name}",
        }
        for name, content in CONTENT.items()
    }
    entries["unknown"] = {**entries["net"], "file": "unknown.pth", "sha256": None}
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(manifest, "MANIFEST", tmp_path / "weights.yaml")
    found = {
        "own": tmp_path / "own",
        "torch": tmp_path / "torch/checkpoints",
        "hf": tmp_path / "hf/models--someone--net/blobs",
    }
    for place in found.values():
        place.mkdir(parents=True)
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(found["own"]))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def offline(url: str, path: str, digest: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    manifest._fetch.cache_clear()
    return found


def online(monkeypatch: pytest.MonkeyPatch, content: bytes = CONTENT["net"]) -> list[str]:
    """Fake a network that has every file, and return the list of requests."""
    asked = []

    def download(url: str, path: str, digest: str) -> None:
        asked.append(url)
        Path(path).write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def put(folder: Path, name: str = "net", content: bytes | None = None) -> Path:
    path = folder / f"{name}-1.pth"
    path.write_bytes(CONTENT[name] if content is None else content)
    return path


# -------------------------------------------------------------------------------------- the lookup


def test_files_are_searched_in_the_order_of_places(places):
    with pytest.raises(FileNotFoundError, match=r"no route to host.*example\.invalid/net\.pth"):
        locate("net")
    blob = places["hf"] / hashlib.sha256(CONTENT["net"]).hexdigest()
    blob.write_bytes(CONTENT["net"])
    assert locate("net") == blob
    in_torch = put(places["torch"])
    assert locate("net") == in_torch
    own = put(places["own"])
    assert locate("net") == own


@pytest.mark.parametrize("place", ["own", "torch"])
def test_another_content_is_an_error_with_both_hashes(places, place):
    path = put(places[place], content=b"something else")
    with pytest.raises(WrongWeightsError) as raised:
        locate("net")
    for part in (
        str(path),
        hashlib.sha256(b"something else").hexdigest(),
        hashlib.sha256(CONTENT["net"]).hexdigest(),
        "https://example.invalid/net.pth",
    ):
        assert part in str(raised.value)


def test_a_file_of_unknown_hash_is_taken_as_it_is(places):
    path = places["own"] / "unknown.pth"
    path.write_bytes(b"anything")
    assert locate("unknown") == path


# --------------------------------------------------------------------------------------- fetching


def test_what_is_nowhere_is_fetched_once(places, monkeypatch):
    asked = online(monkeypatch)
    path = places["torch"] / "net-1.pth"
    assert locate("net") == path
    assert locate("net") == path
    manifest._fetch.cache_clear()
    manifest._fetch("net")  # as a process does that came second
    assert asked == ["https://example.invalid/net.pth"]


def test_a_source_out_of_reach_is_asked_once(places, monkeypatch):
    """Otherwise each metric that needs the file would wait in turn."""
    asked = []

    def download(url: str, path: str, digest: str) -> None:
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="no route to host"):
            locate("net")
    assert len(asked) == 1
    path = put(places["own"])
    assert locate("net") == path


def test_a_fetched_file_of_another_content_is_not_used(monkeypatch):
    online(monkeypatch, b"an error page")
    with pytest.raises(WrongWeightsError, match="SHA-256"):
        locate("net")


# ------------------------------------------------------------------------------------ the command


def test_the_command_fetches_a_file(
    places,
    monkeypatch,
    capsys,
):
    assert main(["--fetch", "net"]) == 1  # no network
    assert "no route to host" in capsys.readouterr().out
    manifest._fetch.cache_clear()
    asked = online(monkeypatch)
    assert main(["--fetch", "net"]) == 0
    assert f"net: {places['torch'] / 'net-1.pth'}" in capsys.readouterr().out
    assert asked == ["https://example.invalid/net.pth"]
