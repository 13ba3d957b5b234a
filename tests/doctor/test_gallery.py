"""One network and one fault for each cause that settings, interfaces, memberships and files can have.

tests/doctor/README.md draws the networks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.faults import LINK_LOCAL, SAME, both, configured, edited, inbound, ip, news, outbound, undone
from support.gallery import AS_A_SERVICE, GROUP, PORT, Case, Fault, Lab, show
from support.hung import Mount, mounted
from support.inside import inside, sysctl
from support.meanwhile import meanwhile
from support.stolen import sockets
from support.strangers import STRANGER, give_away
from support.wait import wait_for

ETH0_UP = "link set eth0 up, addr replace fe80::1/64 dev eth0 nodad"  # which goes when it is set down


def ctl(*arguments: str) -> Fault:
    def run(lab: Lab) -> None:
        answer = lab.daemon.ctl(*arguments)
        assert answer.returncode == 0, answer.stderr

    return undone(run)


def file(name: str, change: Callable[[Path], object]) -> Fault:
    def make(lab: Lab) -> None:
        change(lab.directory / name)

    return undone(make)


def mode(name: str, bits: int) -> Fault:
    return undone(
        lambda lab: (lab.directory / name).chmod(bits), lambda lab: (lab.directory / name).chmod(0o700)
    )


def planted(owner: int) -> Fault:
    """In a directory that others may write, a stranger's link to a file of ``owner`` is the source."""

    def make(path: Path) -> None:
        path.parent.chmod(0o1777)
        path.unlink()
        target = path.with_name("elsewhere")
        target.write_text("theirs\n")
        os.chown(target, owner, owner)
        path.symlink_to(target)
        give_away(path)

    return file("news/news.txt", make)


def enslaved(name: str) -> Fault:
    """The interface becomes a port of a bridge, which gets an address."""
    return ip(
        "link add br0 type bridge mcast_snooping 0 forward_delay 0, link set br0 up,"
        f" addr add 10.6.9.1/24 dev br0, link set {name} master br0",
        "link del br0",
    )


def sending_from(address: str) -> Fault:
    """Wait until the channel does."""

    def make(lab: Lab) -> None:
        wait_for(lambda: lab.daemon.worker("outbound/news")["status"]["link"]["address"] == address)

    return undone(make)


def undescribed(lab: Lab) -> None:
    """The description of the channel goes below what is no directory."""
    lab.reload(outbound('announce = { sdp = "DIR/mcastd.toml/news.sdp" }'))
    wait_for(lambda: lab.daemon.worker("outbound/news")["status"]["announcement"]["file_error"])


MOUNTS: dict[Path, Mount] = {}  # by the directory of the case


@contextlib.contextmanager
def a_mount(lab: Lab) -> Iterator[None]:
    """A mount whose server may hang."""
    with mounted(lab.directory / "mount") as mount:
        (mount.path / "news.txt").write_text("something happened\n")
        MOUNTS[lab.directory] = mount
        yield


def hangs(call: str, worker: str) -> Fault:
    """Its server answers whoever looks, and no ``call`` of a worker."""

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        mount = MOUNTS.pop(lab.directory)
        mount.hang(call)
        try:
            wait_for(lambda: lab.daemon.worker(worker)["status"]["hanging"])
            yield
        finally:
            mount.answer()

    return fault


@contextlib.contextmanager
def silence(lab: Lab) -> Iterator[None]:
    with lab.quiet():
        wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["stale"])
        yield


@contextlib.contextmanager
def flood(lab: Lab) -> Iterator[None]:
    """Bursts that no buffer of some KiB holds, until the doctor has looked."""
    with meanwhile(lambda: lab.talker.send(300), 0.01, "flood"):
        yield


@contextlib.contextmanager
def flood_before(lab: Lab) -> Iterator[None]:
    with flood(lab):
        wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["counters"]["overflow"])
    yield


