"""Where a client that comes in the middle of a stream begins: at the table that players look for first.

A transport stream can be played from a program association table (PAT, H.222.0 section 2.4.4.3) on: the
packets before it are of no use. What is no transport stream begins with the next datagram.
"""

from __future__ import annotations

from mcastd.protocols.psi import PAT_PID
from mcastd.protocols.ts import PACKET_BYTES, SYNC

# A stream with tables has them twice a second at least (ETSI TR 101 290): after this it begins without.
WAIT_MAX_SECONDS = 1.0
_PID_MASK = 0x1FFF


def pat_at(payload: bytes | memoryview) -> int | None:
    """Where the first packet of a PAT begins in a datagram of whole packets; None if it has none."""
    for at in range(0, len(payload) - PACKET_BYTES + 1, PACKET_BYTES):
        if int.from_bytes(payload[at + 1 : at + 3]) & _PID_MASK == PAT_PID:
            return at
    return None


def is_transport_stream(payload: bytes | memoryview) -> bool:
    """Return True if a datagram has whole packets, and nothing else."""
    size = len(payload)
    return (
        size > 0
        and size % PACKET_BYTES == 0
        and bytes(payload[::PACKET_BYTES]) == SYNC * (size // PACKET_BYTES)
    )


class StreamStart:
    """Lets a stream begin. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._until = now + WAIT_MAX_SECONDS
        self.skipped = 0  # datagrams that came too early

    def begin(self, payload: bytes | memoryview, now: float) -> bytes | memoryview | None:
        """What of this datagram a client gets first: then it has begun. None: it is to wait."""
        if not is_transport_stream(payload) or now >= self._until:
            return payload
        if (at := pat_at(payload)) is None:
            self.skipped += 1
            return None
        return payload[at:] if at else payload
