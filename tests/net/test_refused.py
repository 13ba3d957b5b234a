"""Memberships that the kernel refuses: what is wanted, what is joined, and what is tried again."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect, ip
from support.inside import sender, sysctl
from support.wait import wait_for

from mcastd import clock
from mcastd.errors import LinkError
from mcastd.ip import SourceFilter
from mcastd.net.interfaces import Interface, look
from mcastd.net.membership import NOBODY, Membership, Memberships
from mcastd.net.receiver import RETRY_MAX_SECONDS, SocketReceiver
from mcastd.net.sockets import free_port

GROUPS = ["239.255.7.5", "ff15::75"]


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        ip("link add left type veth peer name right")
        stack.callback(ip, "link del left")
        for name in ("left", "right"):
            ip(f"link set {name} up")
        yield stack


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the kernel refuse to join on these interfaces from now on."""
    names: tuple[str, ...] = ()
    enter = Membership.enter

    def maybe_enter(membership: Membership, interface: Interface) -> None:
        if interface.name in names:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        enter(membership, interface)

    monkeypatch.setattr(Membership, "enter", maybe_enter)

    def now(*wanted: str) -> None:
        nonlocal names
        names = wanted

    return now


def shown(link: SocketReceiver) -> dict[str, tuple[object, object, bool, bool]]:
    return {
        each.interface: (
            each.wanted,
            each.actual,
            "no buffer space available" in str(each.refused),
            each.retry_in is not None,
        )
        for each in link.memberships()
    }


WHOLE = ("any", "any", False, False)
LACKING = ("any", None, True, True)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("when", ["opened", "rejoined", "flapped"])
def test_one_of_several_that_is_refused_is_tried_again_ever_more_rarely(
    stack: ExitStack, refuse: Callable[..., None], group: str, when: str
) -> None:
    if when == "opened":
        refuse("left")
    link = SocketReceiver(ipaddress.ip_address(group), free_port(), interface="all")
    stack.callback(link.close)
    refuse("left")
    lost: list[float] = []
    link.on_lost = lambda: lost.append(clock.monotonic())
    if when == "rejoined":
        link.rejoin()
        assert lost
        assert link.retry_at is not None
    elif when == "flapped":
        ip("link set right down")
        ip("link set right up")
        wait_for(lambda: "LOWER_UP" in os.popen("ip link show left").read())
    delays = []
    for _ in range(8):
        link.network_changed()
        assert link.retry_at is not None
        delays.append(link.retry_at - clock.monotonic())
    assert "cannot join" in link.trouble
    assert "left" in link.trouble
    assert delays[0] < delays[2] < delays[4] < delays[7] <= RETRY_MAX_SECONDS
    assert shown(link) == {"left": LACKING, "right": WHOLE}
    assert (link.glance().interfaces, link.glance().wanted) == (("right",), 2)
    assert link.describe().interfaces == ("right",)
    refuse()
    link.network_changed()
    assert (link.trouble, link.retry_at) == ("", None)
    assert shown(link) == {"left": WHOLE, "right": WHOLE}
    assert link.glance().interfaces == ("left", "right")


@pytest.mark.parametrize("group", GROUPS)
def test_another_subscriptions_rejoin_that_costs_a_membership_tells_its_owner(
    stack: ExitStack, refuse: Callable[..., None], group: str
) -> None:
    memberships, address = Memberships(), ipaddress.ip_address(group)
    one, two = (
        SocketReceiver(address, free_port(), interface="left", memberships=memberships) for _ in range(2)
    )
    stack.callback(one.close)
    stack.callback(two.close)
    lost: list[str] = []
    two.on_lost = lambda: lost.append("two")
    refuse("left")
    one.rejoin()
    assert lost == ["two"]
    with pytest.raises(LinkError, match="no buffer space available"):
        two.network_changed()
    refuse()
    two.network_changed()
    assert shown(two) == {"left": WHOLE}