def old_query(lab: Lab) -> None:
    """A query of IGMPv2 (RFC 2236), from the far end of eth1."""
    with inside(lab.there), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.6.1.2"))
        raw.sendto(struct.pack("!BBH4s", 0x11, 100, 0xFFFF & ~0x1164, bytes(4)), ("224.0.0.1", 0))
    table = Path(f"/proc/{lab.here.pid}/net/igmp")
    wait_for(lambda: "V2" in table.read_text(), "the query has come")


def forget_old_query(lab: Lab) -> None:
    """For the minutes that the kernel believes in it there is a new interface."""
    lab.here.ip("link del eth1")
    lab.plug(1)


def behind_its_back(change: Callable[[socket.socket], None]) -> Fault:
    """Change the daemon's own socket."""

    def make(lab: Lab) -> None:
        found = 0
        for sock in sockets(lab.daemon.process.pid, (GROUP, PORT)):
            change(sock)
            found += 1
        assert found == 1

    return undone(make)


def leave(sock: socket.socket) -> None:
    request = socket.inet_aton(GROUP) + socket.inet_aton("10.6.0.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)


def block(sock: socket.socket) -> None:
    IP_BLOCK_SOURCE = 38
    request = b"".join(map(socket.inet_aton, (GROUP, "10.6.0.1", "10.6.0.77")))
    sock.setsockopt(socket.IPPROTO_IP, IP_BLOCK_SOURCE, request)


@contextlib.contextmanager
def a_reader(lab: Lab) -> Iterator[None]:
    path = lab.directory / "pipe"
    os.mkfifo(path, 0o600)
    with subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL) as reader:
        (lab.directory / "reader").write_text(str(reader.pid))
        yield
        reader.kill()


def end_reader(lab: Lab) -> None:
    os.kill(int((lab.directory / "reader").read_text()), signal.SIGKILL)
    wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["outputs"][0]["reason"])


def small_disk(options: str) -> tuple[str, ...]:
    mount = 'mkdir -p "$0" && mount -t tmpfs -o ' + options + ' tmpfs "$0" && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mount, "DIR/disk")


def fill(lab: Lab) -> None:
    """The disk that only the daemon sees."""
    disk = Path(f"/proc/{lab.daemon.process.pid}/root{lab.directory}/disk")
    with contextlib.suppress(OSError), (disk / "big").open("wb", buffering=0) as big:
        while True:
            big.write(bytes(4096))


def ipv6_of_eth0(lab: Lab, *, on: bool) -> None:
    sysctl(lab.here, ipv6__conf__eth0__disable_ipv6=int(not on))
    if on:
        lab.here.ip("addr replace fe80::1/64 dev eth0 nodad")


NO_SYSCTL = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc/sys && exec "$@"', "sh")
"""As a unit with ProcSubset=pid has it."""

