"""The network in memory, for tests of workers: a FakeReceiver is fed by hand, a FakeSender keeps all."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from mcastd.bounded import Patience
from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.net.interfaces import Host, Interface
from mcastd.net.link import (
    Batch,
    DatagramFlow,
    Glance,
    LegLink,
    ListBatch,
    Load,
    Metadata,
    Origin,
)
from mcastd.net.mroute import Heard
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.net.routing import InterfaceCount, KeptRoute, NoRoute, RouteCount, WrongInterface
from mcastd.status import MembershipStatus, ReceiverDescription, SenderDescription

ANYBODY = Origin(source="192.0.2.1", port=5000, ifindex=1, ttl=1)
# Datagrams that receive() returns at most, like the real receiver.
BATCH_DATAGRAMS = 64
# The longest wait for a datagram in receive().
WAIT_SECONDS = 0.005


class FakeReceiver:
    """A Receiver whose datagrams come from :meth:`deliver`, from any thread."""

    def __init__(self, metadata: Metadata = Metadata.ALL) -> None:
        self.metadata = metadata
        self.senders_apart = False  # as it was told: its batches always have all
        self.joined = "fake0"
        self.closed = False
        self.left = False
        self.coalesce = True
        self.dropped_by_kernel = 0
        self.filled = 0.0
        self.emptied = True
        self.network_changes = 0
        self.rejoins = 0
        self.source_filter = ANY_SOURCE
        self.error: LinkError | None = None  # raised by the next network_changed()
        self.failure: LinkError | None = None  # raised by receive(), as long as it is set
        self.trouble = ""
        self.problem = ""
        self.retry_at: float | None = None
        self.deadline = math.inf
        self.ticks: list[float] = []  # times given to tick()
        self.on_lost: Callable[[], None] = lambda: None
        self.interface: str | tuple[str, ...] | None = None
        self.receive_buffer = 4 << 20
        self.patience: tuple[float, float] | None = None
        self._waiting: deque[tuple[bytes, Origin]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)

    def deliver(self, *payloads: bytes, origin: Origin = ANYBODY) -> None:
        for payload in () if self.left else payloads:
            self._waiting.append((payload, origin))
            os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def receive(self, wait: bool = False) -> Batch:
        if self.failure is not None:
            raise self.failure
        if wait:
            select.select([self._event], [], [], WAIT_SECONDS)
        taken: list[tuple[bytes, Origin]] = []
        with contextlib.suppress(BlockingIOError):
            while len(taken) < BATCH_DATAGRAMS:
                os.eventfd_read(self._event)  # which promises one that waits
                taken.append(self._waiting.popleft())
        self.emptied = len(taken) < BATCH_DATAGRAMS
        payloads = [payload for payload, _ in taken]
        origins = [origin for _, origin in taken]
        addresses = [origin.source for origin in origins]
        if not self.metadata:
            return ListBatch(payloads, addresses=addresses)
        return ListBatch(payloads, origins, [0] * len(taken), addresses=addresses)

    def one_socket(self) -> None:
        return None

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self.deadline = math.inf

    def idle(self) -> None:
        pass

    def network_changed(self) -> None:
        self.network_changes += 1
        if self.error is not None:
            raise self.error

    def set_filter(self, source_filter: SourceFilter) -> None:
        self.source_filter = source_filter

    def set_interface(self, setting: str | tuple[str, ...] | None) -> None:
        self.interface = setting

    def set_receive_buffer(self, size: int) -> None:
        self.receive_buffer = size

    def set_patience(self, silence_seconds: float, refresh_seconds: float) -> None:
        self.patience = silence_seconds, refresh_seconds

    def set_coalesce(self, wanted: bool) -> None:
        self.coalesce = wanted

    def set_metadata(self, wanted: Metadata) -> None:
        self.metadata = wanted

    def tell_senders_apart(self, wanted: bool) -> None:
        self.senders_apart = wanted

    def rejoin(self) -> None:
        self.rejoins += 1

    def leave(self) -> None:
        self.left = True

    def memberships(self, patience: Patience | None = None) -> tuple[MembershipStatus, ...]:
        return ()

    def load(self) -> Load:
        return Load(self.dropped_by_kernel, self.filled, self.receive_buffer)

    def glance(self) -> Glance:
        return Glance(self.dropped_by_kernel, 4 << 20, (self.joined,), 1)

    def by_leg(self) -> tuple[LegLink, ...]:
        return ()

    def describe(self) -> ReceiverDescription:
        return ReceiverDescription((self.joined,), self.receive_buffer, "fake", self.coalesce)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._event)


class FakeSender:
    """A Sender that appends to ``sent``; ``room`` bounds what it takes, ``errors`` are raised in turn."""

    sending = "send"
    deadline = math.inf
    held = 0

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.room: int | None = None  # datagrams it still takes; None: any number
        self.errors: deque[int] = deque()  # errno numbers, one for each coming send()
        self.largest: int | None = None  # bytes; a longer payload is refused with EMSGSIZE
        self.closed = False
        self.carrier = True
        self.network_changes = 0
        self.skipped = 0  # datagrams

    def send(self, payloads: Payloads) -> int:
        if self.errors:
            raise _refusal(self.errors.popleft())
        accepted = 0
        for payload in payloads:
            if self.room == 0:
                if accepted == 0:
                    raise _refusal(errno.EAGAIN)
                break
            if self.largest is not None and len(payload) > self.largest:
                if accepted == 0:
                    raise _refusal(errno.EMSGSIZE)
                break
            self.sent.append(bytes(payload))
            accepted += 1
            if self.room is not None:
                self.room -= 1
        return accepted

    def prepare(self, size: int, count: int) -> Callable[[bytes | memoryview], object] | None:
        def send(data: bytes | memoryview) -> None:
            step = len(data) if count == 1 else size
            payloads = ListPayloads(data[at : at + step] for at in range(0, max(1, len(data)), max(1, step)))
            number = self.errors.popleft() if self.errors else 0
            if self.room is not None and self.room < len(payloads):
                number = errno.EAGAIN
            if self.largest is not None and step > self.largest:
                number = errno.EMSGSIZE
            if number:
                raise OSError(number, os.strerror(number))
            self.send(payloads)

        return send

    def note_refusal(self, error: OSError, size: int, count: int) -> None:
        """The same error comes with the next send, if it still holds."""

    def skip(self, count: int) -> None:
        self.skipped += count

    def tick(self, now: float) -> None:
        """Never called: there is no deadline."""

    def network_changed(self) -> None:
        self.network_changes += 1

    def describe(self) -> SenderDescription:
        return SenderDescription("fake0", "192.0.2.9")

    def flows(self) -> Sequence[DatagramFlow]:
        return (DatagramFlow("192.0.2.9", 40009, "239.0.0.9", 5009),)

    def close(self) -> None:
        self.closed = True


def _refusal(number: int) -> LinkError:
    return LinkError("cannot send to the fake group", os.strerror(number).lower(), errno=number)


class FakeRoutingTable:
    """The kernel's multicast routing in memory: :meth:`send` a datagram, and see where it goes."""

    def __init__(self) -> None:
        self.routes: dict[tuple[Address, Address], tuple[int, dict[int, int]]] = {}
        self.counts: dict[tuple[Address, Address], RouteCount] = {}
        self.out: Counter[int] = Counter()  # packets by interface
        self.listening: set[int] = set()
        self.refused: dict[int, LinkError] = {}  # interfaces that are not taken
        self.refusal: LinkError | None = None  # of routes
        self.said: deque[NoRoute | WrongInterface | Heard] = deque()
        self.closed = False
        self._interfaces: set[int] = set()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def send(self, came_by: int, source: Address, group: Address, ttl: int = 8) -> set[int]:
        """Returns the interfaces that it goes to by the route that there is."""
        key = source, group
        if key not in self.routes:
            self.say(NoRoute(came_by, source, group))
            return set()
        parent, to = self.routes[key]
        count = self.counts[key]
        if parent != came_by:
            wrong = count.wrong_interface + 1
            self.counts[key] = replace(count, bytes=count.bytes + 1344, wrong_interface=wrong)
            self.say(WrongInterface(came_by, source, group))
            return set()
        self.counts[key] = replace(count, packets=count.packets + 1, bytes=count.bytes + 1344)
        went = {ifindex for ifindex, threshold in to.items() if ttl > threshold}
        self.out.update(went)
        return went

    def say(self, what: NoRoute | WrongInterface | Heard) -> None:
        """For any thread."""
        self.said.append(what)
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    @property
    def interfaces(self) -> frozenset[int]:
        return frozenset(self._interfaces)

    def add(self, ifindex: int) -> None:
        if (error := self.refused.get(ifindex)) is not None:
            raise error
        self._interfaces.add(ifindex)

    def remove(self, ifindex: int) -> None:
        self._interfaces.discard(ifindex)
        self.ignore(ifindex)

    def route(self, source: Address, group: Address, came_by: int, to: Mapping[int, int]) -> None:
        if self.refusal is not None:
            raise self.refusal
        assert {came_by, *to} <= self._interfaces
        self.routes[source, group] = came_by, dict(to)
        self.counts.setdefault((source, group), RouteCount(0, 0, 0))

    def unroute(self, source: Address, group: Address, came_by: int) -> None:
        self.routes.pop((source, group), None)
        self.counts.pop((source, group), None)

    def count(self, source: Address, group: Address) -> RouteCount | None:
        return self.counts.get((source, group))

    def interface_count(self, ifindex: int) -> InterfaceCount | None:
        return InterfaceCount(0, self.out[ifindex]) if ifindex in self._interfaces else None

    def listen(self, ifindex: int) -> None:
        self.listening.add(ifindex)

    def ignore(self, ifindex: int) -> None:
        self.listening.discard(ifindex)

    def kept_routes(self) -> Iterator[KeptRoute]:
        for (source, group), (came_by, to) in self.routes.items():
            yield KeptRoute(source, group, came_by, dict(to))

    def take(self) -> Iterator[NoRoute | WrongInterface | Heard]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        try:
            while self.said:
                yield self.said.popleft()
        finally:
            if self.said:
                os.eventfd_write(self._event, 1)

    def close(self) -> None:
        if not self.closed:
            os.close(self._event)
        self.closed = True


class FakeQuerySender:
    """Queries that were sent: interface, source, destination and message."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Address, Address, bytes]] = []
        self.refusal: LinkError | None = None

    def send(self, ifindex: int, source: Address, destination: Address, message: bytes) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.sent.append((ifindex, source, destination, message))

    def close(self) -> None:
        self.refusal = LinkError("cannot ask", "closed")


class FakeJoins:
    """Memberships in memory."""

    def __init__(self) -> None:
        self.joined: dict[tuple[int, Address], SourceFilter] = {}
        self.refused: dict[Address, LinkError] = {}
        self.lost: dict[tuple[int, Address], LinkError] = {}  # what keep() finds

    def join(self, interface: Interface, group: Address, source_filter: SourceFilter) -> None:
        if (error := self.refused.get(group)) is not None:
            raise error
        self.joined[interface.index, group] = source_filter

    def leave(self, ifindex: int, group: Address) -> None:
        self.joined.pop((ifindex, group), None)

    def keep(self, host: Host) -> dict[tuple[int, Address], LinkError]:
        lost, self.lost = self.lost, {}
        return lost

    def close(self) -> None:
        self.joined = {}
