"""What becomes of datagrams at the sender's own interface: a full queue, no carrier, another MTU.

One wire, both ends here: `out0` sends, `in0` receives (see net/README.md, "One wire").
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import connect, ip
from support.wait import wait_for

from mcastd import clock, log
from mcastd.config import GroupOutput
from mcastd.errors import LinkError
from mcastd.inbound.sinks import StreamFacts
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.inbound.sinks.group import GroupSink
from mcastd.net.interfaces import look
from mcastd.net.link import ListBatch, Metadata
from mcastd.net.payloads import ListPayloads
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import HeardHere, SocketSender
from mcastd.net.sockets import free_port
from mcastd.net.unicast import UnicastSender

GROUPS = {4: ipaddress.ip_address("239.255.23.1"), 6: ipaddress.ip_address("ff15::23:1")}


@pytest.fixture
def wire() -> Iterator[None]:
    connect(None, "out0", None, "in0")
    try:
        for name, value in (("in0/accept_local", "1"), ("in0/rp_filter", "0"), ("all/rp_filter", "0")):
            Path(f"/proc/sys/net/ipv4/conf/{name}").write_text(value)  # what comes is from this very host
        ip("addr add 10.23.0.1/24 dev out0")
        ip("addr add fd23::1/64 dev out0 nodad")
        wait_for(lambda: look_at("out0").carrier)
        yield
    finally:
        ip("link del out0")


def look_at(name: str) -> object:
    return next(one for one in look().interfaces.values() if one.name == name)


def queue(*settings: str) -> None:
    command = ["tc", "qdisc", "replace", "dev", "out0", "root", *settings]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"no such queue here: {result.stderr}")


def statistics() -> str:
    """What the queue says of itself."""
    command = ["tc", "-s", "qdisc", "show", "dev", "out0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def taken(receiver: SocketReceiver) -> list[bytes]:
    received: list[bytes] = []
    while select.select([receiver], [], [], 0)[0]:
        received += map(bytes, receiver.receive().payloads)
    return received


SIZES = {"gso": (1000, 1000), "sendmmsg": (1000, 1001), "send": (1000, 1000)}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", SIZES)
def test_what_the_queue_has_no_room_for_is_sent_later(
    wire: None, no_fd_leak: None, version: int, way: str
) -> None:
    """The kernel hides it from a UDP sender, unless asked; and receivers on this host had it all the same."""
    queue("tbf", "rate", "8mbit", "burst", "70000", "limit", "70000")
    payloads = [b"%05d".ljust(SIZES[way][number % 2], b"x") % number for number in range(400)]
    port, group = free_port(), GROUPS[version]
    with ExitStack() as stack:
        far, near = (
            SocketReceiver(group, port, interface=name, receive_buffer=8 << 20) for name in ("in0", "out0")
        )
        sender = SocketSender(group, port, interface="out0")
        for one in (far, near, sender):
            stack.callback(one.close)
        sent, full, most = 0, 0, 1 if way == "send" else 40
        while sent < len(payloads):
            try:
                sent += sender.send(ListPayloads(payloads[sent : sent + most]))
            except LinkError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                full += 1
                time.sleep(0.002)  # as a channel does
        assert full > 0
        assert sender.sending == "send", "each by itself, until the queue has had room for a while"
        arrived: list[bytes] = []
        with contextlib.suppress(AssertionError):  # what is missing says more
            wait_for(lambda: arrived.extend(taken(far)) or len(arrived) >= len(payloads), timeout=20)
        missing = [payload[:5] for payload in payloads if payload not in arrived]
        assert (missing, len(arrived)) == ([], len(payloads)), statistics()
        assert sorted(arrived) == payloads  # on several processors the wire may change their order
        here = sorted(taken(near))
        if way == "sendmmsg":  # that does not say why it stopped: one may have been looped twice
            here = list(dict.fromkeys(here))
        assert here == payloads


ROOM_FOR_ONE = "rate", "80kbit", "burst", "1600", "limit", "3200"
ROOM_FOR_SEGMENTS = "rate", "800kbit", "burst", "45000", "limit", "50000"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("is_prepared", [False, True])
def test_what_comes_after_what_was_given_up_is_heard_on_this_host(
    wire: None, no_fd_leak: None, version: int, is_prepared: bool
) -> None:
    """As by a leg that is full, while another has sent the datagram."""
    queue("tbf", *ROOM_FOR_ONE)
    payloads = [b"%05d".ljust(1000, b"z") % number for number in range(60)]
    port, group = free_port(), GROUPS[version]
    with ExitStack() as stack:
        near = SocketReceiver(group, port, interface="out0", receive_buffer=8 << 20)
        sender = SocketSender(group, port, interface="out0")
        for one in (near, sender):
            stack.callback(one.close)
        given_up = 0
        for payload in payloads:
            try:
                if is_prepared and (send := sender.prepare(1000, 1)) is not None:
                    send(payload)
                else:
                    sender.send(ListPayloads([payload]))
            except (OSError, LinkError) as error:
                if error.errno != errno.ENOBUFS:
                    raise
                if isinstance(error, OSError):
                    sender.note_refusal(error, 1000, 1)
                sender.skip(1)
                given_up += 1
            time.sleep(0.01)
        assert 0 < given_up < len(payloads)
        assert taken(near) == payloads


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest"])
@pytest.mark.parametrize(("together", "queued"), [(1, ROOM_FOR_ONE), (40, ROOM_FOR_SEGMENTS)])
def test_what_an_output_sends_after_it_dropped_some_is_heard_on_this_host(
    wire: None, no_fd_leak: None, when_full: str, together: int, queued: Sequence[str]
) -> None:
    queue("tbf", *queued)
    payloads = [b"%05d".ljust(1000, b"z") % number for number in range(60 * together)]
    port = free_port()
    config = GroupOutput(
        group=GROUPS[4], port=port, interface="out0", ttl=3, queue="4 KiB", when_full=when_full
    )
    with ExitStack() as stack:
        far, near = (
            SocketReceiver(GROUPS[4], port, interface=name, receive_buffer=32 << 20)
            for name in ("in0", "out0")
        )
        sink = GroupSink(config, FORMATS["raw"](StreamFacts(str, str)), Account(config, log.get_logger()))
        sink.open()
        for one in (far, near, sink):
            stack.callback(one.close)
        for first in range(0, len(payloads), together):
            sink.write(ListBatch(payloads[first : first + together]))
            time.sleep(0.01)
            if sink.deadline <= clock.monotonic():
                sink.tick(clock.monotonic())
        dropped = sink.counters.dropped["full"]
        assert 0 < dropped < len(payloads)
        wait_for(lambda: sink.counters.queued == 0 or sink.tick(clock.monotonic()), "an empty queue")
        heard, arrived = taken(near), list[bytes]()
        wait_for(lambda: arrived.extend(taken(far)) or len(arrived) == len(payloads) - dropped, "the others")
        assert {*arrived} - {*heard} == set()
        if together == 1:  # what does not go as one piece may be tried once more
            assert len(heard) == len({*heard}), "none of them twice"


ROOM_FOR_SOME = "rate", "1600kbit", "burst", "70000", "limit", "70000"


@pytest.mark.parametrize("version", [4, 6])
def test_another_socket_sends_what_was_looped_to_the_network_alone(
    wire: None, no_fd_leak: None, version: int
) -> None:
    queue("tbf", *ROOM_FOR_SOME)
    payloads = [b"%05d" % number + bytes(995) for number in range(200)]
    port, group, heard = free_port(), GROUPS[version], HeardHere()
    with ExitStack() as stack:
        far, near = (
            SocketReceiver(group, port, interface=name, receive_buffer=8 << 20) for name in ("in0", "out0")
        )
        for one in (far, near):
            stack.callback(one.close)
        sent, sockets = 0, 0
        while sent < len(payloads):
            with contextlib.closing(
                SocketSender(group, port, interface="out0", ttl=1 + sockets % 9, heard=heard)
            ) as sender:
                sockets += 1
                while sent < len(payloads) and sender.sending != "send":
                    with contextlib.suppress(LinkError):
                        sent += sender.send(ListPayloads(payloads[sent : sent + 40]))
                    time.sleep(0.002)
        assert sockets > 2
        arrived: list[bytes] = []
        wait_for(lambda: arrived.extend(taken(far)) or len(arrived) >= len(payloads))
        assert sorted(taken(near)) == sorted(arrived) == payloads


def test_what_one_flow_has_looped_another_loops_too(wire: None, no_fd_leak: None) -> None:
    """Those who hear the other one may not have heard it. Nor has anybody what was not looped."""
    queue("tbf", *ROOM_FOR_SOME)
    ip("addr add 10.23.0.7/24 dev out0")
    piece = [b"%05d" % number + bytes(995) for number in range(40)]
    port, group, heard = free_port(), GROUPS[4], HeardHere()

    def fill(**settings: Any) -> None:
        sender = SocketSender(group, port, heard=heard, **settings)
        with contextlib.closing(sender), contextlib.suppress(LinkError):
            for _ in range(100):
                sender.send(ListPayloads(piece))
            pytest.fail("it is not full")

    with ExitStack() as stack:
        fill(interface="10.23.0.1")
        near = SocketReceiver(group, port, interface="out0", receive_buffer=8 << 20)
        stack.callback(near.close)
        fill(interface="10.23.0.1")
        assert taken(near) == [], "they were, before"
        fill(interface="10.23.0.7")
        assert taken(near)
        fill(interface="10.23.0.7", loop=False)
        fill(interface="10.23.0.7")
        assert taken(near)


@pytest.mark.parametrize("more", ["", "copies = [{ group = '239.255.23.2' }]"], ids=["alone", "with copies"])
def test_a_reload_while_the_queue_is_full_has_nothing_heard_here_twice(
    wire: None, no_fd_leak: None, tmp_path: Path, more: str
) -> None:
    queue("tbf", *ROOM_FOR_SOME)
    ip("route add 239.0.0.0/8 dev out0")
    source, port = tmp_path / "source", free_port()
    payloads = [b"%05d" % number + bytes(995) for number in range(400 if more else 600)]
    source.write_bytes(b"".join(payloads))
    config = (
        f'[outbound.a]\nsource = "{source}"\ngroup = "{GROUPS[4]}"\nport = {port}\ninterface = "out0"\n'
        f'framing = "chunk"\nmax_datagram = 1000\ninterval = 0\n{more}\nttl = '
    )
    with RunningDaemon(tmp_path, f"{config}1") as daemon, ExitStack() as stack:
        groups = [GROUPS[4], GROUPS[4] + 1] if more else [GROUPS[4]]
        receivers = [
            SocketReceiver(group, port, interface="out0", receive_buffer=8 << 20) for group in groups
        ]
        for one in receivers:
            stack.callback(one.close)
        for ttl in range(2, 6):
            wait_for(lambda: daemon.worker("outbound/a")["status"]["counters"]["refused"])
            daemon.write(f"{config}{ttl}")
            daemon.call("Reload")
            assert daemon.worker("outbound/a")["state"] in {"active", "finished"}
        daemon.wait_state("outbound/a", "finished")
        for near in receivers:
            heard = taken(near)
            assert len(heard) - len({*heard}) <= 2, "no more than a short sendmmsg(2) leaves open"
            if not more:  # what one of two drops, since its queue is full, is heard only if it was tried
                assert {*heard} >= {*payloads[-40:]}


def group_output(port: int, ttl: int) -> GroupSink:
    config = GroupOutput(group=GROUPS[4], port=port, interface="out0", ttl=ttl, queue="8 MiB")
    return GroupSink(config, FORMATS["raw"](StreamFacts(str, str)), Account(config, log.get_logger()))


def fill(output: GroupSink, payloads: Sequence[bytes]) -> None:
    """Have it hold some of these, for which the queue has no room."""
    for first in range(0, len(payloads), 40):
        output.write(ListBatch(payloads[first : first + 40]))
    assert output.counters.queued > 0


def test_an_output_that_lost_its_way_sends_others_by_the_next(wire: None, no_fd_leak: None) -> None:
    queue("tbf", *ROOM_FOR_SOME)
    payloads = [b"%05d" % number + bytes(995) for number in range(200)]
    port = free_port()
    with ExitStack() as stack:
        near = SocketReceiver(GROUPS[4], port, interface="out0", receive_buffer=8 << 20)
        stack.callback(near.close)
        output = group_output(port, 2)
        output.open()
        stack.callback(output.close)
        fill(output, payloads)
        output._lose(LinkError("cannot send", "network is down", errno=errno.ENETDOWN))
        output.flush()
        assert output.counters.queued == 0, "what it held is dropped"
        taken(near)
        output._retry_at = 0.0
        output.write(ListBatch(payloads[:5]))
        wait_for(lambda: output.counters.queued == 0 or output.tick(clock.monotonic()), "an empty queue")
        assert sorted(set(taken(near))) == payloads[:5]


@pytest.mark.parametrize("goes_on", [True, False])
def test_another_output_sends_what_was_looped_to_the_network_alone(
    wire: None, no_fd_leak: None, goes_on: bool
) -> None:
    queue("tbf", *ROOM_FOR_SOME)
    payloads = [b"%05d" % number + bytes(995) for number in range(200)]
    port = free_port()
    with ExitStack() as stack:
        near = SocketReceiver(GROUPS[4], port, interface="out0", receive_buffer=8 << 20)
        stack.callback(near.close)
        old, new = group_output(port, 2), group_output(port, 3)
        old.open()
        fill(old, payloads)
        if goes_on:
            new.take_over(old)
        else:
            old.linger(0)  # what it holds is dropped
        old.close()
        new.open()
        stack.callback(new.close)
        new.write(ListBatch(payloads[:5]))
        wait_for(lambda: new.counters.queued == 0 or new.tick(clock.monotonic()), "an empty queue")
        heard = taken(near)
        if goes_on:
            assert sorted(heard) == sorted(payloads + payloads[:5])
        else:
            assert sorted(heard[-5:]) == payloads[:5], "they were heard of the old one: these are others"


@pytest.mark.parametrize("count", [1, 3])
def test_what_was_prepared_and_has_no_room_is_sent_later(wire: None, no_fd_leak: None, count: int) -> None:
    queue("tbf", "rate", "8mbit", "burst", "70000", "limit", "70000")
    payloads = [(b"%05d" % number).ljust(1000, b"y") for number in range(300)]
    port, group = free_port(), GROUPS[4]
    with ExitStack() as stack:
        far, near = (
            SocketReceiver(group, port, interface=name, receive_buffer=8 << 20) for name in ("in0", "out0")
        )
        sender = SocketSender(group, port, interface="out0")
        for one in (far, near, sender):
            stack.callback(one.close)
        sent, refused = 0, 0
        while sent < len(payloads):
            next_ones = payloads[sent : sent + count]
            try:
                if (send := sender.prepare(1000, len(next_ones))) is None:
                    sent += sender.send(ListPayloads(next_ones))
                else:
                    send(b"".join(next_ones))
                    sent += len(next_ones)
            except LinkError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                time.sleep(0.002)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                sender.note_refusal(error, 1000, len(next_ones))
                refused += 1
        assert refused > 0
        arrived: list[bytes] = []
        wait_for(lambda: arrived.extend(taken(far)) or len(arrived) >= len(payloads))
        assert arrived == payloads
        assert taken(near) == payloads, "receivers on this host get no second copy"


@pytest.mark.parametrize("version", [4, 6])
def test_a_queue_that_cuts_segments_up_drops_few_of_them_unseen(
    wire: None, no_fd_leak: None, version: int
) -> None:
    """A piece that is longer than the bucket is cut up, and its kernel says "sent" if one segment found room.

    So until the queue refuses a whole piece, some may be lost; after that, none.
    """
    queue("tbf", "rate", "2mbit", "burst", "5000", "limit", "70000")
    payloads = [b"%05d".ljust(1000, b"x") % number for number in range(600)]
    port, group = free_port(), GROUPS[version]
    with ExitStack() as stack:
        far = SocketReceiver(group, port, interface="in0", receive_buffer=8 << 20)
        sender = SocketSender(group, port, interface="out0")
        for one in (far, sender):
            stack.callback(one.close)
        sent, until_refused = 0, 0
        while sent < len(payloads):
            try:
                sent += sender.send(ListPayloads(payloads[sent : sent + 40]))
            except LinkError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                until_refused = until_refused or sent
                time.sleep(0.002)  # as a channel does
        assert 0 < until_refused < 200
        arrived: list[bytes] = []
        wait_for(lambda: arrived.extend(taken(far)) or arrived[-1:] == payloads[-1:])
        assert arrived[-(len(payloads) - until_refused) :] == payloads[until_refused:]


def test_an_answer_to_an_earlier_datagram_fails_no_later_one(no_fd_leak: None) -> None:
    """ICMP, as only a single host sends it."""
    sender = SocketSender(ipaddress.ip_address("127.0.0.1"), free_port(), interface="lo")
    for _ in range(5):
        assert sender.send(ListPayloads([b"nobody listens"])) == 1
    assert sender.send(ListPayloads([b"many"] * 50)) == 50
    sender.close()


ONE_HOST = {4: ("192.0.2.9", "10.23.0.1", "10.24.0.7"), 6: ("2001:db8::9", "fd23::1", "fd24::7")}


@pytest.fixture(params=[4, 6])
def to_one_host(wire: None, no_fd_leak: None, request: pytest.FixtureRequest) -> Iterator[UnicastSender]:
    """By a route that has another source than one that is less preferred."""
    to, source, other = ONE_HOST[request.param]
    ip("addr add 10.24.0.7/24 dev out0")
    ip("addr add fd24::7/64 dev out0 nodad")
    ip(f"route add {to} dev out0 src {source} metric 200")
    ip(f"route add {to} dev out0 src {other} metric 100")
    with contextlib.closing(UnicastSender(ipaddress.ip_address(to), free_port())) as sender:
        assert sender.send(ListPayloads([b"news"])) == 1
        assert source_of(sender) == other
        yield sender


def source_of(sender: UnicastSender) -> str:
    return str(sender._sock.getsockname()[0])


def test_one_host_is_sent_to_from_the_address_that_the_route_has_by_now(to_one_host: UnicastSender) -> None:
    to, source, other = ONE_HOST[to_one_host.to.version]
    ip(f"route del {to} dev out0 src {other} metric 100")
    assert to_one_host.send(ListPayloads([b"news"])) == 1
    to_one_host._look_at = 0.0  # it is time
    assert to_one_host.send(ListPayloads([b"news"])) == 1
    assert source_of(to_one_host) == source
    ip(f"route del {to} dev out0 src {source} metric 200")
    to_one_host._look_at = 0.0
    with pytest.raises(LinkError, match="unreachable"):
        to_one_host.send(ListPayloads([b"news"]))
    assert source_of(to_one_host) == source, "kept, there is no other"


def test_an_address_that_has_gone_costs_one_host_nothing(to_one_host: UnicastSender) -> None:
    _, source, other = ONE_HOST[to_one_host.to.version]
    ip(f"addr del {other}/{24 if to_one_host.to.version == 4 else 64} dev out0")
    if to_one_host.to.version == 6:  # which sends on, as if it were there
        assert to_one_host.send(ListPayloads([b"news"])) == 1
        to_one_host._look_at = 0.0
    assert to_one_host.send(ListPayloads([b"news"])) == 1
    assert source_of(to_one_host) == source


@pytest.mark.parametrize(
    ("version", "to", "ways"),
    [
        (4, "192.0.2.9", "nexthop via 10.23.0.2 dev out0 nexthop via 10.25.0.2 dev in0"),
        (6, "2001:db8::9", "nexthop via fd23::2 dev out0 nexthop via fd25::2 dev in0"),
    ],
)
def test_of_routes_that_are_as_good_one_host_is_sent_to_by_one(
    wire: None, no_fd_leak: None, version: int, to: str, ways: str
) -> None:
    """The kernel chooses among them by the ports."""
    policy = Path(f"/proc/sys/net/ipv{version}/fib_multipath_hash_policy")
    ip("addr add 10.25.0.1/24 dev in0")
    ip("addr add fd25::1/64 dev in0 nodad")
    ip(f"route add {to} {ways}")
    policy.write_text("1")
    try:
        sources = set()
        for _ in range(12):
            with contextlib.closing(UnicastSender(ipaddress.ip_address(to), free_port())) as sender:
                name = sender._sock.getsockname()
                assert not any(sender._look() for _ in range(12))
                assert sender._sock.getsockname() == name
                sources.add(source_of(sender))
        assert len(sources) == 2
        ip(f"route replace {to} {ways.partition(' nexthop')[0].removeprefix('nexthop ')}")
        with contextlib.closing(UnicastSender(ipaddress.ip_address(to), free_port())) as sender:
            port = sender._sock.getsockname()[1]
            ip(f"route replace {to} {ways.partition(' nexthop')[2]}")
            assert sender._look()
            assert sender._sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
            assert (source_of(sender) in sources, sender._sock.getsockname()[1]) == (True, port)
    finally:
        policy.write_text("0")


def channel(tmp_path: Path, more: str) -> str:
    source = tmp_path / "source"
    source.write_bytes(bytes(1_400_000))
    return (
        f'[outbound.a]\nsource = "{source}"\ngroup = "{GROUPS[4]}"\nport = {free_port()}\n'
        f'interface = "out0"\nframing = "chunk"\nmax_datagram = 1400\nrepeat = "forever"\n{more}\n'
    )


def test_what_goes_to_an_interface_without_carrier_is_not_called_sent(wire: None, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, channel(tmp_path, "interval = 0.01")) as daemon:

        def counters() -> dict[str, object]:
            return dict(daemon.worker("outbound/a")["status"]["counters"])

        def lost() -> int:
            return int(counters()["dropped"].get("no-carrier", 0))

        wait_for(lambda: counters()["sent"])
        assert daemon.ctl("status").returncode == 0
        ip("link set in0 down")
        worker = wait_for(lambda: "carrier" in (w := daemon.worker("outbound/a"))["detail"] and w)
        assert (worker["state"], worker["troubled"]) == ("active", True)
        assert daemon.ctl("status").returncode == 3
        assert worker["detail"].endswith("; out0 has no carrier: what is sent now is lost")
        sent = counters()["sent"]
        before = wait_for(lost)
        wait_for(lambda: lost() > before)
        assert counters()["sent"] == sent
        summary = wait_for(
            lambda: [m["STATUS"] for m in daemon.messages if "no carrier" in m.get("STATUS", "")]
        )
        assert "outbound/a: to" in summary[0]
        [event] = daemon.wait_events("carrier.lost")
        assert (event["worker"], event["interface"]) == ("outbound/a", "out0")
        ip("link set in0 up")
        wait_for(lambda: counters()["sent"] > sent)
        after = lost()
        wait_for(lambda: counters()["sent"] > sent + 10)
        assert lost() == after
        assert "carrier" not in daemon.worker("outbound/a")["detail"]


def test_segments_are_tried_again_when_the_mtu_is_another(wire: None, tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, channel(tmp_path, 'rate = "100Mbit"')) as daemon:

        def sending() -> str:
            return str(daemon.worker("outbound/a")["status"]["link"]["sending"])

        wait_for(lambda: sending() == "gso")
        ip("link set out0 mtu 1300")
        wait_for(lambda: sending() == "sendmmsg", "fragments")
        ip("link set out0 mtu 1500")
        wait_for(lambda: sending() == "gso", "segments")
        ip("route add 239.0.0.0/8 dev out0 mtu 1200")
        wait_for(lambda: sending() == "sendmmsg", "fragments for the route")
        ip("route change 239.0.0.0/8 dev out0")
        wait_for(lambda: sending() == "gso", "segments on the route")


BY_GATEWAY = "224.0.0.0/4 via 10.23.0.254 dev out0"


@pytest.mark.parametrize("interface", ["out0", "10.23.0.1", None])
@pytest.mark.parametrize("late", [False, True], ids=["at first", "later"])
@pytest.mark.parametrize("via", ["10.23.0.254", "inet6 fd23::254"])
def test_all_on_the_link_get_what_the_route_would_send_to_a_gateway_alone(
    wire: None, no_fd_leak: None, interface: str | None, late: bool, via: str
) -> None:
    """The kernel puts it into frames to the gateway's MAC address, which is not that of in0."""
    by_gateway = f"224.0.0.0/4 via {via} dev out0"
    ip(f"neigh add {via.rpartition(' ')[-1]} lladdr 02:00:00:00:00:fe dev out0")
    ip(f"route add {'239.0.0.0/8 dev out0' if late else by_gateway}")
    with ExitStack() as stack:
        port, group = free_port(), GROUPS[4]
        far = SocketReceiver(group, port, interface="in0")
        sender = SocketSender(group, port, interface=interface)
        for one in (far, sender):
            stack.callback(one.close)
        if late:
            ip(f"route add {by_gateway}")
            ip("route del 239.0.0.0/8")
            sender.network_changed()
        payloads = [b"one by one", *[b"%04d" % number for number in range(100)]]
        sent = sender.send(ListPayloads(payloads[:1])) + sender.send(ListPayloads(payloads[1:]))
        assert sent == len(payloads)
        arrived: list[bytes] = []
        wait_for(lambda: arrived.extend(taken(far)) or len(arrived) >= len(payloads))
        assert arrived == payloads


