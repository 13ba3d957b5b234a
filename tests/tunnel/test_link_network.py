"""An interface as the network here: how much of what peers want is joined, by memberships in memory."""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE
from mcastd.net.fake import FakeJoins, FakeQuerySender
from mcastd.net.interfaces import Host, Interface
from mcastd.protocols import igmp
from mcastd.protocols.internet import IGMP, MEMBERSHIP_TTL, IpPacket, build_ip
from mcastd.protocols.link_control import CarriedStream, GroupWant
from mcastd.protocols.membership import GroupRecord, RecordKind
from mcastd.protocols.packet_rows import PacketRows, rows_of
from mcastd.rows import RowMemory
from mcastd.tunnel.link import interface_network
from mcastd.tunnel.link.interface_network import JOINED_MAX, InterfaceNetwork
from mcastd.tunnel.link.members import InterfaceMembers
from mcastd.tunnel.link.step import CarriedRun

LAN = Interface(7, "lan", 0x1043, 0, (ip_address("10.1.0.5"),))


class NoTap:
    """In place of a socket of packets."""

    overflow = 0

    def __init__(self, *_: object, **__: object) -> None:
        self.groups: Any = ()

    def follow(self, groups: Any) -> None:
        self.groups = groups

    def close(self) -> None:
        pass


def wants(count: int) -> list[GroupWant]:
    groups = (f"239.1.{number // 256}.{number % 256}" for number in range(count))
    return [GroupWant(ip_network(group), ANY_SOURCE, 0) for group in groups]


def test_of_more_groups_than_may_be_joined_the_first_are_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes a descriptor: a peer must not take those that others need."""
    monkeypatch.setattr(interface_network, "PacketTap", NoTap)
    joins = FakeJoins()
    network = InterfaceNetwork("lan", joins, lambda: Host({7: LAN}, 0.0))
    network.follow(wants(JOINED_MAX + 3), 1.0)
    assert [*joins.joined] == [(7, want.groups.network_address) for want in wants(JOINED_MAX)]
    assert network.troubles == (f"lan: peers want 3 groups more than the {JOINED_MAX} that are joined",)
    network.follow(wants(JOINED_MAX)[1:], 2.0)
    assert len(joins.joined) == JOINED_MAX - 1
    assert network.troubles == ()


def test_of_many_groups_that_cannot_be_joined_some_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface_network, "PacketTap", NoTap)
    joins = FakeJoins()
    groups = [want.groups.network_address for want in wants(1000)]
    joins.refused |= {group: LinkError(f"cannot join {group} on lan", "no room") for group in groups[1:]}
    network = InterfaceNetwork("lan", joins, lambda: Host({7: LAN}, 0.0))
    network.follow(wants(1000), 1.0)
    assert [*joins.joined] == [(7, groups[0])]
    told = [one.split(" on ")[0] for one in network.troubles]
    assert told == [*(f"cannot join {group}" for group in groups[1:4]), "and 996 more groups"]


def test_what_is_taken_is_said_once_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and not what there is no tap for: who sends now and sees it said loses nothing."""
    seen: list[int] = []

    class Tap(NoTap):
        def __init__(self, interface: Interface, version: int, *_: object, **__: object) -> None:
            if version == 6:
                raise LinkError("cannot take packets on lan", "no room")
            super().__init__()

        def follow(self, groups: Any) -> None:
            seen.append(len(network.taken()))

    monkeypatch.setattr(interface_network, "PacketTap", Tap)
    there = {7: LAN}
    network = InterfaceNetwork("lan", FakeJoins(), lambda: Host(there, 0.0))
    prefix = GroupWant(ip_network("239.9.0.0/16"), ANY_SOURCE, 2)
    of_6 = GroupWant(ip_network("ff15::/32"), ANY_SOURCE, 1)
    network.follow([prefix, of_6], 1.0)
    assert network.taken() == (prefix,)
    network.follow([*wants(2), of_6], 2.0)
    assert network.taken() == tuple(wants(2))
    assert seen == [0, 1]
    there.clear()
    network.network_changed(3.0)
    assert network.taken() == ()


def test_an_interface_by_which_nothing_comes_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface_network, "PacketTap", NoTap)
    bridge = Interface(8, "br0", 0x1043, 0, kind="bridge")
    there = {7: LAN, 8: bridge}
    network = InterfaceNetwork("lan", FakeJoins(), lambda: Host(there, 0.0))
    for lan, trouble in (
        (LAN, ()),
        (replace(LAN, flags=0x1002), ("lan is down: nothing comes from there",)),
        (replace(LAN, flags=0x1003), ("lan has no carrier: nothing comes from there",)),
        (
            replace(LAN, master=8, port_of="bridge"),
            ('lan is a port of br0, which takes all that arrives there: set interface = "br0"',),
        ),
        (LAN, ()),
    ):
        there[7] = lan
        network.network_changed(1.0)
        assert network.troubles == trouble


