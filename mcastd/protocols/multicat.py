"""The times that multicat records beside a stream: FILE.aux has one for each chunk of FILE.ts.

Each is a 64-bit number, big-endian, of ticks of 27 MHz (README of multicat). How long a chunk is, is in
neither file.
"""

from __future__ import annotations

import sys
from array import array

TIME_BYTES = 8
# Seven packets of a transport stream: what multicat takes for a chunk if nothing is said.
CHUNK_BYTES = 7 * 188
_TICKS_PER_MICROSECOND = 27


def times(data: bytes) -> list[int]:
    """Nanoseconds of each chunk, since multicat's own zero; a time that is cut at the end is left out."""
    ticks = array("Q", data[: len(data) - len(data) % TIME_BYTES])
    if sys.byteorder == "little":
        ticks.byteswap()
    return [1000 * tick // _TICKS_PER_MICROSECOND for tick in ticks]


def chunk_bytes(stream_bytes: int, times_bytes: int) -> int:
    """How long the chunks of a recording are, by the sizes of its two files in bytes."""
    count = times_bytes // TIME_BYTES
    even = count > 0 and stream_bytes % count == 0
    return stream_bytes // count if even and stream_bytes else CHUNK_BYTES
