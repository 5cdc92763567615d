"""`main.py stats`: a set is measured in parts, after kills, and with broken files among it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from commands import stats
from commands.errors import ConfigurationError
from datamodules.parts import blocks_of
from datamodules.stats import inputs
from datamodules.stats.parts import Parts, measure_part
from tests.callbacks.parsed_page import parse
from tests.conftest import REPO
from tests.datamodules.poison import REASONS, poisoned


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(inputs, "BLOCK", 4)
    monkeypatch.setenv("HOME", str(tmp_path))


def picture(seed, size=(48, 40)):
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Fourteen images: a copy in another format, one encoded again, a grey one, two broken ones."""
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(9):
        picture(number).save(folder / f"{number:02d}.png")
    picture(0).save(folder / "copy.webp", lossless=True)
    picture(1, (96, 80)).save(folder / "again.jpg", quality=85)
    picture(20).convert("L").save(folder / "grey.png")
    (folder / "short.png").write_bytes((folder / "03.png").read_bytes()[:200])
    (folder / "text.jpg").write_bytes(b"no image at all")
    (folder / "notes.txt").write_text("not counted")
    return folder


def run(*words):
    here = () if "--finish" in words else ("--workers", "0")
    assert stats.main([str(word) for word in [*words, *here]]) == 0


def results(out):
    return {name: (out / name).read_bytes() for name in ("stats.json", "stats.html")}


def test_numbers_and_page(folder, tmp_path):
    run(folder, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert (found["images"], found["readable"], found["grey"], found["flat"]) == (14, 12, 1, 0)
    assert found["formats"] == {"PNG": 10, "JPEG": 1, "WEBP": 1}
    assert found["unreadable"]["by_reason"] == {"not an image": 1, "truncated": 1}
    names = [one["name"] for one in found["unreadable"]["first"]]
    assert names == [str(folder / "short.png"), str(folder / "text.jpg")]
    equal, similar = found["duplicates"], found["near_duplicates"]
    assert [group["names"] for group in equal["largest"]] == [
        [str(folder / "00.png"), str(folder / "copy.webp")]
    ]
    assert (equal["could_go"], similar["groups"]) == (1, 1)
    assert similar["largest"][0]["names"] == [str(folder / "01.png"), str(folder / "again.jpg")]
    side = found["quantities"]["short_side"]
    assert (side["least"], side["greatest"], side["measured"]) == (40, 80, 12)
    assert side["quantiles"]["0.5"] == pytest.approx(40, rel=1e-3)
    assert side["mean"] == pytest.approx((11 * 40 + 80) / 12, rel=1e-4)
    for quantity in found["quantities"].values():
        assert sum(quantity["counts"]) == 12
        assert len(quantity["edges"]) == len(quantity["counts"]) + 1
    text = (tmp_path / "out" / "stats.html").read_text()
    parse(text)
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[:2] == ["Images", "Unreadable"]
    assert {"Equal", "Similar", "Grey", "Most noisy", "How it is measured"} <= set(titles)
    assert "Flat" not in titles
    assert text.count("data:image/webp;base64,") > 20
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)


def test_parts_in_any_order_are_one(folder, tmp_path):
    run(folder, "--out", tmp_path / "one")
    out = tmp_path / "parts"
    for part, missing in (("3/3", "1"), ("1/3", "2"), ("2/3", "")):
        run(folder, "--out", out, "--part", part)
        if missing:
            with pytest.raises(ConfigurationError, match=rf"not complete.*\n.* --part {missing}/3"):
                stats.main(["--finish", str(out)])
    run("--finish", tmp_path / "parts")
    assert results(tmp_path / "parts") == results(tmp_path / "one")


def test_workers_give_the_same(folder, tmp_path):
    run(folder, "--out", tmp_path / "one")
    assert stats.main([str(folder), "--out", str(tmp_path / "two"), "--workers", "2"]) == 0
    assert results(tmp_path / "two") == results(tmp_path / "one")


