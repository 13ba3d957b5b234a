"""The straight way of a visit: from one socket to one output.

Of hundreds of subscriptions most have it, and a visit finds a datagram or two of each: so the cost of a visit
is the functions that it calls and the memory that it touches. All that the general way finds anew in each
visit is found once, when the subscription is lent to the shared reader: while it is, nothing of that changes.
The same arena receives, the same intake counts, the same protocol and output have the batch; and whatever is
not as usual goes the general way.

```
  the reader --> Turns.visit --> Intake.take ------> SocketReceiver: lease, receive, idle     the general way
                                    |                      |
                                 Intake.accept        Arena.receive
                                    |                      |
  the reader --> StraightVisits.visit ---------------------+                                  the straight one
```
"""

from __future__ import annotations

from typing import Protocol

from mcastd.handover import Handover
from mcastd.inbound.condition import Condition
from mcastd.inbound.intake import Intake
from mcastd.inbound.outputs import Outputs
from mcastd.inbound.sinks import Sink
from mcastd.net.arenas import OneSocket
from mcastd.net.link import Receiver

# A visit of the shared reader that finds this many counts as busy.
BUSY_DATAGRAMS = 64


class GeneralVisits(Protocol):
    """The general way of the same subscription: see turns.py."""

    max_latency: float  # seconds
    handover: Handover
    alarm: float  # monotonic time of the alarm that the subscription's own thread waits for
    streak: int  # visits in a row that found BUSY_DATAGRAMS or more

    def go_on(self, again: bool, taken: int) -> int:
        """Go on with a visit that has ``taken`` some datagrams, with the hand-over's lock held. Returns the
        number of all.
        """

    def hand_back(self) -> None: ...


class StraightVisits:
    """Visits of one subscription, while it is lent: see :class:`~mcastd.inbound.reader.Visited`."""

    # With hundreds of subscriptions each visit is a cache miss; __slots__ saves one more.
    __slots__ = (
        "_account",
        "_condition",
        "_counters",
        "_general",
        "_handover",
        "_ifindex",
        "_intake",
        "_lock",
        "_protocol",
        "_senders",
        "_sink",
        "_sock",
        "_spare",
        "_way",
    )

    def __init__(
        self, general: GeneralVisits, way: OneSocket, intake: Intake, sink: Sink, condition: Condition
    ) -> None:
        handover = self._handover = general.handover
        self._general = general
        self._lock = handover.lock
        self._way = way
        self._spare = way.pool.spare
        self._sock, self._ifindex, self._senders = way.sock, way.tells, way.senders
        self._intake, self._protocol = intake, intake.protocol
        self._sink, self._account, self._counters = sink, sink.account, sink.counters
        self._condition = condition

    @property
    def max_latency(self) -> float:
        return self._general.max_latency

    def visit(self, again: bool) -> int | None:
        lock = self._lock
        if not lock.acquire(False):  # as in Turns.visit()
            return None
        if (context := self._handover.lent_by) is None:
            lock.release()
            return 0
        try:
            general, spare = self._general, self._spare
            try:
                arena = spare.pop()
                arena.senders = self._senders
            except IndexError:  # none is spare
                arena = self._way.pool.lease(self._senders)
            try:
                try:
                    batch = arena.receive(self._sock, self._ifindex)
                except OSError as error:
                    raise self._way.failed(error) from error
                taken = self._intake.accept(batch)
            except Exception:
                self._way.pool.give_back(arena)
                raise
            if arena.full or arena.slots.swollen or taken >= BUSY_DATAGRAMS:
                self._way.pool.give_back(arena)
                return general.go_on(False, taken)  # so that it keeps no arena
            spare.append(arena)
            general.streak = 0
            if (
                self._condition.stale
                or self._counters.queued
                or self._account.problem
                or self._sink.deadline < general.alarm
                or ((protocol := self._protocol) is not None and protocol.deadline < general.alarm)
            ):
                self._handover.end(context)
        except Exception as error:  # no memory for an arena is one
            self._handover.end(context, error)
            return 0
        else:
            return taken
        finally:
            lock.release()

    def hand_back(self) -> None:
        self._general.hand_back()


def straight_visits(
    general: GeneralVisits, link: Receiver, intake: Intake, outputs: Outputs, condition: Condition
) -> StraightVisits | None:
    """The straight way, if the subscription has it as it is now."""
    if intake.keeper is not None or outputs.blocking or len(outputs.sinks) != 1:
        return None
    (sink,) = outputs.sinks
    if type(sink).problem is not Sink.problem:  # more may be wrong with it than its account has
        return None
    way = link.one_socket()
    return None if way is None else StraightVisits(general, way, intake, sink, condition)
