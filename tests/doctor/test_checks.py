"""Each check on evidence that is given to it: what it says, and when it keeps silent."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mcastd.config import DirectoryOutput, FluteInbound, InboundSubscription, OutboundChannel, RawInbound
from mcastd.doctor import (
    configuration,
    copies,
    files,
    interfaces,
    lateness,
    memberships,
    neighbours,
    outputs,
    permits,
    received_files,
    sending,
    sequences,
    surroundings,
    transport_streams,
    worker,
)
from mcastd.doctor.evidence import Evidence, Troubles
from mcastd.doctor.examine import CHECKS
from mcastd.doctor.finding import Finding, Skipped
from mcastd.doctor.subject import Subject, is_of
from mcastd.doctor.watch import Kernel, Observation
from mcastd.errors import CannotAskError
from mcastd.net import socket_owners, tables
from mcastd.net.interfaces import Host, Interface
from mcastd.net.routes import NO_ROUTE, Route
from mcastd.net.ruleset import Ruleset

UP, LOOPBACK, RUNNING, MULTICAST, DORMANT = 0x1, 0x8, 0x40, 0x1000, 0x20000
ALL = UP | RUNNING | MULTICAST
GROUP = "239.255.6.1"


def eth(
    index: int = 2,
    flags: int = ALL,
    addresses: Iterable[str] = ("10.6.0.1", "fe80::1"),
    kind: str = "",
    master: tuple[int, str] = (0, ""),
) -> Interface:
    addresses, (above, port_of) = tuple(map(ip_address, addresses)), master
    return Interface(index, f"eth{index - 2}", flags, 0, addresses, kind, master=above, port_of=port_of)


LO = Interface(1, "lo", UP | RUNNING | LOOPBACK, 0, (ip_address("127.0.0.1"), ip_address("::1")))


def inbound(
    status: dict[str, Any] | None = None, state: str = "active", detail: str = "", **settings: Any
) -> Subject:
    settings = {"group": GROUP, "port": 9190, "interface": "eth0", "output": "/dev/null", **settings}
    return Subject("inbound/news", InboundSubscription(**settings), state, detail, status or {})


def outbound(name: str = "outbound/news", **settings: Any) -> Subject:
    settings = {"group": GROUP, "port": 9190, "interface": "eth0", "source": "/etc/hosts", **settings}
    return Subject(name, OutboundChannel(**settings), "active")


class Given(Evidence):
    """Evidence of these interfaces, joined groups and files."""

    def __init__(
        self,
        *have: Interface,
        subjects: Iterable[Subject] = (),
        route: int | None = None,
        joined: dict[int, Iterable[str]] | None = None,
        seconds: float | None = None,
        root: Path = Path("/nowhere"),
        text: dict[str, str] | None = None,
    ) -> None:
        host = Host({one.index: one for one in (LO, *have)}, 0.0)
        groups = {index: frozenset(map(ip_address, of)) for index, of in (joined or {}).items()}
        host._groups = {4: groups, 6: groups}
        super().__init__(
            tuple(subjects),
            None if seconds is None else Observation(seconds),
            look=lambda: host,
            route_to=lambda _, by=0: (
                NO_ROUTE if route is None else Route(route, local=by == route == LO.index)
            ),
            root=root,
        )
        self.read = (text or {}).get  # type: ignore[assignment,method-assign]


def said(check: Any, subject: Subject, evidence: Evidence) -> list[tuple[str, str]]:
    """Causes and severities; what is skipped by its check. Nothing of a worker that the check is not for."""
    found = list(check(subject, evidence)) if is_of(subject, dict(CHECKS)[check]) else []
    for one in found:
        if isinstance(one, Finding):
            assert one.what
            assert one.fix
            assert all(one.evidence)
    return [
        (one.cause, str(one.severity)) if isinstance(one, Finding) else ("skipped", one.check)
        for one in found
    ]


@pytest.mark.parametrize(
    ("subject", "evidence", "expected"),
    [
        (inbound(), Given(eth()), []),
        (inbound(interface=None), Given(eth(), route=2), []),
        (inbound(interface=None), Given(eth()), [("no-route", "broken")]),
        (inbound(interface="lo"), Given(eth()), []),
        (inbound(interface="lo", group="ff15::6"), Given(eth()), [("no-route", "broken")]),
        (inbound(interface="lo", group="ff15::6"), Given(eth(), route=1), []),
        (inbound(interface=["lo", "eth0"], group="ff15::6"), Given(eth()), [("no-route", "warning")]),
        (outbound(interface="::1", group="ff15::6"), Given(eth(), route=2), [("no-route", "broken")]),
        (inbound(interface=None), Given(eth(), route=7), [("no-route", "broken")]),
        (inbound(), Given(), [("interface-missing", "broken")]),
        (inbound(interface="10.6.0.9"), Given(eth()), [("interface-missing", "broken")]),
        (inbound(interface="10.6.0.1"), Given(eth()), []),
        (inbound(interface="all"), Given(eth()), []),
        (inbound(interface="all"), Given(), [("interface-missing", "broken")]),
        # one without a carrier is no trouble while another has one
        (inbound(interface="all"), Given(eth(flags=UP | MULTICAST), eth(3)), []),
        (inbound(interface="all"), Given(eth(flags=UP | MULTICAST)), [("no-carrier", "broken")]),
        (inbound(), Given(eth(flags=MULTICAST)), [("interface-down", "broken")]),
        (inbound(), Given(eth(flags=UP | MULTICAST)), [("no-carrier", "broken")]),
        (inbound(), Given(eth(flags=UP | MULTICAST | DORMANT)), [("no-carrier", "broken")]),
        (inbound(), Given(eth(flags=UP | RUNNING)), [("no-multicast-flag", "hint")]),
        (inbound(interface="lo"), Given(), []),
        # of several
        (inbound(interface=["eth0", "wg*"]), Given(eth()), []),
        (inbound(interface=["eth0", "eth7"]), Given(eth()), [("interface-missing", "warning")]),
        (inbound(interface=["eth0", "10.6.9.9"]), Given(eth()), [("interface-missing", "warning")]),
        (inbound(interface=["eth5", "eth7"]), Given(eth()), [("interface-missing", "broken")]),
        (inbound(interface="wg*"), Given(eth()), [("interface-missing", "broken")]),
        (
            inbound(interface=["eth0", "eth1"]),
            Given(eth(), eth(3, flags=UP | MULTICAST)),
            [("no-carrier", "warning")],
        ),
        (inbound(interface=["eth0", "e*1"]), Given(eth(), eth(3, flags=MULTICAST)), []),
        (
            inbound(interface=["eth0", "eth1"]),
            Given(eth(), eth(3), subjects=[outbound(interface="eth1")]),
            [],
        ),
        (
            inbound(interface=["eth0", "wg*"]),
            Given(eth(), eth(3), subjects=[outbound(interface="eth1")]),
            [("wrong-interface", "warning")],
        ),
        (inbound(), Given(eth(addresses=["fe80::1"])), [("no-address", "warning")]),
        (inbound(group="ff15::1"), Given(eth(addresses=["2001:db8::1"])), [("no-address", "warning")]),
        (inbound(group="ff15::1"), Given(eth()), []),
        (outbound(), Given(eth(addresses=["fe80::1"])), [("no-address", "broken")]),
        (outbound(group="ff15::1"), Given(eth(addresses=["2001:db8::1"])), []),
        (outbound(group="ff15::1"), Given(eth(addresses=["10.6.0.1"])), [("no-address", "broken")]),
        (inbound({"counters": {"received": 0}}), Given(eth(), eth(3), route=3), []),  # two links, and quiet
        (
            inbound(),
            Given(eth(), eth(3), subjects=[outbound(interface="eth1")]),
            [("wrong-interface", "warning")],
        ),
        (inbound(), Given(eth(), eth(3), subjects=[outbound(interface="eth1", port=9191)]), []),
    ],
)
def test_interface(subject: Subject, evidence: Evidence, expected: list[tuple[str, str]]) -> None:
    assert said(interfaces.interface, subject, evidence) == expected


@pytest.mark.parametrize("kind", ["bridge", "bond", "team", "openvswitch", "vrf", ""])
def test_a_master_of_some_kinds_takes_all_that_arrives(kind: str) -> None:
    port, master = eth(master=(9, kind)), eth(9, kind=kind, addresses=["10.6.9.1", "fe80::9"])
    takes = kind not in ("vrf", "")
    assert said(interfaces.interface, inbound(), Given(port, master)) == (
        [("port-of-bridge", "broken")] if takes else []
    )
    # who receives on all interfaces receives by the master
    names = [one.name for one in Given(port, master).ways(inbound(interface="all"))]
    assert names == (["eth7"] if takes else ["eth0", "eth7"])
    assert said(interfaces.interface, inbound(interface="all"), Given(port, master)) == []


def test_of_masters_the_outermost_is_named() -> None:
    port, bond = eth(master=(8, "bond")), eth(8, kind="bond", master=(9, "bridge"))
    bridge = eth(9, kind="bridge")
    found = list(interfaces.interface(inbound(), Given(port, bond, bridge)))
    assert [one.fix for one in found if isinstance(one, Finding)] == ['interface = "eth7" in [inbound.news]']


def test_a_route_is_not_proposed_by_a_port() -> None:
    have = eth(master=(9, "bridge")), eth(9, kind="bridge")
    (finding,) = interfaces.interface(inbound(interface=None), Given(*have))
    assert isinstance(finding, Finding)
    assert finding.fix.endswith("or: ip route add 224.0.0.0/4 dev eth7")


ROUTES = {
    "/proc/self/net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\n"
    "eth0\t0000060A\t00000000\t0001\t0\neth0\t00000000\t0200060A\t0003\t0\n"
}


@pytest.mark.parametrize(
    ("check", "subject", "evidence", "expected"),
    [
        (sending.ttl, outbound(), Given(eth()), []),
        (sending.ttl, outbound(), Given(eth(), text=ROUTES), [("ttl-one", "hint")]),
        (sending.ttl, outbound(ttl=2), Given(eth(), text=ROUTES), []),
        (sending.ttl, outbound(group="224.0.0.251"), Given(eth(), text=ROUTES), []),
        (sending.ttl, outbound(group="224.0.0.251", ttl=2), Given(eth()), [("ttl-link-local", "warning")]),
        (sending.ttl, outbound(interface="lo", ttl=0), Given(), []),
        (sending.ttl, outbound(ttl=0), Given(eth()), [("ttl-zero", "warning")]),
        (sending.ttl, outbound(ttl=0), Given(eth(), subjects=[inbound()]), []),
        (sending.ttl, inbound(), Given(eth(), text=ROUTES), []),
        (sending.loop, inbound(), Given(eth(), subjects=[outbound()]), []),
        (sending.loop, inbound(), Given(eth(), subjects=[outbound(loop=False)]), [("loop-off", "warning")]),
        (sending.loop, inbound(port=1), Given(eth(), subjects=[outbound(loop=False)]), []),
        (sending.two_senders, outbound(), Given(subjects=[outbound()]), []),
        (
            sending.two_senders,
            outbound(),
            Given(subjects=[outbound(), outbound("outbound/more")]),
            [("two-senders", "hint")],
        ),
    ],
)
def test_sending(check: Any, subject: Subject, evidence: Evidence, expected: list[tuple[str, str]]) -> None:
    assert said(check, subject, evidence) == expected


def test_the_router_that_a_hint_names_is_the_one_of_the_table() -> None:
    (finding,) = sending.ttl(outbound(), Given(eth(), text=ROUTES))
    assert "a router on eth0: 10.6.0.2 (/proc/net/route)" in finding.evidence


def member(actual: str | None, wanted: str = "any") -> dict[str, Any]:
    return {
        "memberships": [
            {"interface": "eth0", "ifindex": 2, "group": GROUP, "wanted": wanted, "actual": actual}
        ]
    }


JOINED = {2: [GROUP]}


@pytest.mark.parametrize(
    ("status", "joined", "expected"),
    [
        ({}, {}, []),
        (member("any"), JOINED, []),
        (member("unknown"), JOINED, []),  # without ctypes
        (member(None), JOINED, [("membership-lost", "broken")]),
        (member("any"), {}, []),  # the table cannot be read
        (member("any"), {3: [GROUP]}, [("membership-lost", "broken")]),
        (member("any", "include 10.6.0.2"), JOINED, [("membership-differs", "warning")]),
    ],
)
def test_membership(status: dict[str, Any], joined: dict[int, Any], expected: list[tuple[str, str]]) -> None:
    evidence = Given(eth(), joined=joined)
    assert said(memberships.membership, inbound(status), evidence) == expected


def test_a_membership_that_is_refused_is_told_with_its_reason_and_needs_no_restart() -> None:
    status = member(None)
    status["memberships"][0] |= {"refused": "cannot join: no buffer space available", "retry_in": 3.2}
    (finding,) = memberships.membership(inbound(status), Given(eth(), joined=JOINED))
    assert isinstance(finding, Finding)
    assert "no buffer space available" in finding.evidence[-1]
    assert "stop-worker" not in finding.fix


def sysctls(**values: int) -> dict[str, str]:
    """IGMP's of eth0 and of all interfaces; MLD's are 0."""
    names = {
        f"/proc/sys/net/{family}/conf/{conf}/force_{protocol}_version": "0"
        for family, protocol in (("ipv4", "igmp"), ("ipv6", "mld"))
        for conf in ("all", "eth0")
    }
    given = {
        f"/proc/sys/net/ipv4/conf/{conf}/force_igmp_version": str(value) for conf, value in values.items()
    }
    return {**names, **{f"/proc/sys/net/ipv{v}/conf/all/forwarding": "0" for v in (4, 6)}, **given}


IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
2\teth0      :     2      V{}
\t\t\t\t0106FFEF     1 0:00000000\t\t0
"""
SOURCES = ["10.6.0.2"]


