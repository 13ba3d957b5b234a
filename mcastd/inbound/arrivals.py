"""What becomes of a numbered datagram by its place in a stream: it goes on, waits, or is dropped by reason.

```
   next, late    --> goes on, and with it what has waited for it; or waits for what is missing before it
   far off       --> waits for its successor: aside.py
   begins anew   --> goes on, behind the one that has waited for it
   again         --> is dropped
```
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from mcastd.inbound.aside import Aside
from mcastd.inbound.misfits import ExplainMisfit, Misfits
from mcastd.inbound.numbered_streams import OfStream
from mcastd.inbound.sorting import Numbered, Sorting
from mcastd.net.link import ListBatch
from mcastd.rows import RowBytes
from mcastd.sequence.order import Arrival
from mcastd.sequence.reorder import HeldRoom, Turn
from mcastd.sequence.stream import Wire

# Reasons to drop a datagram.
DUPLICATE = "duplicate"  # it has come before
LATE = "late"  # later ones have gone on, since it was not waited for so long: see hold_back()
STRAY = "stray"  # its number is far off, or it is the first of a stream, and its successor did not come
OTHER_PAYLOAD_TYPE = "other-payload-type"


class NumberedArrivals:
    """Those of one protocol, whose streams hold what they hold in ``room``."""

    def __init__(
        self, wire: Wire, dropped: Counter[str], room: HeldRoom, explain_misfit: ExplainMisfit
    ) -> None:
        self.misfits = Misfits(explain_misfit)
        self._wire = wire
        self._dropped = dropped
        self._room = room
        self._aside = Aside()

    @property
    def held(self) -> int:
        """Datagrams that wait, of all streams."""
        return self._room.number + len(self._aside)

    @property
    def deadline(self) -> float:
        """When :meth:`expire` has something to do, in monotonic seconds; ``inf``: never."""
        return min(self._aside.until, self.misfits.deadline)

    def drop(self, reason: str) -> None:
        self._dropped[reason] += 1

    def refuse(self, reason: str, datagram: RowBytes, now: float) -> None:
        """Drop a datagram that is, by the settings, none that is to be received."""
        self._dropped[reason] += 1
        self.misfits.refuse(reason, datagram, now)

    def put(
        self, sorting: Sorting, one: Numbered, arrival: Arrival, stream: OfStream, *, is_foreign: bool = False
    ) -> None:
        """Have a datagram go where its arrival says."""
        index, number, count, reorder = one.index, one.number, one.count, stream.reorder
        if arrival is Arrival.RESTART:
            if reorder is not None:
                sorting.given += reorder.expire(math.inf)
                reorder.next = number
            self.release(sorting, stream)
        if arrival is Arrival.DUPLICATE:
            self._dropped[DUPLICATE] += 1
        elif is_foreign:
            self.refuse(OTHER_PAYLOAD_TYPE, sorting.batch.payloads[index], sorting.now)
            if reorder is not None and reorder.turn(number, count) is Turn.NOW:
                sorting.given += reorder.go_on(number, count, sorting.now)
        elif arrival is Arrival.STRAY:
            self.put_aside(sorting, index)
        elif reorder is None:
            sorting.given.append(index)
        elif (turn := reorder.turn(number, count)) is Turn.NOW:
            sorting.given += [index, *reorder.go_on(number, count, sorting.now)]
        elif turn is Turn.LATER:
            copy = sorting.copy(index)
            sorting.given += reorder.hold(number, count, copy, copy.size, sorting.now)
            self.count_strays()
        else:
            self._dropped[LATE] += 1

    def restore(self, stream: OfStream, datagrams: Sequence[ListBatch], now: float) -> list[ListBatch]:
        """Take datagrams that did not come, and were made of others: each is a batch by itself.

        Returns what goes on. What was not missing, or comes too late, is dropped.
        """
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
                self.count_strays()
            else:
                self._dropped[LATE] += 1
        return given

    def put_aside(self, sorting: Sorting, index: int) -> None:
        """Have a datagram wait for its successor, in place of another one that did."""
        if self._aside.put(sorting, index):
            self.refuse(STRAY, sorting.batch.payloads[index], sorting.now)

    def release(self, sorting: Sorting, stream: OfStream) -> bool:
        """Let the datagram of this stream go on that waits for its successor. Returns False if there is none:
        of several strangers the last one waits."""
        if (aside := self._aside.take(sorting)) is None:
            return False
        waiting, payload, address = aside
        if (address, self._wire.identity_of(payload)) != (stream.address, stream.identity):
            self.refuse(STRAY, payload, sorting.now)
            return False
        sorting.given.append(waiting)
        return True

    def end(self, sorting: Sorting) -> None:
        """A batch is sorted, and will be gone: keep what waits of it."""
        self._aside.keep(sorting)
        if sorting.given or self._room.number:
            self.misfits.accept()

    def expire(self, now: float) -> list[ListBatch]:
        """Returns what has waited for long enough, if anything follows no more; else that is dropped."""
        self.misfits.look(now)
        self.count_strays()
        if (aside := self._aside.expire(now)) is None:
            return []
        if now == math.inf:
            return [aside]
        self._dropped[STRAY] += 1
        return []

    def count_strays(self) -> None:
        """Count what streams have given up for want of room."""
        if strays := self._room.take_strays():
            self._dropped[STRAY] += strays
