"""Sending in bursts: the same datagrams by every way, whatever kernel, interface and Python allow."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.wait import wait_for

from mcastd.errors import LinkError
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.net import _abi, burst
from mcastd.net.arenas import pools
from mcastd.net.burst import OFFLOAD_SECONDS, SEGMENTS_MAX, SEGMENTS_MAX_BEFORE, Burst
from mcastd.net.payloads import Chunks, HeadedPayloads, ListPayloads, Payloads, SlotPayloads
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender
from mcastd.net.sockets import free_port
from mcastd.outbound.framing import make_framer
from mcastd.outbound.sources.file import FileSource

GROUP = ipaddress.ip_address("239.255.12.1")


class Refusing(socket.socket):
    """A socket of a kernel that knows no UDP_SEGMENT, or of an interface that cannot do it."""

    refusal = errno.EINVAL
    most = 0  # segments that it takes all the same

    def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
        if (level, option) == (_abi.SOL_UDP, _abi.UDP_SEGMENT) and value and not self.most:
            raise OSError(self.refusal, os.strerror(self.refusal))
        super().setsockopt(level, option, value, *rest)

    def sendmsg(self, buffers: Any, ancillary: Any = (), *rest: Any) -> int:
        if ancillary and len(buffers) > self.most:
            raise OSError(self.refusal, os.strerror(self.refusal))
        return super().sendmsg(buffers, ancillary, *rest)


class Link:
    def __init__(self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
        if way != "gso":
            monkeypatch.setattr(socket, "socket", Refusing)
        monkeypatch.setattr(burst, "HAVE_SENDMMSG", way != "send")
        port = free_port()
        self.receiver = SocketReceiver(GROUP, port, interface="lo", receive_buffer=64 << 20)
        stack.callback(self.receiver.close)
        self.sender = SocketSender(GROUP, port, interface="lo", ttl=0)
        stack.callback(self.sender.close)
        self.way = way

    def pass_on(self, payloads: Payloads | list[Any]) -> list[bytes]:
        """Send all; what came of it."""
        payloads = ListPayloads(payloads) if isinstance(payloads, list) else payloads
        sent = 0
        while sent < len(payloads):
            sent += self.sender.send(payloads.part(sent, len(payloads)))
        received: list[bytes] = []
        wait_for(lambda: received.extend(self.taken()) or len(received) >= sent, f"{sent} datagrams")
        return received

    def taken(self) -> list[bytes]:
        received: list[bytes] = []
        while select.select([self.receiver], [], [], 0)[0]:
            received += map(bytes, self.receiver.receive().payloads)
        self.receiver.idle()
        return received


@pytest.fixture(params=["gso", "sendmmsg", "send"])
def link(request: pytest.FixtureRequest, no_fd_leak: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    with ExitStack() as stack:
        yield Link(stack, monkeypatch, request.param)


def test_what_is_sent_arrives_whatever_its_sizes(link: Link) -> None:
    dice = random.Random(20261124)
    shapes: list[Callable[[], Sequence[int]]] = [
        lambda: [dice.choice([1, 64, 1316, 1472])] * dice.randrange(1, 300),
        lambda: [*[dice.choice([2, 64, 1316, 9000])] * dice.randrange(1, 300), 1],  # a short one at the end
        lambda: [dice.choice([1, 64, 64, 1316]) for _ in range(200)],
        lambda: [dice.randrange(1472) for _ in range(100)],
        lambda: [0] * 20 + [5] * 20 + [0],
        lambda: [MAX_DATAGRAM_BYTES] * 3,
    ]
    for _ in range(15):
        for shape in shapes:
            payloads = [dice.randbytes(size) for size in shape()]
            assert link.pass_on(payloads) == payloads
            assert link.pass_on([memoryview(payload) for payload in payloads]) == payloads
            cut = dice.randrange(30)
            pieces = [piece for payload in payloads for piece in (payload[:cut], payload[cut:])]
            assert link.pass_on(HeadedPayloads(pieces, [*map(len, payloads)])) == payloads
    assert link.sender.sending == link.way


@pytest.mark.parametrize(
    "sizes", [[1316] * 230, [*[64] * 200, 7], [500, 600] * 20, [*[9] * 30, *[1316] * 60]]
)
def test_what_was_received_is_sent_on(link: Link, sizes: list[int]) -> None:
    """From where it lies, as far as it is alike."""
    pools.clear()  # one that others have used for large packets takes fewer at first
    dice = random.Random(20261127)
    port = free_port()
    payloads = [dice.randbytes(size) for size in sizes]
    with ExitStack() as stack:
        receiver = SocketReceiver(GROUP, port, interface="lo", receive_buffer=64 << 20)
        stack.callback(receiver.close)
        sender = SocketSender(GROUP, port, interface="lo", ttl=0)
        stack.callback(sender.close)
        for payload in payloads:  # each by itself, so that none are coalesced
            sender.send(ListPayloads([payload]))
        batch = receiver.receive()
        assert isinstance(batch.payloads, SlotPayloads)
        assert link.pass_on(batch.payloads) == payloads


@pytest.mark.parametrize("size", [1, 7, 64, 1316, 1472, 4096, 9000, 32_768, MAX_DATAGRAM_BYTES])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 300])
def test_chunks_arrive(link: Link, size: int, count: int) -> None:
    data = random.Random(size).randbytes(min(count, max(3, 2_000_000 // size)) * size)
    expected = [data[start : start + size] for start in range(0, len(data), size)]
    assert link.pass_on(Chunks(memoryview(data), size, len(expected))) == expected


def test_an_empty_datagram_behind_equal_ones_goes_too(link: Link) -> None:
    """GSO makes no segment of nothing."""
    payloads = [*[b"x" * 100] * 20, b"", *[b"y" * 50] * 20, b"", b""]
    assert link.pass_on(payloads) == payloads


def test_a_file_rewritten_in_place_changes_nothing_that_was_sent(link: Link, tmp_path: Path) -> None:
    """The receiver on this host reads later: it gets what was read of the file, not what is in it by then."""
    path = tmp_path / "data"
    path.write_bytes(b"A" * 14_000)
    source = FileSource(path, make_framer("chunk", 1400))
    payloads = source.read()
    assert link.sender.send(payloads) == 10
    with path.open("r+b") as file:
        file.write(b"B" * 14_000)
    assert link.taken() == [b"A" * 1400] * 10
    source.close()


def test_what_does_not_fit_the_interface_goes_as_fragments(
    no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GSO makes no fragments: segments above the MTU are refused, and then go by themselves."""
    with ExitStack() as stack:
        link = Link(stack, monkeypatch, "gso")
        _see_fragments(link, monkeypatch)


