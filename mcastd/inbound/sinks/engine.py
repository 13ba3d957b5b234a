"""Hands what is received to a distributed engine: NATS, Redis, Kafka.

What is with the server counts as written. What waits, in memory or in the spool, counts as queued.
"""

from __future__ import annotations

import math
import select
import socket
from dataclasses import replace

from mcastd import clock
from mcastd.config import EngineOutput
from mcastd.engines.engine import HandedOver, KeptStream
from mcastd.engines.hand_over import HandOver, HandOverPicture
from mcastd.engines.kinds import plan_of, reasons_of
from mcastd.engines.outcomes import FULL, STOPPED
from mcastd.errors import SinkError, reason_of
from mcastd.inbound.sinks.account import NO_DESCRIPTORS, Account
from mcastd.inbound.sinks.format import Format, metadata_of
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.sink import LINGER_SECONDS, Sink
from mcastd.net.link import Batch
from mcastd.status import EngineStatus, OutputStatus

# While something waits, it is looked so often what became of it.
LOOK_SECONDS = 0.1
RETRY_SECONDS = 1.0
NOTHING = HandedOver((), (), (), 0)


class EngineSink(Sink):
    """The thread that does it is started when the sink is opened: see hand_over.py."""

    may_queue = True

    def __init__(self, config: EngineOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(account)
        self.reasons = *reasons_of(config), NO_DESCRIPTORS
        self._settings = config
        self._format = format
        self._plan = plan_of(config)
        self._hand_over: HandOver | None = None
        self._last = HandOverPicture()  # of what has ended
        self._counted_from: int | None = None  # see HandOver
        self._retry_at = 0.0  # monotonic seconds

    def open(self) -> None:
        if self._hand_over is not None or clock.monotonic() < self._retry_at:
            return
        log = self._account.log
        try:
            self._hand_over = HandOver(self._plan, self._stream(), log, counted_from=self._counted_from)
        except (OSError, RuntimeError) as error:
            self._retry_at = self.deadline = clock.monotonic() + RETRY_SECONDS
            self._account.drop(0, self._trouble(reason_of(error), NO_DESCRIPTORS, waits="trying again"))
            return
        self._plan_look()

    @property
    def awaits(self) -> tuple[int, int] | None:
        return None if self._hand_over is None else (self._hand_over.told.fileno(), select.POLLIN)

    def write(self, batch: Batch) -> None:
        self.open()
        if self._hand_over is None:
            trouble = self._account.trouble or self._trouble("there is no thread for it", NO_DESCRIPTORS)
            self._account.drop(len(batch), trouble)
            return
        payloads = [bytes(payload) for payload in self._format.records(batch).payloads]
        count = len(payloads)
        origins, times = metadata_of(batch)
        taken = HandedOver(payloads, [*origins], [*times], sum(map(len, payloads)))
        self.counters.queued += count
        self._put(self._hand_over, taken)
        self._plan_look()

    def tick(self, now: float) -> None:
        self.open()
        if self._hand_over is not None:
            self._hand_over.told.quiet()
        self._collect()

    def flush(self) -> None:
        self._collect()

    def reopen(self) -> None:
        """The group may be another by now: have it seen whether the server takes that, before it comes."""
        if self._hand_over is not None:
            self._put(self._hand_over, NOTHING)

    def go_on_from(self, before: Sink) -> None:
        """What it has left in the same spool is counted on."""
        super().go_on_from(before)
        if not isinstance(before, EngineSink):
            return
        left, before.counters.queued = before.counters.queued, 0
        if before._settings.spool == self._settings.spool:
            self._counted_from = before._counted_from
            self.counters.queued = left
        elif left:
            cause = f"some are left in the spool {before._settings.spool}, which it has no more"
            self._account.drop(left, self._trouble(cause, STOPPED, "give it that spool again"))

    def linger(self, until: float) -> None:
        self._end(until)

    def close(self, *, for_good: bool = False) -> None:
        self._end(clock.monotonic() + LINGER_SECONDS)

    def engine(self) -> EngineStatus:
        hand_over = self._hand_over
        picture = self._last if hand_over is None else hand_over.picture
        return EngineStatus(
            server=picture.server or None,
            waiting=picture.waiting,
            in_flight=picture.in_flight,
            spool=None if self._plan.spool is None else str(self._plan.spool),
            spool_bytes=picture.spool_bytes,
            taken_up=picture.taken_up,
            duplicates=picture.duplicates,
        )

    def status(self) -> OutputStatus:
        return replace(super().status(), engine=self.engine())

    # -- in detail

    def _put(self, hand_over: HandOver, taken: HandedOver) -> None:
        if dropped := hand_over.put(taken, self._stream()):
            self.counters.queued -= dropped
            full = self._trouble("more has come at once than queue holds", FULL, "raise queue")
            self._account.drop(dropped, full)

    def _end(self, until: float) -> None:
        hand_over = self._hand_over
        if hand_over is None:
            return
        has_ended = hand_over.stop(until)
        self._collect()
        # What a thread that hangs has may come into the spool yet: that is dropped below, and counts no more
        self._counted_from = hand_over.counted_from if has_ended else None
        self._hand_over, self._last = None, hand_over.picture
        self.deadline = math.inf
        left = self.counters.queued
        if not left:
            return
        if not has_ended or self._plan.spool is None:
            self._account.drop(left, self._trouble("its thread hangs, and what it had with it", STOPPED))
            self.counters.queued = 0
        else:
            self._account.log.info(
                "output.kept", **self._settings.named, datagrams=left, spool=str(self._plan.spool)
            )

    def _collect(self) -> None:
        """Count what became of datagrams, and take the trouble that the other thread is in."""
        hand_over, account = self._hand_over, self._account
        if hand_over is None:
            return
        self.deadline = math.inf
        results = hand_over.collect()
        account.wrote(results.written, results.written_bytes)
        self.counters.queued -= results.written
        for count, error in results.dropped.values():
            self.counters.queued -= count
            account.drop(count, error)
        if (trouble := hand_over.picture.trouble) is not None:
            account.drop(0, trouble)
        elif not results.dropped:
            account.recovered()
        self.deadline = math.inf
        self._plan_look()

    def _plan_look(self) -> None:
        """Plan the next look at what became of datagrams: those that come do not put it off."""
        hand_over, account = self._hand_over, self._account
        if hand_over is not None and hand_over.picture.trouble is not None:
            seconds = RETRY_SECONDS  # it tells when that is over
        else:
            seconds = LOOK_SECONDS if self.counters.queued or account.trouble is not None else math.inf
        self.deadline = min(self.deadline, clock.monotonic() + seconds)

    def _stream(self) -> KeptStream:
        stream = self._format.stream
        return KeptStream(stream.group(), stream.port(), f"{socket.gethostname()}/{stream.worker}")

    def _trouble(self, cause: str, reason: str, way_out: str = "", *, waits: str = "") -> SinkError:
        what = f"cannot write to {self._settings.label}"
        return SinkError(what, cause, way_out, reason=reason, waits=waits)