KILLED = """
import os, signal, sys
from commands import stats
from datamodules.stats import inputs
from files import owned
inputs.BLOCK = 4
put, count = owned.put_in_place, [0]
def dying(part, path):
    count[0] += path.suffix == ".npz"
    assert "torch" not in sys.modules
    if count[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # with the block written, but not in its place
    put(part, path)
owned.put_in_place = dying
stats.main(sys.argv[1:])
"""


def test_a_killed_run_continues(folder, tmp_path, monkeypatch):
    run(folder, "--out", tmp_path / "one")
    words = [str(folder), "--out", str(tmp_path / "killed"), "--workers", "0"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], cwd=REPO, env={**os.environ}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    parts = Parts(tmp_path / "killed")
    assert parts.missing() == [2, 3]
    read = []
    original = inputs.read_bytes
    monkeypatch.setattr(inputs, "read_bytes", lambda path: read.append(path) or original(path))
    run(*words)
    assert results(tmp_path / "killed") == results(tmp_path / "one")
    again = {os.path.basename(path) for path in read}
    assert {"grey.png", "text.jpg"} <= again  # of the last two blocks
    run(*words[:3])  # a finished set is not measured again
    assert results(tmp_path / "killed") == results(tmp_path / "one")


def test_tars_are_blocks_and_a_broken_one_is_named(folder, tmp_path):
    for number in range(3):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as tar:
            for path in sorted(folder.glob("*.png"))[number::3]:
                tar.add(path, f"{path.stem}.hr.png")
                text = tarfile.TarInfo(f"{path.stem}.txt")
                text.size = 2
                tar.addfile(text, io.BytesIO(b"hi"))
    whole = (tmp_path / "s-0.tar").read_bytes()
    (tmp_path / "s-0.tar").write_bytes(whole[: len(whole) // 2])
    run(tmp_path / "s-{0..2}.tar", "--out", tmp_path / "tars")
    found = json.loads((tmp_path / "tars" / "stats.json").read_text())
    assert found["images"] == 7
    assert found["unreadable"]["by_reason"] == {"truncated": 1}
    (tar,) = found["unreadable_tars"]
    assert tar["name"] == str(tmp_path / "s-0.tar")
    assert "truncated" in tar["message"]
    assert tar["message"] in (tmp_path / "tars" / "stats.html").read_text().replace("&#39;", "'")
    for number in range(3):
        (tmp_path / "tars_only").mkdir(exist_ok=True)
        shutil.copy(tmp_path / f"s-{number}.tar", tmp_path / "tars_only")
    run(tmp_path / "tars_only", "--out", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "stats.json").read_text())["images"] == 7


def test_a_set_that_is_all_broken_has_a_page(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"")
    run(tmp_path / "set", "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert (found["images"], found["readable"]) == (1, 0)
    assert found["unreadable"]["by_reason"] == {"empty": 1}
    assert "the file is empty" in (tmp_path / "out" / "stats.html").read_text()


def test_names_are_escaped(tmp_path):
    (tmp_path / "set").mkdir()
    picture(1).save(tmp_path / "set" / "<b onclick=1>&.png")
    picture(2).save(tmp_path / "set" / os.fsdecode(b"caf\xe9.png"))
    run(tmp_path / "set", "--out", tmp_path / "out")
    text = (tmp_path / "out" / "stats.html").read_text()
    assert "<b onclick" not in text
    assert "&lt;b onclick=1&gt;&amp;.png" in text
    assert r"caf\udce9" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], r"PATH 'nowhere' does not exist; expected a folder of images or tars"),
        (["empty"], r"PATH 'empty' has no images"),
        (["set/*.bmp"], r"PATH 'set/\*.bmp' matches no images"),
        (["set", "set/00.png"], r"PATH 'set/00.png' lies in 'set', so its images would be counted"),
        (["set", "set"], r"PATH 'set' lies in 'set'"),
        (["set/*.png", "set/0*.png"], r"PATH 'set/0\*.png' has images of 'set/\*.png'"),
        (["set/*.png", "set/00.png"], r"PATH 'set/00.png' has images of 'set/\*.png'"),
        (["no.tar"], r"PATH 'no.tar': 1 of 1 do not exist"),
        (["set", "--out", "set/00.png"], r"--out 'set/00.png' is a file; expected a folder"),
        (["--finish", "empty"], r"--finish 'empty' has no measurements: give the --out"),
        (["--config", "a.yaml"], r"printed by main.py draws --config FILE"),
    ],
)
def test_bad_input_is_said_in_a_sentence(folder, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=said):
        stats.main(words)


