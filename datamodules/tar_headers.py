"""Read the headers of a tar that may be damaged or malicious."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK = 512  # of a tar
LONGEST_HEADER = 1 << 20  # bytes of a name or of extended attributes; more is damage, or an attack


class _Headers:
    """The file methods that ``tarfile`` needs, with a limit on the length of a header."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        # A damaged size must not make tarfile allocate gigabytes.
        if not 0 <= count <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header says that it is {count} bytes long")
        return self.file.read(count)


def tar_headers(shard: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of all members in order; if the iteration ends, the tar is whole.

    Raises:
        ValueError: If the tar is empty, truncated, damaged or compressed.
    """
    size, end = shard.stat().st_size, 0
    if size == 0:
        raise ValueError(f"shard {shard} is empty (0 bytes)")
    with shard.open("rb") as file:
        try:
            with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
                while (member := tar.next()) is not None:
                    tar.members.clear()  # tarfile would keep all of them
                    if member.size < 0 or tar.offset <= end or member.offset_data < end:
                        raise tarfile.ReadError(f"the size of {member.name!r} is {member.size}")
                    end = tar.offset
                    whole = member.isreg() and not member.issparse()  # stored as they are
                    if whole and member.offset_data + member.size > size:
                        raise ValueError(
                            f"shard {shard} is truncated: {member.name!r} should end at byte "
                            f"{member.offset_data + member.size}, but the file has {size}: get or "
                            "pack it again"
                        )
                    yield member
                end = tar.offset
        # Damaged bytes also make tarfile raise errors of indices, numbers and recursion.
        except (tarfile.TarError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(_no_tar(shard, error)) from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # a seek to an impossible position
                raise
            raise ValueError(_no_tar(shard, error)) from error
        except ValueError as error:
            if str(shard) in str(error):  # our own
                raise
            raise ValueError(_no_tar(shard, error)) from error
    _check_end(shard, end)


def _no_tar(shard: Path, error: Exception) -> str:
    return (
        f"shard {shard} is no tar that can be read by offset ({error}): it is truncated, damaged "
        "or compressed; get it again, uncompress it, or pack it again"
    )


def _check_end(shard: Path, end: int) -> None:
    # tarfile takes a truncated or damaged header for the end. A whole tar ends with zeros.
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(BLOCK)
    if block != bytes(BLOCK):
        what = "damaged" if len(block) == BLOCK else "truncated"
        raise ValueError(
            f"shard {shard} is {what} at byte {end} of {shard.stat().st_size}: get or pack it again"
        )
