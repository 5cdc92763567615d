"""Write WebDataset tars; a tar gets its name only when it is complete."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from datamodules.shards.index import ShardIndex, build_index, index_places, save_index
from files.owned import whole_file

Members = dict[str, bytes]  # suffix: content


def write_shard(
    path: Path,
    samples: Iterable[tuple[str, Members]],
    before: Callable[[ShardIndex], None] | None = None,
) -> None:
    """Write samples into a tar with an index beside it.

    The tar is written under a hidden name, synced to the disk, read back for its index, and
    renamed. The same samples give the same bytes; webdataset sorts the members of a sample by
    suffix.

    Args:
        path: The tar.
        samples: Keys, without dots after the last slash, and members by suffix; at least one.
        before: Called with the index, before the tar gets its name.

    Raises:
        OSError: If it cannot be written.
    """
    from webdataset import TarWriter  # imports torch, which takes seconds

    def write_index() -> None:
        # Before the shard gets its name: without its shard, an index is never read.
        index = build_index(Path(file.name), examine=True)
        save_index(index, index_places(path, path)[0])
        if before is not None:
            before(index)

    # No time and no owner, so that the same samples give the same bytes.
    fixed = {"user": "", "group": "", "mode": 0o444, "mtime": 0}
    with (
        whole_file(path, write_index) as file,
        TarWriter(file, encoder=False, keep_meta=True, **fixed) as tar,
    ):
        for key, members in samples:
            tar.write({"__key__": key, **members})


def find_shards(out: Path, name: str) -> list[Path]:
    """Return the shards of a name in a folder, in order.

    Args:
        out: The folder.
        name: Prefix of their names.
    """
    pattern = re.compile(rf"{re.escape(name)}-\d{{6,}}\.tar")
    return sorted(path for path in out.glob("*") if pattern.fullmatch(path.name))
