"""The worker of a bridge and what bridges share, over a kernel in memory."""

from __future__ import annotations

import contextlib
import errno
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from support.arenas import FewArenas, LeasingReceiver
from support.meanwhile import meanwhile
from support.wait import wait_for

from mcastd import clock
from mcastd.bridge.bridge import BridgeWorker
from mcastd.bridge.family import FamilyRoutes, Version
from mcastd.bridge.forwarding import Forwarding
from mcastd.bridge.members import MemberNetwork
from mcastd.bridge.relay import REFUSED_SECONDS, RETRY_SECONDS, Relay
from mcastd.bridge.router import MulticastRouter
from mcastd.bridge.rules import Rule
from mcastd.config import Bridge
from mcastd.counters import BridgeCounters
from mcastd.errors import CannotAskError, LinkError, NoArenaError
from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.net import _abi
from mcastd.net.arenas import MEMORY_RETRY_SECONDS
from mcastd.net.fake import FakeJoins, FakeQuerySender, FakeReceiver, FakeRoutingTable, FakeSender
from mcastd.net.interfaces import Host, Interface
from mcastd.net.link import Batch, Origin
from mcastd.net.mroute import Heard
from mcastd.net.payloads import Payloads
from mcastd.protocols import igmp
from mcastd.protocols.internet import IGMP, MEMBERSHIP_TTL, IpPacket
from mcastd.protocols.membership import GroupRecord, MembershipQuery, RecordKind
from mcastd.querier.listeners import SOURCES_MAX
from mcastd.worker import Context, Signal

FLAGS = _abi.IFF_UP | _abi.IFF_MULTICAST | _abi.IFF_RUNNING
FOUR = ip_address("10.1.0.2"), ip_address("239.1.0.7")
SIX = ip_address("fd00:9::2"), ip_address("ff15::7")
SETTINGS: dict[str, object] = {
    "from": "left",
    "to": ["right", "wg*"],
    "groups": ["239.1.0.0/16"],
    "when": "always",
}


class FakeTtlSender(FakeSender):
    def __init__(self, ttl: int) -> None:
        super().__init__()
        self.ttl = ttl
        self.ttls: list[int] = []  # of what was sent

    def set_ttl(self, ttl: int) -> None:
        self.ttl = ttl

    def send(self, payloads: Payloads) -> int:
        count = super().send(payloads)
        self.ttls += [self.ttl] * count
        return count


class Kernel:
    """The interfaces of a host by index, and its tables by IP version."""

    def __init__(self, **interfaces: int) -> None:
        self.interfaces = {index: Interface(index, name, FLAGS, 1) for name, index in interfaces.items()}
        self.tables: dict[int, FakeRoutingTable] = {}
        self.senders: dict[int, FakeQuerySender] = {}
        self.joins: dict[int, FakeJoins] = {}
        self.owned: set[int] = set()  # by another program
        # Of the relay: by group, port and interface
        self.receivers: dict[tuple[str, int, str], FakeReceiver] = {}
        self.sending: dict[tuple[str, int, str], FakeTtlSender] = {}
        self.make_sender: Callable[[int], FakeTtlSender] = FakeTtlSender
        self.senders_opened = 0
        self.refused: set[str] = set()  # interfaces by which nothing can be received
        self.opened = 0
        self.unasked = 0  # times that the kernel does not say which interfaces there are

    def host(self) -> Host:
        if self.unasked:
            self.unasked -= 1
            raise CannotAskError("cannot ask", "no buffer space", errno=errno.ENOBUFS)
        return Host(dict(self.interfaces), 0.0)

    def open(self, version: Version) -> FamilyRoutes:
        if version in self.owned:
            raise LinkError("cannot route multicast", "address already in use", errno=errno.EADDRINUSE)
        self.opened += 1
        self.tables[version] = FakeRoutingTable()
        self.senders[version] = FakeQuerySender()
        self.joins[version] = FakeJoins()
        return FamilyRoutes(version, self.tables[version], self.senders[version], self.joins[version])

    def open_receiver(self, _: Bridge, group: Address, port: int, interface: Interface) -> FakeReceiver:
        if interface.name in self.refused:
            raise LinkError(f"cannot join {group} on {interface.name}", "no buffer space")
        made = self.receivers[str(group), port, interface.name] = FakeReceiver()
        return made

    def open_sender(self, group: Address, port: int, interface: Interface, ttl: int) -> FakeTtlSender:
        self.senders_opened += 1
        made = self.sending[str(group), port, interface.name] = self.make_sender(ttl)
        return made

    def send(
        self, came_by: int, ends: tuple[object, object], to: set[int], version: int = 4, **options: int
    ) -> None:
        """Send until it goes there; the first one may have no route yet."""
        table = self.tables[version]
        wait_for(lambda: table.send(came_by, *ends, **options) == to, f"it goes to {to}")  # type: ignore[arg-type]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(left=3, right=5, wg0=8)


@pytest.fixture
def router(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[MulticastRouter]:
    monkeypatch.setattr("mcastd.bridge.router.LOOK_SECONDS", 0.02)
    made = MulticastRouter(kernel.open)
    yield made
    made.close()
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "router"]
    assert all(table.closed for table in kernel.tables.values())


class Running:
    def __init__(self, worker: BridgeWorker) -> None:
        self.worker = worker
        self.ready = threading.Event()
        self.context = Context(self.ready.set).open()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main)
        self._thread.start()

    def _main(self) -> None:
        try:
            self.worker.run(self.context)
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self.context.send(Signal.STOP)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.context.close()


Run = Callable[..., Running]


@pytest.fixture
def run(kernel: Kernel, router: MulticastRouter) -> Iterator[Run]:
    with running(kernel, router) as start:
        yield start


@contextmanager
def running(kernel: Kernel, router: MulticastRouter) -> Iterator[Run]:
    started: list[Running] = []

    def start(name: str = "bridge/tv", **settings: object) -> Running:
        config = Bridge.model_validate(SETTINGS | settings)
        worker = BridgeWorker(
            name,
            config,
            router,
            kernel.host,
            open_receiver=kernel.open_receiver,
            open_sender=kernel.open_sender,
        )
        one = Running(worker)
        started.append(one)
        wait_for(lambda: one.ready.is_set() or one.failure, "ready")
        return one

    try:
        yield start
    finally:
        for one in started:
            one.stop()


def test_what_comes_is_routed_and_counted(kernel: Kernel, run: Run) -> None:
    one = run(sources=["10.1.0.0/24"])
    worker = one.worker
    assert (one.context.detail, one.context.degraded) == ("from left to right, wg0", False)
    assert kernel.tables[4].interfaces == {3, 5, 8}
    kernel.send(3, FOUR, {5, 8})
    kernel.send(3, FOUR, {5, 8})
    wait_for(lambda: worker.counters.forwarded == 2, "both")
    wait_for(lambda: worker.books().routes == 1, "its route")
    status = worker.status()
    (route,) = status.routes
    assert (route.source, route.group, route.comes_by, route.goes_to) == (
        "10.1.0.2",
        "239.1.0.7",
        "left",
        ("right", "wg0"),
    )
    assert (route.packets, route.bytes, status.route_count) == (2, 2688, 1)
    assert (status.comes_by, status.goes_to) == (("left",), ("right", "wg0"))
    assert (status.groups, status.sources, status.troubles) == (("239.1.0.0/16",), ("10.1.0.0/24",), ())
    vitals, books = worker.vitals(), worker.books()
    assert (vitals.datagrams, vitals.payload_bytes, vitals.dropped) == (2, 2688, 0)
    assert vitals.last_datagram == books.last_datagram is not None
    assert books.identity.interface == "left"


