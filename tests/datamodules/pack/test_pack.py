"""The packer: its shards are plain WebDataset tars, complete or absent."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from datamodules.files.decode import read_image
from datamodules.pack import __main__ as pack
from datamodules.shards.shards import Shards
from tests.conftest import REPO
from tests.datamodules.image_files import pixels, save


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(["b.png", "a.JPG", "deep/c.png", "deep/d.webp", "e.png"]):
        save(tmp_path / "images" / name, (16, 12), seed=number)
    return tmp_path / "images"


def source(out):
    found = Shards(str(out / "*.tar"))
    found.prepare(2.0)
    return found


def names(shard):
    with tarfile.open(shard) as tar:
        return tar.getnames()


def test_keeps_bytes_and_order(images, tmp_path):
    assert pack.main([str(images), str(tmp_path / "out"), "--samples-per-shard", "2"]) == 0
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert [s.name for s in shards] == [f"shard-00000{n}.tar" for n in range(3)]
    assert names(shards[0]) == ["a.jpg", "b.png"]
    packed = source(tmp_path / "out")
    assert packed.keys == ["a", "b", "deep/c", "deep/d", "e"]
    assert packed.groups == [2, 2, 1]
    for index, name in enumerate(["a.JPG", "b.png", "deep/c.png", "deep/d.webp", "e.png"]):
        np.testing.assert_array_equal(packed.read(index)["hr"], read_image(images / name).rgb)
    with tarfile.open(shards[0]) as tar:
        assert tar.extractfile("a.jpg").read() == (images / "a.JPG").read_bytes()


def test_index_is_written_and_fresh(images, tmp_path, monkeypatch):
    pack.main([str(images), str(tmp_path / "out")])
    from datamodules.shards import index as shard_index

    monkeypatch.setattr(shard_index, "build_index", None)  # fails if it is made again
    assert len(source(tmp_path / "out").keys) == 5


def test_same_bytes_again(images, tmp_path):
    pack.main([str(images), str(tmp_path / "one")])
    for path in images.rglob("*.*"):
        os.utime(path, (1, 1))
    pack.main([str(images), str(tmp_path / "two")])
    tars = [(tmp_path / run / "shard-000000.tar").read_bytes() for run in ("one", "two")]
    assert tars[0] == tars[1]


def test_size_of_shards(images, tmp_path):
    pack.main([str(images), str(tmp_path / "out"), "--shard-size", "2.5K"])
    groups = source(tmp_path / "out").groups
    assert len(groups) > 2
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as tar:
            members = tar.getmembers()
        assert len(members) == 1 or sum(512 + -(-m.size // 512) * 512 for m in members) <= 2560


@pytest.mark.slow
def test_webdataset_reads_them_securely(images, tmp_path):
    pack.main([str(images), str(tmp_path / "out"), "--samples-per-shard", "2"])
    code = (
        "import sys, webdataset as wds\n"
        "data = wds.WebDataset(sys.argv[1], shardshuffle=False).decode('rgb8')\n"
        "print([(s['__key__'], sorted(k for k in s if k[0] != '_')) for s in data])\n"
    )
    pattern = str(tmp_path / "out" / "shard-{000000..000002}.tar")
    environment = {**os.environ, "WDS_SECURE": "1"}
    output = subprocess.run(
        [sys.executable, "-c", code, pattern],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    expected = [("a", "jpg"), ("b", "png"), ("deep/c", "png"), ("deep/d", "webp"), ("e", "png")]
    assert output.strip() == str([(key, [suffix]) for key, suffix in expected])


@pytest.mark.parametrize("options", [[], ["--crop", "8", "--encode", "webp"]])
def test_stock_readers_read_them(tmp_path, options):
    """``WebDataset(...).decode("pil")`` and ``tarfile`` give images, captions and metadata."""
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", (8, 8), seed=number)
        (tmp_path / "images" / f"{number}.txt").write_text(f"number {number}")
        (tmp_path / "images" / f"{number}.json").write_text(json.dumps({"number": number}))
    arguments = [str(tmp_path / "images"), str(tmp_path / "out"), *options]
    assert pack.main([*arguments, "--samples-per-shard", "2"]) == 0
    shards = str(tmp_path / "out" / "shard-{000000..000001}.tar")
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    suffix = "webp" if options else "png"
    for number, sample in enumerate(samples):
        assert sample["__key__"] == (f"{number}_s001" if options else str(number))
        np.testing.assert_array_equal(np.asarray(sample[suffix]), pixels((8, 8), number))
        assert (sample["txt"], sample["json"]) == (f"number {number}", {"number": number})
    assert len(samples) == 3
    with tarfile.open(tmp_path / "out" / "shard-000001.tar") as tar:
        assert [member.name for member in tar] == [
            f"{sample['__key__']}.{s}" for s in sorted(("json", "txt", suffix))
        ]
        name = f"{sample['__key__']}.{suffix}"
        image = Image.open(tar.extractfile(name))
        np.testing.assert_array_equal(np.asarray(image), pixels((8, 8), 2))


def test_restart_markers_reach_the_reader(tmp_path):
    save(tmp_path / "images" / "a.png", (160, 96))
    arguments = [str(tmp_path / "images"), str(tmp_path / "out")]
    assert pack.main([*arguments, "--encode", "jpeg:95", "--restart-markers"]) == 0
    assert names(tmp_path / "out" / "shard-000000.tar") == ["a.jpg", "a.rst"]
    packed = source(tmp_path / "out")
    assert packed.size(0) == (96, 160)
    crop = packed.read_crop(0, 20, 30, 40, 50)["hr"]
    np.testing.assert_array_equal(crop, packed.read(0)["hr"][20:60, 30:80])


def test_duplicates(images, tmp_path, caplog):
    (images / "z.png").write_bytes((images / "b.png").read_bytes())
    (images / "z.txt").write_text("another caption does not make another image")
    assert pack.main([str(images), str(tmp_path / "out")]) == 0
    assert source(tmp_path / "out").keys == ["a", "b", "deep/c", "deep/d", "e"]
    assert (
        "1 image: the same bytes as an earlier one, and left out, such as z, which is b"
        in caplog.text
    )
    assert pack.main([str(images), str(tmp_path / "all"), "--keep-duplicates"]) == 0
    assert source(tmp_path / "all").keys[-1] == "z"
    for out in ("out", "all"):
        report = json.loads((tmp_path / out / "shard.report.json").read_text())
        path = str(images / "z.png")
        assert report["duplicates"] == [{"key": "z", "path": path, "same_as": "b"}]
        assert report["counts"]["packed"] == (5 if out == "out" else 6)


def test_report(images, tmp_path, caplog):
    for number in range(7):
        (images / f"empty{number}.png").touch()
    (images / "text.jpg").write_text("this is no image")
    assert pack.main([str(images), str(tmp_path / "out"), "--min-side", "5"]) == 1
    assert caplog.text.count("refused (") == 5
    assert "refused by reason: 7 empty, 1 not an image; all are listed in" in caplog.text
    report = json.loads((tmp_path / "out" / "shard.report.json").read_text())
    assert report["counts"]["refused_by_reason"] == {"empty": 7, "not an image": 1}
    assert report["refused"][0] == {
        "key": "empty0",
        "path": str(images / "empty0.png"),
        "reason": "empty",
        "message": f"{images / 'empty0.png'}: the file is empty",
    }
    assert report["options"]["--min-side"] == 5
    assert (report["counts"]["packed"], report["shards"]) == (5, ["shard-000000.tar"])


def test_nothing_but_refused_images(tmp_path, caplog):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    assert pack.main([str(tmp_path / "images"), str(tmp_path / "out")]) == 1
    assert "0 images packed into 0 shards (0.0 MB), 1 refused" in caplog.text
    assert "to train on them" not in caplog.text
    assert not list((tmp_path / "out").glob("*.tar*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lr", "x"], "--lr needs --scale"),
        (["--lr-suffix", "x2"], "--lr, which is not given"),
        (["--lr", "x", "--scale", "2", "--max-long-side", "9"], "would misalign HR and --lr"),
        (["--step", "4"], "--crop, which is not given"),
        (["--thresh", "4"], "--crop, which is not given"),
        (["--lr", "x", "--scale", "4", "--crop", "30"], "give 28 or 32"),
        (["--lr", "x", "--scale", "4", "--crop", "32", "--step", "3"], "--step is 3"),
        (["--lr", "x", "--scale", "1.5", "--crop", "30"], "needs a whole number as --scale"),
        (["--restart-markers", "--encode", "webp"], "--encode is webp"),
        (["--restart-markers", "--crop", "8"], "--encode jpeg:97"),
        (["--captions", "text", "--no-sidecars"], "drop --no-sidecars"),
        (["--min-side", "9", "--max-short-side", "8"], "it applies to the result"),
    ],
)
def test_options_that_contradict_each_other(images, tmp_path, options, words, caplog):
    assert pack.main([str(images), str(tmp_path / "out"), *options]) == 2
    assert words in caplog.text
    assert not (tmp_path / "out").exists()


def test_pairs(tmp_path):
    save(tmp_path / "hr" / "a.png", (8, 6), seed=1)
    save(tmp_path / "lr" / "a.png", (4, 3), seed=2)
    out = tmp_path / "out"
    arguments = [str(tmp_path / "hr"), str(out), "--lr", str(tmp_path / "lr")]
    assert pack.main([*arguments, "--scale", "2"]) == 0
    assert names(out / "shard-000000.tar") == ["a.hr.png", "a.lr.png"]
    sample = source(out).read(0)
    np.testing.assert_array_equal(sample["hr"], pixels((8, 6), 1))
    np.testing.assert_array_equal(sample["lr"], pixels((4, 3), 2))


def test_pairs_that_do_not_fit(tmp_path, caplog):
    save(tmp_path / "hr" / "a.png", (8, 6))
    save(tmp_path / "lr" / "a.png", (4, 3))
    arguments = [str(tmp_path / "hr"), str(tmp_path / "out"), "--lr", str(tmp_path / "lr")]
    assert pack.main([*arguments, "--scale", "3"]) == 2
    assert "do not fit scale 3" in caplog.text
    assert pack.main(arguments) == 2
    assert "--lr needs --scale" in caplog.text
    assert not (tmp_path / "out").exists()


def test_broken_files_are_refused_and_listed(images, tmp_path, caplog):
    (images / "text.jpg").write_text("this is no image")
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[: len(whole) // 2])
    assert pack.main([str(images), str(tmp_path / "out")]) == 1
    assert source(tmp_path / "out").keys == ["a", "deep/c", "deep/d", "e"]
    assert "text.jpg: not an image" in caplog.text
    assert "b.png: " in caplog.text
    assert "4 images packed into 1 shard (0.0 MB), 2 refused" in caplog.text


def test_all_kinds_of_images_are_packed(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    image = Image.fromarray(pixels((16, 12)))
    image.convert("L").save(root / "grey.png")
    image.quantize(8).save(root / "palette.png")
    image.convert("CMYK").save(root / "cmyk.jpg")
    image.crop((0, 0, 1, 1)).save(root / "one.png")
    assert pack.main([str(root), str(tmp_path / "out")]) == 0
    packed = source(tmp_path / "out")
    shapes = {key: packed.read(index)["hr"].shape for index, key in enumerate(packed.keys)}
    assert shapes == {**dict.fromkeys(["cmyk", "grey", "palette"], (12, 16, 3)), "one": (1, 1, 3)}


def test_no_shard_is_ever_half_written(images, tmp_path, monkeypatch):
    """A kill leaves complete shards, and a part that no reader takes for a shard."""

    class Killed(BaseException):
        pass

    written = 0
    addfile = tarfile.TarFile.addfile

    def die(self, *arguments):
        nonlocal written
        written += 1
        if written == 4:
            raise Killed
        addfile(self, *arguments)

    arguments = [str(images), str(tmp_path / "out"), "--samples-per-shard", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", die)
        with pytest.raises(Killed):
            pack.main(arguments)
    assert [p.name for p in (tmp_path / "out").glob("*.tar")] == ["shard-000000.tar"]
    assert source(tmp_path / "out").groups == [2]
    assert pack.main([*arguments, "--overwrite"]) == 0
    assert source(tmp_path / "out").groups == [2, 2, 1]
    assert not list((tmp_path / "out").glob("*.part"))


def test_earlier_shards_are_not_mixed_in(images, tmp_path, caplog):
    out = tmp_path / "out"
    pack.main([str(images), str(out), "--samples-per-shard", "1"])
    other = save(out / "mine.png")
    assert pack.main([str(images), str(out)]) == 2
    assert "already has shards named shard-*.tar" in caplog.text
    assert pack.main([str(images), str(out), "--overwrite"]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "mine.png",
        "shard-000000.tar",
        "shard-000000.tar.idx.json",
        "shard.index.jsonl",
        "shard.journal.jsonl",
        "shard.report.json",
    ]
    assert other.exists()


@pytest.mark.parametrize(
    "name", ["shard-000000.tar", "shard-000007.tar.idx.json", "shard-000000.tar.part"]
)
def test_shards_of_others_are_never_removed(images, tmp_path, caplog, name):
    """Not even by --overwrite: no journal lists them."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    assert pack.main([str(images), str(out), "--overwrite"]) == 2
    assert f"{name} would be removed or replaced, and shard.journal.jsonl does not" in caplog.text
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(name, b"mine")]


