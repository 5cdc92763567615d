"""Shards, their index and their writer: webdataset's tars are read, broken ones are named."""

import gzip
import json
import os
import pickle
import shutil
import tarfile
from dataclasses import replace

import psutil
import pytest
import xxhash
from numpy.testing import assert_array_equal
from PIL import Image

from datamodules.shards import index as shard_index
from datamodules.shards import reader as shard_reader
from datamodules.shards.index import build_index, checksum_of, load_index
from datamodules.shards.shards import Shards
from datamodules.shards.writer import write_shard
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import encoded, image_bytes, indexed, pixels, write_tar


@pytest.fixture
def folder(tmp_path):
    """One tar of the images k0, k1 and k2, and one of k3 and k4."""
    for name, numbers in (("t-000.tar", (0, 1, 2)), ("t-001.tar", (3, 4))):
        write_tar(tmp_path / name, {f"k{n}.png": image_bytes(n) for n in numbers})
    return tmp_path


@pytest.fixture
def tar(folder):
    return folder / "t-000.tar"


def prepared(urls, **options):
    source = Shards(urls if isinstance(urls, list) else str(urls), **options)
    source.prepare(scale=2.0)
    return source


# ---------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("urls", ["{}/t-*.tar", "file://{}/t-{{000,001}}.tar", "file:{}/t-*.tar"])
def test_samples_are_read_by_their_offsets(folder, urls):
    source = prepared(urls.format(folder))

    assert source.keys == ["k0", "k1", "k2", "k3", "k4"]
    assert source.groups == [3, 2]
    for index in (4, 0, 3, 1, 2):
        assert_array_equal(source.read(index)["hr"], pixels(seed=index))


def tars_open():
    return sum(file.path.endswith(".tar") for file in psutil.Process().open_files())


def test_open_tars_are_limited_and_closed_with_their_source(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_reader, "OPEN_FILES", 5)
    for number in range(7):
        write_tar(tmp_path / f"{number}.tar", {f"k{number}.png": image_bytes(seed=0)})
    source = prepared(tmp_path / "*.tar")

    for index in (0, 1, 2, 3, 4, 0, 5):
        source.read(index)

    assert tars_open() == 5
    del source
    assert tars_open() == 0


def test_sizes_are_those_of_the_images(folder):
    """(H, W), upright; None where it is unknown."""
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: a quarter turn to the right, so 8x6 becomes 6x8
    jpeg = encoded(pixels((8, 6)), "JPEG", exif=turned)
    members = {"a.png": image_bytes(seed=0), "b.jpg": jpeg, "c.png": b"broken"}

    source = prepared(indexed(write_tar(folder / "s.tar", members)))
    foreign = prepared(folder / "t-000.tar")

    assert source.size(0) == (6, 8)
    assert source.size(1) == (8, 6)
    assert source.read(1)["hr"].shape[:2] == (8, 6)
    assert source.size(2) is None
    assert foreign.size(0) is None  # no index of the packer's lies beside it


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("progressive", [False, True])
def test_crops_of_a_jpeg_have_the_pixels_of_the_whole_image(tmp_path, subsampling, progressive):
    """Decoding ends at the crop's lower edge if the bytes are known to be intact."""
    options = {"subsampling": subsampling, "progressive": progressive}
    jpeg = encoded(pixels((90, 77)), "JPEG", **options)
    source = prepared(indexed(write_tar(tmp_path / "w.tar", {"a.jpg": jpeg, "a.txt": b"a cat"})))
    whole = source.read(0)["hr"]

    for top in range(0, 68, 5):  # 77 rows, 9 in a crop
        part = source.read_crop(0, top=top, left=11, height=9, width=60)
        assert_array_equal(part["hr"], whole[top : top + 9, 11:71])
        assert part["text"] == "a cat"


def captioned(sample):
    """A user's stage: the caption is in another member, and one sample is left out."""
    caption = sample["cls"].decode()
    return None if caption == "one" else {**sample, "txt": caption}


def test_a_users_stage_changes_samples_and_leaves_some_out(tmp_path):
    members = {"0.png": image_bytes(0), "0.cls": b"zero", "1.png": image_bytes(1), "1.cls": b"one"}
    source = prepared(write_tar(tmp_path / "t.tar", members), stages=[captioned])

    sample = source.read(0)
    crop = source.read_crop(0, top=1, left=2, height=3, width=4)
    of_a_worker = pickle.loads(pickle.dumps(source)).read(0)

    assert sample["text"] == "zero"
    assert of_a_worker["text"] == "zero"
    assert_array_equal(sample["hr"], pixels(seed=0))
    assert_array_equal(crop["hr"], sample["hr"][1:4, 2:6])
    assert source.size(0) is None  # a stage may change the image
    with pytest.raises(UnreadableImage, match="1: left out by"):
        source.read(1)


# ------------------------------------------------------------------------------------ broken tars


