"""What the status says is what happened: by source, at a full buffer, in silence, and on the way out.

A daemon on a host with one interface, and the network at the other end of the wire::

    net  n0 ---- eth0  host (mcastd)
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import inside, listener, sender, sysctl, taken
from support.meanwhile import meanwhile
from support.wait import wait_for

PORT = 9274
F_SETPIPE_SZ = 1031
GROUP, GROUP6 = "239.73.0.1", "ff15::73:1"
OWN, NET, NET_TOO = "10.73.0.1", "10.73.0.2", "10.73.0.3"
OWN6, NET6, NET6_TOO = "fd73::1", "fd73::2", "fd73::3"


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def one_wire(stack: ExitStack) -> tuple[Host, Host]:
    host, net = stack.enter_context(Host()), stack.enter_context(Host())
    connect(host, "eth0", net, "n0")
    for end, interface, addresses in (
        (host, "eth0", (OWN, OWN6)),
        (net, "n0", (NET, NET_TOO, NET6, NET6_TOO)),
    ):
        sysctl(end, ipv4__conf__all__rp_filter=0, **{f"ipv4__conf__{interface}__rp_filter": 0})
        for address in addresses:
            width = "24" if ip_address(address).version == 4 else "64 nodad"
            end.ip(f"addr add {address}/{width} dev {interface}")
    return host, net


def inbound(directory: Path, more: str = "", group: str = GROUP, interface: str = "eth0") -> str:
    output = f'output = {{ kind = "file", path = "{directory}/news.log", format = "lines" }}'
    where = f'group = "{group}"\nport = {PORT}\ninterface = "{interface}"'
    return f"[inbound.news]\n{where}\n{more}\n{output}\n"


def outbound(source: Path, more: str) -> str:
    where = f'group = "{GROUP}"\nport = {PORT}\ninterface = "eth0"'
    return f'[outbound.news]\n{where}\nsource = "{source}"\n{more}\n'


def status(daemon: RunningDaemon, name: str = "inbound/news") -> dict[str, Any]:
    found: dict[str, Any] = daemon.worker(name)["status"]
    return found


def counters(daemon: RunningDaemon, name: str = "inbound/news") -> dict[str, Any]:
    found: dict[str, Any] = status(daemon, name)["counters"]
    return found


def stopped(daemon: RunningDaemon) -> None:
    """Stop the process, and return once it stands still."""
    daemon.send(signal.SIGSTOP)

    def still() -> bool:
        tasks = Path(f"/proc/{daemon.process.pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    wait_for(still, "the process stands still")


def frame(source: str, payload: bytes) -> bytes:
    """An Ethernet frame to the group from any source, with no UDP checksum, as RFC 768 allows."""
    group = IPv4Address(GROUP).packed
    udp = struct.pack("!HHHH", 40_000, PORT, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 1, 17, 0, IPv4Address(source).packed, group
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", total ^ 0xFFFF) + head[12:]
    mac = b"\x01\x00\x5e" + bytes([group[1] & 0x7F]) + group[2:]  # RFC 1112 section 6.4
    return mac + b"\x02\0\0\0\0\x73" + b"\x08\0" + head + udp


def test_sources_are_counted_in_bounded_memory_and_a_heavy_one_stays(
    stack: ExitStack, tmp_path: Path
) -> None:
    """5,000 sources of one datagram each, one of every second datagram, and one that comes late."""
    host, net = one_wire(stack)
    with inside(net):
        raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        raw.bind(("n0", 0))
    heavy, late = "10.90.0.1", "10.90.0.2"
    rare = [f"10.80.{number >> 8}.{number & 255}" for number in range(5000)]
    sources = [source for one in rare[:4000] for source in (one, heavy)]
    sources += [source for one in rare[4000:] for source in (one, heavy, late)]
    with RunningDaemon(tmp_path, inbound(tmp_path), enter=host.enter(())) as daemon:
        assert status(daemon)["by_source"] == {"top": {}, "rest": 0}
        # First two, so that it knows of several senders: of a single one, a sample of each batch is named.
        # Then not more at once than what waits for a processor may be.
        for start, end in itertools.pairwise([0, 2, *range(500, len(sources), 500), len(sources)]):
            chunk = sources[start:end]
            for source in chunk:
                raw.send(frame(source, b"x"))
            wait_for(
                lambda start=start, chunk=chunk: counters(daemon)["received"] == start + len(chunk),
                f"{start + len(chunk)} received",
            )

        def all_told() -> dict[str, Any] | None:  # a batch is counted before its sources
            found = status(daemon)
            by_source = found["by_source"]
            return found if sum(by_source["top"].values()) + by_source["rest"] == len(sources) else None

        found = wait_for(all_told, "the sources of all")
        assert found is not None
        assert found["counters"]["received"] == len(sources)
        top = found["by_source"]["top"]
        assert found["counters"]["overflow"] == 0
        assert len(top) <= 32
        exact = Counter(sources)
        assert next(iter(top)) == heavy
        assert top[heavy] == exact[heavy]  # it was never among the rare ones: so its count is exact
        assert 0.9 * exact[late] <= top[late] <= exact[late]
        assert all(top[source] <= exact[source] for source in top)
        assert (found["first_source"], found["last_source"]) == (sources[0], sources[-1])
        assert len(json.dumps(found)) < 20_000


@pytest.mark.parametrize(
    ("group", "first", "second"), [(GROUP, NET, NET_TOO), (GROUP6, NET6, NET6_TOO)], ids=["ipv4", "ipv6"]
)
def test_first_and_last_source(stack: ExitStack, tmp_path: Path, group: str, first: str, second: str) -> None:
    host, net = one_wire(stack)
    one, other = (stack.enter_context(sender(net, "n0", source)) for source in (first, second))
    with RunningDaemon(tmp_path, inbound(tmp_path, group=group), enter=host.enter(())) as daemon:
        before = status(daemon)
        assert not before["first_source"]
        assert not before["last_source"]
        assert before["last_datagram_age"] is None
        for count, link in enumerate([one, one, other], 1):
            link.sendto(b"12345", (group, PORT))
            wait_for(lambda count=count: counters(daemon)["received"] == count)
        by_source = {"top": {first: 2, second: 1}, "rest": 0}  # counted after the batch
        wait_for(lambda: status(daemon)["by_source"] == by_source, "the sources of all")
        found = status(daemon)
        assert (found["first_source"], found["last_source"]) == (first, second)
        assert found["counters"]["received_bytes"] == 15
        assert 0 <= found["last_datagram_age"] < 60
        one.sendto(b"", (group, PORT))  # an empty datagram is one, too
        wait_for(lambda: status(daemon)["last_source"] == first)
        counts = {
            "received": 4,
            "received_bytes": 15,
            "truncated": 0,
            "overflow": 0,
            "held": 0,
            "dropped": {},
        }
        assert counters(daemon) == counts


@pytest.mark.parametrize("interface", ["eth0", "all"])
def test_overflow_is_exact_at_the_end_of_a_burst(stack: ExitStack, tmp_path: Path, interface: str) -> None:
    """A burst meets a process that stands still: what its buffer does not hold is counted, at once."""
    host, net = one_wire(stack)
    link = stack.enter_context(sender(net, "n0", NET))
    config = inbound(tmp_path, 'receive_buffer = "64KiB"', interface=interface)
    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        sent = 0
        for burst in (3000, 2000):
            stopped(daemon)
            for _ in range(burst):
                link.sendto(b"%08d" % sent, (GROUP, PORT))
                sent += 1
            daemon.send(signal.SIGCONT)

            def accounted(sent: int = sent) -> dict[str, Any] | None:
                found = counters(daemon)
                is_whole = found["received_bytes"] == 8 * found["received"]  # these are counted in turn
                return found if is_whole and found["received"] + found["overflow"] == sent else None

            found = wait_for(accounted, "received + overflow == sent, with no datagram after the burst")
            assert found is not None
            assert found["received"] > 0
            assert found["overflow"] > burst / 2
        assert counters(daemon) == found
        wait_for(lambda: len((tmp_path / "news.log").read_bytes().splitlines()) == found["received"])
        assert daemon.stop() == 0
        (totals,) = daemon.events("subscription.closed")
        assert (totals["received"], totals["overflow"]) == (found["received"], found["overflow"])


def test_what_was_queued_when_an_interface_went_away_is_delivered(stack: ExitStack, tmp_path: Path) -> None:
    """It had arrived: so it is neither lost nor forgotten, though another interface remains."""
    host, net = one_wire(stack)
    connect(host, "eth1", net, "n1")
    net.ip("addr add 10.73.1.2/24 dev n1")
    link = stack.enter_context(sender(net, "n1", "10.73.1.2"))
    pipe = tmp_path / "news.pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    stack.callback(os.close, reader)
    output = f'{{ kind = "fifo", path = "{pipe}", when_full = "block", format = "lines", queue = "4KiB" }}'
    where = f'group = "{GROUP}"\nport = {PORT}\ninterface = "all"\noutput = {output}'
    count = 300
    got = b""

    def read() -> bool:
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += os.read(reader, 1 << 20)
        return got.count(b"\n") == count

    with RunningDaemon(tmp_path, f"[inbound.news]\n{where}\n", enter=host.enter(())) as daemon:
        wait_for(lambda: (status(daemon)["link"] or {}).get("interfaces") == ["eth0", "eth1"])
        fcntl.fcntl(reader, F_SETPIPE_SZ, 4096)
        for number in range(count):
            link.sendto(b"%0100d" % number, (GROUP, PORT))
        wait_for(lambda: status(daemon)["outputs"][0]["counters"]["queued"])  # the pipe is full: it waits
        assert counters(daemon)["received"] < count
        host.ip("link del eth1")
        wait_for(lambda: status(daemon)["link"]["interfaces"] == ["eth0"])
        wait_for(read, f"all of {count}")
        assert counters(daemon)["received"] == count
        assert counters(daemon)["overflow"] == 0


FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
sock.bind((sys.argv[1], 0))
sock.connect((sys.argv[2], int(sys.argv[3])))
end = time.monotonic() + 300
while time.monotonic() < end:
    for _ in range(100):
        sock.send(b"flood")
"""


