"""``fec = true``: RTP with the repair of SMPTE ST 2022-1, which comes beside it on two further ports.

```
  port       media   --> order, what comes after a gap is held --+--> in order, each once
  port + 2   columns --+                                         |
  port + 4   rows    --+--> protocols/fec2022.py: what is lost --+
```

A repair packet is held while it may recover something, and dropped when it cannot any more. The packet that
it recovers takes its place among all that was received.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import RtpInbound
from mcastd.inbound.numbered import RtpSequencer
from mcastd.inbound.numbered_streams import OTHER_SENDER, OfStream
from mcastd.inbound.pieces import BatchColumns
from mcastd.inbound.sequencer import Sequencer
from mcastd.inbound.sorting import Sorting
from mcastd.net.legs import LegBatch
from mcastd.net.link import Batch, ListBatch
from mcastd.protocols.fec2022 import (
    KEPT_FEC_PACKETS,
    KEPT_PACKETS,
    SEQUENCES,
    FecDecoder,
    FecPacket,
    parse_fec,
)
from mcastd.status import SubscriptionStatus
from mcastd.worker import Books, Vitals

# Reasons to drop a datagram.
FEC = "fec"  # a repair packet that recovers nothing, or nothing any more: it is expected
NOT_FEC = "not-fec"  # it is no repair packet, or of a matrix larger than any
FEC_AHEAD = "fec-ahead"  # it repairs what has not been sent yet, as far as can be known
FEC_SURPLUS = "fec-surplus"  # there are more than any sender sends for what is missing

# What was sent before a repair packet, to another port, is surely read in this time: it is not lost.
READ_SECONDS = 0.02

# The links of the subscription, by their place; columns and rows are told by what stands in them.
MEDIA = 0


class _Aside(NamedTuple):
    """A repair packet that waits."""

    due: float  # monotonic seconds
    packet: FecPacket
    datagram: ListBatch  # what it came as


class RepairingSequencer(Sequencer):
    """One stream of RTP, and what repairs it."""

    def __init__(
        self, settings: RtpInbound, dropped: Counter[str], worker: str, now: Clock = clock.monotonic
    ) -> None:
        # What is recovered may be of a matrix before: until then it is not lost
        self._order = RtpSequencer(settings, dropped, worker, misorder=KEPT_PACKETS, now=now)
        self.reasons = (*self._order.reasons, FEC, NOT_FEC, FEC_AHEAD, FEC_SURPLUS)
        self.repaired = 0
        self._dropped = dropped
        self._now = now
        self._decoder = FecDecoder()
        self._of: tuple[OfStream | None, int] = None, 0  # the stream that it decodes, and restarts of that
        self._aside: deque[_Aside] = deque()
        self._unclaimed: list[tuple[str, bytes]] = []  # the last media, by sender, while no stream is known
        self._accounted = 0  # repair packets that were taken, but for those that recovered one or are dropped

    # -- what is seen of it

    @property
    def held(self) -> int:
        return self._order.held + self._waiting

    @property
    def _waiting(self) -> int:
        """Repair packets that may yet be of use."""
        return self._decoder.waiting + len(self._aside)

    @property
    def known_lost(self) -> int:
        return self._order.known_lost

    @property
    def problem(self) -> str:
        return self._order.problem

    @property
    def deadline(self) -> float:
        return min(self._order.deadline, self._aside[0].due if self._aside else math.inf)

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        status = self._order.describe(status)
        assert status.sequence is not None
        return replace(status, sequence=replace(status.sequence, repaired=self.repaired))

    def enter(self, books: Books) -> Books:
        return self._order.enter(books)._replace(repaired=self.repaired)

    def note(self, vitals: Vitals) -> Vitals:
        return self._order.note(vitals)

    # -- datagrams

    def hold_back(self, seconds: float) -> None:
        self._order.hold_back(seconds)

    def feed(self, batch: Batch) -> Iterable[Batch]:
        assert isinstance(batch, LegBatch), "what a link over several gives"
        if batch.leg == MEDIA:
            yield from self._order.feed(batch.whole)
            self._follow_stream()
            yield from self._take_media(batch.whole)
        else:
            self._put_aside(batch.whole)
        self._settle()

    def expire(self, now: float) -> Iterable[Batch]:
        yield from self._take_repair(now)
        yield from self._order.expire(now)
        if now == math.inf:
            self._forget()
        self._settle()

    def _follow_stream(self) -> None:
        """Begin anew with another stream, or where that begins anew."""
        of = self._order.stream, self._order.total.restarts
        if of != self._of:
            before, self._of = self._of[0], of
            if before is not None:  # else what waits may repair what comes first
                self._forget()

    def _forget(self) -> None:
        self._decoder = FecDecoder()
        self._aside.clear()
        self._unclaimed = []
        self._settle()

    def _take_media(self, batch: Batch) -> Iterable[Batch]:
        came = [*zip(BatchColumns(batch).addresses, map(bytes, batch.payloads), strict=True)]
        if (stream := self._order.stream) is None:
            self._unclaimed = came
            return
        wire, came, self._unclaimed = self._order.wire, self._unclaimed + came, []
        # Anybody may send this SSRC, and what others send neither is repaired nor repairs anything
        recovered = self._decoder.take_media(
            (
                (wire.cells.number(datagram), datagram)
                for address, datagram in came
                if address == stream.address
                and len(datagram) >= wire.cells.end
                and wire.identity_of(datagram) == stream.identity
            ),
            (stream.order.next - 1) % SEQUENCES,
        )
        if recovered:
            yield from self._restore(recovered, Sorting(batch, self._now()).copy(len(batch) - 1))
        self._decoder.forget_old()

    def _put_aside(self, batch: Batch) -> None:
        """Have repair wait until the media that was sent before it is read."""
        sorting, stream = Sorting(batch, self._now()), self._order.stream
        for index, (datagram, address) in enumerate(
            zip(batch.payloads, sorting.columns.addresses, strict=True)
        ):
            if stream is not None and address != stream.address:  # before it costs anything
                self._dropped[OTHER_SENDER] += 1
            elif (packet := parse_fec(datagram)) is None:
                self._dropped[NOT_FEC] += 1
            elif len(self._aside) == KEPT_FEC_PACKETS:
                self._dropped[FEC_SURPLUS] += 1
            else:
                self._accounted += 1
                self._aside.append(_Aside(sorting.now + READ_SECONDS, packet, sorting.copy(index)))

    def _take_repair(self, now: float) -> Iterable[Batch]:
        while self._aside and self._aside[0].due <= now:
            aside, stream = self._aside.popleft(), self._order.stream
            if stream is not None and aside.datagram.addresses[0] != stream.address:
                self._accounted -= 1
                self._dropped[OTHER_SENDER] += 1
            elif self._decoder.is_ahead(aside.packet):  # not before: the media may not have been read yet
                self._accounted -= 1
                self._dropped[FEC_AHEAD] += 1
            elif recovered := self._decoder.take_fec(aside.packet):
                yield from self._restore(recovered, aside.datagram)

    def _restore(self, recovered: list[tuple[int, bytes]], like: ListBatch) -> Iterable[Batch]:
        """Have packets take their place in the stream, as if they had come with ``like``."""
        self._accounted -= len(recovered)
        packets = [replace(like, payloads=[packet]) for _, packet in recovered]
        before = self._dropped.total()
        yield from self._order.restore(packets)
        self.repaired += len(packets) - (self._dropped.total() - before)

    def _settle(self) -> None:
        """Drop the repair packets that the decoder keeps no longer."""
        waiting, displaced = self._waiting, self._decoder.displaced
        self._decoder.displaced = 0
        self._dropped[FEC] += self._accounted - waiting - displaced
        if displaced:
            self._dropped[FEC_SURPLUS] += displaced
        self._accounted = waiting
