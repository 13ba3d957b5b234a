"""Parts of files at their places: written, compared, copied."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
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
        while size and (data := os.pread(fd, min(size, PIECE_BYTES), offset)):
            sha256.update(data)
            offset, size = offset + len(data), size - len(data)
        return None if size else sha256.digest()
    return None


def copy(source: int, target: int, offset: int, size: int) -> None:
    """Copy a part of a file to the same place of another one, as far as there is one. Raises OSError."""
    end = offset + size
    with suppress(OSError):  # not every file system can; what else is wrong is met again below
        while offset < end and (copied := os.copy_file_range(source, target, end - offset, offset, offset)):
            offset += copied
    while offset < end and (data := os.pread(source, min(end - offset, PIECE_BYTES), offset)):
        offset += os.pwrite(target, data, offset)
