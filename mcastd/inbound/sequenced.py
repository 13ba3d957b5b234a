"""``protocol = "rtp"``, ``"moldudp64"``, ``"sequence"``: numbered datagrams, sorted by their numbers.

```
  datagrams --+-- a batch in order, of the stream that is received: goes on as it is
              |
              +-- what is of a stream by a column, all else one by one --> which place? --> arrivals.py
```

Of RTP and MoldUDP64 one stream is received; a number at a place tells the order of each sender, and no more
(numbered_streams.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mcastd import clock
from mcastd.clock import Clock
from mcastd.counters import SequenceCounters, copy_of
from mcastd.inbound.arrivals import DUPLICATE, LATE, STRAY, NumberedArrivals
from mcastd.inbound.numbered_streams import OTHER_STREAM, NumberedKey, NumberedStreams, OfStream
from mcastd.inbound.pieces import joined
from mcastd.inbound.sequencer import Sequencer
from mcastd.inbound.sorting import Numbered, Sorting, by_address
from mcastd.net.link import Batch, ListBatch
from mcastd.rows import RowBytes, Rows
from mcastd.sequence.order import Arrival, Order
from mcastd.sequence.reorder import HeldRoom
from mcastd.sequence.stream import Wire
from mcastd.status import Misfit, SequenceStatus, SubscriptionStatus
from mcastd.worker import Books, Vitals

# What comes where each datagram's number is far from that of the one before it.
FAR_NUMBERS = "the numbers of what comes are all far from each other, so they are none, or stand elsewhere"

# Of a stream, at least so many datagrams of a batch are sorted by their column.
COLUMN_MIN = 3
# Far from what came before, as where a sender begins anew.
FAR = frozenset((Arrival.STRAY, Arrival.RESTART))


class NumberedSequencer(Sequencer):
    """What all kinds of numbered datagrams have in common."""

    own_reasons: Sequence[str] = ()
    is_exclusive = True  # one stream is received, and no other beside it
    measures_jitter = False

    def __init__(
        self, wire: Wire, wanted: bytes | None, dropped: Counter[str], now: Clock = clock.monotonic
    ) -> None:
        """``wanted`` is the identity of the stream that is received; None: any."""
        self.reasons = (*self.own_reasons, DUPLICATE, STRAY, LATE)
        self.total = SequenceCounters()
        self._wire = wire
        self._cells = wire.cells
        self._has_counts = wire.cells.has_counts
        self._wanted = wanted
        self._now = now
        room = HeldRoom()
        self._streams = NumberedStreams(wire, wanted, self.total, room, is_exclusive=self.is_exclusive)
        self._arrivals = NumberedArrivals(wire, dropped, room, self._explain)
        self._misfits = self._arrivals.misfits
        # The numbers of the batch that was sorted last, if it was given on just so, and all of it is NEXT:
        # a range if it has each from first to last, and else with the indices behind gaps; or None
        self.numbers: Sequence[int] | None = None
        self.breaks: Sequence[int] = ()

    @property
    def wire(self) -> Wire:
        return self._wire

    @property
    def stream(self) -> OfStream | None:
        """The stream that was heard last."""
        return self._streams.last

    def count(self, datagram: RowBytes) -> int:
        """How many numbers a datagram of this protocol has."""
        return self._count(datagram)

    # -- what is seen of it

    @property
    def held(self) -> int:
        return self._arrivals.held

    @property
    def known_lost(self) -> int:
        return self._streams.known_lost

    @property
    def misfit(self) -> Misfit | None:
        """Why it accepts nothing of what comes; None: it does, or nothing comes."""
        return self._arrivals.misfits.told

    @property
    def problem(self) -> str:
        return self._arrivals.misfits.problem

    @property
    def deadline(self) -> float:
        return min(self._arrivals.deadline, self._streams.deadline)

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        senders = self._streams.describe(self._now())
        sequence = SequenceStatus(counters=copy_of(self.total), senders=senders)
        return replace(status, sequence=sequence, misfit=self.misfit)

    def enter(self, books: Books) -> Books:
        jitter = None if (last := self._streams.last) is None else last.jitter
        seconds = (0.0 if self.measures_jitter else None) if jitter is None else jitter.value
        return books._replace(sequence=self.total, jitter=seconds)

    def note(self, vitals: Vitals) -> Vitals:
        return vitals._replace(lost=self.total.lost)

    # -- a kind's own

    @abstractmethod
    def _refusal(self, datagram: RowBytes) -> str:
        """Why a datagram is none of this protocol; "" if it is one."""

    def _explain(self, reason: str, head: bytes, size: int) -> Misfit:
        """Say why such a datagram is refused: see :data:`misfits.ExplainMisfit`."""
        return Misfit(reason=reason, comes=FAR_NUMBERS)

    def _fits(self, size: int, count: int) -> bool:
        """Return True if a datagram of this size may have ``count`` numbers."""
        return True

    def _begin(self, stream: OfStream, datagram: RowBytes) -> None:
        """A stream begins with this datagram."""

    def _unwanted(self, datagram: RowBytes) -> str:
        """Why a datagram does not go on, though it may be the first of the stream; "" if it does."""
        return ""

    def _is_foreign(self, stream: OfStream, datagram: RowBytes, now: float) -> bool:
        """Return True for a datagram that has its place in a stream, but is not to be received."""
        return False

    def _is_end(self, datagram: RowBytes) -> bool:
        """Return True if a datagram says that its stream has ended. It is never in order by the column."""
        return False

    def _measure(self, stream: OfStream, column: bytes, times: Sequence[int]) -> None:
        """Take the kernel's times of datagrams of one stream, with their cells."""

    # -- datagrams

    def feed(self, batch: Batch) -> Iterable[Batch]:
        now = self._now()
        return self.sort(batch, now) if self.follow(batch, now) < 0 else (batch,)

    def follow(self, batch: Batch, now: float) -> int:
        """Take a batch if all of it goes on in order with the stream that was heard last.

        Returns how many numbers it has; -1: it does not, and has to be sorted.
        """
        stream = self._streams.last
        if stream is None or ((reorder := stream.reorder) is not None and stream.is_waiting):
            return -1
        address = stream.address
        for sender, _ in batch.sources:
            if sender != address:
                return -1
        order, rows = stream.order, batch.rows
        if (count := self._cells.follow(rows, stream.fixed, order.next)) < 0:
            return -1
        datagrams = count
        if self._has_counts:
            datagrams = len(batch)
            if count != datagrams and not self._fits(min([one.size for one in rows]), count // datagrams):
                return -1
        if order.gaps or not order.is_confirmed:
            order.advance(count)
        else:  # all that it would do
            order.next += count
        stream.heard = order.went_on = now
        stream.datagrams += datagrams
        if reorder is not None:
            reorder.next = order.next
        if stream.jitter is not None and (times := batch.times):
            self._measure(stream, self._cells.column_in(rows), times)
        if self._misfits.number:
            self._misfits.accept()
        return count

    def hold_back(self, seconds: float) -> None:
        self._streams.hold_back(seconds)

    def expire(self, now: float) -> Iterable[Batch]:
        due = self._streams.expire(now)
        return joined(due + self._arrivals.expire(now))

    def restore(self, datagrams: Sequence[ListBatch]) -> Iterable[Batch]:
        """Take datagrams of the stream that is received, which did not come, and were made of others.

        Each is a batch by itself. What was not missing, or comes too late, is dropped.
        """
        stream = self._streams.last
        assert stream is not None
        return joined(self._arrivals.restore(stream, datagrams, self._now()))

    def _column_of(self, batch: Batch, rows: Sequence[Rows], stream: OfStream) -> bytes:
        """The cells of a batch, if all of it is of the sender of a stream, and long enough; b"" if not."""
        sources = batch.sources
        if len(sources) > 1 or (sources and sources[0][0] != stream.address):
            return b""
        return self._cells.column_in(rows)

    def sort(self, batch: Batch, now: float) -> Iterator[Batch]:
        """Take a batch that is not simply in order. Returns what may go on now."""
        self.numbers, self.breaks = None, ()
        sorting = Sorting(batch, now)
        stream = self._streams.last
        if stream is None or not self._sort_whole(sorting, stream):
            self._sort_by_sender(sorting)
        self._arrivals.end(sorting)
        if sorting.given == [*range(len(batch))]:
            yield batch
        elif sorting.given:
            yield sorting.picked()

    def _sort_whole(self, sorting: Sorting, stream: OfStream) -> bool:
        """Sort a batch of which all is of one stream by its column, if it is. Returns True if so."""
        batch, cells = sorting.batch, self._cells
        rows = batch.rows
        column = self._column_of(batch, rows, stream)
        if not column or not cells.have_fixed(column, stream.fixed):
            return False
        counts = cells.counts_of(column)
        if counts is not None and not self._fits(min([one.size for one in rows]), max(counts)):
            return False
        self._sort_column(sorting, stream, column, range(len(batch)), batch.times)
        return True

    def _sort_by_sender(self, sorting: Sorting) -> None:
        """Sort a batch of several senders, or with something strange in it: what is of a stream by its
        column, and what is left datagram by datagram, so that it costs the stream nothing."""
        columns = sorting.columns
        payloads, times, addresses = columns.payloads, columns.times, columns.addresses
        left = dict.fromkeys(range(len(payloads)))
        for address, of_sender in by_address(sorting.batch).items():
            stream = self._streams.of_sender(address) if len(of_sender) >= COLUMN_MIN else None
            own = () if stream is None else self._own(stream, payloads, of_sender)
            if stream is not None and len(own) >= COLUMN_MIN:
                column = self._cells.column_of([payloads[index] for index in own])
                self._sort_column(sorting, stream, column, own, [times[at] for at in own] if times else ())
                sorting.end_part()
                for index in own:
                    del left[index]
        for index in left:
            self._sort_one(sorting, index, payloads[index], addresses[index])
        sorting.end_part()
        if self.numbers is not None and len(self.numbers) != len(sorting.given):
            self.numbers, self.breaks = None, ()

    def _own(self, stream: OfStream, payloads: Sequence[RowBytes], of_sender: Sequence[int]) -> Sequence[int]:
        """Which of a sender's datagrams are of its stream. None if some are that do not look like the others:
        they have their place among these, and no column."""
        wire, cells = self._wire, self._cells
        known = [at for at in of_sender if len(payloads[at]) >= cells.end]
        column = cells.column_of([payloads[at] for at in known])
        strange = {known[place] for place in cells.unlike(column, stream.fixed)}
        if (counts := cells.counts_of(column)) is not None:
            known_counts = zip(known, counts, strict=True)
            strange.update(at for at, count in known_counts if not self._fits(len(payloads[at]), count))
        strange.update({*of_sender}.difference(known))
        for at in strange:
            if wire.identity_of(payloads[at]) == stream.identity and not self._refusal(payloads[at]):
                return ()
        return [at for at in of_sender if at not in strange]

    def _sort_column(
        self,
        sorting: Sorting,
        stream: OfStream,
        column: bytes,
        indices: Sequence[int],
        times: Sequence[int],
    ) -> None:
        """Sort datagrams of one stream, by their indices in the batch, cells and the kernel's times."""
        cells, order = self._cells, stream.order
        counts, numbers = cells.counts_of(column), cells.numbers_of(column)
        was_waiting = stream.is_waiting
        places = dict(order.walk(numbers, counts, sorting.now))
        stream.heard = sorting.now
        stream.datagrams += len(numbers)
        self._streams.last = stream
        if stream.jitter is not None and times:
            self._measure_column(stream, column, times, places)
        reorder = stream.reorder
        is_next = reorder is None or not (order.breaks or was_waiting)
        if not places and counts is None and is_next:
            sorting.given += indices
            if reorder is not None:
                reorder.next = order.next
            whole = range(order.next - len(numbers), order.next)
            self.numbers, self.breaks = numbers if order.breaks else whole, order.breaks
            return
        for place, (index, number) in enumerate(zip(indices, numbers, strict=True)):
            one = Numbered(index, number, 1 if counts is None else counts[place])
            self._arrivals.put(sorting, one, places.get(place, Arrival.NEXT), stream)

    def _sort_one(self, sorting: Sorting, index: int, datagram: RowBytes, address: str) -> None:
        if reason := self._refusal(datagram):
            self._arrivals.refuse(reason, datagram, sorting.now)
            return
        wire, now = self._wire, sorting.now
        number, count = wire.cells.number(datagram), self._count(datagram)
        key = address, wire.identity_of(datagram)
        stream = self._streams.get(key)
        if stream is None:
            if not self._may_begin(sorting, index, key, number, count):
                return
            stream = self._begin_stream(sorting, key, datagram, number)
            stream.order.begin(count)
            arrival = Arrival.NEXT
        else:
            arrival = stream.order.place(number, count, now)
        stream.heard = now
        stream.datagrams += 1
        self._streams.last = stream
        if self._is_end(datagram):
            stream.over_at = stream.order.next
        if stream.jitter is not None and arrival is not Arrival.STRAY:
            if arrival is Arrival.RESTART:
                stream.jitter.begin_anew()
            self._measure_one(stream, sorting.copy(index))
        is_foreign = self._is_foreign(stream, datagram, now)
        self._arrivals.put(sorting, Numbered(index, number, count), arrival, stream, is_foreign=is_foreign)

    def _count(self, datagram: RowBytes) -> int:
        return self._cells.count(datagram)

    def _may_begin(self, sorting: Sorting, index: int, key: NumberedKey, number: int, count: int) -> bool:
        """Return True if another stream is to be received from this datagram on; else that is sorted."""
        streams, arrivals, datagram = self._streams, self._arrivals, sorting.columns.payloads[index]
        if not streams.is_wanted(key[1]):
            arrivals.refuse(OTHER_STREAM, datagram, sorting.now)
        elif reason := streams.refusal(key, sorting.now):
            arrivals.drop(reason)
        elif streams.is_confirmed(key, number, count):
            return True
        elif reason := self._unwanted(datagram):
            arrivals.refuse(reason, datagram, sorting.now)
        else:
            arrivals.put_aside(sorting, index)
        return False

    def _begin_stream(self, sorting: Sorting, key: NumberedKey, datagram: RowBytes, number: int) -> OfStream:
        """Begin to receive a stream, of RTP and MoldUDP64 in place of another one."""
        wire = self._wire
        stream = OfStream(*key, Order(wire.numbering, number, self.total), wire.cells.fixed_of(datagram))
        self._begin(stream, datagram)
        sorting.given += self._streams.begin(stream, sorting.now)
        if self.is_exclusive and self._arrivals.release(sorting, stream):
            stream.datagrams = 1  # the first one, which has waited for this one
            first = sorting.given[-1]
            if stream.jitter is not None:
                self._measure_one(stream, first if isinstance(first, ListBatch) else sorting.copy(first))
        return stream

    def _measure_column(
        self, stream: OfStream, column: bytes, times: Sequence[int], places: Mapping[int, Arrival]
    ) -> None:
        """Take the kernel's times of a column. What is far off is left out; where it begins anew, the
        timestamps do."""
        assert stream.jitter is not None
        size, begin = self._cells.size, 0
        for place in sorted([at for at, arrival in places.items() if arrival in FAR]):
            self._measure(stream, column[begin * size : place * size], times[begin:place])
            begin = place + 1
            if places[place] is Arrival.RESTART:
                stream.jitter.begin_anew()
                begin = place
        self._measure(stream, column[begin * size :], times[begin:])

    def _measure_one(self, stream: OfStream, one: ListBatch) -> None:
        if one.times:
            cells = self._cells
            self._measure(stream, bytes(one.payloads[0][cells.at : cells.end]), one.times)
