"""The records under the keys of one handshake: sealed and opened by the batch, each taken once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import add
from typing import NamedTuple

from mcastd.counters import LinkCounters
from mcastd.protocols.crypto import TAG_BYTES, invalid_tag
from mcastd.protocols.link_frames import DATAGRAM_OVERHEAD_BYTES, AlikeFrames, OpenedFrames
from mcastd.protocols.link_messages import (
    COUNTERS,
    RECORD_OVERHEAD_BYTES,
    Introduction,
    MessageKind,
    SealedRecords,
    record_headers,
)
from mcastd.protocols.noise import NoiseKeys
from mcastd.protocols.row_cipher import TOGETHER_MIN, RowCipher, row_cipher
from mcastd.rows import JoinedRows
from mcastd.tunnel.link.reception import RecordReception
from mcastd.tunnel.link.sent import SentRecords
from mcastd.tunnel.link.step import FORGED, MALFORMED, REPLAYED_RECORD
from mcastd.tunnel.link.window import ReplayWindow


class OpenedRecords(NamedTuple):
    """What is inside records that were not seen before, with their counters."""

    counters: Sequence[int]  # a range if they are those of SealedRecords, as they mostly are
    frames: OpenedFrames
    forged: int  # records with another tag
    replayed: int  # that have come already, or so long ago that nobody knows
    malformed: int  # with a counter that none can have
    advances: bool  # one of them is later than all before

    @property
    def ignored(self) -> dict[str, int]:
        """Why others were not taken, and how many for that."""
        reasons = {FORGED: self.forged, REPLAYED_RECORD: self.replayed, MALFORMED: self.malformed}
        return {reason: count for reason, count in reasons.items() if count}


class LinkSession:
    """One session. Its peer has the same, with the keys the other way round."""

    def __init__(
        self,
        keys: NoiseKeys | None,
        ours: int,
        peer: Introduction,
        repair_seconds: float,
        now: float,
        *,
        counts: LinkCounters | None = None,
    ) -> None:
        """Without ``keys`` records are in clear. ``ours`` is our index. For ``repair_seconds`` lost records
        are waited for; 0: they are not.

        ``counts`` is what is counted of all sessions of a link.
        """
        self.ours = ours
        self.peer = peer
        self.began = now
        self.heard: float | None = None  # monotonic seconds when a message of it last came
        # An answer comes late by a round trip, which is no longer than what is waited for
        self.sent = SentRecords(2 * peer.repair_seconds, counts=counts)
        self.reception = RecordReception(repair_seconds, counts=counts)
        self._sealing = self._opening = _IN_CLEAR
        if keys is not None:
            self._sealing, self._opening = row_cipher(keys.send), row_cipher(keys.receive)
        self._invalid = invalid_tag()
        self._counters = {MessageKind.RECORD: 0, MessageKind.ASIDE: 0}
        self._windows = {MessageKind.RECORD: ReplayWindow(), MessageKind.ASIDE: ReplayWindow()}

    @property
    def next_counter(self) -> int:
        """Of the next record."""
        return self._counters[MessageKind.RECORD]

    def seal(self, frames: list[bytes] | AlikeFrames, now: float) -> list[bytes] | JoinedRows:
        """The records that carry frames, in order; joined, if they are sealed together."""
        records: list[bytes] | JoinedRows
        if isinstance(frames, list):
            records = self._seal(MessageKind.RECORD, frames)
        else:
            records = self._sealing.seal(self._headers(MessageKind.RECORD, len(frames)), frames)
        self.sent.keep(records, now)
        return records

    def seal_asides(self, frames: Sequence[bytes]) -> list[bytes]:
        return self._seal(MessageKind.ASIDE, frames)

    def open(self, records: SealedRecords) -> OpenedRecords:
        """Open records, or asides, that have our index."""
        counters, headers, sealed = records.counters, records.headers, records.sealed
        frames: OpenedFrames
        try:
            if len(sealed) < TOGETHER_MIN:
                frames = [*map(self._opening.open_one, headers, sealed, repeat(None))]
            else:
                frames = self._opening.open(headers, sealed, DATAGRAM_OVERHEAD_BYTES)
        except self._invalid:  # not all are right: one by one
            opened = [*map(self._open_one, headers, sealed)]
            frames = [frame for frame in opened if frame is not None]
            counters = tuple(one for one, frame in zip(counters, opened, strict=True) if frame is not None)
        forged = len(sealed) - len(frames)
        return self._admit(self._windows[records.kind], counters, frames, forged)

    def _seal(self, kind: MessageKind, frames: Sequence[bytes]) -> list[bytes]:
        headers = self._headers(kind, len(frames))
        return [*map(add, headers, map(self._sealing.seal_one, headers, frames, repeat(None)))]

    def _headers(self, kind: MessageKind, count: int) -> Sequence[bytes]:
        """Of the next messages of this kind."""
        counter = self._counters[kind]
        self._counters[kind] = counter + count
        return record_headers(kind, self.peer.session, counter, count)

    def _open_one(self, header: bytes, sealed: bytes | memoryview) -> bytes | None:
        try:
            return self._opening.open_one(header, sealed, None)
        except self._invalid:
            return None

    @staticmethod
    def _admit(
        window: ReplayWindow, counters: Sequence[int], frames: OpenedFrames, forged: int
    ) -> OpenedRecords:
        if not counters:
            return OpenedRecords([], [], forged, 0, 0, False)
        top, first, count = window.top, counters[0], len(counters)
        if top < first <= COUNTERS - count and counters == range(first, first + count):
            window.admit(first, count)
            return OpenedRecords(counters, frames, forged, 0, 0, True)
        malformed = sum(counter >= COUNTERS for counter in counters)
        new = [counter < COUNTERS and bool(window.admit(counter, 1)) for counter in counters]
        if not all(new):
            frames = [frame for frame, is_new in zip(frames, new, strict=True) if is_new]
            counters = tuple(counter for counter, is_new in zip(counters, new, strict=True) if is_new)
        replayed = count - len(counters) - malformed
        return OpenedRecords(counters, frames, forged, replayed, malformed, window.top > top)


def _leave_in_clear(header: bytes, frame: bytes | memoryview, _: None) -> bytes:
    """The frame, with nothing where the tag of a sealed one is: so both have the same room."""
    return bytes(frame) + bytes(TAG_BYTES)


def _take_in_clear(header: bytes, record: bytes | memoryview, _: None) -> bytes:
    return bytes(record[:-TAG_BYTES])


_IN_CLEAR = RowCipher(_leave_in_clear, _take_in_clear)


def frame_room(message_bytes: int) -> int:
    """Bytes of a frame in a message of at most so many."""
    return message_bytes - RECORD_OVERHEAD_BYTES
