"""Outputs that send what was received on, each record as a datagram: what they have in common.

```
   batch --- format ---> records --- send ---> the network
                            |          ^
                  it is full+-- held --+ after a pause
```
"""

from __future__ import annotations

import errno
import math
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from mcastd import clock
from mcastd.config import SendingOutput
from mcastd.errors import LinkError, SinkError
from mcastd.inbound.sinks.account import (
    NO_DESCRIPTORS,
    TROUBLE_SECONDS,
    UNREACHABLE,
    Account,
    why_no_way,
)
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.queue import RECORD_OVERHEAD_BYTES
from mcastd.inbound.sinks.records import Record
from mcastd.inbound.sinks.returned import CIRCLE, ReturnGuard
from mcastd.inbound.sinks.sink import LINGER_SECONDS, Sink
from mcastd.net.link import FULL_ERRNOS, Batch
from mcastd.net.payloads import ListPayloads, Payloads

# Reasons to drop.
FULL = "full"  # the network does not take them as fast as they come
TOO_BIG = "too-big"  # longer than the way takes
NO_CARRIER = "no-carrier"
STOPPED = "stopped"
REASONS = (FULL, TOO_BIG, NO_CARRIER, UNREACHABLE, NO_DESCRIPTORS, STOPPED)
# Of what goes to a program, too
REASONS_OF_PROGRAM = (*REASONS, CIRCLE)
# While the kernel is full nothing is sent for the first of these, doubled up to the second. The second, too,
# is how often it is looked whether the way is known by now.
PAUSE_SECONDS = 0.001
PAUSE_MAX_SECONDS = 0.064
# After there was no way it is looked for again.
RETRY_SECONDS = 1.0
# What is held is sent so many at a time.
SEND_DATAGRAMS = 512


class Destination(Protocol):
    """Where datagrams go: a Sender, as far as a sink has to do with it."""

    carrier: bool

    def send(self, payloads: Payloads) -> int: ...

    def network_changed(self) -> None: ...

    def close(self) -> None: ...


D = TypeVar("D", bound=Destination)
RecordRun = tuple[int, Payloads]
"""Records in a row that are sent alike: what is told of them to the destination, and they."""