@pytest.mark.parametrize(
    ("subject", "text", "expected"),
    [
        (inbound(), sysctls(), []),
        (inbound(), sysctls(eth0=3), []),
        (inbound(), sysctls(eth0=2), [("igmp-forced", "hint")]),
        (inbound(sources=SOURCES), sysctls(all=1), [("igmp-forced", "warning")]),
        (inbound(group="ff15::1"), sysctls(all=2), []),  # that is IPv4's
        (
            inbound(sources=SOURCES),
            {**sysctls(), "/proc/self/net/igmp": IGMP.format(2)},
            [("igmp-old-querier", "warning")],
        ),
        (inbound(sources=SOURCES), {**sysctls(), "/proc/self/net/igmp": IGMP.format(3)}, []),
        (inbound(), {**sysctls(), "/proc/self/net/igmp": IGMP.format(2)}, []),
        (inbound(), {}, [("skipped", "report-version")]),
        (inbound(interface="lo"), {}, []),
    ],
)
def test_report_version(subject: Subject, text: dict[str, str], expected: list[tuple[str, str]]) -> None:
    assert said(memberships.report_version, subject, Given(eth(), text=text)) == expected


def leg(port: int, trouble: str = "") -> dict[str, Any]:
    return {"group": "239.255.1.9", "port": port, "sent": 5, "dropped": {"no-way": 7}, "trouble": trouble}


