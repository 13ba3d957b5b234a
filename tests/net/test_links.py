"""Real sockets on the loopback of the tests' own namespace, and on veth pairs."""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from unittest.mock import Mock

import pytest
from support.host import ip
from support.wait import wait_for

from mcastd.config.addresses import parse_interface
from mcastd.errors import CannotAskError, LinkError
from mcastd.ip import MAX_DATAGRAM_BYTES, SourceFilter
from mcastd.net.arenas import pools
from mcastd.net.interfaces import Host, Interface, look
from mcastd.net.legs import ReceivingLegs
from mcastd.net.link import Metadata
from mcastd.net.membership import Memberships
from mcastd.net.payloads import ListPayloads
from mcastd.net.receiver import SocketReceiver
from mcastd.net.routes import route_to
from mcastd.net.sender import SocketSender
from mcastd.net.slots import SLOTS
from mcastd.net.sockets import ReceivingSocket, free_port
from mcastd.net.watch import NetworkWatch
from mcastd.status import SenderDescription

GROUP = ipaddress.ip_address("239.255.7.1")
OTHER = ipaddress.ip_address("239.255.7.2")


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def veth(stack: ExitStack) -> str:
    """An interface ``left`` (10.7.0.1), with ``right`` (10.7.0.2) at the other end, in the same namespace."""
    ip("link add left type veth peer name right")
    stack.callback(ip, "link del left")
    for name, address in (("left", "10.7.0.1/24"), ("right", "10.7.0.2/24")):
        ip(f"addr add {address} dev {name}")
        ip(f"addr add fd07::{address[7]}/64 dev {name} nodad")
        ip(f"link set {name} addrgenmode none up")
        ip(f"addr add fe80::{address[7]}/64 dev {name} nodad")
    return "left"


def receiver(stack: ExitStack, port: int, group: ipaddress.IPv4Address = GROUP, **options) -> SocketReceiver:
    link = SocketReceiver(group, port, **{"interface": "lo", **options})
    stack.callback(link.close)
    return link


def sender(stack: ExitStack, port: int, group: ipaddress.IPv4Address = GROUP, **options) -> SocketSender:
    link = SocketSender(group, port, **{"interface": "lo", "ttl": 0, **options})
    stack.callback(link.close)
    return link


def take(link: SocketReceiver, count: int, timeout: float = 5) -> list[bytes]:
    """``count`` payloads, or fewer if no more come for ``timeout`` seconds."""
    payloads: list[bytes] = []
    poll = select.poll()
    poll.register(link, select.POLLIN)
    while len(payloads) < count and poll.poll(timeout * 1000):
        payloads += [bytes(payload) for payload in link.receive().payloads]
    return payloads


def nothing(link: SocketReceiver) -> bool:
    """Whether nothing has come; call it after something else that was sent later did arrive."""
    return len(link.receive()) == 0


@pytest.mark.parametrize("metadata", [Metadata.ALL, Metadata.ORIGINS, Metadata.NONE])
def test_datagrams_of_every_size_arrive_whole_and_in_order(stack: ExitStack, metadata: Metadata) -> None:
    port = free_port()
    incoming, outgoing = receiver(stack, port, metadata=metadata), sender(stack, port)
    payloads = [b"", b"x", b"\0" * 1472, bytes(range(256)) * 255, b"y" * MAX_DATAGRAM_BYTES, b"end"]
    assert outgoing.send(ListPayloads(payloads)) == len(payloads)
    assert take(incoming, len(payloads)) == payloads


def test_a_batch_is_bounded_and_the_rest_stays_for_the_next(stack: ExitStack) -> None:
    pools.clear()  # one that others have used for large packets takes fewer at first
    port = free_port()
    incoming, outgoing = receiver(stack, port), sender(stack, port)
    payloads = [b"%d" % number + b"x" * (number % 2) for number in range(SLOTS + 10)]  # no two go as segments
    assert outgoing.send(ListPayloads(payloads)) == len(payloads)
    wait_for(lambda: select.select([incoming], [], [], 0)[0])
    assert len(incoming.receive()) == SLOTS
    assert take(incoming, 10) == payloads[SLOTS:]
    assert len(incoming.receive()) == 0


