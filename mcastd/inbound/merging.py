"""``legs`` with numbered datagrams: SMPTE ST 2022-7 for RTP, line arbitration for market data.

```
  leg A --> its order (sequenced.py) --+
                                       +--> one merge (sequence/merge.py) --> in order, each number once
  leg B --> its order -----------------+
```

Each leg has the whole of its protocol: which stream it is, what that leg lost, where its sender began anew.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mcastd import clock
from mcastd.clock import Clock
from mcastd.counters import SequenceCounters, copy_of
from mcastd.inbound.arrivals import LATE, STRAY
from mcastd.inbound.leg_place import LegPlace, beginning_of, breaks_of
from mcastd.inbound.legs import OTHER_LEG, SILENT_SECONDS, LegAccount, LegsSequencer
from mcastd.inbound.misfits import Misfits
from mcastd.inbound.numbered_streams import OTHER_STREAM
from mcastd.inbound.pieces import joined
from mcastd.inbound.sequenced import NumberedSequencer
from mcastd.inbound.sorting import Sorting
from mcastd.net.link import Batch
from mcastd.sequence.merge import Fate, Merge
from mcastd.sequence.reorder import HeldRoom
from mcastd.status import Misfit, SequenceStatus, SubscriptionStatus
from mcastd.worker import Books, Vitals

# Datagrams without numbers, as heartbeats, go on by one leg; by another when none has come for so long.
HEARTBEAT_SECONDS = 2.0
# If a deadline is met so much too late, this process had no processor, and what was waited for may have come.
STALL_SECONDS = 0.02
# What has come is surely read in this time.
READ_SECONDS = 0.005


@dataclass(slots=True)
class _Taking:
    """A batch of one leg, and what goes on of it and since it has come."""

    leg: LegAccount
    sorting: Sorting
    parts: list[Batch] = field(default_factory=list)


class MergingSequencer(LegsSequencer):
    """Numbered datagrams of several legs as one stream."""

    def __init__(
        self,
        labels: Sequence[str],
        make_order: Callable[[], NumberedSequencer],
        dropped: Counter[str],
        worker: str,
        now: Clock = clock.monotonic,
    ) -> None:
        super().__init__(labels, dropped, worker, now)
        self._make_order = make_order
        # Replaced, never changed: others read it
        self._places = {leg: self._new_place() for leg in self.legs}
        # Of all legs that ever were
        self._totals = [place.order.total for place in self._places.values()]
        order = self._places[self.legs[0]].order
        self.reasons = tuple(dict.fromkeys([*order.reasons, OTHER_STREAM, LATE, OTHER_LEG]))
        self.total = SequenceCounters()
        self._wire = order.wire
        self._room = HeldRoom()
        self._merge: Merge[Batch] | None = None
        self._known_lost = 0  # of merges before
        self._identity = b""
        self._heartbeat_of: LegAccount | None = None
        self._heartbeat_at = -math.inf  # monotonic seconds

    def _new_place(self) -> LegPlace:
        return LegPlace(self._make_order(), Misfits(self._explain))

    # -- what is seen of it

    @property
    def held(self) -> int:
        return self._room.number + sum([place.order.held for place in self._places.values()])

    @property
    def deadline(self) -> float:
        found = super().deadline
        for place in self._places.values():
            found = min(found, place.order.deadline, place.misfits.deadline)
        return found if self._merge is None else min(found, self._merge.deadline)

    @property
    def known_lost(self) -> int:
        return self._known_lost + (0 if self._merge is None else self._merge.known_lost)

    def lost_by(self, leg: LegAccount) -> int:
        return self._places[leg].order.total.lost

    def sender_of(self, leg: LegAccount) -> str:
        stream = self._places[leg].stream
        return "" if stream is None else stream.address

    def misfit_of(self, leg: LegAccount) -> Misfit | None:
        place = self._places[leg]
        return place.order.misfit or place.misfits.told

    def _explain(self, reason: str, head: bytes, _: int) -> Misfit:
        comes, merged = map(self._wire.describe, (self._wire.identity_of(head), self._identity))
        text = f"stream {comes} comes by it, and {merged} by another"
        if comes == merged:
            text = "its numbers are far from those of another"
        return Misfit(reason=reason, comes=text)

    def describe(self, status: SubscriptionStatus) -> SubscriptionStatus:
        status = super().describe(status)
        found = [place.order.describe(status).sequence for place in self._places.values()]
        senders = [sender for one in found if one is not None for sender in one.senders]
        merge = self._merge
        sequence = SequenceStatus(
            counters=self._counted(), senders=(*senders,), missing=merge.missing if merge else 0
        )
        return replace(status, sequence=sequence)

    def _counted(self) -> SequenceCounters:
        """What became of the merged stream; what came twice by one leg is counted there."""
        duplicated = sum(total.duplicated for total in self._totals)
        return replace(copy_of(self.total), duplicated=duplicated)

    def enter(self, books: Books) -> Books:
        jitters = [place.order.enter(books).jitter for place in self._places.values()]
        known = [jitter for jitter in jitters if jitter is not None]
        return super().enter(books)._replace(sequence=self._counted(), jitter=max(known, default=None))

    def note(self, vitals: Vitals) -> Vitals:
        return vitals._replace(lost=self.total.lost)

    # -- datagrams

    def hold_back(self, seconds: float) -> None:
        super().hold_back(seconds)
        if self._merge is not None:
            self._merge.seconds = seconds

    def change_legs(self, labels: Sequence[str]) -> bool:
        before, legs = [*self.legs], list[LegAccount]()
        for index, label in enumerate(labels):
            leg = next((one for one in before if one.label == label), None) or LegAccount(index, label)
            if leg in before:
                before.remove(leg)
            leg.index = index
            leg.end_wait()
            legs.append(leg)
        # What waits for its successor by a leg that there is no longer
        self._dropped[STRAY] += sum(self._places[leg].order.held for leg in before)
        places = {leg: self._places.get(leg) or self._new_place() for leg in legs}
        self._totals += [place.order.total for leg, place in places.items() if leg not in self._places]
        self._places = {**self._places, **places}
        self.legs = legs
        self._places = places
        self.note_senders()
        return True

    def take(self, leg: LegAccount, batch: Batch, now: float) -> Iterable[Batch]:
        order = self._places[leg].order
        if (count := order.follow(batch, now)) >= 0:
            stream = order.stream
            assert stream is not None
            end = stream.order.next
            return self._take_ordered(leg, batch, range(end - count, end), now)
        given: list[Batch] = []
        for one in order.sort(batch, now):
            given += self._take_ordered(leg, one, order.numbers, now)
        return given

    def _take_ordered(
        self, leg: LegAccount, batch: Batch, numbers: Sequence[int] | None, now: float
    ) -> Iterable[Batch]:
        """Take what the order of a leg lets go on. ``numbers``: see NumberedSequencer."""
        merge = self._merge
        if merge is not None and isinstance(numbers, range) and self._places[leg].is_settled:
            begin = merge.next + merge.ahead(numbers.start)
            end = begin + len(numbers)
            if begin == merge.next < end and merge.go_to(end):
                if leg.awaited is not None:
                    self._note_passed(leg, begin, end, None)
                self.go_on(leg, len(batch), now, end - 1)
                return (batch,)
            if begin < end and merge.has_all(begin, end):
                self._note_copies(leg, begin, end, len(batch), now)
                return ()
        return self._sort(leg, Sorting(batch, now), numbers)

    def expire(self, now: float) -> Iterable[Batch]:
        super().expire(now)
        given: list[Batch] = []
        for leg, place in self._places.items():
            place.misfits.look(now)
            for batch in place.order.expire(now):
                given += self._take_ordered(leg, batch, None, min(now, self._now()))
        if (merge := self._merge) is None:
            return given
        if now < math.inf and now - merge.waits_until > STALL_SECONDS:
            merge.wait_until(now + READ_SECONDS)
        merge.give_up_strays(now)
        self._note_strays()
        return [*given, *joined(merge.expire(now))]

    # -- what is not simply in order

    def _sort(self, leg: LegAccount, sorting: Sorting, numbers: Sequence[int] | None) -> Iterable[Batch]:
        place, batch, count = self._places[leg], sorting.batch, len(sorting.batch)
        stream, known = place.order.stream, place.stream
        is_ascending = numbers is not None and len(numbers) == count
        if numbers is None or not is_ascending:
            numbers = [*map(self._wire.cells.number, batch.payloads)]
        taking = _Taking(leg, sorting)
        begins_anew = known is not None and (
            stream is not known or place.restarts != place.order.total.restarts
        )
        at = 0
        if begins_anew and known is not None and (at := beginning_of(batch, numbers, stream, self._wire)):
            if known.identity == self._identity and not place.behind_until:
                self._put(taking, numbers, range(at), breaks_of(numbers, at))
            else:
                self._dropped[LATE] += at
        # One that waited for its successor, which never came, is of no stream
        identity = self._wire.identity_of(batch.payloads[-1]) if stream is None else stream.identity
        if reason := self._admit(taking, identity, numbers[at], begins_anew=begins_anew):
            self._dropped[reason] += count - at
            if reason == OTHER_STREAM:
                place.misfits.refuse(reason, batch.payloads[-1], sorting.now)
        else:
            place.misfits.accept()
            breaks: Sequence[int] = ()
            if not isinstance(numbers, range):
                breaks = place.order.breaks if is_ascending else breaks_of(numbers, count)
            self._put(taking, numbers, range(at, count), breaks)
        return joined(taking.parts)

    def _admit(self, taking: _Taking, identity: bytes, number: int, *, begins_anew: bool) -> str:
        """See where in the merged stream a leg goes on, with this number: maybe that begins anew there.

        Returns the reason to drop what has come; "" if it is to be merged. ``begins_anew``: so it does for
        the order of the leg.
        """
        place, now = self._places[taking.leg], taking.sorting.now
        merge, numbering = self._merge, self._wire.numbering
        patience = SILENT_SECONDS + self.hold_seconds
        if merge is None:
            self._begin(identity, number)
        else:
            others_go_on = now < self._went_on + SILENT_SECONDS
            is_behind = now < place.behind_until
            ahead, far = merge.ahead(number), numbering.numbers // 4
            is_same = identity == self._identity
            if is_same and is_behind and not begins_anew:
                return LATE
            if is_same and begins_anew and not is_behind:
                # One that was away is near, and goes on where the others are
                far, others_go_on = numbering.dropout, False
            if not is_same or abs(ahead) >= far:
                known = place.stream
                is_over = known is not None and known.is_over and known.identity == self._identity
                if others_go_on and not (is_over and not is_same):
                    return OTHER_STREAM
                self._begin_anew(taking, identity, number)
            elif now >= self._went_on + patience and merge.is_missed(number):
                # One datagram far ahead, whoever sent it, and this leg goes on where it was
                self._begin_anew(taking, identity, number)
            elif begins_anew and not is_behind:
                place.rejoined_at = now
            elif place.rejoined_at is not None and now >= place.rejoined_at + patience:
                place.rejoined_at = None
                if ahead < 0 and now >= self._went_on + patience:  # it was none that was away
                    self._begin_anew(taking, identity, number)
        place.behind_until = 0.0
        is_other = place.stream is not place.order.stream
        place.stream, place.restarts = place.order.stream, place.order.total.restarts
        if is_other:
            self.note_senders()
        return ""

    def _begin(self, identity: bytes, number: int) -> None:
        self._identity = identity
        numbers = self._wire.numbering.numbers
        self._known_lost = self.known_lost
        self._merge = Merge(self.hold_seconds, numbers, number, self._room, self.total)

    def _begin_anew(self, taking: _Taking, identity: bytes, number: int) -> None:
        """The sender has begun anew, and this leg is the first to know; what is held of before goes on."""
        if self._merge is not None:
            taking.parts += self._merge.expire(math.inf)
        self.total.restarts += 1
        self._begin(identity, number)
        for other, place in self._places.items():
            other.end_wait()
            if other is not taking.leg:
                place.behind_until = taking.sorting.now + SILENT_SECONDS + self.hold_seconds

    def _put(self, taking: _Taking, numbers: Sequence[int], which: range, breaks: Sequence[int]) -> None:
        """Have datagrams of a batch go where they belong: on, or into what is held, or nowhere.

        ``breaks`` are the indices at which numbers do not go on by one.
        """
        merge, now = self._merge, taking.sorting.now
        assert merge is not None
        if self._wire.cells.has_counts:
            self._put_each(taking, numbers, which)
            return
        index = which.start
        for end in (*[one for one in breaks if one > index], which.stop):
            begin = merge.next + merge.ahead(numbers[index])
            if merge.has_all(begin, begin + end - index):
                self._note_copies(taking.leg, begin, begin + end - index, end - index, now)
                index = end
                continue
            for first, stop, fate in merge.fates(begin, begin + end - index, now):
                datagrams = slice(index + first - begin, index + stop - begin)
                self._apply(taking, fate, datagrams, first, stop)
            index = end

    def _put_each(self, taking: _Taking, numbers: Sequence[int], which: range) -> None:
        """The same where each datagram has a count of numbers, and legs may cut them otherwise."""
        leg, sorting = taking.leg, taking.sorting
        merge, order = self._merge, self._places[leg].order
        assert merge is not None
        for index in which:
            count = order.count(sorting.batch.payloads[index])
            begin = merge.next + merge.ahead(numbers[index])
            datagram = slice(index, index + 1)
            if count:
                fate = merge.fate(begin, begin + count, sorting.now)
                self._apply(taking, fate, datagram, begin, begin + count)
            elif self._is_heartbeat_of(leg, sorting.now):
                taking.parts.append(sorting.part(datagram.start, datagram.stop))
            else:
                self._dropped[OTHER_LEG] += 1

    def _is_heartbeat_of(self, leg: LegAccount, now: float) -> bool:
        """Return True if heartbeats go on by this leg."""
        if self._heartbeat_of is not leg and now < self._heartbeat_at + HEARTBEAT_SECONDS:
            return False
        self._heartbeat_of, self._heartbeat_at = leg, now
        return True

    def _apply(self, taking: _Taking, fate: Fate, datagrams: slice, begin: int, end: int) -> None:
        """These datagrams of a batch have the numbers from ``begin`` to before ``end``, and this fate."""
        leg, sorting, parts = taking.leg, taking.sorting, taking.parts
        merge, now, count = self._merge, sorting.now, datagrams.stop - datagrams.start
        assert merge is not None
        if fate is Fate.NEW:
            parts.append(sorting.part(datagrams.start, datagrams.stop))
            parts += merge.go_on(begin, end, count)
            self._note_new(leg, begin, end, count, now)
        elif fate is Fate.EARLY:
            copies = sorting.copies(datagrams.start, datagrams.stop)
            parts += merge.hold(begin, end, copies, now, datagrams=count, size=copies.size)
            self._note_new(leg, begin, end, count, now)
            self._note_strays()
        elif fate is Fate.COPY:
            self._note_copies(leg, begin, end, count, now)
        else:
            self._dropped[LATE] += count
            self._note_passed(leg, begin, end, now)

    # -- accounts

    def _note_new(self, leg: LegAccount, begin: int, end: int, datagrams: int, now: float) -> None:
        self._places[leg].rejoined_at = None
        self._note_passed(leg, begin, end, None)
        self.go_on(leg, datagrams, now, end - 1)

    def _note_strays(self) -> None:
        if strays := self._room.take_strays():
            self._dropped[STRAY] += strays

    def _note_copies(self, leg: LegAccount, begin: int, end: int, datagrams: int, now: float) -> None:
        self._dropped[OTHER_LEG] += datagrams
        self._note_passed(leg, begin, end, now)

    def _note_passed(self, leg: LegAccount, begin: int, end: int, now: float | None) -> None:
        """A leg has got to ``end``. ``now``: its copy of what is awaited is timed, if that is among these."""
        if (awaited := leg.awaited) is not None and awaited < end:
            leg.end_wait(now - leg.awaited_since if now is not None and begin <= awaited else None)