def test_a_way_that_is_down_is_named_with_what_mends_its_interface() -> None:
    subject = outbound(copies=[{"group": "239.255.1.9", "interface": "eth1", "port": 9191}])
    down = eth(3, flags=MULTICAST, addresses=("10.6.1.1",))
    well = {"legs": [leg(9190), leg(9191)]}
    assert said(copies.copies, replace(subject, status=well), Given(eth(), down)) == []
    ill = replace(subject, status={"legs": [leg(9190), leg(9191, "eth1 has no carrier")]})
    (found,) = copies.copies(ill, Given(eth(), down))
    assert isinstance(found, Finding)
    assert (found.cause, found.severity, found.fix) == ("leg-down", "warning", "ip link set eth1 up")
    assert "239.255.1.9 port 9191" in found.what
    (found,) = copies.copies(ill, Given(eth(), eth(3, addresses=("10.6.1.1",))))
    assert isinstance(found, Finding)
    assert found.fix == "journalctl -u mcastd MCASTD_WORKER=outbound/news", "the interface is well"
    (found,) = copies.copies(ill, Given(eth()))
    assert isinstance(found, Finding)
    assert found.fix.startswith("name one that there is as interface in copies[0] of [outbound.news]")


def test_a_line_for_a_copy_is_none_for_its_channel() -> None:
    subject = outbound(interface="eth0", copies=[{"group": "239.255.1.9"}])
    ill = replace(subject, status={"legs": [leg(9190), leg(9190, "no route")]})
    (found,) = copies.copies(ill, Given(eth()))
    assert isinstance(found, Finding)
    assert 'interface = "eth0" in copies[0] of [outbound.news], or: ip route add' in found.fix
    assert [way.table for way in found.ways] == [""]
    assert found.ways[0].command.startswith("ip route add")


RECORDED = {"framing": "capture", "timing": "capture"}


@pytest.mark.parametrize(
    "case",
    [
        (RECORDED, 5, 0.5, os.SCHED_OTHER, ["sends-late"]),
        (RECORDED, 3, 0.5, os.SCHED_OTHER, []),  # so few may be anything
        (RECORDED, 5, 0.004, os.SCHED_OTHER, []),  # it did not wait for a processor
        (RECORDED, 5, 0.5, os.SCHED_FIFO, []),
        ({"interval": "1ms"}, 5, 0.5, os.SCHED_OTHER, []),  # it has no times to keep
    ],
)
def test_lateness(
    case: tuple[dict[str, Any], int, float, int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, late, waited, policy, expected = case
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: policy)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    before, after = ({"counters": {"sent": sent, "late": of}} for sent, of in ((100, 2), (500, 2 + late)))
    subject = replace(outbound(**settings), status=after, earlier=before)
    given = Given(eth(), seconds=1.0)
    assert given.observation is not None
    kernel = Kernel({}, (), Ruleset(), waited=7.0)
    given.observation = replace(given.observation, before=kernel, after=replace(kernel, waited=7.0 + waited))
    found = [*lateness.lateness(subject, given)]
    assert [one.cause for one in found if isinstance(one, Finding)] == expected
    for one in found:
        assert isinstance(one, Finding)
        assert one.fix == f"chrt --all-tasks --fifo --pid 10 {os.getpid()}"


def lost(number: int, overflow: int = 0) -> dict[str, Any]:
    """The status of a subscription that misses so many numbers."""
    sender = {"address": "192.0.2.7", "counters": {"lost": number}}
    return {
        "counters": {"overflow": overflow},
        "sequence": {"counters": {"lost": number}, "senders": [sender]},
    }


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ({}, {}, []),
        (lost(0), lost(0), []),
        (lost(7), lost(2), [("network-loss-now", "broken")]),
        (lost(7, 9), lost(2, 3), [("network-loss-now", "broken")]),
        (lost(7, 9), lost(2, 9), [("network-loss-now", "broken")]),
        (lost(7), lost(7), [("network-loss-earlier", "hint")]),
        (lost(7, 4), {}, [("network-loss-earlier", "hint")]),  # nobody watched
    ],
)
def test_network_loss(now: dict[str, Any], before: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    settings = inbound().settings
    subject = Subject("inbound/news", settings, "active", status=now, earlier=before)
    evidence = Given(eth(), seconds=1.0)
    assert said(sequences.network_loss, subject, evidence) == expected
    for found in sequences.network_loss(subject, evidence):
        assert isinstance(found, Finding)
        here = now["counters"]["overflow"] - (before["counters"]["overflow"] if before else 0)
        assert ("not this host" in found.what) == (here == 0)


def stream(errors: dict[str, int], trouble: str | None = None, **more: object) -> dict[str, Any]:
    """The status of a subscription whose transport stream has had these errors."""
    ages = dict.fromkeys(errors, 7.5)
    return {"ts": {"trouble": trouble, "counters": {"errors": errors}, "last_error_ages": ages, **more}}


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ({}, {}, []),
        (stream({}), stream({}), []),
        (stream({"PAT_error": 0}), {}, []),
        (
            stream({"PAT_error": 3, "CRC_error": 9}),
            stream({"PAT_error": 1, "CRC_error": 9}),
            ["ts-errors-now"],
        ),
        (stream({"PAT_error": 3}), stream({"PAT_error": 3}), ["ts-errors-earlier"]),
        (stream({"PAT_error": 3}), {}, ["ts-errors-earlier"]),  # nobody watched
    ],
)
def test_errors_of_a_transport_stream(
    now: dict[str, Any], before: dict[str, Any], expected: list[str]
) -> None:
    subject = Subject("inbound/news", inbound().settings, "active", status=now, earlier=before)
    found = [*transport_streams.errors(subject, Given(eth(), seconds=1.0))]
    assert [one.cause for one in found if isinstance(one, Finding)] == expected
    if expected == ["ts-errors-now"]:
        assert isinstance(found[0], Finding)
        assert found[0].evidence[0] == "PAT_error 2 in 1 s"