class SendingSink(Sink, Generic[D]):
    """Sends records in order. Those that find no room are held in memory, up to ``queue`` bytes."""

    reasons: Sequence[str] = REASONS
    may_queue = True
    # True: what comes while there is no way is held, too, as far as the queue goes
    holds_without_way = False
    # True: the way may answer with an error, so that :meth:`sent` has to look for one whenever it is well
    may_answer = False

    def __init__(
        self, config: SendingOutput, format: Format, account: Account, *, may_return: bool = False
    ) -> None:
        """``may_return``: what is sent may come back as it was, with whatever TTL."""
        super().__init__(account)
        self._returns = ReturnGuard(account, config.label) if may_return else None
        self._settings = config
        self.may_block = config.when_full == "block"
        self._format = format
        self.destination: D | None = None  # None: there is no way yet, or any more
        self._prepared: int | None = None  # what it was told last of a run; None: nothing yet
        self._lacks_way = False  # the trouble is that there was no way, and not what a datagram has met
        self._retry_at = 0.0  # monotonic seconds
        self._pause = 0.0  # seconds
        self._again_at = 0.0  # monotonic seconds when what is held is tried again, whatever comes meanwhile
        self._has_lingered = False
        self._held: deque[tuple[int, bytes]] = deque()
        self._held_bytes = 0

    # -- what a kind of output says

    @abstractmethod
    def connect(self) -> D | None:
        """Find the way; None: it is not known yet, and what comes is held. Raises LinkError, SinkError."""

    def prepare(self, destination: D, alike: int) -> None:
        """Tell a destination how the next run is sent. Raises LinkError."""

    def runs(self, batch: Batch, senders: Sequence[tuple[str, int]]) -> Iterable[RecordRun]:
        """The records of a batch, which has come from these. Those that are not to be sent are counted as
        dropped."""
        return [(0, self._format.payloads(batch))]

    def skip(self, count: int, left: int) -> None:
        """Take note that the first ``count`` that were held are dropped, and that ``left`` are held now, the
        others being dropped, too. All of them may have been tried."""

    def look(self, now: float) -> None:
        """Look after what changes by itself, now and then."""

    # -- as a sink

    @property
    def blocked(self) -> bool:
        is_full = self._held_bytes >= self._settings.queue
        return self.may_block and self.destination is not None and is_full

    def open(self) -> None:
        self._attempt()
        self._plan()

    def write(self, batch: Batch) -> None:
        before, senders = (self.destination, self._account.trouble), batch.sources
        if self._returns is not None:
            sifted = self._returns.sift(batch, senders)
            if sifted is not batch:
                batch, senders = sifted, sifted.sources
        for alike, payloads in self.runs(batch, senders):
            if not (count := len(payloads)):
                continue
            done = 0 if self._held else self._send(alike, payloads, count)
            if done < count:
                self._hold(alike, payloads.part(done, count))
        if self._held or before != (self.destination, self._account.trouble):
            self._plan()

    def flush(self) -> None:
        """Send what is held, as far as that goes."""
        while self._held:
            some = list(islice(self._held, SEND_DATAGRAMS))
            for alike, run in groupby(some, key=itemgetter(0)):
                payloads: list[Record] = [payload for _, payload in run]
                done = self._send(alike, ListPayloads(payloads), len(payloads))
                for _ in range(done):
                    self._held_bytes -= len(self._held.popleft()[1]) + RECORD_OVERHEAD_BYTES
                if done < len(payloads):
                    self.counters.queued = len(self._held)
                    return
        self.counters.queued = 0

    def tick(self, now: float) -> None:
        self.look(now)
        if self._held:
            self.flush()
        elif self.destination is None:
            self._attempt()
        elif now >= self._over_at():
            self.sent()
        self._plan()

    def network_changed(self) -> None:
        self._retry_at = 0.0
        if self.destination is not None:
            try:
                self.destination.network_changed()
            except LinkError as error:
                self._lose(error)
                self._lacks_way = True
        self.open()

    def take_over(self, before: Sink) -> bool:
        if type(before) is not type(self) or not isinstance(before, SendingSink):
            return False
        if before._settings.format != self._settings.format:
            return False
        self._held, before._held = before._held, deque()
        self._held_bytes, before._held_bytes = before._held_bytes, 0
        self.counters.queued, before.counters.queued = len(self._held), 0
        return True

    def linger(self, until: float) -> None:
        self._has_lingered = True
        self.flush()
        while self._held and self.destination is not None and (left := until - clock.monotonic()) > 0:
            time.sleep(max(PAUSE_SECONDS, min(self._pause, left)))
            self.flush()

    def close(self, *, for_good: bool = False) -> None:
        if not self._has_lingered:
            self.linger(clock.monotonic() + LINGER_SECONDS)
        if self._held:
            self._account.drop(len(self._held), self.trouble("stopped", STOPPED))
            self._held.clear()
            self._held_bytes = self.counters.queued = 0
        self.disconnect()

    # -- the way

    def disconnect(self) -> None:
        if self.destination is not None:
            self.destination.close()
            self.destination = self._prepared = None

    def trouble(self, cause: str, reason: str, way_out: str = "", *, waits: str = "") -> SinkError:
        what = f"cannot send to {self._settings.label}"
        return SinkError(what, cause, way_out, reason=reason, waits=waits)

    def _attempt(self) -> None:
        """Find the way, if there is none; what is in it is noted. Once there is one, that is over."""
        try:
            way = self._way()
        except (LinkError, SinkError) as error:
            self._lose(error)
        else:
            if self._lacks_way and way is not None and way.carrier:
                self.sent()

    def _way(self) -> D | None:
        """The way, which is looked for if it is time. Raises LinkError, SinkError."""
        if self.destination is None and clock.monotonic() >= self._retry_at:
            self.destination = self.connect()
        return self.destination

    def _lose(self, error: LinkError | SinkError, dropped: int = 0) -> None:
        """There is no way, or it is lost by a datagram: ``dropped`` are given up."""
        self._lacks_way = self.destination is None
        self.disconnect()
        self._retry_at = clock.monotonic() + RETRY_SECONDS
        reason = error.reason if isinstance(error, SinkError) else why_no_way(error.errno)
        trouble = SinkError(error.what, error.cause, error.way_out, reason=reason, waits="looking for a way")
        self._account.drop(dropped, trouble)

    # -- sending

    def _send(self, alike: int, payloads: Payloads, count: int) -> int:
        """Send a run of ``count``. Returns how many were sent or dropped: fewer if there is no room."""
        done, account, counters = 0, self._account, self.counters
        try:
            way = self.destination or self._way()
            if way is None:
                return self._do_without_way(count)
            if alike != self._prepared:
                self.prepare(way, alike)
                self._prepared = alike
            while done < count:
                rest = payloads.part(done, count) if done else payloads
                try:
                    sent = way.send(rest)
                except LinkError as error:
                    self._drop_if_too_big(error, len(rest[0]))
                    done += 1
                    continue
                if way.carrier:
                    counters.written += sent
                    counters.written_bytes += sum(rest.sizes[:sent])
                    if account.trouble is not None or self.may_answer:
                        self.sent()
                else:
                    self._lacks_way = True
                    account.drop(sent, self.trouble("its interface has no carrier", NO_CARRIER))
                done += sent
        except (LinkError, SinkError) as error:
            if error.errno in FULL_ERRNOS:
                self._pause = min(max(PAUSE_SECONDS, 2 * self._pause), PAUSE_MAX_SECONDS)
                self._again_at = clock.monotonic() + self._pause
                return done
            if self.holds_without_way:
                self._lose(error)
                self._again_at = self._retry_at
                return done
            self._lose(error, count - done)
            return count
        self._pause = 0.0
        return done

    def _do_without_way(self, count: int) -> int:
        """Returns how many of a run of ``count`` are dropped: none if they are to be held."""
        now = clock.monotonic()
        if self.holds_without_way or now >= self._retry_at:  # the way is not known yet
            self._again_at = max(self._retry_at, now + PAUSE_MAX_SECONDS)
            return 0
        self._account.drop(count, self._known_trouble())
        return count

    def _drop_if_too_big(self, error: LinkError, size: int) -> None:
        """Count a datagram of ``size`` bytes as dropped for the error. Raises it if it is another one."""
        if error.errno != errno.EMSGSIZE:
            raise error
        trouble = self.trouble(f"{size} bytes are too many", TOO_BIG, "raise the MTU of the way")
        self._account.drop(1, trouble)

    def sent(self) -> None:
        """Datagrams were sent, or can be by now: what was in the way is over. Called if something was, or may
        still be.
        """
        self._lacks_way = False
        if self._returns is None or self._returns.trouble is None:
            self._account.recovered()

    def _known_trouble(self) -> SinkError:
        return self._account.trouble or self.trouble("there is no way", UNREACHABLE)

    def _hold(self, alike: int, payloads: Payloads) -> None:
        config, held = self._settings, self._held
        for payload in payloads:
            held.append((alike, bytes(payload)))
            self._held_bytes += len(payload) + RECORD_OVERHEAD_BYTES
        evicted = 0
        if config.when_full != "block" or self.destination is None:
            take = held.popleft if config.when_full == "drop-oldest" else held.pop
            while self._held_bytes > config.queue and len(held) > 1:
                self._held_bytes -= len(take()[1]) + RECORD_OVERHEAD_BYTES
                evicted += 1
        if evicted:
            self.skip(evicted if config.when_full == "drop-oldest" else 0, len(held))
            self._account.drop(evicted, self._full())
        self.counters.queued = len(held)

    def _full(self) -> SinkError:
        if self.destination is not None:
            return self.trouble("it does not take them as fast as they come", FULL)
        return self._account.trouble or self.trouble("its name is not resolved yet", UNREACHABLE)

    def _plan(self) -> None:
        """When :meth:`tick` is due."""
        if self._held:
            self.deadline = self._again_at
        elif self.destination is None:
            self.deadline = max(self._retry_at, clock.monotonic() + PAUSE_MAX_SECONDS)
        else:
            over_at = max(self._over_at(), clock.monotonic() + RETRY_SECONDS)
            self.deadline = min(self.look_at(), over_at)

    def _over_at(self) -> float:
        """When the trouble is over that a datagram has met, and none since; ``inf``: there is no such."""
        account = self._account
        is_met = account.trouble is not None and not self._lacks_way
        return account.troubled_at + TROUBLE_SECONDS if is_met else math.inf

    def look_at(self) -> float:
        """When :meth:`look` is due, in monotonic seconds; ``inf``: never."""
        return math.inf