CASES = [
    Case(
        "no-route",
        "broken",
        inbound(interface=None),
        ip("route del 224.0.0.0/4"),
        prepare=ip("route add 224.0.0.0/4 dev eth0", "route flush 224.0.0.0/4"),
    ),
    Case(
        "no-route",
        "broken",
        outbound(interface=None),
        ip("route del 224.0.0.0/4"),
        prepare=both(news, ip("route add 224.0.0.0/4 dev eth0", "route flush 224.0.0.0/4")),
        worker="outbound/news",
        variant="sending",
    ),
    Case(
        "no-route",
        "broken",
        inbound(interface=None),
        ip("route add prohibit 239.255.0.0/16", "route del prohibit 239.255.0.0/16"),
        prepare=ip("route add 224.0.0.0/4 dev eth0", "route flush 224.0.0.0/4"),
        variant="prohibit",
    ),
    Case(
        "no-route",
        "broken",
        inbound('group = "ff15::6:1"', interface="lo"),
        ip("-6 route del local ff15::/16 dev lo", "-6 route add local ff15::/16 dev lo"),
        prepare=ip("-6 route add local ff15::/16 dev lo", "-6 route flush table local ff15::/16"),
        variant="IPv6 on loopback",
    ),
    Case(
        "ip-off",
        "broken",
        inbound('group = "ff15::6:1"'),
        ip("link set eth0 mtu 1279", f"link set eth0 mtu 1500, {ETH0_UP}"),
    ),
    Case(
        "ip-off",
        "broken",
        inbound('group = "ff15::6:1"'),
        undone(lambda lab: ipv6_of_eth0(lab, on=False), lambda lab: ipv6_of_eth0(lab, on=True)),
        variant="disabled",
    ),
    Case(
        "interface-missing",
        "broken",
        inbound(),
        ip("link set eth0 down, link set eth0 name away", f"link set away name eth0, {ETH0_UP}"),
        by_hand="name another, or wait for it",
    ),
    Case("interface-down", "broken", inbound(), ip("link set eth0 down", ETH0_UP)),
    Case(
        "interface-down",
        "broken",
        outbound(),
        ip("link set eth0 down", ETH0_UP),
        prepare=news,
        worker="outbound/news",
        variant="sending",
    ),
    Case(
        "no-carrier",
        "broken",
        inbound(),
        ip("link set net0 down", "link set net0 up, addr replace fe80::2/64 dev net0 nodad", there=True),
        by_hand="plug the cable in",
    ),
    Case(
        "no-carrier",
        "broken",
        inbound(),
        ip(
            "link set eth0 mode dormant, link set eth0 down, link set eth0 up",
            "link set eth0 mode default, link set eth0 state up, addr replace fe80::1/64 dev eth0 nodad",
        ),
        by_hand="a switch lets it in",
        variant="dormant",
    ),
    Case("port-of-bridge", "broken", inbound(), enslaved("eth0")),
    Case(
        "port-of-bridge",
        "broken",
        outbound(interface="eth1"),
        both(ip("addr del 10.6.1.1/24 dev eth1", "addr add 10.6.1.1/24 dev eth1"), enslaved("eth1")),
        prepare=news,
        worker="outbound/news",
        variant="sending",
    ),
    Case(
        "port-of-bridge",
        "warning",
        outbound(interface="eth1"),
        enslaved("eth1"),
        prepare=news,
        worker="outbound/news",
        variant="with-an-address",
    ),
    Case(
        "no-multicast-flag",
        "hint",
        inbound(),
        ip("link set eth0 multicast off", "link set eth0 multicast on"),
    ),
    Case(
        "no-address",
        "broken",
        outbound(interface="eth1"),
        ip("addr del 10.6.1.1/24 dev eth1", "addr add 10.6.1.1/24 dev eth1"),
        prepare=news,
        worker="outbound/news",
        variant="sending",
    ),
    Case(
        "no-address",
        "warning",
        inbound(),
        ip("addr del 10.6.0.1/24 dev eth0", "addr add 10.6.0.1/24 dev eth0"),
    ),
    Case(
        "unlucky-source",
        "warning",
        outbound(),
        both(
            ip("addr add 169.254.6.9/16 dev eth0", "addr del 169.254.6.9/16 dev eth0"),
            configured(outbound(interface="169.254.6.9")),
        ),
        prepare=news,
        worker="outbound/news",
        variant="of-the-link",
    ),
    Case(
        "unlucky-source",
        "warning",
        outbound(),
        both(
            ip(
                "route add 239.255.6.0/24 dev eth0 src 10.6.1.1",
                "route del 239.255.6.0/24 dev eth0 src 10.6.1.1",
            ),
            sending_from("10.6.1.1"),
        ),
        prepare=news,
        worker="outbound/news",
        variant="of-another-interface",
    ),
    Case(
        "unlucky-source",
        "warning",
        outbound('group = "ff15::6:9"', interface="2001:db8:6::1"),
        ip("addr change 2001:db8:6::1/64 dev eth0 preferred_lft 0 valid_lft forever"),
        prepare=both(
            news,
            ip("addr add 2001:db8:6::1/64 dev eth0 nodad", "addr del 2001:db8:6::1/64 dev eth0"),
        ),
        worker="outbound/news",
        variant="deprecated",
    ),
    Case(
        "unlucky-source",
        "warning",
        outbound('group = "ff15::6:9"'),
        configured(outbound('group = "ff15::6:9"', "ttl = 3")),
        prepare=news,
        worker="outbound/news",
        variant="no-router-forwards-it",
    ),
    Case(
        "shared-address",
        "hint",
        outbound(interface="10.6.1.1"),
        ip("addr add 10.6.1.1/32 dev eth0", "addr del 10.6.1.1/32 dev eth0"),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "wrong-interface",
        "warning",
        inbound() + outbound(SAME),
        configured(inbound() + outbound(SAME, interface="eth1")),
        prepare=news,
    ),
    Case(
        "ttl-zero",
        "warning",
        outbound(),
        configured(outbound("ttl = 0")),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "ttl-one",
        "hint",
        outbound(),
        ip("route add 10.60.0.0/16 via 10.6.0.2", "route del 10.60.0.0/16"),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "ttl-one",
        "hint",
        outbound('group = "ff15::6:9"'),
        ip("-6 route add 2001:db8:60::/64 via fe80::2 dev eth0", "-6 route del 2001:db8:60::/64"),
        prepare=both(news, ip("route add 10.60.0.0/16 via 10.6.0.2", "route del 10.60.0.0/16")),
        worker="outbound/news",
        variant="ipv6",
    ),
    Case(
        "gateway-route",
        "broken",
        outbound('group = "ff15::6:9"'),
        ip(
            "-6 route add ff15::/16 via fe80::2 dev eth0 table local",
            "-6 route del ff15::/16 via fe80::2 dev eth0 table local",
        ),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "gateway-route",
        "broken",
        outbound('group = "ff15::6:9"'),
        ip(
            "-6 route add ff15::6:9 via fe80::2 dev eth0 table local",
            "-6 route flush ff15::6:9 table local",
        ),
        prepare=news,
        worker="outbound/news",
        variant="of-the-group",
    ),
    Case(
        "ttl-link-local",
        "warning",
        outbound(LINK_LOCAL),
        configured(outbound(LINK_LOCAL, "ttl = 2")),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "loop-off",
        "warning",
        inbound() + outbound(SAME),
        configured(inbound() + outbound(SAME, "loop = false")),
        prepare=news,
    ),
    Case(
        "two-senders",
        "hint",
        outbound() + outbound("port = 9191", name="more"),
        configured(outbound() + outbound(name="more")),
        prepare=news,
        worker="outbound/news",
        by_hand="which port is meant",
    ),
    Case(
        "announcement-failing",
        "warning",
        outbound("announce = true"),
        undone(undescribed),
        prepare=news,
        worker="outbound/news",
        by_hand="where the file is to be is for a person to say",
    ),
    Case(
        "igmp-forced",
        "warning",
        inbound('sources = ["10.6.0.2"]'),
        undone(
            lambda lab: sysctl(lab.here, ipv4__conf__eth0__force_igmp_version=2),
            lambda lab: sysctl(lab.here, ipv4__conf__eth0__force_igmp_version=0),
        ),
    ),
    Case(
        "igmp-forced",
        "hint",
        inbound(),
        undone(
            lambda lab: sysctl(lab.here, ipv4__conf__all__force_igmp_version=2),
            lambda lab: sysctl(lab.here, ipv4__conf__all__force_igmp_version=0),
        ),
        variant="any-source",
    ),
    Case(
        "igmp-forced",
        "warning",
        inbound('sources = ["10.6.0.2"]'),
        undone(
            lambda lab: sysctl(lab.here, ipv4__conf__eth0__force_igmp_version=2),
            lambda lab: sysctl(lab.here, ipv4__conf__eth0__force_igmp_version=0),
        ),
        wrap=NO_SYSCTL,
        variant="hidden-from-the-daemon",
    ),
    Case(
        "igmp-forced",
        "warning",
        inbound('group = "ff15::6:1"', 'sources = ["fd00:6::2"]'),
        undone(
            lambda lab: sysctl(lab.here, ipv6__conf__eth0__force_mld_version=1),
            lambda lab: sysctl(lab.here, ipv6__conf__eth0__force_mld_version=0),
        ),
        variant="mld",
    ),
    Case(
        "no-address",
        "warning",
        inbound('group = "ff15::6:1"'),
        ip("addr del fe80::1/64 dev eth0", "addr add fe80::1/64 dev eth0 nodad"),
        variant="ipv6",
    ),
    Case(
        "igmp-old-querier",
        "warning",
        inbound('group = "239.255.6.2"', 'sources = ["10.6.1.2"]', interface="eth1"),
        undone(old_query, forget_old_query),
        by_hand="another machine's",
    ),
    Case("membership-lost", "broken", inbound(), behind_its_back(leave)),
    Case("membership-differs", "warning", inbound(), behind_its_back(block)),
    Case(
        "receive-buffer-small",
        "warning",
        inbound('receive_buffer = "16KiB"'),
        configured(inbound('receive_buffer = "1GiB"')),
        by_hand="the machine's own rmem_max",
    ),
    Case("overflow-now", "broken", inbound('receive_buffer = "8KiB"'), flood),
    Case("overflow-earlier", "warning", inbound('receive_buffer = "8KiB"'), flood_before),
    Case(
        "source-missing",
        "broken",
        outbound(),
        file("news/news.txt", Path.unlink),
        prepare=news,
        worker="outbound/news",
        by_hand="only its owner knows what is in it",
    ),
    Case(
        "source-missing",
        "broken",
        outbound(),
        file("news", shutil.rmtree),
        prepare=news,
        worker="outbound/news",
        variant="directory",
        by_hand="only its owner knows what is in it",
    ),
    Case(
        "source-unsafe",
        "broken",
        outbound(),
        planted(STRANGER),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "source-unsafe",
        "broken",
        outbound(),
        planted(0),
        prepare=news,
        worker="outbound/news",
        variant="to-another's",
        by_hand="only its owner knows what is meant",
    ),
    Case(
        "source-unreadable",
        "broken",
        outbound(),
        mode("news/news.txt", 0),
        prepare=news,
        worker="outbound/news",
    ),
    Case(
        "source-unreadable",
        "broken",
        outbound(),
        mode("news", 0),
        prepare=news,
        worker="outbound/news",
        variant="directory",
    ),
    Case(
        "source-hanging",
        "broken",
        outbound('source = "DIR/mount/news.txt"'),
        hangs("read", "outbound/news"),
        prepare=a_mount,
        worker="outbound/news",
        by_hand="only its server can answer",
    ),
    Case(
        "source-not-a-file",
        "broken",
        outbound(),
        file("news/news.txt", lambda path: (path.unlink(), path.mkdir())),
        prepare=news,
        worker="outbound/news",
        by_hand="which file is meant",
    ),
    Case(
        "source-empty",
        "broken",
        outbound(),
        file("news/news.txt", lambda path: path.write_text("")),
        prepare=news,
        worker="outbound/news",
        by_hand="only its owner knows what goes into it",
    ),
    Case(
        "source-empty",
        "broken",
        outbound('repeat = "once"', "interval = 60"),
        file("news/news.txt", lambda path: path.write_text("")),
        prepare=news,
        worker="outbound/news",
        variant="may-grow",
    ),
    Case(
        "output-hanging",
        "broken",
        inbound('output = "DIR/mount/news.log"'),
        hangs("write", "inbound/news"),
        prepare=a_mount,
        by_hand="only its server can answer",
    ),
    Case(
        "output-directory",
        "broken",
        inbound(),
        configured(inbound('output = "DIR/closed/deeper/news.log"')),
        prepare=file("closed", lambda path: path.mkdir(0)),
    ),
    Case(
        "output-unwritable",
        "broken",
        inbound(),
        both(mode("news.log", 0o400), ctl("reopen")),
    ),
    Case(
        "output-unwritable",
        "warning",
        inbound(),
        mode("news.log", 0o400),
        variant="still-open",
    ),
    Case(
        "captures-failing",
        "warning",
        inbound(),
        configured(
            inbound(
                'output = "DIR/news.log"\nkeep_before = { time = "5s", directory = "DIR/closed/captures" }'
            )
        ),
        prepare=file("closed", lambda path: path.mkdir(0)),
    ),
    Case(
        "output-wrong-kind",
        "broken",
        inbound(),
        file("news.log", lambda path: (path.unlink(), path.mkdir())),
        by_hand="which path is meant",
    ),
    Case(
        "disk-full",
        "broken",
        inbound('output = "DIR/disk/news.log"'),
        undone(fill),
        wrap=small_disk("size=128k"),
        by_hand="what may go is for a person to say",
    ),
    Case(
        "fifo-no-reader",
        "warning",
        inbound('output = { kind = "fifo", path = "DIR/pipe" }'),
        undone(end_reader),
        prepare=a_reader,
        by_hand="a reader that stays",
    ),
    Case(
        "worker-waiting",
        "broken",
        inbound('sources = ["10.6.0.2"]'),
        both(
            undone(
                lambda lab: sysctl(lab.here, ipv4__igmp_max_msf=1),
                lambda lab: sysctl(lab.here, ipv4__igmp_max_msf=10),
            ),
            configured(inbound('sources = ["10.6.0.2", "10.6.0.3"]', "port = 9195")),
        ),
        by_hand="whatever the reason says",
    ),
    Case(
        "worker-stopped",
        "hint",
        inbound(),
        ctl("stop-worker", "inbound/news"),
    ),
    Case("stale", "broken", inbound('expect_every = "200ms"'), silence, by_hand="look at the sender"),
    # the configuration on disk
    Case(
        "config-refused",
        "warning",
        inbound(),
        edited(inbound("prot = 7")),
        worker="",
        by_hand="which key is meant",
    ),
    Case("config-differs", "hint", inbound(), edited(inbound(name="olds")), worker=""),
]


