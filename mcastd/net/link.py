"""The seam between workers and the network: batches of datagrams over Receiver and Sender.

``sockets.py`` is the real thing, ``fake.py`` its in-memory twin for tests. OSError stops here: both raise
:class:`~mcastd.errors.LinkError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Protocol

MAX_DATAGRAM = 65_507  # bytes of payload: 65,535 less 20 (IPv4 header) less 8 (UDP header)


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Which sources a subscription receives: all but ``sources`` (EXCLUDE), or these alone (INCLUDE).

    The words of RFC 3376 section 2. Its text is ``any``, ``include ADDRESS, ...`` or
    ``exclude ADDRESS, ...``.
    """

    exclude: bool = True
    sources: tuple[IPv4Address | IPv6Address, ...] = ()

    def __str__(self) -> str:
        if not self.sources:
            return "any" if self.exclude else "none"
        mode = "exclude" if self.exclude else "include"
        return f"{mode} {', '.join(map(str, sorted(self.sources, key=int)))}"


ANY_SOURCE = SourceFilter()


class Arrival(NamedTuple):
    """What the kernel told of one received datagram beside its payload."""

    source: str  # textual address of the sender, no scope
    port: int  # the sender's port
    ifindex: int  # arrival interface; 0 if unknown
    ttl: int  # IPv4 TTL or IPv6 hop limit left; -1 if unknown
    time_ns: int  # kernel receive timestamp, nanoseconds since the epoch; 0 if unknown


@dataclass(frozen=True, slots=True)
class Batch:
    """Datagrams received together, oldest first. Buffers are valid until the next receive.

    ``sources`` is as long as ``payloads``; so is ``arrivals``, or empty if the receiver was opened without
    metadata.
    """

    payloads: Sequence[bytes | memoryview]
    arrivals: Sequence[Arrival] = ()
    truncated: int = 0  # how many were longer than their slot and were cut
    sources: Sequence[str] = ()  # the sender's address of each

    def __len__(self) -> int:
        return len(self.payloads)


class Receiver(Protocol):
    """An open subscription to one group and port."""

    def fileno(self) -> int:
        """To wait on: readable when a batch can be received."""

    def receive(self) -> Batch:
        """Take what has arrived, up to a bounded number of datagrams, without blocking; maybe none."""

    def network_changed(self) -> None:
        """Compare the wanted memberships with what the host has now, and repair.

        Raises LinkError if no interface is left.
        """

    def set_filter(self, source_filter: SourceFilter) -> None:
        """Change the sources that are received, without leaving the group. Raises LinkError."""

    def rejoin(self) -> None:
        """Have the memberships reported again, in case the network has forgotten them. Raises LinkError."""

    def overflow(self) -> int:
        """Datagrams that the kernel dropped at this receiver's full buffer, ever; exact at any time."""

    def describe(self) -> dict[str, object]:
        """The effective settings (interfaces joined, receive buffer had), as JSON values."""

    def memberships(self) -> list[dict[str, object]]:
        """Wanted and actual membership for each interface, as JSON values. Called from other threads."""

    def close(self) -> None:
        """Leave the group."""


class Sender(Protocol):
    """An open way to one group and port."""

    def send(self, payloads: Sequence[bytes | memoryview]) -> int:
        """Hand datagrams to the kernel, in order; return how many it took.

        Raises LinkError if the kernel refused the first of them (EAGAIN and ENOBUFS: it is full for now).
        A refusal further on ends the call, and the next one meets it: so all that it took is counted.
        """

    def network_changed(self) -> None:
        """Follow the interface, its address and the route. Raises LinkError if there is no way now."""

    def describe(self) -> dict[str, object]:
        """The effective settings (interface, source address), as JSON values."""

    def close(self) -> None: ...
