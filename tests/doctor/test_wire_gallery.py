"""Faults between the wire and the socket, and on the wire: each shows only to somebody who watches both.

The network is "two wires" of README.md.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.daemon import MCASTD, RunningDaemon
from support.faults import both, chain, configured, inbound, ip, news, outbound, undone
from support.frames import UdpFrames
from support.gallery import AS_A_SERVICE, GROUP, PORT, WITH_ROUTING, Case, Fault, Lab, left_out, show
from support.inside import inside, listener, sysctl
from support.meanwhile import meanwhile
from support.packets import checksum
from support.programs import program
from support.wait import wait_for

GROUP_MAC, SENDER_MAC = "01005e7f0601", "020000000001"
THEIR_ADDRESS = "10.6.0.2"
RARE = "239.255.6.3"  # a group that nobody talks to
OUT = "239.255.6.9"  # that of channels, see outbound()


# -- faults


def narrow(*settings: str) -> Fault:
    """A queue of eth0 that takes less than the channel sends, and is full."""

    def tc(lab: Lab, *words: str) -> None:
        subprocess.run(lab.here.enter([program("tc"), "qdisc", *words]), check=True, capture_output=True)

    def make(lab: Lab) -> None:
        def refused() -> int:
            counters = lab.daemon.worker("outbound/news")["status"]["counters"]
            return int(counters["refused"].get("ENOBUFS", 0))

        tc(lab, "replace", "dev", "eth0", "root", "tbf", *settings)
        wait_for(lambda: refused() > 5)

    return undone(make, lambda lab: tc(lab, "del", "dev", "eth0", "root"))


@contextlib.contextmanager
def silent(lab: Lab) -> Iterator[None]:
    """Nobody talks."""
    with lab.quiet():
        yield


def frames(*frame: bytes, here: bool = False) -> Fault:
    """Frames made by hand, sent from an end of the first wire every ten milliseconds."""

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        begun = threading.Event()
        with contextlib.ExitStack() as stack:
            with inside(lab.here if here else lab.there):
                raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
                raw.bind(("eth0" if here else "net0", 0))

            def send() -> None:
                for one in frame:
                    raw.send(one)
                begun.set()

            stack.enter_context(meanwhile(send, 0.01, "frames"))
            begun.wait(60)
            yield

    return fault


def ethernet(packet: bytes, *, to: str = GROUP_MAC, vlan: int = 0) -> bytes:
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return bytes.fromhex(to + SENDER_MAC) + tag + b"\x08\x00" + packet


def packet(protocol: int, group: str, body: bytes, *, cut: int = 0, source: str = THEIR_ADDRESS) -> bytes:
    """An IPv4 packet, of the far end if nothing else is said."""
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), 7, cut, 1, protocol)
    rest = ip_address(source).packed + ip_address(group).packed
    return head + checksum(head + rest) + rest + body


def datagram(*, udp_checksum: int = 0) -> bytes:
    return struct.pack("!HHHH", 5000, PORT, 12, udp_checksum) + b"abc\n"


def igmp(body: str) -> bytes:
    raw = bytes.fromhex(body)
    return raw[:2] + checksum(raw) + raw[4:]


def query(source: str) -> bytes:
    """Of an IGMPv3 querier that wants answers within a tenth of a second (RFC 3376 section 4.1)."""
    body = igmp("1101 0000 00000000 0201 0000")
    return ethernet(packet(2, "224.0.0.1", body, source=source), to="01005e000001")


ASKED = frames(query(THEIR_ADDRESS))
ALL_ASKED = both(ASKED, frames(query("10.6.0.1"), here=True))  # so that the far end is asked, too
HELLO = frames(ethernet(packet(103, "224.0.0.13", b"\x20\0\xdf\xff"), to="01005e00000d"))
HALF = frames(ethernet(packet(17, GROUP, struct.pack("!HHHH", 5000, PORT, 1008, 0) + bytes(992), cut=0x2000)))


@contextlib.contextmanager
def crowded_fragments(lab: Lab) -> Iterator[None]:
    """More fragments come of each datagram than this host has room for."""
    sysctl(lab.here, ipv4__ipfrag_low_thresh=5000)
    sysctl(lab.here, ipv4__ipfrag_high_thresh=6000)

    def send() -> None:
        lab.talker._socket.sendto(bytes(20_000), (GROUP, PORT))

    with lab.quiet(), meanwhile(send, 0.02, "large"):
        yield
    sysctl(lab.here, ipv4__ipfrag_high_thresh=4 << 20)
    sysctl(lab.here, ipv4__ipfrag_low_thresh=3 << 20)


@contextlib.contextmanager
def answered(_: Lab) -> Iterator[None]:
    """The host owes no answer any more to what it was asked before."""
    past = time.monotonic() + 3 * 0.1
    wait_for(lambda: time.monotonic() > past)
    yield


@contextlib.contextmanager
def other_receivers(lab: Lab) -> Iterator[None]:
    """Two groups are joined over there; the channel's is left by a file that the fault makes."""
    with (
        closing(listener(lab.there, 4, 9999, ("net0", RARE))),
        closing(listener(lab.there, 4, 9999, ("net0", OUT))) as ear,
    ):
        lab.ear = ear  # type: ignore[attr-defined]
        yield


