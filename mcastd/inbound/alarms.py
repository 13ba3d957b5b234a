"""What may be due in a subscription while no datagram comes: each thing with its time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mcastd.config import InboundSubscription
from mcastd.inbound.condition import Condition
from mcastd.inbound.intake import Intake
from mcastd.inbound.sinks import Sink
from mcastd.net.link import Receiver


class Alarm(NamedTuple):
    """Something that may be due."""

    # Returns when, in monotonic seconds; inf: not now.
    deadline: Callable[[], float]
    # Does it, at a monotonic time. None: it is enough that the thread wakes and looks at everything.
    ring: Callable[[float], object] | None = None


class Alarms:
    """The alarms of one subscription. For its own thread."""

    def __init__(self, condition: Condition, intake: Intake) -> None:
        self._condition = condition
        self._intake = intake
        self._alarms: list[Alarm] = []
        self._duties: list[tuple[Callable[[], float], Callable[[float], object]]] = []  # of those that ring
        self._link: Receiver | None = None
        self._rejoined = 0.0  # monotonic time of the last rejoin, or of the start of the run

    def begin(self, now: float) -> None:
        """A run begins: the first rejoin is due one period after ``now``."""
        self._rejoined = now

    @property
    def deadline(self) -> float:
        """When the first alarm is due, in monotonic seconds; ``inf``: only when something else happens."""
        return min(alarm.deadline() for alarm in self._alarms)

    def ring(self, now: float) -> None:
        """Do all that is due at monotonic time ``now``."""
        for deadline, ring in self._duties:
            if now >= deadline():
                ring(now)

    def note_silence(self, now: float, expected: float | None) -> None:
        """Note if nothing has come for ``expected`` seconds. What waits in the kernel has come, if this
        process has read nothing meanwhile.
        """
        condition, intake = self._condition, self._intake
        read = max(intake.heard, intake.last or 0.0)
        if condition.blocked or (expected and now >= read + expected and self._has_more()):
            intake.heard = now
        condition.note_silence(now, intake.heard, expected)

    def _has_more(self) -> bool:
        """Return True if datagrams wait in the kernel: this process was stopped, or had no processor."""
        return self._link is not None and self._link.load().filled > 0

    def set(
        self, config: InboundSubscription, link: Receiver, sinks: Iterable[Sink], retry: Callable[[], None]
    ) -> None:
        """Have an alarm for each thing that may be due with these settings, this link and these outputs.

        ``retry`` is called when refused memberships are to be tried again.
        """
        condition, intake = self._condition, self._intake
        expected, every = config.expect_every, config.rejoin_every

        def retry_at() -> float:
            return math.inf if link.retry_at is None else link.retry_at

        def rejoin(now: float) -> None:
            self._rejoined = now
            link.rejoin()

        def of(sink: Sink) -> Alarm:
            def tick(now: float) -> None:
                with intake.at_outputs():
                    sink.tick(now)

            return Alarm(lambda: sink.deadline, tick)

        alarms = [
            Alarm(lambda: condition.deadline),
            Alarm(lambda: link.deadline, link.tick),
            Alarm(retry_at, lambda _: retry()),
            *map(of, sinks),
        ]
        if (protocol := intake.protocol) is not None:

            def expire(now: float) -> None:
                # First what the kernel holds: it has come by then, though this process had no time to read it
                intake.take(link)
                intake.expire(now)

            alarms.append(Alarm(lambda: protocol.deadline, expire))
        if (keeper := intake.keeper) is not None:
            alarms.append(Alarm(lambda: keeper.deadline, keeper.tick))
        if expected is not None:
            alarms.append(Alarm(lambda: math.inf if condition.stale else intake.heard + expected))
        if every is not None:
            alarms.append(Alarm(lambda: self._rejoined + every, rejoin))
        self._link, self._alarms = link, alarms
        self._duties = [(deadline, ring) for deadline, ring in alarms if ring is not None]
