"""Which streams of numbered datagrams are received: one in place of another, or one of each sender."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator

from mcastd.counters import SequenceCounters, copy_of
from mcastd.net.link import ListBatch
from mcastd.sequence.jitter import Jitter
from mcastd.sequence.reorder import HeldRoom, Reorder
from mcastd.sequence.stream import NumberedStream, Wire
from mcastd.status import JitterStatus, NumberedSender

# Reasons to drop a datagram.
OTHER_SENDER = "other-sender"  # another sender's than the one that is received
OTHER_STREAM = "other-stream"  # of another SSRC or session than the one that is received
TOO_MANY_SENDERS = "too-many-senders"

# Another stream is received in place of one that has been silent for so long, or that has said that it ends.
SILENT_SECONDS = 1.0
# Streams that may become the one that is received; of more, those that were heard last.
CANDIDATES_MAX = 1024
# Senders whose order is kept, where all are received. Of more, those make room that were never in order,
# since they may be anybody, and then those that are silent.
SENDERS_MAX = 64
# Of these, the status shows those that were in order, and were heard last.
SENDERS_SHOWN = 10

OfStream = NumberedStream[ListBatch]
NumberedKey = tuple[str, bytes]
"""The address of a sender, and what tells its streams apart."""


class NumberedStreams:
    """Those of one protocol. What is held of them, by all together, is in ``room``."""

    def __init__(
        self,
        wire: Wire,
        wanted: bytes | None,
        total: SequenceCounters,
        room: HeldRoom,
        *,
        is_exclusive: bool,
    ) -> None:
        """``wanted`` is the identity of the one that is received; None: any. ``is_exclusive``: no other is
        received beside it."""
        self.last: OfStream | None = None  # the one that was heard last
        self._known_lost_before = 0  # of streams that are forgotten
        self._wire = wire
        self._wanted = wanted
        self._total = total
        self._room = room
        self._is_exclusive = is_exclusive
        self._hold_seconds = 0.0
        self._by_key: dict[NumberedKey, OfStream] = {}
        # Of streams that may be received next: the number that would confirm them
        self._candidates: OrderedDict[NumberedKey, int] = OrderedDict()

    def __iter__(self) -> Iterator[OfStream]:
        return iter(self._by_key.values())

    def get(self, key: NumberedKey) -> OfStream | None:
        return self._by_key.get(key)

    def of_sender(self, address: str) -> OfStream | None:
        """The stream of a sender that is received."""
        last = self.last
        if self._is_exclusive:
            return last if last is not None and last.address == address else None
        return self._by_key.get((address, b""))

    # -- what is seen of them

    @property
    def known_lost(self) -> int:
        return self._known_lost_before + sum([stream.order.known_lost for stream in self])

    @property
    def deadline(self) -> float:
        """When :meth:`expire` has something to do, in monotonic seconds; ``inf``: never."""
        found = math.inf
        for stream in self._by_key.values():
            found = min(found, stream.order.deadline)
            if stream.reorder is not None:
                found = min(found, stream.reorder.deadline)
        return found

    def describe(self, now: float) -> tuple[NumberedSender, ...]:
        """For any thread."""
        streams = sorted(
            self._by_key.copy().values(), key=lambda one: (not one.order.is_confirmed, -one.heard)
        )
        return tuple(self._sender(one, now) for one in streams[:SENDERS_SHOWN])

    def _sender(self, stream: OfStream, now: float) -> NumberedSender:
        jitter = stream.jitter
        return NumberedSender(
            address=stream.address,
            stream=self._wire.describe(stream.identity),
            payload_type=stream.payload_type,
            datagrams=stream.datagrams,
            counters=copy_of(stream.counters),
            missing=stream.order.missing,
            age=now - stream.heard,
            jitter=None if jitter is None else _described(jitter),
        )

    # -- one more

    def is_wanted(self, identity: bytes) -> bool:
        return self._wanted in {None, identity}

    def refusal(self, key: NumberedKey, now: float) -> str:
        """The reason to drop a datagram of a stream that is not received; "": it may be received, too."""
        if not self._is_exclusive:
            is_full = len(self._by_key) >= SENDERS_MAX and self._replaceable(now) is None
            return TOO_MANY_SENDERS if is_full else ""
        last, identity = self.last, key[1]
        is_over = last is not None and last.is_over and identity != last.identity
        if last is not None and not is_over and now < last.heard + SILENT_SECONDS:
            return OTHER_SENDER if identity == last.identity else OTHER_STREAM
        return ""

    def is_confirmed(self, key: NumberedKey, number: int, count: int) -> bool:
        """Return True if a stream is to be received from this datagram on, by its numbers. Else the one that
        follows confirms it, if it is the next one."""
        if not self._is_exclusive or self._candidates.get(key) == number:
            return True
        self._candidates[key] = (number + count) % self._wire.numbering.numbers
        self._candidates.move_to_end(key)
        if len(self._candidates) > CANDIDATES_MAX:
            self._candidates.popitem(last=False)
        return False

    def begin(self, stream: OfStream, now: float) -> list[ListBatch]:
        """Receive a stream, maybe in place of another one. Returns what was held of that: it goes on."""
        held: list[ListBatch] = []
        if self._is_exclusive:
            self._candidates.clear()
            if (last := self.last) is not None:
                self._total.restarts += 1
                held = self._forget(last)
        elif len(self._by_key) >= SENDERS_MAX and (other := self._replaceable(now)) is not None:
            held = self._forget(other)
        self._begin_order(stream)
        self._by_key[stream.address, stream.identity] = stream
        return held

    def _replaceable(self, now: float) -> OfStream | None:
        """A sender that was never in order, or else one that is silent: that which was heard first."""
        stream = min(self, key=lambda one: (one.order.is_confirmed, one.heard))
        return None if stream.order.is_confirmed and now < stream.heard + SILENT_SECONDS else stream

    def _forget(self, stream: OfStream) -> list[ListBatch]:
        """Receive nothing more of a stream. Returns what is held of it."""
        stream.order.expire(math.inf)
        self._known_lost_before += stream.order.known_lost
        del self._by_key[stream.address, stream.identity]
        return [] if stream.reorder is None else [*stream.reorder.expire(math.inf)]

    # -- their order

    def hold_back(self, seconds: float) -> None:
        self._hold_seconds = seconds
        for stream in self:
            self._begin_order(stream)

    def _begin_order(self, stream: OfStream) -> None:
        """Put what comes of a stream in order from now on, or no longer: then what is held is due."""
        seconds = self._hold_seconds
        if stream.reorder is not None:
            stream.reorder.seconds = seconds
            if not seconds and not len(stream.reorder):
                stream.reorder = None
        elif seconds:
            stream.reorder = Reorder(seconds, self._wire.numbering.numbers, stream.order.next, self._room)

    def expire(self, now: float) -> list[ListBatch]:
        """Returns what was held for long enough."""
        due: list[ListBatch] = []
        for stream in self:
            stream.order.expire(now)
            if (reorder := stream.reorder) is not None:
                due += reorder.expire(now)
                if not reorder.seconds:
                    stream.reorder = None
        return due


def _described(jitter: Jitter) -> JitterStatus:
    return JitterStatus(now_ms=1000 * jitter.value, mean_ms=1000 * jitter.mean, most_ms=1000 * jitter.most)
