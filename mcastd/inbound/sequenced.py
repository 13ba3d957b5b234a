"""``protocol = "rtp"``, ``"moldudp64"``, ``"sequence"``: numbered datagrams, and what became of them.

```
  datagrams --+-- a batch in order, of the stream that is received: goes on as it is
              |
              +-- what is of a stream by a column, all else one by one --> which place? --+--> goes on
                                                                                   +--> is dropped, by reason
                                                                                   +--> waits for the next one
```

Of RTP and MoldUDP64 one stream is received; a number at a place tells the order of each sender, and no more.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mcastd import clock
from mcastd.clock import Clock
from mcastd.counters import SequenceCounters, copy_of
from mcastd.inbound.aside import Aside
from mcastd.inbound.misfits import Misfits
from mcastd.inbound.sequencer import Sequencer
from mcastd.inbound.sorting import Numbered, Sorting, by_address, joined
from mcastd.net.link import Batch, ListBatch
from mcastd.rows import RowBytes, Rows
from mcastd.sequence.jitter import Jitter
from mcastd.sequence.order import Arrival, Order
from mcastd.sequence.reorder import HeldRoom, Reorder, Turn
from mcastd.sequence.stream import NumberedStream, Wire
from mcastd.status import JitterStatus, Misfit, NumberedSender, SequenceStatus, SubscriptionStatus
from mcastd.worker import Books, Vitals

# Reasons to drop a datagram.
DUPLICATE = "duplicate"  # it has come before
LATE = "late"  # later ones have gone on, since it was not waited for so long: see hold_back()
STRAY = "stray"  # its number is far off, or it is the first of a stream, and its successor did not come
OTHER_SENDER = "other-sender"  # another sender's than the one that is received
OTHER_STREAM = "other-stream"  # of another SSRC or session than the one that is received
TOO_MANY_SENDERS = "too-many-senders"
OTHER_PAYLOAD_TYPE = "other-payload-type"

# What comes where each datagram's number is far from that of the one before it.
FAR_NUMBERS = "the numbers of what comes are all far from each other, so they are none, or stand elsewhere"

# Another stream is received in place of one that has been silent for so long, or that has said that it ends.
SILENT_SECONDS = 1.0
# Streams that may become the one that is received; of more, those that were heard last.
CANDIDATES_MAX = 1024
# Of a stream, at least so many datagrams of a batch are sorted by their column.
COLUMN_MIN = 3
# Senders whose order is kept, where all are received. Of more, those make room that were never in order,
# since they may be anybody, and then those that are silent.
SENDERS_MAX = 64
# Of these, the status shows those that were in order, and were heard last.
SENDERS_SHOWN = 10


# Far from what came before, as where a sender begins anew.
FAR = frozenset((Arrival.STRAY, Arrival.RESTART))

OfStream = NumberedStream[ListBatch]


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
        self._wanted = wanted
        self._dropped = dropped
        self._now = now
        self._streams: dict[tuple[str, bytes], OfStream] = {}
        self._last: OfStream | None = None  # the one that was heard last
        # Of streams that may be received next: the number that would confirm them
        self._candidates: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._aside = Aside()
        self._known_lost = 0  # of streams that are forgotten
        self._hold_seconds = 0.0
        self._room = HeldRoom()
        self._misfits = Misfits(self._explain)
        # The numbers of the batch that was given on last, if it was fed just so, and all of it is NEXT:
        # a range if it has each from first to last, and else with the indices behind gaps; or None
        self.numbers: Sequence[int] | None = None
        self.breaks: Sequence[int] = ()

    @property
    def wire(self) -> Wire:
        return self._wire

    @property
    def stream(self) -> OfStream | None:
        """The stream that was heard last."""
        return self._last

    def count(self, datagram: RowBytes) -> int:
        """How many numbers a datagram of this protocol has."""
        return self._count(datagram)

    # -- what is seen of it

    @property
    def held(self) -> int:
        return self._room.number + len(self._aside)

    @property
    def known_lost(self) -> int:
        return self._known_lost + sum([stream.order.known_lost for stream in self._streams.values()])

    @property
    def misfit(self) -> Misfit | None:
        """Why it accepts nothing of what comes; None: it does, or nothing comes."""
        return self._misfits.told

    @property
    def problem(self) -> str:
        return self._misfits.problem

    @property
    def deadline(self) -> float:
        found = min(self._aside.until, self._misfits.deadline)
        for stream in self._streams.values():
            found = min(found, stream.order.deadline)
            if stream.reorder is not None:
                found = min(found, stream.reorder.deadline)
        return found

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        now = self._now()
        streams = sorted(
            self._streams.copy().values(), key=lambda one: (not one.order.is_confirmed, -one.heard)
        )
        senders = [self._sender(one, now) for one in streams[:SENDERS_SHOWN]]
        sequence = SequenceStatus(counters=copy_of(self.total), senders=(*senders,))
        return replace(status, sequence=sequence, misfit=self.misfit)

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

    def enter(self, books: Books) -> Books:
        jitter = None if (last := self._last) is None else last.jitter
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
        now, stream = self._now(), self._last
        self.numbers, self.breaks = None, ()
        begin = 0 if stream is None else stream.order.next
        if stream is not None and not stream.is_waiting and self._goes_on(batch, stream):
            self.numbers = range(begin, stream.order.next)
            stream.heard = stream.order.went_on = now
            self._misfits.accept()
            stream.datagrams += len(batch)
            if stream.reorder is not None:
                stream.reorder.next = stream.order.next
            return (batch,)
        return self._sort(batch, now)

    def hold_back(self, seconds: float) -> None:
        self._hold_seconds = seconds
        for stream in self._streams.values():
            self._begin_order(stream)

    def _count_strays(self) -> None:
        if strays := self._room.take_strays():
            self._dropped[STRAY] += strays

    def _begin_order(self, stream: OfStream) -> None:
        """Put what comes of a stream in order from now on, or no longer: then what is held is due."""
        seconds = self._hold_seconds
        if stream.reorder is not None:
            stream.reorder.seconds = seconds
            if not seconds and not len(stream.reorder):
                stream.reorder = None
        elif seconds:
            stream.reorder = Reorder(seconds, self._wire.numbering.numbers, stream.order.next, self._room)

    def expire(self, now: float) -> Iterable[Batch]:
        due: list[ListBatch] = []
        self._misfits.look(now)
        for stream in self._streams.values():
            stream.order.expire(now)
            if (reorder := stream.reorder) is not None:
                due += reorder.expire(now)
                self._count_strays()
                if not reorder.seconds:
                    stream.reorder = None
        if (aside := self._aside.expire(now)) is not None:
            if now == math.inf:
                due.append(aside)
            else:
                self._dropped[STRAY] += 1
        return joined(due)

    def restore(self, datagrams: Sequence[ListBatch]) -> Iterable[Batch]:
        """Take datagrams of the stream that is received, which did not come, and were made of others.

        Each is a batch by itself. What was not missing, or comes too late, is dropped.
        """
        stream, now = self._last, self._now()
        assert stream is not None
        given: list[ListBatch] = []
        for one in datagrams:
            number, reorder = self._wire.cells.number(one.payloads[0]), stream.reorder
            if not stream.order.restore(number, now):
                self._dropped[DUPLICATE] += 1
            elif reorder is None:
                given.append(one)
            elif (turn := reorder.turn(number, 1)) is Turn.NOW:
                given += [one, *reorder.go_on(number, 1, now)]
            elif turn is Turn.LATER:
                given += reorder.hold(number, 1, one, one.size, now)
                self._count_strays()
            else:
                self._dropped[LATE] += 1
        return joined(given)

    def _column_of(self, batch: Batch, rows: Sequence[Rows], stream: OfStream) -> bytes:
        """The cells of a batch, if all of it is of the sender of a stream, and long enough; b"" if not."""
        sources, cells = batch.sources, self._wire.cells
        if len(sources) > 1 or (sources and sources[0][0] != stream.address):
            return b""
        if len(rows) == 1:
            (one,) = rows
            return one.cells(cells.at, cells.size) if one.size >= cells.end else b""
        if min([one.size for one in rows]) < cells.end:
            return b""
        return b"".join([one.cells(cells.at, cells.size) for one in rows])

    def _goes_on(self, batch: Batch, stream: OfStream) -> bool:
        """Return True if all datagrams of a batch go on in order with this stream, and count them there."""
        rows, order = batch.rows, stream.order
        column = self._column_of(batch, rows, stream)
        if not column or (count := self._wire.cells.in_order(column, stream.fixed, order.next)) < 0:
            return False
        if count != len(batch) and not self._fits(min([one.size for one in rows]), count // len(batch)):
            return False
        order.advance(count)
        if stream.jitter is not None and (times := batch.times):
            self._measure(stream, column, times)
        return True

    def _sort(self, batch: Batch, now: float) -> Iterator[Batch]:
        sorting = Sorting(batch, now)
        stream = self._last
        if stream is None or not self._sort_whole(sorting, stream):
            self._sort_by_sender(sorting)
        self._aside.keep(sorting)
        if sorting.given or self._room.number:
            self._misfits.accept()
        if sorting.given == [*range(len(batch))]:
            yield batch
        elif sorting.given:
            yield sorting.picked()

    def _sort_whole(self, sorting: Sorting, stream: OfStream) -> bool:
        """Sort a batch of which all is of one stream by its column, if it is. Returns True if so."""
        batch, cells = sorting.batch, self._wire.cells
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
        payloads, _, times, addresses = sorting.columns
        left = dict.fromkeys(range(len(payloads)))
        for address, of_sender in by_address(sorting.batch).items():
            stream = self._stream_from(address) if len(of_sender) >= COLUMN_MIN else None
            own = () if stream is None else self._own(stream, payloads, of_sender)
            if stream is not None and len(own) >= COLUMN_MIN:
                column = self._wire.cells.column_of([payloads[index] for index in own])
                self._sort_column(sorting, stream, column, own, [times[at] for at in own] if times else ())
                sorting.end_part()
                for index in own:
                    del left[index]
        for index in left:
            self._sort_one(sorting, index, payloads[index], addresses[index])
        sorting.end_part()
        if self.numbers is not None and len(self.numbers) != len(sorting.given):
            self.numbers, self.breaks = None, ()

    def _stream_from(self, address: str) -> OfStream | None:
        """The stream of a sender that is received."""
        last = self._last
        if self.is_exclusive:
            return last if last is not None and last.address == address else None
        return self._streams.get((address, b""))

    def _own(self, stream: OfStream, payloads: Sequence[RowBytes], of_sender: Sequence[int]) -> Sequence[int]:
        """Which of a sender's datagrams are of its stream. None if some are that do not look like the others:
        they have their place among these, and no column."""
        wire, cells = self._wire, self._wire.cells
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
        cells, order = self._wire.cells, stream.order
        counts, numbers = cells.counts_of(column), cells.numbers_of(column)
        was_waiting = stream.is_waiting
        places = dict(order.walk(numbers, counts, sorting.now))
        stream.heard = sorting.now
        stream.datagrams += len(numbers)
        self._last = stream
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
            self._put(sorting, one, places.get(place, Arrival.NEXT), stream)

    def _sort_one(self, sorting: Sorting, index: int, datagram: RowBytes, address: str) -> None:
        if reason := self._refusal(datagram):
            self._refuse(reason, datagram, sorting.now)
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
        self._last = stream
        if self._is_end(datagram):
            stream.over_at = stream.order.next
        if stream.jitter is not None and arrival is not Arrival.STRAY:
            if arrival is Arrival.RESTART:
                stream.jitter.begin_anew()
            self._measure_one(stream, sorting.copy(index))
        is_foreign = self._is_foreign(stream, datagram, now)
        self._put(sorting, Numbered(index, number, count), arrival, stream, is_foreign=is_foreign)

    def _refuse(self, reason: str, datagram: RowBytes, now: float) -> None:
        """Drop a datagram that is, by the settings, none that is to be received."""
        self._dropped[reason] += 1
        self._misfits.refuse(reason, datagram, now)

    def _count(self, datagram: RowBytes) -> int:
        return self._wire.cells.count(datagram)

    def _may_begin(
        self, sorting: Sorting, index: int, key: tuple[str, bytes], number: int, count: int
    ) -> bool:
        """Return True if another stream is to be received from this datagram on; else that is sorted."""
        if not self.is_exclusive:
            if len(self._streams) < SENDERS_MAX or self._forget_one(sorting):
                return True
            self._dropped[TOO_MANY_SENDERS] += 1
            return False
        identity, last = key[1], self._last
        if self._wanted is not None and identity != self._wanted:
            self._refuse(OTHER_STREAM, sorting.batch.payloads[index], sorting.now)
            return False
        is_over = last is not None and last.is_over and identity != last.identity
        if last is not None and not is_over and sorting.now < last.heard + SILENT_SECONDS:
            self._dropped[OTHER_SENDER if identity == last.identity else OTHER_STREAM] += 1
            return False
        if self._candidates.get(key) == number:
            return True
        self._candidates[key] = (number + count) % self._wire.numbering.numbers
        self._candidates.move_to_end(key)
        if len(self._candidates) > CANDIDATES_MAX:
            self._candidates.popitem(last=False)
        if reason := self._unwanted(datagram := sorting.batch.payloads[index]):
            self._refuse(reason, datagram, sorting.now)
        else:
            self._put_aside(sorting, index)
        return False

    def _begin_stream(
        self, sorting: Sorting, key: tuple[str, bytes], datagram: RowBytes, number: int
    ) -> OfStream:
        """Begin to receive a stream, of RTP and MoldUDP64 in place of another one."""
        wire = self._wire
        stream = OfStream(*key, Order(wire.numbering, number, self.total), wire.cells.fixed_of(datagram))
        self._begin(stream, datagram)
        if self.is_exclusive:
            self._candidates.clear()
            if (last := self._last) is not None:
                self.total.restarts += 1
                self._forget(sorting, last)
            if self._release(sorting, stream):
                stream.datagrams = 1  # the first one, which has waited for this one
                first = sorting.given[-1]
                if stream.jitter is not None:
                    self._measure_one(stream, first if isinstance(first, ListBatch) else sorting.copy(first))
        self._begin_order(stream)
        self._streams[key] = stream
        return stream

    def _measure_column(
        self, stream: OfStream, column: bytes, times: Sequence[int], places: Mapping[int, Arrival]
    ) -> None:
        """Take the kernel's times of a column. What is far off is left out; where it begins anew, the
        timestamps do."""
        assert stream.jitter is not None
        size, begin = self._wire.cells.size, 0
        for place in sorted([at for at, arrival in places.items() if arrival in FAR]):
            self._measure(stream, column[begin * size : place * size], times[begin:place])
            begin = place + 1
            if places[place] is Arrival.RESTART:
                stream.jitter.begin_anew()
                begin = place
        self._measure(stream, column[begin * size :], times[begin:])

    def _measure_one(self, stream: OfStream, one: ListBatch) -> None:
        if one.times:
            cells = self._wire.cells
            self._measure(stream, bytes(one.payloads[0][cells.at : cells.end]), one.times)

    def _forget_one(self, sorting: Sorting) -> bool:
        """Forget a sender that was never in order, or else one that is silent: that which was heard first.
        Returns False if there is none."""
        stream = min(self._streams.values(), key=lambda one: (one.order.is_confirmed, one.heard))
        if stream.order.is_confirmed and sorting.now < stream.heard + SILENT_SECONDS:
            return False
        self._forget(sorting, stream)
        return True

    def _forget(self, sorting: Sorting, stream: OfStream) -> None:
        """Receive nothing more of a stream; what is held of it goes on."""
        stream.order.expire(math.inf)
        self._known_lost += stream.order.known_lost
        if stream.reorder is not None:
            sorting.given += stream.reorder.expire(math.inf)
        del self._streams[stream.address, stream.identity]

    def _put(
        self, sorting: Sorting, one: Numbered, arrival: Arrival, stream: OfStream, *, is_foreign: bool = False
    ) -> None:
        """Have a datagram go where its arrival says."""
        index, number, count, reorder = one.index, one.number, one.count, stream.reorder
        if arrival is Arrival.RESTART:
            if reorder is not None:
                sorting.given += reorder.expire(math.inf)
                reorder.next = number
            self._release(sorting, stream)
        if arrival is Arrival.DUPLICATE:
            self._dropped[DUPLICATE] += 1
        elif is_foreign:
            self._refuse(OTHER_PAYLOAD_TYPE, sorting.batch.payloads[index], sorting.now)
            if reorder is not None and reorder.turn(number, count) is Turn.NOW:
                sorting.given += reorder.go_on(number, count, sorting.now)
        elif arrival is Arrival.STRAY:
            self._put_aside(sorting, index)
        elif reorder is None:
            sorting.given.append(index)
        elif (turn := reorder.turn(number, count)) is Turn.NOW:
            sorting.given += [index, *reorder.go_on(number, count, sorting.now)]
        elif turn is Turn.LATER:
            copy = sorting.copy(index)
            sorting.given += reorder.hold(number, count, copy, copy.size, sorting.now)
            self._count_strays()
        else:
            self._dropped[LATE] += 1

    def _put_aside(self, sorting: Sorting, index: int) -> None:
        """Have a datagram wait for its successor, in place of another one that did."""
        if self._aside.put(sorting, index):
            self._refuse(STRAY, sorting.batch.payloads[index], sorting.now)

    def _release(self, sorting: Sorting, stream: OfStream) -> bool:
        """Let the datagram of this stream go on that waits for its successor. Returns False if there is none:
        of several strangers the last one waits."""
        if (aside := self._aside.take(sorting)) is None:
            return False
        waiting, payload, address = aside
        if (address, self._wire.identity_of(payload)) != (stream.address, stream.identity):
            self._refuse(STRAY, payload, sorting.now)
            return False
        sorting.given.append(waiting)
        return True


def _described(jitter: Jitter) -> JitterStatus:
    return JitterStatus(now_ms=1000 * jitter.value, mean_ms=1000 * jitter.mean, most_ms=1000 * jitter.most)
