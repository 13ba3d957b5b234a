"""Which of hundreds of links a turn of their thread visits: sockets are made up, and turns are by hand."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any

import pytest

pytest.importorskip("cryptography")

from mcastd import clock
from mcastd.bell import Bell
from mcastd.counters import LinkCounters
from mcastd.ip import Address
from mcastd.net.link_socket import SentMessages
from mcastd.protocols.link_control import CarriedStream, GroupWant
from mcastd.rows import listed
from mcastd.tunnel.link import links as links_module
from mcastd.tunnel.link import peer_search
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.links import ANEW_SECONDS, Links
from mcastd.tunnel.link.local import GivenDatagrams, LocalNetwork, NetworkCounts, TakenDatagrams
from mcastd.tunnel.link.plan import LinkPlan
from mcastd.tunnel.link.running import RunningLink
from mcastd.tunnel.link.step import CarriedRun, EndSettings, LinkStep

IDLE = 300
PEER = ip_address("192.0.2.9"), 9466


def done(result: Any) -> Future[Any]:
    found = Future[Any]()
    found.set_result(result)
    return found


class MadeUpSocket:
    """It brings what a test puts there."""

    overflow = 0

    def __init__(self, version: int, address: Address | None = None, port: int = 0) -> None:
        self.version = version
        self.come: list[bytes] = []
        self.sent: list[bytes] = []
        self.sent_to: list[Any] = []
        self._bell = Bell()

    def fileno(self) -> int:
        return self._bell.fileno()

    def bring(self, message: bytes) -> None:
        self.come.append(message)
        self._bell.ring()

    def send(self, messages: Sequence[bytes], to: object) -> SentMessages:
        self.sent += messages
        self.sent_to += [to] * len(messages)
        return SentMessages(len(messages), "", 0, {})

    def receive(self) -> list[Any]:
        self._bell.quiet()
        come, self.come = self.come, []
        return [(PEER, listed(come))] if come else []

    def close(self) -> None:
        self._bell.close()


class StillThread:
    """One that does nothing: the test takes its turns."""

    has_begun, ends = True, False

    def __init__(self, *_: object) -> None: ...

    def begin(self) -> None: ...

    def wake(self) -> None: ...


class QuietNetwork:
    """A network on which nothing happens."""

    deadline = math.inf

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = NetworkCounts()
        self.troubles: tuple[str, ...] = ()
        self.is_closed = False
        self.changes = 0  # that it was told
        self.bell = Bell()

    def filenos(self) -> list[int]:
        return [self.bell.fileno()]

    def tick(self, now: float) -> bool:
        raise AssertionError("it has no deadline")

    def joined(self) -> dict[Any, Any]:
        return {}

    def taken(self) -> Sequence[GroupWant]:
        return ()

    def network_changed(self, now: float) -> None:
        self.changes += 1

    def ask_members(self, wanted: bool, now: float) -> None: ...

    def wanted(self) -> Sequence[GroupWant]:
        return ()

    def follow(self, wants: Iterable[GroupWant], now: float) -> None: ...

    def take(self, now: float) -> Iterator[TakenDatagrams]:
        self.bell.quiet()
        yield from ()

    def give(self, run: object, now: float) -> Any:
        raise AssertionError("nothing comes")

    def close(self) -> None:
        self.is_closed = True
        self.bell.close()


class House:
    """Many links, whose turns and time are the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.visits: Counter[str] = Counter()
        self.networks: list[QuietNetwork] = []
        self.names: dict[str, str] = {}
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        monkeypatch.setattr(peer_search, "LinkSocket", MadeUpSocket)
        monkeypatch.setattr(links_module, "WokenThread", StillThread)
        self.links = Links(self._open, lambda interface: self.names.get(interface, interface))
        self._bell = Bell()
        self.links._watched.watch(self._bell, [self._bell.fileno()])
        for method in ("take", "tick", "want", "send"):
            self._count(monkeypatch, LinkEnd, method, self._name_of)
        self._count(monkeypatch, RunningLink, "tell", lambda link: link.name)

    def _open(self, name: str) -> LocalNetwork:
        self.networks.append(QuietNetwork(name))
        return self.networks[-1]

    def _name_of(self, end: LinkEnd) -> str:
        return next((name for name, link in self.links.running.items() if link.end is end), "ended")

    def _count(
        self, monkeypatch: pytest.MonkeyPatch, of: type, method: str, name_of: Callable[[Any], str]
    ) -> None:
        original = getattr(of, method)

        def counted(one: Any, *arguments: Any, **named: Any) -> Any:
            self.visits[name_of(one)] += 1
            return original(one, *arguments, **named)

        monkeypatch.setattr(of, method, counted)

    def turn(self) -> set[str]:
        """Take turns until nothing is due. Returns the links that were visited."""
        self.visits.clear()
        for _ in range(20):
            self._bell.ring()  # so that no wait lasts
            self.links._turn(self._bell)
            if self.links._deadline > self.now and not self.links._touched_links:
                return {*self.visits}
        raise AssertionError("it does not come to rest")

    def link(self, name: str, **plan: Any) -> None:
        where: dict[str, Any] = {} if "connect" in plan else {"listen": (ip_address("0.0.0.0"), 9466)}
        self.links.enlist(name, LinkPlan(**{"key": bytes(32), **where, **plan}))

    def close(self) -> None:
        for link in self.links.running.values():
            link.close_socket()
        for network in self.networks:
            network.close()
        self._bell.close()

    def socket(self, name: str) -> MadeUpSocket:
        found: Any = self.links.running[name].socket
        assert isinstance(found, MadeUpSocket)
        return found


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    house = House(monkeypatch)
    yield house
    house.close()


