"""Where the host runs: sandboxes, containers, WSL, Wi-Fi, interfaces that are no cable."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from mcastd.config import GroupSettings
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity, Way
from mcastd.doctor.quoting import by_itself
from mcastd.doctor.subject import Subject
from mcastd.errors import CannotAskError
from mcastd.net.tables import BACKLOG_DROPPED

# What a backlog is to have at least: the kernel's default is 1000 packets.
BACKLOG_PACKETS = 10_000
KINDS = {
    "veth": "one end of a pair: what it reaches is decided by the bridge or namespace at the other end",
    "bridge": "a software bridge, which may snoop IGMP without a querier",
    "macvlan": "a macvlan: it and its parent interface do not hear each other's multicast",
    "ipvlan": "an ipvlan: it and its parent interface do not hear each other's multicast",
    "tun": "a tunnel, which carries multicast only if its other end does",
}


def netlink(evidence: Evidence) -> Iterator[Said]:
    """Check that the kernel can be asked for interfaces and routes: a sandbox may forbid netlink."""
    try:
        _ = evidence.host
        if (forbidden := evidence.forbidden) is not None:
            yield Finding(
                "netlink-forbidden",
                Severity.WARNING,
                "changes of interfaces, addresses and routes are noticed some seconds late, without netlink",
                (f"socket(AF_NETLINK): {errno.errorcode.get(forbidden.errno, forbidden.errno)}",),
                forbidden.way_out or by_itself(forbidden.waits),
            )
    except CannotAskError as error:
        yield Finding(
            "no-netlink",
            Severity.BROKEN,
            f"the kernel cannot be asked for interfaces and routes: {error.cause}",
            (f"socket(AF_NETLINK): {errno.errorcode.get(error.errno, error.errno)}",),
            error.way_out or by_itself(error.waits),
        )


def backlog(evidence: Evidence) -> Iterator[Said]:
    """Check that the queues between network cards and protocols were never full: one for each processor."""
    dropped = 0 if evidence.observation is None else evidence.observation.grown(BACKLOG_DROPPED)
    if dropped:
        key = "net/core/netdev_max_backlog"
        most = int(evidence.sysctl(key) or 0)
        fix = f"sysctl net.core.netdev_max_backlog={max(BACKLOG_PACKETS, 4 * most)}"
        yield Finding(
            "backlog-full",
            Severity.HINT,
            "this host drops packets before any socket: the queue in front of its protocols is full",
            (
                f"{dropped} dropped in {evidence.watched:.3g} s (/proc/net/softnet_stat)",
                f"net.core.netdev_max_backlog = {most} (/proc/sys/{key})",
            ),
            f"{fix}; if they still grow, its processors are too busy",
            ways=(Way(command=fix),),
        )


def container(evidence: Evidence) -> Iterator[Said]:
    """A container's multicast goes no further than its virtual network."""
    marks = {"/run/systemd/container": "", "/.dockerenv": "docker", "/run/.containerenv": "podman"}
    for path, manager in marks.items():
        if evidence.exists(path):
            yield Finding(
                "container",
                Severity.HINT,
                "this is a container: unless it has the host's network, multicast ends at its virtual one",
                (f"{manager or evidence.read(path)} ({path})",),
                "docker run --network host, or an interface of its own by macvlan",
            )
            return


def wsl(evidence: Evidence) -> Iterator[Said]:
    version = evidence.read("/proc/version") or os.uname().release  # the unit hides /proc/version
    interop = evidence.read("/proc/sys/fs/binfmt_misc/WSLInterop")
    if "microsoft" in version.lower() or interop is not None:
        yield Finding(
            "wsl",
            Severity.HINT,
            "this is WSL, whose default network (NAT) carries no multicast from or to other hosts",
            (f"kernel: {version} (/proc/version)",),
            "networkingMode=mirrored in [wsl2] of .wslconfig, or run on a Linux host",
        )


def kind_of_interface(subject: Subject[GroupSettings], evidence: Evidence) -> Iterator[Said]:
    """Wi-Fi sends multicast unacknowledged and at its lowest rate; some virtual interfaces leave it out."""
    for way in evidence.ways(subject):
        if way.kind in KINDS:
            yield Finding(
                "virtual-interface",
                Severity.HINT,
                f"{way.name} is {KINDS[way.kind]}",
                (f"kind of {way.name}: {way.kind} (rtnetlink, as `ip -details link` shows it)",),
                "look at the other end, too",
            )
        sys = f"/sys/class/net/{way.name}"
        if evidence.read(f"{sys}/ifindex") != str(way.index):  # /sys may be of another network namespace
            continue
        if evidence.exists(f"{sys}/wireless") or evidence.exists(f"{sys}/phy80211"):
            yield Finding(
                "wifi",
                Severity.HINT,
                f"{way.name} is Wi-Fi: multicast is neither acknowledged nor repeated there, and goes"
                " at the lowest rate; some loss is normal",
                (f"{sys}/phy80211 is there",),
                "use a cable, or let the access point convert multicast to unicast",
            )
