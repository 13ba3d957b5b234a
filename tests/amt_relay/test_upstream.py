"""What a relay joins and takes where groups come from, with memberships and taps in memory."""

from __future__ import annotations

import errno
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any

import pytest

from mcastd.amt_relay.upstream import Upstream
from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.net import _abi
from mcastd.net.fake import FakeJoins
from mcastd.net.interfaces import Host, Interface

G1, G2 = map(ip_address, ("232.1.1.1", "232.1.1.2"))
S1, S2 = map(ip_address, ("203.0.113.1", "203.0.113.2"))


class FakeTap:
    overflow = 0

    def __init__(self, interface: Interface, version: int, _: object, receive_buffer: int) -> None:
        self.interface, self.version, self.receive_buffer = interface, version, receive_buffer
        self.groups: Collection[Address] = ()
        self.closed = False

    def follow(self, groups: Collection[Address]) -> None:
        self.groups = {*groups}

    def set_receive_buffer(self, size: int) -> None:
        self.receive_buffer = size

    def close(self) -> None:
        self.closed = True


class Net:
    def __init__(self) -> None:
        flags = _abi.IFF_UP | _abi.IFF_RUNNING | _abi.IFF_MULTICAST
        self.host = Host({1: Interface(1, "eth1", flags, 1)}, 0.0)
        self.joins = FakeJoins()
        self.taps: list[FakeTap] = []
        self.upstream = Upstream(self.joins, lambda: self.host, self._open)  # type: ignore[arg-type]

    def _open(self, *settings: Any) -> FakeTap:
        self.taps.append(FakeTap(*settings))
        return self.taps[-1]

    def follow(self, wanted: dict[Address, SourceFilter], receive_buffer: int = 100) -> None:
        self.upstream.follow("eth1", wanted, receive_buffer)


@pytest.fixture
def net() -> Net:
    return Net()


def refusal(group: Address) -> LinkError:
    return LinkError(f"cannot join {group} on eth1", "no buffer space available")


def test_what_cannot_be_joined_leaves_what_is_there(net: Net) -> None:
    """One that wants more than can be had costs others nothing."""
    few, many = SourceFilter(False, (S1,)), SourceFilter(False, (S1, S2))
    net.follow({G1: few})
    net.joins.refused[G1] = refusal(G1)
    net.follow({G1: many, G2: ANY_SOURCE})
    (tap,) = net.taps
    assert tap.groups == {G1, G2}
    assert net.upstream.joined == {(1, G1): few, (1, G2): ANY_SOURCE}
    assert [*net.upstream.refused] == [(1, G1)]
    assert "cannot join 232.1.1.1" in net.upstream.troubles[0]
    net.joins.refused.clear()
    net.follow({G1: many, G2: ANY_SOURCE})
    assert net.joins.joined == net.upstream.joined == {(1, G1): many, (1, G2): ANY_SOURCE}
    assert not net.upstream.troubles


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError()])
def test_without_memory_for_packets_it_is_tried_again(
    net: Net, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    with monkeypatch.context() as shortage:
        shortage.setattr("mcastd.net.packet_memory.mmap.mmap", refuse)
        net.follow({G1: ANY_SOURCE})
    (trouble,) = net.upstream.troubles
    assert trouble.startswith("cannot take packets: no memory left; raise MemoryMax=")
    net.follow({G1: ANY_SOURCE})
    assert (net.upstream.troubles, net.taps[0].groups) == ((), {G1})


def test_of_many_groups_that_cannot_be_had_some_are_told() -> None:
    net, groups = Net(), [G1 + number for number in range(3000)]
    net.joins.refused |= {group: refusal(group) for group in groups[1:]}
    net.follow(dict.fromkeys(groups, ANY_SOURCE))
    told = net.upstream.troubles
    assert [one.split(" on ")[0] for one in told[:3]] == [f"cannot join {group}" for group in groups[1:4]]
    assert told[3:] == ("and 2996 more groups",)
    assert len(net.upstream.refused) == 2999
    net.host = Host({}, 0.0)
    net.follow(dict.fromkeys(groups, ANY_SOURCE))
    assert (len(net.upstream.troubles), net.upstream.troubles[-1]) == (4, "and 2997 more groups")


def test_what_is_lost_is_joined_again_and_is_not_taken_meanwhile(net: Net) -> None:
    net.follow({G1: ANY_SOURCE, G2: ANY_SOURCE})
    net.joins.lost[1, G1] = net.joins.refused[G1] = refusal(G1)
    net.follow({G1: ANY_SOURCE, G2: ANY_SOURCE})
    (tap,) = net.taps
    assert tap.groups == {G2}
    assert [*net.upstream.refused] == [(1, G1)]
    net.joins.refused.clear()
    net.follow({G1: ANY_SOURCE, G2: ANY_SOURCE})
    assert tap.groups == {G1, G2}
    assert not net.upstream.refused
    net.follow({})
    assert tap.closed
    assert net.joins.joined == {}


def test_another_receive_buffer_is_that_of_each_tap_at_once(net: Net) -> None:
    net.follow({G1: ANY_SOURCE, ip_address("ff3e::1"): ANY_SOURCE})
    net.follow({G1: ANY_SOURCE, ip_address("ff3e::1"): ANY_SOURCE}, 200)
    assert {tap.version: tap.receive_buffer for tap in net.taps} == {4: 200, 6: 200}