def test_a_flood_on_one_interface_does_not_keep_another_waiting(stack: ExitStack, tmp_path: Path) -> None:
    host, net = one_wire(stack)
    connect(host, "eth1", net, "n1")
    net.ip("addr add 10.73.1.2/24 dev n1")
    link = stack.enter_context(sender(net, "n1", "10.73.1.2"))
    json_lines = f'output = {{ kind = "file", path = "{tmp_path}/news.log", format = "json" }}'
    where = f'group = "{GROUP}"\nport = {PORT}\ninterface = "all"'
    with RunningDaemon(tmp_path, f"[inbound.news]\n{where}\n{json_lines}\n", enter=host.enter(())) as daemon:
        flood = net.python("-c", FLOOD, NET, GROUP, str(PORT))
        wait_for(lambda: counters(daemon)["received"] > 10_000)
        for _ in range(5):
            link.sendto(b"calm", (GROUP, PORT))
        wait_for(lambda: status(daemon)["by_source"]["top"].get("10.73.1.2"), "a datagram of eth1")
        assert flood.poll() is None  # it came amid the flood, not after it
        flood.terminate()


def test_a_silent_subscription_is_stale_until_it_receives_again(stack: ExitStack, tmp_path: Path) -> None:
    host, net = one_wire(stack)
    link = stack.enter_context(sender(net, "n0", NET))
    with RunningDaemon(tmp_path, inbound(tmp_path, 'expect_every = "300ms"'), enter=host.enter(())) as daemon:
        for round_ in (1, 2):  # the first time, nothing has come at all
            wait_for(lambda: status(daemon)["stale"], "stale")
            wait_for(lambda: "stale" in daemon.worker("inbound/news")["detail"], "the worker to say it")
            worker = daemon.worker("inbound/news")
            assert worker["state"] == "active"
            assert len(daemon.wait_events("subscription.silent", round_)) == round_
            if round_ > 1:
                assert worker["status"]["last_datagram_age"] > 0.25
            link.sendto(b"x", (GROUP, PORT))
            wait_for(lambda round_=round_: len(daemon.events("subscription.resumed")) == round_)
        names = [event["event"] for event in daemon.events() if event["event"].startswith("subscription.")]
        assert names[:4] == ["subscription.silent", "subscription.resumed"] * 2
        assert daemon.worker("inbound/news")["restarts"] == 0


