"""What a link has in its UDP datagrams: two messages of a handshake, records and asides.

```
  hello     0x11 | 0 | 0 2          | sent 8    | ephemeral key 32 | sealed introduction 24 + 16 | MAC 16
  welcome   0x12 | 0 | receiver 2   | sent 8    | ephemeral key 32 | sealed introduction 24 + 16 | MAC 16
  record    0x13 | 0 | receiver 2   | counter 8 | sealed frame of datagrams, tag 16
  aside     0x14 | 0 | receiver 2   | counter 8 | sealed frame of control, tag 16
            kind       index of a session, as its receiver numbers it
```

The upper half of the first byte is the version, and so is a part of what both ends authenticate. The answer
to a hello is no longer than that, so whoever forges where it comes from gains nothing.

The MAC is BLAKE2s under the key of the link, over all before it. It costs a hundredth of a handshake: what is
forged, or was sent before, is known by it and by the time in clear, and nothing is computed for that.

The nonce of a record or an aside is its header: 12 bytes that no other one under the same key has. So the
header is authenticated by the tag, and nothing else need be. Each kind is counted by itself: a gap among
records is a loss, which may be repaired; an aside is said again, or is of no use later.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2s
from typing import NamedTuple

from mcastd.protocols.ascending import are_ascending, ascending_heads, split_heads
from mcastd.protocols.crypto import TAG_BYTES
from mcastd.protocols.noise import MESSAGE_OVERHEAD_BYTES
from mcastd.rows import Rows

PORT = 9466
VERSION = 1
# What both ends of a handshake call it.
PROLOGUE = b"mcastd link 1"
# Of links that have no key, and whose records are in clear: so that no end with a key takes one for its peer.
PLAIN_PROLOGUE, PLAIN_KEY = b"mcastd link 1 in clear", b"mcastd link 1: there is no key.."

_HANDSHAKE = struct.Struct(">BxHQ")
_RECORD = struct.Struct(">BxHQ")
_INTRODUCTION = struct.Struct(">HxxIQQ")
INTRODUCTION_BYTES = _INTRODUCTION.size
_MAC_BYTES = 16
HANDSHAKE_BYTES = _HANDSHAKE.size + MESSAGE_OVERHEAD_BYTES + INTRODUCTION_BYTES + _MAC_BYTES
RECORD_HEADER_BYTES = _RECORD.size
# By which a record is longer than its frame.
RECORD_OVERHEAD_BYTES = RECORD_HEADER_BYTES + TAG_BYTES
INDEX_MAX = 0xFFFF
# Counters of records and of asides are less: that lasts nine years at a million a second, keys two minutes.
COUNTERS = 1 << 48
# How long an end may wait for what was lost.
REPAIR_MAX_SECONDS = 30.0

_MILLISECONDS = 1000


class MessageKind(IntEnum):
    HELLO = VERSION << 4 | 1
    WELCOME = VERSION << 4 | 2
    RECORD = VERSION << 4 | 3
    ASIDE = VERSION << 4 | 4


_LOWER = {kind & 0x0F for kind in MessageKind}
_SEALED = {int(kind): kind for kind in (MessageKind.RECORD, MessageKind.ASIDE)}


def is_other_version(message: bytes | memoryview) -> bool:
    """Return True for what looks like a message of a link of another version."""
    if not message:
        return False
    version, kind = divmod(message[0], 16)
    return version not in (0, VERSION) and kind in _LOWER


class LinkHandshake(NamedTuple):
    """A message of a handshake: a hello, or the welcome that answers one."""

    kind: MessageKind
    receiver: int  # whose hello a welcome answers: the index that it named; of a hello 0
    sent_ns: int  # nanoseconds since 1970 by the sender's clock: greater in each hello of one peer
    noise: bytes
    mac: bytes = b""  # of one that was read

    def is_made_with(self, key: bytes) -> bool:
        """Return True if its MAC is that of ``key``: see :func:`mac_key`."""
        return hmac.compare_digest(self.mac, _mac(_head(self) + self.noise, key))


def mac_key(key: bytes) -> bytes:
    """What the MACs of handshakes are made with, of the key of a link: 32 bytes each."""
    return blake2s(b"mcastd link 1: MAC", key=key).digest()


def read_handshake(message: bytes) -> LinkHandshake | None:
    """Read a hello or a welcome, but for its MAC. Returns None if it is none, or not as long as one."""
    if len(message) != HANDSHAKE_BYTES:
        return None
    kind, receiver, sent_ns = _HANDSHAKE.unpack_from(message)
    if kind not in (MessageKind.HELLO, MessageKind.WELCOME):
        return None
    noise, mac = message[_HANDSHAKE.size : -_MAC_BYTES], message[-_MAC_BYTES:]
    return LinkHandshake(MessageKind(kind), receiver, sent_ns, noise, mac)


def build_handshake(handshake: LinkHandshake, key: bytes) -> bytes:
    """The message, with a MAC by ``key``: see :func:`mac_key`."""
    message = _head(handshake) + handshake.noise
    return message + _mac(message, key)


def _head(handshake: LinkHandshake) -> bytes:
    return _HANDSHAKE.pack(handshake.kind, handshake.receiver, handshake.sent_ns)


def _mac(message: bytes, key: bytes) -> bytes:
    return blake2s(message, key=key, digest_size=_MAC_BYTES).digest()


class Introduction(NamedTuple):
    """What each end says of itself in a handshake, sealed."""

    session: int  # the index that records to it are to have: 0 to INDEX_MAX
    origin: int  # of the site, 64 bits: another one in each run of a daemon
    end: int  # of this end of the link, 64 bits: another one whenever it begins with nothing known
    repair_seconds: float = 0.0  # how long it waits for what was lost; 0: it does not


def read_introduction(payload: bytes) -> Introduction | None:
    """Read the payload of a message of a handshake. Returns None if it is too short.

    What a later version has behind it is not read. An end that would wait for longer than REPAIR_MAX_SECONDS
    is taken to wait for so long.
    """
    if len(payload) < INTRODUCTION_BYTES:
        return None
    session, repair, origin, end = _INTRODUCTION.unpack_from(payload)
    return Introduction(session, origin, end, min(repair / _MILLISECONDS, REPAIR_MAX_SECONDS))


def build_introduction(introduction: Introduction) -> bytes:
    return _INTRODUCTION.pack(
        introduction.session,
        round(introduction.repair_seconds * _MILLISECONDS),
        introduction.origin,
        introduction.end,
    )


class SealedRecords(NamedTuple):
    """Records, or asides, of one session in a row, as they came."""

    kind: MessageKind  # RECORD or ASIDE
    session: int  # index that its receiver has for it
    # 0, 1, ... of the kind, under the key of the session; a range if they ascend by one, as they mostly do
    counters: Sequence[int]
    headers: Sequence[bytes]  # which are their nonces
    sealed: Sequence[bytes | memoryview]  # what is behind the headers, all of one size


def read_messages(rows: Rows) -> Iterator[SealedRecords | list[bytes]]:
    """Messages of one size, in order: records and asides, those of one session together, and others as they
    are."""
    count = len(rows)
    if rows.size < RECORD_OVERHEAD_BYTES:
        yield [bytes(rows.row(index)) for index in range(count)]
        return
    cells = rows.cells(0, RECORD_HEADER_BYTES)
    kind, session, first = _RECORD.unpack_from(cells)
    if kind in _SEALED and first <= COUNTERS - count and are_ascending(cells):
        counted, tails = range(first, first + count), rows.tails(RECORD_HEADER_BYTES, 0, count)
        yield SealedRecords(_SEALED[kind], session, counted, split_heads(cells), tails)
        return
    fields = _headers(count).unpack(cells)
    addresses, counters = fields[::2], fields[1::2]
    start = 0
    while start < count:
        address = addresses[start]
        if addresses.count(address) == count:
            stop = count
        else:
            stop = next((at for at in range(start, count) if addresses[at] != address), count)
        kind = address >> 24
        if kind not in _SEALED:
            yield [bytes(rows.row(index)) for index in range(start, stop)]
        else:
            yield SealedRecords(
                _SEALED[kind],
                address & INDEX_MAX,
                counters[start:stop],
                split_heads(cells)[start:stop],
                rows.tails(RECORD_HEADER_BYTES, start, stop),
            )
        start = stop


@lru_cache(maxsize=512)
def _headers(count: int) -> struct.Struct:
    """Of ``count`` headers what is before the counter, as one number, and the counter."""
    return struct.Struct(">" + "IQ" * count)


def record_headers(kind: MessageKind, session: int, counter: int, count: int) -> Sequence[bytes]:
    """The headers of ``count`` records or asides in a row, which are their nonces."""
    return ascending_heads(_RECORD.pack(kind, session, counter), count)
