"""What a record of a link has inside: datagrams of streams.

```
  datagram    0 | hops 1 | TTL 1 | 0 1     | stream 4 | sequence 4 | payload
  bundle      1 | hops 1 | TTL 1 | count 1 | stream 4 | sequence 4 | size 2 ... | payload ...
  part        2 | hops 1 | TTL 1 | 0 1     | stream 4 | sequence 4 | size 2 | offset 2 | piece
```

A bundle has small datagrams of one stream, whose numbers follow each other; a part is one of a datagram that
does not fit. Numbers are those that the site gave where the datagram came from the network, modulo 2**32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate, groupby
from operator import add
from typing import NamedTuple

from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.protocols.ascending import are_ascending, ascending_heads
from mcastd.protocols.row_cipher import TOGETHER_MIN
from mcastd.rows import HeadedRows

SEQUENCES = 1 << 32
# Datagrams in a bundle: what the byte that counts them can say.
BUNDLE_MAX = 255
# What a frame has before its datagram: its head.
DATAGRAM_OVERHEAD_BYTES = 12

_HEAD = struct.Struct(">BBBBII")
_PART = struct.Struct(">HH")
_SIZE_BYTES = 2
# Of a head what all datagrams of a stream have in common, if they came one way.
_COMMON_BYTES = 8


class FrameKind(IntEnum):
    DATAGRAM = 0
    BUNDLE = 1
    PART = 2


class DatagramRun(NamedTuple):
    """Datagrams of one stream whose numbers follow each other, and that came one way."""

    stream: int  # as whoever sends the record numbers it: 32 bits
    sequence: int  # of the first, modulo SEQUENCES
    hops: int  # links that they may still go by
    ttl: int  # what their TTL or hop limit is now
    payloads: Sequence[bytes]


class DatagramPart(NamedTuple):
    """A piece of one datagram."""

    stream: int
    sequence: int
    hops: int
    ttl: int
    size: int  # bytes of the datagram
    offset: int  # in bytes, of this piece in it
    piece: bytes


OpenedFrames = list[bytes] | HeadedRows
"""Frames as they come; of one size, heads may lie apart."""


class AlikeFrames:
    """Frames of one size, and so many that it is worth while to seal them together.

    Each is made when it is its turn. So all take the same memory, which stays in the processor's cache.
    """

    __slots__ = ("_heads", "_payloads")

    def __init__(self, heads: Sequence[bytes], payloads: Sequence[bytes]) -> None:
        """As many of each."""
        self._heads = heads
        self._payloads = payloads

    def __len__(self) -> int:
        return len(self._heads)

    def __iter__(self) -> Iterator[bytes]:
        return map(add, self._heads, self._payloads)


def build_frames(run: DatagramRun, sizes: Sequence[int], room: int) -> list[bytes] | AlikeFrames:
    """The frames of a run, whose payloads have these ``sizes``, each of at most ``room`` bytes: more than 64.

    Those of equal datagrams are equally long, so that the kernel can cut them out of one buffer.
    """
    payloads, count = run.payloads, len(sizes)
    space = room - _HEAD.size
    longest = shortest = sizes[0]
    if sizes.count(longest) < count:
        longest, shortest = max(sizes), min(sizes)
    if longest <= space and count > 1 and 2 * (shortest + _SIZE_BYTES) <= space:
        return _bundles(run, sizes, space)
    if longest > space:
        return [frame for index in range(count) for frame in _alone(run, index, space)]
    if run.sequence + count > SEQUENCES:
        return [_head(FrameKind.DATAGRAM, run, index) + payload for index, payload in enumerate(payloads)]
    heads = ascending_heads(_head(FrameKind.DATAGRAM, run, 0), count)
    frames = AlikeFrames(heads, payloads)
    return frames if longest == shortest and count >= TOGETHER_MIN else [*frames]


def _head(kind: FrameKind, run: DatagramRun, index: int, count: int = 0) -> bytes:
    sequence = (run.sequence + index) % SEQUENCES
    return _HEAD.pack(kind, run.hops, run.ttl, count, run.stream, sequence)


def _bundles(run: DatagramRun, sizes: Sequence[int], space: int) -> list[bytes]:
    """As many datagrams in each frame as it has room for; a frame with one is a datagram's own."""
    frames: list[bytes] = []
    start = 0
    while start < len(sizes):
        stop, taken = start, 0
        while stop < len(sizes) and stop < start + BUNDLE_MAX:
            taken += sizes[stop] + _SIZE_BYTES
            if taken > space:
                break
            stop += 1
        if stop - start < 2:
            frames += _alone(run, start, space)
            start += 1
            continue
        count = stop - start
        head = _head(FrameKind.BUNDLE, run, start, count)
        frames.append(b"".join((head, _sizes(count).pack(*sizes[start:stop]), *run.payloads[start:stop])))
        start = stop
    return frames


