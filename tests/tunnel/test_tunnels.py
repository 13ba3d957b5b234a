"""Tunnels over real sockets: subscriptions beside a relay of the test, on the loopback interface."""

from __future__ import annotations

import contextlib
import errno
import math
import select
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from support.amt_relay import GROUP, SOURCE, SmallRelay, datagram
from support.wait import DEADLINE_SECONDS, wait_for

from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.net.link import Metadata
from mcastd.net.resolving import addresses_of
from mcastd.protocols import amt
from mcastd.protocols.membership import RecordKind
from mcastd.status import TunnelStatus
from mcastd.threads import NoThreadError
from mcastd.tunnel.receiver import OVERHEAD_BYTES, TunnelReceiver
from mcastd.tunnel.tunnel import RelayWay
from mcastd.tunnel.tunnels import Tunnels

RELAY, LOCAL_PORT = "127.0.0.2", 4268
GROUP_6, OTHER = ip_address("ff3e::1"), ip_address("203.0.113.2")


@pytest.fixture
def relay() -> Iterator[SmallRelay]:
    relay = SmallRelay(RELAY)
    yield relay
    relay.close()


@pytest.fixture
def tunnels() -> Iterator[Tunnels]:
    tunnels = Tunnels()
    yield tunnels
    tunnels.close()


Open = Callable[..., TunnelReceiver]


@pytest.fixture
def open_link(tunnels: Tunnels) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def opened(
            group: Address = GROUP,
            port: int = 5004,
            *,
            source_filter: SourceFilter = ANY_SOURCE,
            relay: str = RELAY,
            receive_buffer: int = 4 << 20,
            local_port: int = LOCAL_PORT,
            refresh: float = 25.0,
        ) -> TunnelReceiver:
            way = RelayWay(relay, local_port, refresh)
            receiver = tunnels.open(way, group, port, source_filter, receive_buffer)
            stack.callback(receiver.close)
            return receiver

        yield opened


def tunnel_of(receiver: TunnelReceiver) -> TunnelStatus:
    found = receiver.describe().tunnel
    assert found is not None
    return found


def received(receiver: TunnelReceiver, count: int) -> list[bytes]:
    """Wait for so many datagrams, and then that no more are there."""
    found: list[bytes] = []

    def take() -> bool:
        select.select([receiver], [], [], 0.05)
        found.extend(bytes(one) for one in receiver.receive().payloads)
        return len(found) >= count

    wait_for(take, f"{count} datagrams")
    assert len(receiver.receive()) == 0
    return found


def test_of_a_burst_to_several_groups_each_gets_all_of_its_own_in_order(
    relay: SmallRelay, open_link: Open
) -> None:
    second = ip_address("232.1.1.2")
    links = [open_link(GROUP), open_link(second), open_link(GROUP_6)]
    wait_for(lambda: {GROUP, second, GROUP_6} <= {group for _, group, _ in relay.reports}, "what is wanted")
    wait_for(lambda: all(tunnel_of(link).phase == "open" for link in links), "the tunnel")
    sent = [b"%04d" % number for number in range(120)]
    relay.send(*(datagram(one, group) for one in sent for group in (GROUP, second, GROUP_6)))
    relay.send(datagram(sent[0], second, checksum=7), datagram(sent[0], checksum=0))
    for link, more in zip(links, ([sent[0]], [], []), strict=True):
        assert received(link, 120 + len(more)) == [*sent, *more]
    wait_for(lambda: tunnel_of(links[0]).dropped == {"bad-checksum": 1}, "the account")
    assert tunnel_of(links[0]).received == 362


