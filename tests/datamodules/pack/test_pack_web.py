"""Lists of addresses: fetched with limits, refused by reason, and packed as files are."""

from __future__ import annotations

import csv
import json
import logging
import struct
import tarfile
import zlib
from email.message import Message

import pytest

from datamodules.pack import __main__ as pack
from datamodules.pack import web
from datamodules.pack.web import Fetch, Rows, forbidding
from tests.datamodules.image_files import save
from tests.datamodules.pack.test_pack_resume import content
from tests.datamodules.server import serving

QUICK = ["--samples-per-shard", "5", "--workers", "0", "--retries", "0"]


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def server(tmp_path):
    for number in range(20):
        save(tmp_path / "files" / f"{number}.png", (16, 12), seed=number)
    (tmp_path / "files" / "7.png").write_bytes((tmp_path / "files" / "1.png").read_bytes())
    (tmp_path / "files" / "page.png").write_text("<html>this is no image</html>")
    save(tmp_path / "files" / "large.png", (100, 100))
    with serving(tmp_path / "files") as found:
        found.headers = {
            "3.png": {"X-Robots-Tag": "noai"},
            "4.png": {"X-Robots-Tag": "otherbot: noindex"},
        }
        yield found


def table(tmp_path, server, more=()):
    rows = [(f"{server.url}/{n}.png", f'caption "{n}",\nof two lines') for n in range(20)]
    rows[5:5] = [(f"{server.url}/{name}.png", "") for name in ("gone", "page", "large")]
    rows += [("ftp://example.org/a.png", "x"), ("", "x"), ("http://127.0.0.1:1/a.png", "x"), *more]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("caption", "URL"), *(row[::-1] for row in rows)])
    return tmp_path / "list.csv"


def report(out):
    return json.loads((out / "shard.report.json").read_text())


def test_a_table_of_addresses(tmp_path, server, caplog):
    options = [*QUICK, "--captions", "caption", "--max-bytes", "5K"]
    source, out = str(table(tmp_path, server)), tmp_path / "out"
    assert pack.main([source, str(out), *options]) == 1
    found = report(out)
    assert found["counts"]["refused_by_reason"] == {
        **{"bad address": 2, "robots": 1, "missing": 1, "not an image": 1},
        **{"too many bytes": 1, "unreachable": 1},
    }
    assert found["duplicates"][0]["same_as"] == "000000001"
    by_key = {one["key"]: one for one in found["refused"]}
    assert by_key["000000003"]["message"].endswith("3.png: its server forbids this use (noai)")
    assert by_key["000000005"]["path"] == f"{server.url}/gone.png"
    with tarfile.open(out / "shard-000000.tar") as tar:
        names = tar.getnames()
        assert names[:3] == ["000000000.json", "000000000.png", "000000000.txt"]
        text = 'caption "0",\nof two lines'
        assert tar.extractfile("000000000.txt").read().decode() == text
        about = json.loads(tar.extractfile("000000000.json").read())
        assert about == {"url": f"{server.url}/0.png", "caption": text}
        first = (tmp_path / "files" / "0.png").read_bytes()
        assert tar.extractfile("000000000.png").read() == first

    for part in ("2/3", "1/3", "3/3"):
        assert pack.main([source, str(tmp_path / "parts"), *options, "--part", part]) == 0
    assert pack.main(["--finish", str(tmp_path / "parts")]) == 1
    whole = content(out)
    joined = content(tmp_path / "parts")
    assert {n: v for n, v in joined.items() if "journal" not in n} == {
        n: v for n, v in whole.items() if "journal" not in n
    }
    everything = [*options, "--ignore-robots", "--max-bytes", "1M"]
    assert pack.main([source, str(tmp_path / "all"), *everything]) == 1
    assert "robots" not in report(tmp_path / "all")["counts"]["refused_by_reason"]


@pytest.mark.slow
def test_a_text_file_with_workers(tmp_path, server):
    lines = ["# photographs", *(f"{server.url}/{n % 20}.png?n={n}" for n in range(150))]
    (tmp_path / "list.txt").write_text("\r\n".join(lines))
    found = []
    for workers in ("0", "2"):
        command = [str(tmp_path / "list.txt"), str(tmp_path / workers), "--workers", workers]
        assert pack.main([*command, "--samples-per-shard", "8"]) == 1
        counts = report(tmp_path / workers)["counts"]
        assert (counts["inputs"], counts["packed"], counts["refused"]) == (150, 18, 8)
        found.append({n: v for n, v in content(tmp_path / workers).items() if ".tar" in n})
    assert found[0] == found[1]


def test_what_passes_is_tried_again(tmp_path, server, monkeypatch):
    monkeypatch.setattr(web, "FIRST_PAUSE", 0.01)
    (tmp_path / "list.txt").write_text(f"{server.url}/0.png\n")
    server.faults = [503, "cut", 429]
    arguments = [str(tmp_path / "list.txt"), str(tmp_path / "out"), "--workers", "0"]
    assert pack.main(arguments) == 0
    assert server.got("0.png") == 4


def test_a_server_that_stalls(tmp_path, server):
    lines = [f"{server.url}/{n}.png\n" for n in range(3)]
    (tmp_path / "list.txt").write_text("".join(lines))
    server.faults = ["stall"]
    command = [str(tmp_path / "list.txt"), str(tmp_path / "out"), *QUICK, "--timeout", "1"]
    assert pack.main([*command, "--connections", "1"]) == 1
    assert report(tmp_path / "out")["counts"]["refused_by_reason"] == {"timeout": 1}


