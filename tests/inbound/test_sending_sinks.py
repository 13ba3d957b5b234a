"""Outputs that send on: over a destination in memory, and over real sockets on the loopback interface."""

from __future__ import annotations

import errno
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any

import pytest
from support.wait import wait_for

from mcastd import clock as mcastd_clock
from mcastd import log
from mcastd.config import GroupOutput, UdpOutput
from mcastd.errors import LinkError
from mcastd.inbound.sinks import StreamFacts, group, host_name, make_sink, sending, udp
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.inbound.sinks.group import GroupSink
from mcastd.inbound.sinks.queue import RECORD_OVERHEAD_BYTES
from mcastd.inbound.sinks.sending import SendingSink
from mcastd.inbound.sinks.udp import UdpSink
from mcastd.ip import Address
from mcastd.net import _abi, tcp_socket
from mcastd.net.link import Batch, ListBatch, Origin
from mcastd.net.payloads import Payloads
from mcastd.net.unicast import UnicastSender

LONGEST = 65_507  # bytes of a datagram over IPv4


def batch_of(*payloads: bytes, ttl: int = 8) -> Batch:
    return ListBatch(payloads, [Origin("192.0.2.1", 5000, 1, ttl)] * len(payloads), [1] * len(payloads))


class Network:
    """A destination in memory: what it takes, and what it refuses."""

    def __init__(self) -> None:
        self.carrier = True
        self.taken: list[bytes] = []
        self.room = 1 << 20  # datagrams
        self.longest = 1 << 20  # bytes
        self.error = 0  # an errno, of every send
        self.closed = 0
        self.changes = 0
        self.gone = False  # the next change of the network takes it away

    def flows(self) -> Sequence[object]:
        return ()

    def send(self, payloads: Payloads) -> int:
        sent = 0
        for payload in payloads:
            number = self.error or (0 if self.room else errno.ENOBUFS)
            number = errno.EMSGSIZE if len(payload) > self.longest else number
            if number and not sent:
                raise LinkError("cannot send", "no", errno=number)
            if number:
                break
            self.taken.append(bytes(payload))
            self.room -= 1
            sent += 1
        return sent

    def network_changed(self) -> None:
        self.changes += 1
        if self.gone:
            raise LinkError("cannot send to 192.0.2.7", "no such interface", errno=errno.ENODEV)

    def close(self) -> None:
        self.closed += 1


