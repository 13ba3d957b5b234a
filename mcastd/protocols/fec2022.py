"""Forward error correction of RTP streams by rows and columns: SMPTE ST 2022-1, formerly Pro-MPEG CoP #3.

The media packets are written row by row into a matrix of L columns and D rows. A FEC packet has the exclusive
or of those of one column or one row, and recovers one of them that is lost:

```
            offset L
     +---- column 0 ----+
     |                  |
     s      s+1    s+2  ...  s+L-1      row 0: offset 1, count L
     s+L    s+L+1  ...
     s+2L   ...                         column 0: offset L, count D
```

Columns go to the media's port + 2, rows to port + 4. A FEC packet is an RTP packet of its own numbering:

```
   0    V=2 | P, X, CC of the media packets    M of these, payload type 96     sequence number
   4    timestamp
   8    SSRC
   12   SNBase, low 16 bits                    length recovery
   16   E | payload type recovery              mask: 0
   20   timestamp recovery
   24   N | D | type: 0 | index                offset    count (NA)    SNBase, high 8 bits
   28   payload recovery ...
```

P, X, CC and M are recovered by those bits of its own RTP header, as RFC 2733 has it. So it may look as if it
had a list of sources or padding, and has none.

Who can send as the stream's sender can send FEC packets, too, of any matrix. What one of them may cost is
bounded by the matrix, and by how many are kept for a media packet that is missing.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

# Where the media's sequence numbers come round.
SEQUENCES = 1 << 16
# Columns and rows of a matrix, each. By the standard it has 100 packets at most; some senders let it have
# 400.
SIDE_MAX = 20
# Media packets that are kept, to recover others by them: what recovers a packet may come one matrix later.
KEPT_PACKETS = 1024
# A FEC packet is sent after what it covers, of which the last packets may be lost: so many, at most.
AHEAD_MAX = 100
# FEC packets that are kept since more than one of what they cover is missing.
KEPT_FEC_PACKETS = 512
# Of these, those that cover the same missing packet. A sender has a row and a column for it.
KEPT_OF_ONE_MAX = 8

_RTP = struct.Struct(">BBHII")
_FEC = struct.Struct(">HHBxxxIBBBx")
HEADER_BYTES = _RTP.size + _FEC.size
_COVERED_BITS = 0x3F  # P, X and CC, of an RTP header's first byte
_VERSION_BITS = 0x80
_MARKER_BIT = 0x80
_TYPE_BITS = 0x38


class FecPacket(NamedTuple):
    """The exclusive or of the media packets of a row or column."""

    sequences: tuple[int, ...]  # of these packets
    flags: int  # P, X and CC
    marker_and_type: int  # M and the payload type
    length: int  # of all behind the fixed header
    timestamp: int
    payload: int  # bytes as an integer, the first one lowest
    payload_size: int  # bytes


def parse_fec(packet: bytes | memoryview) -> FecPacket | None:
    """Read the payload of a datagram to port + 2 or port + 4. Returns None if it is no such packet."""
    if len(packet) < HEADER_BYTES:
        return None
    first, second, _, _, _ = _RTP.unpack_from(packet)
    base, length, payload_type, timestamp, kind, offset, count = _FEC.unpack_from(packet, _RTP.size)
    if (
        first & ~_COVERED_BITS != _VERSION_BITS
        or kind & _TYPE_BITS
        or not 0 < offset <= SIDE_MAX
        or not 0 < count <= SIDE_MAX
    ):
        return None
    body = packet[HEADER_BYTES:]
    span = offset * (count - 1) + 1
    return FecPacket(
        sequences=tuple(number % SEQUENCES for number in range(base, base + span, offset)),
        flags=first & _COVERED_BITS,
        marker_and_type=second & _MARKER_BIT | payload_type & ~_MARKER_BIT,
        length=length,
        timestamp=timestamp,
        payload=int.from_bytes(body, "little"),
        payload_size=len(body),
    )


class _KeptFec:
    """A FEC packet that is kept, and how many of what it covers are missing."""

    __slots__ = ("lacks", "packet")

    def __init__(self, packet: FecPacket, lacks: int) -> None:
        self.packet = packet
        self.lacks = lacks


class FecDecoder:
    """Recovers lost packets of one RTP stream. ``recovered`` counts them."""

    def __init__(self) -> None:
        self.recovered = 0
        self.displaced = 0  # FEC packets that are not kept, since others that lack no more are
        self._latest = 0  # sequence number
        self._media: OrderedDict[int, bytes] = OrderedDict()  # by sequence number, in order of arrival
        self._waiting: OrderedDict[tuple[int, ...], _KeptFec] = OrderedDict()  # by what they cover
        self._lacking: defaultdict[int, set[tuple[int, ...]]] = defaultdict(set)  # these, by what is missing

    @property
    def waiting(self) -> int:
        """FEC packets that are kept: each may yet recover one media packet."""
        return len(self._waiting)

    def forget_old(self) -> None:
        """Forget the FEC packets that came first, if what they cover was given up."""
        while self._waiting and not self._is_near(next(iter(self._waiting))[0]):
            self._forget(next(iter(self._waiting)))

    def take_media(
        self, packets: Iterable[tuple[int, bytes]], latest: int | None = None
    ) -> list[tuple[int, bytes]]:
        """Take media packets that came together, each with its sequence number, whole, of 12 bytes at least.

        ``latest`` is the number that the stream is at; None: that of the last one. Returns the packets that
        are recovered by them, in the same way.
        """
        ready: list[FecPacket] = []
        for sequence, packet in packets:
            self._latest = sequence if latest is None else latest
            if sequence not in self._media and self._is_near(sequence):
                ready += self._keep(sequence, packet)
        return self._recover_all(ready)

    def take_fec(self, packet: FecPacket) -> list[tuple[int, bytes]]:
        """Take a FEC packet. Returns the packets that are recovered by it."""
        if not self._media or packet.sequences in self._waiting or not self._is_near(packet.sequences[0]):
            return []
        missing = [number for number in packet.sequences if number not in self._media]
        if len(missing) > 1:
            self._wait(packet, missing)
            return []
        return self._recover_all([packet]) if missing else []

    def is_ahead(self, packet: FecPacket) -> bool:
        """Return True if it covers what has not even been sent, as far as can be known."""
        ahead = (packet.sequences[-1] - self._latest) % SEQUENCES
        return bool(self._media) and AHEAD_MAX < ahead < SEQUENCES // 2

    def _is_near(self, sequence: int) -> bool:
        """Return True if this packet may still be kept: what was given up already is not lost."""
        age = (self._latest - sequence) % SEQUENCES
        return age < KEPT_PACKETS - 1 or age >= SEQUENCES - KEPT_PACKETS

    def _keep(self, sequence: int, packet: bytes) -> list[FecPacket]:
        """Keep a packet that has come, or was made. Returns the FEC packets that lack at most one now."""
        self._media[sequence] = packet
        if len(self._media) > KEPT_PACKETS:
            self._media.popitem(last=False)
        ready = []
        for covered in self._lacking.pop(sequence, ()):
            waiting = self._waiting[covered]
            waiting.lacks -= 1
            if waiting.lacks <= 1:
                ready.append(waiting.packet)
        return ready

    def _wait(self, packet: FecPacket, missing: list[int]) -> None:
        for number in missing:
            if len(covering := self._lacking.get(number, ())) >= KEPT_OF_ONE_MAX:
                worst = max(covering, key=lambda covered: self._waiting[covered].lacks)
                self.displaced += 1
                if self._waiting[worst].lacks < len(missing):
                    return
                self._forget(worst)
        if len(self._waiting) == KEPT_FEC_PACKETS:
            self.displaced += 1
            self._forget(next(iter(self._waiting)))
        self._waiting[packet.sequences] = _KeptFec(packet, len(missing))
        for number in missing:
            self._lacking[number].add(packet.sequences)

    def _forget(self, covered: tuple[int, ...]) -> None:
        del self._waiting[covered]
        for number in covered:
            if (waiting := self._lacking.get(number)) is not None:
                waiting.discard(covered)
                if not waiting:
                    del self._lacking[number]

    def _recover_all(self, packets: list[FecPacket]) -> list[tuple[int, bytes]]:
        """Recover what these make possible, and what that makes possible."""
        recovered: list[tuple[int, bytes]] = []
        while packets:
            packet = packets.pop()
            missing = [number for number in packet.sequences if number not in self._media]
            if len(missing) > 1:
                continue
            if packet.sequences in self._waiting:
                self._forget(packet.sequences)
            is_wanted = missing and self._is_near(packet.sequences[0])
            if is_wanted and (made := self._make(packet, missing[0])) is not None:
                packets += self._keep(missing[0], made)
                recovered.append((missing[0], made))
        self.recovered += len(recovered)
        return recovered

    def _make(self, packet: FecPacket, missing: int) -> bytes | None:
        """The packet that is missing; None if what is there cannot be of one stream."""
        flags, marker_and_type, length = packet.flags, packet.marker_and_type, packet.length
        timestamp, payload, ssrc = packet.timestamp, packet.payload, 0
        for number in packet.sequences:
            if number == missing:
                continue
            media = self._media[number]
            first, second, _, at, ssrc = _RTP.unpack_from(media)
            flags ^= first & _COVERED_BITS
            marker_and_type ^= second
            length ^= len(media) - _RTP.size
            timestamp ^= at
            payload ^= int.from_bytes(media[_RTP.size :], "little")
        if len(packet.sequences) == 1:
            ssrc = _RTP.unpack_from(next(reversed(self._media.values())))[4]
        if length > packet.payload_size or payload.bit_length() > 8 * length:
            return None
        header = _RTP.pack(_VERSION_BITS | flags, marker_and_type, missing, timestamp, ssrc)
        return header + payload.to_bytes(length, "little")