@contextmanager
def talking(link: socket.socket) -> Iterator[None]:
    """Meanwhile a datagram is sent every 20 ms, however long somebody waits for the daemon's answer."""
    with meanwhile(lambda: link.sendto(b"x", (GROUP, PORT)), 0.02, "talking"):
        yield


def test_a_subscription_that_hears_enough_is_not_stale(stack: ExitStack, tmp_path: Path) -> None:
    host, net = one_wire(stack)
    link = stack.enter_context(sender(net, "n0", NET))
    more = 'expect_every = "5s"'
    with RunningDaemon(tmp_path, inbound(tmp_path, more), enter=host.enter(())) as daemon:
        with talking(link):
            end = time.monotonic() + 5.5
            while time.monotonic() < end:
                assert status(daemon)["stale"] is False
                time.sleep(0.05)
            assert not daemon.events("subscription.silent")
        daemon.write(inbound(tmp_path, 'expect_every = "50ms"'))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: status(daemon)["stale"])
        assert daemon.worker("inbound/news")["restarts"] == 0


# -- outbound: what the kernel took is what is on the wire


class Wiretap:
    """What comes in by ``n0`` for our port, counted by the firewall before anything can drop it."""

    def __init__(self, net: Host) -> None:
        self._net = net
        self._nft(
            "add table netdev tap; add chain netdev tap in "
            "{ type filter hook ingress device n0 priority 0 ; }; "
            f"add rule netdev tap in udp dport {PORT} counter"
        )

    def _nft(self, command: str) -> str:
        run = subprocess.run(
            self._net.enter(["nft", "-j", command]), check=True, capture_output=True, text=True
        )
        return run.stdout

    def counted(self) -> tuple[int, int]:
        """Datagrams, and bytes of payload."""
        for item in json.loads(self._nft("list table netdev tap"))["nftables"]:
            for expression in item.get("rule", {}).get("expr", ()):
                if counter := expression.get("counter"):
                    return counter["packets"], counter["bytes"] - 28 * counter["packets"]
        raise AssertionError("no counter")