def test_what_has_no_end(tmp_path, server):
    """Bombs are refused before they are there, or decoded, and the others are packed."""
    small = bytearray((tmp_path / "files" / "1.png").read_bytes())
    small[16:24] = struct.pack(">II", 200_000, 200_000)  # 40 gigapixels, by the header
    small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
    (tmp_path / "files" / "bomb.png").write_bytes(small)
    names = ("0", "1", "2", "bomb", "5")
    (tmp_path / "list.txt").write_text("".join(f"{server.url}/{n}.png\n" for n in names))
    server.faults = ["huge", "endless", "drip"]
    command = [str(tmp_path / "list.txt"), str(tmp_path / "out"), *QUICK, "--timeout", "1"]
    assert pack.main([*command, "--connections", "1", "--max-bytes", "1M"]) == 1
    found = {one["key"]: one["reason"] for one in report(tmp_path / "out")["refused"]}
    reasons = ("too many bytes", "too many bytes", "timeout", "too large")
    assert found == {f"{n:09d}": reason for n, reason in enumerate(reasons)}
    assert server.got("5.png") == 1


def test_a_store_that_is_down_for_a_while(tmp_path, server, caplog):
    """Its part says so, and nothing is lost: neither in this part nor in another."""
    (tmp_path / "list.txt").write_text("".join(f"{server.url}/{n}.png\n" for n in range(20)))
    options = [*QUICK, "--ignore-robots", "--stop-after", "3"]
    command = [str(tmp_path / "list.txt"), str(tmp_path / "out"), *options]
    assert pack.main([*command, "--part", "1/2"]) == 0
    server.always = 500
    assert pack.main([*command, "--part", "2/2"]) == 2
    assert "the last 3 addresses failed, so a server or the network is down" in caplog.text
    whole = [*command[:1], str(tmp_path / "whole"), *command[2:]]
    assert pack.main(whole) == 2
    server.always = None
    assert pack.main([*command, "--part", "2/2"]) == 0
    assert pack.main(["--finish", str(tmp_path / "out")]) == 0
    assert report(tmp_path / "out")["counts"]["packed"] == 19
    assert pack.main(whole) == 0
    assert report(tmp_path / "whole") == report(tmp_path / "out")


def test_parquet(tmp_path, server, caplog):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    import pyarrow

    urls = [f"{server.url}/{n}.png" for n in range(20)]
    texts = [None if n == 2 else f"caption {n}" for n in range(20)]
    path = tmp_path / "list.parquet"
    parquet.write_table(pyarrow.table({"url": urls, "text": texts}), path, row_group_size=7)
    rows = Rows(path, "url", "text", Fetch())
    assert [entry.members[""].url for entry in rows] == urls
    assert [entry.key for entry in rows[5:9][1:3]] == ["000000006", "000000007"]
    command = [str(path), str(tmp_path / "out"), *QUICK, "--captions", "text"]
    assert pack.main(command) == 1
    counts = report(tmp_path / "out")["counts"]
    assert (counts["packed"], counts["notes"]["images without a caption"]) == (18, 1)
    assert pack.main([str(path), str(tmp_path / "b"), "--url-column", "address"]) == 2
    assert "has no column 'address', but url, text: name the addresses' column" in caplog.text


def test_rows_of_any_place(tmp_path):
    """Read by chunks, and equal from wherever reading begins."""
    path = tmp_path / "list.tsv"
    lines = ["Url\ttext\n", *(f'http://a/{n}\t"one\n{n}"\n' for n in range(2500))]
    path.write_text("".join(lines))
    rows = Rows(path, "url", "text", Fetch())
    assert len(rows) == 2500
    for number in (0, 999, 1000, 2499, 3):
        assert rows[number].members[""].url == f"http://a/{number}"
        assert json.loads(rows[number].members["json"].text)["text"] == f"one\n{number}"
    assert [entry.key for entry in rows[998:1002]] == [f"{n:09d}" for n in range(998, 1002)]


@pytest.mark.parametrize(
    ("tags", "forbids"),
    [
        (["noai, noimageai"], True),
        (["nofollow"], False),
        (["nofollow", "NoIndex"], True),
        (["googlebot: noindex, noai"], False),
        (["enlarger-pack: noai"], True),
        (["max-snippet: 5, noai"], True),
        ([], False),
    ],
)
def test_what_a_server_forbids(tags, forbids):
    headers = Message()
    for tag in tags:
        headers["X-Robots-Tag"] = tag
    assert bool(forbidding(headers)) == forbids


def test_addresses_and_lr(tmp_path, server, caplog):
    source = str(table(tmp_path, server))
    assert pack.main([source, str(tmp_path / "out"), "--lr", source, "--scale", "2"]) == 2
    assert "is a list of addresses, which have no --lr" in caplog.text
    (tmp_path / "empty.csv").write_text("url\n")
    assert pack.main([str(tmp_path / "empty.csv"), str(tmp_path / "out")]) == 2
    assert "is an empty list" in caplog.text


def test_quotation_marks_within_the_values_of_a_table(tmp_path):
    """A mark in the middle of a value opens nothing; one at its start may enclose line ends."""
    path = tmp_path / "list.csv"
    path.write_text('url,text\nhttp://a,a 5" disk\nhttp://b,plain\nhttp://c,"two\nlines"\n')
    rows = Rows(path, "url", "text", Fetch())
    texts = [json.loads(row.members["json"].read())["text"] for row in rows]
    assert texts == ['a 5" disk', "plain", "two\nlines"]
    path.write_text('url,text\nhttp://a,"never closed\n' + "x" * 200_000)
    with pytest.raises(ValueError, match="a quotation mark at its start needs another"):
        Rows(path, "url", "text", Fetch())