def _alone(run: DatagramRun, index: int, space: int) -> list[bytes]:
    """One datagram, in parts of nearly one size if it does not fit."""
    payload = run.payloads[index]
    if len(payload) <= space:
        return [_head(FrameKind.DATAGRAM, run, index) + payload]
    head = _head(FrameKind.PART, run, index)
    count = -(-len(payload) // (space - _PART.size))
    step = -(-len(payload) // count)
    return [
        head + _PART.pack(len(payload), offset) + payload[offset : offset + step]
        for offset in range(0, len(payload), step)
    ]


@lru_cache(maxsize=BUNDLE_MAX)
def _sizes(count: int) -> struct.Struct:
    return struct.Struct(f">{count}H")


def read_frames(frames: OpenedFrames) -> Iterator[DatagramRun | DatagramPart | None]:
    """Read frames in order. None: one of them is malformed."""
    if (run := _one_run(frames)) is not None:
        yield run
        return
    for common, together in groupby(frames[:], lambda frame: frame[:_COMMON_BYTES]):
        alike = [*together]
        if min(map(len, alike)) < _HEAD.size or common[0] != FrameKind.DATAGRAM:
            yield from map(_read, alike)
        elif (run := _one_run(alike)) is not None:
            yield run
        else:
            yield from _split(alike)


def _one_run(frames: OpenedFrames) -> DatagramRun | None:
    """All frames as one run; None: they are not."""
    payloads: Sequence[bytes] = ()
    if isinstance(frames, list):
        heads = b"".join([frame[: _HEAD.size] for frame in frames])
    else:
        heads, payloads = b"".join(frames.heads), frames.tails
    if not heads or len(heads) != len(frames) * _HEAD.size or not are_ascending(heads):
        return None
    kind, hops, ttl, _, stream, sequence = _HEAD.unpack_from(heads)
    if kind != FrameKind.DATAGRAM or sequence + len(frames) > SEQUENCES:
        return None
    return DatagramRun(stream, sequence, hops, ttl, payloads or [frame[_HEAD.size :] for frame in frames])


def _split(alike: Sequence[bytes]) -> Iterator[DatagramRun]:
    """Datagrams of one stream, in runs: a new one begins where a number does not follow."""
    numbers = [int.from_bytes(frame[_COMMON_BYTES : _HEAD.size]) for frame in alike]
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != (numbers[at - 1] + 1) % SEQUENCES:
            _, hops, ttl, _, stream, sequence = _HEAD.unpack_from(alike[start])
            payloads = [frame[_HEAD.size :] for frame in alike[start:at]]
            yield DatagramRun(stream, sequence, hops, ttl, payloads)
            start = at


def _read(frame: bytes) -> DatagramRun | DatagramPart | None:
    """A frame by itself."""
    if len(frame) < _HEAD.size:
        return None
    kind, hops, ttl, count, stream, sequence = _HEAD.unpack_from(frame)
    body = frame[_HEAD.size :]
    match kind:
        case FrameKind.DATAGRAM:
            return DatagramRun(stream, sequence, hops, ttl, [body])
        case FrameKind.BUNDLE if payloads := _bundled(body, count):
            return DatagramRun(stream, sequence, hops, ttl, payloads)
        case FrameKind.PART if len(body) > _PART.size:
            size, offset = _PART.unpack_from(body)
            piece = body[_PART.size :]
            if offset + len(piece) <= size <= MAX_DATAGRAM_BYTES:
                return DatagramPart(stream, sequence, hops, ttl, size, offset, piece)
    return None


def _bundled(body: bytes, count: int) -> list[bytes]:
    """The datagrams of a bundle, which has at least one; none if their sizes contradict its own."""
    at = count * _SIZE_BYTES
    if not count or len(body) < at:
        return []
    sizes = _sizes(count).unpack_from(body)
    if at + sum(sizes) != len(body):
        return []
    ends = [*accumulate(sizes, initial=at)]
    return [*map(body.__getitem__, map(slice, ends, ends[1:]))]