def test_what_several_want_goes_by_one_tunnel_and_each_gets_its_own(
    relay: SmallRelay, open_link: Open
) -> None:
    first = open_link(source_filter=SourceFilter(False, (SOURCE,)))
    every = open_link()
    other_port, six = open_link(port=5005), open_link(GROUP_6)
    first.set_metadata(Metadata.ALL)
    wait_for(lambda: {GROUP, GROUP_6} <= {group for _, group, _ in relay.reports}, "what is wanted")
    wait_for(lambda: all(one.describe().tunnel.phase == "open" for one in (first, six)), "the tunnel")  # type: ignore[union-attr]
    assert len(relay.gateways) == 1
    assert [port for _, port in relay.gateways] == [LOCAL_PORT]
    relay.send(
        datagram(b"one"),
        datagram(b"two", source=OTHER),
        datagram(b"three", port=5005),
        datagram(b"six", GROUP_6),
        datagram(b"nobody's", ip_address("232.9.9.9")),
        datagram(b"of their link", source=ip_address("169.254.3.7")),
    )
    assert received(every, 2) == [b"one", b"two"]
    assert received(other_port, 1) == [b"three"]
    assert received(six, 1) == [b"six"]
    batch = first.receive()
    assert [bytes(one) for one in batch.payloads] == [b"one"]
    ((origin,), (time,)) = batch.origins, batch.times
    assert (origin.source, origin.port, origin.ttl) == (str(SOURCE), 4711, 9)
    assert time > 1_700_000_000 * 10**9, "the kernel's, of the packet that brought it"
    dropped = {"foreign": 1, "link-local": 1}
    wait_for(lambda: tunnel_of(every).dropped == dropped, "what nobody wants, or no router forwards")
    status = tunnel_of(every)
    assert (status.relay, status.received, status.unanswered) == (RELAY, 6, 0)
    assert status.round_trip_ms is not None
    (membership,) = first.memberships()
    assert (membership.wanted, membership.actual) == 2 * (f"include {SOURCE}",)
    assert first.glance().interfaces == ("amt",)


def test_a_filter_that_changes_is_told_and_who_closes_is_no_longer_served(
    relay: SmallRelay, open_link: Open
) -> None:
    receiver = open_link(source_filter=SourceFilter(False, (SOURCE,)))
    wait_for(lambda: relay.reports, "what is wanted")
    receiver.set_filter(SourceFilter(False, (SOURCE, OTHER)))
    wait_for(lambda: (RecordKind.ALLOW, GROUP, (OTHER,)) in relay.reports, "the change")
    receiver.close()
    wait_for(lambda: relay.reports[-1][0] is RecordKind.BLOCK, "the leave")
    assert {*relay.reports[-1][2]} == {SOURCE, OTHER}


def test_what_does_not_fit_into_the_buffer_is_counted(relay: SmallRelay, open_link: Open) -> None:
    room = 10 * (OVERHEAD_BYTES + 100)
    receiver = open_link(receive_buffer=room)
    wait_for(lambda: relay.gateways, "the tunnel")
    relay.send(*[datagram(bytes(100))] * 30)
    wait_for(lambda: receiver.load().overflow == 20, "what has no room")
    assert receiver.load().filled == 1
    assert received(receiver, 10) == [bytes(100)] * 10
    assert receiver.load().filled == 0


def test_more_than_a_batch_is_received_without_another_event(relay: SmallRelay, open_link: Open) -> None:
    receiver = open_link()
    wait_for(lambda: relay.gateways, "the tunnel")
    sent = [b"%d" % number for number in range(600)]
    for begin in range(0, len(sent), 100):  # no more at a time than fit into any buffer on the way
        relay.send(*map(datagram, sent[begin : begin + 100]))
        wait_for(lambda count=begin + 100: tunnel_of(receiver).received == count, "these")  # type: ignore[misc]
    filled = sum(len(one) + OVERHEAD_BYTES for one in sent) / receiver.load().buffer
    wait_for(lambda: math.isclose(receiver.load().filled, filled), "all of it")
    poll = select.epoll()
    poll.register(receiver.fileno(), select.EPOLLIN | select.EPOLLET)
    assert poll.poll(5)
    found: list[bytes] = []
    while batch := receiver.receive():
        found += [bytes(one) for one in batch.payloads]
    assert found == sent
    assert receiver.emptied


def test_a_relay_that_does_not_answer_is_trouble_until_it_does(open_link: Open) -> None:
    lost = threading.Event()
    receiver = open_link()
    receiver.on_lost = lost.set
    problem = f"no relay answers at {RELAY}, UDP port 2268: asking again"
    wait_for(lambda: receiver.problem == problem, "the problem")
    assert lost.wait(DEADLINE_SECONDS), "whoever reports it was told"
    assert receiver.glance().interfaces == ()
    relay = SmallRelay(RELAY)
    try:
        wait_for(lambda: receiver.problem == "" and relay.gateways, "the relay that has come")
        relay.answers = lambda message: isinstance(message, amt.RelayDiscovery)
    finally:
        relay.close()


def test_a_relay_that_answers_no_request_is_named(relay: SmallRelay, open_link: Open) -> None:
    relay.answers = lambda message: isinstance(message, amt.RelayDiscovery)
    receiver = open_link()
    wait_for(lambda: "answers no request" in receiver.problem, "the problem")
    assert tunnel_of(receiver).phase == "requesting"


