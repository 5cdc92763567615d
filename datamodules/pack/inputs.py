"""Inputs of the packer: folders, lists, LMDB and tars."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from datamodules.files.pairs import match, refuse_mixed
from datamodules.files.paths import braced, images_of
from datamodules.files.roles import SUFFIXES, roles_of, texts_beside
from datamodules.pack.places import Entry, File, Place, Refused, TarMember
from datamodules.shards.index import METADATA, build_index, split_name
from files.images.decode import read_size
from files.paths import (
    IMAGE_EXTENSIONS,
    by_key,
    expand_path,
    glob_paths,
    has_wildcard,
    image_key,
    is_image,
    read_text,
    shard_key,
    size_and_time,
    unique,
)

DATA = "data.mdb"


class Record(NamedTuple):
    """A value of a database."""

    path: str
    key: bytes
    size: int

    @property
    def where(self) -> str:
        """Name of the database, and the key."""
        return f"{self.path}: {self.key.decode(errors='backslashreplace')}"

    def read(self) -> bytes:
        """Return the value.

        Raises:
            OSError: If the database is damaged.
        """
        import lmdb

        try:
            with _opened(self.path).begin() as transaction:
                data = transaction.get(self.key)
        except lmdb.Error as error:
            raise OSError(f"{self.where}: {error}") from error
        return bytes(data)


def is_lmdb(path: Path) -> bool:
    """Return whether a path is the folder or the file of an LMDB."""
    if path.is_dir():
        return (path / DATA).is_file()
    return path.is_file() and path.suffix.lower() in (".lmdb", ".mdb")


def _from_lmdb(path: Path, refused: list[Refused]) -> Iterator[tuple[str, Member]]:
    """Yield the images of an LMDB in the order of its keys."""
    if path.name == DATA:
        path = path.parent
    environment = _environment(path)
    import lmdb

    try:
        with environment.begin(buffers=True) as transaction:  # values are not copied
            for key, value in transaction.cursor():
                record = Record(str(path), bytes(key), len(value))
                try:
                    name = record.key.decode()
                except UnicodeDecodeError:
                    message = f"{record.where}: its key is not UTF-8 text"
                    refused.append(Refused(repr(record.key), record.where, "unsafe name", message))
                    continue
                if not METADATA.match(name):  # __len__, __keys__
                    stem, dot, extension = name.rpartition(".")
                    known = dot and f".{extension.lower()}" in IMAGE_EXTENSIONS
                    yield (stem, (extension.lower(), record)) if known else (name, ("", record))
    except lmdb.Error as error:
        raise ValueError(_broken(path, error)) from error


def _environment(path: Path) -> Any:
    import_lmdb()
    import lmdb

    try:
        environment = _opened(str(path))
        entries, page = environment.stat()["entries"], environment.stat()["psize"]
        expected = (environment.info()["last_pgno"] + 1) * page
    except lmdb.Error as error:
        raise ValueError(_broken(path, error)) from error
    size = (path / DATA if path.is_dir() else path).stat().st_size
    if size < expected:  # reading pages beyond the end of a mapped file kills the process
        raise ValueError(_broken(path, f"it is truncated at byte {size} of {expected}"))
    if not entries:
        raise ValueError(f"the LMDB {path} has no images: it is empty")
    return environment


def import_lmdb() -> None:
    """Import the optional package.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import lmdb  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "an LMDB needs the package lmdb, which is not installed: "
            "pip install -c constraints.txt -e '.[lmdb]'"
        ) from error


@lru_cache(maxsize=4)  # a process may open a database only once
def _opened(path: str) -> Any:
    import lmdb

    return lmdb.open(
        path,
        subdir=Path(path).is_dir(),
        readonly=True,
        lock=False,  # its folder may be read-only, and it does not change while it is packed
        readahead=False,
        create=False,
    )


def _broken(path: Path, error: object) -> str:
    return f"{path} is not a readable LMDB ({error}): download or create it again"


