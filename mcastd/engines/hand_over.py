"""Hands what a subscription receives to an engine, in a thread of its own.

```
   the subscription's thread    |  the thread of the output
   put(batch) --> queue --------+--> encode --> backlog --> flight --> engine
                                |               (spool)       |          |
   collect()  <-- results <-----+---------------------------- + <-- fates
```

At least once, from put() on: a message is in the spool before it is sent, and stays there until the server
has said that it has it. After a connection that broke all that had no answer are sent again; the engine keeps
one of each.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.bell import Bell
from mcastd.bounded import begin
from mcastd.engines.backlog import MESSAGE_OVERHEAD_BYTES, Backlog, BacklogBounds
from mcastd.engines.engine import (
    REFUSED,
    UNREACHABLE,
    Encoder,
    Engine,
    HandedOver,
    KeptStream,
    RefusedMessage,
    ServerAnswers,
)
from mcastd.engines.flight import Flight
from mcastd.engines.segments import KeptMessage, Segments
from mcastd.errors import McastdError, SinkError, reason_of
from mcastd.threads import Thread

# Reasons to drop.
FULL = "full"  # the server is away for too long, or too slow
SPOOL = "spool"  # the disk takes nothing
CRASHED = "crashed"
STOPPED = "stopped"
# Sent, and not answered: more are not sent before.
FLIGHT_MESSAGES = 1024
FLIGHT_BYTES = 4 << 20
# A server that answers nothing of what it was sent is given up.
ANSWER_SECONDS = 5.0
# Between two attempts to reach a server, doubled up to the second.
RETRY_SECONDS = 0.25
RETRY_MAX_SECONDS = 5.0
# The same for a spool that cannot be opened, and after a fault of ours.
REPAIR_SECONDS = 1.0
# Between two looks whether a connection is there.
LOOK_SECONDS = 0.05
# At its end, for what cannot be interrupted.
JOIN_SECONDS = 0.5
# Who needs the bells no more: the one who called stop(), the thread.
_STOPPED, _ENDED = 1, 2


@dataclass(frozen=True, slots=True)
class HandOverPlan:
    """What is handed over to whom."""

    label: str  # of the output
    encoder: Callable[[KeptStream], Encoder]
    engine: Callable[[KeptStream], Engine]  # it may wait, and raises SinkError
    spool: Path | None
    bounds: BacklogBounds


@dataclass(slots=True)
class HandOverResults:
    """What became of datagrams since they were asked for last."""

    written: int = 0
    written_bytes: int = 0
    dropped: dict[str, tuple[int, SinkError]] = field(default_factory=dict)  # by reason

    def drop(self, count: int, error: SinkError) -> None:
        before, _ = self.dropped.get(error.reason, (0, error))
        self.dropped[error.reason] = before + count, error


@dataclass(frozen=True, slots=True)
class HandOverPicture:
    """What other threads see. It is replaced, never changed."""

    server: str = ""  # that is connected; "": none is
    trouble: SinkError | None = None
    waiting: int = 0  # messages that the engine does not have, those of an earlier run included
    in_flight: int = 0  # of them: sent, and not answered
    spool_bytes: int = 0
    taken_up: int = 0  # messages that an earlier run had left in the spool
    duplicates: int = 0  # messages that the server had before


class HandOver:
    """One output's. Any one thread may call :meth:`put`, :meth:`collect` and :meth:`stop`."""

    def __init__(
        self,
        plan: HandOverPlan,
        stream: KeptStream,
        log: FilteringBoundLogger,
        *,
        counted_from: int | None = None,
    ) -> None:
        """Messages from the number ``counted_from`` on are in the results; None: those of this run.

        Raises OSError if there is no descriptor, RuntimeError if no thread is to be had.
        """
        self.picture = HandOverPicture()
        self.counted_from = counted_from
        with contextlib.ExitStack() as undo:
            self.told = Bell()  # rung when the trouble changes
            undo.callback(self.told.close)
            self._more = Bell()
            undo.pop_all()
        self._plan = plan
        self._stream = stream
        self._log = log.bind(output=plan.label)
        self._lock = threading.Lock()  # of the four below
        self._queue: deque[tuple[HandedOver, KeptStream]] = deque()
        self._queued_bytes = 0
        self._results = HandOverResults()
        self._gone = 0  # of _STOPPED and _ENDED
        self._stop_at: float | None = None  # monotonic seconds
        # The thread's own
        self._poll = select.poll()
        self._poll.register(self._more, select.POLLIN)
        self._encoder = plan.encoder(stream)
        self._backlog: Backlog | None = None
        self._engine: Engine | None = None
        self._connecting: Future[tuple[Engine, int]] | None = None
        self._flight = Flight()
        self._known = 0  # the server had all messages up to this number when it was connected
        self._refused: dict[int, RefusedMessage] = {}  # messages of the flight that the server does not take
        self._answer_by = 0.0  # monotonic seconds
        self._retry_at = 0.0  # of a connection, in monotonic seconds
        self._open_at = 0.0  # of the spool, the same
        self._pause = RETRY_SECONDS
        self._trouble: SinkError | None = None  # with the server
        self._spool_trouble: SinkError | None = None
        self._duplicates = 0
        self._thread = Thread(target=self._run, name="engine")
        try:
            self._thread.start()
        except RuntimeError:
            self._more.close()
            self.told.close()
            raise

    # -- for the subscription's thread

    def put(self, taken: HandedOver, stream: KeptStream) -> int:
        """Take a batch. Returns how many datagrams, of it or of others, are given up for want of room."""
        dropped = 0
        bounds = self._plan.bounds
        with self._lock:
            self._queue.append((taken, stream))
            self._queued_bytes += _memory_of(taken)
            while self._queued_bytes > bounds.memory and len(self._queue) > 1:
                gone, _ = self._queue.popleft() if bounds.drop_oldest else self._queue.pop()
                self._queued_bytes -= _memory_of(gone)
                dropped += len(gone)
        self._more.ring()
        return dropped

    def collect(self) -> HandOverResults:
        """What became of datagrams since the last call."""
        with self._lock:
            results, self._results = self._results, HandOverResults()
        return results

    def stop(self, until: float) -> bool:
        """Send what can be sent until then, in monotonic seconds; what is in the spool stays there.

        Returns False if the thread hangs, as its disk may: then it goes on to its end by itself.
        """
        self._stop_at = until
        self._more.ring()
        self._thread.join(max(0.0, until - clock.monotonic()) + JOIN_SECONDS)
        hangs = self._thread.is_alive()
        self._leave(_STOPPED)
        return not hangs

    def _leave(self, who: int) -> None:
        """The last of the two threads that goes closes the bells."""
        with self._lock:
            self._gone |= who
            is_last = self._gone == _STOPPED | _ENDED
        if is_last:
            self._more.close()
            self.told.close()

    # -- the thread

    def _run(self) -> None:
        while not self._is_over():
            try:
                self._step()
            except Exception:
                self._log.exception("output.crashed")
                self._disconnect()
                self._trouble = self._error("there is an error in the program", CRASHED)
                self._retry_at = clock.monotonic() + REPAIR_SECONDS
        self._end()
        self._leave(_ENDED)

    def _is_over(self) -> bool:
        stop_at = self._stop_at
        return stop_at is not None and (clock.monotonic() >= stop_at or not self._has_work())

    def _has_work(self) -> bool:
        return bool(self._queue or self._flight or self._waiting())

    def _waiting(self) -> int:
        return 0 if self._backlog is None else self._backlog.waiting

    def _step(self) -> None:
        """Take what has come, send and receive what can be, and wait until there is more of that."""
        self._take_in()
        if self._backlog is not None:
            try:
                self._reach()
                if self._engine is not None:
                    self._send(self._engine, self._backlog)
            except (McastdError, OSError) as error:
                self._lose(error)
        self._show()
        self._poll.poll(self._wait_seconds() * 1000)
        self._more.quiet()
        if self._engine is not None and self._backlog is not None:
            try:
                self._engine.flush()
                self._settle(self._engine.receive())
            except (McastdError, OSError) as error:
                self._lose(error)

    def _wait_seconds(self) -> float:
        now = clock.monotonic()
        until = [now + REPAIR_SECONDS if self._queue else now + 60.0]
        if self._stop_at is not None:
            until.append(self._stop_at)
        if self._backlog is None:
            until.append(self._open_at)
        elif self._engine is None:
            until.append(now + LOOK_SECONDS if self._connecting else self._retry_at)
        elif self._flight:
            until.append(self._answer_by)
        if self._backlog is not None and self._backlog.trouble is not None:
            until.append(now + REPAIR_SECONDS)
        return max(0.0, min(until) - now)

    # -- datagrams to messages

    def _take_in(self) -> None:
        """Have what has come in the backlog."""
        if self._backlog is None and not self._open():
            return
        backlog = self._backlog
        assert backlog is not None
        with self._lock:
            taken, self._queue = self._queue, deque()
            self._queued_bytes = 0
        messages: list[KeptMessage] = []
        for some, stream in taken:
            try:
                messages += self._encoder.encode(some, stream, backlog.number(len(some)))
            except Exception:
                self._log.exception("output.crashed")
                self._drop(len(some), self._error("there is an error in the program", CRASHED))
        dropped = backlog.add(messages, self.counted_from or 0) if messages or backlog.trouble else 0
        self._look_at_spool(backlog)
        if dropped:
            self._drop(dropped, self._spool_trouble or self._full())

    def _open(self) -> bool:
        """Open the spool. Returns False if that cannot be done now."""
        if clock.monotonic() < self._open_at:
            return False
        spool = self._plan.spool
        try:
            segments = None if spool is None else Segments(spool, self._plan.bounds.spool)
        except (OSError, SinkError) as error:
            self._spool_trouble = error if isinstance(error, SinkError) else self._of_spool(error)
            self._open_at = clock.monotonic() + REPAIR_SECONDS
            return False
        self._backlog = backlog = Backlog(self._plan.bounds, segments, time.time_ns())
        if self.counted_from is None:
            self.counted_from = backlog.first
        if segments is not None and (segments.unread or segments.damaged):
            self._log.info(
                "spool.taken_up", spool=str(spool), messages=segments.unread, damaged_bytes=segments.damaged
            )
        self._spool_trouble = None
        return True

    # -- messages to the engine

    def _reach(self) -> None:
        """Have a connection, as far as that goes now. Raises SinkError, OSError."""
        if self._engine is not None:
            return
        if self._connecting is None:
            if clock.monotonic() < self._retry_at:
                return
            self._connecting = begin(self._connect, "engine-connect")
        if not self._connecting.done():
            return
        connecting, self._connecting = self._connecting, None
        engine, known = connecting.result()
        self._engine = engine
        self._poll.register(engine, select.POLLIN)
        self._trouble = None
        self._log.info("engine.connected", server=engine.server, waiting=self._waiting() + len(self._flight))
        # A number that was never sent is of a clock that was set back since, or of another with our name
        assert self._backlog is not None
        self._known = known if known <= max(self._flight.last, self._backlog.first - 1) else 0
        if again := self._unknown(self._flight.left()):
            self._answer_by = clock.monotonic() + ANSWER_SECONDS
            engine.send(again)

    def _unknown(self, messages: Sequence[KeptMessage]) -> Sequence[KeptMessage]:
        """Those of the flight that the server may not have; the others are settled."""
        begin, end = self._flight.doubted, self._known
        known = [number for number, _ in messages if begin < number <= end]
        if not known:
            return messages
        self._settle(ServerAnswers(known, duplicates=len(known)))
        return [one for one in messages if not begin < one[0] <= end]

    def _connect(self) -> tuple[Engine, int]:
        engine = self._plan.engine(self._stream)
        return engine, engine.connect()

    def _has_room(self, engine: Engine) -> bool:
        return not engine.is_full and len(self._flight) < FLIGHT_MESSAGES and self._flight.size < FLIGHT_BYTES

    def _send(self, engine: Engine, backlog: Backlog) -> None:
        now = clock.monotonic()
        if self._flight and now >= self._answer_by:
            raise self._error(f"{engine.server} does not answer", UNREACHABLE)
        while self._has_room(engine) and (messages := backlog.take()):
            if not self._flight:
                self._answer_by = now + ANSWER_SECONDS
            self._flight.add(messages)
            if unknown := self._unknown(messages):
                engine.send(unknown)
        self._poll.modify(engine, select.POLLIN | (select.POLLOUT if engine.is_full else 0))

    def _settle(self, answers: ServerAnswers) -> None:
        """Count what became of messages."""
        self._duplicates += answers.duplicates
        self._refused.update([(one.number, one) for one in answers.refused])
        done = self._flight.answer([*answers.kept, *(one.number for one in answers.refused)])
        if not done:
            return
        self._answer_by = clock.monotonic() + ANSWER_SECONDS
        assert self._backlog is not None
        self._backlog.forget(done[-1][0])
        begin = self.counted_from or 0
        taken = [len(one) for number, one in done if number >= begin and number not in self._refused]
        with self._lock:
            self._results.written += len(taken)
            self._results.written_bytes += sum(taken)
        for number, _ in done if self._refused else ():
            if (refused := self._refused.pop(number, None)) is not None:
                error = self._error(refused.cause, refused.reason)
                self._drop(int(number >= begin), error)
        self._trouble, self._pause = None, RETRY_SECONDS

    def _lose(self, error: McastdError | OSError) -> None:
        """There is no connection, or no longer one."""
        was_refused = isinstance(error, SinkError) and error.reason == REFUSED
        if self._engine is not None and (was_refused or self._flight.is_out_of_order):
            # What was sent behind what it did not take may be there
            self._flight.doubt()
        self._disconnect()
        if isinstance(error, SinkError):
            self._trouble = error
        elif isinstance(error, McastdError):  # a library is missing
            self._trouble = SinkError(error.what, error.cause, error.way_out, reason=UNREACHABLE)
        else:
            self._trouble = self._error(reason_of(error), UNREACHABLE)
        self._retry_at = clock.monotonic() + self._pause
        self._pause = min(2 * self._pause, RETRY_MAX_SECONDS)

    def _disconnect(self) -> None:
        if self._engine is not None:
            self._poll.unregister(self._engine)
            self._engine.close()
            self._engine = None

    def _end(self) -> None:
        """Leave what has no answer in the spool; without one it is lost."""
        lost = 0
        if self._connecting is not None:
            self._connecting.add_done_callback(_close)
        try:
            self._take_in()
        except Exception:
            self._log.exception("output.crashed")
        self._disconnect()
        if (backlog := self._backlog) is not None:
            begin = self.counted_from or 0
            flying = [number for number, _ in self._flight.left() if number >= begin]
            lost = sum(not backlog.is_kept(number) for number in flying) + backlog.close()
        with self._lock:
            lost += sum(len(taken) for taken, _ in self._queue)
            self._queue.clear()
        if lost:
            self._drop(lost, self._error("stopped", STOPPED))
        self._flight = Flight()
        self._show()

    # -- what others see

    def _drop(self, count: int, error: SinkError) -> None:
        with self._lock:
            self._results.drop(count, error)

    def _show(self) -> None:
        backlog, engine = self._backlog, self._engine
        if backlog is not None:
            self._look_at_spool(backlog)
        before, trouble = self.picture.trouble, self._spool_trouble or self._trouble
        self.picture = HandOverPicture(
            server="" if engine is None else engine.server,
            trouble=trouble,
            waiting=self._waiting() + len(self._flight),
            in_flight=len(self._flight),
            spool_bytes=0 if backlog is None else backlog.spool_bytes,
            taken_up=0 if backlog is None else backlog.taken_up,
            duplicates=self._duplicates,
        )
        if (trouble is None) is not (before is None) or str(trouble) != str(before):
            self.told.ring()

    def _error(self, cause: str, reason: str, way_out: str = "") -> SinkError:
        return SinkError(f"cannot write to {self._plan.label}", cause, way_out, reason=reason)

    def _full(self) -> SinkError:
        if self._trouble is not None and self._engine is None:
            return SinkError(self._trouble.what, self._trouble.cause, self._trouble.way_out, reason=FULL)
        room = "queue" if self._plan.spool is None else "spool_size"
        return self._error(f"more has come than {room} holds", FULL, f"raise {room}")

    def _look_at_spool(self, backlog: Backlog) -> None:
        self._spool_trouble = None if backlog.trouble is None else self._of_spool(backlog.trouble)

    def _of_spool(self, error: OSError) -> SinkError:
        what = f"cannot use the spool {self._plan.spool}"
        return SinkError(what, reason_of(error), reason=SPOOL, errno=error.errno or 0)


def _close(connecting: Future[tuple[Engine, int]]) -> None:
    """A connection that nobody waits for any more."""
    if connecting.exception() is None:
        connecting.result()[0].close()


def _memory_of(taken: HandedOver) -> int:
    return taken.size + len(taken) * MESSAGE_OVERHEAD_BYTES