def test_whole_packets_in_each_datagram_are_asked_for_where_only_they_are_missing() -> None:
    for before, errors, has_cut in (
        ({"PAT_error": 2, "Datagram_error": 1}, {"PAT_error": 2, "Datagram_error": 5}, True),
        ({"PAT_error": 2}, {"PAT_error": 3, "Datagram_error": 5}, False),
        ({"Datagram_error": 5}, {"Datagram_error": 5}, True),
        ({"PAT_error": 2, "Datagram_error": 5}, {"PAT_error": 2, "Datagram_error": 5}, False),
    ):
        now, earlier = stream(errors), stream(before)
        subject = Subject("inbound/news", inbound().settings, "active", status=now, earlier=earlier)
        (found,) = transport_streams.errors(subject, Given(eth(), seconds=1.0))
        assert isinstance(found, Finding)
        assert ("pkt_size=1316" in (found.fix or "")) == has_cut


@pytest.mark.parametrize(
    ("trouble", "resembles_rtp", "part"),
    [
        ("no-sync", False, "188 bytes"),
        ("no-sync", True, "188 bytes"),
        ("no-pat", True, "PAT"),
        ("no-pmt", False, "PMT"),
        ("no-pid", False, "pictures"),
    ],
)
def test_a_stream_that_cannot_be_shown(trouble: str, resembles_rtp: bool, part: str) -> None:
    subject = inbound(stream({"PAT_error": 3}, trouble, resembles_rtp=resembles_rtp))
    (found,) = transport_streams.unusable(subject, Given(eth()))
    assert isinstance(found, Finding)
    assert (found.cause, found.severity) == ("ts-unusable", "broken")
    assert part in found.what
    assert [way.lines for way in found.ways] == [('protocol = "rtp"',)] * (
        resembles_rtp and trouble == "no-sync"
    )
    assert not [*transport_streams.unusable(inbound(stream({"PAT_error": 3})), Given(eth()))]


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ({}, {}, []),
        ({"counters": {"overflow": 0}}, {"counters": {"overflow": 0}}, []),
        ({"counters": {"overflow": 7}}, {"counters": {"overflow": 2}}, [("overflow-now", "broken")]),
        (
            {"counters": {"overflow": 7}, "last_overflow_age": 9.0},
            {"counters": {"overflow": 7}},
            [("overflow-earlier", "warning")],
        ),
        ({"counters": {"overflow": 7}}, {}, [("overflow-earlier", "warning")]),  # nobody watched
        ({"counters": {"overflow": 7}, "last_overflow_age": None}, {}, []),  # in a smaller buffer
    ],
)
def test_overflow(now: dict[str, Any], before: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    settings = inbound().settings
    subject = Subject("inbound/news", settings, "active", status=now, earlier=before)
    assert said(memberships.overflow, subject, Given(eth(), seconds=1.0)) == expected


@pytest.mark.parametrize(
    ("had", "expected"), [(None, []), (4096, []), (4095, [("receive-buffer-small", "warning")])]
)
def test_receive_buffer(had: int | None, expected: list[tuple[str, str]]) -> None:
    subject = inbound({"receive_buffer": {"asked": 4096, "had": had, "advice": None}})
    assert said(memberships.receive_buffer, subject, Given()) == expected


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (inbound(), []),
        (inbound(state=""), []),
        (inbound(state="", detail="cannot join: no such device"), [("worker-waiting", "broken")]),
        (inbound(state="auto-restart", detail="cannot join: no; wait"), [("worker-waiting", "broken")]),
        (inbound(state="failed", detail="crashed: KeyError"), [("worker-crashed", "broken")]),
        (inbound(state="inactive"), [("worker-stopped", "hint")]),
        (replace(inbound(detail="odd"), troubled=True, since=7.0), [("worker-degraded", "warning")]),
        (replace(inbound(detail="odd"), troubled=True, since=3.0), []),
        (inbound({"stale": True, "last_datagram_age": None}, expect_every=5), [("stale", "broken")]),
        (inbound({"stale": False}, expect_every=5), []),
    ],
)
def test_worker(subject: Subject, expected: list[tuple[str, str]]) -> None:
    assert said(worker.worker, subject, Given()) == expected


def test_the_fix_of_a_worker_that_waits_is_the_errors_own_way_out() -> None:
    waiting = inbound(state="auto-restart", detail="cannot join: no; yes; wait")
    (found,) = worker.worker(replace(waiting, way_out="set it; then wait"), Given())
    assert isinstance(found, Finding)
    assert found.fix == "set it; then wait"
    (found,) = worker.worker(replace(waiting, waits="waiting for one"), Given())
    assert isinstance(found, Finding)
    assert found.fix == "mend the cause, and it goes on by itself: it is waiting for one"
    (found,) = worker.worker(waiting, Given())
    assert isinstance(found, Finding)
    assert found.fix == "journalctl -u mcastd MCASTD_WORKER=inbound/news"


