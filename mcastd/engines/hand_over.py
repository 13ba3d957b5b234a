"""Hands what a subscription receives to an engine, in a thread of its own.

```
   the subscription's thread    |  the thread of the output
   put(batch) --> queue --------+--> encode --> backlog --> transfer.py --> engine
                                |               (spool)        |
   collect()  <-- outcomes <----+------------------------------+
```

At least once, from put() on: a message is in the spool before it is sent, and stays there until the server
has said that it has it. What had no answer when a connection broke is sent again; the engine keeps one of
each.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.bell import Bell
from mcastd.engines.backlog import MESSAGE_OVERHEAD_BYTES, Backlog, BacklogBounds
from mcastd.engines.engine import Encoder, Engine, HandedOver, KeptStream
from mcastd.engines.outcomes import CRASHED, FULL, SPOOL, STOPPED, HandOverResults, Outcomes, cannot_write
from mcastd.engines.segments import KeptMessage, Segments
from mcastd.engines.transfer import Transfer
from mcastd.errors import SinkError, reason_of
from mcastd.threads import Thread

# Between two attempts to open a spool, and to bring to it what has come.
REPAIR_SECONDS = 1.0
# Without anything to do.
IDLE_SECONDS = 60.0
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
        self._log = log.bind(output=plan.label)
        self._outcomes = Outcomes()
        self._lock = threading.Lock()  # of the three below
        self._queue: deque[tuple[HandedOver, KeptStream]] = deque()
        self._queued_bytes = 0
        self._gone = 0  # of _STOPPED and _ENDED
        self._stop_at: float | None = None  # monotonic seconds
        # The thread's own
        self._poll = select.poll()
        self._poll.register(self._more, select.POLLIN)
        self._stream = stream  # that messages are made of now
        self._encoder = plan.encoder(stream)
        self._transfer: Transfer | None = None  # None: the spool is not open
        self._open_at = 0.0  # of the spool, in monotonic seconds
        self._spool_trouble: SinkError | None = None  # why it is not open
        try:
            self._thread = Thread(target=self._run, name="engine")
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
        return self._outcomes.collect()

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
                if self._transfer is None:
                    self._spool_trouble = self._crashed()
                    self._open_at = clock.monotonic() + REPAIR_SECONDS
                else:
                    self._transfer.give_up(self._crashed())
        self._end()
        self._leave(_ENDED)

    def _is_over(self) -> bool:
        stop_at = self._stop_at
        return stop_at is not None and (clock.monotonic() >= stop_at or not self._has_work())

    def _has_work(self) -> bool:
        return bool(self._queue or (self._transfer is not None and self._transfer.waiting))

    def _step(self) -> None:
        """Take what has come, send and receive what can be, and wait until there is more of that."""
        self._take_in()
        if (transfer := self._transfer) is not None:
            transfer.send()
        self._show()
        self._poll.poll(self._wait_seconds() * 1000)
        self._more.quiet()
        if transfer is not None:
            transfer.receive()

    def _wait_seconds(self) -> float:
        now = clock.monotonic()
        until = [now + (REPAIR_SECONDS if self._queue else IDLE_SECONDS)]
        if self._stop_at is not None:
            until.append(self._stop_at)
        if (transfer := self._transfer) is None:
            until.append(self._open_at)
        else:
            until.append(transfer.deadline(now))
            if transfer.backlog.trouble is not None:
                until.append(now + REPAIR_SECONDS)
        return max(0.0, min(until) - now)

    def _end(self) -> None:
        """Leave what has no answer in the spool; without one it is lost."""
        try:
            self._take_in()
        except Exception:
            self._log.exception("output.crashed")
        lost = 0 if self._transfer is None else self._transfer.close()
        with self._lock:
            lost += sum(len(taken) for taken, _ in self._queue)
            self._queue.clear()
        if lost:
            self._outcomes.drop(lost, cannot_write(self._plan.label, "stopped", STOPPED))
        self._show()

    # -- datagrams to messages

    def _take_in(self) -> None:
        """Have what has come in the backlog."""
        if (transfer := self._transfer or self._open()) is None:
            return
        backlog = transfer.backlog
        with self._lock:
            taken, self._queue = self._queue, deque()
            self._queued_bytes = 0
        messages: list[KeptMessage] = []
        for some, stream in taken:
            try:
                if (stream.group, stream.port) != (self._stream.group, self._stream.port):
                    self._go_over(stream, transfer)
                messages += self._encoder.encode(some, stream, backlog.number(len(some)))
            except Exception:
                self._log.exception("output.crashed")
                self._outcomes.drop(len(some), self._crashed())
        dropped = backlog.add(messages, self.counted_from or 0) if messages or backlog.trouble else 0
        if dropped:
            self._outcomes.drop(dropped, self._of_backlog(backlog) or self._full(transfer))

    def _go_over(self, stream: KeptStream, transfer: Transfer) -> None:
        """A reload gave the subscription another group or port, which may stand in the name that messages are
        kept under. Those that wait go where they were meant to.
        """
        before, self._encoder = self._encoder, self._plan.encoder(stream)
        self._encoder.go_on_from(before)
        self._stream = stream
        transfer.connect_anew()

    def _open(self) -> Transfer | None:
        """Open the spool. Returns None if that cannot be done now."""
        if clock.monotonic() < self._open_at:
            return None
        plan = self._plan
        try:
            segments = None if plan.spool is None else Segments(plan.spool, plan.bounds.spool)
        except (OSError, SinkError) as error:
            self._spool_trouble = error if isinstance(error, SinkError) else self._of_spool(error)
            self._open_at = clock.monotonic() + REPAIR_SECONDS
            return None
        backlog = Backlog(plan.bounds, segments, time.time_ns())
        if self.counted_from is None:
            self.counted_from = backlog.first
        if segments is not None and (segments.unread or segments.damaged):
            self._log.info(
                "spool.taken_up",
                spool=str(plan.spool),
                messages=segments.unread,
                damaged_bytes=segments.damaged,
            )
        self._spool_trouble = None
        self._transfer = transfer = Transfer(
            plan.label,
            lambda: plan.engine(self._stream),
            backlog,
            poll=self._poll,
            outcomes=self._outcomes,
            log=self._log,
            counted_from=self.counted_from,
        )
        return transfer

    # -- what others see

    def _show(self) -> None:
        transfer, before = self._transfer, self.picture.trouble
        if transfer is None:
            trouble = self._spool_trouble
            self.picture = HandOverPicture(trouble=trouble)
        else:
            trouble = self._of_backlog(transfer.backlog) or transfer.trouble
            self.picture = HandOverPicture(
                server=transfer.server,
                trouble=trouble,
                waiting=transfer.waiting,
                in_flight=transfer.in_flight,
                spool_bytes=transfer.backlog.spool_bytes,
                taken_up=transfer.backlog.taken_up,
                duplicates=transfer.duplicates,
            )
        if (trouble is None) is not (before is None) or str(trouble) != str(before):
            self.told.ring()

    def _of_backlog(self, backlog: Backlog) -> SinkError | None:
        return None if backlog.trouble is None else self._of_spool(backlog.trouble)

    def _of_spool(self, error: OSError) -> SinkError:
        what = f"cannot use the spool {self._plan.spool}"
        return SinkError(what, reason_of(error), reason=SPOOL, errno=error.errno or 0)

    def _crashed(self) -> SinkError:
        return cannot_write(self._plan.label, "there is an error in the program", CRASHED)

    def _full(self, transfer: Transfer) -> SinkError:
        trouble = transfer.trouble
        if trouble is not None and not transfer.is_connected:
            return SinkError(trouble.what, trouble.cause, trouble.way_out, reason=FULL)
        room = "queue" if self._plan.spool is None else "spool_size"
        return cannot_write(self._plan.label, f"more has come than {room} holds", FULL, f"raise {room}")


def _memory_of(taken: HandedOver) -> int:
    return taken.size + len(taken) * MESSAGE_OVERHEAD_BYTES
