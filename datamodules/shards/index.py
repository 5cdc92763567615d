"""The index of a tar, and tar headers.

The file ``<shard>.idx.json`` holds ``version``, ``size`` and ``mtime_ns`` of the tar, ``checksum``
(xxh3_128 of all its bytes, or null), ``count`` (of samples) and ``samples``: for each its key, and
for each member ``suffix: [offset, size, checksum, height, width]``. The checksum is xxh3_64 of the
member's bytes, hexadecimal; height and width are those of an image. The last two, or the last
three, may be left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import tarfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import xxhash

from files.images.decode import UnreadableImage, read_size
from files.owned import write_whole
from files.paths import IMAGE_EXTENSIONS

log = logging.getLogger(__name__)
VERSION = 2  # of the index file; an index of another version is rebuilt
BLOCK = 512  # of a tar
CHUNK = 1 << 20
LONGEST_HEADER = 1 << 20  # bytes of a name or of extended attributes; more is damage, or an attack
METADATA = re.compile(r"__[^/]*__($|/)")  # names that webdataset skips

# What damaged bytes make tarfile, or the parser of an index, raise: also errors of indices, numbers
# and recursion.
DAMAGE = (
    tarfile.TarError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
)


class Member(NamedTuple):
    """The place of one member in a tar.

    Args:
        offset: Its first byte in the tar.
        size: Number of bytes.
        checksum: xxh3_64 of the bytes, 0 if unknown.
        height: Rows of an upright image, 0 if unknown.
        width: Columns of an upright image, 0 if unknown.
    """

    offset: int
    size: int
    checksum: int = 0
    height: int = 0
    width: int = 0


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one tar.

    Args:
        size: Bytes of the tar.
        mtime_ns: Its modification time.
        keys: Names of the samples, in the tar's order.
        members: For each sample, its members by suffix: ``{"jpg": ...}``.
        checksum: xxh3_128 of the whole tar in hexadecimal, if it was computed.
    """

    size: int
    mtime_ns: int
    keys: list[str]
    members: list[dict[str, Member]]
    checksum: str | None = None


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and suffix at the file name's first dot.

    This is webdataset's rule (``webdataset.tariterators.base_plus_ext``), except that two spellings
    of one path (``a/x``, ``./a//x``) are one key, and hidden files in folders are not samples.
    webdataset makes samples of these, named like the folder.

    Args:
        name: Name of the member, e.g. ``a/b.hr.PNG``, which gives ``("a/b", "hr.png")``.

    Returns:
        None for members that belong to no sample: hidden files, names without a suffix, metadata,
        and suffixes such as ``__key__``, which webdataset keeps for itself.
    """
    if METADATA.match(name):
        return None
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    if not stem or not suffix or suffix.startswith("__"):
        return None
    return PurePosixPath(folder + slash, stem).as_posix(), suffix.lower()


# ---------------------------------------------------------------------------------------- headers
class _HeaderFile:
    """The file methods that ``tarfile`` needs; numbers of a damaged header do no harm."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size
        self.tell = file.tell

    def seek(self, position: int) -> int:
        """Go to a position, at most to the file's end."""
        return self.file.seek(max(0, min(position, self.size)))

    def read(self, count: int) -> bytes:
        """Return the next bytes; raise if a header asks for more than any header has."""
        if not 0 <= count <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header says that it is {count} bytes long")
        return self.file.read(count)


def tar_headers(shard: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of all members in order; if the iteration ends, the tar is whole.

    Raises:
        ValueError: If the tar is empty, truncated, damaged or compressed.
    """
    try:
        with shard.open("rb") as file:
            end = yield from _read_headers(_HeaderFile(file, shard.stat().st_size))
            file.seek(end)
            _check_end(file)
    except DAMAGE as error:
        raise ValueError(
            f"shard {shard} cannot be read by offset ({error}): it is truncated, damaged or "
            "compressed; get it again, uncompress it, or pack it again"
        ) from error


def _read_headers(file: _HeaderFile) -> Generator[tarfile.TarInfo, None, int]:
    """Yield the headers; the generator returns the byte where the last member ends.

    Raises:
        tarfile.ReadError: If sizes of a damaged header would lead backwards.
    """
    end = 0
    with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members.clear()  # tarfile would keep all of them
            if member.size < 0 or tar.offset <= end or member.offset_data < end:
                raise tarfile.ReadError(f"the size of {member.name!r} is {member.size}")
            end = tar.offset
            yield member
        return int(tar.offset)


def _check_end(file: IO[bytes]) -> None:
    """Raise if anything but zeros follows the last member: tarfile takes damage for the end."""
    position = file.tell()
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError(f"no header and no end at byte {position}")
    if any(part.strip(b"\0") for part in iter(partial(file.read, CHUNK), b"")):
        raise tarfile.ReadError(
            f"it goes on after its end at byte {position}, as tars joined by cat do: unpack it "
            "with tar --ignore-zeros"
        )


# ------------------------------------------------------------------------------------ find and keep
def load_index(shard: Path, cache: Path) -> ShardIndex:
    """Return the index of a tar: from beside it, from the cache, or a new one, which is kept.

    If the modification time differs, as after a copy to another machine, the index is used if all
    members are where it says; their checksums tell if one has other bytes. It is kept with the new
    time.

    Args:
        shard: The tar.
        cache: Folder for the index if the tar's folder cannot be written.

    Raises:
        ValueError: If the tar is broken.
    """
    places = index_places(shard, cache)
    state = shard.stat()
    stale = None
    for place in places:
        index = read_index(place)
        if index is None or index.size != state.st_size:
            continue
        if index.mtime_ns == state.st_mtime_ns:
            return index
        stale = stale or index
    log.info("reading the headers of %s, once", shard)
    index = build_index(shard)
    if stale is not None and stale.checksum is not None:
        if _offsets_and_sizes(index) == _offsets_and_sizes(stale):
            # The stale one has checksums, by which a read finds other bytes; a new one has none.
            index = replace(stale, mtime_ns=state.st_mtime_ns)
        else:
            log.warning("the index beside %s is that of another tar, and is made again", shard)
    # Root could write to a folder without write permission, and must not.
    is_writable = shard.parent.stat().st_mode & 0o222
    store_index(index, places if is_writable else places[1:])
    return index


def _offsets_and_sizes(index: ShardIndex) -> list[Any]:
    """Return the keys of an index, and the offset and size of each member by suffix."""
    return [
        (key, {suffix: member[:2] for suffix, member in members.items()})
        for key, members in zip(index.keys, index.members, strict=True)
    ]


def store_index(index: ShardIndex, places: Sequence[Path]) -> None:
    """Save an index at the first place that can be written; without one, log that.

    Args:
        index: The index.
        places: Paths of index files, best first.
    """
    problems = []
    for place in places:
        try:
            save_index(index, place)
            return
        except OSError as error:
            problems.append(str(error))
    log.warning("an index cannot be kept, and is made at every start: %s", "; ".join(problems))


def index_places(shard: Path, cache: Path) -> list[Path]:
    """Return the paths where the index of a tar may be, best first."""
    name = f"{shard.name}.idx.json"
    # From the whole path, since shards of two sets often have the same names.
    digest = hashlib.blake2b(str(shard.resolve()).encode(), digest_size=8).hexdigest()
    return [shard.with_name(name), cache / f"{digest}-{name}"]


def checksum_of(path: Path) -> str:
    """Return the xxh3_128 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


# --------------------------------------------------------------------------------------------- make
def build_index(shard: Path, examine: bool = False) -> ShardIndex:
    """Build the index of a tar in one pass.

    Members with one key are one sample wherever they lie. Samples are in the order of their first
    members.

    Args:
        shard: The tar.
        examine: Compute the checksums of the members and of the whole tar, and read the heights
            and widths of the images.

    Raises:
        ValueError: If the tar is empty, truncated, damaged or compressed, a sample has two members
            of one suffix or one that is a link or sparse, or a name leads out of the folder
            (``..``).
    """
    state = shard.stat()
    samples: dict[str, dict[str, Member]] = {}
    others = 0
    for member in tar_headers(shard):
        name = split_name(member.name)
        if name is None or not (member.isreg() or member.issym() or member.islnk()):
            others += not member.isdir()
            continue
        key, suffix = name
        sample = samples.setdefault(key, {})
        problem = _why_unusable(member)
        if suffix in sample:
            problem = "has the ending of another member of its sample: remove or rename one"
        if problem is not None:
            raise ValueError(
                f"shard {shard} has a member {member.name!r} at byte {member.offset_data} that "
                f"{problem}, and pack the tar again"
            )
        sample[suffix] = Member(member.offset_data, member.size)
    if others:
        log.warning("%s: passed over %d members that belong to no sample", shard, others)
    index = ShardIndex(state.st_size, state.st_mtime_ns, list(samples), list(samples.values()))
    return _with_checksums_and_sizes(index, shard) if examine else index


def _why_unusable(member: tarfile.TarInfo) -> str | None:
    """Return why a member of a sample cannot be read, or its name would do harm; or None."""
    # Keys become names of results, which would be written outside of their folder.
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "leads out of its folder: rename it"
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname!r}: use tar --dereference --hard-dereference"
    if member.issparse():
        return "is sparse, so it cannot be read by offset: leave out --sparse"
    return None


def _with_checksums_and_sizes(index: ShardIndex, shard: Path) -> ShardIndex:
    """Return the index with checksums and sizes."""
    examined: list[dict[str, Member]] = []
    with shard.open("rb") as file:
        for sample in index.members:
            examined.append({})
            for suffix, member in sample.items():
                file.seek(member.offset)
                data = file.read(member.size)
                checksum = xxhash.xxh3_64_intdigest(data)
                height, width = _height_and_width(data, suffix)
                examined[-1][suffix] = Member(member.offset, member.size, checksum, height, width)
    return replace(index, members=examined, checksum=checksum_of(shard))


def _height_and_width(data: bytes, suffix: str) -> tuple[int, int]:
    """Return (H, W) of a member that is an image; zeros for others, and for broken images."""
    if f".{suffix.rpartition('.')[2]}" not in IMAGE_EXTENSIONS:
        return 0, 0
    with suppress(UnreadableImage):  # it is reported when it is read
        width, height = read_size(io.BytesIO(data))
        return height, width
    return 0, 0


# ----------------------------------------------------------------------------------- read and write
def save_index(index: ShardIndex, path: Path) -> None:
    """Write an index atomically.

    Raises:
        OSError: If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": VERSION,
        "size": index.size,
        "mtime_ns": index.mtime_ns,
        "checksum": index.checksum,
        "count": len(index.keys),
        "samples": [
            (key, {suffix: _member_to_json(member) for suffix, member in members.items()})
            for key, members in zip(index.keys, index.members, strict=True)
        ],
    }
    write_whole(path, json.dumps(content, separators=(",", ":")))


def _member_to_json(member: Member) -> list[int | str | None]:
    """Return a member as in the index file, without what is unknown at its end."""
    # Hexadecimal, since readers in other languages round integers above 2**53.
    checksum = f"{member.checksum:016x}" if member.checksum else None
    if member.height:
        return [member.offset, member.size, checksum, member.height, member.width]
    return [member.offset, member.size] if checksum is None else [*member[:2], checksum]


def read_index(path: Path) -> ShardIndex | None:
    """Return the index in a file; None without a readable one of this version."""
    try:
        return parse_index(path.read_bytes(), str(path)) if path.exists() else None
    except OSError as error:  # such as a colleague's file
        log.warning("an index cannot be read, and is made again: %s", error)
        return None


def parse_index(data: bytes, name: str) -> ShardIndex | None:
    """Return the index in the bytes of an index file.

    Args:
        data: The bytes.
        name: The file's name, for the log.

    Returns:
        None if the index is of another version, or damaged, which is logged.
    """
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            return None
        return ShardIndex(
            size=int(content["size"]),
            mtime_ns=int(content["mtime_ns"]),
            keys=[key for key, _ in content["samples"]],
            members=[
                {suffix: _member_from_json(*fields) for suffix, fields in sample.items()}
                for _, sample in content["samples"]
            ],
            checksum=content["checksum"],
        )
    except DAMAGE as error:
        log.warning("the index %s is damaged (%r) and is made again", name, error)
        return None


def _member_from_json(
    offset: int, size: int, checksum: str | None = None, height: int = 0, width: int = 0
) -> Member:
    """Return a member from its list in the index file."""
    return Member(int(offset), int(size), int(checksum or "0", 16), int(height), int(width))