def test_metadata_tell_source_port_interface_ttl_and_kernel_time(stack: ExitStack) -> None:
    port = free_port()
    incoming, outgoing = receiver(stack, port, metadata=Metadata.ALL), sender(stack, port, ttl=7)
    before = look().interfaces[1]
    outgoing.send(ListPayloads([b"x"]))
    wait_for(lambda: select.select([incoming], [], [], 0)[0])
    batch = incoming.receive()
    ((origin,), (time_ns,)) = batch.origins, batch.times
    assert origin.source == outgoing.describe().address == "127.0.0.1"
    assert origin.port > 0
    assert (origin.ifindex, origin.ttl) == (before.index, 7)
    assert time_ns > 1_700_000_000 * 10**9
    incoming.set_metadata(Metadata.ORIGINS)
    outgoing.send(ListPayloads([b"y"]))
    wait_for(lambda: select.select([incoming], [], [], 0)[0])
    batch = incoming.receive()
    assert ([*batch.origins], [*batch.times]) == ([origin], [0])
    incoming.set_metadata(Metadata.NONE)
    outgoing.send(ListPayloads([b"z"]))
    wait_for(lambda: select.select([incoming], [], [], 0)[0])
    batch = incoming.receive()
    assert ([*batch.origins], [*batch.times]) == ([], [])


@pytest.mark.parametrize("group", ["ff15::7", "ff05::7", "ff02::7"])
@pytest.mark.parametrize("interface", ["left", "all"])
def test_ipv6_of_each_scope(stack: ExitStack, veth: str, group: str, interface: str) -> None:
    address, port = ipaddress.ip_address(group), free_port()
    incoming = receiver(stack, port, address, interface=interface, metadata=Metadata.ALL)
    outgoing = sender(stack, port, address, interface=veth, ttl=3)
    outgoing.send(ListPayloads([b"six"]))
    wait_for(lambda: select.select([incoming], [], [], 0)[0])
    batch = incoming.receive()
    assert bytes(batch.payloads[0]) == b"six"
    assert batch.origins[0].ttl == 3
    assert batch.origins[0].ifindex in (socket.if_nametoindex("left"), socket.if_nametoindex("right"))


def test_unicast_to_the_port_is_not_taken_for_the_group(stack: ExitStack, veth: str) -> None:
    port = free_port()
    incoming = receiver(stack, port, ipaddress.ip_address("ff02::7"), interface="all")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"unicast", ("fd07::1", port))
    sender(stack, port, ipaddress.ip_address("ff02::7"), interface=veth).send(ListPayloads([b"group"]))
    assert set(take(incoming, 2, timeout=2)) == {b"group"}


def test_two_groups_on_one_port_are_told_apart_beside_a_wildcard_listener(stack: ExitStack) -> None:
    port = free_port()
    one, other = receiver(stack, port, GROUP), receiver(stack, port, OTHER)
    wild = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    wild.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    wild.bind(("", port))
    sender(stack, port, GROUP).send(ListPayloads([b"one"]))
    sender(stack, port, OTHER).send(ListPayloads([b"other"]))
    assert take(one, 1) == [b"one"]
    assert take(other, 1) == [b"other"]
    assert nothing(one)
    assert nothing(other)


def test_interfaces_are_told_apart(stack: ExitStack, veth: str) -> None:
    port = free_port()
    on_lo, on_right = receiver(stack, port), receiver(stack, port, interface="right")
    sender(stack, port).send(ListPayloads([b"lo"]))
    sender(stack, port, interface="left", ttl=1).send(ListPayloads([b"veth"]))
    assert take(on_lo, 1) == [b"lo"]
    assert nothing(on_lo)
    # rp_filter would drop what comes in by `right` from this host's own address: so look at `left`'s loop
    on_left = receiver(stack, port, interface="10.7.0.1")
    sender(stack, port, interface="10.7.0.1", ttl=1).send(ListPayloads([b"again"]))
    assert take(on_left, 1) == [b"again"]
    on_right.close()


def test_a_source_filter_holds_for_its_own_socket_only(stack: ExitStack) -> None:
    port = free_port()
    ip("addr add 127.0.0.9/8 dev lo")
    stack.callback(ip, "addr del 127.0.0.9/8 dev lo")
    filtered = receiver(stack, port, source_filter=SourceFilter(False, (ipaddress.ip_address("127.0.0.9"),)))
    anyone = receiver(stack, port)
    sender(stack, port).send(ListPayloads([b"from 1"]))
    sender(stack, port, interface="127.0.0.9").send(ListPayloads([b"from 9"]))
    assert take(anyone, 2) == [b"from 1", b"from 9"]
    assert take(filtered, 1) == [b"from 9"]
    assert nothing(filtered)


