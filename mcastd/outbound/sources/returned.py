"""What a channel does not send on, since it has sent it, and an output has handed that to the engine again.

A message that an output of mcastd has made says of which datagram: one that a socket of this channel has sent
was on its way round. Whoever has handed that over hears what is sent to the group, by this channel or by
another one of the same messages: what comes from there is compared with what was sent lately. By longer ways,
as by two engines, nothing tells that; then it is found by what it does, see analysis/circles.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from mcastd import clock
from mcastd.analysis.circles import RELEASE_SECONDS, CircleGuard, RecentPayloads
from mcastd.engines.consumer import TakenMessage
from mcastd.net.link import DatagramFlow

# Who has made the messages that say nothing of a datagram.
OTHERS = "another program"
# Sockets of the channel that are known, when it has closed them: what they have sent may still be on its way.
REMEMBERED_FLOWS = 64
# Workers that return what is sent.
REMEMBERED_WRITERS = 64
# What was received this long before a socket was there did not come from it, but from one that had its port
# earlier: clocks of hosts do not differ by more.
CLOCKS_NANOSECONDS = 300 * 10**9


class ReturnedMessages:
    """Of one channel. One thread sifts; any thread asks who returns what."""

    def __init__(self) -> None:
        self._flows: Callable[[], Sequence[DatagramFlow]] = tuple
        # The last ones, in order, and since when: in nanoseconds since the epoch
        self._own: dict[DatagramFlow, int] = {}
        self._guard = CircleGuard()
        # Who has handed over what this channel had sent, and when that came last; replaced, never changed
        self._returned: tuple[str, float] = "", -math.inf
        self._writers: dict[str, float] = {}  # the same by HOST/WORKER, of all that do
        self._sent = RecentPayloads()  # while there are some

    def sends_by(self, flows: Callable[[], Sequence[DatagramFlow]]) -> None:
        """``flows`` tells by which sockets messages are sent from now on."""
        self._flows = flows

    @property
    def returned_by(self) -> str:
        """Who sends back what is sent; "" if nobody does."""
        who, at = self._returned
        now = clock.monotonic()
        return who if now - at <= RELEASE_SECONDS else self._guard.returned_by(now)

    def sift(self, messages: Sequence[TakenMessage], now: float) -> Sequence[int]:
        """Returns the indices of those that come back."""
        writers = [(who, at) for who, at in self._writers.items() if now - at <= RELEASE_SECONDS]
        self._writers = dict(writers[-REMEMBERED_WRITERS:])
        own = self._own_flows()
        made_of = [one.made_of for one in messages]
        back = [index for index, one in enumerate(messages) if self._is_own(one, own, now)]
        if back or self._writers:
            back = self._with_copies(messages, {*back}, now)
        gone = {*back}
        left = [index for index in range(len(messages)) if index not in gone]
        runs = groupby(made_of[index] for index in left)
        senders = [(str(of) if of else OTHERS, len(list(run))) for of, run in runs]
        go_on = self._guard.sift(senders, [messages[index].payload for index in left], now)
        if go_on is None:
            return back
        stay = {left[index] for index in go_on}
        return [index for index in range(len(messages)) if index not in stay]

    def _is_own(self, message: TakenMessage, own: Mapping[DatagramFlow, int], now: float) -> bool:
        """Return True if a socket of this channel has sent what a message was made of."""
        of = message.made_of
        if of is None or (since := own.get(of.flow)) is None:
            return False
        if message.made_at and message.made_at < since - CLOCKS_NANOSECONDS:
            return False
        self._returned, self._writers[of.writer] = (str(of), now), now
        return True

    def _with_copies(self, messages: Sequence[TakenMessage], own: set[int], now: float) -> list[int]:
        """The indices of those that come back, by others as well: ``own`` are this channel's."""
        sent = self._sent
        sent.pass_time(now)
        back: list[int] = []
        for index, message in enumerate(messages):
            key, of = hash(message.payload), message.made_of
            if index in own or (of is not None and of.writer in self._writers and key in sent):
                back.append(index)
            sent.add(key)
        return back

    def _own_flows(self) -> dict[DatagramFlow, int]:
        own, now = self._own, time.time_ns()
        for flow in self._flows():
            own[flow] = min(own.get(flow, now), now)  # the clock may have been set back
        for _ in range(len(own) - REMEMBERED_FLOWS):
            del own[next(iter(own))]
        return own