def test_two_families_and_bridges_share_the_tables(kernel: Kernel, run: Run) -> None:
    both = run("bridge/both", groups=["239.1.0.0/16", "ff15::/16"])
    run("bridge/back", **{"from": "wg*", "to": "left"})
    assert kernel.opened == 2
    kernel.send(3, FOUR, {5, 8})
    kernel.send(8, SIX, set(), 6)
    kernel.send(3, (ip_address("fd00:9::3"), SIX[1]), {5, 8}, 6)
    kernel.send(8, (ip_address("10.8.0.2"), FOUR[1]), {3})
    wait_for(lambda: both.worker.counters.forwarded == 2, "one of each family")
    assert kernel.tables[6].interfaces == {3, 5, 8}
    both.stop()
    wait_for(lambda: kernel.tables[6].closed, "the table that nobody needs")
    assert kernel.tables[4].interfaces == {3, 8}
    assert {ends[0] for ends in kernel.tables[4].routes} == {FOUR[0], ip_address("10.8.0.2")}
    assert kernel.tables[4].routes[FOUR] == (3, {})


def test_other_settings_are_taken_over(kernel: Kernel, run: Run) -> None:
    one = run()
    kernel.send(3, FOUR, {5, 8})
    assert one.worker.update(Bridge.model_validate(SETTINGS | {"to": "right", "ttl_threshold": 5}))
    assert not one.worker.update("something else")
    one.context.send(Signal.NETWORK)
    wait_for(lambda: kernel.tables[4].routes[FOUR] == (3, {5: 5}), "the route is changed")
    assert kernel.tables[4].interfaces == {3, 5}
    assert (kernel.opened, one.context.detail) == (1, "from left to right")


def test_interfaces_come_and_go(kernel: Kernel, run: Run) -> None:
    one = run()
    kernel.send(3, FOUR, {5, 8})
    kernel.interfaces[13] = Interface(13, "wg1", FLAGS, 1)
    del kernel.interfaces[8]
    one.context.send(Signal.NETWORK)
    kernel.send(3, FOUR, {5, 13})
    assert kernel.tables[4].interfaces == {3, 5, 13}
    del kernel.interfaces[5]
    one.context.send(Signal.NETWORK)
    kernel.send(3, FOUR, {13})
    wait_for(lambda: one.context.degraded, "the one that is named is missed")
    assert one.context.detail == "from left to wg1; right: no such interface; waiting for it"
    del kernel.interfaces[3]
    one.context.send(Signal.NETWORK)
    wait_for(lambda: one.failure is not None, "nothing comes from anywhere")
    assert str(one.failure) == (
        "cannot forward 239.1.0.0/16 from left: no such interface (have: wg1); waiting for it"
    )
    assert kernel.tables[4].closed