@pytest.mark.parametrize(
    "end",
    [-512, -100, 0, 100, 512],
    ids=["before a header", "in it", "behind it", "in an image", "without the end of a tar"],
)
def test_a_truncated_tar_is_refused(tar, end):
    """It ends so many bytes behind the last image's header, which has 512."""
    image = build_index(tar).members[2]["png"]
    os.truncate(tar, image.offset + end)
    with pytest.raises(ValueError, match=r"shard .*t-000\.tar cannot be read"):
        prepared(tar)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data.replace(b"k1.png", b"k2.png"), id="a header's checksum"),
        pytest.param(lambda data: data + bytes(1 << 20) + data, id="two tars, joined by cat"),
        pytest.param(gzip.compress, id="compressed"),
        pytest.param(lambda data: b"no tar at all\n" * 100, id="text"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_a_file_that_is_not_one_intact_uncompressed_tar_is_refused(tar, change):
    """Else its samples, or those of the second tar, would be missing without a word."""
    tar.write_bytes(change(tar.read_bytes()))
    with pytest.raises(ValueError, match=r"shard .*t-000\.tar cannot be read by offset"):
        prepared(tar)


def test_keys_of_two_shards_differ_or_have_the_shard_in_them(folder, tar):
    shutil.copy(tar, folder / "u.tar")
    urls = [str(tar), str(folder / "u.tar")]

    with pytest.raises(ValueError, match=r"the key 'k0' .*t-000.*u\.tar.*shard_in_key"):
        prepared(urls)
    source = prepared(urls, shard_in_key=True)

    assert source.keys == ["t-000/k0", "t-000/k1", "t-000/k2", "u/k0", "u/k1", "u/k2"]


def test_a_shard_that_changes_while_in_use_is_an_error(tar):
    source = prepared(tar)
    os.utime(tar, ns=(1, 1))
    with pytest.raises(ValueError, match=r"t-000\.tar was replaced while it was in use"):
        source.read(2)


def change_a_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_changed_bytes_are_not_taken_for_an_image(tmp_path):
    """Even if they would decode: a bitmap has no checksums."""
    members = {"a.bmp": image_bytes(seed=0, kind="BMP"), "b.png": image_bytes(seed=1)}
    path = indexed(write_tar(tmp_path / "b.tar", members))
    source = prepared(path)
    time = path.stat().st_mtime_ns
    change_a_byte(path, load_index(path, tmp_path).members[0]["bmp"].offset + 100)  # in a pixel
    os.utime(path, ns=(time, time))  # else the tar would count as replaced

    with pytest.raises(UnreadableImage, match=r"b\.tar: a: .*by their checksum") as caught:
        source.read(0)

    assert caught.value.reason == "checksum"
    assert_array_equal(source.read(1)["hr"], pixels(seed=1))


# ------------------------------------------------------------------------------------------ index


def test_an_index_has_checksums_places_and_sizes(tmp_path):
    tar = write_tar(tmp_path / "t.tar", {"k.png": image_bytes(seed=0), "k.txt": b"a cat"})
    index = build_index(tar, examine=True)
    image = index.members[0]["png"]
    text = index.members[0]["txt"]
    data = tar.read_bytes()

    assert index.checksum == xxhash.xxh3_128_hexdigest(data)
    assert checksum_of(tar) == index.checksum
    assert data[image.offset : image.offset + image.size] == image_bytes(seed=0)
    assert data[text.offset : text.offset + text.size] == b"a cat"
    assert text.checksum == xxhash.xxh3_64_intdigest(b"a cat")
    assert (image.height, image.width) == (6, 8)
    assert (text.height, text.width) == (0, 0)  # no image


def test_the_index_of_a_tar_that_changed_is_made_again(tar):
    prepared(tar)
    assert tar.with_name("t-000.tar.idx.json").exists()
    time = tar.stat().st_mtime_ns
    write_tar(tar, {f"n{number}.png": image_bytes(number) for number in range(20)})
    os.utime(tar, ns=(time, time))  # another size at the same time
    assert prepared(tar).keys[0] == "n0"


def test_the_index_of_another_tar_of_the_same_size_is_made_again(tar, tmp_path, caplog):
    indexed(tar)
    write_tar(tar, {f"j{number}.png": image_bytes(number) for number in range(3)})
    os.utime(tar, ns=(5, 5))  # a time that the index does not have
    assert load_index(tar, tmp_path / "cache").keys == ["j0", "j1", "j2"]
    assert "is that of another tar, and is made again" in caplog.text


def test_an_index_is_kept_for_its_checksums_after_its_tar_was_copied_and_damaged(tar, tmp_path):
    """A new index would not have the checksums by which the damage is seen."""
    indexed(tar)
    original = load_index(tar, tmp_path / "cache")
    change_a_byte(tar, original.members[0]["png"].offset + 40)
    os.utime(tar, ns=(5, 5))  # that of the copy
    assert load_index(tar, tmp_path / "cache") == replace(original, mtime_ns=5)


def test_the_index_of_a_folder_that_cannot_be_written_is_in_the_cache(
    folder, tar, monkeypatch, tmp_path_factory
):
    cache = tmp_path_factory.mktemp("cache")
    folder.chmod(0o555)
    index = load_index(tar, cache)
    folder.chmod(0o755)
    assert not tar.with_name("t-000.tar.idx.json").exists()
    assert any(cache.iterdir())

    monkeypatch.setattr(shard_index, "build_index", None)  # fails if it is made again
    assert load_index(tar, cache) == index


def test_an_index_that_cannot_be_read_is_made_again(tar, tmp_path):
    tar.with_name("t-000.tar.idx.json").mkdir()  # reading a folder fails for every user, root too
    assert load_index(tar, tmp_path / "cache").keys == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param({"png": ["a", 10]}, id="no offset"),
        pytest.param({"png": [float("nan"), 10]}, id="an offset of NaN"),
        pytest.param({"png": [512, 10, None, 1, 1, 1]}, id="one number too many"),
        pytest.param({"png": [512, 10, "xyz"]}, id="no checksum"),
        pytest.param(7, id="no members"),
    ],
)
def test_an_index_of_impossible_values_is_made_again(tar, tmp_path, lie, caplog):
    """A sample is its key and members; a member has offset, size, checksum, height and width."""
    indexed(tar)
    place = tar.with_name("t-000.tar.idx.json")
    content = json.loads(place.read_text())
    content["samples"][1][1] = lie  # instead of the members of the second sample
    place.write_text(json.dumps(content))

    assert load_index(tar, tmp_path).members == build_index(tar).members
    assert "is damaged" in caplog.text