# -- files: real ones; who may not read what is shown in the gallery


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_text("news\n"), []),
        (lambda path: None, [("source-missing", "broken")]),
        (lambda path: path.mkdir(), [("source-not-a-file", "broken")]),
        (lambda path: path.touch(), [("source-empty", "broken")]),
        (os.mkfifo, []),
    ],
)
def test_source(tmp_path: Path, make: Any, expected: list[tuple[str, str]]) -> None:
    make(tmp_path / "news")
    assert said(files.source, outbound(source=str(tmp_path / "news")), Given()) == expected


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, {"held": 3, "dropped": {"no-fdt": 4, "expired": 5}}, []),
        ({}, {"held": 3}, []),  # what describes them may be on its way
        ({"dropped": {"no-fdt": 4, "expired": 5}}, {"dropped": {"no-fdt": 4, "expired": 5}}, []),
        ({"held": 3}, {"held": 6}, [("files-undescribed", "broken")]),
        ({"dropped": {"no-fdt": 4}}, {"dropped": {"no-fdt": 7}}, [("files-undescribed", "broken")]),
        ({"dropped": {"expired": 4}}, {"dropped": {"expired": 5}}, [("clock-wrong", "broken")]),
        ({"held": 3}, {"held": 6, "dropped": {"expired": 5}}, [("clock-wrong", "broken")]),
        ({"dropped": {"wrong-key": 4}}, {"dropped": {"wrong-key": 5}}, [("wrong-key", "broken")]),
        ({"dropped": {"wrong-key": 5}}, {"dropped": {"wrong-key": 5}}, []),
        (
            {"held": 3, "dropped": {"wrong-key": 5}},
            {"held": 6, "dropped": {"wrong-key": 5}},
            [("wrong-key", "broken")],
        ),
    ],
)
def test_files_that_nothing_describes(
    tmp_path: Path,
    before: dict[str, object] | None,
    now: dict[str, object],
    expected: list[tuple[str, str]],
) -> None:
    settings = inbound(output=str(tmp_path / "news")).settings
    for protocol, found in ((FluteInbound(), expected), (RawInbound(), [])):
        subject = Subject(
            "inbound/news",
            settings.model_copy(update={"protocol": protocol}),
            "active",
            status={"counters": now},
            earlier=None if before is None else {"counters": before},
        )
        assert said(received_files.descriptions, subject, Given()) == found


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.mkdir(), []),
        (lambda path: path.touch(), []),
        (lambda path: None, [("source-missing", "broken")]),
        (os.mkfifo, [("source-not-a-file", "broken")]),
    ],
)
def test_a_source_of_whole_files(tmp_path: Path, make: Any, expected: list[tuple[str, str]]) -> None:
    make(tmp_path / "news")
    channel = outbound(source=str(tmp_path / "news"), protocol="flute", rate="3Mbit")
    assert said(files.source, channel, Given()) == expected


def test_a_followed_source_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "news").touch()
    assert said(files.source, outbound(source=str(tmp_path / "news"), follow=True), Given()) == []


def told(path: Path, error: str | None, reason: str | None, **dropped: int) -> dict[str, Any]:
    counters = {"dropped": {key.replace("_", "-"): count for key, count in dropped.items()}}
    return {"outputs": [{"path": str(path), "error": error, "reason": reason, "counters": counters}]}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((None, None, 0), (None, None, 0), []),
        (("nobody", "no-reader", 3), ("nobody", "no-reader", 5), [("fifo-no-reader", "warning")]),
        (("nobody", "no-reader", 3), ("nobody", "no-reader", 3), [("fifo-no-reader", "hint")]),
        ((None, None, 0), ("cannot write: quota; wait", "no-space", 0), [("output-failing", "broken")]),
    ],
)
def test_a_fifo(tmp_path: Path, before: Any, now: Any, expected: list[tuple[str, str]]) -> None:
    path = tmp_path / "pipe"
    settings = inbound(output={"kind": "fifo", "path": str(path)}).settings
    earlier, status = (told(path, error, reason, no_reader=count) for error, reason, count in (before, now))
    subject = Subject("inbound/news", settings, "active", status=status, earlier=earlier)
    assert said(outputs.outputs, subject, Given()) == expected
    for finding in outputs.outputs(subject, Given()):
        assert isinstance(finding, Skipped) or "{" not in "".join(finding.evidence)


@pytest.mark.parametrize(
    ("error", "way_out", "reason", "problem", "fix"),
    [
        ("cannot send to it: no; add it", "add it", "refused", "cannot send to it: no", "add it"),
        ("cannot send to it: no; add it; looking", "add it", "refused", "cannot send to it: no", "add it"),
        (
            "cannot reach it: no route to host",
            "",
            "unreachable",
            "cannot reach it: no route to host",
            "ip route",
        ),
        ("cannot send to it: odd", "", "refused", "cannot send to it: odd", "by itself"),
    ],
)
def test_what_an_output_says_has_its_way_out_once(
    error: str, way_out: str, reason: str, problem: str, fix: str
) -> None:
    settings = inbound(output={"kind": "tcp", "to": "192.0.2.7:9000"}).settings
    given = {"path": settings.output[0].label, "error": error, "way_out": way_out, "reason": reason}
    counters = {"counters": {"dropped": {"full": 7}}}
    subject = Subject("inbound/news", settings, "active", status={"outputs": [given | counters]})
    (found,) = outputs.outputs(subject, Given())
    assert isinstance(found, Finding)
    assert found.what == problem
    assert fix in found.fix
    assert any("7" in one and "dropped" in one for one in found.evidence)


def handed(
    written: int, in_flight: int, server: str | None = "nats://192.0.2.7", error: str | None = None
) -> dict[str, Any]:
    engine = {
        "server": server,
        "waiting": in_flight + 5,
        "in_flight": in_flight,
        "spool": "/srv/spool",
        "spool_bytes": 0,
        "taken_up": 0,
        "duplicates": 0,
    }
    label = "nats 192.0.2.7:4222 TV"
    counters = {"written": written, "dropped": {}}
    return {"outputs": [{"path": label, "error": error, "counters": counters, "engine": engine}]}