def test_received_and_overflow_make_up_what_was_sent(stack: ExitStack) -> None:
    port = free_port()
    incoming, outgoing = receiver(stack, port, receive_buffer=20_000), sender(stack, port)
    sent = sum(outgoing.send(ListPayloads([b"z" * 1000])) for _ in range(500))
    assert sent == 500
    received = 0

    def all_known() -> bool:
        nonlocal received
        received += len(take(incoming, sent, timeout=0))
        return received + incoming.load().overflow == sent

    wait_for(all_known, "received + overflow == sent")
    assert 0 < received < sent


def test_loop_off_hides_the_data_from_this_host(stack: ExitStack, veth: str) -> None:
    port = free_port()
    incoming = receiver(stack, port, interface=veth)
    sender(stack, port, interface=veth, loop=False).send(ListPayloads([b"hidden"]))
    sender(stack, port, interface=veth, loop=True).send(ListPayloads([b"seen"]))
    assert take(incoming, 1) == [b"seen"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"interface": "eth7"},
            "cannot use 239.255.7.1 on eth7: no such interface (have: lo); waiting for it",
        ),
        ({"interface": "192.0.2.9"}, "no interface has this address"),
        ({"interface": None}, "the host has no route to the group; set interface ="),
        ({"interface": "all"}, "no interface is up for multicast"),
    ],
)
@pytest.mark.parametrize("link", [SocketReceiver, SocketSender])
def test_a_missing_interface_is_named_with_what_there_is(
    no_fd_leak: None, link: type, options: dict[str, str | None], text: str
) -> None:
    with pytest.raises(LinkError) as caught:
        link(GROUP, free_port(), **options)
    assert text in str(caught.value)
    assert caught.value.errno in (errno.ENODEV, errno.ENETUNREACH)
    assert caught.value.group == str(GROUP)


def test_a_port_held_by_another_program_is_an_error_with_the_way_out(stack: ExitStack) -> None:
    holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    holder.bind(("", 0))
    with pytest.raises(LinkError, match="address already in use; another program has this port"):
        receiver(stack, holder.getsockname()[1])


def test_too_long_a_datagram_is_refused_and_what_went_before_is_counted(stack: ExitStack) -> None:
    outgoing = sender(stack, free_port())
    assert outgoing.send(ListPayloads([b"fits", b"x" * (MAX_DATAGRAM_BYTES + 1), b"later"])) == 1
    with pytest.raises(LinkError) as caught:
        outgoing.send(ListPayloads([b"x" * (MAX_DATAGRAM_BYTES + 1), b"later"]))
    assert caught.value.errno == errno.EMSGSIZE


def test_absent_interface_means_the_route_to_the_group(stack: ExitStack, veth: str) -> None:
    ip("route add 239.0.0.0/8 dev left src 10.7.0.1")
    route = route_to(GROUP)
    assert route is not None
    assert route.ifindex == socket.if_nametoindex("left")
    port = free_port()
    incoming = receiver(stack, port, interface=None)
    outgoing = sender(stack, port, interface=None)
    assert incoming.describe().interfaces == ("left",)
    assert outgoing.describe() == SenderDescription("left", "10.7.0.1")


def test_an_interface_made_anew_is_joined_anew(stack: ExitStack, veth: str) -> None:
    port = free_port()
    incoming = receiver(stack, port, interface="left")
    ip("link del left")
    with pytest.raises(LinkError, match="no such interface"):
        incoming.network_changed()
    ip("link add left type veth peer name right")
    ip("addr add 10.7.0.1/24 dev left")
    ip("link set left up")
    ip("link set right up")
    incoming.network_changed()
    sender(stack, port, interface="left", ttl=1).send(ListPayloads([b"again"]))
    assert take(incoming, 1) == [b"again"]


