"""Groups that this host is a member of for others: their datagrams are forwarded, and nobody here has them.

One socket for each group and interface: so there is no limit to their number but that of descriptors, and the
kernel speaks IGMP and MLD for them, with all that a host has to do.
"""

from __future__ import annotations

from typing import Protocol

from mcastd.errors import LinkError
from mcastd.ip import Address, SourceFilter
from mcastd.net.interfaces import Host, Interface
from mcastd.net.membership import Memberships
from mcastd.net.sockets import ReceivingSocket

# Nothing is ever received by these sockets: the kernel gives them the least that there is.
RECEIVE_BUFFER_BYTES = 1


class JoinsGroups(Protocol):
    """Joins, or its twin in memory (fake.py)."""

    def join(self, interface: Interface, group: Address, source_filter: SourceFilter) -> None: ...

    def leave(self, ifindex: int, group: Address) -> None: ...

    def keep(self, host: Host) -> dict[tuple[int, Address], LinkError]: ...

    def close(self) -> None: ...


class Joins:
    """Memberships by interface and group. For one thread at a time."""

    def __init__(self, memberships: Memberships) -> None:
        self._memberships = memberships
        self._sockets: dict[tuple[int, Address], ReceivingSocket] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def join(self, interface: Interface, group: Address, source_filter: SourceFilter) -> None:
        """Be a member for these sources from here on, or go over to them. Raises LinkError."""
        sock = self._sockets.get((interface.index, group))
        if sock is not None and sock.membership.joined:
            sock.membership.set_filter(source_filter)
            return
        self.leave(interface.index, group)
        self._sockets[interface.index, group] = ReceivingSocket(
            group,
            0,
            interface,
            source_filter,
            self._memberships,
            receive_buffer=RECEIVE_BUFFER_BYTES,
            metadata=False,
            coalesce=False,
            bind=False,
        )

    def leave(self, ifindex: int, group: Address) -> None:
        """It may have been left, or the interface may have gone."""
        if (sock := self._sockets.pop((ifindex, group), None)) is not None:
            sock.close()

    def keep(self, host: Host) -> dict[tuple[int, Address], LinkError]:
        """Repair what is missing after a change of the network. Returns what could not be, and why."""
        refused = {}
        for (ifindex, group), sock in self._sockets.items():
            if (interface := host.interfaces.get(ifindex)) is None:
                continue
            try:
                sock.membership.keep(interface, host)
            except LinkError as error:
                refused[ifindex, group] = error
        return refused

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets = {}
