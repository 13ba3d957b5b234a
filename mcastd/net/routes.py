"""Where the kernel would send a datagram for a group: the answer for ``interface`` left out."""

from __future__ import annotations

import errno
import ipaddress
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mcastd.errors import CannotAskError, LinkError
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.netlink import attributes_of, number, request

# Types of routes that lead nowhere, by the error with which the kernel answers, and by rtm_type, with which
# some kernels answer for IPv6
BY_ERROR = {
    errno.EACCES: "prohibit",
    errno.EHOSTUNREACH: "unreachable",
    errno.EINVAL: "blackhole",
}
_BY_TYPE = {
    _abi.RTN_BLACKHOLE: "blackhole",
    _abi.RTN_UNREACHABLE: "unreachable",
    _abi.RTN_PROHIBIT: "prohibit",
}


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's choice for a destination."""

    ifindex: int  # 0: it leads nowhere
    source: Address | None = None  # the source address that it prefers
    refusal: str = ""  # "prohibit", "unreachable", "blackhole" (ip-route(8)); "": there is no such route
    gateway: bool = False  # the kernel would send to a gateway alone, not to all on the link
    mtu: int = 0  # of its own; 0: that of the interface
    local: bool = False  # to this host: of type local (ip-route(8))

    def __bool__(self) -> bool:
        return self.ifindex != 0


NO_ROUTE = Route(0)

Ask = Callable[..., list[bytes]]
"""Puts a question to the kernel: Netlink.ask, or request for a socket of its own."""


class Question(NamedTuple):
    """What the kernel is asked for a route to."""

    destination: Address
    by: int = 0  # ifindex of the only interface that it may lead out by
    as_added: bool = False  # the route as somebody added it, whose source is None if none was given


def route_to(destination: Address, ask: Ask = request, *, by: int = 0, as_added: bool = False) -> Route:
    """The route that the kernel takes to a group, or a host: see :class:`Question`. Raises CannotAskError."""
    family = _abi.family_of(destination)
    flags = _abi.RTM_F_FIB_MATCH if as_added else 0
    message = _abi.rtmsg.pack(family, destination.max_prefixlen, 0, 0, 0, 0, 0, 0, flags)
    message += _abi.attribute(_abi.RTA_DST, destination.packed)
    if by:
        message += _abi.attribute(_abi.RTA_OIF, by.to_bytes(4, sys.byteorder))
    try:
        (body,) = ask(_abi.RTM_GETROUTE, message)
    except CannotAskError:
        raise
    except LinkError as error:  # ENETUNREACH, mostly; EOPNOTSUPP: this kernel has no IPv6
        return Route(0, refusal=BY_ERROR.get(error.errno, ""))
    kind = _abi.rtmsg.unpack_from(body)[7]
    if kind in _BY_TYPE:
        return Route(0, refusal=_BY_TYPE[kind])
    found = attributes_of(body, _abi.rtmsg.size)
    source = found.get(_abi.RTA_PREFSRC)
    ifindex = number(found.get(_abi.RTA_OIF, b""))
    if not ifindex and _abi.RTA_MULTIPATH in found:  # as it was added, by several interfaces
        ifindex = by
    if not ifindex:
        return NO_ROUTE
    return Route(
        ifindex,
        ipaddress.ip_address(source) if source else None,
        gateway=_abi.RTA_GATEWAY in found or _abi.RTA_VIA in found,  # of the other version
        mtu=number(attributes_of(found.get(_abi.RTA_METRICS, b""), 0).get(_abi.RTAX_MTU, b"")),
        local=kind == _abi.RTN_LOCAL,
    )


class Routes:
    """The routes to groups, each asked for once. For several threads."""

    def __init__(self, ask: Ask = request, known: dict[Question, Route] | None = None) -> None:
        self.ask = ask
        self._known = {} if known is None else known

    def known(self) -> dict[Question, Route]:
        """Those asked for so far."""
        return self._known.copy()

    def to(self, group: Address, *, by: int = 0, as_added: bool = False) -> Route:
        """See :class:`Question`. Raises CannotAskError."""
        question = Question(group, by, as_added)
        route = self._known.get(question)
        if route is None:
            route = self._known[question] = self.find(question)
        return route

    def find(self, question: Question) -> Route:
        """Ask the kernel. Raises CannotAskError."""
        group, by, as_added = question
        return route_to(group, self.ask, by=by, as_added=as_added)
