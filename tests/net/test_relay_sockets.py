"""The sockets of a relay, and gateways that are sockets of the test, on the loopback interface."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from support.wait import wait_for

from mcastd.errors import LinkError
from mcastd.net.payloads import AlikePayloads, Chunks, ListPayloads
from mcastd.net.relay_sockets import (
    TOO_BIG,
    UNREACHABLE,
    GatewaySocket,
    IcmpError,
    ListeningSocket,
    RelayEnd,
    RelaySockets,
)
from mcastd.protocols.internet import UDP, IpPacket, build_ip, internet_checksum

HERE: dict[int, RelayEnd] = {4: (ip_address("127.0.0.9"), 4269), 6: (ip_address("::1"), 4269)}
BOTH = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def sockets() -> Iterator[RelaySockets]:
    sockets = RelaySockets(HERE.values(), 10)
    yield sockets
    sockets.close()


def gateway(version: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1" if version == 4 else "::1", 0))
    sock.settimeout(10)
    return sock


def end(sock: socket.socket) -> RelayEnd:
    name = sock.getsockname()
    return ip_address(name[0]), name[1]


def taken(sockets: RelaySockets) -> tuple[ListeningSocket | GatewaySocket, list[tuple[bytes, str, int]]]:
    """What comes next, by the socket that it came to."""
    assert select.select([sockets], [], [], 10)[0]
    sock = sockets.ready()
    assert sock is not None
    batch = sockets.receive(sock)
    assert batch is not None
    origins = zip(batch.payloads, batch.origins, strict=True)
    return sock, [(bytes(payload), origin.source, origin.port) for payload, origin in origins]


@BOTH
def test_a_gateway_has_a_socket_of_its_own_with_the_address_that_it_asked_at(
    sockets: RelaySockets, version: int
) -> None:
    name = str(HERE[version][0]), HERE[version][1]
    with contextlib.closing(gateway(version)) as one, contextlib.closing(gateway(version)) as other:
        one.sendto(b"hello", name)
        listening, messages = taken(sockets)
        assert isinstance(listening, ListeningSocket)
        assert messages == [(b"hello", *map(str, end(one)[:1]), end(one)[1])]
        assert listening.answer(b"welcome", end(one)) == ""
        assert one.recvfrom(100)[1][:2] == name
        way = sockets.connect(HERE[version], end(one))
        for number in range(3):
            one.sendto(b"%d" % number, name)
        assert taken(sockets)[0] is way
        other.sendto(b"other", name)
        assert taken(sockets) == (listening, [(b"other", str(end(other)[0]), end(other)[1])])
        assert way.send(Chunks(memoryview(b"ab" * 150), 2, 150)) == (150, "")
        assert [one.recv(100) for _ in range(150)] == [b"ab"] * 150
        apart = [b"%03d" % number for number in range(150)]
        assert way.send(AlikePayloads(map(memoryview, apart), 3)) == (150, "")
        assert [one.recv(100) for _ in range(150)] == apart
        assert way.send(ListPayloads([b"x", b"yy", b"zzz"])) == (3, "")
        assert [one.recvfrom(100)[0] for _ in range(3)] == [b"x", b"yy", b"zzz"]
        sockets.disconnect(way)
        one.sendto(b"again", name)
        assert taken(sockets)[0] is listening
    assert sockets.ready() is None


@BOTH
def test_nobody_there_is_told_and_costs_only_what_was_for_him(sockets: RelaySockets, version: int) -> None:
    with contextlib.closing(gateway(version)) as one, contextlib.closing(gateway(version)) as gone:
        ways = [sockets.connect(HERE[version], end(each)) for each in (one, gone)]
        gone.close()
        answers = []

        def unreachable() -> int:
            count, reason = ways[1].send(ListPayloads([b"anybody?"]))
            assert (count, reason) in ((1, ""), (0, UNREACHABLE))
            assert ways[0].send(ListPayloads([b"here"])) == (1, "")
            answers.extend(ways[1].errors())
            return len(answers)

        wait_for(lambda: unreachable() >= 3, "three answers")
        assert {answer.errno for answer in answers} == {errno.ECONNREFUSED}
        assert ways[0].errors() == []


def test_what_is_too_long_is_told(sockets: RelaySockets) -> None:
    with contextlib.closing(gateway(4)) as one:
        way = sockets.connect(HERE[4], end(one))
        # The loopback interface takes 64 KiB
        assert way.send(ListPayloads([bytes(65_507)])) in ((1, ""), (0, TOO_BIG))
        assert way.send(ListPayloads([bytes(65_508)])) == (0, TOO_BIG)
        assert way.send(AlikePayloads([bytes(65_508)] * 3, 65_508)) == (0, TOO_BIG)


def test_a_port_that_somebody_has_is_not_shared(sockets: RelaySockets) -> None:
    with pytest.raises(LinkError, match=r"at 127.0.0.9 port 4269: .*choose another port") as failed:
        RelaySockets([HERE[4]], 0)
    assert failed.value.errno == errno.EADDRINUSE
    with pytest.raises(LinkError, match="waiting for the address") as failed:
        RelaySockets([(ip_address("192.0.2.99"), 4269)], 0)
    assert failed.value.errno == errno.EADDRNOTAVAIL


def test_where_it_cannot_listen_it_does_once_it_can(sockets: RelaySockets) -> None:
    taken_by, absent = (HERE[4][0], 4270), (ip_address("192.0.2.99"), 4269)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((str(taken_by[0]), taken_by[1]))
        sockets.listen([taken_by, HERE[6], absent])
        reasons = {name: error.errno for name, error in sockets.refused.items()}
        assert reasons == {taken_by: errno.EADDRINUSE, absent: errno.EADDRNOTAVAIL}
    sockets.listen([taken_by, HERE[6]])
    assert not sockets.refused
    for name in (taken_by, HERE[6]):
        with contextlib.closing(gateway(name[0].version)) as one:
            one.sendto(b"?", (str(name[0]), name[1]))
            assert taken(sockets)[0].name == name
    with pytest.raises(LinkError, match="waiting for the address"):
        sockets.listen([absent])


def test_a_socket_that_cannot_be_watched_costs_no_other_one(
    sockets: RelaySockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    another = HERE[4][0], 4271
    with monkeypatch.context() as shortage:
        shortage.setattr(sockets, "_epoll", SimpleNamespace(register=refuse, unregister=lambda _: None))
        sockets.listen([HERE[4], HERE[6], another])
        assert [(name, error.errno) for name, error in sockets.refused.items()] == [(another, errno.ENOSPC)]
        with pytest.raises(OSError, match="No space"):
            sockets.connect(HERE[4], (ip_address("127.0.0.1"), 4711))
    sockets.listen([HERE[4], HERE[6], another])
    assert not sockets.refused
    with contextlib.closing(gateway(4)) as one:
        for name in (HERE[4], another):
            one.sendto(b"?", (str(name[0]), name[1]))
            assert taken(sockets)[0].name == name


@pytest.mark.root
def test_a_router_that_takes_less_is_told_of_and_costs_no_segments(sockets: RelaySockets) -> None:
    """It may be forged."""
    with contextlib.closing(gateway(4)) as one, contextlib.ExitStack() as stack:
        raw = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        way = sockets.connect(HERE[4], end(one))
        batch = Chunks(memoryview(bytes(64 * 100)), 100, 64)
        assert way.send(batch) == (64, "")
        ports = struct.pack("!HHHH", HERE[4][1], end(one)[1], 1408, 0)
        quoted = build_ip(IpPacket(HERE[4][0], end(one)[0], UDP, 60, ports + bytes(1400)))[:100]
        answer = bytearray(struct.pack("!BBHI", 3, 4, 0, 1300) + quoted)
        answer[2:4] = internet_checksum(bytes(answer)).to_bytes(2)
        raw.sendto(answer, (str(HERE[4][0]), 0))
        wait_for(lambda: way.has_errors, "the answer")
        assert way.send(batch) == (64, "")
        assert way._burst.way == "gso"
        assert way.errors() == [IcmpError(errno.EMSGSIZE, 1300)]
