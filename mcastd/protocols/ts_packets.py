"""A stream of bytes cut into whole packets of a transport stream; what is between them is left out."""

from __future__ import annotations

from mcastd.protocols.ts import (
    PACKET_BYTES,
    PROTECTED_PACKET_BYTES,
    SYNC,
    SYNC_PACKETS,
    find_packets,
    packet_length,
)

# A stream that has no packets in this many bytes is something else.
SEARCHED_BYTES_MAX = 65_536
# In fewer bytes the length of packets cannot be told.
_TOLD_BYTES = (SYNC_PACKETS + 1) * PROTECTED_PACKET_BYTES
_RUN_BYTES = SYNC_PACKETS * PACKET_BYTES


class NotTransportStreamError(ValueError):
    """The stream has no packets of 188 bytes. ``length``: how long they are; None: it has none at all."""

    def __init__(self, length: int | None) -> None:
        super().__init__(length)
        self.length = length


class PacketCutter:
    """Takes bytes as they come, gives whole packets that begin with the sync byte.

    Where one does not, the stream goes on with the next SYNC_PACKETS in a row that do; at its end, fewer are
    enough. It keeps less than that between calls.
    """

    def __init__(self) -> None:
        self.skipped = 0  # bytes that were left out, of all streams
        self.losses = 0  # times that a packet did not begin where the one before it ended
        self._rest = b""
        self._is_lost = True  # the rest may not begin with a packet
        self._found_any = False  # packets, in this stream
        self._searched = 0  # bytes at the beginning of the stream without packets

    @property
    def wanted(self) -> int:
        """How many bytes make what is kept a whole packet."""
        return -len(self._rest) % PACKET_BYTES

    @property
    def is_lost(self) -> bool:
        """Return True if no packets were found yet, or none since one did not begin where it should."""
        return self._is_lost

    def feed(self, data: bytes) -> bytes:
        """Raises NotTransportStreamError, and has then forgotten the stream."""
        data = self._rest + data
        if not self._is_lost:
            whole = len(data) // PACKET_BYTES
            if data[: whole * PACKET_BYTES : PACKET_BYTES] == SYNC * whole:
                self._rest = data[whole * PACKET_BYTES :]
                return data[: whole * PACKET_BYTES]
        return self._search(data)

    def finish(self) -> bytes:
        """The packets that are left at the end of the stream. Raises NotTransportStreamError."""
        rest, packets = self._rest, b""
        if self._is_lost:
            at = rest.find(SYNC)
            while 0 <= at <= len(rest) - PACKET_BYTES and not packets:
                whole = (len(rest) - at) // PACKET_BYTES
                # In what has no other packets, a letter at the right place before the end is none by itself
                enough = 1 if self._found_any or at == self._searched == 0 else 2
                if whole >= enough and rest[at : at + whole * PACKET_BYTES : PACKET_BYTES] == SYNC * whole:
                    packets = rest[at : at + whole * PACKET_BYTES]
                at = rest.find(SYNC, at + 1)
        found_any = self._found_any or bool(packets)
        self.skipped += len(rest) - len(packets)
        self.begin()
        if rest and not found_any:
            raise NotTransportStreamError(packet_length(rest))
        return packets

    def begin(self) -> None:
        """Forget what is kept: another stream follows."""
        self._rest, self._is_lost, self._found_any, self._searched = b"", True, False, 0

    def _search(self, data: bytes) -> bytes:
        """The same as feed(), of data that does not go on with packets all along."""
        pieces: list[bytes] = []
        at = 0
        while True:
            if self._is_lost:
                found = find_packets(data, at)
                if found < 0:
                    self._skip(data, at, max(at, len(data) - _RUN_BYTES + 1))
                    break
                self.skipped += found - at
                at, self._is_lost, self._found_any = found, False, True
            whole = (len(data) - at) // PACKET_BYTES
            marks = data[at : at + whole * PACKET_BYTES : PACKET_BYTES]
            in_place = whole - len(marks.lstrip(SYNC))
            pieces.append(data[at : at + in_place * PACKET_BYTES])
            at += in_place * PACKET_BYTES
            if in_place == whole:
                self._rest = data[at:]
                break
            self._is_lost = True
            self.losses += 1
        return b"".join(pieces)

    def _skip(self, data: bytes, start: int, stop: int) -> None:
        """Leave out what is no packet, and keep what may begin one."""
        self.skipped += stop - start
        self._rest = data[stop:]
        if self._found_any:
            return
        self._searched += stop - start
        length = packet_length(data) if len(data) >= _TOLD_BYTES else None
        if self._searched > SEARCHED_BYTES_MAX or length not in (None, PACKET_BYTES):
            self.begin()
            raise NotTransportStreamError(length)
