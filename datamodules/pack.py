"""Pack pictures into WebDataset shards: ``python -m datamodules.pack IMAGES SHARDS``."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datamodules.decode import UnreadableImage, decode
from datamodules.pairs import check_sizes, match_pairs
from datamodules.paths import by_key, expand_path, image_key, list_images
from datamodules.shard_index import BLOCK, build_index, index_places, save_index

log = logging.getLogger(__name__)

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}

Members = dict[str, bytes]  # suffix: content


class Entry(NamedTuple):
    """One sample to pack: its key, and its files by the first part of their suffix."""

    key: str
    files: dict[str, Path]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        0 if all pictures were packed, 1 if some were refused.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2


def _run(options: argparse.Namespace) -> int:
    out = Path(expand_path(options.shards, "SHARDS"))
    entries = find_entries(options.images, options.lr, options.scale)
    clear(out, options.name, options.overwrite)
    refused: list[str] = []
    samples = read_samples(tqdm(entries, unit=" pictures", disable=None), refused)
    shards = write_shards(samples, out, options.name, options.samples_per_shard, options.shard_size)
    for reason in refused:
        log.error("refused: %s", reason)
    packed = len(entries) - len(refused)
    log.info("%d pictures packed into %d shards, %d refused", packed, len(shards), len(refused))
    if shards:
        log.info("to read them: class_path: datamodules.shards.Shards")
        log.info('              init_args: {urls: "%s"}', out.resolve() / f"{options.name}-*.tar")
    return 1 if refused else 0


def find_entries(images: str, lr: str | None, scale: float | None) -> list[Entry]:
    """List the files to pack, in the order of their keys.

    Args:
        images: Folder of pictures.
        lr: Folder of their LR, with the same names.
        scale: How many times larger than their LR the pictures are.

    Raises:
        ValueError: A folder is missing or empty, keys are not unique, or pairs do not match.
    """
    root = Path(expand_path(images, "IMAGES"))
    if not root.is_dir():
        raise ValueError(f"IMAGES {str(root)!r} is not a folder")
    if lr is None:
        found = by_key(((image_key(path, root), path) for path in list_images(root)), "IMAGES")
        entries = [Entry(key, {"": path}) for key, path in found.items()]
    else:
        if scale is None:
            raise ValueError("--lr needs --scale, to check the sizes of the pairs")
        pairs = match_pairs(root, Path(expand_path(lr, "--lr")))
        check_sizes(pairs, scale)
        entries = [Entry(pair.key, {"hr.": pair.hr, "lr.": pair.lr}) for pair in pairs]
    if not entries:
        raise ValueError(f"IMAGES {str(root)!r} holds no pictures")
    return _without_dots(entries)


def _without_dots(entries: list[Entry]) -> list[Entry]:
    # In a shard, the key ends at the first dot of the name: 2020.01.png would be the key 2020.
    renamed = [Entry(_dotless(entry.key), entry.files) for entry in entries]
    changed = [e.key for e, r in zip(entries, renamed, strict=True) if e.key != r.key]
    if changed:
        log.info("%d keys had dots, which become _: %s, ...", len(changed), changed[0])
    key, count = Counter(entry.key for entry in renamed).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"two pictures would have the key {key!r}, as a key cannot have dots: rename one"
        )
    return renamed


def _dotless(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.replace(".", "_")


def clear(out: Path, name: str, overwrite: bool) -> None:
    """Make sure that no shards of an earlier run are between the ones to be written.

    Raises:
        ValueError: There are some, and ``overwrite`` is false.
    """
    pattern = re.compile(rf"{re.escape(name)}-\d{{6}}\.tar(\.part|\.idx\.json)?")
    old = [path for path in out.glob("*") if pattern.fullmatch(path.name)]
    if any(path.suffix == ".tar" for path in old) and not overwrite:
        raise ValueError(
            f"{out} already holds shards called {name}-*.tar: give another folder or --name, or "
            "--overwrite to replace them"
        )
    for path in old:
        path.unlink()


def read_samples(entries: Iterable[Entry], refused: list[str]) -> Iterator[tuple[str, Members]]:
    """Read the files, as they are; those that cannot be decoded are left out.

    Args:
        entries: What to read.
        refused: Is given the reason for each one that is left out.
    """
    for entry in entries:
        members = {}
        try:
            for role, path in entry.files.items():
                data = path.read_bytes()
                decode(data, str(path))
                members[role + path.suffix.lower().removeprefix(".")] = data
        except (UnreadableImage, OSError) as error:
            refused.append(str(error))
        else:
            yield entry.key, members


def write_shards(
    samples: Iterable[tuple[str, Members]], out: Path, name: str, most: int, size: int | None
) -> list[Path]:
    """Write samples into ``name-000000.tar`` and so on, each with its index.

    Args:
        samples: Keys, and members by suffix.
        out: Folder, made if it is not there.
        name: What the names of the shards begin with.
        most: Samples a shard, at most.
        size: Bytes a shard, at most, unless a single sample is larger.
    """
    out.mkdir(parents=True, exist_ok=True)
    shards: list[Path] = []
    batch: list[tuple[str, Members]] = []
    total = 0
    for key, members in samples:
        more = sum(BLOCK + -(-len(data) // BLOCK) * BLOCK for data in members.values())
        if batch and (len(batch) == most or (size is not None and total + more > size)):
            shards.append(_write_shard(out / f"{name}-{len(shards):06d}.tar", batch))
            batch, total = [], 0
        batch.append((key, members))
        total += more
    if batch:
        shards.append(_write_shard(out / f"{name}-{len(shards):06d}.tar", batch))
    return shards


def _write_shard(path: Path, samples: list[tuple[str, Members]]) -> Path:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, members in samples:
                for suffix, data in members.items():
                    member = tarfile.TarInfo(
                        f"{key}.{suffix}"
                    )  # no time, no owner: same bytes again
                    member.size, member.mode = len(data), 0o444
                    tar.addfile(member, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())  # the name must not be on disk before the content is
    part.replace(path)
    save_index(build_index(path), index_places(path, path.parent)[0])
    return path


def parse_size(text: str) -> int:
    """Bytes from ``300M``.

    Raises:
        ArgumentTypeError: ``text`` is not such a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected e.g. 300M or 2G")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.pack",
        description="Pack a folder of pictures into WebDataset shards (tars). The files are kept "
        "as they are, in the order of their paths, and each is decoded once: broken ones are "
        "refused and listed. The same folder gives the same shards, byte for byte.",
        epilog="Exit status: 0 all packed, 1 some pictures refused, 2 nothing done.",
    )
    parser.add_argument("images", metavar="IMAGES", help="folder of pictures, with its subfolders")
    parser.add_argument("shards", metavar="SHARDS", help="folder to write the shards to")
    parser.add_argument("--lr", metavar="FOLDER", help="their LR pictures, with the same names")
    parser.add_argument(
        "--scale", type=float, help="how many times larger than LR they are; with --lr"
    )
    parser.add_argument(
        "--samples-per-shard",
        type=_positive,
        default=1000,
        metavar="N",
        help="pictures in each shard, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-size",
        type=parse_size,
        metavar="SIZE",
        help="bytes in each shard, at most, e.g. 300M",
    )
    parser.add_argument(
        "--name", default="shard", help="shards are called NAME-000000.tar (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace shards of an earlier run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