log = logging.getLogger(__name__)
EXPECTED = ", ".join(sorted(SUFFIXES))
REMOTE = re.compile(r"(pipe:|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
SIZED = re.compile(r"(.+?)\s+\(\d+(?:\s*,\s*\d+){1,2}\)(?:\s+\d+)?")  # BasicSR's meta_info
TABLES = (".csv", ".tsv", ".parquet")
DOWNLOAD = "img2dataset downloads the images of one into shards (docs/shards.md, 'From the web')"


class Inputs(NamedTuple):
    """The inputs in the order of packing, and those that were refused by name."""

    entries: list[Entry]
    refused: list[Refused]

    def digest(self) -> str:
        """Return the hash of the keys and of their members' places and sizes."""
        whole = hashlib.blake2b(digest_size=16)
        for entry in self.entries:
            names = [entry.key, *(f"{suffix}={_sized(p)}" for suffix, p in entry.members.items())]
            whole.update("\0".join(names).encode(errors="surrogateescape") + b"\n")
        return whole.hexdigest()


def _sized(place: Place) -> str:
    """Return a place with its size, which tells most files that were replaced.

    The time of modification would, too, but the copies of a set do not share it.
    """
    if isinstance(place, TarMember):
        return f"{place.where}\0{place.offset}\0{place.size}"
    if isinstance(place, Record):
        return f"{place.where}\0{place.size}"
    found = size_and_time(place.where)
    return place.where if found is None else f"{place.where}\0{found[0]}"


def find_inputs(source: str, lr: str | None = None, lr_suffix: str = "") -> Inputs:
    """List what to pack. Only names and sizes are read.

    Args:
        source: A folder, a pattern of images, a text file of paths, an LMDB, or tars.
        lr: The LR images of ``source``, in the same forms except tars.
        lr_suffix: Suffix of an LR key after the HR's key.

    Raises:
        ValueError: If there are no images, they cannot be read, keys are not unique, or HR and LR
            do not match.
    """
    refused: list[Refused] = []
    if is_tars(source) and lr is None:
        return _checked(_from_tars(source), refused, source)
    large = _images_of(source, "SOURCE", refused)
    if lr is None:
        entries = [Entry(key, {extension: place}) for key, (extension, place) in large.items()]
    else:
        small = _images_of(lr, "--lr", refused)
        # A refused image leaves its partner without one, which is not another error.
        gone = {entry.key for entry in refused}
        partners = gone | {key + lr_suffix for key in gone}
        large = {key: member for key, member in large.items() if key + lr_suffix not in gone}
        small = {key: member for key, member in small.items() if key not in partners}
        pairs = match(large, small, (source, lr), lr_suffix).items()
        entries = [Entry(k, {f"hr.{a[0]}": a[1], f"lr.{b[0]}": b[1]}) for k, (a, b) in pairs]
    return _checked(_with_texts(entries), refused, source)


def _with_texts(entries: list[Entry]) -> Iterator[Entry]:
    """Yield inputs with the texts beside their HR files as members."""
    places = [next(iter(entry.members.values())) for entry in entries]
    beside = texts_beside(Path(place.path if isinstance(place, File) else "") for place in places)
    for entry, texts in zip(entries, beside, strict=True):
        found = {suffix: File(path) for suffix, path in texts.items()}
        yield Entry(entry.key, {**entry.members, **found})


Member = tuple[str, Place]  # extension, or "" if only its bytes show it; place


def _images_of(source: str, what: str, refused: list[Refused]) -> dict[str, Member]:
    """Return the images of a folder, a pattern, a list or an LMDB by key."""
    if REMOTE.match(source) and not os.path.lexists(source):
        raise ValueError(f"{source} is remote: download it first, and pack the files")
    path = Path(expand_path(source, what))
    if is_tars(source):
        raise ValueError(
            f"{what} {source!r} is a tar; pairs in tars are members hr.png and lr.png of one "
            "sample: give these tars as SOURCE alone, without --lr"
        )
    if is_lmdb(path):
        return unique(_from_lmdb(path, refused), what, lambda member: member[1].where)
    if path.is_dir() or (has_wildcard(str(path)) and not path.exists()):
        found = by_key(images_of(str(path)), what)
        if not found:
            raise ValueError(
                f"{what} {source!r} has no images ({EXPECTED}); give tars as 'folder/*.tar', and "
                "an LMDB as its folder with data.mdb"
            )
        return {key: _member(file) for key, file in found.items()}
    if not path.is_file():
        raise ValueError(
            f"{what} {source!r} is not a folder, nor a list of paths, an LMDB or a tar: it does "
            "not exist"
        )
    if is_image(path):
        raise ValueError(f"{what} {source!r} is a single image; expected its folder or a list")
    return {key: _member(file) for key, file in _from_list(path, what, refused).items()}


def _member(path: Path) -> Member:
    return path.suffix.lower().removeprefix("."), File(str(path))


# ---------------------------------------------------------------------------------------- of a list
def _from_list(path: Path, what: str, refused: list[Refused]) -> dict[str, Path]:
    """Return the images that a text file names, in its order, by key.

    A line is a path, or a path and its size as in BasicSR (``a.png (480,480,3)``).
    """
    folder = Path(os.path.abspath(path.parent))
    paths: dict[Path, None] = {}
    for number, text in _lines(path, what):
        sized = SIZED.fullmatch(text)
        image = Path(os.path.abspath(folder / (sized[1] if sized else text)))
        if is_image(image):
            paths[image] = None
            continue
        where = f"{path}, line {number}"
        message = f"{where}: {image}: not the name of an image; expected one of {EXPECTED}"
        refused.append(Refused(str(image), where, "unsupported", message))
    if not paths and not refused:
        raise ValueError(f"{what} {str(path)!r} is an empty list; expected one path per line")
    root = folder
    if not all(image.is_relative_to(root) for image in paths):
        root = Path(os.path.commonpath([image.parent for image in paths]))
    return unique(((image_key(image, root), image) for image in paths), what)


def _lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not empty or a comment."""
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(
            f"{what} {str(path)!r} is neither a tar nor an LMDB nor a list of paths ({error})"
        ) from error
    # Not splitlines, which also splits at characters that names may contain.
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        if REMOTE.match(line) or path.suffix.lower() in TABLES:
            raise ValueError(f"{what} {str(path)!r} is a list of addresses: {DOWNLOAD}")
        if line and not (line.startswith("#") and not (path.parent / line).is_file()):
            yield number, line


# ------------------------------------------------------------------------------------------ of tars
def is_tars(source: str) -> bool:
    """Return whether a source is a tar, or a pattern of tars."""
    return source.lower().endswith((".tar", ".tar}", ".tar.gz", ".tgz"))


def _from_tars(source: str) -> Iterator[Entry]:
    for path in _tar_files(source):
        index = build_index(path)
        for key, members in zip(index.keys, index.members, strict=True):
            places: dict[str, Place] = {
                suffix: TarMember(str(path), f"{key}.{suffix}", member.offset, member.size)
                for suffix, member in members.items()
            }
            yield Entry(key, places)


def _tar_files(source: str) -> Iterator[Path]:
    pattern = expand_path(source, "SOURCE")
    for name in braced(pattern):
        found = [name] if Path(name).is_file() else glob_paths(name)
        if not found:
            raise ValueError(f"SOURCE {source!r}: {name} does not exist, or matches no tar")
        yield from map(Path, found)


# --------------------------------------------------------------------------------------------- keys
def _checked(entries: Iterable[Entry], refused: list[Refused], source: str) -> Inputs:
    """Refuse what a tar cannot hold or a reader of it would refuse, unless keys are not unique."""
    kept: dict[str, Entry] = {}
    renamed = []
    for entry in entries:
        place = next(iter(entry.members.values()))
        key = shard_key(entry.key)
        problem = _problem(key)
        if problem:
            message = f"{place.where}: its key {key!r} {problem}; rename it"
            refused.append(_refused(Entry(key, entry.members), "unsafe name", message))
            continue
        if key != entry.key:
            renamed.append(entry.key)
        other = kept.setdefault(key, entry)
        if other is not entry:
            dots = ", as a key cannot have dots" if other.key != entry.key else ""
            raise ValueError(
                f"two images would have the key {key!r}{dots} ({other.where} and {place.where}): "
                "rename one, or pack tars that all count from 0 one by one"
            )
    if renamed:
        log.info("%d keys had dots, which were replaced by _: %s, ...", len(renamed), renamed[0])
    if not kept and not refused:
        raise ValueError(f"SOURCE {source!r} has no images")
    entries = [Entry(key, entry.members) for key, entry in kept.items()]
    return Inputs(_readable(entries, refused, source), refused)


def _readable(entries: list[Entry], refused: list[Refused], source: str) -> list[Entry]:
    """Refuse inputs whose samples the readers of shards refuse.

    Raises:
        ValueError: If HR and LR are inputs of their own.
    """
    found: list[tuple[Entry, dict[str, str]]] = []
    for entry in entries:
        try:
            found.append((entry, roles_of(tuple(entry.members)).members))
        except ValueError as error:
            refused.append(_refused(entry, "unclear roles", f"{entry.where}: {error}"))
    if any("lr" in roles for _, roles in found):
        message = "it has no LR, but others do: training needs one for all images, or for none"
        lacking = [entry for entry, roles in found if "hr" in roles and "lr" not in roles]
        refused += [_refused(one, "no LR", f"{one.where}: {message}") for one in lacking]
        found = [(entry, roles) for entry, roles in found if "lr" in roles or "hr" not in roles]
    images = [(entry, entry.members[roles["hr"]]) for entry, roles in found if "hr" in roles]
    refuse_mixed(
        f"SOURCE {source!r}",
        [entry.key for entry, _ in images],
        lambda index: read_size(io.BytesIO(images[index][1].read())),
    )
    return [entry for entry, _ in found]


def _refused(entry: Entry, reason: str, message: str) -> Refused:
    names = (entry.key, entry.where, reason, message)
    return Refused(*map(_printable, names))


def _problem(key: str) -> str | None:
    """Return why a name cannot be a key, or None."""
    if key.startswith("/") or ".." in PurePosixPath(key).parts:
        return "leads out of the folder"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    if not key.isprintable():
        return "has unprintable characters"
    if split_name(f"{key}.x") != (key, "x"):
        return "is one that readers of shards skip or shorten"
    return None


def _printable(text: str) -> str:
    # A report cannot hold line ends, or the surrogates of a name that is not UTF-8.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
