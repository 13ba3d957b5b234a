"""recvmmsg into a leased arena: every byte, every source, and no memory kept by those who wait."""

from __future__ import annotations

import ipaddress
import itertools
import mmap
import os
import random
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.host import ip
from support.receiving import receiving_with
from support.wait import wait_for

from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.net import arenas, sockets
from mcastd.net.interfaces import look
from mcastd.net.payloads import ListPayloads
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender
from mcastd.net.slots import SLOTS
from mcastd.net.sockets import free_port

GROUP = ipaddress.ip_address("239.255.11.1")


@pytest.fixture(params=["recvmmsg", "plain"])
def stack(
    request: pytest.FixtureRequest, no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ExitStack]:
    """Each test runs with ctypes and without."""
    with receiving_with(request.param == "recvmmsg", monkeypatch), ExitStack() as stack:
        yield stack


Link = tuple[SocketReceiver, SocketSender]


def pair(stack: ExitStack, group: str = str(GROUP), interface: str = "lo", *, coalesce: bool = True) -> Link:
    address, port = ipaddress.ip_address(group), free_port()
    receiver = SocketReceiver(address, port, interface=interface, receive_buffer=16 << 20, coalesce=coalesce)
    stack.callback(receiver.close)
    sender = SocketSender(address, port, interface=interface, ttl=1)
    stack.callback(sender.close)
    return receiver, sender


def take(receiver: SocketReceiver) -> tuple[list[bytes], list[str]]:
    """All that has come, and its sources."""
    payloads: list[bytes] = []
    sources: list[str] = []
    assert select.select([receiver], [], [], 5)[0]
    while received := receiver.receive():
        payloads += map(bytes, received.payloads)
        sources += [source for source, count in received.sources for _ in range(count)]
        assert len(sources) == len(payloads)
    receiver.idle()
    return payloads, sources