# ------------------------------------------------------------------------------ tars that do harm


def header(name, size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size = size
    info.type = kind
    return info.tobuf(tarfile.GNU_FORMAT)


def attributes(*records):
    """Extended attributes: lines that begin with their own length, here of two digits."""
    text = b"".join(b"%d %s\n" % (len(record) + 4, record) for record in records)
    return header("pax", len(text), tarfile.XHDTYPE) + text.ljust(512, b"\0")


SPARSE = attributes(b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=k.png")
# Headers that lead into endless loops, backwards, or to more bytes than there is memory.
HARM = {
    # 8**11 - 1 is the largest number of the 11 octal digits of a size.
    "a name of 8 GB": header("././@LongLink", 8**11 - 1, tarfile.GNUTYPE_LONGNAME),
    "a member of 2**62 bytes": header("k.png", 2**62),
    "a negative size": header("k.png", -1024),
    "a size in the attributes": attributes(b"size=-5000") + header("k.png"),
    "a map of 99999999 holes": SPARSE + header("k.png", 512) + b"99999999\n".ljust(512, b"1"),
    "5000 nested names": header("././@LongLink", 5, tarfile.GNUTYPE_LONGNAME) * 5000,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_tar_whose_headers_would_fill_the_memory_or_never_end_is_refused(tmp_path, harm):
    """Tars come from the internet, and tarfile believes their headers."""
    path = tmp_path / "h.tar"
    path.write_bytes(harm + bytes(1024))
    with pytest.raises(ValueError, match=r"^shard .*h\.tar "):
        build_index(path, examine=True)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path, kind):
    link = tarfile.TarInfo("k9.png")
    link.type = kind
    link.linkname = "k0.png"
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"'k9\.png' .*is a link to 'k0\.png'.*--dereference"):
        build_index(tmp_path / "l.tar")


# ----------------------------------------------------------------------------------------- writer


def test_the_same_samples_give_the_same_bytes(tmp_path, monkeypatch):
    """At any time, and in any order of the members. So parts can be packed again and compared."""
    long_key = "ä" * 120  # more than the 100 bytes of a header's name
    # webdataset would leave out "_x".
    samples = {"a/1": {"txt": b"1", "hr.png": b"x" * 700, "_x": b"2"}, long_key: {"json": b"{}"}}
    turned = {key: dict(reversed(members.items())) for key, members in samples.items()}
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_shard(tmp_path / "one.tar", samples.items())
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_shard(tmp_path / "two.tar", turned.items())

    written = (tmp_path / "one.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        names = tar.getnames()

    assert written == (tmp_path / "two.tar").read_bytes()
    # Recorded from the program: later versions are to write the same.
    assert xxhash.xxh3_64_hexdigest(written) == "35d016bb724caf01"
    assert names == ["a/1._x", "a/1.hr.png", "a/1.txt", f"{long_key}.json"]


def test_nothing_has_a_shards_name_before_it_is_whole(tmp_path):
    """Its index does, so that a kill between the two leaves no shard without checksums."""

    def stop(index):  # called before the tar gets its name
        raise OSError("stopped")

    with pytest.raises(OSError, match="stopped"):
        write_shard(tmp_path / "s-000000.tar", [("a", {"txt": b"1"})], stop)
    assert [file.name for file in tmp_path.iterdir()] == ["s-000000.tar.idx.json"]


def test_an_input_of_the_writer_that_fails_leaves_no_file(tmp_path):
    def samples():
        yield "a", {"txt": b"1" * 10**6}
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_shard(tmp_path / "s-000000.tar", samples())
    assert list(tmp_path.iterdir()) == []
