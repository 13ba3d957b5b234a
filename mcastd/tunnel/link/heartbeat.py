"""When an end reports what it has received, how long a round trip takes, and whether the peer is there.

While datagrams go either way, both ends report once a second, and ask for an answer. Else the connecting
end does, as often as a NAT on the way wants to see, and the listening one if it has heard nothing for a
minute. An answer has the time of the last report that came: so what is answered is what we asked, and what
the peer says of itself shows no more than that one of the two ways is open. With repair, reports follow the
last records, since a loss shows by what comes after it.
"""

from __future__ import annotations

import math

from mcastd.protocols.link_control import LinkReport

ACTIVE_SECONDS = 1.0
# Of a listening end, after what came last.
QUIET_SECONDS = 60.0
# Before the first report is answered.
PRESUMED_ROUND_TRIP_SECONDS = 0.1
# A question without an answer is asked again after the longer of these: seconds, round trips.
ANSWER_SECONDS, ANSWER_ROUND_TRIPS = 1.0, 3.0
# The peer is lost when nothing at all comes of it after so many questions; or when something does, and no
# answer to so many of ours: then our messages do not reach it.
SILENT_MAX, UNANSWERED_MAX = 4, 10
# Reports after the last records.
TAIL_SECONDS = (0.02, 0.1)
# Longer round trips are errors: RFC 3550 has no more than 65,536 s, and networks less.
_ROUND_TRIP_MAX_SECONDS = 60.0
_MICRO = 1e6


class Heartbeat:
    """Of one end. For one thread at a time."""

    def __init__(self, *, connects: bool, keepalive_seconds: float, repairs: bool) -> None:
        """``repairs``: the peer asks for what was lost."""
        self.round_trip = PRESUMED_ROUND_TRIP_SECONDS
        self.is_measured = False
        self.unanswered = 0  # questions since the last answer
        self.repairs = repairs
        self.is_running = False
        self._connects = connects
        self._idle_seconds = keepalive_seconds if connects else QUIET_SECONDS
        self._is_active = False
        self._silent = 0  # questions since anything came
        self._asked: float | None = None  # monotonic seconds of the first question without an answer
        self._ask_at = math.inf
        self._tail_at = math.inf
        self._tail = 0  # reports since the last records
        self._echo_us = 0
        self._echo_came = 0.0

    @property
    def is_lost(self) -> bool:
        """Return True if nobody answers."""
        return self._silent > SILENT_MAX or self.unanswered >= UNANSWERED_MAX

    @property
    def deadline(self) -> float:
        """When :meth:`due` says something, in monotonic seconds; ``inf``: never."""
        return min(self._ask_at, self._tail_at)

    def keep_alive(self, seconds: float, now: float) -> None:
        """Say so often from now on that this end is there, if it connects."""
        if self._connects and seconds != self._idle_seconds:
            self._idle_seconds = seconds
            if self.is_running:
                self._ask_at = min(self._ask_at, now + seconds)

    def begin(self, now: float) -> None:
        """A session begins: the peer is to see that it does, and answer."""
        self.is_running = True
        self.unanswered, self._silent, self._asked, self._ask_at = 0, 0, None, now

    def stop(self) -> None:
        """There is no session."""
        self.is_running = False
        self._ask_at = self._tail_at = math.inf
        self.unanswered, self._silent, self._asked, self._is_active = 0, 0, None, False

    def heard(self, now: float) -> None:
        """Something came of the peer."""
        self._silent = 0
        # What comes of a peer that is in doubt is no answer: a question that is due soon stays.
        is_soon = self._asked is not None or self._ask_at <= now + ACTIVE_SECONDS
        if self.is_running and not self._connects and not is_soon:
            self._ask_at = now + self._idle_seconds

    def doubt(self, now: float) -> bool:
        """The way to the peer, or the peer itself, may be another one: ask soon whether it is there. Returns
        True if that is sooner than before."""
        if not self.is_running or self._asked is not None or self._ask_at <= now + ACTIVE_SECONDS:
            return False
        self._ask_at = now + ACTIVE_SECONDS
        return True

    def carried(self, now: float, *, sent: bool) -> None:
        """Datagrams came, or were ``sent``."""
        if not self._is_active:
            self._is_active = True
            self._ask_at = min(self._ask_at, now + ACTIVE_SECONDS)
        if sent and self.repairs:
            self._tail, self._tail_at = 0, now + TAIL_SECONDS[0]

    def due(self, now: float) -> bool | None:
        """Return whether a report that is due now asks for an answer; None: none is due."""
        if now >= self._ask_at:
            if self._asked is not None:
                self.unanswered += 1
            else:
                self._asked = now
            self._silent += 1
            self._is_active = False
            self._ask_at = now + max(ANSWER_SECONDS, ANSWER_ROUND_TRIPS * self.round_trip)
            return True
        if now >= self._tail_at:
            self._tail += 1
            is_over = self._tail >= len(TAIL_SECONDS)
            self._tail_at = math.inf if is_over else now + TAIL_SECONDS[self._tail]
            return False
        return None

    def report(
        self,
        now: float,
        *,
        asks: bool,
        calls: bool,
        wants_serial: int,
        next_counter: int,
        expected: int,
        received: int,
    ) -> LinkReport:
        delay = now - self._echo_came if self._echo_us else 0.0
        return LinkReport(
            asks=asks,
            calls=calls,
            wants_serial=wants_serial,
            sent_us=_microseconds(now),
            echo_us=self._echo_us,
            echo_delay_us=min(_microseconds(delay), 0xFFFFFFFF),
            next_counter=next_counter,
            expected=expected,
            received=received,
        )

    def took(self, report: LinkReport, now: float) -> None:
        """Learn from a report of the peer whether it answers, and the round trip."""
        self._echo_us, self._echo_came = report.sent_us, now
        if not report.echo_us:
            return
        if self._asked is not None and report.echo_us >= _microseconds(self._asked):
            self.unanswered, self._asked = 0, None
            self._ask_at = now + (ACTIVE_SECONDS if self._is_active else self._idle_seconds)
        self.measured((_microseconds(now) - report.echo_us - report.echo_delay_us) / _MICRO)

    def measured(self, seconds: float) -> None:
        """A round trip took so long."""
        if 0 <= seconds <= _ROUND_TRIP_MAX_SECONDS:
            # RFC 6298 section 2.3
            self.round_trip = 0.875 * self.round_trip + 0.125 * seconds if self.is_measured else seconds
            self.is_measured = True


def _microseconds(seconds: float) -> int:
    """More than 0, which stands for no time at all."""
    return max(1, round(seconds * _MICRO))