def test_what_works_is_kept_while_the_kernel_cannot_be_asked(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.bridge.bridge.RETRY_SECONDS", 0.05)
    one = run()
    kernel.send(3, FOUR, {5, 8})
    kernel.interfaces[13] = Interface(13, "wg1", FLAGS, 1)
    kernel.unasked = 3
    one.context.send(Signal.NETWORK)
    kernel.send(3, FOUR, {5, 8, 13})
    assert (kernel.unasked, kernel.opened, one.failure) == (0, 1, None)
    kernel.unasked = 1
    other = run("bridge/other")
    assert isinstance(other.failure, CannotAskError)


def test_an_interface_that_was_made_anew_with_its_index_takes_part_again(kernel: Kernel, run: Run) -> None:
    one = run()
    kernel.send(3, FOUR, {5, 8})
    kernel.tables[4].remove(5)  # as the kernel does when it is deleted
    one.context.send(Signal.NETWORK)
    wait_for(lambda: kernel.tables[4].interfaces == {3, 5, 8}, "again")


def test_what_one_ip_version_lacks_is_told_and_the_other_goes_on(kernel: Kernel, run: Run) -> None:
    kernel.interfaces[5] = Interface(5, "right", FLAGS, 1, versions=frozenset({4}), mtu=1500)
    one = run(to="right", groups=["239.1.0.0/16", "ff15::/16"])
    assert one.context.detail.startswith(
        "from left to right; cannot forward ff15::/16 to right: IPv6 is disabled on it"
    )
    kernel.send(3, FOUR, {5})


def test_interfaces_of_a_pattern_may_be_down(kernel: Kernel, run: Run) -> None:
    kernel.interfaces[8] = Interface(8, "wg0", FLAGS & ~_abi.IFF_UP, 1)
    assert run().worker.status().troubles == ()


def test_interfaces_that_do_not_serve_are_told(kernel: Kernel, run: Run) -> None:
    kernel.interfaces[3] = Interface(3, "left", FLAGS, 1, master=8, port_of="bridge")
    kernel.interfaces[5] = Interface(5, "right", FLAGS & ~_abi.IFF_UP, 1, master=8, port_of="bridge")
    one = run()
    troubles = (
        'left is a port of wg0, which takes all that arrives there: set from = "wg0"',
        "right is down: nothing goes there",
    )
    assert one.worker.status().troubles == troubles
    assert one.context.degraded

    def silent() -> tuple[str, ...]:
        kernel.tables[4].send(3, *FOUR, ttl=1)
        return one.worker.status().silent

    assert wait_for(silent, "nothing leaves") == ("wg0",), "the other one is down"
    with_addresses(kernel)
    other = run("bridge/joined", when="joined", groups=["239.9.0.0/16"])
    hears = 'right is a port of wg0, which takes all that arrives there: set to = "wg0"'
    assert other.worker.status().troubles == (troubles[0], hears, troubles[1]), "nothing of the other bridge"


def test_another_owner_of_the_kernels_routing_is_waited_for(kernel: Kernel, run: Run) -> None:
    kernel.owned.add(6)
    one = run(groups=["239.1.0.0/16", "ff15::/16"])
    assert isinstance(one.failure, LinkError)
    assert one.failure.errno == errno.EADDRINUSE
    assert kernel.tables[4].closed, "not a half of it"
    kernel.owned.clear()
    assert run().failure is None


def test_an_interface_that_the_kernel_does_not_take(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.bridge.bridge.RETRY_SECONDS", 0.05)
    other = run("bridge/other", **{"from": "right", "to": "left"})
    kernel.tables[4].refused[8] = LinkError("cannot route by one more", "too many", errno=errno.ENFILE)
    one = run()
    assert one.context.detail == "from left to right, wg0; wg0: cannot route by one more: too many"
    assert one.context.degraded
    assert not other.context.degraded
    kernel.send(3, FOUR, {5})
    kernel.tables[4].refused.clear()
    wait_for(lambda: not one.context.degraded, "it is tried again")
    kernel.send(3, FOUR, {5, 8})
    kernel.tables[4].refused[13] = LinkError("cannot route by one more", "too many", errno=errno.ENFILE)
    kernel.interfaces[13] = Interface(13, "tun0", FLAGS, 1)
    failed = run("bridge/failed", to="tun0")
    assert isinstance(failed.failure, LinkError)
    assert failed.failure.errno == errno.ENFILE


def test_a_route_that_the_kernel_does_not_take(kernel: Kernel, run: Run) -> None:
    one = run()
    kernel.tables[4].refusal = LinkError("cannot route 239.1.0.7", "no memory", errno=errno.ENOMEM)
    kernel.tables[4].send(3, *FOUR)
    wait_for(lambda: one.context.degraded, "it is told")
    assert one.context.detail.endswith("; cannot route 239.1.0.7: no memory")
    kernel.tables[4].refusal = None
    kernel.send(3, FOUR, {5, 8})
    wait_for(lambda: not one.context.degraded, "it is taken")


def test_that_nothing_leaves_is_told_until_something_does(kernel: Kernel, run: Run) -> None:
    """The classic trouble: a sender's TTL is 1, which no router forwards."""
    one = run()

    def told() -> bool:
        kernel.tables[4].send(3, *FOUR, ttl=1)
        return one.context.degraded

    wait_for(told, "the TTL")
    assert one.worker.status().troubles == tuple(
        f"nothing of what comes goes out by {name}: its TTL does not exceed 1, or it is larger than the"
        " interface's MTU; have its sender set a higher TTL"
        for name in ("right", "wg0")
    )
    kernel.send(3, FOUR, {5, 8}, ttl=2)
    wait_for(lambda: not one.context.degraded, "it leaves")


def test_a_source_that_moves_and_one_that_ends(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(**{"from": ["left", "right"]})
    kernel.send(5, FOUR, {8})
    kernel.send(3, FOUR, {5, 8})
    table = kernel.tables[4]
    run("bridge/wg", **{"from": "wg*", "to": "left", "groups": ["239.7.0.0/16"]})
    other = FOUR[0], ip_address("239.7.0.1")
    kernel.send(3, other, set())
    wait_for(lambda: other in table.routes, "a route to nowhere")
    kernel.send(8, other, {3})
    monkeypatch.setattr("mcastd.bridge.forwarding.IDLE_SECONDS", 0.05)
    wait_for(lambda: not table.routes, "both are removed")


HOST_ADDRESSES = (ip_address("10.9.2.5"), ip_address("fe80::5"))


def report(kind: RecordKind, *sources: str, by: int = 5, group: Address = FOUR[1]) -> Heard:
    records = [GroupRecord(kind, group, tuple(map(ip_address, sources)))]
    (message,) = igmp.build_reports(records, 1000)
    return heard(by, "10.9.2.9", igmp.ALL_IGMPV3_ROUTERS, message)


def heard(by: int, source: str, to: IPv4Address, message: bytes) -> Heard:
    return Heard(by, IpPacket(ip_address(source), to, IGMP, MEMBERSHIP_TTL, message, router_alert=True))


def with_addresses(kernel: Kernel) -> None:
    for index, interface in kernel.interfaces.items():
        kernel.interfaces[index] = replace(interface, addresses=HOST_ADDRESSES)


def test_a_group_is_joined_and_goes_where_members_are(kernel: Kernel, run: Run) -> None:
    with_addresses(kernel)
    one = run(when="joined")
    table, joins = kernel.tables[4], kernel.joins[4]
    wait_for(lambda: {sent[0] for sent in kernel.senders[4].sent} == {5, 8}, "members are asked")
    table.send(3, *FOUR)
    wait_for(lambda: table.routes == {FOUR: (3, {})}, "a route to nowhere")
    table.say(report(RecordKind.ALLOW, "10.1.0.2"))
    kernel.send(3, FOUR, {5})
    assert joins.joined == {(3, FOUR[1]): SourceFilter(False, (FOUR[0],))}
    table.say(report(RecordKind.IS_EXCLUDE, by=8))
    kernel.send(3, FOUR, {5, 8})
    assert joins.joined == {(3, FOUR[1]): ANY_SOURCE}
    status = one.worker.status()
    members = {(member.interface, member.group, member.wanted) for member in status.members}
    assert members == {("right", "239.1.0.7", "include 10.1.0.2"), ("wg0", "239.1.0.7", "any")}
    (joined,) = status.joins
    assert (joined.interface, joined.group, joined.wanted) == ("left", "239.1.0.7", "any")
    queriers = {
        (querier.interface, querier.asks, querier.querier, querier.groups) for querier in status.queriers
    }
    assert queriers == {("right", True, "10.9.2.5", 1), ("wg0", True, "10.9.2.5", 1)}
    assert (status.when, status.troubles, one.context.degraded) == ("joined", (), False)
    del kernel.interfaces[8]
    one.context.send(Signal.NETWORK)
    wait_for(lambda: joins.joined == {(3, FOUR[1]): SourceFilter(False, (FOUR[0],))}, "fewer want it")
    one.stop()
    assert joins.joined == {}


def test_of_two_bridges_each_has_its_own_in_the_status(kernel: Kernel, run: Run) -> None:
    with_addresses(kernel)
    films = ip_address("239.2.0.9")
    one = run(when="joined", to="right")
    other = run(
        "bridge/all", when="joined", groups=["239.0.0.0/8"], **{"from": "wg0", "to": ["right", "left"]}
    )
    for group in (FOUR[1], films):
        kernel.tables[4].say(report(RecordKind.IS_EXCLUDE, group=group))
    joined = dict.fromkeys(((3, FOUR[1]), (8, FOUR[1]), (8, films)), ANY_SOURCE)
    wait_for(lambda: kernel.joins[4].joined == joined, "all are joined")
    for worker, groups, side, queriers in (
        (one.worker, {str(FOUR[1])}, "left", {"right"}),
        (other.worker, {str(FOUR[1]), str(films)}, "wg0", {"right", "left"}),
    ):
        status = worker.status()
        members = [(member.interface, member.group) for member in status.members]
        joins = [(join.interface, join.group) for join in status.joins]
        assert sorted(members) == sorted(("right", group) for group in groups)
        assert sorted(joins) == sorted((side, group) for group in groups)
        assert {querier.interface for querier in status.queriers} == queriers


def test_that_another_one_asks_and_forwards_is_told(kernel: Kernel, run: Run) -> None:
    with_addresses(kernel)
    one = run(when="joined")
    always = run("bridge/always")
    table = kernel.tables[4]
    table.say(heard(5, "10.9.2.1", igmp.ALL_SYSTEMS, igmp.build_query(MembershipQuery())))
    wait_for(lambda: one.context.degraded, "it is told")
    assert one.worker.status().troubles == (
        "10.9.2.1 asks for members on right, and forwards there in place of this host: to have this one do"
        ' it, set querier = "always", or give it a lower address there',
    )
    assert not always.context.degraded
    insisting = Bridge.model_validate(SETTINGS | {"when": "joined", "querier": "always"})
    assert one.worker.update(insisting)
    one.context.send(Signal.NETWORK)
    wait_for(lambda: not one.context.degraded, "it asks whoever else does")
    assert one.worker.status().troubles == ()


def test_more_than_is_kept_of_members_is_told_as_long_as_they_want_it(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_addresses(kernel)
    one = run(when="joined")
    sources = tuple(FOUR[0] + number for number in range(SOURCES_MAX + 1))
    (message,) = igmp.build_reports([GroupRecord(RecordKind.ALLOW, FOUR[1], sources)], 65_000)
    kernel.tables[4].say(heard(5, "10.9.2.9", igmp.ALL_IGMPV3_ROUTERS, message))
    wait_for(lambda: one.context.degraded, "it is told")
    assert one.context.detail.endswith("; members on right want more groups or sources than are kept")
    monkeypatch.setattr(MemberNetwork, "is_crowded", lambda *_: False)
    wait_for(lambda: not one.context.degraded, "they have not wanted it for long")


def test_what_members_have_said_is_taken_before_a_status_looks(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel has counted of it by then would be taken for a stream."""
    monkeypatch.setattr("mcastd.bridge.router.LOOK_SECONDS", 60.0)
    with_addresses(kernel)
    one = run(when="joined")
    (message,) = igmp.build_reports([GroupRecord(RecordKind.TO_EXCLUDE, FOUR[1], ())], 65_000)
    kernel.tables[4].said.append(heard(5, "10.9.2.9", igmp.ALL_IGMPV3_ROUTERS, message))  # wakes nobody
    one.worker.status()
    assert not kernel.tables[4].said


def test_a_flood_is_served_in_parts(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """So others get the lock."""
    monkeypatch.setattr("mcastd.bridge.family.TURN_SECONDS", 0.0)
    with contextlib.closing(kernel.open(4)) as family:
        rule = Rule(frozenset({3}), {5: 1}, (ip_network("239.0.0.0/8"),))
        family.set_rules({"bridge/tv": rule}, kernel.host(), 5.0)
        for number in range(3):
            kernel.tables[4].send(3, FOUR[0] + number, FOUR[1])
        for left in (2, 1, 0):
            family.serve(6.0)
            assert len(kernel.tables[4].said) == left


def test_a_flood_of_senders_is_told_while_it_goes_on(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.bridge.family.Forwarding", partial(Forwarding, routes_max=3))
    one = run()
    for number in range(5):
        kernel.tables[4].send(3, FOUR[0] + number, FOUR[1])
    wait_for(lambda: one.context.degraded, "it is told")
    assert "pairs of sender and group come by interfaces of bridges" in one.context.detail
    monkeypatch.setattr("mcastd.bridge.family.CROWDED_SECONDS", 0.0)
    wait_for(lambda: not one.context.degraded, "it is over")
    assert len(kernel.tables[4].routes) == 3


def test_many_routes_are_not_all_looked_at_for_a_status(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.bridge.router.LOOK_SECONDS", 1000.0)
    monkeypatch.setattr("mcastd.bridge.router.SHORT_LOOK_SECONDS", 1000.0)
    one = run()
    kernel.send(3, FOUR, {5, 8})
    assert [route.packets for route in one.worker.status().routes] == [1]
    kernel.send(3, FOUR, {5, 8})
    assert [route.packets for route in one.worker.status().routes] == [2]
    monkeypatch.setattr("mcastd.bridge.router.SHORT_LOOK_SECONDS", 0.0)
    kernel.send(3, FOUR, {5, 8})
    assert [route.packets for route in one.worker.status().routes] == [2]


def test_a_group_that_cannot_be_joined(kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcastd.bridge.family.RETRY_SECONDS", 0.05)
    kernel.tables[4] = FakeRoutingTable()
    first = run("bridge/first", groups=["239.9.0.0/16"])
    kernel.joins[4].refused[FOUR[1]] = LinkError("cannot join 239.1.0.7 on left", "no buffer space")
    one = run(groups=["239.1.0.7"])
    wait_for(lambda: one.context.degraded, "it is told")
    assert one.context.detail.endswith("; cannot join 239.1.0.7 on left: no buffer space")
    (join,) = one.worker.status().joins
    assert (join.wanted, join.refused) == ("", "cannot join 239.1.0.7 on left: no buffer space")
    kernel.joins[4].refused.clear()
    wait_for(lambda: not one.context.degraded, "it is tried again")
    assert kernel.joins[4].joined == {(3, FOUR[1]): ANY_SOURCE}
    kernel.joins[4].joined.clear()
    kernel.joins[4].lost[3, FOUR[1]] = LinkError("cannot join 239.1.0.7 on left", "no such device")
    first.context.send(Signal.NETWORK)
    wait_for(lambda: kernel.joins[4].joined == {(3, FOUR[1]): ANY_SOURCE}, "one that was lost comes back")


RELAYED: dict[str, object] = {"groups": ["239.1.0.7", "239.1.0.8"], "ports": [5004, 5006], "engine": "relay"}


def origin(ttl: int) -> Origin:
    return Origin("10.1.0.2", 4000, 3, ttl)


def test_receivers_of_a_relay_hold_what_comes_while_there_is_no_memory(kernel: Kernel, run: Run) -> None:
    one = run(groups=["239.1.0.7"], ports=[5004], engine="relay")
    link, said = kernel.receivers["239.1.0.7", 5004, "left"], one.context.detail
    link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
    link.deliver(b"1", b"2", origin=Origin("10.1.0.2", 5000, 3, 9))
    wait_for(lambda: one.context.degraded and "no memory left" in one.context.detail, "the reason")
    link.failure = None
    wait_for(lambda: one.worker.counters.received == 2, "what waited")
    wait_for(lambda: one.context.detail == said and not one.context.degraded, "all is well")
    assert (link.closed, one.failure) == (False, None)


@pytest.mark.parametrize("again", [False, True], ids=["reload", "another run"])
@pytest.mark.parametrize("lacks", ["a group", "a way out", "memory"])
def test_what_a_relay_lacked_is_no_trouble_of_the_kernel(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch, lacks: str, again: bool
) -> None:
    kernel.owned.add(4)
    if lacks == "a group":
        kernel.refused.add("right")
    one = run(groups=["239.1.0.7"], ports=[5004], engine="auto", **{"from": ["left", "right"]})
    link = kernel.receivers["239.1.0.7", 5004, "left"]
    if lacks == "a way out":

        def refuse(*_: object) -> FakeTtlSender:
            raise LinkError("cannot send to 239.1.0.7 on wg0", "network is down")

        monkeypatch.setattr(one.worker._relay, "_open_sender", refuse)
    if lacks == "memory":
        link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
    link.deliver(b"one", origin=origin(9))
    wait_for(lambda: one.context.degraded, "it is told")
    kernel.owned.clear()
    if again:
        one.stop()
        one = Running(one.worker)
    one.context.send(Signal.RETRY)
    try:
        wait_for(lambda: one.worker.status().engine == "kernel" and link.closed, "the kernel takes over")
        wait_for(lambda: one.context.detail == "from left, right to right, wg0", "all is well")
        assert (one.context.degraded, one.worker.status().troubles) == (False, ())
        assert one.worker._until_retry() is None
    finally:
        one.stop()


def test_a_relay_says_a_shortage_until_each_receiver_has_memory(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    relay = Relay(BridgeCounters(), kernel.open_receiver, kernel.open_sender)
    left, right, *_ = kernel.interfaces.values()
    config = Bridge.model_validate({**SETTINGS, **RELAYED, "ports": [5004]})
    relay.follow(config, [left], [right])
    short, other = (kernel.receivers[group, 5004, "left"] for group in ("239.1.0.7", "239.1.0.8"))
    streams = relay.filenos()
    rested: list[str] = []
    for name, link in (("short", short), ("other", other)):
        monkeypatch.setattr(link, "idle", lambda name=name: rested.append(name))
    short.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)

    def take(*links: FakeReceiver) -> tuple[str, float]:
        """What is said, and the pause."""
        now[0] += 0.0005
        rested.clear()
        other.deliver(*[b"one"] * 10, origin=origin(9))
        relay.receive([streams[link.fileno()] for link in links])
        return relay.shortage, relay.pause

    said = "cannot receive: no memory left"
    assert take(other) == ("", 0.001)
    assert rested == []
    assert take(short, other) == (said, MEMORY_RETRY_SECONDS)
    assert set(rested) == {"other"}, "who has buffers lets others have them"
    assert take(other) == (said, 0.001)
    assert take() == (said, 0.0)
    relay.follow(config, [left], [right])
    assert relay.shortage == "", "it is seen anew"
    assert take(short)[0] == said
    short.failure = None
    assert take(short)[0] == ""
    relay.close()


@pytest.mark.parametrize("gathers", [False, True])
def test_all_streams_of_a_relay_come_by_the_only_arena(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, gathers: bool
) -> None:
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    arenas, links = FewArenas(1), list[LeasingReceiver]()

    def open_receiver(*_: object) -> LeasingReceiver:
        links.append(arenas.receiver())
        return links[-1]

    relay = Relay(BridgeCounters(), open_receiver, kernel.open_sender)
    left, right, *_ = kernel.interfaces.values()
    config = {**SETTINGS, **RELAYED, "max_latency": "1ms" if gathers else 0}
    relay.follow(Bridge.model_validate(config), [left], [right])
    assert len(links) == 4
    streams = list(relay.filenos().values())
    for sent in range(1, 6):
        for link in links:
            link.deliver(b"one", b"two", origin=origin(9))
        now[0] += 0.0005
        relay.receive(streams)
        assert [link.received for link in links] == [2 * sent] * 4
        assert (relay.shortage, relay.pause > 0) == ("", gathers)
    relay.close()
    assert arenas.free == 1


def test_the_stream_of_a_relay_that_has_waited_longest_for_memory_comes_first(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others take what is free: there may be some just for the first."""
    relay = Relay(BridgeCounters(), kernel.open_receiver, kernel.open_sender)
    left, right, *_ = kernel.interfaces.values()
    relay.follow(Bridge.model_validate({**SETTINGS, **RELAYED}), [left], [right])
    links = list(kernel.receivers.values())
    served, free = list[int](), [0]

    def take(number: int, receive: Callable[[], Batch]) -> Batch:
        if not free[0]:
            raise NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
        free[0] = 0
        served.append(number)
        return receive()

    for number, link in enumerate(links):
        monkeypatch.setattr(link, "receive", partial(take, number, link.receive))
    for _ in range(8):
        free[0] = 1
        relay.receive(relay.filenos().values())
        assert relay.pause == MEMORY_RETRY_SECONDS
    assert served == [0, 1, 2, 3, 0, 1, 2, 3]
    relay.close()


def test_a_relay_hands_on_what_comes(kernel: Kernel, run: Run) -> None:
    one = run(**RELAYED)
    assert one.context.detail == "from left to right, wg0; relayed"
    assert kernel.opened == 0
    groups, ports = ("239.1.0.7", "239.1.0.8"), (5004, 5006)
    assert kernel.receivers.keys() == {(group, port, "left") for group in groups for port in ports}
    link = kernel.receivers["239.1.0.7", 5006, "left"]
    link.deliver(b"one", b"three", origin=origin(9))
    link.deliver(b"last", origin=origin(2))
    link.dropped_by_kernel = 5
    link.deliver(b"over", origin=origin(1))
    counters = one.worker.counters
    wait_for(lambda: counters.received == 4, "all")
    for name in ("right", "wg0"):
        sender = kernel.sending["239.1.0.7", 5006, name]
        assert (sender.sent, sender.ttls) == ([b"one", b"three", b"last"], [8, 8, 1])
    assert (counters.forwarded, counters.dropped) == (3, {"ttl": 1})
    assert (counters.received_bytes, counters.forwarded_bytes) == (16, 12)
    status, vitals = one.worker.status(), one.worker.vitals()
    assert (status.engine, status.engine_reason) == ("relay", "")
    assert (vitals.datagrams, vitals.dropped, vitals.overflow) == (4, 1, 5)
    assert vitals.last_datagram is not None
    link.dropped_by_kernel = 9
    one.stop()
    assert one.worker.vitals().overflow == 9
    assert all(receiver.closed for receiver in kernel.receivers.values())
    assert all(sender.closed for sender in kernel.sending.values())


@pytest.mark.parametrize("sources", [(), ("169.254.3.7",)])
def test_a_relay_takes_senders_of_a_link_only_by_name(
    kernel: Kernel, run: Run, sources: tuple[str, ...]
) -> None:
    """Those that are not named the receiver would not let in, if some are; the one in memory does."""
    one = run(groups=["239.1.0.7"], ports=[5004], engine="relay", sources=list(sources))
    link, counters = kernel.receivers["239.1.0.7", 5004, "left"], one.worker.counters
    for number, source in enumerate(("169.254.3.7", "10.1.0.2", "169.254.3.7", "0.0.0.0")):
        link.deliver(b"%d" % number, origin=Origin(source, 4000, 3, 9))
    link.deliver(b"last", origin=origin(9))
    wait_for(lambda: counters.received == 5, "all")
    expected = [b"0", b"1", b"2", b"3", b"last"] if sources else [b"1", b"last"]
    wait_for(lambda: kernel.sending["239.1.0.7", 5004, "wg0"].sent == expected, "what goes")
    assert counters.dropped == ({} if sources else {"link-local": 3})
    assert counters.forwarded == len(expected)


def test_senders_that_are_named_of_one_ip_version_say_nothing_of_the_other(kernel: Kernel, run: Run) -> None:
    one = run(groups=["239.1.0.7", "ff15::7"], ports=[5004], engine="relay", sources=["169.254.3.7"])
    for group, source in (("239.1.0.7", "169.254.3.7"), ("ff15::7", "fe80::7"), ("ff15::7", "fd00::7")):
        kernel.receivers[group, 5004, "left"].deliver(b"x", origin=Origin(source, 4000, 3, 9))
    wait_for(lambda: one.worker.counters.forwarded == 2, "those that go")
    assert one.worker.counters.dropped == {"link-local": 1}


def test_a_relay_raises_a_ttl_and_sends_to_another_group_and_port(kernel: Kernel, run: Run) -> None:
    run(
        groups=["239.1.0.7"],
        ports=[5004],
        sources=["10.1.0.2"],
        raise_ttl=True,
        rewrite={"group": "239.9.0.9", "port": 6000},
    )
    kernel.receivers["239.1.0.7", 5004, "left"].deliver(b"one", origin=origin(1))
    wait_for(lambda: ("239.9.0.9", 6000, "wg0") in kernel.sending, "it goes")
    sender = kernel.sending["239.9.0.9", 6000, "wg0"]
    wait_for(lambda: (sender.sent, sender.ttls) == ([b"one"], [1]), "it goes")


def test_a_relay_forwards_no_more_than_its_rate(kernel: Kernel, run: Run) -> None:
    one = run(groups=["239.1.0.7"], ports=[5004], rate=8)
    counters = one.worker.counters
    link = kernel.receivers["239.1.0.7", 5004, "left"]
    link.deliver(*[bytes(30_000)] * 3, origin=origin(9))
    wait_for(lambda: counters.received == 3, "all")
    wait_for(lambda: counters.dropped == {"rate": 1}, "what is beyond")
    assert counters.forwarded == 2
    one.context.send(Signal.NETWORK)
    wait_for(lambda: link.network_changes, "it looks at the network")
    link.deliver(bytes(30_000), origin=origin(9))
    wait_for(lambda: counters.received == 4, "one more")
    wait_for(lambda: counters.dropped == {"rate": 2}, "a change of the network allows no more")


def test_datagrams_that_come_fast_gather_in_a_relay(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mcastd.bridge.relay.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    counters = BridgeCounters()
    relay = Relay(counters, kernel.open_receiver, kernel.open_sender)
    left, right, *_ = kernel.interfaces.values()

    def take(count: int, after: float) -> float:
        """The pause after so many datagrams, which have come within this time."""
        now[0] += after
        link.deliver(*[b"one"] * count, origin=origin(9))
        relay.receive([stream] if count else [])
        return relay.pause

    for latency, first in (("0s", 0.0), ("1ms", 0.001), ("0.4ms", 0.0004)):
        settings = {**SETTINGS, **RELAYED, "groups": ["239.1.0.7"], "ports": [5004], "max_latency": latency}
        relay.follow(Bridge.model_validate(settings), [left], [right])
        link = kernel.receivers["239.1.0.7", 5004, "left"]
        (stream,) = relay.filenos().values()
        assert take(1, after=1) == 0.0
        assert take(10, after=0.0005) == first
        assert take(10, after=0.001) == first
        assert take(0, after=0.001) == 0.0, "no more comes"
    assert take(10, after=0.0005) > 0
    assert take(65, after=0.0005) == 0.0, "there is more than a batch"
    link.receive_buffer = 1 << 19
    assert take(10, after=0.0005) == 0.0, "there is no room to gather"
    link.receive_buffer, link.filled = 4 << 20, 0.5
    assert take(10, after=0.0005) == 0.0002, "a wait took too much of the room that there is"
    relay.close()
    assert relay.pause == 0.0
    assert counters.forwarded == counters.received == 3 * 21 + 95


def test_what_has_gathered_is_handed_on(kernel: Kernel, run: Run) -> None:
    one = run(**RELAYED)
    for number in range(40):
        link = kernel.receivers["239.1.0.7", 5004 + number % 2 * 2, "left"]
        link.deliver(*[bytes([number])] * 5, origin=origin(9))
        if number % 8 == 0:
            wait_for(lambda count=5 * number + 5: one.worker.counters.forwarded == count, "so far")
    wait_for(lambda: one.worker.counters.forwarded == 200, "all")
    for first, port in enumerate((5004, 5006)):
        in_order = [bytes([number]) for number in range(first, 40, 2) for _ in range(5)]
        assert kernel.sending["239.1.0.7", port, "wg0"].sent == in_order


def test_a_relay_takes_other_settings_over_and_loses_nothing(kernel: Kernel, run: Run) -> None:
    settings: dict[str, object] = {**SETTINGS, "groups": ["239.1.0.7"], "ports": [5004], "engine": "relay"}
    one = run(**settings)
    counters = one.worker.counters
    link = kernel.receivers["239.1.0.7", 5004, "left"]

    def change(**changed: object) -> None:
        before = link.network_changes
        settings.update(changed)
        assert one.worker.update(Bridge.model_validate(settings))
        one.context.send(Signal.NETWORK)
        wait_for(lambda: link.closed or link.network_changes > before, "it is taken over")

    change(rate=8, rewrite={"port": 6000}, ttl_threshold=7)
    assert not link.closed
    link.deliver(b"low", origin=origin(7))
    link.deliver(*[bytes(30_000)] * 3, origin=origin(9))
    wait_for(lambda: counters.dropped == {"ttl": 1, "rate": 1}, "by the new settings")
    assert len(kernel.sending["239.1.0.7", 6000, "right"].sent) == 2
    change(rewrite={"group": "239.9.0.9"}, rate=None)
    link.deliver(b"one", origin=origin(9))
    wait_for(lambda: ("239.9.0.9", 5004, "wg0") in kernel.sending, "it goes elsewhere")
    change(sources=["10.1.0.2"])
    wait_for(lambda: link.closed, "another receiver, for these senders")


@pytest.mark.parametrize("engine", ["auto", "kernel"])
def test_where_the_kernel_cannot_be_had_a_relay_is_taken(kernel: Kernel, run: Run, engine: str) -> None:
    kernel.owned.add(4)
    more: dict[str, object] = {"ports": [5004]} if engine == "auto" else {}
    one = run(groups=["239.1.0.7"], engine=engine, **more)
    if engine == "kernel":
        assert isinstance(one.failure, LinkError)
        return
    reason = "cannot route multicast: address already in use"
    assert one.context.detail == f"from left to right, wg0; relayed, since the kernel does not: {reason}"
    assert not one.context.degraded
    assert one.worker.status().engine_reason == reason
    link = kernel.receivers["239.1.0.7", 5004, "left"]
    kernel.owned.clear()
    one.context.send(Signal.RETRY)
    wait_for(lambda: link.closed, "the kernel takes over")
    kernel.send(3, FOUR, {5, 8})
    assert (one.worker.status().engine, one.worker.status().engine_reason) == ("kernel", "")


def test_interfaces_of_a_relay_come_and_go(kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcastd.bridge.bridge.RETRY_SECONDS", 0.05)
    one = run(**{**RELAYED, "groups": ["239.1.0.7"], "ports": [5004], "from": ["left", "right"]})
    first = kernel.receivers["239.1.0.7", 5004, "left"]
    first.deliver(b"one", origin=origin(9))
    wait_for(lambda: one.worker.counters.forwarded == 1, "one")
    kernel.interfaces[13] = Interface(13, "wg1", FLAGS, 1)
    del kernel.interfaces[8]
    kernel.refused.add("right")
    kernel.interfaces[5] = Interface(6, "right", FLAGS, 1)
    one.context.send(Signal.NETWORK)
    wait_for(lambda: one.context.degraded, "what is refused is told")
    assert one.context.detail.endswith("; relayed; cannot join 239.1.0.7 on right: no buffer space")
    assert not first.closed
    first.deliver(b"two", origin=origin(9))
    wait_for(lambda: ("239.1.0.7", 5004, "wg1") in kernel.sending, "the new one")
    wait_for(lambda: one.worker.counters.forwarded == 2, "both")
    assert kernel.sending["239.1.0.7", 5004, "wg1"].sent == [b"two"]
    kernel.refused.clear()
    wait_for(lambda: not one.context.degraded, "it is tried again")


@pytest.mark.parametrize("lacks", ["a group", "interfaces"])
def test_a_relay_tries_again_however_much_comes(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    monkeypatch.setattr("mcastd.bridge.bridge.RETRY_SECONDS", 0.5)
    one = run(**{**RELAYED, "groups": ["239.1.0.7"], "ports": [5004], "from": ["left", "right"]})
    busy = kernel.receivers["239.1.0.7", 5004, "left"]
    kernel.interfaces[13] = Interface(13, "wg1", FLAGS, 1)
    with meanwhile(lambda: busy.deliver(b"much", origin=origin(9)), 0.01, "sender"):
        wait_for(lambda: one.worker.counters.forwarded, "something comes")
        if lacks == "a group":
            del kernel.receivers["239.1.0.7", 5004, "right"]
            kernel.refused.add("right")
            kernel.interfaces[5] = Interface(6, "right", FLAGS, 1)
            one.context.send(Signal.NETWORK)
            wait_for(lambda: one.context.degraded, "what is refused is told")
            kernel.refused.clear()
            wait_for(lambda: not one.context.degraded, "it is tried again")
            assert ("239.1.0.7", 5004, "right") in kernel.receivers
        else:
            kernel.unasked = 1
            one.context.send(Signal.NETWORK)
            wait_for(lambda: "wg1" in one.context.detail, "the kernel is asked again")
        count = one.worker.counters.forwarded
        wait_for(lambda: one.worker.counters.forwarded > count, "it goes on")


def test_a_relay_that_lacks_much_says_how_much(kernel: Kernel, run: Run) -> None:
    kernel.refused.add("right")
    groups = [f"239.1.0.{number}" for number in range(1, 8)]
    one = run(**{**RELAYED, "groups": groups, "ports": [5004], "from": ["left", "right"]})
    told = [f"cannot join 239.1.0.{number} on right: no buffer space" for number in (1, 2, 3)]
    troubles = (*told, "and 4 more groups and ports")
    assert one.worker.status().troubles == troubles
    assert one.context.detail.endswith("; ".join(("relayed", *troubles)))


def test_what_a_relay_cannot_send_is_counted(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.bridge.relay.RETRY_SECONDS", 0.0)
    one = run(**RELAYED)
    counters = one.worker.counters
    link = kernel.receivers["239.1.0.7", 5004, "left"]

    def deliver(payload: bytes) -> None:
        before = counters.received
        link.deliver(payload, origin=origin(9))
        wait_for(
            lambda: counters.received == before + 1 == counters.forwarded + sum(counters.dropped.values())
        )

    deliver(b"one")
    right, wg0 = (kernel.sending["239.1.0.7", 5004, name] for name in ("right", "wg0"))
    right.errors.append(errno.ENOBUFS)
    deliver(b"two")
    assert (counters.forwarded, counters.dropped, counters.missed) == (2, {}, {"right": 1})
    right.errors.append(errno.ENOBUFS)
    wg0.errors.append(errno.EAGAIN)
    deliver(b"three")
    assert (counters.forwarded, counters.dropped) == (2, {"full": 1})
    assert not one.context.degraded
    right.errors.append(errno.ENETUNREACH)
    deliver(b"four")
    assert (counters.forwarded, counters.missed) == (3, {"right": 2})
    wait_for(lambda: one.context.degraded, "there is no way")
    assert right.closed
    assert wg0.sent == [b"one", b"two", b"four"]
    deliver(b"five")
    wait_for(lambda: not one.context.degraded, "there is another")
    assert kernel.sending["239.1.0.7", 5004, "right"].sent == [b"five"]


def test_what_a_relay_cannot_send_to_one_group_is_told_whatever_goes_to_others(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a firewall, by which the others go on."""
    monkeypatch.setattr("mcastd.bridge.relay.RETRY_SECONDS", 0.0)
    one = run(**RELAYED)
    counters = one.worker.counters

    def deliver(group: str) -> None:
        count = counters.received + 1
        kernel.receivers[group, 5004, "left"].deliver(b"x", origin=origin(9))
        wait_for(lambda: counters.received == count == counters.forwarded, "it goes by one way at least")

    deliver("239.1.0.7")
    deliver("239.1.0.8")
    kernel.sending["239.1.0.8", 5004, "right"].errors.append(errno.EPERM)
    deliver("239.1.0.8")
    wait_for(lambda: one.context.degraded, "it is told")
    for _ in range(3):
        deliver("239.1.0.7")
    one.context.send(Signal.NEWS)
    wait_for(lambda: not one.context.signals, "it is told again")
    assert len(one.worker.status().troubles) == 1
    deliver("239.1.0.8")
    wait_for(lambda: not one.context.degraded, "it goes there, too")


class Filtered(FakeTtlSender):
    """A firewall lets out what is no longer than ``most`` bytes; of what is in one call, all before that."""

    most = 4

    def send(self, payloads: Payloads) -> int:
        sizes = [*payloads.sizes]
        going = next((number for number, size in enumerate(sizes) if size > self.most), len(sizes))
        if not going:
            raise LinkError("cannot send", "operation not permitted", errno=errno.EPERM)
        return super().send(payloads.part(0, going))


class Refusing:
    """A relay by a clock of the test, some of whose ways out cannot be opened."""

    def __init__(self, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self.now = 100.0
        self.refused: dict[str, int] = {}  # errno by group
        self.tried: list[str] = []  # groups
        self._kernel = kernel
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        self.relay = Relay(BridgeCounters(), kernel.open_receiver, self._open)
        self.config = Bridge.model_validate({**SETTINGS, **RELAYED, "ports": [5004], **settings})
        self.follow("right")

    def follow(self, *names: str) -> None:
        """Go to these interfaces."""
        came_by, *others = self._kernel.interfaces.values()
        self.relay.follow(self.config, [came_by], [one for one in others if one.name in names])
        self._streams = self.relay.filenos()

    def _open(self, group: Address, port: int, interface: Interface, ttl: int) -> FakeTtlSender:
        self.tried.append(str(group))
        if number := self.refused.get(str(group)):
            raise LinkError(f"cannot send to {group} on {interface.name}", "refused", errno=number)
        return self._kernel.open_sender(group, port, interface, ttl)

    def take(self, *groups: str, after: float = 0.0) -> list[str]:
        """What is said after a datagram has come to each of these groups."""
        self.now += after
        links = [self._kernel.receivers[group, 5004, "left"] for group in groups]
        for link in links:
            link.deliver(b"x", origin=origin(9))
        self.relay.receive([self._streams[link.fileno()] for link in links])
        return [*self.relay.troubles]

    def take_together(self, *payloads: bytes) -> tuple[int, int, dict[str, int], dict[str, int]]:
        """What is counted once these have come to one group: forwarded, with bytes, dropped and missed."""
        self._kernel.receivers[SEVEN, 5004, "left"].deliver(*payloads, origin=origin(9))
        self.relay.receive([*self._streams.values()])
        counters = self.relay._counters
        found = counters.forwarded, counters.forwarded_bytes, {**counters.dropped}, {**counters.missed}
        counters.forwarded = counters.forwarded_bytes = 0
        counters.dropped.clear()
        counters.missed.clear()
        return found

    def sender(self, group: str, name: str = "right") -> FakeTtlSender:
        return self._kernel.sending[group, 5004, name]


SEVEN, EIGHT = "239.1.0.7", "239.1.0.8"


def said(group: str) -> str:
    return f"cannot send to {group} on right: refused"


def test_what_a_relay_could_not_open_is_tried_again_though_nothing_comes(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Refusing(kernel, monkeypatch)
    assert one.relay.retry_at == math.inf
    one.refused = {SEVEN: errno.EMFILE}
    assert one.take(SEVEN, EIGHT) == [said(SEVEN)]
    assert one.relay.retry_at == 101.0
    assert one.take(SEVEN, EIGHT, after=0.9) == [said(SEVEN)]
    assert one.tried == [SEVEN, EIGHT]
    assert one.take(EIGHT, after=0.1) == [said(SEVEN)]
    assert one.tried == [SEVEN, EIGHT, SEVEN]
    one.refused.clear()
    assert one.take(after=0.9) == [said(SEVEN)]
    assert one.take(after=0.1) == []
    assert (one.tried[3:], one.relay.retry_at) == ([SEVEN], math.inf)
    one.take(SEVEN)
    assert (one.sender(SEVEN).sent, one.sender(SEVEN).ttls) == ([b"x"], [8])
    one.relay.close()


def test_each_way_that_a_relay_is_refused_is_told_until_it_works_itself(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Refusing(kernel, monkeypatch)
    one.refused = {SEVEN: errno.EPERM, EIGHT: errno.ENOMEM}
    assert one.take(SEVEN, EIGHT) == [said(SEVEN), said(EIGHT)]
    del one.refused[EIGHT]
    assert one.take(EIGHT, after=1.0) == [said(SEVEN)]
    one.refused = {EIGHT: errno.ENOMEM}
    one.sender(EIGHT).errors.append(errno.EPERM)
    of_seven, of_eight = one.take(EIGHT, after=0.5)
    assert of_seven == said(SEVEN)
    assert one.take(SEVEN, after=0.5) == [of_eight]
    one.relay.close()


def test_a_way_that_refused_a_datagram_is_told_until_one_goes_or_none_has_come_for_long(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall lets it be opened."""
    one = Refusing(kernel, monkeypatch)
    assert one.take(SEVEN, EIGHT) == []
    one.sender(SEVEN).errors.append(errno.EPERM)
    told = one.take(SEVEN)
    assert len(told) == 1
    assert one.take(after=RETRY_SECONDS) == told
    assert one.tried == [SEVEN, EIGHT, SEVEN], "it is open"
    one.sender(SEVEN).room = 0
    assert one.take(SEVEN) == told, "it is full"
    one.sender(SEVEN).room = None
    one.sender(SEVEN).errors.append(errno.EPERM)
    assert one.take(SEVEN, after=30.0) == told
    assert one.take(EIGHT, after=REFUSED_SECONDS - 1) == told
    assert one.take(EIGHT, after=1.0) == [], "nothing has come to it for long"
    one.sender(SEVEN).errors.append(errno.EPERM)
    assert one.take(SEVEN) == told
    assert one.take(SEVEN, after=1.0) == [], "one went"
    assert one.relay.troubles == ()
    one.relay.close()


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EAGAIN])
def test_that_a_relay_cannot_open_a_way_is_no_full_queue(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """socket(2) of IPv6 says ENOBUFS where it has no memory."""
    one = Refusing(kernel, monkeypatch)
    one.refused = {SEVEN: number}
    for _ in range(3):
        assert one.take(SEVEN, after=0.01) == [said(SEVEN)]
    assert one.tried == [SEVEN], "not with each datagram"
    assert one.relay._counters.dropped == {"refused": 3}
    one.refused.clear()
    assert one.take(SEVEN, after=1.0) == []
    one.relay.close()


def test_few_of_the_ways_that_a_relay_is_refused_are_tried_again_at_a_time(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [f"239.1.{number // 100}.{number % 100}" for number in range(150)]
    one = Refusing(kernel, monkeypatch, groups=groups)
    one.refused = dict.fromkeys(groups, errno.EMFILE)
    assert len(one.take(*groups)) == 150
    one.tried.clear()
    for attempts in (64, 128, 192):
        one.take(after=1.0)
        assert len(one.tried) == attempts
    assert {*one.tried} == {*groups}, "each has its turn"
    one.refused.clear()
    for left in (86, 22, 0):
        assert len(one.take(after=1.0)) == left
    one.relay.close()


def test_a_bridge_that_could_not_open_a_way_is_well_again_though_nothing_comes(
    kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.bridge.relay.RETRY_SECONDS", 0.05)
    one = run(**RELAYED)
    tries = list[str]()

    def open_sender(group: Address, port: int, interface: Interface, ttl: int) -> FakeTtlSender:
        tries.append(str(group))
        if len(tries) <= 7:
            raise LinkError(f"cannot send to {group} on {interface.name}", "too many open files")
        return kernel.open_sender(group, port, interface, ttl)

    monkeypatch.setattr(one.worker._relay, "_open_sender", open_sender)
    for group in (SEVEN, EIGHT):
        kernel.receivers[group, 5004, "left"].deliver(b"x", origin=origin(9))
    wait_for(lambda: len(tries) >= 4 and one.context.degraded, "it is told")
    wait_for(lambda: not one.context.degraded, "it works again")
    assert one.context.detail == "from left to right, wg0; relayed"
    assert (one.worker._until_retry(), one.worker.status().troubles) == (None, ())


def test_a_datagram_that_is_too_long_costs_others_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Refusing(kernel, monkeypatch)
    one.take(SEVEN)
    one.relay._counters.forwarded = one.relay._counters.forwarded_bytes = 0
    sender = one.sender(SEVEN)
    sender.sent.clear()
    sender.largest = 4
    short, long = [b"%d" % number for number in range(5)], b"too long"
    assert one.take_together(*short[:2], long, long, *short[2:4]) == (4, 4, {"refused": 2}, {})
    assert (sender.sent, one.relay.troubles) == (short[:4], ())
    assert one.take_together(long) == (0, 0, {"refused": 1}, {})
    assert len(one.relay.troubles) == 1, "that nothing goes is told"
    assert one.take_together(short[4]) == (1, 1, {}, {})
    assert (sender.sent, sender.closed, one.relay.troubles) == (short, False, ())
    one.relay.close()


def test_what_went_before_a_datagram_that_is_refused_is_forwarded(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.make_sender = Filtered
    one = Refusing(kernel, monkeypatch)
    assert one.take_together(b"1", b"22", b"longer", b"3") == (2, 3, {"refused": 2}, {})
    kernel.receivers[EIGHT, 5004, "left"].deliver(b"longer", origin=origin(9))
    assert one.take_together(b"3") == (0, 0, {"refused": 2}, {}), "it is tried again after a while"
    told = [*one.relay._refused_ways]
    assert len(told) == 2
    one.now += RETRY_SECONDS
    assert one.take_together(b"1", b"longer") == (1, 1, {"refused": 1}, {})
    assert [*one.relay._refused_ways] == told, "in this order: another one would be told as news"
    one.now += RETRY_SECONDS
    assert one.take_together(b"1", b"22") == (2, 3, {}, {})
    assert len(one.relay.troubles) == 1
    one.relay.close()


@pytest.mark.parametrize("better", ["right", "wg0"])
def test_what_is_dropped_has_the_reason_of_the_way_by_which_most_went(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, better: str
) -> None:
    one = Refusing(kernel, monkeypatch)
    one.follow("right", "wg0")
    one.take_together(b"1")
    (worse,) = {"right", "wg0"} - {better}
    one.sender(SEVEN, worse).errors.append(errno.ENETUNREACH)
    one.sender(SEVEN, better).room = 2
    assert one.take_together(b"1", b"22", b"333") == (2, 3, {"full": 1}, {worse: 2})
    one.relay.close()


def test_a_membership_that_is_refused_keeps_no_stream_from_going_over(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Refusing(kernel, monkeypatch)
    one.take(SEVEN)
    one.sender(SEVEN).errors.append(errno.EPERM)
    assert len(one.take(SEVEN)) == 1
    link = kernel.receivers[SEVEN, 5004, "left"]
    link.error = LinkError("cannot join", "no buffer space", errno=errno.ENOBUFS)
    one.follow("wg0")
    assert (one.relay.refused, one.relay.troubles) == (("cannot join: no buffer space",), ())
    assert one.take(SEVEN, after=1.0) == []
    assert one.sender(SEVEN, "wg0").sent == [b"x"]
    one.relay.close()


def test_an_interface_that_has_another_name_is_the_same(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Refusing(kernel, monkeypatch)
    link = kernel.receivers[SEVEN, 5004, "left"]
    kernel.interfaces[3] = replace(kernel.interfaces[3], name="west")
    one.follow("right")
    assert (link.interface, link.network_changes) == ("west", 1)
    one.relay.close()


def test_a_relay_has_one_sender_for_all_ttls(kernel: Kernel, run: Run) -> None:
    """Whoever sends with one TTL and another has it open no sockets."""
    one = run(**RELAYED)
    for ttl in range(2, 100):
        kernel.receivers["239.1.0.7", 5004, "left"].deliver(b"x", origin=origin(ttl))
    wait_for(lambda: one.worker.counters.forwarded == 98, "all")
    assert kernel.senders_opened == 2
    for name in ("right", "wg0"):
        assert kernel.sending["239.1.0.7", 5004, name].ttls == list(range(1, 99))


def test_an_error_of_ours_ends_no_bridge(kernel: Kernel, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcastd.bridge.router.FAILED_SECONDS", 0.01)
    run()
    with monkeypatch.context() as broken:
        broken.setattr(kernel.tables[4], "take", lambda: 1 / 0)
        kernel.tables[4].send(3, *FOUR)
    kernel.send(3, FOUR, {5, 8})
