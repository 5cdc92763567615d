"""What the packer refuses before it writes anything: an input, and a word of the message."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.pack import __main__ as pack
from tests.datamodules.image_files import save

PAIRS = ["--lr", "lr", "--scale"]
OPTIONS = [
    ([*PAIRS, "4", "--crop", "30"], "--crop 30 and"),
    ([*PAIRS, "4", "--crop", "32", "--step", "3"], "--step 3 are"),
    (["--lr", "other", "--scale", "2"], "have no LR"),
    (["--part", "2/2"], "not a part"),
    (["--encode", "jpeg:101"], "not an encoding"),
    (["--name", "../shard"], "not a name of shards"),
]
SOURCES = [
    ("tars/short.tar", "truncated"),
    ("two", "would both have the key 'a'"),
    ("two.txt", "would both have the key 'two/a'"),
    ("noise.txt", "a list of paths"),
]
TEXTS = {
    "two.txt": b"two/a.png\ntwo/a.jpg\n",
    "noise.txt": bytes(range(256)) * 100,
    "tars/short.tar": b"a.png" + bytes(695),
}

CASES = [("images", options, word) for options, word in OPTIONS]
CASES += [(source, [], word) for source, word in SOURCES]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tars").mkdir()
    for name, content in TEXTS.items():
        (tmp_path / name).write_bytes(content)
    for name in ("images/b.png", "lr/b.png", "other/c.png", "two/a.png", "two/a.jpg"):
        save(tmp_path / name, (4, 3) if name.startswith("lr") else (8, 6))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a refusal; the parser prints its own."""
    with pytest.raises((ValueError, SystemExit)) as raised:
        pack.main(words)
    return str(raised.value) + capsys.readouterr().err


def test_several_processes_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "pack runs in one process: use --part" in refusal(["images", "out"], capsys)


@pytest.mark.parametrize(("source", "more", "word"), CASES)
def test_what_is_refused(
    folder: Path,
    source: str,
    more: list[str],
    word: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert word in refusal([source, "out", *more], capsys)
    assert not (folder / "out").exists()
