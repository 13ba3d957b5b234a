"""From the backlog to a server, and what that says of it: one connection after the other.

```
   backlog --> flight --> engine
      ^           ^          |
      +-- forget -+- answers +
```

After a connection that broke all that had no answer is sent again, but for what the server has by then.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.bounded import Attempt
from mcastd.engines.backlog import Backlog
from mcastd.engines.engine import REFUSED, UNREACHABLE, Engine, RefusedMessage, ServerAnswers
from mcastd.engines.flight import Flight
from mcastd.engines.outcomes import SPOOL, Outcomes, cannot_write
from mcastd.engines.segments import KeptMessage
from mcastd.errors import McastdError, SinkError, reason_of

# Sent, and not answered: more are not sent before.
FLIGHT_MESSAGES = 1024
FLIGHT_BYTES = 4 << 20
# A server that answers nothing of what it was sent is given up.
ANSWER_SECONDS = 5.0
# Between two attempts to reach a server, doubled up to the second.
RETRY_SECONDS = 0.25
RETRY_MAX_SECONDS = 5.0
# After a fault of ours.
REPAIR_SECONDS = 1.0
# Between two looks whether a connection is there.
LOOK_SECONDS = 0.05
# An attempt to connect that takes longer is told of: each server is given less.
LATE_SECONDS = 20.0


class Transfer:
    """One output's, once its spool is open. For one thread, which waits with ``poll`` for the connection."""

    def __init__(
        self,
        label: str,
        make_engine: Callable[[], Engine],
        backlog: Backlog,
        *,
        poll: select.poll,
        outcomes: Outcomes,
        log: FilteringBoundLogger,
        counted_from: int,
    ) -> None:
        """``make_engine`` may wait, and raises SinkError. Messages from ``counted_from`` on have outcomes."""
        self.backlog = backlog
        self.trouble: SinkError | None = None
        self.duplicates = 0  # messages that the server had before
        self._label = label
        self._make_engine = make_engine
        self._poll = poll
        self._outcomes = outcomes
        self._log = log
        self._counted_from = counted_from
        self._engine: Engine | None = None
        self._is_outdated = False  # another engine is to take its place: see connect_anew()
        self._connecting = Attempt(self._connect, lambda made: made[0].close(), "engine-connect")
        self._connecting_since = 0.0  # monotonic seconds
        self._flight = Flight()
        self._known = 0  # the server had all messages up to this number when it was connected
        self._refused: dict[int, RefusedMessage] = {}  # messages of the flight that the server does not take
        self._answer_by = 0.0  # monotonic seconds
        self._retry_at = 0.0  # the same, of a connection
        self._pause = RETRY_SECONDS
        self._is_proven = False  # the connection is told of: the server has not refused what waits

    @property
    def server(self) -> str:
        """The one that is connected; "": none is."""
        return "" if self._engine is None else self._engine.server

    @property
    def is_connected(self) -> bool:
        return self._engine is not None

    @property
    def in_flight(self) -> int:
        """Messages that were sent, and not answered."""
        return len(self._flight)

    @property
    def waiting(self) -> int:
        """Messages that the server does not have, as far as it is known."""
        return self.backlog.waiting + len(self._flight)

    def deadline(self, now: float) -> float:
        """When there is something to do, in monotonic seconds, if nothing comes before."""
        if self._engine is None:
            return now + LOOK_SECONDS if self._connecting.is_under_way else self._retry_at
        return self._answer_by if self._flight else math.inf

    def send(self) -> None:
        """Send what can be sent now."""
        try:
            if self._is_outdated and not self._flight:
                self._disconnect()
            self._reach()
            if self._engine is not None:
                self._send(self._engine)
        except (McastdError, OSError) as error:
            self._lose(error)

    def receive(self) -> None:
        """Take what the server has said, and give it what it did not take before."""
        if self._engine is None:
            return
        try:
            self._engine.flush()
            self._settle(self._engine.receive())
        except (McastdError, OSError) as error:
            self._lose(error)

    def give_up(self, error: SinkError) -> None:
        """There is a fault of ours: begin with another connection, in a while."""
        self._disconnect()
        self.trouble = error
        self._retry_at = clock.monotonic() + REPAIR_SECONDS

    def connect_anew(self) -> None:
        """Go on by another engine, once all that was sent has its answer: what comes is kept elsewhere."""
        self._connecting.give_up()
        self._retry_at = 0.0
        self._is_outdated = self._engine is not None

    def close(self) -> int:
        """Leave what has no answer in the spool. Returns how many messages are lost: they are not there."""
        self._connecting.give_up()
        self._disconnect()
        flying = [number for number, _ in self._flight.left() if number >= self._counted_from]
        lost = sum(not self.backlog.is_kept(number) for number in flying)
        self._flight = Flight()
        return lost + self.backlog.close()

    # -- the connection

    def _reach(self) -> None:
        """Have a connection, as far as that goes now. Raises SinkError, OSError."""
        if self._engine is not None:
            return
        if not self._connecting.is_under_way:
            if clock.monotonic() < self._retry_at:
                return
            self._connecting_since = clock.monotonic()
        if (made := self._connecting.take()) is None:
            if self.trouble is None and clock.monotonic() - self._connecting_since > LATE_SECONDS:
                cause = "the attempt to connect takes long: a server, a name server or a disk does not answer"
                self.trouble = cannot_write(self._label, cause, UNREACHABLE)
            return
        engine, known = made
        self._engine = engine
        self._poll.register(engine, select.POLLIN)
        was_refused = self.trouble is not None and self.trouble.reason == REFUSED
        # What it has refused, while it was connected, it may refuse again: _settle() sees it taken
        self._is_proven = not (was_refused and self.waiting)
        if self._is_proven:
            self._prove(engine)
        self._known = known
        if known > max(self._flight.last, self.backlog.first - 1):
            # It was never sent: it is of a clock that was set back since, or of another with our name
            self._known = 0
            engine.disbelieve()
        if again := self._unknown(self._flight.left()):
            self._answer_by = clock.monotonic() + ANSWER_SECONDS
            engine.send(again)

    def _prove(self, engine: Engine) -> None:
        """The server is there, and refuses nothing."""
        self._is_proven, self.trouble = True, None
        self._log.info("engine.connected", server=engine.server, waiting=self.waiting)

    def _connect(self) -> tuple[Engine, int]:
        engine = self._make_engine()
        return engine, engine.connect()

    def _lose(self, error: McastdError | OSError) -> None:
        """There is no connection, or no longer one."""
        was_refused = isinstance(error, SinkError) and error.reason == REFUSED
        if self._engine is not None and (was_refused or self._flight.is_out_of_order):
            # What was sent behind what it did not take may be there
            self._flight.doubt()
        self._disconnect()
        if isinstance(error, SinkError):
            self.trouble = error
        elif isinstance(error, McastdError):  # a library is missing
            self.trouble = SinkError(error.what, error.cause, error.way_out, reason=UNREACHABLE)
        else:
            self.trouble = cannot_write(self._label, reason_of(error), UNREACHABLE)
        self._retry_at = clock.monotonic() + self._pause
        self._pause = min(2 * self._pause, RETRY_MAX_SECONDS)

    def _disconnect(self) -> None:
        if self._engine is not None:
            self._poll.unregister(self._engine)
            self._engine.close()
            self._engine = None
            self._is_outdated = False

    # -- messages and answers

    def _has_room(self, engine: Engine) -> bool:
        return not engine.is_full and len(self._flight) < FLIGHT_MESSAGES and self._flight.size < FLIGHT_BYTES

    def _send(self, engine: Engine) -> None:
        now = clock.monotonic()
        if self._flight and now >= self._answer_by:
            raise cannot_write(self._label, f"{engine.server} does not answer", UNREACHABLE)
        while not self._is_outdated and self._has_room(engine) and (messages := self.backlog.take()):
            if not self._flight:
                self._answer_by = now + ANSWER_SECONDS
            self._flight.add(messages)
            if unknown := self._unknown(messages):
                engine.send(unknown)
        if gone := self.backlog.collect_gone(self._counted_from):
            cause = "somebody has removed files of its spool, or changed them"
            self._outcomes.drop(gone, cannot_write(self._label, cause, SPOOL))
        self._poll.modify(engine, select.POLLIN | (select.POLLOUT if engine.is_full else 0))

    def _unknown(self, messages: Sequence[KeptMessage]) -> Sequence[KeptMessage]:
        """Those of the flight that the server may not have; the others are settled."""
        begin, end = self._flight.doubted, self._known
        known = [number for number, _ in messages if begin < number <= end]
        if not known:
            return messages
        self._settle(ServerAnswers(known, duplicates=len(known)))
        return [one for one in messages if not begin < one[0] <= end]

    def _settle(self, answers: ServerAnswers) -> None:
        """Count what became of messages."""
        self.duplicates += answers.duplicates
        self._refused.update([(one.number, one) for one in answers.refused])
        done = self._flight.answer([*answers.kept, *(one.number for one in answers.refused)])
        if not done:
            return
        if self._engine is not None and not self._is_proven:
            self._prove(self._engine)
        self._answer_by = clock.monotonic() + ANSWER_SECONDS
        self.backlog.forget(done[-1][0])
        begin = self._counted_from
        self._outcomes.write(
            [len(one) for number, one in done if number >= begin and number not in self._refused]
        )
        for number, _ in done if self._refused else ():
            if (refused := self._refused.pop(number, None)) is not None:
                error = cannot_write(self._label, refused.cause, refused.reason)
                self._outcomes.drop(int(number >= begin), error)
        self.trouble, self._pause = None, RETRY_SECONDS