def test_a_shard_of_another_among_ours(images, tmp_path, caplog):
    out = tmp_path / "out"
    assert pack.main([str(images), str(out)]) == 0
    (out / "shard-000005.tar").write_bytes(b"mine")
    before = sorted(path.name for path in out.iterdir())
    assert pack.main([str(images), str(out), "--overwrite"]) == 2
    assert sorted(path.name for path in out.iterdir()) == before
    (out / "shard-000005.tar").rename(out / "mine.tar")
    assert pack.main([str(images), str(out), "--overwrite"]) == 0


@pytest.mark.parametrize("name", ["shard.journal.jsonl", "shard.report.json"])
def test_other_files_of_others_stay(images, tmp_path, caplog, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"mine": 1}\n')
    for more in ([], ["--overwrite"]):
        assert pack.main([str(images), str(out), *more]) == 2
        assert "move it away" in caplog.text
        assert [path.read_text() for path in out.iterdir()] == ['{"mine": 1}\n']


def test_dots_in_names(tmp_path, caplog):
    save(tmp_path / "v1.0" / "2020.01.png")
    assert pack.main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert source(tmp_path / "out").keys == ["v1.0/2020_01"]
    assert "1 keys had dots" in caplog.text
    save(tmp_path / "v1.0" / "2020_01.png")
    assert pack.main([str(tmp_path), str(tmp_path / "other")]) == 2
    assert "two images would have the key 'v1.0/2020_01'" in caplog.text