@pytest.mark.parametrize(("arp", "on_link"), [("on", True), ("off", False)])
def test_a_gateway_that_may_be_the_other_end_of_a_tunnel_is_kept(
    wire: None, no_fd_leak: None, arp: str, on_link: bool
) -> None:
    ip(f"link set out0 arp {arp}")
    ip(f"route add {BY_GATEWAY}")
    sender = SocketSender(GROUPS[4], free_port(), interface="out0")
    assert bool(sender._sock.getsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE)) is on_link
    sender.close()


def test_a_channel_follows_a_route_that_gets_a_gateway(wire: None, tmp_path: Path) -> None:
    ip("neigh add 10.23.0.254 lladdr 02:00:00:00:00:fe dev out0")
    config = channel(tmp_path, "interval = 0.01")
    with RunningDaemon(tmp_path, config) as daemon, ExitStack() as stack:
        port = daemon.worker("outbound/a")["status"]["port"]
        far = SocketReceiver(GROUPS[4], port, interface="in0")
        stack.callback(far.close)

        def counted() -> int:
            return int(daemon.worker("outbound/a")["status"]["counters"]["sent"])

        wait_for(lambda: taken(far))
        ip(f"route add {BY_GATEWAY}")
        until = counted() + 50
        wait_for(lambda: taken(far) * 0 or counted() > until)
        wait_for(lambda: taken(far), "what is sent since the route has a gateway")