@pytest.mark.parametrize(
    ("earlier", "status", "expected"),
    [
        (handed(3, 2), handed(3, 2), [("engine-silent", "warning")]),
        (handed(3, 2), handed(3, 7), [("engine-silent", "warning")]),
        (handed(3, 2), handed(4, 2), []),
        (handed(3, 0), handed(3, 2), []),  # sent just now
        (handed(3, 2), handed(3, 0), []),
        (handed(3, 2), handed(3, 2, None), []),  # it is being connected
        (handed(3, 2), handed(3, 2, error="no stream"), [("output-failing", "broken")]),
    ],
)
def test_a_server_that_acknowledges_nothing(
    earlier: dict[str, Any], status: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    settings = inbound(output={"kind": "nats", "servers": "nats://192.0.2.7", "stream": "TV"}).settings
    subject = Subject("inbound/news", settings, "active", status=status, earlier=earlier)
    assert said(outputs.outputs, subject, Given()) == expected


@pytest.mark.parametrize(
    ("output", "reason", "severity", "fix"),
    [
        (
            {"kind": "unix", "path": "/run/x"},
            "unreachable",
            "broken",
            "start the program that makes the socket",
        ),
        ({"kind": "tcp-server", "listen": "127.0.0.1:9"}, "no-reader", "warning", "have its program connect"),
        ({"kind": "tcp", "to": "host.example.net:9"}, "unreachable", "broken", "getent hosts NAME"),
        ({"kind": "tcp-server", "listen": "127.0.0.1:9"}, "full", "broken", "mend the cause"),
    ],
)
def test_an_output_to_a_program(output: dict[str, str], reason: str, severity: str, fix: str) -> None:
    settings = inbound(output=output).settings
    status = told(Path(settings.output[0].label), "cannot write to it: it is away", reason)
    (found,) = outputs.outputs(
        Subject("inbound/news", settings, "active", status=status, earlier=status), Given()
    )
    assert isinstance(found, Finding)
    assert (found.cause, found.severity) == ("output-failing", severity)
    assert fix in found.fix


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ({"states": {"landed": 5, "receiving": 2}, "loss_percent": 40.0}, []),
        ({"unrepaired": "cannot repair: raptorq is not installed"}, [("files-unrepaired", "warning")]),
        ({"short_blocks": 3}, [("loss-above-protection", "warning")]),
        ({"states": {"refused": 4}}, [("files-refused", "warning")]),
    ],
)
def test_a_directory_of_files(
    tmp_path: Path, objects: dict[str, object], expected: list[tuple[str, str]]
) -> None:
    output = DirectoryOutput(path=tmp_path)
    settings = inbound(output=str(tmp_path / "news")).settings.model_copy(update={"output": (output,)})
    status = told(tmp_path, None, None)
    status["outputs"][0]["objects"] = objects
    subject = Subject("inbound/news", settings, "active", status=status, earlier=status)
    assert said(outputs.outputs, subject, Given()) == expected


SIGNED = {"kind": "flute", "verify_keys": ["/etc/a.pub"]}
SEALED = {**SIGNED, "keys": ["/etc/one key", "/etc/two"]}


@pytest.mark.parametrize(
    ("protocol", "grown", "manifest", "expected", "fix"),
    [
        (SIGNED, {}, {}, [], ""),
        (SIGNED, {"wrong-key": 5}, {"serial": 7}, [], ""),  # another session beside
        (
            SIGNED,
            {"wrong-key": 5},
            {},
            ["wrong-key"],
            "copy the sender's key file to this host, and name it in",
        ),
        (
            SEALED,
            {"wrong-key": 5},
            {},
            ["wrong-key"],
            "sha256sum '/etc/one key' /etc/two with the sender's, copy that",
        ),
        (SIGNED, {}, {"refused": "signature"}, ["wrong-key"], "which ends in .pub"),
        (SIGNED, {}, {"refused": "signature", "serial": 7}, [], ""),
        (SIGNED, {}, {"refused": "expired"}, ["clock-wrong"], "timedatectl"),
        (SIGNED, {}, {"refused": "not-yet-valid"}, ["clock-wrong"], "timedatectl"),
        (SIGNED, {"refused": 5}, {"refused": "expired", "serial": 7}, ["clock-wrong"], "timedatectl"),
        (SIGNED, {"replayed": 5}, {"refused": "expired", "serial": 7}, [], ""),  # it goes by the next one
        (SIGNED, {"refused": 5}, {"refused": "signature", "serial": 7}, [], ""),
        (SIGNED, {}, {"refused": "other-channel"}, ["manifest-refused"], "set channel of protocol in"),
        (SIGNED, {}, {"refused": "rolled-back"}, ["manifest-refused"], "set the sender's clock"),
        (SIGNED, {"replayed": 5}, {}, ["manifest-refused"], "set the sender's clock"),
        (SIGNED, {}, {"refused": "forged"}, ["manifest-refused"], "if that has no key, give it"),
        (SIGNED, {"foreign-session": 5}, {}, [], ""),  # of any session
        (
            SIGNED | {"session": 77},
            {"foreign-session": 5},
            {},
            ["wrong-session"],
            "set session of protocol in",
        ),
        (SIGNED | {"session": 77}, {"foreign-session": 5}, {"serial": 7}, [], ""),
        (SIGNED, {"no-fdt": 5}, {}, ["files-undescribed"], "see whether the sender has keys"),
        (SEALED, {"no-fdt": 5, "wrong-key": 5}, {}, ["wrong-key"], "mcastctl stop-worker inbound/news"),
    ],
)
def test_a_manifest_that_is_not_taken(
    *,
    protocol: dict[str, object],
    grown: dict[str, int],
    manifest: dict[str, object],
    expected: list[str],
    fix: str,
) -> None:
    output = {"kind": "directory", "path": "/srv/received"}
    status = {"counters": {"dropped": grown}, "manifest": {"refusal": "for a cause", **manifest}}
    subject = replace(inbound(status, protocol=protocol, output=output), earlier={"counters": {}})
    found = [one for one in received_files.descriptions(subject, Given()) if isinstance(one, Finding)]
    severity = "warning" if "serial" in manifest else "broken"  # the one before holds still
    assert [(one.cause, one.severity) for one in found] == [(cause, severity) for cause in expected]
    assert all(fix in one.fix for one in found)
    if "refused" in manifest:
        assert all("for a cause" in one.evidence[0] for one in found)


@pytest.mark.parametrize(
    ("rate", "repair", "expected"),
    [("800kbit", 0.0, ""), ("799kbit", 0.0, "800kbit"), ("800kbit", 10.0, "880kbit")],
)
def test_a_pass_that_outlasts_what_it_says(rate: str, repair: float, expected: str) -> None:
    files_status = {"total_bytes": 1_000_000, "repair_percent": repair, "described_seconds": 10.0}
    subject = replace(
        outbound(source="/srv", rate=rate, protocol={"kind": "flute"}), status={"files": files_status}
    )
    found = [one for one in sending.cycle(subject, Given()) if isinstance(one, Finding)]
    assert [(one.cause, one.severity) for one in found] == [("cycle-too-long", "warning")] * bool(expected)
    assert [one.ways[0].lines for one in found] == [(f'rate = "{expected}"',)] * bool(expected)
    assert said(sending.cycle, replace(subject, status={"files": {"total_bytes": 1}}), Given()) == []
    assert said(sending.cycle, outbound(), Given()) == []