def test_a_name_is_resolved_and_one_that_cannot_be_is_trouble(
    relay: SmallRelay, open_link: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.tunnel.tunnels.RESOLVE_SECONDS", 0.1)
    known: dict[str, str] = {}

    def resolve(name: str) -> list[Address]:
        if name not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [ip_address(known[name])]

    monkeypatch.setattr("mcastd.tunnel.candidates.addresses_of", resolve)
    receiver = open_link(relay="amt.example.net")
    wait_for(lambda: "cannot resolve the relay amt.example.net" in receiver.problem, "the problem")
    known["amt.example.net"] = RELAY
    wait_for(lambda: receiver.glance().interfaces == ("amt",), "the tunnel")
    assert receiver.problem == ""


def test_a_port_that_is_taken_is_said(tunnels: Tunnels) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", LOCAL_PORT))
        with pytest.raises(LinkError, match="choose another local_port"):
            tunnels.open(RelayWay(RELAY, LOCAL_PORT, 25.0), GROUP, 5004, ANY_SOURCE, 1 << 20)
    receiver = tunnels.open(RelayWay(RELAY, LOCAL_PORT, 25.0), GROUP, 5004, ANY_SOURCE, 1 << 20)
    receiver.close()


@pytest.mark.parametrize(
    ("place", "error", "number"),
    [
        ("mcastd.tunnel.receiver.Bell", OSError(errno.EMFILE, "Too many open files"), errno.EMFILE),
        ("mcastd.tunnel.woken_thread.Bell", OSError(errno.ENFILE, "Too many open files"), errno.ENFILE),
        ("mcastd.tunnel.woken_thread.Thread", NoThreadError("tunnels"), errno.EAGAIN),
    ],
)
def test_a_shortage_is_a_link_that_cannot_be_had_now(
    open_link: Open, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception, number: int
) -> None:
    """So a subscription that falls back to it goes on."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as shortage:
        shortage.setattr(place, refuse)
        with pytest.raises(LinkError, match="cannot receive by a tunnel") as failed:
            open_link()
    assert (failed.value.errno, failed.value.way_out[:6]) == (number, "raise ")
    assert str(failed.value).count("raise ") == 1
    assert open_link().glance().wanted == 1


def test_two_relays_have_one_port_together(open_link: Open) -> None:
    relays = [SmallRelay(RELAY), SmallRelay("127.0.0.3")]
    try:
        receivers = [open_link(relay=relay.address) for relay in relays]
        for number, (relay, receiver) in enumerate(zip(relays, receivers, strict=True)):
            wait_for(lambda relay=relay: relay.gateways, "its gateway")  # type: ignore[misc]
            relay.send(datagram(b"%d" % number))
            assert received(receiver, 1) == [b"%d" % number]
    finally:
        for relay in relays:
            relay.close()


def test_by_ipv6(tunnels: Tunnels) -> None:
    relay = SmallRelay("::1")
    try:
        receiver = tunnels.open(RelayWay("::1", LOCAL_PORT, 25.0), GROUP, 5004, ANY_SOURCE, 1 << 20)
        wait_for(lambda: relay.gateways, "its gateway")
        relay.send(datagram(b"by IPv6"))
        assert received(receiver, 1) == [b"by IPv6"]
        receiver.close()
    finally:
        relay.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What names stand for; they are asked for often."""
    known: dict[str, str] = {}
    monkeypatch.setattr("mcastd.tunnel.tunnels.RESOLVE_SECONDS", 0.1)
    monkeypatch.setattr("mcastd.tunnel.candidates.addresses_of", lambda name: [ip_address(known[name])])
    return known


def test_a_relay_by_name_for_which_there_is_no_socket_waits_alone(
    relay: SmallRelay, open_link: Open, names: dict[str, str]
) -> None:
    names["six.example.net"] = "::1"
    first = open_link()
    wait_for(lambda: relay.gateways, "the tunnel")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", LOCAL_PORT))
        second = open_link(relay="six.example.net")
        wait_for(lambda: "choose another local_port" in tunnel_of(second).hindrance, "the problem")
        wait_for(lambda: second.problem == tunnel_of(second).hindrance, "the same")
        relay.send(datagram(b"on"))
        assert received(first, 1) == [b"on"]
    six = SmallRelay("::1")
    try:
        wait_for(lambda: six.gateways, "its tunnel")
        six.send(datagram(b"by IPv6"))
        assert received(second, 1) == [b"by IPv6"]
        wait_for(lambda: second.problem == "", "the status")
    finally:
        six.close()


def test_what_fails_in_one_tunnel_costs_no_other(
    relay: SmallRelay, open_link: Open, names: dict[str, str]
) -> None:
    first, second = open_link(), open_link(relay="bad.example.net")  # a KeyError, which no resolver raises
    wait_for(lambda: relay.gateways, "the tunnel")
    wait_for(lambda: "it failed: KeyError" in second.problem, "the problem")
    relay.send(datagram(b"on"))
    assert received(first, 1) == [b"on"]
    names["bad.example.net"] = RELAY
    wait_for(lambda: second.glance().interfaces == ("amt",), "the tunnel that has begun anew")


def test_no_name_kills_the_resolver() -> None:
    with pytest.raises(OSError, match="no name that DNS can have"):
        addresses_of(64 * "a" + ".net")


def test_a_relay_that_has_moved_by_its_name_is_found(open_link: Open, names: dict[str, str]) -> None:
    names["amt.example.net"] = "127.0.0.9"
    receiver = open_link(relay="amt.example.net")
    wait_for(lambda: "no relay answers" in receiver.problem, "the problem")
    names["amt.example.net"] = RELAY
    relay = SmallRelay(RELAY)
    try:
        wait_for(lambda: relay.gateways, "the tunnel")
        relay.send(datagram(b"here"))
        assert received(receiver, 1) == [b"here"]
        wait_for(lambda: (receiver.problem, tunnel_of(receiver).relay) == ("", RELAY), "the status")
    finally:
        relay.close()


def test_one_relay_by_two_ports_brings_what_each_wants(relay: SmallRelay, open_link: Open) -> None:
    receivers = [open_link(port=5004), open_link(port=5005, local_port=LOCAL_PORT + 1)]
    wait_for(lambda: len(relay.gateways) == 2, "both tunnels")
    relay.send(datagram(b"one"), datagram(b"two", port=5005))
    assert [received(receiver, 1) for receiver in receivers] == [[b"one"], [b"two"]]
    wait_for(
        lambda: [tunnel_of(receiver).dropped for receiver in receivers] == 2 * [{"foreign": 1}],
        "what the other one wants",
    )


def test_another_refresh_is_the_same_tunnel_and_the_shortest_holds(
    relay: SmallRelay, open_link: Open
) -> None:
    first = open_link(refresh=60.0)
    wait_for(lambda: relay.gateways, "the tunnel")
    second = open_link(port=5005, refresh=1.0)  # as a reload does: the new one first
    wait_for(lambda: len([one for one in relay.heard if isinstance(one, amt.TunnelRequest)]) > 1, "a refresh")
    relay.send(datagram(b"one"), datagram(b"two", port=5005))
    assert [received(receiver, 1) for receiver in (first, second)] == [[b"one"], [b"two"]]
    first.close()
    heard = len(relay.heard)
    wait_for(lambda: len(relay.heard) > heard + 1, "the next refresh")
    assert {kind for kind, *_ in relay.reports} == {RecordKind.IS_EXCLUDE}, "it was never left"


def test_another_refresh_holds_for_a_tunnel_that_there_is(relay: SmallRelay, open_link: Open) -> None:
    receiver = open_link(refresh=60.0)
    wait_for(lambda: relay.gateways, "the tunnel")
    receiver.set_patience(math.inf, 1.0)
    wait_for(lambda: len([one for one in relay.heard if isinstance(one, amt.TunnelRequest)]) > 1, "a refresh")
    assert {kind for kind, *_ in relay.reports} == {RecordKind.IS_EXCLUDE}, "it was never left"


def test_one_relay_by_two_names_is_one_to_the_relay(
    relay: SmallRelay, open_link: Open, names: dict[str, str]
) -> None:
    names["amt.example.net"] = RELAY
    other = ip_address("232.1.1.2")
    by_address, by_name = open_link(), open_link(other, relay="amt.example.net")
    wait_for(lambda: {GROUP, other} <= {group for _, group, _ in relay.reports}, "what both want")
    relay.send(datagram(b"one"), datagram(b"two", other))
    assert [received(receiver, 1) for receiver in (by_address, by_name)] == [[b"one"], [b"two"]]
    assert tunnel_of(by_address).dropped == tunnel_of(by_name).dropped == {}
    by_address.close()
    left = RecordKind.TO_INCLUDE, GROUP
    wait_for(lambda: left in {(kind, group) for kind, group, _ in relay.reports}, "the leave")
    relay.send(datagram(b"three", other))
    assert received(by_name, 1) == [b"three"]
