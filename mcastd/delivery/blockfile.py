"""Parts of files at their places: written, compared, copied."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

# Buffers that one pwritev(2) takes.
IOV_MAX = os.sysconf("SC_IOV_MAX")
# Bytes that are read at once: they stay in the processor's cache until they are hashed.
PIECE_BYTES = 1 << 18


def write(
    fd: int, buffers: Sequence[bytes | memoryview], offset: int, size: int
) -> tuple[int, OSError | None]:
    """Write ``buffers`` of ``size`` bytes together. Returns how many it took, and why not all."""
    written = 0
    try:
        written = os.pwritev(fd, buffers[:IOV_MAX], offset)
        if written < size:  # the disk is nearly full, or there are more than one call takes
            rest = memoryview(b"".join(buffers))
            while written < len(rest):
                written += os.pwrite(fd, rest[written:], offset + written)
    except OSError as error:
        return written, error
    return written, None


def read(fd: int, place: memoryview, offset: int) -> None:
    """Fill ``place`` with bytes of a file. Raises OSError, also if it ends before."""
    filled = 0
    while filled < len(place) and (count := os.preadv(fd, [place[filled:]], offset + filled)):
        filled += count
    if filled < len(place):
        raise OSError(errno.EIO, "the file has become shorter")


def digest(fd: int, offset: int, size: int) -> bytes | None:
    """The SHA-256 of a part of a file; None if it cannot be read, or the file ends before."""
    sha256 = hashlib.sha256()
    with suppress(OSError):
        for piece in pieces(fd, offset, size):
            sha256.update(piece)
            size -= len(piece)
        return None if size else sha256.digest()
    return None


def pieces(fd: int, offset: int = 0, size: int | None = None) -> Iterator[memoryview]:
    """The bytes of a file from ``offset`` on, ``size`` at most; each piece is valid until the next one.

    Raises OSError.
    """
    left = sys.maxsize if size is None else size
    # New memory for each piece would take longer than to read it
    place = memoryview(bytearray(min(left, PIECE_BYTES)))
    while left and (count := os.preadv(fd, [place[:left]], offset)):
        yield place[:count]
        offset, left = offset + count, left - count


def copy(source: int, target: int, offset: int, size: int) -> None:
    """Copy a part of a file to the same place of another one, as far as there is one. Raises OSError."""
    end = offset + size
    with suppress(OSError):  # not every file system can; what else is wrong is met again below
        while offset < end and (copied := os.copy_file_range(source, target, end - offset, offset, offset)):
            offset += copied
    while offset < end and (data := os.pread(source, min(end - offset, PIECE_BYTES), offset)):
        offset += os.pwrite(target, data, offset)