@pytest.mark.parametrize(
    ("sent_bytes", "total_bytes", "passes", "refused", "expected"),
    [
        (790_000, 1_000_000, 1, 0, 'rate = "1580kbit"'),
        (810_000, 1_000_000, 1, 0, ""),
        (790_000, 40_000, 1, 0, ""),  # a pass is over at once: most of the time is between them
        (790_000, 1_000_000, 0, 0, ""),  # it was looked through
        (790_000, 1_000_000, 1, 3, ""),  # the kernel took no more
        (0, 1_000_000, 1, 0, ""),
    ],
)
def test_a_rate_that_is_not_kept(
    sent_bytes: int, total_bytes: int, passes: int, refused: int, expected: str
) -> None:
    """At 4 Mbit/s a million bytes go in two seconds."""
    subject = outbound(source="/srv", rate="4Mbit", protocol={"kind": "flute"})
    files = {"total_bytes": total_bytes, "pass_number": passes}
    counters = {"sent": sent_bytes // 1000, "sent_bytes": sent_bytes, "refused": {"ENOBUFS": refused}}
    subject = replace(
        subject, earlier={"files": files, "counters": {}}, status={"files": files, "counters": counters}
    )
    found = [one for one in sending.pace(subject, Given(seconds=2.0)) if isinstance(one, Finding)]
    assert [(one.cause, one.severity) for one in found] == [("rate-not-kept", "warning")] * bool(expected)
    assert [one.ways[0].lines for one in found] == [(expected,)] * bool(expected)
    assert said(sending.pace, subject, Given()) == []
    assert said(sending.pace, outbound(rate="1Mbit"), Given(seconds=2.0)) == []


def test_files_that_are_not_sent() -> None:
    for refused, expected, fix in (
        ({}, [], ""),
        ({"link": 2, "changing": 3}, ["hint"], "move what is not to be sent elsewhere"),
        ({"link": 2, "unreadable": 4}, ["warning"], "chmod -R g+rX /srv"),
        ({"too-large": 5}, ["warning"], "with sign_key in protocol of [outbound.news] larger files are sent"),
    ):
        files_status = {"refused": refused, "refusals": ["one: permission denied"]}
        subject = outbound(source="/srv", rate="1kbit", protocol={"kind": "flute"})
        subject = replace(subject, status={"files": files_status})
        found = [one for one in sending.unsent(subject, Given()) if isinstance(one, Finding)]
        assert [(one.cause, one.severity) for one in found] == [("files-unsent", each) for each in expected]
        assert all(fix in one.fix and one.evidence[1] == "one: permission denied" for one in found)
    subject = replace(subject, status={"files": {"given_up": 6}})
    (finding,) = (one for one in sending.unsent(subject, Given()) if isinstance(one, Finding))
    assert (finding.severity, finding.evidence) == ("hint", ("refused: -; given_up: 6 (status)",))
    assert "rename them into it" in finding.fix
    assert said(sending.unsent, outbound(), Given()) == []


def test_a_backlog_that_drops() -> None:
    def kernel(dropped: int) -> Kernel:
        return Kernel({tables.BACKLOG_DROPPED: dropped}, (), Ruleset())

    evidence = Given(text={"/proc/sys/net/core/netdev_max_backlog": "3000"})
    assert list(surroundings.backlog(evidence)) == []
    for now, expected in ((7, []), (12, ["backlog-full"])):
        evidence.observation = Observation(2.0, before=kernel(7), after=kernel(now))
        found = [one for one in surroundings.backlog(evidence) if isinstance(one, Finding)]
        assert [one.cause for one in found] == expected
    (finding,) = found
    assert finding.evidence[0] == "5 dropped in 2 s (/proc/net/softnet_stat)"
    assert finding.ways[0].command == "sysctl net.core.netdev_max_backlog=12000"


def test_what_is_to_come_of_files_and_has_no_room(tmp_path: Path) -> None:
    output = DirectoryOutput(path=tmp_path)
    settings = inbound(output=str(tmp_path / "news")).settings.model_copy(update={"output": (output,)})
    free = os.statvfs(tmp_path).f_bfree * os.statvfs(tmp_path).f_frsize
    for more, expected in ((-free // 2, []), (free, [("no-room", "warning")])):
        status = told(tmp_path, None, None)
        status["outputs"][0]["objects"] = {"total_bytes": free + more + 1000, "present_bytes": 1000}
        subject = Subject("inbound/news", settings, "active", status=status, earlier=status)
        assert said(outputs.outputs, subject, Given()) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.mkdir(), []),
        (lambda path: None, []),
        (lambda path: path.touch(), [("output-wrong-kind", "broken")]),
        (lambda path: path.symlink_to("/dev/null"), [("output-wrong-kind", "broken")]),
    ],
)
def test_a_directory_that_is_to_have_files(
    tmp_path: Path, make: Any, expected: list[tuple[str, str]]
) -> None:
    make(tmp_path / "images")
    output = DirectoryOutput(path=tmp_path / "images")
    settings = inbound(output=str(tmp_path / "news")).settings.model_copy(update={"output": (output,)})
    assert said(outputs.outputs, Subject("inbound/news", settings, "active"), Given()) == expected


@pytest.mark.root
def test_a_directory_that_cannot_be_made_is_to_be_made_itself(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    subject = inbound(protocol="flute", output={"kind": "directory", "path": str(tmp_path / "images")})
    os.seteuid(65_534)
    try:
        found = [one for one in outputs.outputs(subject, Given()) if isinstance(one, Finding)]
    finally:
        os.seteuid(0)
    assert [(one.cause, one.fix) for one in found] == [
        ("output-directory", f"install -d -o nobody -g root {tmp_path}/images")
    ]


def test_a_pipe_of_notices_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "notices").touch()
    output = {"kind": "directory", "path": str(tmp_path), "notify": str(tmp_path / "notices")}
    found = list(outputs.outputs(inbound(protocol="flute", output=output), Given()))
    assert [(one.cause, one.fix) for one in found if isinstance(one, Finding)] == [
        ("output-wrong-kind", "give another path as notify of output in [inbound.news]")
    ]


def test_an_output_below_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    subject = inbound(output=str(tmp_path / "file" / "news.log"))
    assert said(outputs.outputs, subject, Given()) == [("output-directory", "broken")]


# -- directories that the service manager has made for this service alone

MOUNTED = "41 30 259:1 {what} {where} rw,relatime shared:7 - ext4 /dev/vda1 rw\n"


def service(root: Path, monkeypatch: pytest.MonkeyPatch, *private: str) -> None:
    """Be mcastd@radio.service, whose directories at ``private`` are its own."""
    unit = "mcastd@radio.service"
    mounts = MOUNTED.format(what="/", where="/")
    for where in private:
        what = f"{where}/systemd-private-7c0ffee-{unit}-Xy3{where}".replace("//", "/")
        mounts += MOUNTED.format(what=what, where=where)
    (root / "mountinfo").write_text(mounts)
    monkeypatch.setattr(permits, "MOUNTS", root / "mountinfo")
    monkeypatch.setattr(files, "own_unit", lambda: unit)
    monkeypatch.setenv("LOGS_DIRECTORY", "/var/log/mcastd/radio")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mcastd/radio:/run/other")


