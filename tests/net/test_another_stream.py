"""A reload that changes the group or port of a subscription: of both streams, each datagram that is wanted.

Two streams flow while a subscription goes back and forth between them. What was sent of the new one after
the reload's answer is there, and so is what was sent of the old one before the reload.
"""

from __future__ import annotations

import itertools
import re
import socket
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import inside, sender
from support.meanwhile import meanwhile
from support.wait import wait_for

from mcastd.net.receiver import SocketReceiver

UDP_SEGMENT = 103
# Bytes of a datagram, and datagrams in a piece.
SIZE, PIECE = 40, 30
RELOADS = 20
# Datagrams of each stream between two reloads, at least.
BETWEEN = 40


class Stream(NamedTuple):
    group: str
    port: int


STREAMS = {
    "group-ipv4": (Stream("239.72.0.1", 9281), Stream("239.72.0.2", 9281)),
    "port-ipv4": (Stream("239.72.0.1", 9281), Stream("239.72.0.1", 9282)),
    "group-ipv6": (Stream("ff15::72:1", 9283), Stream("ff15::72:2", 9283)),
    "both-families": (Stream("239.72.0.1", 9281), Stream("ff15::72:2", 9284)),
}


class Flood:
    """Sends numbered datagrams of both streams in turn, as ``STREAM NUMBER``."""

    def __init__(self, streams: tuple[Stream, Stream], sockets: tuple[socket.socket, socket.socket]) -> None:
        self.sent = 0  # of each
        self._ways = list(zip(sockets, streams, strict=True))

    def send(self) -> None:
        for index, (sock, stream) in enumerate(self._ways):
            sock.sendto(b"%d %d\n" % (index, self.sent), stream)
        self.sent += 1


@pytest.mark.root
@pytest.mark.parametrize("reading", ["with others", "alone"])
@pytest.mark.parametrize("which", STREAMS)
def test_nothing_that_is_wanted_is_missed(tmp_path: Path, which: str, reading: str, no_fd_leak: None) -> None:
    streams = STREAMS[which]
    log = tmp_path / "news.log"

    def config(stream: Stream) -> str:
        more = "" if reading == "with others" else 'max_latency = "20ms"\n'
        return (
            f'[inbound.news]\ngroup = "{stream.group}"\nport = {stream.port}\ninterface = "eth0"\n{more}'
            f'output = {{ path = "{log}", format = "lines" }}\n'
        )

    with ExitStack() as stack:
        host, net = stack.enter_context(Host()), stack.enter_context(Host())
        connect(host, "eth0", net, "n0")
        for end, name, last in ((host, "eth0", 1), (net, "n0", 2)):
            end.ip(f"addr add 10.72.0.{last}/24 dev {name}")
            end.ip(f"addr add fd72::{last}/64 dev {name} nodad")
        ways = tuple(
            stack.enter_context(sender(net, "n0", "10.72.0.2" if "." in stream.group else "fd72::2"))
            for stream in streams
        )
        daemon = stack.enter_context(RunningDaemon(tmp_path, config(streams[0]), enter=host.enter([])))
        flood = Flood(streams, (ways[0], ways[1]))
        spans: list[tuple[int, int, int]] = []  # stream, first and last number that is wanted
        with meanwhile(flood.send, 0.0005, "flood"):
            current, since = 0, flood.sent + 1
            for _ in range(RELOADS):
                wait_for(lambda since=since: flood.sent > since + BETWEEN)
                daemon.write(config(streams[1 - current]))
                until = flood.sent - 1
                answer = daemon.ctl("reload")
                assert answer.returncode == 0, answer.stderr
                spans.append((current, since, until))
                current, since = 1 - current, flood.sent + 1
            wait_for(lambda: flood.sent > since + BETWEEN)
        spans.append((current, since, flood.sent - 1))
        last = b"%d %d\n" % (current, flood.sent - 1)
        wait_for(lambda: last in log.read_bytes())
        lines = log.read_bytes().splitlines()

        def written() -> int:  # counted after it was written
            count: int = daemon.worker("inbound/news")["status"]["outputs"][0]["counters"]["written"]
            return count

        wait_for(lambda: written() >= len(lines))
        status = daemon.worker("inbound/news")["status"]
        assert reading == "with others" or status["reading"] == reading
        assert status["counters"]["overflow"] == 0
        assert status["counters"]["received"] == status["outputs"][0]["counters"]["written"] == len(lines)
        assert daemon.stop() == 0
    assert all(re.fullmatch(rb"[01] \d+", line) for line in lines)
    got = [(int(stream), int(number)) for stream, number in (line.split() for line in lines)]
    assert len(set(got)) == len(got), "none twice"
    wanted = {(stream, number) for stream, first, end in spans for number in range(first, end + 1)}
    assert len(wanted) >= RELOADS * BETWEEN
    assert sorted(wanted - set(got)) == []


@pytest.mark.root
@pytest.mark.parametrize("group", ["239.72.0.1", "ff15::72:1"])
def test_coalesce_changes_in_place(group: str, no_fd_leak: None) -> None:
    """Switched on, nothing is missed; switched off, what came in one moment. None is cut, or comes twice."""
    with ExitStack() as stack:
        host, net = stack.enter_context(Host()), stack.enter_context(Host())
        connect(host, "eth0", net, "n0")
        for end, name, last in ((host, "eth0", 1), (net, "n0", 2)):
            end.ip(f"addr add 10.72.0.{last}/24 dev {name}")
            end.ip(f"addr add fd72::{last}/64 dev {name} nodad")
        way = stack.enter_context(sender(net, "n0", "10.72.0.2" if "." in group else "fd72::2"))
        way.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        with inside(host):
            link = SocketReceiver(ip_address(group), 9285, interface="eth0", coalesce=False)
        stack.callback(link.close)
        sent, got = itertools.count(), list[int]()

        def send(times: int) -> None:
            for _ in range(times):
                way.sendto(b"".join(b"%0*d" % (SIZE, next(sent)) for _ in range(PIECE)), (group, 9285))

        def take() -> None:
            while batch := link.receive():
                assert {len(payload) for payload in batch.payloads} == {SIZE}
                got.extend(int(bytes(payload)) for payload in batch.payloads)
            link.idle()

        for wanted in (True, False, True, True, False, False):
            send(3)  # waits in the socket meanwhile
            before, was = len(got), link.describe().coalesced
            first = got[-1] + 1 if got else 0
            # Without a pause the buffer would be full, where threads run side by side
            with meanwhile(partial(send, 1), 0.0002, "flood"), inside(host):
                link.set_coalesce(wanted)
            send(2)
            last = next(sent) - 1  # the number that was just taken is never sent
            wait_for(lambda last=last: take() or got[-1:] == [last], "all of it")  # type: ignore[misc]
            assert link.describe().coalesced is wanted
            numbers = got[before:]
            pairs = itertools.pairwise([first - 1, *numbers])
            gaps = [(one, other) for one, other in pairs if other != one + 1]
            assert all(other > one for one, other in gaps), "none twice"
            assert len(gaps) <= (not wanted), (wanted, was, gaps)
            got.append(last + 1)
        assert link.load().overflow == 0