class MemorySink(SendingSink[Network]):
    def __init__(self, **settings: Any) -> None:
        config = UdpOutput(to="192.0.2.7:5004", **settings)
        account = Account(config, log.get_logger(), mcastd_clock.monotonic)
        super().__init__(config, FORMATS["raw"](StreamFacts(str, str)), account)
        self.network = Network()
        self.connects = 0
        self.refusal: LinkError | None = None
        self.is_known = True

    def connect(self) -> Network | None:
        self.connects += 1
        if self.refusal is not None:
            raise self.refusal
        return self.network if self.is_known else None

    @property
    def accounted(self) -> tuple[int, int, dict[str, int]]:
        """Written, queued, dropped."""
        counters = self.counters
        return counters.written, counters.queued, dict(counters.dropped)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has time go on, which stands still else."""
    now = 1000.0

    def go_on(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now)
    return go_on


def test_what_finds_no_room_is_held_and_goes_in_order_when_there_is_some() -> None:
    sink = MemorySink()
    sink.network.room = 2
    sink.write(batch_of(b"1", b"2", b"3"))
    sink.write(batch_of(b"4"))
    assert sink.accounted == (2, 2, {})
    assert sink.deadline < math.inf
    assert sink.problem == ""
    sink.network.room = 9
    sink.tick(sink.deadline)
    assert sink.network.taken == [b"1", b"2", b"3", b"4"]
    assert sink.accounted == (4, 0, {})
    assert sink.deadline == math.inf


@pytest.mark.parametrize(("when_full", "left"), [("drop-newest", "0123"), ("drop-oldest", "6789")])
def test_a_full_queue_drops_as_it_is_set(when_full: str, left: str) -> None:
    sink = MemorySink(when_full=when_full, queue=4 * (RECORD_OVERHEAD_BYTES + 1024))
    sink.network.room = 0
    for digit in "0123456789":
        sink.write(batch_of(digit.encode() * 1024))
    assert sink.accounted == (0, 4, {"full": 6})
    assert "does not take them as fast as they come" in sink.problem
    sink.network.room = 9
    sink.tick(sink.deadline)
    assert [one[:1].decode() for one in sink.network.taken] == [*left]
    assert sink.problem == ""


def test_with_block_reception_waits_and_nothing_is_dropped() -> None:
    sink = MemorySink(when_full="block", queue=4096)
    sink.network.room = 0
    assert not sink.blocked
    sink.write(batch_of(*[bytes(1024)] * 5))
    assert sink.blocked
    assert sink.accounted == (0, 5, {})
    sink.network.room = 9
    sink.tick(sink.deadline)
    assert (sink.blocked, sink.accounted) == (False, (5, 0, {}))


def test_one_that_is_too_long_is_dropped_and_the_others_go() -> None:
    sink = MemorySink()
    sink.network.longest = 3
    sink.write(batch_of(b"1", b"too long", b"2"))
    assert sink.network.taken == [b"1", b"2"]
    assert sink.accounted == (2, 0, {"too-big": 1})


def test_without_a_way_what_comes_is_dropped_and_a_way_is_looked_for(clock: Callable[[float], None]) -> None:
    sink = MemorySink()
    sink.refusal = LinkError("cannot send to 192.0.2.7", "no route to host", errno=errno.EHOSTUNREACH)
    sink.open()
    assert sink.problem == "cannot send to 192.0.2.7: no route to host"
    sink.write(batch_of(b"1", b"2"))
    assert (sink.connects, sink.accounted) == (1, (0, 0, {"unreachable": 2})), (
        "it is not tried with each batch"
    )
    sink.refusal = None
    clock(sending.RETRY_SECONDS)
    sink.tick(sink.deadline)
    sink.write(batch_of(b"3"))
    assert (sink.network.taken, sink.problem) == ([b"3"], "")


def run_until(sink: MemorySink, clock: Callable[[float], None], until: float) -> None:
    """Tick whenever it is due, and not more often than it should be, to monotonic seconds."""
    for _ in range(100):
        if sink.deadline > until:
            return
        clock(max(0.0, sink.deadline - mcastd_clock.monotonic()))
        sink.tick(mcastd_clock.monotonic())
    pytest.fail("it is due again and again")


def test_what_kept_a_way_from_being_found_is_over_though_nothing_comes(
    clock: Callable[[float], None],
) -> None:
    sink = MemorySink()
    sink.refusal = LinkError("cannot send to 192.0.2.7", "no route to host", errno=errno.EHOSTUNREACH)
    sink.write(batch_of(b"1"))
    run_until(sink, clock, mcastd_clock.monotonic() + 10)
    assert sink.problem == "cannot send to 192.0.2.7: no route to host"
    sink.refusal = None
    run_until(sink, clock, mcastd_clock.monotonic() + 1.5)
    assert (sink.problem, sink.status().error, sink.deadline) == ("", None, math.inf)
    # The same where a change of the network took it
    sink.network.gone = True
    sink.network_changed()
    assert sink.problem == "cannot send to 192.0.2.7: no such interface"
    sink.network.gone = False
    run_until(sink, clock, mcastd_clock.monotonic() + 1.5)
    assert sink.problem == ""
    # And where it has lost its carrier
    sink.network.carrier = False
    sink.write(batch_of(b"2"))
    run_until(sink, clock, mcastd_clock.monotonic() + 100)
    sink.network_changed()
    assert "no carrier" in sink.problem
    sink.network.carrier = True
    sink.network_changed()
    assert sink.problem == ""


@pytest.mark.parametrize("trouble", ["firewall", "length"])
def test_what_a_datagram_has_met_is_over_if_no_other_meets_it_for_a_minute(
    clock: Callable[[float], None], trouble: str
) -> None:
    sink = MemorySink()
    sink.write(batch_of(b"1"))
    if trouble == "firewall":
        sink.network.error = errno.EPERM
    else:
        sink.network.longest = 1
    for _ in range(2):
        sink.write(batch_of(b"22"))
        run_until(sink, clock, mcastd_clock.monotonic() + 40)
        clock(40.0 if sink.deadline > mcastd_clock.monotonic() + 40 else 0.0)
        assert sink.problem, "a way can be found, which does not tell that it works"
    run_until(sink, clock, mcastd_clock.monotonic() + 61)
    assert (sink.problem, sink.deadline) == ("", math.inf)
    assert sink.counters.dropped.total() == 2


def test_a_way_that_is_lost_is_found_again(clock: Callable[[float], None]) -> None:
    sink = MemorySink()
    sink.write(batch_of(b"1"))
    sink.network.error = errno.ENETUNREACH
    sink.write(batch_of(b"2", b"3"))
    assert (sink.accounted, sink.network.closed) == ((1, 0, {"unreachable": 2}), 1)
    sink.network.error = 0
    sink.network_changed()
    sink.write(batch_of(b"4"))
    assert sink.network.taken == [b"1", b"4"], "at once, since the network has changed"


def test_what_goes_in_part_is_counted_in_bytes_and_the_rest_is_taken_over() -> None:
    sink, after = MemorySink(), MemorySink(queue=1 << 16)
    sink.network.room = 2
    sink.write(batch_of(b"1", b"22", b"333"))
    assert (sink.accounted, sink.counters.written_bytes) == ((2, 1, {}), 3)
    assert after.take_over(sink)
    assert (sink.accounted, after.accounted) == ((2, 0, {}), (0, 1, {}))
    after.flush()
    assert (after.network.taken, after.counters.written_bytes) == ([b"333"], 3)


def test_pauses_grow_while_there_is_no_room_and_begin_anew(clock: Callable[[float], None]) -> None:
    sink = MemorySink()
    sink.network.room = 0
    sink.write(batch_of(b"1"))
    pauses = []
    for _ in range(8):
        pauses.append(round(sink.deadline - 1000, 3))
        sink.flush()
        sink._plan()
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.064]
    sink.network.room = 1
    sink.flush()
    sink.write(batch_of(b"2"))
    assert round(sink.deadline - 1000, 3) == 0.001


def test_a_destination_is_told_when_the_network_has_changed() -> None:
    sink = MemorySink()
    sink.open()
    sink.network_changed()
    assert (sink.network.changes, sink.connects) == (1, 1)


def test_what_is_held_without_a_way_is_tried_when_one_is_looked_for(clock: Callable[[float], None]) -> None:
    sink = MemorySink()
    sink.holds_without_way = True
    sink.network.error = errno.ECONNREFUSED
    sink.write(batch_of(b"1"))
    assert (sink.accounted, sink.deadline) == ((0, 1, {}), 1000 + sending.RETRY_SECONDS)
    sink.network.error = 0
    sink.tick(sink.deadline)
    assert sink.network.taken == [], "it is too early by the clock"
    clock(sending.RETRY_SECONDS)
    sink.tick(sink.deadline)
    assert sink.network.taken == [b"1"]


def test_what_comes_before_the_way_is_known_is_held() -> None:
    sink = MemorySink()
    sink.is_known = False
    sink.open()
    sink.write(batch_of(b"1"))
    assert sink.accounted == (0, 1, {})
    sink.is_known = True
    sink.tick(sink.deadline)
    assert sink.network.taken == [b"1"]


@pytest.mark.parametrize("when_full", ["drop-newest", "block"])
def test_what_waits_for_a_name_is_bounded_and_nothing_waits_for_it(
    when_full: str, clock: Callable[[float], None]
) -> None:
    sink = MemorySink(when_full=when_full, queue=3 * (RECORD_OVERHEAD_BYTES + 1000))
    sink.is_known = False
    sink.write(batch_of(*[bytes(1000)] * 7))
    assert not sink.blocked
    assert sink.accounted == (0, 3, {"unreachable": 4})
    assert "its name is not resolved yet" in sink.problem
    clock(1)
    sink.tick(1001)
    assert sink.accounted == (0, 3, {"unreachable": 4})
    assert sink.deadline == 1001 + sending.PAUSE_MAX_SECONDS, "not busily"


def test_what_is_held_goes_while_more_comes_faster_than_the_pause(clock: Callable[[float], None]) -> None:
    sink = MemorySink(queue=1 << 20)

    def go_on(times: int) -> None:
        for _ in range(times):
            clock(sending.PAUSE_MAX_SECONDS / 16)
            if sending.clock.monotonic() >= sink.deadline:
                sink.tick(sink.deadline)
            sink.write(batch_of(b"1"))

    sink.network.room = 0
    go_on(50)
    assert sink.accounted == (0, 50, {})
    sink.network.room = 1 << 20
    go_on(50)
    assert sink.accounted == (100, 0, {})


def test_without_a_carrier_nothing_was_sent() -> None:
    sink = MemorySink()
    sink.network.carrier = False
    sink.write(batch_of(b"1", b"2"))
    assert sink.accounted == (0, 0, {"no-carrier": 2})


def test_the_end_sends_what_it_can_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LINGER_SECONDS", 0.01)
    sink = MemorySink()
    sink.network.room = 1
    sink.write(batch_of(b"1", b"2", b"3"))
    sink.network.room = 1
    sink.close()
    assert sink.network.taken == [b"1", b"2"]
    assert (sink.accounted, sink.network.closed) == ((2, 0, {"stopped": 1}), 1)


def test_what_is_held_goes_on_with_the_next_one_of_the_same_label() -> None:
    old, new = MemorySink(), MemorySink(dscp=46)
    old.network.room = 1
    old.write(batch_of(b"1", b"2", b"3"))
    assert new.take_over(old)
    new.go_on_from(old)
    old.close()
    assert old.accounted == (1, 0, {})
    assert new.accounted == (1, 2, {})
    new.open()
    new.tick(math.inf)
    new.write(batch_of(b"4"))
    assert new.network.taken == [b"2", b"3", b"4"]
    assert new.accounted == (4, 0, {})


def test_what_is_held_in_another_format_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LINGER_SECONDS", 0.0)
    old = MemorySink()
    old.network.room = 0
    old.write(batch_of(b"1"))
    assert not MemorySink(format="json").take_over(old)
    old.close()
    assert old.accounted == (0, 0, {"stopped": 1})


# -- over real sockets


def test_the_end_does_not_wait_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LINGER_SECONDS", math.inf)
    sink = MemorySink()
    sink.is_known = False
    sink.write(batch_of(b"1", b"2"))
    sink.close(for_good=True)
    assert sink.accounted == (0, 0, {"stopped": 2})


def test_a_host_without_a_route_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Routeless(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("mcastd.net.unicast.socket.socket", Routeless)
    with pytest.raises(LinkError, match="network is unreachable") as raised:
        UnicastSender(ip_address("192.0.2.7"), 5004)
    assert raised.value.way_out == "add a route to it: see `ip route`"


class Receiver:
    def __init__(self, family: int = socket.AF_INET, host: str = "127.0.0.1") -> None:
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._sock.bind((host, 0))
        self._sock.settimeout(60)
        self.port: int = self._sock.getsockname()[1]

    def receive(self) -> bytes:
        return self._sock.recv(1 << 16)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def udp_sink(no_fd_leak: None) -> Iterator[Callable[..., UdpSink]]:
    made: list[UdpSink] = []

    def make(to: str, **settings: Any) -> UdpSink:
        sink = make_sink(UdpOutput(to=to, **settings), StreamFacts(str, str), log.get_logger())
        assert isinstance(sink, UdpSink)
        made.append(sink)
        sink.open()
        return sink

    yield make
    for sink in made:
        sink.close(for_good=True)


def test_datagrams_of_any_size_arrive_as_they_came(
    receiver: Receiver, udp_sink: Callable[..., UdpSink]
) -> None:
    sink = udp_sink(f"127.0.0.1:{receiver.port}")
    sizes = (0, 1, 2, 188, 1316, 1316, 1316, 1316, 1316, 1316, 1316, 1316, 1315, 1472, 1473, 9000, 0, LONGEST)
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    sink.write(batch_of(*sent))
    assert [receiver.receive() for _ in sent] == sent
    assert (sink.counters.written, sink.counters.written_bytes) == (len(sizes), sum(sizes))


@pytest.mark.parametrize(
    ("host", "level", "option"),
    [
        ("127.0.0.1", socket.IPPROTO_IP, socket.IP_TOS),
        ("[::1]", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ],
)
def test_datagrams_have_the_class_that_is_set(
    udp_sink: Callable[..., UdpSink], host: str, level: int, option: int
) -> None:
    sink = udp_sink(f"{host}:5004", dscp=46)
    assert sink.destination is not None
    assert sink.destination._sock.getsockopt(level, option) == 46 << 2


def test_over_ipv6(udp_sink: Callable[..., UdpSink]) -> None:
    receiver = Receiver(socket.AF_INET6, "::1")
    udp_sink(f"[::1]:{receiver.port}").write(batch_of(b"six"))
    assert receiver.receive() == b"six"
    receiver.close()


def test_a_host_where_nobody_listens_is_a_problem_until_somebody_does(
    receiver: Receiver, udp_sink: Callable[..., UdpSink], clock: Callable[[float], None]
) -> None:
    port = receiver.port
    receiver.close()
    sink = udp_sink(f"127.0.0.1:{port}")
    for payload in (b"1", b"2", b"3"):
        sink.write(batch_of(payload))
    assert sink.problem == f"cannot send to 127.0.0.1:{port}: connection refused"
    assert sink.status().reason == "refused"
    assert (sink.counters.written, sink.counters.dropped.total()) == (3, 0), "the network has got them"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", port))
        clock(udp.REFUSED_SECONDS + 1)
        for payload in (b"4", b"5"):  # the answer to the last one before is still to come
            sink.write(batch_of(payload))
            clock(udp.REFUSED_SECONDS + 1)
        sink.write(batch_of(b"6"))
        assert sink.problem == ""
        assert [again.recv(9) for _ in range(3)] == [b"4", b"5", b"6"]


def ticked(sink: UdpSink, is_so: Callable[[], bool]) -> None:
    def look() -> bool:
        sink.tick(sink.deadline)
        return is_so()

    wait_for(look, "the sink")


def test_a_name_is_resolved_aside_and_followed(
    receiver: Receiver, udp_sink: Callable[..., UdpSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[Address] = []
    asked: list[str] = []

    def addresses_of(name: str) -> list[Address]:
        asked.append(name)
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return list(known)

    monkeypatch.setattr(host_name, "addresses_of", addresses_of)
    monkeypatch.setattr(host_name, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(host_name, "RESOLVE_SOON_SECONDS", 0.05)
    monkeypatch.setattr(sending, "RETRY_SECONDS", 0.05)
    sink = udp_sink(f"tv.example.net:{receiver.port}")
    ticked(sink, lambda: "cannot resolve tv.example.net" in sink.problem)
    known.append(ip_address("127.0.0.1"))
    ticked(sink, lambda: sink.destination is not None)
    sink.write(batch_of(b"1"))
    assert receiver.receive() == b"1"
    assert sink.problem == ""
    known[:] = [ip_address("127.0.0.2")]
    ticked(sink, lambda: sink.destination is not None and str(sink.destination.to) == "127.0.0.2")
    assert {*asked} == {"tv.example.net"}


def test_of_a_name_with_several_addresses_one_that_refuses_is_told_with_the_others(
    receiver: Receiver, udp_sink: Callable[..., UdpSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = receiver.port
    receiver.close()
    known = [ip_address("127.0.0.1"), ip_address("127.0.0.2")]
    monkeypatch.setattr(host_name, "addresses_of", lambda _: known)
    sink = udp_sink(f"tv.example.net:{port}")
    ticked(sink, lambda: sink.destination is not None)
    for payload in (b"1", b"2"):
        sink.write(batch_of(payload))
    status = sink.status()
    assert status.error == (
        f"cannot send to tv.example.net:{port}: 127.0.0.1 says connection refused; {status.way_out}"
    )
    assert (
        status.way_out == "see whether something listens there, or name another of its addresses: 127.0.0.2"
    )


def test_of_a_name_with_several_addresses_one_without_a_way_is_passed_over(
    receiver: Receiver, udp_sink: Callable[..., UdpSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broadcast address is refused by connect(2), as one without a route is."""
    known = [ip_address("255.255.255.255"), ip_address("127.0.0.1")]
    monkeypatch.setattr(host_name, "addresses_of", lambda _: known)
    monkeypatch.setattr(sending, "RETRY_SECONDS", 0.02)
    sink = udp_sink(f"tv.example.net:{receiver.port}")
    ticked(sink, lambda: sink.destination is not None)
    sink.write(batch_of(b"1"))
    assert receiver.receive() == b"1"
    assert sink.problem == ""