def test_nothing_to_pack(tmp_path, caplog):
    assert pack.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "has no images" in caplog.text
    assert pack.main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "is not a folder" in caplog.text
    save(tmp_path / "a.png")
    save(tmp_path / "a.jpg")
    assert pack.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "would both have the key 'a'" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        ["--shard-size", "much"],
        ["--samples-per-shard", "0"],
        ["--encode", "jpeg"],
        ["--scale", "0.5"],
        ["--max-pixels", "lots"],
        ["--name", "a/b"],
        ["--thresh", "-1"],
    ],
)
def test_bad_numbers(images, tmp_path, options, capsys):
    with pytest.raises(SystemExit) as exit_:
        pack.main([str(images), str(tmp_path / "out"), *options])
    assert exit_.value.code == 2
    assert options[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["c.jpg", "d.jpg"], "quote a pattern"),
        (["--crops", "3"], "--crops 3; did you mean --crop?"),
    ],
)
def test_too_many_arguments(images, tmp_path, more, words, capsys):
    with pytest.raises(SystemExit):
        pack.main([str(images), str(tmp_path / "out"), *more])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("300", 300), ("2K", 2048), ("1.5MB", 1572864), ("1GiB", 2**30)]
)
def test_sizes(text, size):
    assert pack.parse_size(text) == size


@pytest.mark.slow
def test_command(images, tmp_path, capsys):
    command = [sys.executable, "-m", "datamodules.pack", str(images), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert "5 images packed into 1 shard (0.0 MB), 0 refused" in run.stderr
    with pytest.raises(SystemExit, match="0"):
        pack.main(["--help"])
    text = capsys.readouterr().out
    for word in ("SOURCE", "OUT", "--lr", "--shard-size", "--overwrite", "exit status"):
        assert word in text


def test_starts_without_torch():
    code = "import sys; import datamodules.pack; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
