"""A subscription's link that comes by a tunnel: a Receiver whose datagrams another thread delivers."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from mcastd.bell import Bell
from mcastd.bounded import Patience
from mcastd.ip import ANY_SOURCE, Address, Interfaces, SourceFilter
from mcastd.net.link import NOTHING, Batch, Glance, LegLink, ListBatch, Load, Metadata, Origin
from mcastd.status import MembershipStatus, ReceiverDescription, TunnelStatus
from mcastd.tunnel.inner import TunnelledRun

# Datagrams that one batch has at most.
BATCH_DATAGRAMS = 256
# What the kernel counts for a datagram beside its payload, about; so a receive buffer means the same here.
OVERHEAD_BYTES = 768


class Tunnel(Protocol):
    """A tunnel as a receiver sees it. For any thread."""

    kind: str  # as in its status

    def changed(self, receiver: TunnelReceiver) -> None:
        """What a receiver wants is something else now, or nothing."""

    def status(self) -> TunnelStatus: ...

    @property
    def problem(self) -> str:
        """What keeps it from working; "" if nothing does."""

    @property
    def is_open(self) -> bool: ...

    @property
    def overflow(self) -> int:
        """Packets that the kernel dropped at the tunnel's full receive buffer: whose is not known."""


class TunnelReceiver:
    """A Receiver. Its user's thread receives, the tunnel's thread delivers."""

    deadline = math.inf
    retry_at: float | None = None
    trouble = ""

    def __init__(
        self,
        tunnel: Tunnel,
        group: Address,
        port: int,
        source_filter: SourceFilter,
        receive_buffer: int,
        *,
        refresh_seconds: float,
    ) -> None:
        """``refresh_seconds``: at most so long after its last answer the relay is asked again."""
        self.group = group
        self.port = port
        self.wanted: SourceFilter | None = source_filter  # None: it has left
        self.refresh_seconds = refresh_seconds
        self.emptied = True
        self.on_lost: Callable[[], None] = lambda: None
        self._tunnel = tunnel
        self._receive_buffer = receive_buffer
        self._metadata = Metadata.NONE
        self._lock = threading.Lock()  # of what waits
        self._waiting: deque[TunnelledRun] = deque()
        self._bytes = 0  # of what waits, with OVERHEAD_BYTES for each
        self._overflow = 0
        self._overflow_before = tunnel.overflow
        self._bell = Bell()
        self._is_closed = False

    # -- the tunnel's thread

    def deliver(self, runs: Sequence[TunnelledRun]) -> None:
        """Have these received. Those for which there is no room are dropped, and counted."""
        with self._lock:
            if self._is_closed:
                return
            for run in runs:
                fitting, room = run, self._receive_buffer - self._bytes
                if _size(run) > room:
                    fitting = run.part(0, bisect_right([*accumulate(map(_room_for, run.payloads))], room))
                    self._overflow += len(run.payloads) - len(fitting.payloads)
                if fitting.payloads:
                    self._waiting.append(fitting)
                    self._bytes += _size(fitting)
            self._bell.ring()

    # -- the user's thread

    def fileno(self) -> int:
        return self._bell.fileno()

    def receive(self, wait: bool = False) -> Batch:
        waiting = self._waiting
        with self._lock:
            self._bell.quiet()
            taken = [*self._take()]
            self._bytes -= sum(map(_size, taken))
            self.emptied = not waiting
            if waiting:
                self._bell.ring()
        if not taken:
            return NOTHING
        payloads = [payload for run in taken for payload in run.payloads]
        origins = [
            origin
            for first, same, _ in taken
            for origin in [Origin(str(first.source), first.source_port, 0, first.ttl)] * len(same)
        ]
        addresses = [origin.source for origin in origins]
        if not self._metadata:
            return ListBatch(payloads, addresses=addresses)
        times = [time for run in taken for time in run.times]
        return ListBatch(payloads, origins, times, addresses=addresses)

    def _take(self) -> Iterator[TunnelledRun]:
        """Take what one batch has of what waits."""
        waiting, room = self._waiting, BATCH_DATAGRAMS
        while waiting and room:
            run = waiting.popleft()
            if len(run.payloads) > room:
                waiting.appendleft(run.part(room))
                run = run.part(0, room)
            room -= len(run.payloads)
            yield run

    def one_socket(self) -> None:
        return None

    def tick(self, now: float) -> None:
        pass

    def idle(self) -> None:
        pass

    def network_changed(self) -> None:
        pass

    def set_filter(self, source_filter: SourceFilter) -> None:
        self.wanted = source_filter
        self._tunnel.changed(self)

    def set_interface(self, setting: Interfaces | None) -> None:
        pass

    def set_receive_buffer(self, size: int) -> None:
        self._receive_buffer = size

    def set_patience(self, silence_seconds: float, refresh_seconds: float) -> None:
        self.refresh_seconds = refresh_seconds
        self._tunnel.changed(self)

    def set_coalesce(self, wanted: bool) -> None:
        pass

    def set_metadata(self, wanted: Metadata) -> None:
        self._metadata = wanted

    def tell_senders_apart(self, wanted: bool) -> None:
        pass

    def rejoin(self) -> None:
        self._tunnel.changed(self)

    def leave(self) -> None:
        self.wanted = None
        self._tunnel.changed(self)

    def close(self) -> None:
        self.leave()
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._bell.close()

    # -- what is seen of it, by any thread

    @property
    def problem(self) -> str:
        return self._tunnel.problem

    def load(self) -> Load:
        return Load(self._lost, self._bytes / self._receive_buffer, self._receive_buffer)

    @property
    def _lost(self) -> int:
        return self._overflow + self._tunnel.overflow - self._overflow_before

    def glance(self) -> Glance:
        joined = (self._tunnel.kind,) if self._tunnel.is_open else ()
        return Glance(self._lost, self._receive_buffer, joined, 1)

    def by_leg(self) -> tuple[LegLink, ...]:
        return ()

    def describe(self) -> ReceiverDescription:
        kind = self._tunnel.kind
        return ReceiverDescription((kind,), self._receive_buffer, kind, False, self._tunnel.status())

    def memberships(self, patience: Patience | None = None) -> tuple[MembershipStatus, ...]:
        wanted = str(self.wanted or ANY_SOURCE)
        return (
            MembershipStatus(
                interface=self._tunnel.kind,
                ifindex=0,
                group=str(self.group),
                wanted=wanted,
                actual=wanted if self._tunnel.is_open else None,
                refused=None,
                retry_in=None,
            ),
        )


def _room_for(payload: bytes) -> int:
    return len(payload) + OVERHEAD_BYTES


def _size(run: TunnelledRun) -> int:
    """The bytes that it takes of a receive buffer."""
    return sum(map(len, run.payloads)) + OVERHEAD_BYTES * len(run.payloads)