def test_a_busy_link_has_no_other_visited(house: House) -> None:
    names = {f"idle-{number}" for number in range(IDLE)}
    for name in names:
        house.link(name)
    house.link("busy")
    assert house.turn() == names | {"busy"}
    house.now += 1.0
    for _ in range(3):
        house.socket("busy").bring(b"no message of a link")
        assert house.turn() == {"busy"}
    assert house.links.running["busy"].end.counts.ignored == {"no-message": 3}
    assert house.turn() == set()


def test_links_that_are_due_are_visited_and_no_others(house: House) -> None:
    """Those that connect say hello again, by and by less often."""
    house.link("listens")
    for number in range(3):
        house.link(f"connects-{number}", connect=(f"192.0.2.{number + 1}", 9466))
    connecting = {f"connects-{number}" for number in range(3)}
    assert house.turn() == connecting | {"listens"}
    hellos = 1
    assert house.links.running["connects-1"].end.sessions.tries == hellos
    for seconds, is_due in ((0.5, False), (0.6, True), (1.0, False), (1.1, True)):
        house.now += seconds
        assert house.turn() == (connecting if is_due else set())
        hellos += is_due
        assert house.links.running["connects-1"].end.sessions.tries == hellos


def test_other_settings_change_a_link_in_place_and_another_way_begins_anew(house: House) -> None:
    house.link("one", interface="lan")
    house.turn()
    link, sock = house.links.running["one"], house.socket("one")
    others: dict[str, Any] = {
        "keepalive_seconds": 3.0,
        "repair_seconds": 0.5,
        "mtu": 1300,
        "rate": 8_000_000,
        "transit": True,
        "key": bytes(range(32)),
        "interface": "dmz",
    }
    for count in range(1, len(others) + 1):
        house.link("one", **{"interface": "lan", **dict([*others.items()][:count])})
        house.turn()
        assert house.links.running["one"] is link
    assert link.socket is sock
    assert link.end.path._largest == 1300 - 28
    assert link.end._datagrams.allow is not None
    assert [network.is_closed for network in house.networks] == [True, False]
    assert house.links.network("dmz") is house.networks[1]
    house.link("one", interface="dmz", listen=(ip_address("0.0.0.0"), 9467))
    house.turn()
    assert house.links.running["one"] is not link


