"""Notices of what changes on the host's network: rtnetlink(7), less the routes that no group can take."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from mcastd.net import _abi, bpf
from mcastd.net.netlink import RECEIVE_BYTES, attributes_of, messages, number, open_netlink

MESSAGES_AT_ONCE = 1000

_GROUPS = (
    _abi.RTMGRP_LINK
    | _abi.RTMGRP_IPV4_IFADDR
    | _abi.RTMGRP_IPV6_IFADDR
    | _abi.RTMGRP_IPV4_ROUTE
    | _abi.RTMGRP_IPV6_ROUTE
    | _abi.RTMGRP_IPV4_RULE
    | _abi.RTMGRP_IPV6_RULE
)
_LINK = (_abi.RTM_NEWLINK, _abi.RTM_DELLINK)
_ADDRESS = (_abi.RTM_NEWADDR, _abi.RTM_DELADDR)
_NEXTHOP = (_abi.RTM_NEWNEXTHOP, _abi.RTM_DELNEXTHOP)
_ROUTE = (_abi.RTM_NEWROUTE, _abi.RTM_DELROUTE)
_VERSIONS = {int(socket.AF_INET): {4}, int(socket.AF_INET6): {6}}

# Operations of classic BPF beside those of bpf.py
_LD_HALF, _LD_BYTE_AT_X, _LD_IMMEDIATE, _LDX_IMMEDIATE = 0x28, 0x50, 0x00, 0x01
_A_TO_X, _JUMP_AT_LEAST = 0x07, 0x35
_FIND_ATTRIBUTE = 0xFFFFF000 + 12  # SKF_AD_OFF + SKF_AD_NLATTR: where attribute X is, from A on; 0: nowhere


@dataclass(slots=True)
class Notices:
    """What the kernel said has changed, and was not asked for yet."""

    links: set[int] = field(default_factory=set)  # interfaces that changed, with their addresses
    deleted: set[int] = field(default_factory=set)  # of them, those that were deleted meanwhile
    routes: set[int] = field(default_factory=set)  # IP versions whose routes to groups may be others
    routed: set[int] = field(default_factory=set)  # interfaces whose IPv6 routes to groups changed
    overrun: bool = False  # notices were lost, or one did not say what it is about: all may have changed

    def __bool__(self) -> bool:
        return bool(self.links or self.routes or self.overrun)

    def shows_nothing_of(self, index: int) -> bool:
        """Return True if an interface may be another though it looks the same."""
        return index in self.deleted or index in self.routed

    def add(self, others: Notices) -> None:
        self.links |= others.links
        self.deleted |= others.deleted
        self.routes |= others.routes
        self.routed |= others.routed
        self.overrun |= others.overrun

    def put_off(self, others: Notices, index: int) -> None:
        """Take over what ``others`` say of one interface."""
        self.links.add(index)
        self.deleted |= others.deleted & {index}
        self.routed |= others.routed & {index}

    def take(self, kind: int, body: bytes) -> None:
        if kind in _LINK:
            family, _type, index, _flags, _change = _abi.ifinfomsg.unpack_from(body)
            self.links.add(index)
            if kind == _abi.RTM_DELLINK and family == socket.AF_UNSPEC:  # AF_BRIDGE: a port left its bridge
                self.deleted.add(index)
        elif kind in _ADDRESS:
            self.links.add(_abi.ifaddrmsg.unpack_from(body)[-1])
        else:  # a route, a rule or a nexthop: each has the family first; a nexthop's need not be its routes'
            self.routes |= {4, 6} if kind in _NEXTHOP else _VERSIONS.get(body[0], set())
            if kind in _ROUTE and body[0] == socket.AF_INET6:
                self._take_way(attributes_of(body, _abi.rtmsg.size))

    def _take_way(self, route: dict[int, bytes]) -> None:
        """Note the interfaces of an IPv6 route to groups: by IPv6 they can only send where a route leads."""
        if ifindex := number(route.get(_abi.RTA_OIF, b"")):
            self.routed.add(ifindex)
        elif nexthops := route.get(_abi.RTA_MULTIPATH):
            self.routed.update(_interfaces_of(nexthops))
        else:  # by a nexthop object: the route does not say where that leads
            self.overrun = True

    def take_all(self, sock: socket.socket) -> None:
        """What waits in a socket of :func:`open_news`."""
        for _ in range(MESSAGES_AT_ONCE):
            try:
                data = sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self.overrun = True
                if error.errno == errno.ENOBUFS:  # what is left may be read
                    continue
                return
            for kind, _flags, _serial, body in messages(data):
                self.take(kind, body)


def _interfaces_of(nexthops: bytes) -> Iterator[int]:
    """The interfaces in RTA_MULTIPATH, rtnetlink(7)."""
    offset = 0
    while offset + _abi.rtnexthop.size <= len(nexthops):
        length, _flags, _hops, ifindex = _abi.rtnexthop.unpack_from(nexthops, offset)
        if length < _abi.rtnexthop.size:
            return
        yield ifindex
        offset += (length + 3) & ~3


def open_news() -> socket.socket:
    """A socket on which the kernel tells of each change. Raises CannotAskError."""
    sock = open_netlink(_abi.NETLINK_ROUTE, _GROUPS)
    with suppress(OSError):  # before Linux 5.3 there are no nexthop objects
        sock.setsockopt(_abi.SOL_NETLINK, _abi.NETLINK_ADD_MEMBERSHIP, _abi.RTNLGRP_NEXTHOP)
    with suppress(OSError):  # then it tells of every route, and more is asked than need be
        bpf.attach(sock, _only_routes_of_groups())
    return sock


def _only_routes_of_groups() -> list[bpf.Instruction]:
    """A filter that drops notices of a route unless its prefix is in 224.0.0.0/4 or ff00::/8, or holds it.

    A router on the internet has hundreds of others a second: so nobody is woken for them.
    """

    def may_hold_groups(first_byte: int, prefix: int) -> list[bpf.Instruction]:
        """Keep a prefix that begins with ``first_byte`` or more, or is shorter than ``prefix`` bits."""
        return [
            (bpf.LD_BYTE, 0, 0, _abi.nlmsghdr.size + 1),  # rtm_dst_len
            (_JUMP_AT_LEAST, 1, 0, prefix),
            bpf.ACCEPT,
            (_LD_BYTE_AT_X, 0, 0, _abi.rtattr.size),
            (_JUMP_AT_LEAST, 0, 1, first_byte),
            bpf.ACCEPT,
            bpf.REJECT,
        ]

    ipv4, ipv6 = may_hold_groups(0xE0, 4), may_hold_groups(0xFF, 8)
    return [
        (_LD_HALF, 0, 0, 4),  # nlmsg_type
        (bpf.JUMP_EQUAL, 2, 0, socket.htons(_abi.RTM_NEWROUTE)),
        (bpf.JUMP_EQUAL, 1, 0, socket.htons(_abi.RTM_DELROUTE)),
        bpf.ACCEPT,
        (_LDX_IMMEDIATE, 0, 0, _abi.RTA_DST),
        (_LD_IMMEDIATE, 0, 0, _abi.nlmsghdr.size + _abi.rtmsg.size),
        (bpf.LD_WORD, 0, 0, _FIND_ATTRIBUTE),
        (bpf.JUMP_EQUAL, 0, 1, 0),
        bpf.ACCEPT,  # a default route
        (_A_TO_X, 0, 0, 0),
        (bpf.LD_BYTE, 0, 0, _abi.nlmsghdr.size),  # rtm_family
        (bpf.JUMP_EQUAL, 0, len(ipv4), socket.AF_INET),
        *ipv4,
        *ipv6,
    ]