def sent(daemon: RunningDaemon) -> tuple[int, int]:
    found = counters(daemon, "outbound/news")
    return found["sent"], found["sent_bytes"]


def firewall(host: Host, command: str) -> None:
    subprocess.run(host.enter(["nft", command]), check=True, capture_output=True, text=True)


def test_sent_is_what_a_peer_counts(stack: ExitStack, tmp_path: Path) -> None:
    host, net = one_wire(stack)
    tap = Wiretap(net)
    peer = stack.enter_context(listener(net, 4, PORT, ("n0", GROUP)))
    lines = [b"%d %s\n" % (number, b"x" * (number % 1400)) for number in range(2000)]
    source = tmp_path / "news.txt"
    source.write_bytes(b"".join(lines))
    with RunningDaemon(tmp_path, outbound(source, "interval = 0"), enter=host.enter(())) as daemon:
        daemon.wait_state("outbound/news", "finished")
        assert sent(daemon) == (2000, sum(map(len, lines)))
        wait_for(lambda: tap.counted() == sent(daemon), "all of it on the wire")
        assert taken(peer) == lines
        assert not counters(daemon, "outbound/news")["refused"]


@pytest.mark.parametrize(("interval", "times"), [("2ms", 1), ("0ms", 3)])  # 0: in batches, cut anywhere
def test_what_a_firewall_refuses_is_counted_by_errno_and_not_as_sent(
    stack: ExitStack, tmp_path: Path, interval: str, times: int
) -> None:
    host, net = one_wire(stack)
    tap = Wiretap(net)
    source = tmp_path / "news.txt"
    source.write_text("".join(f"line {number}\n" for number in range(100)))
    config = outbound(source, f'interval = "{interval}"\nrepeat = "forever"')

    def refused() -> int:
        return counters(daemon, "outbound/news")["refused"].get("EPERM", 0)

    def sends() -> None:
        before = sent(daemon)[0]
        wait_for(lambda: sent(daemon)[0] > before + 20, "it sends")

    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        for _ in range(times):
            sends()
            before = refused()
            firewall(host, "add table inet t; add chain inet t out { type filter hook output priority 0; }")
            firewall(host, f"add rule inet t out udp dport {PORT} drop")
            worker = daemon.wait_state("outbound/news", "auto-restart")
            assert "firewall" in worker["detail"]
            # How often it tries again is its own affair; that each refusal is counted is not
            wait_for(lambda before=before: refused() > before)
            wait_for(lambda: sent(daemon) == tap.counted(), "all of it on the wire")
            firewall(host, "delete table inet t")
        sends()
        assert set(counters(daemon, "outbound/news")["refused"]) == {"EPERM"}
        assert daemon.ctl("stop-worker", "outbound/news").returncode == 0
        wait_for(lambda: sent(daemon) == tap.counted(), "all of it on the wire")
        assert (
            len(daemon.wait_events("worker.waiting", times)) == times
        )  # once each time, however many attempts