def test_what_a_link_has_held_as_it_ends_is_given_here(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[CarriedRun] = []

    def give(run: CarriedRun, now: float) -> GivenDatagrams:
        given.append(run)
        return GivenDatagrams(len(run.payloads))

    stream = CarriedStream(1, 77, PEER[0], 5000, ip_address("239.1.2.3"), 5004)
    held = CarriedRun(stream, 3, 2, 9, [b"one", b"two"])
    counts = LinkCounters()
    house.links.enlist("one", LinkPlan(bytes(32), interface="lan", listen=PEER), counts)
    house.turn()
    house.networks[0].give = give  # type: ignore[method-assign]
    monkeypatch.setattr(LinkEnd, "close", lambda *_: LinkStep(runs=[held]))
    house.links.dismiss("one")
    house.turn()
    assert given == [held]
    assert counts.forwarded == 2
    assert (house.links.running, house.links.site.links) == ({}, {})


def test_a_network_by_another_name_is_the_same_one(house: House) -> None:
    house.names = {"10.1.1.1": "eth0"}
    for name in ("eth0", "10.1.1.1", "eth0"):
        house.link("one", interface=name)
        house.turn()
    (network,) = house.networks
    assert not network.is_closed


def test_each_address_of_a_peer_has_its_tries(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are bearable: a name server may well say a hundred."""
    addresses = [ip_address(f"192.0.2.{number}") for number in range(1, 100)]
    monkeypatch.setattr(peer_search, "begin", lambda *_: done(addresses))
    house.link("one", connect=("hub.example.net", 9466))
    house.turn()
    sock = house.socket("one")
    for _ in range(3 * peer_search.ADDRESSES_MAX + 1):
        house.now += 1.0
        house.turn()
    tried = [address for address, _ in sock.sent_to]
    each = addresses[: peer_search.ADDRESSES_MAX]
    assert tried[: 2 * len(each)] == [address for address in each for _ in range(peer_search.TRIES_EACH)]
    assert {*tried} == {*each}


@pytest.mark.parametrize(("address", "headers"), [("192.0.2.9", 20 + 8), ("2001:db8::9", 40 + 8)])
def test_no_longer_packet_is_tried_than_mtu_says_by_whichever_ip_version_a_name_means(
    house: House, monkeypatch: pytest.MonkeyPatch, address: str, headers: int
) -> None:
    monkeypatch.setattr(peer_search, "begin", lambda *_: done([ip_address(address)]))
    for mtu in (1400, 1440):  # and by a reload
        house.link("one", connect=("hub.example.net", 9466), mtu=mtu)
        house.turn()
        path = house.links.running["one"].end.path
        assert path.probe(house.now, 0.1) == (mtu - headers, 1)


def test_a_link_that_is_up_is_not_looked_for_elsewhere_while_keys_differ(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer has another key already, or not yet: it answers no hello, and is there all the same."""
    second = ip_address("192.0.2.10")
    asked: list[str] = []

    def asks(_: object, name: str) -> Future[Any]:
        asked.append(name)
        return done([PEER[0], second])

    monkeypatch.setattr(peer_search, "begin", asks)
    peer = LinkEnd(bytes(32), 7, EndSettings(connects=False), house.now, wall_ns=time.time_ns)
    house.link("one", connect=("hub.example.net", 9466))
    house.turn()
    link, sock = house.links.running["one"], house.socket("one")

    def pass_a_second() -> None:
        house.now += 1.0
        house.turn()
        while sock.sent:
            came, sock.sent = sock.sent, []
            step = peer.take(listed(came), PEER, house.now)
            for burst in step.bursts:
                for message in burst.messages:
                    sock.bring(message)
            house.turn()

    pass_a_second()
    assert link.end.is_up
    house.link("one", connect=("hub.example.net", 9466), key=bytes(range(32)), keepalive_seconds=1.0)
    for _ in range(40):
        pass_a_second()
        assert link.end.peer == PEER
        assert link.end.is_up
    assert (link.end.counts.roamed, len(asked)) == (0, 1)
    assert link.end.sessions.tries > peer_search.TRIES_EACH
    peer = LinkEnd(bytes(32), 8, EndSettings(connects=False), house.now, wall_ns=time.time_ns)
    for _ in range(20):  # it has begun anew, and cannot be met by this key
        pass_a_second()
    assert not link.end.is_up
    assert link.end.peer == (second, 9466)


def test_a_link_that_fails_begins_anew_and_the_others_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "bad", "other"):
        house.link(name, interface="lan")
    house.turn()
    before = dict(house.links.running)
    monkeypatch.setattr(before["bad"].end, "take", lambda *_: 1 / 0)
    house.socket("bad").bring(b"whatever")
    house.turn()
    after = house.links.running
    assert after["one"] is before["one"]
    assert after["other"] is before["other"]
    assert after["bad"] is not before["bad"]
    assert after["bad"].crashed
    assert after["bad"].socket is None
    house.now += 1.0
    house.turn()  # all were told what is wanted now
    house.socket("one").bring(b"no message of a link")
    assert house.turn() == {"one"}
    house.now += ANEW_SECONDS
    house.turn()
    assert not after["bad"].crashed
    house.now += 1.0
    house.turn()
    house.socket("bad").bring(b"no message of a link")
    assert house.turn() == {"bad"}


def test_after_a_change_of_the_host_a_peer_is_asked_once_whether_it_is_there(house: House) -> None:
    """However many changes there are, and of however many links nobody is there."""
    peer = LinkEnd(bytes(32), 7, EndSettings(connects=False), house.now, wall_ns=time.time_ns)
    house.link("up", connect=("192.0.2.9", 9466))
    for number in range(IDLE):
        house.link(f"waits-{number}")
    house.turn()
    sock = house.socket("up")

    def answer() -> None:
        while sock.sent:
            came, sock.sent = sock.sent, []
            for burst in peer.take(listed(came), PEER, house.now).bursts:
                for message in burst.messages:
                    sock.bring(message)
            house.turn()

    answer()
    house.now += 5.0
    house.turn()
    answer()
    for _ in range(3):
        for _ in range(20):
            house.links.host_changed()
        assert house.turn() <= {"up"}
    house.links.host_changed()
    assert house.turn() == set()
    house.now += 1.1
    assert house.turn() == {"up"}
    assert len(sock.sent) == 1


def test_a_change_that_hundreds_of_links_tell_is_looked_at_once(house: House) -> None:
    for number in range(IDLE):
        house.link(f"link-{number}", interface="lan")
    house.turn()
    (network,) = house.networks
    for changes in (1, 2):
        for _ in range(IDLE):
            house.links.network_changed()
        house.turn()
        assert network.changes == changes


def test_what_a_network_lacks_is_told_to_its_links(house: House) -> None:
    house.link("one", interface="lan")
    house.link("alone", transit=True)
    house.turn()
    (network,) = house.networks
    network.troubles = ("lan: no such interface",)
    network.bell.ring()
    house.turn()
    told = {name: link.told.troubles for name, link in house.links.running.items() if link.told}
    assert told == {"one": ("lan: no such interface",), "alone": ()}
    house.links.dismiss("one")
    house.turn()
    assert network.is_closed


def test_two_names_of_one_interface_are_one_network(house: House) -> None:
    """A link may have it by its name, and another one by an address of it."""
    house.names = {"10.1.1.1": "eth0", "10.1.1.2": "eth0"}
    for name, interface in (("by-name", "eth0"), ("by-address", "10.1.1.1"), ("by-another", "10.1.1.2")):
        house.link(name, interface=interface)
    house.link("elsewhere", interface="eth1")
    house.turn()
    assert [network.name for network in house.networks] == ["eth0", "eth1"]
    assert house.links.network("10.1.1.1") is house.links.network("eth0") is house.networks[0]
    house.links.dismiss("by-name")
    house.turn()
    assert not house.networks[0].is_closed
    assert house.links.network("eth0") is None
    # One of the addresses is another interface's now
    house.names["10.1.1.2"] = "eth1"
    house.links.network_changed()
    house.turn()
    assert house.links.network("10.1.1.2") is house.networks[1]
    assert house.links.network("10.1.1.1") is house.networks[0]
    # And the other one is nobody's
    del house.names["10.1.1.1"]
    house.links.network_changed()
    house.turn()
    assert house.networks[0].is_closed
    assert [network.name for network in house.networks[2:]] == ["10.1.1.1"]
