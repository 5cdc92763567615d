"""Where the bytes of an input are, and what an input is."""

from __future__ import annotations

from typing import NamedTuple

from files.paths import open_regular, read_bytes


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
        """Return the member's bytes."""
        with open_regular(self.path) as file:
            file.seek(self.offset)
            return file.read(self.size)


Place = File | TarMember


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
