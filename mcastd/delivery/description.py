"""What crosses from a protocol of objects to the output that receives them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mcastd.protocols.fec import Blocks, JoinedBlocks, Oti
from mcastd.protocols.lct import Malformed
from mcastd.protocols.manifest import ManifestFile

# Blocks of a file that receivers take. Each takes a byte while it is received.
BLOCKS_MAX = 1 << 16
# Between looks for descriptions that hold no more.
EXPIRE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDescription:
    """What a sender says of a file that it sends as an object. Nothing of it has been checked.

    A sender may describe an object again, with more or with other words; in its session it is the same by its
    TOI.
    """

    toi: int
    name: tuple[str, ...]
    """The parts of its path: names.safe_name()."""
    length: int
    """Bytes on the wire."""
    content_length: int | None
    """Bytes of the file: others than ``length`` if it is encoded; None: not told."""
    oti: Oti
    parts: tuple[tuple[int, Oti], ...] = ()
    """If it is sent as several objects: how long each is, and how it is cut. Their blocks are numbered
    through; ``toi`` and ``oti`` are those of the first."""
    session: int = 0
    """The TSI. In another session the same TOI is another object."""
    sender: str = ""
    """The address of the sender, by which sessions of one TSI differ; "": it is not told by that."""
    encoding: str = ""
    """How the file is encoded on the wire, as "gzip"; "": it is not."""
    md5: bytes | None = None
    """The digest of the file, 16 bytes."""
    checksum: bytes | None = None
    """If that is told beside MD5: protocols/checksum.py."""
    mode: int | None = None
    """Permission bits."""
    mtime_ns: int | None = None
    """Time of the last modification, nanoseconds since 1970."""
    hashes: tuple[bytes, ...] | None = None
    """The SHA-256 of each source block, 32 bytes each; the last block is not filled up. None: not signed."""
    expires: float = math.inf
    """Until when the description holds, seconds since 1970."""

    @property
    def path(self) -> str:
        return "/".join(self.name)

    def blocks(self) -> Blocks:
        """Its source blocks. Raises Malformed."""
        if not self.parts:
            return Blocks(self.oti, self.length)
        joined = JoinedBlocks(self.parts)
        if joined.length != self.length:
            raise Malformed("oti", f"its parts have {joined.length} bytes together, not {self.length}")
        return joined

    def is_like(self, other: ObjectDescription) -> bool:
        """Return True if both may be of one object: what cannot change is the same, but for hashes."""
        told = ((self.md5, other.md5), (self.checksum, other.checksum))
        return self._lasting == other._lasting and all(len({*both} - {None}) < 2 for both in told)

    @property
    def _lasting(self) -> tuple[object, ...]:
        return (
            self.sender,
            self.session,
            self.toi,
            self.name,
            self.length,
            self.oti,
            self.parts,
            self.encoding,
        )


def of_manifest(file: ManifestFile, session: int, expires: int) -> ObjectDescription:
    """What a manifest says of a file, in the LCT session in which it came, until it expires."""
    first, parts = file.parts[0], file.parts
    return ObjectDescription(
        toi=first.toi,
        session=session,
        name=file.name,
        length=file.length,
        content_length=file.length,
        oti=first.oti,
        parts=tuple((part.length, part.oti) for part in parts) if len(parts) > 1 else (),
        mode=file.mode,
        mtime_ns=file.mtime_ns,
        hashes=tuple(digest for part in parts for digest in part.hashes),
        expires=float(expires),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """All files that there are to be: what a manifest lists, in the LCT session in which it came."""

    files: tuple[ManifestFile, ...]
    session: int
    expires: int  # seconds since 1970

    @property
    def tois(self) -> set[int]:
        """Those by which the files are described."""
        return {file.parts[0].toi for file in self.files}


class Run(NamedTuple):
    """Symbols ``esi``, ``esi + 1``, ... of one source block, all of one size; at least one.

    Their buffers are valid for as long as those of the batch.
    """

    description: ObjectDescription
    sbn: int
    esi: int
    symbols: Sequence[bytes | memoryview]
    together: bool = False  # all in one datagram; else each has a datagram of its own
