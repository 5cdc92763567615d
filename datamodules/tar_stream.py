"""The samples of a tar as they come by: a file, a server's answer or a command's output, once.

Nothing of it is kept but the sample that is being read. webdataset's own iterator is not used: it
takes a damaged header, or the end of a tar that was cut off, for the tar's end.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from datamodules.arrays import array_of
from datamodules.captions import caption_of
from datamodules.decode import UnreadableImage, decode
from datamodules.policy import Skipped
from datamodules.remote import CHUNK, blocks_from, scheme_of
from datamodules.retry import Attempts, Patience, WrongContent, shown
from datamodules.shard_index import check_member, sort_command, split_name, two_members
from datamodules.shard_table import RULE, roles_of
from datamodules.source import Sample
from datamodules.tar_headers import BLOCK, LONGEST_HEADER, tar_headers
from degradations.draws import CODING

log = logging.getLogger(__name__)

LARGEST = 1 << 32  # bytes of a member
_WARNED: set[str] = set()  # tars with samples without a picture
WHAT_TARFILE_RAISES = (  # fed with foreign bytes
    *(tarfile.TarError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError),
)


Where = tuple[str, int]  # a member: its name, and the byte where its content begins


class BrokenShard(Exception):  # noqa: N818  (it says what the shard is)
    """A tar that ends too early, or goes on with something else.

    Args:
        message: Names the tar, and says what is wrong.
        reason: ``truncated`` or ``damaged``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Raw(NamedTuple):
    """A sample as it lies in its tar, undecoded.

    shard: What to call the tar in messages.
    key: The sample's name.
    fields: Bytes of ``hr`` and, where they are, of ``lr``, ``txt`` and ``json``.
    notes: Broken shards that were passed over just before it.
    """

    shard: str
    key: str
    fields: dict[str, bytes]
    notes: tuple[Skipped, ...] = ()


def raws_of(url: str, patience: Patience) -> Iterator[Raw]:
    """The samples of a tar that have a picture, in its order.

    The members of a sample must lie next to each other, since only one sample is kept at a time.

    Args:
        url: A path, an address, or a command (``pipe:``).
        patience: How long to try again when it cannot be read on.

    Raises:
        BrokenShard: It is no whole tar; all samples before the broken one were given.
        RemoteError: It cannot be read, or the command failed.
        ValueError: A member is a link, has a name that leads out of the folder, exists twice, or
            lies apart from the others of its sample.
    """
    name, front = shown(url), _Front(_blocks(url, patience))
    key, members = "", dict[str, bytes]()
    places, order = dict[str, Where](), _Order()  # of the sample's members
    for member in _headers(front, name):
        parts = split_name(member.name)
        if parts is None or not (member.isreg() or member.issym() or member.islnk()):
            continue
        check_member(member, name)
        place = (member.name, member.offset_data)
        if parts[0] != key:
            yield from _sample(name, key, members)
            key, members, places = parts[0], {}, {}
        if earlier := order.broken_by(key, place):
            raise ValueError(_apart(url, earlier, place))
        if parts[1] in members:
            raise ValueError(two_members(name, places[parts[1]], place))
        places[parts[1]] = place
        members[parts[1]] = _content(front, member, name) if roles_of((parts[1],)) else b""
    yield from _sample(name, key, members)
    front.skip()  # for the status of a command


class _Order:
    """Whether the members of each sample lie next to each other, as they come by."""

    def __init__(self) -> None:
        self._first: dict[int, Where] = {}  # member of each sample, by the hash of its key
        self._key: str | None = None

    def broken_by(self, key: str, where: Where) -> Where | None:
        """Return the first member of a sample of which another one comes after other samples."""
        if key == self._key:
            return None
        self._key = key
        first = self._first.setdefault(xxhash.xxh3_64_intdigest(key.encode(*CODING)), where)
        return None if first is where else first


def check_order(url: str) -> None:
    """Refuse a local tar whose samples lie apart before any of them is used.

    Pairs whose LR lies further behind would be taken for pictures without one until it comes.

    Args:
        url: As of ``raws_of``; what is not a local file is only read once, and so not checked.

    Raises:
        ValueError: The members of a sample lie apart.
    """
    if scheme_of(url):
        return
    order, earlier, where = _Order(), None, ("", 0)
    try:
        for member in tar_headers(Path(url)):
            parts, where = split_name(member.name), (member.name, member.offset_data)
            if (
                parts is not None
                and member.isreg()
                and (earlier := order.broken_by(parts[0], where))
            ):
                break
    except (ValueError, OSError):
        return  # reading it gives what comes before, and names what is wrong
    if earlier is not None:
        raise ValueError(_apart(url, earlier, where))


def _apart(url: str, first: Where, again: Where) -> str:
    tar, sort = url, "sort it by"
    if scheme_of(url) == "pipe":
        tar, sort = "shard.tar", "save it as shard.tar and sort it by"
    elif scheme_of(url):
        tar = shown(url).partition("?")[0].rpartition("/")[2]
        sort = "download it and sort it by"
    return (
        f"shard {shown(url)} has members of one sample that lie apart: {first[0]!r} at byte "
        f"{first[1]}, and {again[0]!r} at byte {again[1]} after other samples. Sequential reads "
        f"from front to back and needs them next to each other: {sort} `{sort_command(tar)}`, "
        "or read it with datamodules.shards.Shards, which joins them wherever they lie"
    )