def test_a_source_in_a_directory_that_only_the_service_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service(tmp_path, monkeypatch, "/var/tmp")
    (finding,) = files.source(outbound(source="/var/tmp/no such/file"), Given())
    assert isinstance(finding, Finding)
    assert finding.cause == "source-missing"
    assert "; this service has a /var/tmp of its own" in finding.what
    assert finding.evidence[-1] == "/var/tmp is a mount of this service's own (mountinfo)"
    (way,) = finding.ways
    assert (way.unit, way.service) == ("mcastd@radio.service", "PrivateTmp=no")
    assert way.unit in finding.fix
    assert way.service in finding.fix
    (other,) = files.source(outbound(source="/tmp/no such/file"), Given())  # is everybody's
    assert isinstance(other, Finding)
    assert other.ways == ()
    assert "its own" not in f"{other}"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("{path}", 'output = "/var/log/mcastd/radio/news"'),
        (
            {"kind": "fifo", "path": "{path}"},
            'output = { kind = "fifo", path = "/run/mcastd/radio/news" }',
        ),
        ({"path": "{path}", "mode": "0644"}, ""),  # more is said of it: no line says it all
    ],
)
def test_an_output_in_a_directory_that_only_the_service_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Any, line: str
) -> None:
    path = str(tmp_path / "news")
    filled = path if isinstance(output, str) else {**output, "path": path}
    service(tmp_path, monkeypatch, str(tmp_path))
    (finding,) = outputs.outputs(inbound(output=filled), Given())
    assert isinstance(finding, Finding)
    assert (finding.cause, finding.severity) == ("output-private", "warning")
    assert [way.lines for way in finding.ways] == ([(line,)] if line else [])
    assert finding.fix == f"{line or 'give a path elsewhere as output'} in [inbound.news]"
    unread = inbound(told(Path(path), "nobody reads it", "no-reader"), output=filled)
    first, *_ = outputs.outputs(unread, Given())
    assert first == finding
    service(tmp_path, monkeypatch, str(tmp_path / "elsewhere"))
    assert list(outputs.outputs(inbound(output=filled), Given())) == []


# -- where it runs: given as files, since no machine of the tests has Wi-Fi or is a WSL


def at(root: Path, **text: str) -> Path:
    for name, content in text.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def on(root: Path, *have: Interface) -> Evidence:
    evidence = Given(*have, root=root)
    evidence.read = evidence._read  # type: ignore[method-assign]
    return evidence


def test_wsl(tmp_path: Path) -> None:
    assert [*surroundings.wsl(on(at(tmp_path, proc__version="Linux version 6.1.0-amd64")))] == []
    wsl = "Linux version 5.15.153.1-microsoft-standard-WSL2"
    (finding,) = surroundings.wsl(on(at(tmp_path, proc__version=wsl)))
    assert finding.cause == "wsl"


def test_container(tmp_path: Path) -> None:
    assert [*surroundings.container(on(tmp_path))] == []
    (finding,) = surroundings.container(on(at(tmp_path, run__systemd__container="systemd-nspawn\n")))
    assert finding.evidence == ("systemd-nspawn (/run/systemd/container)",)


@pytest.mark.parametrize(
    ("number", "way_out", "cause", "severity"),
    [
        (errno.EMFILE, "", "no-netlink", "broken"),
        (errno.EAFNOSUPPORT, "allow it", "netlink-forbidden", "warning"),
    ],
)
def test_netlink_that_is_short_or_forbidden(number: int, way_out: str, cause: str, severity: str) -> None:
    def look() -> Host:
        raise CannotAskError("cannot ask", "made up", way_out, waits="trying again", errno=number)

    (finding,) = surroundings.netlink(Evidence(look=look))
    assert (finding.cause, str(finding.severity)) == (cause, severity)  # type: ignore[union-attr]
    assert finding.fix == (way_out or "mend the cause, and it goes on by itself: it is trying again")  # type: ignore[union-attr]
    assert finding.evidence == (f"socket(AF_NETLINK): {errno.errorcode[number]}",)  # type: ignore[union-attr]


def test_what_the_daemon_cannot_do_beside_its_workers() -> None:
    evidence = Given()
    assert [*configuration.daemon(evidence)] == []
    evidence.troubles = Troubles("no metrics at 127.0.0.1:9465: taken", "the log is not taken: 7 lines wait")
    found = [one for one in configuration.daemon(evidence) if isinstance(one, Finding)]
    assert [(one.cause, str(one.severity), one.what) for one in found] == [
        ("metrics-unavailable", "warning", "no metrics at 127.0.0.1:9465: taken"),
        ("log-stalled", "warning", "the log is not taken: 7 lines wait"),
    ]


def test_kind_of_interface(tmp_path: Path) -> None:
    at(tmp_path, sys__class__net__eth0__ifindex="2\n", sys__class__net__eth0__phy80211__name="phy0")
    assert said(surroundings.kind_of_interface, inbound(), on(tmp_path, eth())) == [("wifi", "hint")]
    other = Interface(9, "eth0", ALL, 0)  # /sys is of another network namespace
    assert said(surroundings.kind_of_interface, inbound(), on(tmp_path, other)) == []
    for kind in ("veth", "bridge", "macvlan"):
        found = said(surroundings.kind_of_interface, inbound(), Given(eth(kind=kind)))
        assert found == [("virtual-interface", "hint")]
    assert said(surroundings.kind_of_interface, inbound(), Given(eth(kind="vlan"))) == []


def test_skips_name_a_check() -> None:
    (skipped,) = memberships.report_version(inbound(), Given(eth()))
    assert isinstance(skipped, Skipped)
    assert skipped.privileged


def test_whose_the_sockets_are_is_looked_up_once_for_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a look at all open files of the host, which may be tens of thousands."""
    looks: list[list[int]] = []
    owners = socket_owners.owners

    def counted(inodes: Iterable[int]) -> socket_owners.Owners:
        looks.append(list(inodes))
        return owners(looks[-1])

    monkeypatch.setattr(socket_owners, "owners", counted)
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(4)]
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", 0))
        ports = [sock.getsockname()[1] for sock in socks]
        subjects = [inbound(interface="lo", port=port) for port in ports[:3]]
        evidence = Evidence(subjects)
        for subject in subjects:
            (finding,) = neighbours.port(subject, evidence)
            assert isinstance(finding, Finding)
            assert f"(pid {os.getpid()})" in finding.evidence[0]
        inodes = {os.fstat(sock.fileno()).st_ino for sock in socks[:3]}
    assert [set(look) for look in looks] == [inodes]