def test_what_an_interface_refuses_as_it_goes_down_is_counted(stack: ExitStack, tmp_path: Path) -> None:
    """At full speed: so the kernel refuses a datagram before anything has told of the interface.

    The kernel takes a few while it closes the interface and drops them silently (noop_qdisc): they count as
    sent, as nobody can tell.
    """
    host, net = one_wire(stack)
    tap = Wiretap(net)
    source = tmp_path / "news.txt"
    source.write_text("".join(f"line {number}\n" for number in range(1000)))
    config = outbound(source, 'interval = 0\nrepeat = "forever"')

    def sends() -> None:
        before = sent(daemon)[0]
        wait_for(lambda: sent(daemon)[0] > before + 1000, "it sends")

    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        refused: dict[str, int] = {}
        for _ in range(20):  # seldom the news of it is faster: then once more
            sends()
            host.ip("link set eth0 down")
            daemon.wait_state("outbound/news", "auto-restart")
            refused = counters(daemon, "outbound/news")["refused"]
            host.ip("link set eth0 up")
            daemon.wait_state("outbound/news", "active")
            if refused:
                break
        assert refused
        assert set(refused) <= {"ENETDOWN", "ENETUNREACH", "ENODEV", "EADDRNOTAVAIL", "EINVAL"}
        sends()
        assert daemon.ctl("stop-worker", "outbound/news").returncode == 0
        # What goes before the news that the carrier is back counts as dropped
        taken = sent(daemon)[0] + counters(daemon, "outbound/news")["dropped"].get("no-carrier", 0)
        print(f"refused: {refused}; taken {taken}, on the wire {tap.counted()}")
        assert 0 <= taken - tap.counted()[0] < 500


def test_what_a_stopped_process_sends_late_is_counted(stack: ExitStack, tmp_path: Path) -> None:
    host, net = one_wire(stack)
    tap = Wiretap(net)
    source = tmp_path / "news.txt"
    source.write_text("".join(f"line {number}\n" for number in range(100)))
    config = outbound(source, 'interval = "10ms"\nrepeat = "forever"')
    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        wait_for(lambda: sent(daemon)[0] >= 10)
        before = counters(daemon, "outbound/news")
        stopped(daemon)
        at_rest = tap.counted()[0]
        time.sleep(0.5)  # what is tested: 50 deadlines pass
        assert tap.counted()[0] == at_rest
        daemon.send(signal.SIGCONT)
        wait_for(lambda: sent(daemon)[0] >= at_rest + 50)
        assert daemon.ctl("stop-worker", "outbound/news").returncode == 0
        after = counters(daemon, "outbound/news")
        assert 40 <= after["late"] - before["late"] <= after["sent"] - before["sent"]
        wait_for(lambda: sent(daemon) == tap.counted(), "all of it on the wire")