def test_an_interface_that_is_down_is_to_be_looked_at_and_not_to_be_set(wire: None) -> None:
    ip("link set out0 down")
    with pytest.raises(LinkError) as caught:
        SocketSender(GROUPS[4], free_port(), interface="out0")
    way_out = "see whether out0 is up, and has an address: ip address"
    assert (caught.value.errno, caught.value.way_out) == (errno.ENETUNREACH, way_out)


def test_ipv6_on_loopback_takes_a_route_to_this_host() -> None:
    group = GROUPS[6]
    with pytest.raises(LinkError) as caught:
        SocketSender(group, free_port(), interface="lo", ttl=0)
    way_out = f"ip -6 route add local {group} dev lo"
    assert (caught.value.errno, caught.value.way_out) == (errno.ENETUNREACH, way_out)
    ip(way_out.removeprefix("ip "))
    try:
        with ExitStack() as stack:
            port = free_port()
            receiver = SocketReceiver(group, port, interface="lo")
            stack.callback(receiver.close)
            link = SocketSender(group, port, interface="lo", ttl=0)
            stack.callback(link.close)
            assert link.send(ListPayloads([b"news"])) == 1
            assert wait_for(lambda: taken(receiver)) == [b"news"]
    finally:
        ip(f"-6 route del local {group} dev lo")


@pytest.mark.parametrize("version", [4, 6])
def test_what_leaves_is_known_as_it_is_received(wire: None, no_fd_leak: None, version: int) -> None:
    group, port = GROUPS[version], free_port()
    with (
        contextlib.closing(SocketReceiver(group, port, interface="in0", metadata=Metadata.ALL)) as receiver,
        contextlib.closing(SocketSender(group, port, interface="out0")) as sender,
    ):
        assert sender.send(ListPayloads([b"x"])) == 1
        assert select.select([receiver], [], [], 30)[0]
        (origin,) = receiver.receive().origins
        (flow,) = sender.flows()
        assert flow == (origin.source, origin.port, str(group), port)
