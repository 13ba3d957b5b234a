"""Queries of a router, as a host's kernel takes them: it answers with what it has joined."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from typing import Literal

import pytest
from support.host import Host, connect
from support.inside import ifindex, inside, listener
from support.wire import Message, Wire

from mcastd.errors import LinkError
from mcastd.ip import Address
from mcastd.net.query_sender import QuerySender
from mcastd.protocols import igmp, mld
from mcastd.protocols.membership import MembershipQuery

GROUPS: dict[int, Address] = {4: ip_address("239.255.9.11"), 6: ip_address("ff15::9:11")}
SOURCES: dict[int, Address] = {4: ip_address("10.9.4.1"), 6: ip_address("fe80::9:4:1")}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with Host() as router, Host() as member:
        connect(router, "eth0", member, "eth0")
        router.ip("addr add 10.9.4.1/24 dev eth0")
        router.ip("addr add fe80::9:4:1/64 dev eth0 nodad")
        member.ip("addr add 10.9.4.9/24 dev eth0")
        member.ip("addr add fe80::9:4:9/64 dev eth0 nodad")
        yield router, member


def build(version: int, query: MembershipQuery) -> tuple[Address, bytes]:
    """Where the query goes, and its message."""
    if version == 4:
        return query.group or igmp.ALL_SYSTEMS, igmp.build_query(query)
    source, to = SOURCES[6], query.group or mld.ALL_NODES
    assert isinstance(source, IPv6Address)
    assert isinstance(to, IPv6Address)
    return to, mld.build_query(query, source, to)


@pytest.mark.parametrize("version", [4, 6])
def test_a_host_answers_each_kind_of_query(hosts: tuple[Host, Host], version: Literal[4, 6]) -> None:
    router, member = hosts
    group = GROUPS[version]
    index = ifindex(router, "eth0")
    with contextlib.ExitStack() as stack:
        wire = stack.enter_context(contextlib.closing(Wire(member)))
        stack.enter_context(listener(member, version, 9190, ("eth0", str(group))))
        wire_of_router = stack.enter_context(contextlib.closing(Wire(router)))
        wire_of_router.wait(str(group), "TO_EX")
        with inside(router):
            sender = stack.enter_context(contextlib.closing(QuerySender(version)))
        asked = (ip_address("192.0.2.8") if version == 4 else ip_address("fd00::8"),)
        # Of a source Linux answers as of the group; RFC 3376 section 5.2 has IS_IN
        for query in (
            MembershipQuery(None, response_seconds=0.2),
            MembershipQuery(group, response_seconds=0.2),
            MembershipQuery(group, asked, response_seconds=0.2),
        ):
            mark, of_router = wire.mark(), wire_of_router.mark()
            to, message = build(version, query)
            sender.send(index, SOURCES[version], to, message)
            wire_of_router.wait(str(group), "IS_EX", since=of_router)
            seen = [one for one in wire.messages[mark : wire.mark()] if one.kind == "query"]
            assert [_on_the_wire(one) for one in seen] == [(str(SOURCES[version]), str(to), 1, True)]
        with inside(router), pytest.raises(BlockingIOError):
            sender._socket.recv(100, socket.MSG_DONTWAIT)  # reports come, and it takes none


def _on_the_wire(message: Message) -> tuple[str, str, int, bool]:
    return message.source, message.destination, message.ttl, message.router_alert


@pytest.mark.parametrize("version", [4, 6])
def test_an_interface_that_has_gone_is_said(hosts: tuple[Host, Host], version: Literal[4, 6]) -> None:
    with inside(hosts[0]), contextlib.closing(QuerySender(version)) as sender:
        to, message = build(version, MembershipQuery())
        with pytest.raises(LinkError, match=f"cannot ask for members of IPv{version}: ") as refused:
            sender.send(60_000, SOURCES[version], to, message)
    assert refused.value.errno in (errno.ENODEV, errno.ENXIO, errno.ENETUNREACH, errno.EINVAL)
