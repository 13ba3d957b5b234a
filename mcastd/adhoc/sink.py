"""A subscription's output that somebody watches: every datagram is counted, and shown if there is time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mcastd import clock
from mcastd.adhoc.loss import Tracker
from mcastd.clock import NANO
from mcastd.counters import OutputCounters, SourceCounts, copy_of
from mcastd.errors import reason_of
from mcastd.inbound.sinks.format import Format, StreamFacts
from mcastd.inbound.sinks.sink import Sink
from mcastd.net.link import Batch, ListBatch
from mcastd.status import OutputStatus
from mcastd.threads import Thread

# Memory for a waiting datagram beside its payload.
WAITING_OVERHEAD_BYTES = 128
# Bytes that wait for a terminal. Nobody reads more than that.
TERMINAL_QUEUE_BYTES = 1 << 16
# Bytes that wait for a pipe or a file.
PIPE_QUEUE_BYTES = 8 << 20
# Seconds between two looks at what waits for a terminal.
TERMINAL_REFRESH_SECONDS = 0.02
# Seconds in which what waits is shown at the end, on a terminal.
TERMINAL_FLUSH_SECONDS = 0.5
# The same for a program that reads the output: it must miss nothing of what it waits for.
PIPE_FLUSH_SECONDS = 30.0


class Printer:
    """Formats and writes in a thread of its own, so that a slow output keeps no datagram from being counted.

    What has no room to wait is not shown. ``gap`` makes the note of that for the place where it is missing.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        format: Format,
        gap: Callable[[int], bytes],
        on_error: Callable[[], None],
        *,
        for_eyes: bool,
    ) -> None:
        self.shown = 0
        self.skipped = 0  # for want of room
        self.error: OSError | None = None  # that the output does not take any more
        self._write = write
        self._format = format
        self._gap = gap
        self._on_error = on_error
        self._pause = TERMINAL_REFRESH_SECONDS if for_eyes else 0.0
        self._linger = TERMINAL_FLUSH_SECONDS if for_eyes else PIPE_FLUSH_SECONDS
        self._room = self._most = TERMINAL_QUEUE_BYTES if for_eyes else PIPE_QUEUE_BYTES
        self._waiting: deque[tuple[int, ListBatch]] = deque()  # after so many that are not shown
        self._gap_here = 0  # of the skipped: since the last that was taken
        self._change = threading.Condition()
        self._closing = False
        self._thread = Thread(target=self._run, name="printer")
        self._thread.start()

    def offer(self, batch: Batch, count: int) -> None:
        """Take the first ``count`` of a batch, or as many as have room: at least one if none waits."""
        with self._change:
            room = self._room
            taken: list[bytes] = []
            for payload in batch.payloads[:count]:
                room -= len(payload) + WAITING_OVERHEAD_BYTES
                if room < 0 and (taken or self._waiting):
                    break
                taken.append(bytes(payload))  # the batch's buffers are used again
            if taken and self.error is None:
                self._room -= sum(map(len, taken)) + WAITING_OVERHEAD_BYTES * len(taken)
                origins, times = batch.origins[: len(taken)], batch.times[: len(taken)]
                self._waiting.append((self._gap_here, ListBatch(taken, origins, times)))
                self._gap_here = 0
                self._change.notify()
            self.skipped += count - len(taken)
            self._gap_here += count - len(taken)

    @property
    def ended(self) -> bool:
        """Return True if all that was taken has been written, and nothing else will be."""
        return self.error is None and not self._thread.is_alive()

    def close(self) -> None:
        """Show what waits, as far as that is soon done."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(self._linger)

    def _run(self) -> None:
        try:
            self._print_all()
        except OSError as error:
            self.error = error
            self._on_error()

    def _print_all(self) -> None:
        revision, head = self._format.revision, self._format.head()
        if head:
            self._write(head)
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                waiting, self._waiting = self._waiting, deque()
                self._room = self._most
            revision = self._print(waiting, revision)
            if self._pause and not self._closing:
                threading.Event().wait(self._pause)

    def _print(self, waiting: Iterable[tuple[int, ListBatch]], revision: int | None) -> int | None:
        """Write batches, to an output with the head of a revision; return the revision that it has then."""
        format = self._format
        for skipped, batch in waiting:
            text = b"".join(format.records(batch).payloads)
            if format.revision != revision:
                text = format.head(revision) + text
                revision = format.revision
            self._write(self._gap(skipped) + text if skipped else text)
            self.shown += len(batch)
        return revision


@dataclass(slots=True)
class Tally:
    """What came, from the first datagram to the last."""

    received: int = 0
    received_bytes: int = 0
    first: float = 0.0  # monotonic seconds, as the next
    last: float = 0.0
    times: tuple[int, int] = (0, 0)  # of the first and the last datagram, by the kernel, in nanoseconds

    @property
    def seconds(self) -> float:
        """From the first datagram to the last."""
        begin, end = self.times
        return (end - begin) / NANO if begin and end >= begin else self.last - self.first


class Listener(Sink):
    """The Sink: counts, tracks and prints up to ``limit`` datagrams, then calls ``on_limit``."""

    def __init__(
        self,
        limit: int | None,
        on_limit: Callable[[], None],
        make_printer: Callable[[StreamFacts], Printer] | None = None,
    ) -> None:
        self.overflow = 0  # datagrams that the kernel has dropped so far
        self.printer: Printer | None = None  # from the time when there is a subscription
        self._make_printer = make_printer
        self._look_for_overflow: Callable[[], int] = int
        self.counters = OutputCounters()
        self.tally = Tally()
        self.tracker = Tracker()
        self.sources = SourceCounts()
        self._limit = limit
        self._on_limit = on_limit

    def listen_to(self, stream: StreamFacts) -> Listener:
        """Be the output of a subscription; returns itself."""
        self._look_for_overflow = stream.overflow
        if self._make_printer is not None:
            # The printer's thread must not look at the link: it gets what the subscription's thread has seen
            self.printer = self._make_printer(replace(stream, overflow=lambda: self.overflow))
        return self

    @property
    def problem(self) -> str:
        return ""  # a broken one ends the command

    @property
    def full(self) -> bool:
        """Return True if the limit is reached."""
        return self._limit is not None and self.tally.received >= self._limit

    def write(self, batch: Batch) -> None:
        tally, count = self.tally, len(batch)
        if self._limit is not None:
            count = min(count, self._limit - tally.received)
            if count <= 0:
                return
        payloads, origins, times = batch.payloads[:count], batch.origins[:count], batch.times[:count]
        tally.last = clock.monotonic()
        if not tally.received:
            tally.first = tally.last
            tally.times = times[0], times[0]
        tally.times = tally.times[0], times[-1]
        tally.received += count
        size = batch.size if count == len(batch) else sum(map(len, payloads))
        tally.received_bytes += size
        self.counters.written, self.counters.written_bytes = tally.received, tally.received_bytes
        if origins.count(origins[0]) == count:
            self.sources.add(origins[0].source, count)
        else:
            for origin in origins:
                self.sources.add(origin.source, 1)
        self.tracker.take(payloads, origins, times)
        if self.printer is not None:
            self.overflow = self._look_for_overflow()
            self.printer.offer(batch, count)
        if self._limit == tally.received:
            self._on_limit()

    def close(self, *, for_good: bool = False) -> None:
        if self.printer is not None:
            self.printer.close()

    def status(self) -> OutputStatus:
        trouble = self.printer.error if self.printer is not None else None
        return OutputStatus(
            kind="terminal",
            format="",
            path="",
            counters=copy_of(self.counters),
            error=None if trouble is None else reason_of(trouble),
            way_out="",
            reason=None,
        )