@pytest.mark.parametrize("group", ["239.255.7.1", "ff15::7"])
def test_an_interface_made_anew_with_its_old_index_is_joined_anew(
    stack: ExitStack, veth: str, group: str
) -> None:
    """The worst case: nothing shows that it is another one, but that the group is not joined on it."""
    address, port, index = ipaddress.ip_address(group), free_port(), socket.if_nametoindex("left")
    incoming = receiver(stack, port, address, interface="left")
    ip("link del left")
    ip(f"link add left index {index} type veth peer name right")
    ip("addr add 10.7.0.1/24 dev left")
    ip("link set left up")
    ip("link set right up")
    ip("addr add fd07::1/64 dev left nodad")
    assert socket.if_nametoindex("left") == index
    incoming.network_changed()
    assert [membership.actual for membership in incoming.memberships()] == ["any"]
    sender(stack, port, address, interface="left", ttl=1).send(ListPayloads([b"again"]))
    assert take(incoming, 1) == [b"again"]
    assert address in look().groups(address.version)[index]


def test_all_follows_interfaces_as_they_come_and_go(stack: ExitStack, veth: str) -> None:
    incoming = receiver(stack, free_port(), interface="all")
    assert incoming.describe().interfaces == (
        "left",
        "right",
    )
    ip("link add late type veth peer name later")
    stack.callback(ip, "link del late")
    ip("link set late up")
    incoming.network_changed()
    assert incoming.describe().interfaces == (
        "late",
        "left",
        "right",
    )
    ip("link set late down")
    incoming.network_changed()
    assert incoming.describe().interfaces == (
        "left",
        "right",
    )


@pytest.mark.parametrize("group", [GROUP, ipaddress.ip_address("ff15::7")], ids=["ipv4", "ipv6"])
def test_interfaces_that_come_and_go_leave_no_sockets_behind(
    stack: ExitStack, veth: str, group: ipaddress.IPv4Address
) -> None:
    port = free_port()
    outgoing = sender(stack, port, group, interface="right", ttl=1)
    incoming = receiver(stack, port, group, interface=("lo", "right"))
    descriptors = len(os.listdir("/proc/self/fd"))
    for unread in (0, 0, 1):
        if unread:
            outgoing.send(ListPayloads([b"kept"]))
            wait_for(lambda: incoming.load().filled > 0)
        ip("link set right name other")
        incoming.network_changed()
        assert len(os.listdir("/proc/self/fd")) == descriptors - 1 + unread
        ip("link set other name right")
        incoming.network_changed()
    assert take(incoming, 1) == [b"kept"]
    assert nothing(incoming)
    assert len(os.listdir("/proc/self/fd")) == descriptors


class Epoll:
    """An epoll that takes so many descriptors, and then has no memory for more."""

    room = 0
    make = select.epoll

    def __init__(self) -> None:
        self._real = self.make()

    def register(self, fd: int, events: int) -> None:
        if not Epoll.room:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        Epoll.room -= 1
        self._real.register(fd, events)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def test_what_cannot_be_polled_leaves_no_socket_and_no_membership(
    stack: ExitStack, veth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "epoll", Epoll)
    memberships, port = Memberships(), free_port()
    options = {"interface": ("left", "right"), "memberships": memberships}
    with pytest.raises(LinkError) as caught:
        receiver(stack, port, **options)
    assert caught.value.errno == errno.ENOMEM
    assert memberships.held == set()
    for room in (1, 2):  # both legs are open when they are to be polled together, or one of them
        Epoll.room = room
        legs = [
            (name, partial(receiver, stack, port, **{**options, "interface": name}))
            for name in ("left", "right")
        ]
        with pytest.raises((LinkError, OSError)):
            ReceivingLegs(legs)
        assert memberships.held == set()
    Epoll.room = 1
    link = receiver(stack, port, **options)
    assert [one.refused is None for one in link.memberships()] == [False, True]
    Epoll.room = 1
    link.network_changed()
    assert (link.trouble, len(memberships.held)) == ("", 2)