def leave(lab: Lab) -> None:
    lab.ear.close()  # type: ignore[attr-defined]


def neighbour(port: int, *, shares: bool) -> Fault:
    """Another program on this host that has the port, on all addresses."""
    code = (
        "import socket, sys\n"
        "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, {int(shares)})\n"
        f"sock.bind(('', {port}))\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        command = lab.here.enter([sys.executable, "-c", code])
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield
            process.communicate()

    return fault


def bridge(options: str) -> Fault:
    """A bridge of this host, with a wire that leads nowhere."""
    return ip(
        f"link add br0 type bridge mcast_query_interval 3000 {options}, link add bp0 type veth peer name bp1,"
        "link set bp0 master br0 up, link set bp1 up, link set br0 up, addr add 10.7.0.1/24 dev br0",
        "link del br0, link del bp0",
    )


def rp_filter(mode: int) -> Fault:
    return undone(
        lambda lab: sysctl(lab.here, ipv4__conf__eth0__rp_filter=mode),
        lambda lab: sysctl(lab.here, ipv4__conf__eth0__rp_filter=0),
    )


LONGER = ("--watch", "1s")
CASES = [
    Case("firewall-drop", "broken", inbound(), chain("input", f"udp dport {PORT} counter drop")),
    Case(
        "firewall-drop", "broken", inbound(), chain("input", f"ip daddr {GROUP} drop"), variant="no-counter"
    ),
    Case(
        "firewall-drop", "broken", inbound(), chain("prerouting", f"ip daddr {GROUP} drop"), variant="early"
    ),
    Case("firewall-drop", "broken", inbound(), chain("input", "", policy="drop"), variant="policy"),
    Case(
        "firewall-drop",
        "broken",
        inbound(),
        chain("input", f"udp dport {PORT} drop"),
        rights=WITH_ROUTING,
        never=("dropped-inside",),  # as the daemon says, which sees the wire and not the rules
        variant="beside a bridge",
    ),
    Case(
        "firewall-drop",
        "broken",
        inbound(),
        chain("ingress", f"udp dport {PORT} drop", family="netdev", device="eth0"),
        variant="ingress",
    ),
    Case(
        "firewall-drop",
        "warning",
        inbound(),
        chain("input", f"udp dport {PORT} numgen random mod 2 == 0 drop"),
        arguments=("--watch", "6s"),  # enough to see that not all arrive, of a loaded machine too
        variant="half",
    ),
    Case(
        "firewall-drop",
        "broken",
        inbound(f'group = "{RARE}"'),
        chain("input", f"udp dport {PORT} drop"),
        arguments=("--probe",),
        variant="probe",
    ),
    Case(
        "firewall-drop",
        "broken",
        outbound(),
        chain("output", f"ip daddr {OUT} drop"),
        prepare=news,
        worker="outbound/news",
        variant="refused",
    ),
    Case(
        "firewall-drop",
        "broken",
        outbound(),
        chain("egress", f"ip daddr {OUT} drop", family="netdev", device="eth0"),
        prepare=news,
        worker="outbound/news",
        variant="silently",
    ),
    Case(
        "queue-full",
        "warning",
        outbound(),
        narrow("rate", "24kbit", "burst", "1600", "limit", "1600"),
        prepare=news,
        worker="outbound/news",
        variant="interval",
    ),
    Case(
        "queue-full",
        "warning",
        outbound('group = "ff15::6:9"', 'rate = "200kbit"').replace("interval = 0.01\n", ""),
        narrow("rate", "200kbit", "burst", "2000", "limit", "2000"),
        prepare=news,
        worker="outbound/news",
        variant="rate",
    ),
    Case(
        "rp-filter",
        "broken",
        inbound(),
        ip(f"route add {THEIR_ADDRESS}/32 dev eth1", f"route del {THEIR_ADDRESS}/32 dev eth1"),
        prepare=rp_filter(1),
        variant="strict",
    ),
    Case(
        "rp-filter",
        "broken",
        inbound(),
        ip("route del 10.6.0.0/24 dev eth0", "route add 10.6.0.0/24 dev eth0"),
        prepare=rp_filter(2),
        variant="loose",
    ),
    Case(
        "martian-source",
        "broken",
        inbound(),
        both(silent, frames(ethernet(packet(17, GROUP, datagram(), source="10.6.0.1")))),
        variant="ours",
        by_hand="another machine's address",
    ),
    Case(
        "martian-source",
        "broken",
        inbound(),
        both(silent, frames(ethernet(packet(17, GROUP, datagram(), source="127.0.0.5")))),
        variant="nobody's",
        by_hand="another machine's address",
    ),
    Case("wrong-interface", "broken", inbound(), configured(inbound(interface="eth1")), variant="seen"),
    Case("wrong-port", "warning", inbound(), configured(inbound("port = 9777"))),
    Case(
        "source-excluded",
        "warning",
        inbound(),
        configured(inbound('sources = ["10.6.0.99"]')),
        by_hand="which sender is meant",
    ),
    Case(
        "vlan-tagged",
        "broken",
        inbound(),
        both(silent, frames(ethernet(packet(17, GROUP, datagram()), vlan=5))),
        by_hand="a VLAN interface, which no machine of the tests has",
    ),
    Case(
        "wrong-mac",
        "broken",
        inbound(),
        both(silent, frames(ethernet(packet(17, GROUP, datagram()), to="020000000099"))),
        by_hand="something on the way",
    ),
    Case(
        "bad-checksum",
        "broken",
        inbound(),
        both(silent, frames(ethernet(packet(17, GROUP, datagram(udp_checksum=1))))),
        by_hand="something on the way",
    ),
    Case("fragments-lost", "broken", inbound(), both(silent, HALF), by_hand="at the sender"),
    Case("fragments-lost", "broken", inbound(), crowded_fragments, variant="no room"),
    Case(
        "port-taken",
        "broken",
        inbound(),
        both(neighbour(9195, shares=False), configured(inbound("port = 9195"))),
        by_hand="another program's",
    ),
    Case("cross-talk", "hint", inbound(), neighbour(PORT, shares=True), by_hand="another program's"),
    Case(
        "no-report",
        "broken",
        inbound(),
        chain("output", "ip protocol igmp drop"),
        prepare=ASKED,
        arguments=LONGER,
        by_hand="which rule is in the way",
    ),
    Case(
        "no-report",
        "broken",
        inbound(),
        # The query does not get in, so nothing answers it
        both(chain("input", "ip protocol igmp drop"), answered),
        prepare=ASKED,
        arguments=LONGER,
        variant="query",
        by_hand="which rule is in the way",
    ),
    Case(
        "nobody-joined",
        "warning",
        outbound(),
        undone(leave),
        prepare=both(news, other_receivers, ALL_ASKED),
        worker="outbound/news",
        arguments=LONGER,
        by_hand="a receiver elsewhere",
    ),
    Case(
        "no-querier",
        "warning",
        inbound(f'group = "{RARE}"', interface="br0"),
        ip("link set br0 type bridge mcast_querier 0"),
        prepare=bridge("mcast_snooping 1 mcast_querier 1"),
    ),
    Case("ttl-one", "hint", outbound(), HELLO, prepare=news, worker="outbound/news", variant="pim"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cause_is_named_first_and_nothing_without_it(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    show(case, lab, tmp_path, record_property)


# -- what is more than the name


@contextlib.contextmanager
def running(wires: Lab, directory: Path, config: str, *faults: Fault) -> Iterator[None]:
    wires.directory = directory
    enter = wires.here.enter([*AS_A_SERVICE])
    with contextlib.ExitStack() as stack:
        wires.daemon = stack.enter_context(RunningDaemon(directory, wires.text(config), enter=enter))
        for fault in faults:
            stack.enter_context(fault(wires))
        yield


def first_finding(wires: Lab, *arguments: str) -> dict[str, Any]:
    _, report = wires.doctor(*arguments)
    assert left_out(report) == []
    finding: dict[str, Any] = report["findings"][0]
    return finding


def test_the_rule_is_named_in_its_own_words_and_what_its_counter_did(
    lab: Callable[[str], Lab], tmp_path: Path
) -> None:
    wires = lab("two wires")
    rules = f'iifname "eth1" drop\nudp dport 9999 counter drop\nudp dport {PORT} counter drop'
    with running(wires, tmp_path, inbound(), chain("input", rules)):
        found = first_finding(wires)
        wires.here.start(*found["fix"].split()).wait(60)  # it does mend it
        assert wires.doctor()[1]["findings"] == []
    lines = found["evidence"]
    assert found["cause"] == "firewall-drop"
    assert f"from {THEIR_ADDRESS} to {GROUP} port {PORT} on eth0 (AF_PACKET)" in lines[0]
    assert "the socket received 0" in lines[0]
    (rule,) = [line for line in lines if "chain inet t c" in line]
    assert rule.startswith(f"drops such datagrams: udp dport {PORT} counter packets ")
    assert "its counter grew by " in rule


def test_who_has_the_port_is_named_with_its_pid(lab: Callable[[str], Lab], tmp_path: Path) -> None:
    wires = lab("two wires")
    with running(
        wires, tmp_path, inbound(), neighbour(9195, shares=False), configured(inbound("port = 9195"))
    ):
        found = first_finding(wires)
    assert found["cause"] == "port-taken"
    assert re.search(r"0\.0\.0\.0 port 9195: python\S* \(pid \d+\)", found["evidence"][1])


def test_a_probe_arrives_in_the_outputs_and_never_leaves_the_host(
    lab: Callable[[str], Lab], tmp_path: Path
) -> None:
    wires = lab("two wires")
    with (
        running(wires, tmp_path, inbound(f'group = "{RARE}"')),
        UdpFrames(wires.there, "net0", RARE) as far,
    ):
        status, report = wires.doctor()  # without being told to, it sends nothing
        received = wires.daemon.worker("inbound/news")["status"]["counters"]["received"]
        assert (status, report["findings"], received) == (0, [], 0)
        status, report = wires.doctor("--probe")
        assert (status, report["findings"]) == (0, [])
        log = tmp_path / "news.log"
        wait_for(lambda: log.read_text().startswith("mcastd probe: "))
        assert far.all() == []


def test_silence_on_the_wire_is_told_beside_what_is_not_well(
    lab: Callable[[str], Lab], tmp_path: Path
) -> None:
    wires = lab("two wires")
    with running(wires, tmp_path, inbound('expect_every = "100ms"'), silent):
        wait_for(lambda: wires.daemon.worker("inbound/news")["status"]["stale"])
        _, report = wires.doctor()
    causes = [one["cause"] for one in report["findings"] if one["worker"]]
    assert causes[0] == "stale"
    assert "nothing-arrives" in causes


def test_without_a_daemon_the_wire_is_compared_too(lab: Callable[[str], Lab], tmp_path: Path) -> None:
    wires = lab("two wires")
    wires.directory = tmp_path
    config = tmp_path / "mcastd.toml"
    config.write_text(wires.text(inbound()))

    def doctor() -> list[str]:
        command = wires.here.enter([*MCASTD, "doctor", "--config", str(config), "--json", "--watch", "0.5s"])
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return [one["cause"] for one in json.loads(answer.stdout)["findings"]]

    assert doctor() == []
    with chain("input", f"udp dport {PORT} drop")(wires):
        assert doctor()[0] == "firewall-drop"


def router(version: int, source: str, group: str) -> Fault:
    """This host routes the group from eth1 to eth0, as smcrouted tells it."""

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        config = lab.directory / "smcroute.conf"
        rule = f"mroute from eth1 source {source} group {group} to eth0"
        config.write_text(f"phyint eth0 enable\nphyint eth1 enable\n{rule}\n")
        files = ["-f", str(config), "-P", str(lab.directory / "pid"), "-u", str(lab.directory / "socket")]
        daemon = lab.here.start(program("smcrouted"), "-n", "-N", *files)
        table = Path(f"/proc/{lab.here.pid}/net/{'ip6' if version == 6 else 'ip'}_mr_cache")
        try:
            wait_for(lambda: re.search(r" \d+:1 *\n", table.read_text()), "the route is set")
            yield
        finally:
            daemon.terminate()
            daemon.wait(60)

    return fault


@pytest.mark.parametrize(
    ("version", "source", "group"), [(4, "10.6.1.1", "239.255.6.7"), (6, "2001:db8:6:1::1", "ff15::6:7")]
)
def test_a_group_that_this_host_itself_routes_to_the_interface_is_no_wrong_interface(
    lab: Callable[[str], Lab], tmp_path: Path, version: int, source: str, group: str
) -> None:
    wires = lab("two wires")
    address = f"addr add {source}/64 dev eth1 nodad", f"addr del {source}/64 dev eth1"
    where = f'group = "{group}"'
    config = inbound(where) + outbound(where, "ttl = 3", interface=source if version == 6 else "eth1")
    here = ip(*address) if version == 6 else undone(lambda _: None)

    def causes() -> list[str]:
        return [one["cause"] for one in wires.doctor()[1]["findings"]]

    wires.directory = tmp_path
    with here(wires), news(wires), running(wires, tmp_path, config):
        wait_for(lambda: causes()[:1] == ["wrong-interface"], "what is seen elsewhere")
        with router(version, source, group)(wires):
            wait_for(lambda: wires.daemon.worker("inbound/news")["status"]["counters"]["received"])
            assert causes() == []
        wires.reload(config.replace("ttl = 3", "ttl = 1"))
        with router(version, source, group)(wires):  # which forwards nothing with that TTL
            wait_for(lambda: "wrong-interface" in causes(), "what is seen elsewhere")


def test_a_busy_reader_is_not_taken_for_a_firewall(lab: Callable[[str], Lab], tmp_path: Path) -> None:
    """A subscription that waits for its pipe's reader: datagrams stay in the socket's buffer."""
    wires = lab("two wires")
    pipe = f'{{ kind = "fifo", path = "{tmp_path}/pipe", when_full = "block", queue = "4KiB" }}'
    with (
        running(wires, tmp_path, inbound(f"output = {pipe}", 'receive_buffer = "16KiB"')),
        subprocess.Popen(["sh", "-c", f"exec sleep 60 <{tmp_path}/pipe"]) as stuck,
    ):

        def overflow() -> int:
            return int(wires.daemon.worker("inbound/news")["status"]["counters"]["overflow"])

        try:
            wires.talker.send(10_000)
            wait_for(overflow)
            _, report = wires.doctor()
        finally:
            stuck.kill()
    assert not {"firewall-drop", "dropped-inside"} & {one["cause"] for one in report["findings"]}