def _see_fragments(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    burst_of_link = link.sender._burst
    sent: list[int] = []
    real = link.sender._sock.sendmsg

    class Narrow:
        """The socket of an interface with an MTU of 1500."""

        def __getattr__(self, name: str) -> Any:
            return getattr(link.sender._sock, name)

        def sendmsg(self, buffers: Any, *rest: Any) -> int:
            sent.append(len(buffers))
            if len(buffers[0]) > 1472:
                raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
            return real(buffers, *rest)

    monkeypatch.setattr(burst_of_link, "_sock", Narrow())
    large, small = [b"l" * 4000] * 20, [b"s" * 1400] * 20
    for payloads, way in ((large, "sendmmsg"), (small, "gso"), (large, "sendmmsg")):
        assert link.pass_on(payloads) == payloads
        assert link.sender.sending == way
    assert len(sent) == 2  # one try with large ones, one call with small ones


def test_an_old_kernel_takes_fewer_segments(no_fd_leak: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refusing, "most", SEGMENTS_MAX_BEFORE)
    with ExitStack() as stack:
        link = Link(stack, monkeypatch, "sendmmsg")
        assert link.pass_on([b"x" * 100] * 200) == [b"x" * 100] * 200
        assert link.sender.sending == "gso"
        assert link.sender._burst.offload.segments == SEGMENTS_MAX_BEFORE


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EIO, errno.ENOPROTOOPT])
def test_a_refusal_of_segments_is_met_once(
    no_fd_leak: None, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    monkeypatch.setattr(Refusing, "refusal", refusal)
    with ExitStack() as stack:
        link = Link(stack, monkeypatch, "sendmmsg")
        assert link.sender.sending == "gso"
        assert link.pass_on(Chunks(memoryview(b"y" * 1000), 100, 10)) == [b"y" * 100] * 10
        assert link.sender.sending == "sendmmsg"
        monkeypatch.setattr(Refusing, "sendmsg", None)  # it is not called again
        assert link.pass_on([b"x" * 100] * 200) == [b"x" * 100] * 200


def test_a_refusal_of_segments_is_forgotten_in_time(
    no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch tells nobody of an MTU that went down and up again between two of its looks."""
    now = [1000.0]
    with ExitStack() as stack:
        link = Link(stack, monkeypatch, "sendmmsg")
        link.sender._burst = Burst(link.sender._sock, lambda: now[0])
        link.pass_on([b"x" * 100] * 10)
        monkeypatch.setattr(Refusing, "most", SEGMENTS_MAX)  # from now on it can
        now[0] += OFFLOAD_SECONDS - 1
        link.pass_on([b"x" * 100] * 10)
        assert link.sender.sending == "sendmmsg"
        now[0] += 1
        assert link.pass_on([b"x" * 100] * 10) == [b"x" * 100] * 10
        assert link.sender.sending == "gso"


def test_a_queue_without_room_has_datagrams_go_one_by_one_for_longer_and_longer(no_fd_leak: None) -> None:
    now = [1000.0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        burst = Burst(sock, lambda: now[0])
        seconds: list[float] = []

        def refuse() -> None:
            burst._refuse(OSError(errno.ENOBUFS, "no room"), 1)
            began = now[0]
            while burst.way == "send":
                now[0] += 0.5
            seconds.append(now[0] - began)

        for _ in range(8):
            refuse()  # as soon as segments are tried again
        assert seconds == [1, 2, 4, 8, 16, 32, 64, 64]
        now[0] += 65
        refuse()
        assert seconds[-1] == 1
        burst._refuse(OSError(errno.ENOBUFS, "no room"), 1)
        now[0] += 1
        burst._refuse(OSError(errno.ENOBUFS, "no room"), 1)  # while they go one by one
        now[0] += 1.5
        assert burst.way == "send"
        now[0] += 0.5
        assert burst.way == "gso"


def test_a_refusal_that_means_the_datagram_is_told(link: Link) -> None:
    with pytest.raises(LinkError) as caught:
        link.sender.send(ListPayloads([b"x" * (MAX_DATAGRAM_BYTES + 1)]))
    assert caught.value.errno == errno.EMSGSIZE
    assert (
        link.sender.send(ListPayloads([b"x", b"x" * (MAX_DATAGRAM_BYTES + 1), b"y"])) == 1
    )  # the next call meets it
    assert link.taken() == [b"x"]
    assert link.pass_on([b"fine"] * 10) == [b"fine"] * 10


def test_a_full_socket_loses_nothing(link: Link) -> None:
    """EAGAIN in the middle: what was taken is counted, the rest is the next call's."""
    payloads = [b"%05d" % number for number in range(1000)]
    calls = iter([0, 0, 1, 0, 1, 1])

    class Full(Burst):
        def _some(self, payloads: Any, start: int, left: int) -> int:
            if next(calls, 0):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return super()._some(payloads, start, left)

    link.sender._burst = Full(link.sender._sock)
    sent, refused = 0, 0
    while sent < len(payloads):
        try:
            sent += link.sender.send(ListPayloads(payloads[sent:]))
        except LinkError as error:
            refused += error.errno == errno.EAGAIN
    assert refused == 1  # that of a call's very first
    assert link.taken() == payloads


def test_what_is_prepared_goes_in_one_call_and_leaves_no_trace(link: Link) -> None:
    data = bytes(range(250)) * 4
    send = link.sender.prepare(100, 3)
    if link.way != "gso":
        assert send is None
        assert link.sender.prepare(100, 3) is None, "it is tried with at most 64 segments, too"
        assert link.sender.sending == link.way
    else:
        assert send is not None
        for start, stop in ((0, 300), (300, 600), (600, 750), (750, 800)):
            send(data[start:stop])
        assert link.taken() == [data[at : min(at + 100, 750)] for at in range(0, 750, 100)] + [data[750:800]]
    # A longer one is not cut by what was prepared before, by whatever way it goes
    for longer in ([data], [data, data[:700]], [data] * 9):
        link.sender.prepare(100, 3)
        assert link.pass_on(longer) == longer
    link.sender.prepare(100, 3)
    single = link.sender.prepare(100, 1)
    assert single is not None
    for size in (700, 1000, 0):
        single(data[:size])
    assert link.taken() == [data[:700], data, b""]
    link.sender.prepare(100, 3)
    link.sender.network_changed()
    assert link.pass_on([data]) == [data], "it is another Burst on the same socket"


def test_a_refusal_of_what_was_prepared_is_learned_from(
    no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        link = Link(stack, monkeypatch, "gso")
        for error in (errno.EINVAL, errno.EIO, errno.EMSGSIZE):
            assert link.sender.prepare(1000, 1)
            link.sender.note_refusal(OSError(error, "not about segments"), 1000, 1)
            assert link.sender.prepare(1000, 65)
        for error in (errno.EINVAL, errno.EIO):
            assert link.sender.prepare(1000, 2)
            link.sender.note_refusal(OSError(error, "an interface that cannot do it"), 1000, 65)
            assert link.sender.prepare(1000, 65) is None, "at most 64 then, or none"
        assert link.sender.prepare(1000, 2) is None
        assert link.sender.prepare(1000, 1)
        link.sender.network_changed()
        link.sender.note_refusal(OSError(errno.EMSGSIZE, "too long for a segment"), 1000, 2)
        assert link.sender.prepare(1000, 2) is None
        assert link.sender.prepare(999, 2)
