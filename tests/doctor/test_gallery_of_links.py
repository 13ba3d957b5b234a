"""A link that does not carry what it might, made for real: see test_gallery.py."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from support.gallery import GROUP, PORT, WITH_ROUTING, Case, Lab, show
from support.inside import inside
from support.meanwhile import meanwhile
from support.peer import Talker
from support.wait import wait_for

pytest.importorskip("cryptography")

from mcastd.ip import ANY_SOURCE
from mcastd.keytext import GroupKey
from mcastd.protocols.link_control import GroupWant
from mcastd.protocols.link_messages import PLAIN_KEY, MessageKind
from mcastd.rows import listed
from mcastd.status import LinkStatus
from mcastd.tunnel.link.end import LinkEnd
from mcastd.tunnel.link.step import EndSettings, LinkStep
from mcastd.views import as_kind

KEY, OTHER_KEY = bytes(range(1, 33)), bytes(range(2, 34))
HERE, THERE = ip_address("10.6.1.1"), ip_address("10.6.1.2")
LINK_PORT = 9466
REST = 'key = "DIR/key"\ninterface = "eth0"\nsend = ["239.255.6.0/24"]\n'
CONNECTS = f'[link.office]\nconnect = "{THERE}"\nkeepalive = "1s"\n{REST}'
LISTENS = f'[link.office]\nlisten = "{HERE}"\n{REST}'
Record = Callable[[str, object], None]


class Peer:
    """The other end, by hand: on the second wire, it wants the group that is sent on the first."""

    def __init__(self, *, connects: bool) -> None:
        self._connects = connects
        self._sock: socket.socket
        self._talker: socket.socket
        self.largest = 65_535
        self.is_away = False
        self._lock = threading.Lock()  # of the end, which is for one thread at a time
        self.hello = b""  # the last one that was sent
        self.repeats = b""  # what somebody sends again and again in its place
        self.end = self._new()

    def _new(self, key: bytes = KEY, *, connects: bool | None = None, **settings: Any) -> LinkEnd:
        connects = self._connects if connects is None else connects
        wall_ns = settings.pop("wall_ns", time.time_ns)
        end_settings = EndSettings(connects, **settings)
        end = LinkEnd(key, 77, end_settings, time.monotonic(), wall_ns=wall_ns)
        if connects:
            end.meet((HERE, LINK_PORT))
        self._wants(end, GROUP)
        return end

    def _wants(self, end: LinkEnd, *groups: str) -> None:
        """It is told when there is a session."""
        end.want([GroupWant(ip_network(group), ANY_SOURCE, 0) for group in groups], time.monotonic())

    @contextlib.contextmanager
    def prepared(self, lab: Lab) -> Iterator[None]:
        path = lab.directory / "key"
        path.write_text(GroupKey(KEY).text)
        os.chmod(path, 0o600)
        with ExitStack() as stack:
            stack.enter_context(lab.quiet())
            talker = stack.enter_context(Talker(lab.there, "net0", GROUP, PORT, source="10.6.0.2"))
            self._talker = talker._socket
            self.set_ttl(8)
            stack.enter_context(meanwhile(talker.send, 0.02, "sender"))
            with inside(lab.there):
                self._sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._sock.bind((str(THERE), LINK_PORT))
            self._sock.setblocking(False)
            self.end, self.largest, self.is_away = self._new(), 65_535, False
            stack.enter_context(meanwhile(self._turn, 0.02, "peer"))
            yield

    def _turn(self) -> None:
        with self._lock:
            self._exchange(self.end)

    def _exchange(self, end: LinkEnd) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                message, source = self._sock.recvfrom(65_535)
                if not self.is_away and len(message) <= self.largest:
                    now = time.monotonic()
                    peer = ip_address(source[0]), source[1]
                    self._carry(end.take(listed([message]), peer, now))
        if not self.is_away:
            self._carry(end.tick(time.monotonic()))
        if self.repeats:
            self._sock.sendto(self.repeats, (str(HERE), LINK_PORT))

    def _carry(self, step: LinkStep) -> None:
        for messages, to in step.bursts:
            for message in messages:
                if len(message) <= self.largest:
                    self.hello = message if message[0] == MessageKind.HELLO else self.hello
                    with contextlib.suppress(OSError):
                        self._sock.sendto(message, (str(to[0]), to[1]))

    def set_ttl(self, ttl: int) -> None:
        self._talker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)

    # -- faults

    def replaced(self, wait: Callable[[LinkStatus], object], **settings: Any) -> Any:
        """Another end in its place, which does not take its leave; until that shows in the status."""

        @contextlib.contextmanager
        def fault(lab: Lab) -> Iterator[None]:
            await_status(lab, is_up)
            self.end = self._new(**settings)
            await_status(lab, wait)
            yield
            self.end = self._new()

        return fault

    @contextlib.contextmanager
    def repeated(self, lab: Lab) -> Iterator[None]:
        """Its clock is set back, and somebody sends what it has sent before."""
        await_status(lab, is_up)
        self.repeats, self.end = self.hello, self._new(wall_ns=lambda: 1000)
        await_status(lab, down_for("replayed"))
        yield
        self.repeats, self.end = b"", self._new()

    @contextlib.contextmanager
    def away(self, lab: Lab) -> Iterator[None]:
        await_status(lab, is_up)
        self.is_away = True
        await_status(lab, is_down)
        yield
        self.is_away = False

    @contextlib.contextmanager
    def behind_a_narrow_way(self, lab: Lab) -> Iterator[None]:
        await_status(lab, is_up)
        self.largest, self.end = 1200, self._new()
        await_status(
            lab, lambda status: status.up and status.sizes_tried and (status.message_bytes or 0) <= 1200
        )
        yield
        self.largest, self.end = 65_535, self._new()

    @contextlib.contextmanager
    def with_ttl_one(self, lab: Lab) -> Iterator[None]:
        self.set_ttl(1)
        await_status(lab, lambda status: status.counters.unsent.get("ttl"))
        yield
        self.set_ttl(8)

    @contextlib.contextmanager
    def wanting_more(self, lab: Lab) -> Iterator[None]:
        with self._lock:
            self._wants(self.end, GROUP, "239.77.1.1")
        await_status(lab, lambda status: status.refused_wants == ("239.77.1.1 any",))
        yield
        with self._lock:
            self._wants(self.end, GROUP)


def await_status(lab: Lab, probe: Callable[[LinkStatus], object]) -> None:
    def probed() -> object:
        worker = lab.daemon.worker("link/office")
        return probe(as_kind(LinkStatus, worker["status"]))

    wait_for(probed, "the fault in the status", timeout=240)


def is_up(status: LinkStatus) -> bool:
    return status.up


def is_down(status: LinkStatus) -> bool:
    return not status.up and (status.seconds or 0) > 3.5


def down_for(reason: str) -> Callable[[LinkStatus], bool]:
    return lambda status: is_down(status) and reason in status.ignored_since_up


Show = Callable[[Case], None]


@pytest.fixture
def shown(lab: Callable[[str], Lab], tmp_path: Path, record_property: Record) -> Show:
    return lambda case: show(case, lab, tmp_path, record_property)


def test_another_key_is_named(shown: Show) -> None:
    peer = Peer(connects=True)
    one = Case(
        "link-key",
        "broken",
        LISTENS,
        peer.replaced(down_for("wrong-key"), key=OTHER_KEY),
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="which key is the right one, only a person knows",
    )
    shown(one)


def test_a_clock_that_was_set_back_while_somebody_repeats_what_was_sent_is_named(shown: Show) -> None:
    peer = Peer(connects=True)
    one = Case(
        "link-clock",
        "broken",
        LISTENS,
        peer.repeated,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="it is the peer's clock, or another key for both",
    )
    shown(one)


def test_two_that_connect_are_named(shown: Show) -> None:
    peer = Peer(connects=False)

    @contextlib.contextmanager
    def connects(lab: Lab) -> Iterator[None]:
        await_status(lab, is_up)
        end = peer._new(connects=True)
        end.meet((HERE, as_kind(LinkStatus, lab.daemon.worker("link/office")["status"]).local_port or 0))
        peer.end = end
        await_status(lab, down_for("unexpected"))
        yield
        peer.end = peer._new()

    one = Case(
        "link-both-connect",
        "broken",
        CONNECTS,
        connects,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="which end can be reached, only a person knows",
    )
    shown(one)


@pytest.mark.parametrize(("config", "connects"), [(CONNECTS, False), (LISTENS, True)])
def test_a_peer_that_is_not_there_is_named(config: str, connects: bool, shown: Show) -> None:
    peer = Peer(connects=connects)
    one = Case(
        "link-silent",
        "broken",
        config,
        peer.away,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="it is another host",
    )
    shown(one)


def test_two_that_listen_are_named(shown: Show) -> None:
    peer = Peer(connects=True)
    one = Case(
        "link-silent",
        "broken",
        LISTENS,
        peer.replaced(is_down, connects=False),
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        variant="both-listen",
        by_hand="which end can be reached, only a person knows",
    )
    shown(one)


def test_a_way_that_is_not_there_is_named(shown: Show) -> None:
    peer = Peer(connects=False)

    @contextlib.contextmanager
    def without_a_way(lab: Lab) -> Iterator[None]:
        await_status(lab, is_up)
        lab.worn = True
        lab.here.ip("route del 10.6.1.0/24 dev eth1")
        await_status(lab, lambda status: is_down(status) and status.refusal)
        yield
        lab.here.ip("route add 10.6.1.0/24 dev eth1 src 10.6.1.1")

    one = Case(
        "link-unreachable",
        "broken",
        CONNECTS,
        without_a_way,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="the way is others'",
    )
    shown(one)


def test_a_link_that_leads_back_is_named(shown: Show) -> None:
    peer = Peer(connects=True)

    @contextlib.contextmanager
    def connected_with_itself(lab: Lab) -> Iterator[None]:
        await_status(lab, is_up)
        peer.is_away = True
        lab.reload(f'{LISTENS}[link.mirror]\nconnect = "{HERE}"\ntransit = true\nkey = "DIR/key"\n')
        await_status(lab, down_for("own"))
        yield
        peer.is_away = False

    one = Case(
        "link-loop",
        "broken",
        LISTENS,
        connected_with_itself,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="what it is to lead to, only a person knows",
    )
    shown(one)


def test_a_ttl_that_ends_here_is_named(shown: Show) -> None:
    peer = Peer(connects=False)
    one = Case(
        "link-ttl",
        "broken",
        CONNECTS,
        peer.with_ttl_one,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="the TTL is its sender's",
        hand=lambda _lab, _: peer.set_ttl(8),
    )
    shown(one)


def test_a_rate_that_is_too_low_is_named(shown: Show) -> None:
    peer = Peer(connects=False)

    @contextlib.contextmanager
    def with_more(lab: Lab) -> Iterator[None]:
        with meanwhile(lambda: peer._talker.sendto(bytes(1400), (GROUP, PORT)), 0.005, "more"):
            await_status(lab, lambda status: status.counters.unsent.get("rate"))
            yield

    one = Case(
        "link-rate",
        "warning",
        f'{CONNECTS}rate = "200kbit"\n',
        with_more,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="what the line takes, only a person knows",
    )
    shown(one)


def test_a_narrow_way_is_named(shown: Show) -> None:
    peer = Peer(connects=True)
    one = Case(
        "link-mtu",
        "warning",
        LISTENS,
        peer.behind_a_narrow_way,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="the way is others'",
    )
    shown(one)


def test_what_the_peer_may_not_have_is_named(shown: Show) -> None:
    peer = Peer(connects=False)
    one = Case(
        "link-not-sent",
        "hint",
        CONNECTS,
        peer.wanting_more,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="whether it is to have it, only a person knows",
    )
    shown(one)


def test_a_link_in_clear_is_named(shown: Show) -> None:
    peer = Peer(connects=False)

    @contextlib.contextmanager
    def in_clear(lab: Lab) -> Iterator[None]:
        await_status(lab, is_up)
        peer.end = peer._new(PLAIN_KEY, plain=True)
        lab.reload(CONNECTS.replace('key = "DIR/key"', 'security = "none"'))
        await_status(lab, lambda status: status.up and status.security == "none")
        yield
        peer.end = peer._new()

    one = Case(
        "link-in-clear",
        "hint",
        CONNECTS,
        in_clear,
        worker="link/office",
        prepare=peer.prepared,
        rights=WITH_ROUTING,
        by_hand="where it goes, only a person knows",
    )
    shown(one)
