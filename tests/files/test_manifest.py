"""Published weights by name: where files are searched, what is refused, and the command."""

import hashlib
from pathlib import Path
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import torch
import yaml

from commands.weights import main
from files import manifest
from files.manifest import WrongWeightsError, locate

WEIGHTS = b"the published weights"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
ENTRY = {
    "file": "net-1.pth",
    "sha256": DIGEST,
    "licence": "MIT",
    "source": "https://example.invalid/net.pth",
    "used_by": "a metric",
}


@pytest.fixture(autouse=True)
def requests(monkeypatch):
    """No network; the addresses that were asked for."""
    addresses = []

    def fail(url, path, digest):
        addresses.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    manifest._fetch.cache_clear()
    return addresses


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A manifest of two files, and the empty folders where they are searched."""
    entries = {"net": ENTRY, "unknown": {**ENTRY, "file": "unknown.pth", "sha256": None}}
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(entries))
    folders = {
        "own": tmp_path / "own",
        "torch": tmp_path / "torch/checkpoints",
        "hf": tmp_path / "hf/models--someone--net/blobs",
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    monkeypatch.setattr(manifest, "MANIFEST", tmp_path / "weights.yaml")
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(folders["own"]))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return folders


@pytest.fixture
def online(monkeypatch):
    """A network that has the file; the addresses that were asked for."""
    addresses = []

    def download(url, path, digest):
        addresses.append(url)
        Path(path).write_bytes(WEIGHTS)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return addresses


def test_files_are_searched_in_the_order_of_places(places):
    with pytest.raises(FileNotFoundError, match=r"no route to host.*example\.invalid/net\.pth"):
        locate("net")
    # The last place first, so that each file is found before the earlier ones of this loop.
    for path in (places["hf"] / DIGEST, places["torch"] / "net-1.pth", places["own"] / "net-1.pth"):
        path.write_bytes(WEIGHTS)
        assert locate("net") == path


@pytest.mark.parametrize("place", ["own", "torch"])
def test_another_content_is_an_error_with_both_hashes(places, place):
    path = places[place] / "net-1.pth"
    path.write_bytes(b"something else")
    with pytest.raises(WrongWeightsError) as raised:
        locate("net")
    message = str(raised.value)
    assert str(path) in message
    assert hashlib.sha256(b"something else").hexdigest() in message
    assert DIGEST in message
    assert ENTRY["source"] in message


def test_a_file_of_unknown_hash_is_taken_as_it_is(places):
    path = places["own"] / "unknown.pth"
    path.write_bytes(b"anything")
    assert locate("unknown") == path


def test_a_file_in_no_place_is_fetched_once(places, online):
    path = places["torch"] / "net-1.pth"
    assert locate("net") == path
    assert locate("net") == path
    manifest._fetch.cache_clear()
    manifest._fetch("net")  # as another process that did not find it, while this one fetched it
    assert online == [ENTRY["source"]]


def test_a_source_out_of_reach_is_asked_once(places, requests):
    """Otherwise each metric that needs the file would wait in turn."""
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="no route to host"):
            locate("net")
    assert len(requests) == 1  # the second failure is the first one's, kept


def test_a_fetched_file_of_another_content_is_not_used(monkeypatch):
    def download(url, path, digest):
        Path(path).write_bytes(b"an error page")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(WrongWeightsError, match="SHA-256"):
        locate("net")


def test_the_command_tells_why_a_file_is_not_fetched(capsys):
    assert main(["--fetch", "net"]) == 1
    assert "no route to host" in capsys.readouterr().out


def test_the_command_fetches_a_file(places, online, capsys):
    path = places["torch"] / "net-1.pth"
    assert main(["--fetch", "net"]) == 0
    assert path.read_bytes() == WEIGHTS
    assert f"net: {path}" in capsys.readouterr().out
    assert online == [ENTRY["source"]]