def test_a_leg_for_which_there_is_no_descriptor_costs_the_other_nothing(
    stack: ExitStack, veth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, made = free_port(), select.epoll
    legs = ReceivingLegs([(name, partial(receiver, stack, port, interface=name)) for name in ("left", "lo")])
    stack.callback(legs.close)
    legs._legs[1].fail(LinkError("cannot receive", "network is down", errno=errno.ENETDOWN))
    for number in (errno.EMFILE, errno.ENOMEM):
        refusal = OSError(number, os.strerror(number))
        monkeypatch.setattr(select, "epoll", Mock(side_effect=refusal))
        legs.network_changed()
        assert legs.by_leg()[1].trouble.startswith(f"cannot receive {GROUP}: ")
    monkeypatch.setattr(select, "epoll", made)
    legs.network_changed()
    assert [leg.trouble for leg in legs.by_leg()] == ["", ""]


def test_an_error_in_the_midst_leaves_no_socket_and_no_membership(
    stack: ExitStack, veth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memberships = Memberships()

    def fail(self: SocketReceiver, interface: Interface, **_: object) -> ReceivingSocket:
        if interface.name == "right":
            raise MemoryError
        return open_one(self, interface)

    open_one = SocketReceiver._open
    monkeypatch.setattr(SocketReceiver, "_open", fail)
    port = free_port()
    with pytest.raises(MemoryError):
        receiver(stack, port, interface=("left", "right"), memberships=memberships)
    assert memberships.held == set()
    link = receiver(stack, port, interface="lo", memberships=memberships)
    link.set_interface(("left", "right"))
    with pytest.raises(MemoryError):
        link.network_changed()
    link.close()
    assert memberships.held == set()


def test_who_has_what_it_wants_does_not_wait_while_others_join(stack: ExitStack, veth: str) -> None:
    memberships = Memberships()
    incoming = receiver(stack, free_port(), interface="all", memberships=memberships)
    look_again = threading.Thread(target=incoming.network_changed, daemon=True)
    with memberships.lock:
        look_again.start()
        look_again.join(60)
        assert not look_again.is_alive()
        shown = incoming.memberships()
    assert {each.interface: each.actual for each in shown} == {"left": "any", "right": "any"}


def test_a_sender_follows_its_interfaces_address(stack: ExitStack, veth: str) -> None:
    outgoing = sender(stack, free_port(), interface="left", ttl=1)
    ip("addr del 10.7.0.1/24 dev left")
    with pytest.raises(LinkError, match="has no IPv4 address yet; waiting for one"):
        outgoing.network_changed()
    ip("addr add 10.7.0.9/24 dev left")
    outgoing.network_changed()
    assert outgoing.describe() == SenderDescription("left", "10.7.0.9")
    assert outgoing.send(ListPayloads([b"x"])) == 1


def test_the_monitor_tells_of_changes_and_looks_only_then(stack: ExitStack) -> None:
    told: list[bool] = []
    monitor = NetworkWatch(lambda _: told.append(True))
    stack.callback(monitor.close)
    assert {i.name for i in monitor.host().interfaces.values()} == {"lo"}
    assert monitor.host() is monitor.host()
    ip("link add left type veth peer name right")
    stack.callback(ip, "link del left")
    wait_for(lambda: told)
    wait_for(lambda: {i.name for i in monitor.host().interfaces.values()} == {"lo", "left", "right"})


@pytest.mark.parametrize("link", [SocketReceiver, SocketSender])
def test_who_cannot_ask_the_kernel_keeps_what_works(stack: ExitStack, link: type) -> None:
    def host() -> Host:
        if short:
            raise CannotAskError("cannot ask the kernel", "too many open files", errno=errno.EMFILE)
        return look()

    short: list[bool] = []
    port = free_port()
    one = stack.enter_context(closing(link(GROUP, port, interface="lo", host=host)))
    short.append(True)
    one.network_changed()
    incoming = one if link is SocketReceiver else receiver(stack, port)
    outgoing = one if link is SocketSender else sender(stack, port)
    assert outgoing.send(ListPayloads([b"still"])) == 1
    assert take(incoming, 1) == [b"still"]
    with pytest.raises(CannotAskError):
        link(GROUP, port, interface="lo", host=host)


@pytest.mark.parametrize("group", ["239.255.7.1", "ff15::7"])
def test_an_alternative_name_is_a_name(stack: ExitStack, veth: str, group: str) -> None:
    long = "enx001122334455-market-data-a"
    ip(f"link property add dev {veth} altname {long}")
    address, port = ipaddress.ip_address(group), free_port()
    assert parse_interface(long) == long
    incoming = receiver(stack, port, address, interface=long)
    sender(stack, port, address, interface=long, ttl=1).send(ListPayloads([b"by another name"]))
    assert take(incoming, 1) == [b"by another name"]
    assert incoming.describe().interfaces == (veth,)
