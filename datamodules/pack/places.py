"""Where the bytes of an input are, and what an input is."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from files.paths import open_regular, read_bytes


class Place(Protocol):
    """A place with the bytes of one member."""

    @property
    def where(self) -> str:
        """Its name in messages."""

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            OSError: If they cannot be read.
        """


class File(NamedTuple):
    """A file."""

    path: str

    @property
    def where(self) -> str:
        """Its path."""
        return self.path

    def read(self) -> bytes:
        """Return the whole file."""
        return read_bytes(self.path)


class TarMember(NamedTuple):
    """A member of a tar."""

    path: str
    name: str
    offset: int
    size: int

    @property
    def where(self) -> str:
        """The tar and the member's name."""
        return f"{self.path}: {self.name}"

    def read(self) -> bytes:
        """Return the member's bytes.

        Raises:
            OSError: If the tar ends before them.
        """
        with open_regular(self.path) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(f"{self.where}: the tar was truncated after it was listed")
        return data


class Entry(NamedTuple):
    """One input: its key, and its members by suffix (``png``, ``hr.png``, ``txt``).

    A suffix that ends with a role alone (empty, ``hr.``, ``lr.``) is an image whose format is known
    from its bytes only.
    """

    key: str
    members: dict[str, Place]

    @property
    def where(self) -> str:
        """The place of its first member."""
        return next(iter(self.members.values())).where


class Refused(NamedTuple):
    """A refused input: its key, its place, the reason in a word or two, and a message."""

    key: str
    path: str
    reason: str
    message: str
