"""One rule for folders, tars and the packer: which file is HR, LR or a caption, and its text."""

import pytest

from datamodules.files.captions import parse_caption
from datamodules.files.pairs import refuse_mixed
from datamodules.files.roles import roles_of
from datamodules.pack.command import main as pack
from datamodules.pack.images import Recipe, process
from datamodules.pack.inputs import find_inputs
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream, decode_sample, raw_of, whole_samples
from datamodules.sources.folder import Folder
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import image_bytes, write_tar

IMAGE = image_bytes(seed=0, size=(8, 8))
HALF = image_bytes(seed=1, size=(4, 4))


def write_folder(folder, members):
    for name, data in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def shards_of(path):
    source = Shards(str(path))
    source.prepare(scale=2.0)
    return source


def streamed(path):
    """One pass of `Stream` over a tar of two samples."""
    source = Stream(samples=1, urls=str(path), shuffle=0)
    source.prepare(scale=2.0)
    plan = source.plan(seed=0, batch_size=1, streams=1, repeats=1)
    raws = source.raws(plan, epoch=0, start=0, notes=[])
    return [next(raws), next(raws)]


# ------------------------------------------------------------------------------------------ roles


@pytest.mark.parametrize(
    ("suffixes", "roles", "unused"),
    [
        pytest.param("png txt json", "hr txt json", "", id="an image alone is HR"),
        pytest.param("hr.png lr.webp caption", "hr lr txt", "", id="a pair and its caption"),
        pytest.param("jpg jpg.txt jpg.json", "hr txt json", "", id="texts named as the image"),
        pytest.param("hr.jpg hr.jpg.txt rst", "hr txt", "", id="hr in the text's name; no role"),
        pytest.param("JPG JPG.TXT", "hr txt", "", id="upper case"),
        pytest.param("hr.png lq.png", "hr", "lq.png", id="lq is not LR"),
        pytest.param("png mask.png depth.x.tif", "hr", "mask.png depth.x.tif", id="other images"),
        pytest.param("latent.npy lr.png lr_latent.npy", "latent lr lr_latent", "", id="latents"),
        pytest.param("txt cls hr.txt", "txt", "", id="hr.txt is no second caption"),
    ],
)
def test_roles_of_a_samples_members_follow_from_their_suffixes(suffixes, roles, unused):
    """Images without a role are reported, and other members are ignored."""
    found = roles_of(tuple(suffixes.split()))
    assert list(found.members) == roles.split()
    assert found.unused == tuple(unused.split())


@pytest.mark.parametrize(
    "suffixes",
    [
        pytest.param("png hr.png", id="two HR"),
        pytest.param("hr.png lr.png lr.webp", id="two LR"),
        pytest.param("png txt caption", id="two captions"),
        pytest.param("lr.png", id="LR alone"),
    ],
)
def test_unclear_roles_are_refused_by_all_readers(tmp_path, suffixes):
    unclear = {f"a.{suffix}": IMAGE for suffix in suffixes.split()}
    path = write_tar(tmp_path / "set.tar", {**unclear, "b.hr.png": IMAGE, "b.lr.png": HALF})
    with pytest.raises(ValueError, match="'a'"):
        shards_of(path)
    with pytest.raises(ValueError, match="'a'"):
        streamed(path)
    [refused] = find_inputs(str(path)).refused
    assert refused.key == "a"


def test_an_image_without_a_role_is_counted_by_all_readers(tmp_path, caplog):
    caplog.set_level("INFO")
    members = {"0.hr.png": IMAGE, "0.lq.png": HALF, "1.hr.png": IMAGE, "1.lq.png": HALF}
    path = write_tar(tmp_path / "set.tar", members)

    shards_of(path)
    streamed(path)
    pack([str(path), str(tmp_path / "out"), "--workers", "0"])

    assert "left out 2 images without a role: ['0.lq.png'" in caplog.text  # Shards
    assert "left out images without a role, such as 0.lq.png" in caplog.text  # Stream
    assert "members lq.png: images without a role, kept: 2" in caplog.text  # the packer


def test_hr_and_lr_as_images_of_their_own_are_refused(tmp_path):
    members = {"hr/0.png": IMAGE, "hr/1.png": IMAGE, "lr/0.png": HALF, "lr/1.png": HALF}
    with pytest.raises(ValueError, match="LR images would count as HR"):
        shards_of(write_tar(tmp_path / "set.tar", members))
    # To `predict`, all are images to enlarge.
    Folder.of(str(write_folder(tmp_path / "set", members))).prepare(scale=2.0)


