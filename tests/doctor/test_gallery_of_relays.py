"""An AMT relay whose gateways do not get what they want, made for real: see test_gallery.py."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.gallery import AS_A_SERVICE, GROUP, PORT, WITH_ROUTING, Case, Fault, Lab, show
from support.inside import inside
from support.meanwhile import meanwhile
from support.peer import Talker
from support.wait import wait_for

from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.protocols.icmp import too_big
from mcastd.protocols.internet import UDP, IpPacket, build_ip
from mcastd.status import AmtRelayStatus
from mcastd.tunnel.gateway import Gateway, TunnelMessage, is_data
from mcastd.views import as_kind

CONFIG = """[amt_relay.edge]
listen = "10.6.1.1"
interface = "eth0"
groups = ["239.255.0.0/16"]
"""
SILENT = "239.255.6.78"
Record = Callable[[str, object], None]


class Served:
    """A sender of the group on the first wire, and on the second a gateway that wants it."""

    def __init__(self) -> None:
        self._sock: socket.socket
        self._gateway = Gateway(ip_address("10.6.1.1"))
        self._tunnel: socket.socket
        self._wanted: dict[Address, SourceFilter] = {ip_address(GROUP): ANY_SOURCE}

    @contextlib.contextmanager
    def prepared(self, lab: Lab) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(lab.quiet())
            talker = stack.enter_context(Talker(lab.there, "net0", GROUP, PORT, source="10.6.0.2"))
            self._sock = talker._socket
            self.set_ttl(8)
            stack.enter_context(meanwhile(talker.send, 0.02, "sender"))
            with inside(lab.there):
                self._tunnel = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._tunnel.bind(("10.6.1.2", 0))
            self._tunnel.setblocking(False)
            stack.enter_context(meanwhile(self._serve, 0.02, "gateway"))
            yield

    def _serve(self) -> None:
        now = time.monotonic()
        self._send(self._gateway.want(self._wanted, now))
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                message, peer = self._tunnel.recvfrom(4096)
                if is_data(message):
                    self._gateway.admit(message, (ip_address(peer[0]), peer[1]), now)
                else:
                    self._send(self._gateway.take(message, (ip_address(peer[0]), peer[1]), now))
        self._send(self._gateway.tick(now))

    def _send(self, messages: list[TunnelMessage]) -> None:
        for message, to in messages:
            with contextlib.suppress(OSError):
                self._tunnel.sendto(message, (str(to[0]), to[1]))

    def set_ttl(self, ttl: int) -> None:
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)

    @contextlib.contextmanager
    def with_ttl_one(self, lab: Lab) -> Iterator[None]:
        self.set_ttl(1)
        wait_for(lambda: status(lab).counters.dropped.get("ttl"), "drops")
        yield
        self.set_ttl(8)

    @contextlib.contextmanager
    def with_long_datagrams(self, lab: Lab) -> Iterator[None]:
        with meanwhile(lambda: self._sock.sendto(bytes(1460), (GROUP, PORT)), 0.02, "long"):
            wait_for(lambda: status(lab).counters.missed.get("too-big"), "misses")
            yield

    @contextlib.contextmanager
    def by_a_narrow_path(self, lab: Lab) -> Iterator[None]:
        """A router on the way says that it takes less: what it would say is sent from the other host."""
        port = self._tunnel.getsockname()[1]
        ports = struct.pack("!HHHH", 2268, port, 1400, 0)
        ends = ip_address("10.6.1.1"), ip_address("10.6.1.2")
        message = too_big(build_ip(IpPacket(*ends, UDP, 60, ports + bytes(1392))), 1300)
        assert message is not None
        with inside(lab.there), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            wait_for(lambda: status(lab).tunnels == 1, "the tunnel")
            raw.sendto(message, ("10.6.1.1", 0))
            wait_for(lambda: [one.path_mtu for one in status(lab).gateways] == [1300], "the answer")
        yield

    @contextlib.contextmanager
    def with_another_group(self, lab: Lab) -> Iterator[None]:
        self._wanted = {**self._wanted, ip_address(SILENT): ANY_SOURCE}
        wait_for(lambda: status(lab).silent == (SILENT,), "silence")
        yield


@contextlib.contextmanager
def its_interface_is_down(lab: Lab) -> Iterator[None]:
    lab.here.ip("link set eth1 down")
    wait_for(lambda: any("eth1 is down" in one for one in status(lab).troubles), "the trouble")
    yield
    lab.here.ip("link set eth1 up")
    lab.here.ip("addr replace fe80::1/64 dev eth1 nodad")


@contextlib.contextmanager
def its_address_is_gone(lab: Lab) -> Iterator[None]:
    lab.here.ip("addr del 10.6.1.1/24 dev eth1")
    wait_for(lambda: any("no interface has 10.6.1.1" in one for one in status(lab).troubles), "the trouble")
    yield
    lab.here.ip("addr replace 10.6.1.1/24 dev eth1")


def status(lab: Lab) -> AmtRelayStatus:
    return as_kind(AmtRelayStatus, lab.daemon.worker("amt_relay/edge")["status"])


@pytest.mark.parametrize(
    ("fault", "by_hand"),
    [(its_interface_is_down, ""), (its_address_is_gone, "which interface is to have it")],
)
def test_an_address_that_nobody_can_ask_at_is_named(
    fault: Fault, by_hand: str, lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    one = Case(
        "amt-unheard",
        "broken",
        CONFIG,
        fault,
        worker="amt_relay/edge",
        rights=WITH_ROUTING,
        variant=fault.__name__,
        by_hand=by_hand,
        hand=(lambda lab, _: lab.here.ip("addr replace 10.6.1.1/24 dev eth1")) if by_hand else None,
    )
    show(one, lab, tmp_path, record_property)


def test_a_ttl_that_ends_here_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    served = Served()
    one = Case(
        "amt-ttl",
        "broken",
        CONFIG,
        served.with_ttl_one,
        worker="amt_relay/edge",
        prepare=served.prepared,
        rights=WITH_ROUTING,
        by_hand="the TTL is its sender's",
        hand=lambda _lab, _: served.set_ttl(8),
    )
    show(one, lab, tmp_path, record_property)


def test_what_does_not_fit_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    served = Served()
    one = Case(
        "amt-too-big",
        "warning",
        CONFIG,
        served.with_long_datagrams,
        worker="amt_relay/edge",
        prepare=served.prepared,
        rights=WITH_ROUTING,
        by_hand="the size is its sender's",
    )
    show(one, lab, tmp_path, record_property)


def test_a_path_that_takes_less_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    served = Served()
    one = Case(
        "amt-path",
        "warning",
        CONFIG,
        served.by_a_narrow_path,
        worker="amt_relay/edge",
        prepare=served.prepared,
        rights=WITH_ROUTING,
    )
    show(one, lab, tmp_path, record_property)


def test_what_is_wanted_and_does_not_come_is_named(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    served = Served()
    one = Case(
        "amt-dry",
        "hint",
        CONFIG,
        served.with_another_group,
        worker="amt_relay/edge",
        prepare=served.prepared,
        rights=WITH_ROUTING,
        by_hand="whether it is to be sent, only a person knows",
    )
    show(one, lab, tmp_path, record_property)


class Service:
    """The daemon as a service that somebody starts again."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._starts = 0

    def restart(self, lab: Lab, rights: Sequence[str]) -> None:
        assert lab.daemon.stop() == 0
        self._starts += 1
        directory = lab.directory / f"start-{self._starts}"
        directory.mkdir()
        enter = lab.here.enter(rights)
        lab.daemon = self._stack.enter_context(RunningDaemon(directory, lab.text(CONFIG), enter=enter))

    @contextlib.contextmanager
    def without_drop_in(self, lab: Lab) -> Iterator[None]:
        with self._stack:
            self.restart(lab, AS_A_SERVICE)
            lab.daemon.wait_state("amt_relay/edge", "auto-restart")
            yield

    def with_drop_in(self, lab: Lab, fix: str) -> None:
        assert "CAP_NET_RAW: see the drop-in for AMT relays in mcastd(8)" in fix
        self.restart(lab, WITH_ROUTING)


def test_a_relay_without_its_privilege_says_what_gives_it(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Record
) -> None:
    service = Service()
    one = Case(
        "worker-waiting",
        "broken",
        CONFIG,
        service.without_drop_in,
        worker="amt_relay/edge",
        rights=WITH_ROUTING,
        variant="relay-without-privilege",
        by_hand="the unit of the service is root's",
        hand=service.with_drop_in,
    )
    show(one, lab, tmp_path, record_property)