@pytest.mark.parametrize(
    "words",
    [
        *([], ["set", "--part", "4/3"], ["set", "--part", "1/2", "--overwrite"]),
        *(
            ["a", "--finish", "b"],
            ["--finish", "b", "--out", "c"],
            ["--finish", "b", "--workers=99"],
        ),
        *(["set", "--part", "1/2", "--near", "2"], ["set", "--workers=0", "--decode-timeout=9"]),
    ],
)
def test_wrong_options_end_with_the_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        stats.main(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_another_set_needs_another_folder(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, "--out", out)
    (folder / "new.png").write_bytes((folder / "00.png").read_bytes())
    with pytest.raises(ConfigurationError, match=r"14 files .* now 15 files .*--overwrite"):
        stats.main([str(folder), "--out", str(out)])
    run(folder, "--out", out, "--overwrite")
    assert json.loads((out / "stats.json").read_text())["images"] == 15
    (out / "stats.parts" / "mine.txt").write_text("kept")
    with pytest.raises(ConfigurationError, match=r"mine.txt, which Enlarger did not write"):
        stats.main([str(folder), "--out", str(out), "--overwrite"])
    assert (out / "stats.parts" / "mine.txt").exists()


def test_blocks_of_another_set_do_not_count(folder, tmp_path):
    """Two parts of different sets, begun at once: each finds no parts.json, and writes its own."""
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(folder, other)
    first = Parts(out)
    run(other, "--out", out, "--part", "1/2")
    found = inputs.find_inputs([str(folder)])
    first.begin(found, [str(folder)], 2, False)
    measure_part(first, found, (2, 2), 1)
    with pytest.raises(ConfigurationError, match=r"1 of 2 parts is not complete \(1\)"):
        stats.main(["--finish", str(out)])


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: picture(30).save(folder / "02b.png"),
        lambda folder: picture(30, (90, 80)).save(folder / "00.png"),
    ],
)
def test_files_that_change_while_they_are_measured(folder, tmp_path, change):
    """If one comes, each later block would lose its last image to the next one."""
    found, parts = inputs.find_inputs([str(folder)]), Parts(tmp_path / "out")
    parts.begin(found, [str(folder)], 1, False)
    change(folder)
    with pytest.raises(ValueError, match="renamed or replaced while they were measured"):
        measure_part(parts, found, (1, 1), 0)
    assert len(parts.missing()) == 4


@pytest.mark.slow
def test_poisoned_images_are_unreadable(tmp_path):
    words = [str(poisoned(tmp_path / "set")), "--out", str(tmp_path / "out"), "--workers", "2"]
    assert stats.main([*words, "--decode-timeout", "1"]) == 0
    found = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert (found["images"], found["readable"]) == (11, 6)
    reasons = Counter("missing" if why == "unreadable" else why for why in REASONS.values())
    assert found["unreadable"]["by_reason"] == reasons


DUPLICATES_KILLED = """
import os, signal, sys
from commands import stats
from datamodules import buckets
buckets.Buckets.__iter__ = lambda self: self._flush() or os.kill(os.getpid(), signal.SIGKILL)
stats.main(sys.argv[1:])
"""


def test_a_kill_among_duplicates_leaves_nothing(folder, tmp_path):
    words = [str(folder), "--out", str(tmp_path / "out"), "--workers", "0"]
    done = subprocess.run([sys.executable, "-c", DUPLICATES_KILLED, *words], cwd=REPO, check=False)
    assert done.returncode == -signal.SIGKILL
    run(*words[:3], "--overwrite")
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["images"] == 14


@pytest.mark.parametrize(("blocks", "parts"), [(10, 3), (2, 5), (1, 1), (0, 2)])
def test_parts_share_all_blocks(blocks, parts):
    shares = [blocks_of(number, parts, blocks) for number in range(1, parts + 1)]
    assert [block for share in shares for block in share] == list(range(blocks))
