"""The doctor's watch on a real host: what it has seen is read before the workers' counters are."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from support.host import Host
from support.inside import inside

from mcastd.doctor import watch
from mcastd.doctor.watch import Watch

GROUP, PORT = "239.255.7.1", 9190


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        host = stack.enter_context(Host())
        host.ip("link set lo up")
        host.ip("route add 239.255.0.0/16 dev lo")
        stack.enter_context(inside(host))
        yield stack


def one_that_waits(stack: ExitStack) -> socket.socket:
    """A socket of the group, with a datagram that nobody has read."""
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind((GROUP, PORT))
    member = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    talker = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    talker.sendto(b"news", (GROUP, PORT))
    return sock


def observe(stack: ExitStack) -> float:
    """How long it takes."""
    observer = Watch([ip_address(GROUP)])
    stack.callback(observer.close)
    begun = time.monotonic()
    observer.run([], 0.0, probe=False)
    return time.monotonic() - begun


def test_it_ends_once_what_was_seen_has_been_read(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SETTLE_MAX_SECONDS", 60.0)
    sock, read = one_that_waits(stack), threading.Event()

    def read_late() -> None:
        time.sleep(0.3)
        read.set()
        sock.recv(99)

    reader = threading.Thread(target=read_late)
    reader.start()
    stack.callback(reader.join)
    assert observe(stack) < 30
    assert read.is_set(), "it has not waited for that"


def test_it_ends_though_nobody_reads(stack: ExitStack) -> None:
    one_that_waits(stack)
    assert observe(stack) >= watch.SETTLE_MAX_SECONDS
