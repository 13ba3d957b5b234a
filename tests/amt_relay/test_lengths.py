"""How long packets to gateways may be: as set, or by the first hop to each of them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mcastd.amt_relay.lengths import DEFAULT_MTU, PACKET_MAX_BYTES, TunnelLengths
from mcastd.errors import CannotAskError
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.interfaces import Host, Interface
from mcastd.net.routes import NO_ROUTE, Question, Route, Routes

HERE, ANYCAST = ip_address("198.51.100.1"), ip_address("192.52.193.1")
NEAR, BY_VPN, TOLD, LOCAL, NOWHERE = (ip_address(f"203.0.113.{number}") for number in range(1, 6))


class KnownRoutes(Routes):
    def __init__(self) -> None:
        super().__init__()
        self.ways = {NEAR: Route(2), BY_VPN: Route(3), TOLD: Route(2, mtu=1280), LOCAL: Route(1, local=True)}

    def find(self, question: Question) -> Route:
        return self.ways.get(question.destination, NO_ROUTE)


def interface(index: int, name: str, mtu: int, *addresses: Address) -> Interface:
    return Interface(index, name, _abi.IFF_UP, 1, addresses, mtu=mtu)


class Net:
    def __init__(self) -> None:
        self.vpn_mtu = 1420
        self.refuses = False
        self.lengths = TunnelLengths(self.look)

    def look(self) -> Host:
        if self.refuses:
            raise CannotAskError("cannot ask", "no answer")
        found = (
            interface(1, "lo", 65_536, ANYCAST),
            interface(2, "eth0", 1492, HERE),
            interface(3, "wg0", self.vpn_mtu),
        )
        return Host({one.index: one for one in found}, 0.0, KnownRoutes())


@pytest.fixture
def net() -> Net:
    return Net()


def test_each_gateway_has_the_length_of_its_way(net: Net) -> None:
    """An anycast address is that of no wire, and a gateway may be behind a VPN."""
    assert net.lengths.follow(None, [ANYCAST])
    found = {gateway: net.lengths.to(gateway) for gateway in (NEAR, BY_VPN, TOLD, LOCAL, NOWHERE)}
    assert found == {NEAR: 1492, BY_VPN: 1420, TOLD: 1280, LOCAL: PACKET_MAX_BYTES, NOWHERE: DEFAULT_MTU}
    assert net.lengths.follow(1400, [ANYCAST])
    assert {net.lengths.to(gateway) for gateway in found} == {1400}
    assert net.lengths.least == 1400


def test_only_another_length_is_told(net: Net) -> None:
    assert net.lengths.follow(None, [HERE])
    assert net.lengths.least == 1492
    assert not net.lengths.follow(None, [HERE])
    net.vpn_mtu = 1300
    assert net.lengths.follow(None, [HERE])
    assert net.lengths.to(BY_VPN) == 1300


def test_where_the_kernel_does_not_answer_what_was_known_holds(net: Net) -> None:
    net.lengths.follow(None, [HERE])
    net.refuses = True
    assert not net.lengths.follow(None, [HERE])
    assert (net.lengths.least, net.lengths.to(NEAR)) == (1492, DEFAULT_MTU)