def test_a_daemon_that_is_refused_says_so_and_joins_again_by_itself(stack: ExitStack, tmp_path: Path) -> None:
    """A real limit of the kernel: net.ipv4.igmp_max_memberships."""
    host, net = stack.enter_context(Host()), stack.enter_context(Host())
    for n in (0, 1):
        connect(host, f"eth{n}", net, f"n{n}")
        host.ip(f"addr add 10.75.{n}.1/24 dev eth{n}")
        net.ip(f"addr add 10.75.{n}.2/24 dev n{n}")
    config = "".join(
        f'[inbound.{name}]\ngroup = "{GROUPS[0]}"\nport = 9275\ninterface = "{interface}"\n'
        f'rejoin_every = "300ms"\noutput = "{tmp_path / name}.log"\n'
        for name, interface in (("one", "eth0"), ("all", "all"))
    )
    config += (
        '[inbound.ssm]\ngroup = "232.7.7.5"\nport = 9276\ninterface = "eth0"\nsources = ["10.75.0.2"]\n'
        f'rejoin_every = "300ms"\noutput = "{tmp_path}/ssm.log"\n'
    )
    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        assert {worker["state"] for worker in daemon.workers().values()} == {"active"}
        sysctl(host, ipv4__igmp_max_memberships=0)
        for name in ("one", "all", "ssm"):
            detail = wait_for(
                lambda name=name: (
                    (worker := daemon.worker(f"inbound/{name}"))["state"] == "auto-restart"
                    and worker["detail"]
                ),
                name,
            )
            assert "cannot join" in detail
            assert detail.endswith("; raise net.ipv4.igmp_max_memberships")
        assert daemon.ctl("status").returncode == 3
        sysctl(host, ipv4__igmp_max_memberships=20)
        for name in ("one", "all", "ssm"):
            daemon.wait_state(f"inbound/{name}", "active")
        sock = stack.enter_context(sender(net, "n0", "10.75.0.2"))

        def heard() -> bool:
            sock.sendto(b"again\n", (GROUPS[0], 9275))
            return all(b"again" in (tmp_path / f"{name}.log").read_bytes() for name in ("one", "all"))

        wait_for(heard)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("when", ["to be joined", "joined"])
def test_an_interface_that_has_just_gone_is_not_refused_but_wanted_no_more(
    stack: ExitStack, group: str, when: str
) -> None:
    """The host was looked at while it was still there."""
    ip("link add third type veth peer name fourth")
    ip("link set third up")
    ip("link set fourth up")
    hosts = [look()]
    if when == "to be joined":
        ip("link del third")
    link = SocketReceiver(
        ipaddress.ip_address(group), free_port(), interface=("left", "third"), host=lambda: hosts[-1]
    )
    stack.callback(link.close)
    if when == "joined":
        assert link.describe().interfaces == (
            "left",
            "third",
        )
        ip("link del third")
        link.rejoin()  # which finds it gone
        link.network_changed()
    assert (link.trouble, link.retry_at) == ("", None)
    assert shown(link) == {"left": WHOLE}
    assert (link.glance().interfaces, link.glance().wanted) == (("left",), 1)
    hosts.append(look())
    link.network_changed()
    assert link.problem == "third: no such interface; waiting for it"


OPTMEM_MAX = Path("/proc/sys/net/core/optmem_max")  # of each namespace since Linux 6.9
MAX_MSF = Path("/proc/sys/net/ipv4/igmp_max_msf")


@pytest.mark.root
@pytest.mark.skipif(not os.access(OPTMEM_MAX, os.W_OK), reason="the kernel has no optmem_max for a namespace")
@pytest.mark.parametrize(
    ("group", "sources", "limits", "way_out"),
    [
        ("239.255.7.6", 30, {MAX_MSF: 29}, "name fewer sources, or raise net.ipv4.igmp_max_msf"),
        (
            "239.255.7.6",
            30,
            {MAX_MSF: 31, OPTMEM_MAX: 2000},
            "name fewer sources, or raise net.core.optmem_max",
        ),
        ("239.255.7.6", 1, {OPTMEM_MAX: 30}, "raise net.core.optmem_max"),
        ("ff15::76", 30, {OPTMEM_MAX: 2000}, "net.core.optmem_max"),
        ("ff15::76", 1, {OPTMEM_MAX: 30}, "raise net.core.optmem_max"),
    ],
)
def test_of_two_limits_the_one_that_is_too_low_is_named(
    stack: ExitStack, group: str, sources: int, limits: dict[Path, int], way_out: str
) -> None:
    address = ipaddress.ip_address(group)
    named = tuple(ipaddress.ip_address(int(NOBODY[address.version]) + n) for n in range(1, sources + 1))
    for path, value in limits.items():
        stack.callback(path.write_text, path.read_text())
        path.write_text(f"{value}\n")
    with pytest.raises(LinkError) as refused:
        SocketReceiver(address, free_port(), interface="left", source_filter=SourceFilter(False, named))
    assert refused.value.way_out.endswith(way_out)
    assert ("igmp_max_msf" in refused.value.way_out) == ("igmp_max_msf" in way_out)
