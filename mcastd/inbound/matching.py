"""``legs`` with ``merge = "payload"``: datagrams without numbers, of which equal ones of two legs are one.

The k-th of equal datagrams by one leg answers the k-th by another. Equal datagrams of the same leg, as
heartbeats, are as many as they are. What is not answered within max_skew never is: a later copy is a new
datagram.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcastd import clock
from mcastd.clock import NANO, Clock
from mcastd.inbound.legs import OTHER_LEG, LegAccount, LegsSequencer
from mcastd.inbound.sorting import Sorting
from mcastd.net.link import Batch
from mcastd.sequence.reorder import HELD_MAX_BYTES

# Datagrams that are remembered at a time, and HELD_MAX_BYTES of them. Of more, the oldest are forgotten.
REMEMBERED_MAX = 50_000
# A leg that is read after another may have got its copy in time: so much longer than max_skew is remembered.
READ_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class _Remembered:
    """A datagram that has gone on."""

    payload: bytes
    lacking: set[int]  # the indices of legs that may still bring it
    arrived: float  # seconds, by the kernel's clock
    taken: float  # monotonic seconds


_NONE = deque[_Remembered]()


class MatchingSequencer(LegsSequencer):
    """Equal datagrams of several legs as one."""

    reasons = (OTHER_LEG,)

    def __init__(
        self, labels: Sequence[str], dropped: Counter[str], worker: str, now: Clock = clock.monotonic
    ) -> None:
        super().__init__(labels, dropped, worker, now)
        # By payload and index of a leg: those that this leg may still bring
        self._lacked: dict[tuple[bytes, int], deque[_Remembered]] = {}
        self._in_order: deque[_Remembered] = deque()  # all of them, and some that all legs have brought
        self._bytes = 0  # of these
        self._lost = [0] * len(labels)
        self._senders = [""] * len(labels)

    def lost_by(self, leg: LegAccount) -> int:
        return self._lost[leg.index]

    def sender_of(self, leg: LegAccount) -> str:
        return self._senders[leg.index]

    def take(self, leg: LegAccount, batch: Batch, now: float) -> Iterable[Batch]:
        sources, payloads, times = batch.sources, batch.payloads, batch.times
        if sources and sources[-1][0] != self._senders[leg.index]:
            self._senders[leg.index] = sources[-1][0]
            self.note_senders()
        if leg.awaited is not None and not leg.awaited.lacking:  # it was forgotten
            leg.end_wait()
        sorting = Sorting(batch, now)
        for index, view in enumerate(payloads):
            arrived = times[index] / NANO if times else now
            if not self._answers(leg, payload := bytes(view), arrived):
                sorting.given.append(index)
                self._remember(leg, payload, arrived, now)
        self._dropped[OTHER_LEG] += len(payloads) - len(sorting.given)
        self._forget(now)
        if len(sorting.given) == len(payloads):
            return (batch,)
        return (sorting.picked(),) if sorting.given else ()

    def expire(self, now: float) -> Iterable[Batch]:
        found = super().expire(now)
        self._forget(now)
        return found

    def _answers(self, leg: LegAccount, payload: bytes, arrived: float) -> bool:
        """Return True if a datagram is the copy of one that another leg brought."""
        lacked = self._lacked.get((payload, leg.index), _NONE)
        # A leg's times go on, so none of its datagrams answers these any more. Each is passed over once
        while lacked and arrived - lacked[0].arrived > self.hold_seconds:
            one = lacked[0]
            one.lacking.discard(leg.index)
            self._give_up(one, leg.index)
            if leg.awaited is one:
                leg.end_wait()
        for one in lacked:
            if abs(arrived - one.arrived) <= self.hold_seconds:
                break
        else:
            return False
        one.lacking.discard(leg.index)
        self._drop(one, leg.index)
        if leg.awaited is one:
            leg.end_wait(max(0.0, arrived - one.arrived))
        return True

    def _remember(self, leg: LegAccount, payload: bytes, arrived: float, now: float) -> None:
        lacking = {other.index for other in self.legs if other is not leg}
        one = _Remembered(payload, lacking, arrived, now)
        for index in lacking:
            self._lacked.setdefault((payload, index), deque()).append(one)
        self._in_order.append(one)
        self._bytes += len(payload)
        self.go_on(leg, 1, now, one)

    def _forget(self, now: float) -> None:
        """Forget what has been answered, what no leg will bring any more, and what is too much."""
        in_order, oldest = self._in_order, now - self.hold_seconds - READ_SECONDS
        while in_order and (
            in_order[0].taken < oldest or len(in_order) > REMEMBERED_MAX or self._bytes > HELD_MAX_BYTES
        ):
            one = in_order.popleft()
            self._bytes -= len(one.payload)
            for index in one.lacking:
                self._give_up(one, index)
            one.lacking.clear()

    def _give_up(self, one: _Remembered, index: int) -> None:
        """That leg did not bring it in time."""
        self._lost[index] += 1
        self._drop(one, index)

    def _drop(self, one: _Remembered, index: int) -> None:
        """That leg cannot bring it any more."""
        lacked = self._lacked[one.payload, index]
        lacked.remove(one)
        if not lacked:
            del self._lacked[one.payload, index]
