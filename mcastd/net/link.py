"""The seam between workers and the network: batches of datagrams over Receiver and Sender.

``sockets.py`` is the real thing, ``fake.py`` its in-memory twin for tests. OSError stops here: both raise
:class:`~mcastd.errors.LinkError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MAX_DATAGRAM = 65_507  # bytes of payload: 65,535 less 20 (IPv4 header) less 8 (UDP header)


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

    ``arrivals`` is as long as ``payloads``, or empty if the receiver was opened without metadata.
    """

    payloads: Sequence[bytes | memoryview]
    arrivals: Sequence[Arrival] = ()
    truncated: int = 0  # how many were longer than their slot and were cut

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

    def overflow(self) -> int:
        """Datagrams that the kernel dropped at this receiver's full buffer, ever; exact at any time."""

    def describe(self) -> dict[str, object]:
        """The effective settings (interfaces joined, receive buffer had), as JSON values."""

    def close(self) -> None:
        """Leave the group."""


class Sender(Protocol):
    """An open way to one group and port."""

    def send(self, payloads: Sequence[bytes | memoryview]) -> int:
        """Hand datagrams to the kernel, in order; return how many it took.

        Fewer than all (perhaps 0) means that it is full for now (EAGAIN, ENOBUFS): try again later.
        Raises LinkError if the kernel refused the first of them for any other reason; so nothing that it
        took before a refusal goes uncounted: a refusal further on ends the call, and meets the next one.
        """

    def network_changed(self) -> None:
        """Look at the interface, its address and the route again.

        Raises LinkError if they are gone, or are others now: open a new Sender then.
        """

    def describe(self) -> dict[str, object]:
        """The effective settings (interface, source address), as JSON values."""

    def close(self) -> None: ...