def test_a_call_that_may_wait_takes_what_comes_meanwhile(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(sockets, "WAIT_MICROSECONDS", 60_250_000)
    receiver, sender = pair(stack)
    later = threading.Timer(0.05, sender.send, [ListPayloads([b"a", b"bc"])])
    later.start()
    received = [*map(bytes, receiver.receive(True).payloads)]
    later.join()
    if request.node.callspec.params["stack"] == "plain":  # it cannot wait so
        assert not received
    else:
        assert received[0] == b"a"
    if len(received) < 2:
        received += take(receiver)[0]
    assert received == [b"a", b"bc"]


def test_a_wait_ends_by_itself_and_by_a_signal(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, sender = pair(stack)
    assert not receiver.receive(True)
    assert receiver.emptied
    monkeypatch.setattr(sockets, "WAIT_MICROSECONDS", 60_250_000)
    other, _ = pair(stack)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    stack.callback(signal.signal, signal.SIGALRM, before)
    stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    assert not other.receive(True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    sender.send(ListPayloads([b"a"]))
    assert take(receiver)[0] == [b"a"]


def test_datagrams_of_all_sizes_by_the_thousand(stack: ExitStack) -> None:
    dice = random.Random(20261123)
    receiver, sender = pair(stack)
    for _ in range(100):
        sizes = [
            dice.choice([0, 1, 29, 1316, 1472, 9000, dice.randrange(MAX_DATAGRAM_BYTES)]) for _ in range(50)
        ]
        sent = [dice.randbytes(size) for size in sizes]
        assert sender.send(ListPayloads(sent)) == len(sent)
        payloads, _ = take(receiver)
        assert payloads == sent


@pytest.mark.parametrize("coalesce", [True, False])
def test_batches_one_after_another_are_written_as_they_came(
    stack: ExitStack, tmp_path: Path, coalesce: bool
) -> None:
    """Views of payloads are kept from one batch to the next, if that is of the same lengths."""
    receiver, sender = pair(stack, coalesce=coalesce)
    address, letters = sender.describe().address, itertools.cycle(b"abcdefg")
    fd = os.open(tmp_path / "written", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    stack.callback(os.close, fd)

    @settings(max_examples=60)
    @given(st.lists(st.lists(st.sampled_from([0, 1, 2, 1316]), min_size=1, max_size=12), max_size=6))
    def written(batches: list[list[int]]) -> None:
        os.ftruncate(fd, 0)
        expected = b""
        for sizes in batches:
            sent = [bytes([next(letters)]) * size for size in sizes]
            assert sender.send(ListPayloads(sent)) == len(sent)
            received, came = 0, b""
            while received < len(sent):
                assert select.select([receiver], [], [], 5)[0]
                batch = receiver.receive()
                assert [*batch.sources] == [(address, len(batch))]
                assert sum(map(len, batch.rows)) == len(batch.payloads) == len(batch)
                came += b"".join(batch.payloads)
                assert batch.write(fd) == batch.size
                received += len(batch)
            assert came == b"".join(sent)
            expected += came
        assert os.pread(fd, len(expected) + 1, 0) == expected

    written()


def test_each_datagram_has_its_own_source(stack: ExitStack) -> None:
    receiver, sender = pair(stack)
    others = []
    for number in range(2, 5):
        ip(f"addr add 127.0.1.{number}/32 dev lo")
        stack.callback(ip, f"addr del 127.0.1.{number}/32 dev lo")
        port = sender._port
        others.append(stack.enter_context(closing(SocketSender(GROUP, port, interface=f"127.0.1.{number}"))))
    expected = []
    links = [sender, *others]
    for link in links:  # from here on the receiver knows that there are several senders
        link.send(ListPayloads([b"here"]))
    assert take(receiver)[1] == [link.describe().address for link in links]
    for number in range(60):
        link = links[number % 4]
        assert link.send(ListPayloads([b"%d" % number])) == 1
        expected.append(link.describe().address)
    payloads, sources = take(receiver)
    assert payloads == [b"%d" % number for number in range(60)]
    assert sources == expected


def test_one_datagram_of_another_is_told_apart_where_that_matters(stack: ExitStack) -> None:
    """Where only a sample is named, it would count as one of those around it."""
    receiver, sender = pair(stack)
    receiver.tell_senders_apart(True)
    ip("addr add 127.0.1.9/32 dev lo")
    stack.callback(ip, "addr del 127.0.1.9/32 dev lo")
    other = stack.enter_context(closing(SocketSender(GROUP, sender._port, interface="127.0.1.9")))
    sender.send(ListPayloads([b"first"]))
    first = sender.describe().address
    assert take(receiver) == ([b"first"], [first])
    for number in range(60):
        assert (other if number == 21 else sender).send(ListPayloads([b"%d" % number])) == 1
    assert take(receiver)[1] == [first] * 21 + ["127.0.1.9"] + [first] * 38


def test_families_take_turns(stack: ExitStack) -> None:
    ip("link add left type veth peer name right")
    stack.callback(ip, "link del left")
    ip("addr add 10.11.0.1/24 dev left")
    ip("addr add fd11::1/64 dev left nodad")
    ip("link set left addrgenmode none up")
    ip("link set right up")
    wait_for(lambda: all(i.carrier for i in look().interfaces.values()), "the carrier, and routes with it")
    six, four = pair(stack, "ff15::11", "left"), pair(stack, "239.255.11.2", "left")
    for _ in range(3):
        for (receiver, sender), source in ((six, "fd11::1"), (four, "10.11.0.1")):
            assert sender.send(ListPayloads([b"x"] * 10)) == 10
            assert take(receiver) == ([b"x"] * 10, [source] * 10)


@pytest.mark.parametrize("count", [1, SLOTS - 1, SLOTS, SLOTS + 1, 2 * SLOTS])
def test_the_last_batch_is_known_to_be_the_last(stack: ExitStack, count: int) -> None:
    receiver, sender = pair(stack)
    payloads = [b"x" * (1 + number % 2) for number in range(count)]  # no two alike: nothing is coalesced
    assert sender.send(ListPayloads(payloads)) == count
    taken = 0
    for _ in range(4):
        taken += len(receiver.receive())
        if receiver.emptied:
            break
    assert (taken, receiver.emptied) == (count, True)
    receiver.idle()


def test_who_waits_holds_no_arena(stack: ExitStack) -> None:
    pairs = [pair(stack) for _ in range(20)]
    for receiver, sender in pairs:
        sender.send(ListPayloads([b"x"]))
        assert take(receiver)[0] == [b"x"]
    assert sum(len(pool.spare) for pool in arenas.pools.values()) == 1


def test_the_memory_of_a_burst_of_large_datagrams_is_given_back(stack: ExitStack) -> None:
    receiver, sender = pair(stack)
    sender.send(ListPayloads([b"\xff" * MAX_DATAGRAM_BYTES] * 40))
    assert len(take(receiver)[0]) == 40
    (arena,) = (arena for pool in arenas.pools.values() for arena in pool.spare)
    page = bytes(arena.slots.views[20][: mmap.PAGESIZE])
    assert page == bytes(mmap.PAGESIZE)  # a fresh one: the old one is gone
