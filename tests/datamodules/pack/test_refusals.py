"""What the packer refuses before it writes anything: an input, and a word of the message."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.pack import __main__ as pack
from tests.datamodules.image_files import save

PAIRS = ["--lr", "lr", "--scale"]
OPTIONS = [
    (["--lr", "lr"], "--lr needs --scale"),
    ([*PAIRS, "4", "--crop", "30"], "give 28 or 32"),
    ([*PAIRS, "4", "--crop", "32", "--step", "3"], "--step is 3"),
    ([*PAIRS, "1.5", "--crop", "30"], "needs a whole number"),
    ([*PAIRS, "0.5"], "at least 1"),
    (["--lr", "images/b.png", "--scale", "2"], "single image"),
    (["--lr", "other", "--scale", "2"], "have no LR: b; 1 of"),
    (["--lr", "a.tar", "--scale", "2"], "without --lr"),
    (["--step", "4"], "--crop, which is not given"),
    (["--part", "1/2", "--overwrite"], "would remove what other parts"),
    (["--part", "1/2", "--finish"], "joins all parts"),
    (["--part", "4/3"], "I from 1 to N"),
    (["--part", "0/3"], "I from 1 to N"),
    (["--encode", "jpeg"], "not an encoding"),
    (["--encode", "jpeg:101"], "not an encoding"),
    (["--shard-size", "much"], "not a size"),
    (["--samples-per-shard", "0"], "above 0"),
    (["--name", "a/b"], "not a valid name"),
    (["c.jpg", "d.jpg"], "unrecognized arguments: c.jpg"),
]
SOURCES = [
    ("nothing", "does not exist"),
    ("empty", "has no images"),
    ("x.lmdb", "with data.mdb"),
    ("tars", "give tars as"),
    ("tars/no*.tar", "matches no tar"),
    ("tars/short.tar", "truncated"),
    ("images/b.png", "single image"),
    ("two", "would both have the key 'a'"),
    ("two.txt", "would both have the key 'two/a'"),
    ("empty.txt", "empty list"),
    ("utf.txt", "nor a list of paths"),
    ("noise.mdb", "not a readable LMDB"),
    ("urls.txt", "img2dataset"),
    ("urls.csv", "img2dataset"),
]
TEXTS = {
    "two.txt": b"two/a.png\ntwo/a.jpg\n",
    "empty.txt": b"",
    "utf.txt": b"\xff\xfe",
    "urls.txt": b"# photographs\nhttps://example.org/a.png\n",
    "urls.csv": b"url,caption\n",
    "noise.mdb": bytes(range(256)) * 100,
    "tars/short.tar": b"a.png" + bytes(695),
}

CASES = [("images", options, word) for options, word in OPTIONS]
CASES += [(source, [], word) for source, word in SOURCES]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("empty", "x.lmdb", "tars"):
        (tmp_path / name).mkdir()
    for name, content in TEXTS.items():
        (tmp_path / name).write_bytes(content)
    for name in ("images/b.png", "lr/b.png", "other/c.png", "two/a.png", "two/a.jpg"):
        save(tmp_path / name, (4, 3) if name.startswith("lr") else (8, 6))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words: list[str]) -> bool:
    try:
        return pack.main(words) == 2
    except SystemExit as error:
        return error.code == 2


@pytest.mark.parametrize(("source", "more", "word"), CASES)
def test_what_is_refused(
    folder: Path,
    source: str,
    more: list[str],
    word: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused([source, "out", *more])
    assert word in caplog.text + capsys.readouterr().err
    assert not (folder / "out").exists()
