"""Topology "one link" (see README.md here): a sender and 50 hosts on one switch."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.frames import UdpFrames
from support.host import Host
from support.inside import sender
from support.programs import program
from support.switch import QUERIER, SNOOPING, Switch
from support.textbook import compile_textbook
from support.wait import wait_for

PORT = 9190
HOSTS = 50
SENDERS = {4: "10.9.0.100", 6: "fd00:9::100"}
GROUPS = {4: "239.255.9.50", 6: "ff05::9:50"}
ALL_HOSTS = {4: "224.0.0.1", 6: "ff02::1"}  # never pruned by a switch: RFC 4541 section 2.1.2
CUT = 29  # bytes: where the textbook receiver cuts a datagram

NEWS = b"".join(
    [
        b"A short line.\n",
        b"\n",
        "Grüße, 多播, und ein 🛰 über der Stadt.\n".encode(),
        b"NUL\0bytes\0\0inside, and a line of 0xff: " + b"\xff" * 100 + b"\n",
        *(b"line %03d of the news\n" % number for number in range(40)),
        b"the end, without a newline",
    ]
)
DATAGRAMS = [
    line[start : start + CUT] for line in NEWS.splitlines(keepends=True) for start in range(0, len(line), CUT)
]


@dataclass(frozen=True)
class Link:
    switch: Switch
    sender: Host
    hosts: Sequence[Host]
    sender_port: str
    ports: Sequence[str]  # of the hosts, in their order


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(Switch(SNOOPING, QUERIER))
        source = stack.enter_context(Host())
        hosts = [stack.enter_context(Host()) for _ in range(HOSTS)]
        sender_port = switch.plug(source, "eth0", f"{SENDERS[4]}/24", f"{SENDERS[6]}/64")
        ports = []
        for number, host in enumerate(hosts, 1):
            addresses = f"10.9.0.{number}/24", f"fd00:9::{number:x}/64"
            ports.append(switch.plug(host, "eth0", *addresses))
            host.ip("route add 224.0.0.0/4 dev eth0")  # the textbook receiver names no interface
        yield Link(switch, source, hosts, sender_port, ports)


@pytest.fixture(scope="module")
def textbook(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_textbook("news_receiver", tmp_path_factory.mktemp("textbook"))


def joined(host: Host, group: str) -> bool:
    """Whether some socket of the host is a member of the group."""
    address = ip_address(group)
    packed = address.packed if address.version == 6 else address.packed[::-1]
    table = Path(f"/proc/{host.pid}/net/{'igmp6' if address.version == 6 else 'igmp'}")
    return packed.hex() in table.read_text().lower()


@contextlib.contextmanager
def receivers(
    link: Link, version: int, members: Iterable[int], directory: Path, textbook: str
) -> Iterator[list[Path]]:
    """Receivers on some of the hosts, all joined: of every ten one mcastd, and the others are not ours.

    For IPv4 these are the textbook's, but for one socat in ten; for IPv6 all are socat. Yields their outputs.
    """
    group = GROUPS[version]
    outputs, daemons, plain = [], [], []
    socat = program("socat")
    with contextlib.ExitStack() as stack:
        for number in members:
            host, here = link.hosts[number], directory / f"h{number}"
            here.mkdir()
            outputs.append(output := here / "news")
            if number % 10 == 0:
                where = f'group = "{group}"\nport = {PORT}\ninterface = "eth0"'
                config = f'[inbound.news]\n{where}\noutput = "{output}"\n'
                daemon = RunningDaemon(here, config, ready=False, enter=host.enter([]))
                daemons.append(stack.enter_context(daemon))
                continue
            if version == 6:
                command = [socat, "-u", f"UDP6-RECV:{PORT},ipv6-join-group=[{group}]:eth0", "STDOUT"]
            elif number % 10 == 5:
                command = [socat, "-u", f"UDP4-RECV:{PORT},ip-add-membership={group}:eth0", "STDOUT"]
            else:
                command = [textbook, group, str(PORT)]
            with output.open("wb") as stdout:
                plain.append(host.start(*command, stdout=stdout, stderr=subprocess.DEVNULL))
            stack.callback(plain[-1].wait, 60)
            stack.callback(plain[-1].terminate)
        for daemon in daemons:
            daemon.wait_notified("READY")
            daemon.wait_state("inbound/news", "active")
        for number in members:
            wait_for(lambda host=link.hosts[number]: joined(host, group), f"host {number} joins")
        yield outputs
        assert all(process.poll() is None for process in plain)


@contextlib.contextmanager
def sent(link: Link, version: int, directory: Path) -> Iterator[RunningDaemon]:
    """mcastd on the sender, after it has sent the news."""
    directory.mkdir()
    (directory / "news.txt").write_bytes(NEWS)
    where = f'group = "{GROUPS[version]}"\nport = {PORT}\ninterface = "eth0"'
    how = f'source = "{directory}/news.txt"\nmax_datagram = {CUT}\ninterval = 0.01'
    with RunningDaemon(
        directory, f"[outbound.news]\n{where}\n{how}\n", enter=link.sender.enter([])
    ) as daemon:
        wait_for(lambda: daemon.events("worker.finished"), "the news is sent")
        yield daemon


def send_again(daemon: RunningDaemon) -> None:
    assert daemon.ctl("start-worker", "outbound/news").returncode == 0
    wait_for(lambda: len(daemon.events("worker.finished")) == 2, "the news is sent again")


def mark(link: Link, version: int, taps: Iterable[UdpFrames]) -> None:
    """Send a datagram that every host gets, whatever it joined, and wait until it passed all the taps.

    It goes the way of all that was sent before: what is not there by then does not come. (That needs the
    first and the last port to have had it all: the switch copies to its ports in turn, in one go.)
    """
    with sender(link.sender, "eth0", SENDERS[version]) as sock:
        sock.sendto(b"mark", (ALL_HOSTS[version], PORT + 1))  # a socket on the wildcard would take it as news
    for tap in taps:
        wait_for(lambda tap=tap: tap.payloads() == [b"mark"], "the mark passes")


def wait_contents(outputs: Iterable[Path], content: bytes) -> None:
    for output in outputs:
        wait_for(
            lambda output=output: output.exists() and output.stat().st_size >= len(content),
            f"{len(content)} bytes in {output}",
        )
        assert output.read_bytes() == content


def wait_members(link: Link, group: str, ports: set[str]) -> None:
    """Wait until the switch knows just these ports as the members', and each has answered its querier."""
    wait_for(lambda: link.switch.members(group).keys() == ports, f"the switch learns the members of {group}")
    before = link.switch.members(group)
    renewed = dict.fromkeys(ports, 0)

    def answered() -> bool:
        """A port's time runs down until a report comes: once the repetition of the join, and then answers."""
        nonlocal before
        now = link.switch.members(group)
        for port in ports & now.keys():
            renewed[port] += now[port] > before.get(port, 0)
        before = now
        return min(renewed.values()) >= 2

    wait_for(answered, "the members answer the querier")
    assert before.keys() == ports