NEEDS_PRIVILEGES = {"report-version", "delivery", "answers", "querier"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cause_is_named_first_and_nothing_without_it(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    show(case, lab, tmp_path, record_property)


def test_what_nobody_may_look_at_is_told_and_the_rest_looked_at(
    lab: Callable[[str], Lab], tmp_path: Path
) -> None:
    wires = lab("two wires")
    wires.directory = tmp_path
    enter = wires.here.enter([*NO_SYSCTL, *AS_A_SERVICE])
    config = wires.text(inbound('sources = ["10.6.0.2"]'))
    with RunningDaemon(tmp_path, config, enter=enter) as wires.daemon:
        status, report = wires.doctor(enter=AS_A_SERVICE)
        assert {one["check"] for one in report["skipped"]} == NEEDS_PRIVILEGES
        assert (report["findings"], status) == ([], 0)
        with ip("link set eth0 down", ETH0_UP)(wires):
            status, report = wires.doctor(enter=AS_A_SERVICE)
        assert {one["check"] for one in report["skipped"]} == NEEDS_PRIVILEGES - {"querier"}  # no carrier
        assert report["findings"][0]["cause"] == "interface-down"
        assert status == 2
        beside = {one["cause"] for one in report["findings"] if one["severity"] == "hint"}
        assert "virtual-interface" in beside  # veth: told since something is wrong