def test_a_name_is_followed_while_more_comes_than_it_is_looked_after(
    receiver: Receiver, udp_sink: Callable[..., UdpSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [ip_address("127.0.0.1")]
    monkeypatch.setattr(host_name, "addresses_of", lambda _: list(known))
    monkeypatch.setattr(host_name, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(host_name, "LOOK_SECONDS", 0.4)
    sink = udp_sink(f"tv.example.net:{receiver.port}")
    ticked(sink, lambda: sink.destination is not None)
    known[:] = [ip_address("127.0.0.2")]

    def has_moved() -> bool:
        sink.write(batch_of(b"1"))
        if (now := sending.clock.monotonic()) >= sink.deadline:
            sink.tick(now)
        return sink.destination is not None and str(sink.destination.to) == "127.0.0.2"

    wait_for(has_moved, "the other address", timeout=30)


def test_an_address_is_kept_while_its_name_has_it(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
) -> None:
    """Name servers tell addresses in turn. They are asked each minute, and each 5 s while not all is well."""
    answers = [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"], ["127.0.0.3"]]

    def begin(*_: object) -> Future[list[Address]]:
        asked = Future[list[Address]]()
        asked.set_result([ip_address(one) for one in answers.pop(0)])
        return asked

    monkeypatch.setattr(host_name, "begin", begin)
    name = host_name.HostName("tv.example.net")
    found = []
    for seconds, is_well in ((0, False), (5, False), (59.9, True), (0.1, True)):
        clock(seconds)
        before = len(answers)
        name.follow(is_well=is_well)
        name.follow(is_well=is_well)
        found.append((str(name.address), before - len(answers)))
    assert found == [("127.0.0.1", 1), ("127.0.0.1", 1), ("127.0.0.1", 0), ("127.0.0.3", 1)]


def test_one_without_a_way_is_passed_over_until_the_name_is_asked_for_again(
    udp_sink: Callable[..., UdpSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route may come back: the best address is one that has it then. Want of descriptors says nothing."""
    known = [ip_address("127.0.0.1"), ip_address("127.0.0.2")]
    monkeypatch.setattr(host_name, "addresses_of", lambda _: known)
    sink = udp_sink("tv.example.net:5004")
    ticked(sink, lambda: sink.destination is not None)
    for number, address in ((errno.EMFILE, "127.0.0.1"), (errno.ENETUNREACH, "127.0.0.2")):

        def refuses(*_: object, number: int = number, **__: object) -> UnicastSender:
            raise LinkError("cannot send", "no", errno=number)

        with monkeypatch.context() as broken:
            broken.setattr(udp, "UnicastSender", refuses)
            sink.disconnect()
            with pytest.raises(LinkError):
                sink.connect()
        assert str(sink._name.address) == address
    monkeypatch.setattr(host_name, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(host_name, "RESOLVE_SOON_SECONDS", 0.05)
    sink.network_changed()
    ticked(sink, lambda: sink.destination is not None and str(sink.destination.to) == "127.0.0.1")


def test_a_name_is_followed_while_more_comes_than_it_is_looked_for(
    receiver: Receiver, udp_sink: Callable[..., UdpSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each datagram would put off the look whether there is an answer: a stream has no pauses."""
    known = [ip_address("127.0.0.2")]
    monkeypatch.setattr(host_name, "addresses_of", lambda _: [*known])
    monkeypatch.setattr(host_name, "RESOLVE_SECONDS", 0.1)
    sink = udp_sink(f"tv.example.net:{receiver.port}")
    ticked(sink, lambda: sink.destination is not None)
    known[:] = [ip_address("127.0.0.1")]

    def has_moved() -> bool:
        sink.write(batch_of(b"news"))
        if time.monotonic() >= sink.deadline:
            sink.tick(time.monotonic())
        return sink.destination is not None and str(sink.destination.to) == "127.0.0.1"

    wait_for(has_moved, "the other address")


def test_a_name_server_that_hangs_is_said(
    receiver: Receiver, udp_sink: Callable[..., UdpSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def addresses_of(name: str) -> list[Address]:
        answer.wait(60)
        return [ip_address("127.0.0.1")]

    monkeypatch.setattr(host_name, "addresses_of", addresses_of)
    monkeypatch.setattr(host_name, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(sending, "RETRY_SECONDS", 0.05)
    sink = udp_sink(f"tv.example.net:{receiver.port}")
    sink.write(batch_of(b"held"))
    try:
        ticked(sink, lambda: sink.problem == "cannot resolve tv.example.net: DNS does not answer")
        assert sink.counters.dropped == {"unreachable": 1}
    finally:
        answer.set()
    ticked(sink, lambda: sink.destination is not None)
    sink.write(batch_of(b"sent"))
    assert receiver.receive() == b"sent"
    assert sink.problem == ""


GROUP = "239.255.9.9"


class Member(Receiver):
    """A member of a group on the loopback interface, which sees TTLs."""

    def __init__(self) -> None:
        super().__init__(host=GROUP)
        join = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        self._sock.setsockopt(socket.IPPROTO_IP, _abi.IP_RECVTTL, 1)

    def receive_with_ttl(self) -> tuple[bytes, int]:
        payload, ((_, _, ttl),), _, _ = self._sock.recvmsg(1 << 16, 64)
        return payload, struct.unpack("i", ttl)[0]


@pytest.fixture
def member() -> Iterator[Member]:
    member = Member()
    yield member
    member.close()


def group_sink(port: int, **settings: Any) -> GroupSink:
    output = GroupOutput(group=GROUP, port=port, interface="lo", **settings)
    sink = make_sink(output, StreamFacts(str, str), log.get_logger())
    assert isinstance(sink, GroupSink)
    sink.open()
    return sink


def test_a_group_gets_a_ttl_one_less_than_each_came_with(member: Member, no_fd_leak: None) -> None:
    sink = group_sink(member.port)
    for ttl in (64, 2, 1):
        sink.write(batch_of(b"%d" % ttl, ttl=ttl))
    origins = [Origin("192.0.2.1", 5000, 1, ttl) for ttl in (9, 9, 5)]
    sink.write(ListBatch([b"a", b"b", b"c"], origins, [1] * 3))
    came = [member.receive_with_ttl() for _ in range(5)]
    assert came == [(b"64", 63), (b"2", 1), (b"a", 8), (b"b", 8), (b"c", 4)]
    assert dict(sink.counters.dropped) == {"ttl": 1}
    assert sink.counters.written == 5
    sink.close(for_good=True)


def test_a_group_gets_the_ttl_that_is_set(member: Member, no_fd_leak: None) -> None:
    sink = group_sink(member.port, ttl=7)
    sink.write(batch_of(b"1", b"22", ttl=1))
    assert [member.receive_with_ttl() for _ in range(2)] == [(b"1", 7), (b"22", 7)]
    sink.close(for_good=True)


def test_what_outputs_have_sent_themselves_has_one_less_also_where_a_ttl_is_set(
    member: Member, no_fd_leak: None
) -> None:
    """Else it would go in a circle for ever: by this output, or by others of this process."""
    sink, other = group_sink(member.port, ttl=7), group_sink(member.port, dscp=1)
    for way in (sink.destination, other.destination):
        assert way is not None
        (flow,) = way.flows()
        own, stranger = Origin(flow.source, flow.source_port, 1, 5), Origin(flow.source, 1, 1, 5)
        last, high = own._replace(ttl=1), own._replace(ttl=60)
        sink.write(ListBatch([b"a", b"b", b"c", b"d", b"e"], [stranger, own, own, last, high], [1] * 5))
        came = [member.receive_with_ttl() for _ in range(4)]
        assert came == [(b"a", 7), (b"b", 4), (b"c", 4), (b"e", 7)]
    assert dict(sink.counters.dropped) == {"circle": 2}
    other.close(for_good=True)
    sink.write(ListBatch([b"f"], [own], [1]))
    assert member.receive_with_ttl() == (b"f", 7), "nobody sends by that any more"
    sink.close(for_good=True)


def of(host: str, payload: bytes) -> Batch:
    return ListBatch([payload], [Origin(host, 5000, 1, 8)], [1], addresses=[host])


def test_what_another_host_sends_back_is_found_where_a_ttl_is_set(member: Member, no_fd_leak: None) -> None:
    for settings, expected in (({"ttl": 7}, True), ({}, False)):
        sink = group_sink(member.port, **settings)
        sink.write(of("192.0.2.2", b"of another"))
        sink.write(of("192.0.2.1", b"round"))
        for _ in range(9):
            sink.write(of("192.0.2.2", b"round"))
        found = sink.counters.dropped["circle"]
        sink.close(for_good=True)
        assert bool(found) is expected


def test_a_circle_is_over_once_nothing_comes_back_though_nothing_comes_at_all(
    member: Member, clock: Callable[[float], None]
) -> None:
    sink = group_sink(member.port, ttl=7)
    sink.account._now = mcastd_clock.monotonic
    for number in range(8):
        clock(0.5)
        sink.write(of("192.0.2.1", b"round %d" % number))
        written = -1
        while sink.counters.written > written:  # what is sent on comes back
            clock(0.005)
            written = sink.counters.written
            sink.write(of("192.0.2.2", b"round %d" % number))
    assert "192.0.2.2 sends back" in sink.problem
    clock(59.0)
    sink.tick(mcastd_clock.monotonic())
    assert "192.0.2.2 sends back" in sink.problem
    assert sink.deadline < mcastd_clock.monotonic() + 2.0
    clock(2.0)
    sink.tick(mcastd_clock.monotonic())
    assert (sink.problem, sink.deadline) == ("", math.inf)
    sink.close(for_good=True)


def test_what_is_held_keeps_its_ttl(
    member: Member, no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = group_sink(member.port)
    assert sink.destination is not None
    send = sink.destination.send

    def full(_: Payloads) -> int:
        raise LinkError("cannot send", "no buffer space", errno=errno.ENOBUFS)

    monkeypatch.setattr(sink.destination, "send", full)
    sink.write(batch_of(b"1", ttl=9))
    sink.write(batch_of(b"2", ttl=5))
    monkeypatch.setattr(sink.destination, "send", send)
    sink.tick(sink.deadline)
    assert [member.receive_with_ttl() for _ in range(2)] == [(b"1", 8), (b"2", 4)]
    sink.close(for_good=True)


def test_a_link_local_address_is_sent_to_by_its_interface(no_fd_leak: None) -> None:
    """A socket takes the interface as a number beside the address (RFC 4007 section 11.1)."""
    lo = socket.if_nametoindex("lo")
    assert _abi.socket_name(ip_address("fe80::1%lo"), 5004) == ("fe80::1", 5004, 0, lo)
    assert _abi.socket_name(ip_address("2001:db8::1"), 5004) == ("2001:db8::1", 5004)
    assert _abi.socket_name(ip_address("192.0.2.1"), 5004) == ("192.0.2.1", 5004)
    with pytest.raises(LinkError, match="no such device"):
        UnicastSender(ip_address("fe80::1%nowhere"), 5004)
    with pytest.raises(OSError, match="No such device"):
        tcp_socket.connecting(ip_address("fe80::1%nowhere"), 5004)


def test_a_group_is_sent_to_as_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def sender(*args: object, host: object, heard: object, **settings: object) -> Network:
        made.append((*args, settings))
        return Network()

    monkeypatch.setattr(group, "SocketSender", sender)
    for ttl in (None, 7):
        config = GroupOutput(group=GROUP, port=5004, interface="eth3", ttl=ttl, loop=False, dscp=46)
        make_sink(config, StreamFacts(str, str), log.get_logger()).open()
    wanted = {"interface": "eth3", "loop": False, "dscp": 46}
    assert made == [(ip_address(GROUP), 5004, {**wanted, "ttl": ttl}) for ttl in (1, 7)]