@pytest.mark.parametrize("version", [4, 6])
def test_one_send_reaches_50_hosts_and_leaves_the_sender_once(
    tmp_path: Path, link: Link, textbook: str, version: int
) -> None:
    group = GROUPS[version]
    with (
        receivers(link, version, range(HOSTS), tmp_path, textbook) as outputs,
        UdpFrames(link.sender, "eth0", group) as leaving,
        UdpFrames(link.switch, link.sender_port, group) as arriving,
        sent(link, version, tmp_path / "sender") as daemon,
    ):
        assert [(frame.payload, frame.outgoing) for frame in leaving.all()] == [
            (datagram, True) for datagram in DATAGRAMS
        ]
        assert {frame.ttl for frame in leaving.all()} == {1}
        assert len(outputs) == HOSTS
        wait_contents(outputs, NEWS)
        assert arriving.payloads() == DATAGRAMS  # the other end of the sender's wire saw the same
        assert leaving.payloads() == DATAGRAMS  # and nothing followed
        assert daemon.worker("outbound/news")["status"]["counters"]["sent"] == len(DATAGRAMS)


@pytest.mark.parametrize("version", [4, 6])
def test_a_snooping_switch_with_a_querier_spares_the_hosts_that_did_not_join(
    tmp_path: Path, link: Link, textbook: str, version: int
) -> None:
    group = GROUPS[version]
    members = [0, 5, 6, 7, 25, 30, 49]  # two with mcastd; the first port and the last
    others = [number for number in range(HOSTS) if number not in members]
    with (
        receivers(link, version, members, tmp_path, textbook) as outputs,
        contextlib.ExitStack() as stack,
    ):
        taps = [stack.enter_context(UdpFrames(host, "eth0", group)) for host in link.hosts]
        marks = [stack.enter_context(UdpFrames(host, "eth0", ALL_HOSTS[version])) for host in link.hosts]
        wait_members(link, group, {link.ports[number] for number in members})

        daemon = stack.enter_context(sent(link, version, tmp_path / "sender"))
        for number in members:
            wait_for(lambda number=number: len(taps[number].payloads()) >= len(DATAGRAMS), "the news passes")
        mark(link, version, marks)
        assert {number: taps[number].payloads() for number in members} == dict.fromkeys(members, DATAGRAMS)
        assert {number: len(taps[number].payloads()) for number in others} == dict.fromkeys(others, 0)
        wait_contents(outputs, NEWS)

        # The contrast: a switch that does not snoop sends it everywhere.
        link.switch.set("mcast_snooping 0")
        stack.callback(link.switch.set, "mcast_snooping 1")
        send_again(daemon)
        for number in others:
            wait_for(lambda number=number: len(taps[number].payloads()) >= len(DATAGRAMS), "the flood")
            assert taps[number].payloads() == DATAGRAMS
        wait_contents(outputs, NEWS * 2)