def check_sides(sides, scale):
    """Check folders of square images, whose side is given; each has those named 0000 to 0003."""
    keys = [f"{folder}/{number:04}" for folder in sides for number in range(4)]

    def size_of(index):
        side = sides[keys[index].partition("/")[0]]
        return side, side

    refuse_mixed("a set", keys, size_of, scale)


@pytest.mark.parametrize(
    "sides",
    [
        pytest.param({"hr": 8, "lr": 8}, id="equal sizes"),
        pytest.param({"hr": 8, "lr": 5}, id="another factor"),
        pytest.param({"clip": 8, "other": 8, "small": 4}, id="two folders of the larger size"),
    ],
)
def test_images_of_equal_names_whose_sizes_fit_no_pair_are_allowed(sides):
    """They are photographs or frames of equal names."""
    check_sides(sides, scale=2)


def test_lr_of_several_scales_beside_hr_are_refused():
    sides = {"GTmod12": 24, "LRbicx2": 12, "LRbicx3": 8, "LRbicx4": 6}
    with pytest.raises(ValueError, match=r"such as 'GTmod12/\w+' and 'LRbicx3/"):
        check_sides(sides, scale=3)


def test_the_packer_leaves_images_without_lr_out_which_shards_refuse(tmp_path):
    members = {"a.hr.png": IMAGE, "a.lr.png": HALF, "b.hr.png": IMAGE, "c.png": IMAGE}
    path = write_tar(tmp_path / "set.tar", members)
    with pytest.raises(ValueError, match=r"no lr\.<ext>"):
        shards_of(path)
    status = pack([str(path), str(tmp_path / "out"), "--workers", "0"])
    assert status == 1  # as of any that are left out
    assert shards_of(tmp_path / "out" / "*.tar").keys == ["a"]


# --------------------------------------------------------------------------------------- captions


@pytest.mark.parametrize("suffix", ["TXT", "caption", "png.txt"])
def test_captions_are_the_same_in_all_readers(tmp_path, suffix):
    """An image without one among others has an empty one."""
    members = {"a.png": IMAGE, f"a.{suffix}": b"a cat", "b.png": IMAGE}
    tar = write_tar(tmp_path / "set.tar", members)
    folder = write_folder(tmp_path / "set", members)
    pack([str(folder), str(tmp_path / "out"), "--workers", "0"])

    for source in (shards_of(tmp_path / "out" / "*.tar"), shards_of(tar)):
        assert source.read(0)["text"] == "a cat"
        assert source.read(1)["text"] == ""
    assert [raw.fields["txt"] for raw in streamed(tar)] == [b"a cat", b""]


TEXT = "ein Häuschen\nam See"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(TEXT.encode(), TEXT, id="UTF-8"),
        pytest.param(TEXT.encode("utf-8-sig"), TEXT, id="UTF-8 with a mark"),
        pytest.param(TEXT.encode("utf-16"), TEXT, id="UTF-16"),
        pytest.param(b"\xfe\xff" + TEXT.encode("utf-16-be"), TEXT, id="big-endian"),
        pytest.param(TEXT.replace("\n", "\r\n").encode() + b"\r\n", TEXT, id="Windows"),
        pytest.param(b"  " + TEXT.replace("\n", "\r").encode() + b"\r", TEXT, id="old Macs"),
        pytest.param(b" \n", "", id="empty"),
        pytest.param(b"\xef\xbb\xbf", "", id="the mark of UTF-8 alone"),
        pytest.param(b"\xff\xfe", "", id="that of UTF-16"),
    ],
)
def test_captions_are_read_as_utf_8_or_by_their_byte_order_mark(data, text):
    """Their line breaks become those of Unix, and white space at the ends is dropped."""
    assert parse_caption(data) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TEXT.encode("latin-1"), "'utf-8' codec can't decode"),
        ("ab".encode("utf-16-le"), "zero bytes, as UTF-16 without a byte"),
        (b"\xff\xfea", "'utf-16-le' codec can't decode"),
    ],
    ids=["Latin-1", "UTF-16 without a mark", "half a character"],
)
def test_a_caption_that_cannot_be_read_names_its_image(tmp_path, data, message):
    members = {"a.png": IMAGE, "a.txt": data}
    tar = write_tar(tmp_path / "a.tar", members)
    (sample,) = whole_samples([{"url": str(tar)}], notes=[])
    [entry] = find_inputs(str(write_folder(tmp_path / "set", members))).entries

    with pytest.raises(UnreadableImage, match=f"a.tar: a: .*{message}"):
        shards_of(tar).read(0)
    with pytest.raises(UnreadableImage, match=f"a.tar: a: .*{message}"):
        decode_sample(raw_of(sample), srgb=False)
    assert process(Recipe(), entry).refused.reason == "damaged"
