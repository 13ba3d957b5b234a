"""Joining and leaving groups by interface index (RFC 3678): one code path for any-source and
source-specific, IPv4 and IPv6."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable, Sequence

from mcastd.errors import LinkError, reason_of
from mcastd.net import _abi
from mcastd.net._abi import Address
from mcastd.net.interfaces import Interface

WAYS_OUT = {
    errno.ENODEV: "waiting for it",
    errno.ENOBUFS: "raise net.ipv4.igmp_max_memberships or net.ipv4.igmp_max_msf",
    errno.ENOMEM: "raise net.core.optmem_max",
}


class Memberships:
    """What one socket has joined of one group, kept equal to what is wanted."""

    def __init__(self, sock: socket.socket, group: Address, sources: Sequence[Address]) -> None:
        self._sock = sock
        self._group = group
        self._sources = sources
        self._level = socket.IPPROTO_IP if group.version == 4 else socket.IPPROTO_IPV6
        self.joined: dict[int, str] = {}  # ifindex -> interface name

    def want(self, interfaces: Iterable[Interface]) -> None:
        """Join and leave so that the group is joined on just these interfaces.

        An interface that was deleted took its membership with it, and its successor of the same
        name has another index: so it is joined anew. Raises LinkError if a join is refused.
        """
        wanted = {interface.index: interface.name for interface in interfaces}
        for ifindex in self.joined.keys() - wanted.keys():
            self._leave(ifindex)
        for ifindex, name in wanted.items():
            if ifindex not in self.joined:
                self._join(ifindex, name)
            self.joined[ifindex] = name

    def _join(self, ifindex: int, name: str) -> None:
        try:
            if not self._sources:
                self._sock.setsockopt(
                    self._level, _abi.MCAST_JOIN_GROUP, _abi.group_req(ifindex, self._group)
                )
            for source in self._sources:
                request = _abi.group_source_req(ifindex, self._group, source)
                self._sock.setsockopt(self._level, _abi.MCAST_JOIN_SOURCE_GROUP, request)
        except OSError as error:
            self._leave(ifindex)  # not half of the sources
            number = error.errno or 0
            raise LinkError(
                f"cannot join {self._group} on {name}",
                reason_of(error),
                WAYS_OUT.get(number, ""),
                errno=number,
                group=str(self._group),
                interface=name,
            ) from error

    def _leave(self, ifindex: int) -> None:
        self.joined.pop(ifindex, None)
        # Refused if the interface is gone, and the membership with it. LEAVE_GROUP drops all its sources.
        with contextlib.suppress(OSError):
            self._sock.setsockopt(self._level, _abi.MCAST_LEAVE_GROUP, _abi.group_req(ifindex, self._group))
