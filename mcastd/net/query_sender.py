"""Sends IGMP and MLD queries of a router: to the link, from the interface's own address, with Router Alert.

RFC 3376 section 4, RFC 3810 section 5. CAP_NET_RAW is all that this takes.
"""

from __future__ import annotations

import socket
from typing import Literal, Protocol

from mcastd.errors import LinkError, reason_of
from mcastd.ip import Address
from mcastd.net import _abi, bpf
from mcastd.net.interfaces import Interface
from mcastd.protocols.internet import MEMBERSHIP_TOS, MEMBERSHIP_TTL, ROUTER_ALERT_4, router_alert_6


def asking_address(interface: Interface, version: int) -> Address | None:
    """The address of this host from which it asks; of IPv6 a link-local one (RFC 3810 section 5.1.14)."""
    for address in interface.addresses:
        if address.version == version and (version == 4 or address.is_link_local):
            return address
    return None


def is_back(interface: Interface, before: Interface) -> bool:
    """Return True if there was no carrier since ``before``, and there is one: members are to be asked anew.

    What was sent meanwhile was lost, and a switch may have begun anew, which knows of no member.
    """
    is_same = before.carrier and interface.carrier_changes == before.carrier_changes
    return interface.carrier and not is_same


class SendsQueries(Protocol):
    """QuerySender, or its twin in memory (fake.py)."""

    def send(self, ifindex: int, source: Address, destination: Address, message: bytes) -> None: ...

    def close(self) -> None: ...


class QuerySender:
    """Queries of one family, for all interfaces."""

    def __init__(self, version: Literal[4, 6]) -> None:
        """Raises LinkError."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        protocol = socket.IPPROTO_IGMP if version == 4 else socket.IPPROTO_ICMPV6
        self._version = version
        self._level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
        try:
            self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
        except OSError as error:
            raise self._refused(error) from error
        try:
            bpf.attach(self._socket, [bpf.REJECT])  # it only sends
            for option, value in self._options().items():
                self._socket.setsockopt(self._level, option, value)
        except OSError as error:
            self._socket.close()
            raise self._refused(error) from error

    def _options(self) -> dict[int, int | bytes]:
        if self._version == 4:
            return {
                socket.IP_MULTICAST_LOOP: 0,
                socket.IP_MULTICAST_TTL: MEMBERSHIP_TTL,
                socket.IP_OPTIONS: ROUTER_ALERT_4,
                socket.IP_TOS: MEMBERSHIP_TOS,
            }
        return {
            socket.IPV6_HOPOPTS: router_alert_6(0),  # the kernel writes the next header
            socket.IPV6_MULTICAST_HOPS: MEMBERSHIP_TTL,
            socket.IPV6_MULTICAST_LOOP: 0,
        }

    def send(self, ifindex: int, source: Address, destination: Address, message: bytes) -> None:
        """Send a message on an interface, from ``source``, which is of that interface. Raises LinkError."""
        if self._version == 4:
            control = (self._level, _abi.IP_PKTINFO, _abi.in_pktinfo.pack(ifindex, source.packed, bytes(4)))
        else:
            control = (self._level, socket.IPV6_PKTINFO, _abi.in6_pktinfo.pack(source.packed, ifindex))
        try:
            self._socket.sendmsg([message], [control], socket.MSG_DONTWAIT, (str(destination), 0))
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        self._socket.close()

    def _refused(self, error: OSError) -> LinkError:
        return LinkError(
            f"cannot ask for members of IPv{self._version}", reason_of(error), errno=error.errno or 0
        )