def decoded(raw: Raw, srgb: bool) -> Sample:
    """What a ``Source`` gives for a sample.

    Raises:
        UnreadableImage: A picture or a caption is broken.
    """
    name = f"{raw.shard}: {raw.key}"
    hr = decode(raw.fields["hr"], name, srgb)
    sample = Sample(hr=hr.rgb, meta=hr.meta(raw.shard))
    if "lr" in raw.fields:
        sample["lr"] = decode(raw.fields["lr"], f"{name} (lr)", srgb).rgb
    try:
        if "txt" in raw.fields:
            sample["text"] = caption_of(raw.fields["txt"])
        if "text_features" in raw.fields:
            features = raw.fields["text_features"]
            sample["text_features"] = array_of(features, f"{name} (text_features)", 2)
        if "json" in raw.fields:
            sample["meta"]["json"] = json.loads(raw.fields["json"] or "null")
    except (ValueError, RecursionError) as error:  # of a caption or JSON
        raise UnreadableImage(f"{name}: its txt or json is broken: {error}") from error
    return sample


def _sample(shard: str, key: str, members: dict[str, bytes]) -> Iterator[Raw]:
    roles = dict(roles_of(tuple(members)))
    for field, suffixes in roles.items():
        if len(suffixes) > 1:
            raise ValueError(f"shard {shard}: {key!r} has several {field} pictures: {suffixes}")
    if members and "hr" not in roles:
        _warn_of_none(shard, key, tuple(members))
    if "hr" in roles:
        roles.pop("rst", None)
        yield Raw(shard, key, {field: members[found[0]] for field, found in roles.items()})


def _warn_of_none(shard: str, key: str, suffixes: tuple[str, ...]) -> None:
    if shard not in _WARNED:  # once, although each pass reads it
        _WARNED.add(shard)
        message = "%s: left out samples without a picture, such as %r with %s (%s)"
        log.warning(message, shard, key, ", ".join(suffixes), RULE)


def _headers(front: _Front, name: str) -> Iterator[tarfile.TarInfo]:
    end = 0
    try:
        with tarfile.open(fileobj=front, mode="r:") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()  # it keeps them all
                if member.size < 0 or tar.offset <= end or member.offset_data < end:
                    raise tarfile.ReadError(f"the size of {member.name!r} is {member.size}")
                end = tar.offset
                yield member
    except WHAT_TARFILE_RAISES as error:
        raise _broken(name, front, f" ({error})") from error
    # It takes a header that is cut off or damaged for the end. A whole tar ends with zeros.
    if front.latest != bytes(BLOCK):
        raise _broken(name, front, "")


def _content(front: _Front, member: tarfile.TarInfo, name: str) -> bytes:
    if member.size >= LARGEST:
        raise _broken(name, front, f" ({member.name!r} is {member.size} bytes)")
    front.seek(member.offset_data)
    data = front.take(member.size)
    if len(data) < member.size:
        raise _broken(name, front, f", within the {member.size} bytes of {member.name!r}")
    return data


def _broken(name: str, front: _Front, why: str) -> BrokenShard:
    what = "truncated" if front.ended else "damaged"
    mend = "get or pack it again" if front.position > BLOCK else "is it compressed, or no tar?"
    return BrokenShard(f"shard {name} is {what} at byte {front.position}{why}: {mend}", what)


class _Front:
    """A file that can only be read on, as far as ``tarfile`` needs one."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.position = 0
        self.latest = b""  # what was read as a header
        self.ended = False
        self._blocks, self._block, self._at = blocks, b"", 0

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if position < self.position:
            raise tarfile.ReadError(f"a header leads back to byte {position}")
        self.skip(position - self.position)

    def read(self, count: int) -> bytes:
        # Sizes in headers may be anything: gigabytes would be allocated before they are missed.
        if not 0 <= count <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header says that it is {count} bytes long")
        self.latest = self.take(count)
        return self.latest

    def take(self, count: int) -> bytes:
        return b"".join(self._parts(count))

    def skip(self, count: int | None = None) -> None:
        for _ in self._parts(count):
            pass

    def _parts(self, count: int | None) -> Iterator[bytes]:
        """The next bytes, as many as there are; None for all."""
        while count is None or count > 0:
            if self._at == len(self._block):
                block = next(self._blocks, b"")
                if not block:
                    self.ended = True
                    return
                self._block, self._at = block, 0
            stop = len(self._block) if count is None else self._at + count
            part = self._block[self._at : stop]
            self._at += len(part)
            self.position += len(part)
            count = None if count is None else count - len(part)
            yield part


def _blocks(url: str, patience: Patience) -> Iterator[bytes]:
    """The bytes of a tar; where a connection breaks, the next one goes on."""
    attempts, have = Attempts(url, patience), 0
    while True:
        try:
            for block in blocks_from(url, have, patience) if scheme_of(url) else _local(url, have):
                have += len(block)
                yield block
                attempts.progress()  # now: until here, others may have taken their time
            return
        except Exception as error:
            if have and isinstance(error, WrongContent):  # there is no more
                return
            attempts.failed(error)


def _local(path: str, start: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        yield from iter(lambda: file.read(CHUNK), b"")