def test_members_that_could_not_be_heard_are_asked_anew_once_they_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their answers to the first query are lost."""
    opens = False

    class Tap(NoTap):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__()
            if not opens:
                raise LinkError("cannot take packets on lan", "too many open files")

    queries: list[tuple[int, float]] = []

    class Sender(FakeQuerySender):
        def __init__(self, version: int) -> None:
            super().__init__()
            self.version = version

        def send(self, *_: object) -> None:
            queries.append((self.version, now))

    monkeypatch.setattr(interface_network, "PacketTap", Tap)
    members = functools.partial(InterfaceMembers, open_sender=Sender)
    monkeypatch.setattr(interface_network, "InterfaceMembers", members)
    network = InterfaceNetwork("lan", FakeJoins(), lambda: Host({7: LAN}, 0.0))
    now = 100.0
    network.ask_members(True, now)
    assert [(one.interface, one.version) for one in network.queriers()] == [("lan", 4), ("lan", 6)]
    for now in (100.0, 105.0, 110.0, 115.0):
        opens = now >= 110.0
        network.tick(now)
    for now in (116.0, 118.0):
        network.network_changed(now)
        network.tick(now)
    assert queries == [(4, 100.0), (4, 110.0)], "IPv6 has no address here, and once is enough"
    network.ask_members(False, now)
    assert network.queriers() == ()
    network.close()


def test_a_report_that_is_not_believed_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from another network, without Router Alert: RFC 3376 section 9.2."""
    (message,) = igmp.build_reports([GroupRecord(RecordKind.TO_EXCLUDE, ip_address("239.1.1.1"))], 100)
    near, far = (
        IpPacket(ip_address(source), igmp.ALL_IGMPV3_ROUTERS, IGMP, MEMBERSHIP_TTL, message)
        for source in ("10.1.0.9", "10.2.0.9")
    )
    waiting = [build_ip(far), build_ip(near), build_ip(far)]

    class Tap(NoTap):
        def __init__(self, interface: Interface, version: int, *_: object, **__: object) -> None:
            super().__init__()
            self.version = version

        def receive(self) -> Iterable[PacketRows]:
            if self.version == 6:
                return []
            packets, waiting[:] = [*waiting], []
            memory = RowMemory(memoryview(bytearray(2112 * 20)))
            return rows_of(packets, memory, 2112, 4) if packets else []

    monkeypatch.setattr(interface_network, "PacketTap", Tap)
    lan = replace(LAN, prefix_lengths=(24,))
    network = InterfaceNetwork("lan", FakeJoins(), lambda: Host({7: lan}, 0.0))
    network.ask_members(True, 1.0)
    assert [*network.take(2.0)] == []
    assert network.counts.dropped == {"disbelieved": 2}
    assert [str(want.groups.network_address) for want in network.wanted()] == ["239.1.1.1"]
    network.close()


def test_without_memory_for_packets_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(interface_network, "PacketTap", NoTap)
    network = InterfaceNetwork("lan", FakeJoins(), lambda: Host({7: LAN}, 0.0))
    with monkeypatch.context() as shortage:
        shortage.setattr("mcastd.net.packet_memory.mmap.mmap", refuse)
        network.follow(wants(1), 1.0)
    assert network.troubles[0].startswith("cannot take packets: no memory left")
    assert network.deadline == 1.0 + interface_network.RETRY_SECONDS
    network.tick(network.deadline)
    assert (network.troubles, network.taken()) == ((), tuple(wants(1)))


class Senders:
    """Sends of each call as many as it is told, or refuses it by errno."""

    def __init__(self, *answers: int | str, found_full: bool = False) -> None:
        self.found_full = found_full
        self._answers = [*answers]
        self.calls: list[list[bytes]] = []

    def send(self, source: object, group: object, ttl: int, payloads: Sequence[bytes]) -> int:
        self.calls.append([*payloads])
        answer = self._answers.pop(0)
        if isinstance(answer, str):
            raise LinkError("cannot send", answer, errno=getattr(errno, answer))
        return answer


def test_what_a_full_queue_has_refused_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners on this host have had it."""
    monkeypatch.setattr(interface_network, "PacketTap", NoTap)
    network = InterfaceNetwork("lan", FakeJoins(), lambda: Host({7: LAN}, 0.0))
    network.follow([], 1.0)
    network._senders = senders = Senders(1, found_full=True)
    stream = CarriedStream(7, 1, ip_address("10.9.0.1"), 4711, ip_address("239.1.0.1"), 5004)
    given = network.give(CarriedRun(stream, 0, 8, 5, [b"1", b"2"]), 1.0)
    assert given == (1, "full", "the queue of lan is full")
    assert senders.calls == [[b"1", b"2"]]


@pytest.mark.parametrize(
    ("answers", "given"),
    [
        ((4,), (4, "", "")),
        ((3, 1), (4, "", "")),
        ((3, "ENOBUFS"), (3, "full", "the queue of lan is full")),
        (("EAGAIN",), (0, "full", "the queue of lan is full")),
        ((2, "EPERM"), (2, "refused", "cannot send: EPERM")),
        (("EPERM",), (0, "refused", "cannot send: EPERM")),
    ],
)
def test_why_the_rest_was_not_given_is_known(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[int | str, ...], given: tuple[int, str, str]
) -> None:
    monkeypatch.setattr(interface_network, "PacketTap", NoTap)
    network = InterfaceNetwork("lan", FakeJoins(), lambda: Host({7: LAN}, 0.0))
    network.follow([], 1.0)
    network._senders = senders = Senders(*answers)
    payloads = [b"1", b"2", b"3", b"4"]
    stream = CarriedStream(7, 1, ip_address("10.9.0.1"), 4711, ip_address("239.1.0.1"), 5004)
    assert network.give(CarriedRun(stream, 0, 8, 5, payloads), 1.0) == given
    at = 0
    for call, answer in zip(senders.calls, answers, strict=True):
        assert call == payloads[at:]
        at += answer if isinstance(answer, int) else 0
