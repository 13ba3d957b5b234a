"""The checks of bridges, on made-up statuses."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from mcastd.config import Bridge
from mcastd.doctor import bridges
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding
from mcastd.doctor.subject import Subject
from mcastd.doctor.watch import Kernel, Observation
from mcastd.net.ruleset import Ruleset
from mcastd.net.tap import Flow, FlowKey, Traffic

SETTINGS = Bridge.model_validate(
    {"from": "eth1", "to": ["eth2", "eth3"], "groups": ["239.1.0.0/16"], "ttl_threshold": 5}
)
ROUTE = {"source": "192.0.2.7", "group": "239.1.1.1", "goes_to": ["eth2", "eth3"], "packets": 77}


def found(earlier: dict[str, Any] | None = None, **status: Any) -> list[Finding]:
    now = {"comes_by": ["eth1"], **status}
    subject = Subject("bridge/tv", SETTINGS, "active", status=now, earlier=earlier or now)
    said = list(bridges.forwarding(subject, Evidence()))
    assert all(isinstance(one, Finding) for one in said)
    return said  # type: ignore[return-value]


def test_a_bridge_that_is_well() -> None:
    member = {"interface": "eth2", "group": "239.1.1.1", "wanted": "any"}
    querier = {"interface": "eth2", "version": 4, "asks": True, "querier": "10.9.1.1"}
    assert found(routes=[ROUTE], route_count=1, members=[member], queriers=[querier]) == []


def test_what_does_not_leave_by_one_of_its_interfaces() -> None:
    (one,) = found(routes=[ROUTE], route_count=1, silent=["eth3"])
    assert (one.cause, one.severity) == ("bridge-ttl", "broken")
    assert "nothing leaves by eth3" in one.what
    assert "192.0.2.7 to 239.1.1.1: 77 packets came (status)" in one.evidence
    assert one.fix.startswith("have the sender set a TTL of 6 or more")
    keys = {
        "raise_ttl": True,
        "when": "always",
        "ports": [5004],
        "groups": ["239.1.1.1"],
        "sources": ["192.0.2.7"],
    }
    assert 'raise_ttl = true and when = "always", with ports, and groups and sources by themselves' in one.fix
    assert Bridge.model_validate({"from": "eth1", "to": "eth2", **keys}).needs_relay


def test_what_a_relay_does_not_hand_on_for_its_ttl() -> None:
    earlier, now = ({"dropped": {"ttl": count}} for count in (7, 90))
    (one,) = found({"counters": earlier}, counters=now)
    assert (one.cause, one.severity) == ("bridge-ttl", "broken")
    assert one.evidence == ("dropped for their TTL: 83 while watched, 90 in all (status)",)
    assert one.fix.endswith("or set raise_ttl = true and sources in [bridge.tv]")
    assert found({"counters": now}, counters=now) == []


def test_what_goes_in_a_circle() -> None:
    def said(**changes: Any) -> list[object]:
        key = FlowKey("eth1", False, ip_address("239.1.1.1"), 5004, ip_address("192.0.2.7"), 0)
        flow = Flow(77, 7700, 0.0, 1.0, ttls=changes.pop("ttls", {9, 26, 30, 32, 28}))
        traffic = Traffic(0.0, 2.0, {key._replace(**changes): flow})
        observation = Observation(2.0, traffic, (Traffic(0.0), Traffic(2.0)))
        now = {"comes_by": ["eth1"]}
        subject = Subject("bridge/tv", SETTINGS, "active", status=now, earlier=now)
        return list(bridges.circling(subject, Evidence(observation=observation)))

    (one,) = said()
    assert isinstance(one, Finding)
    assert (one.cause, one.severity) == ("bridge-circle", "broken")
    assert one.what == "239.1.1.1 of 192.0.2.7 goes in a circle: it comes back by eth1 again and again"
    assert one.evidence == (
        "77 packets from 192.0.2.7 to 239.1.1.1 port 5004 on eth1 (AF_PACKET), with 5 TTLs, 32 to 9",
    )
    assert said(ttls={28, 30, 32}) == said(ttls={1, 2, 4, 8, 16, 32}) == said(ttls={7}) == []
    assert said(interface="eth2") == said(outgoing=True) == said(vlan=7) == []
    assert said(group=ip_address("239.2.1.1")) == said(group=ip_address("ff15::1")) == []


def test_the_busiest_groups_are_watched() -> None:
    settings = SETTINGS.model_copy(
        update={"groups": (ip_network("239.1.0.0/16"), ip_network("239.7.7.7/32"))}
    )

    def groups(count: int) -> list[str]:
        routes = [{**ROUTE, "group": f"239.1.1.{number}", "packets": number} for number in range(count)]
        subject = Subject("bridge/tv", settings, "active", status={"routes": routes})
        return [str(group) for group in bridges.watched_groups(subject)]

    assert groups(3) == ["239.1.1.2", "239.1.1.1", "239.1.1.0", "239.7.7.7"]
    assert groups(99) == [f"239.1.1.{number}" for number in range(98, 98 - bridges.WATCHED_GROUPS_MAX, -1)]


def test_senders_with_an_address_of_their_link() -> None:
    earlier, now = ({"dropped": {"link-local": count}} for count in (5, 17))
    routes = [ROUTE, {**ROUTE, "source": "169.254.3.7", "goes_to": [], "packets": 9}]
    shown = {"counters": now, "routes": routes, "route_count": 2}
    for when, severity in (("joined", "broken"), ("always", "warning")):
        (one,) = found({"counters": earlier}, when=when, **shown)
        assert (one.cause, one.severity) == ("sender-link-local", severity)
    assert one.evidence == (
        "dropped for that: 12 while watched, 17 in all (status)",
        "169.254.3.7 to 239.1.1.1: 9 packets came (status)",
    )
    assert 'with the address in sources, ports, and when = "always"' in one.fix
    keys = {"groups": ["239.1.1.1"], "sources": ["169.254.3.7"], "ports": [5004], "when": "always"}
    assert Bridge.model_validate({"from": "eth1", "to": "eth2", **keys}).needs_relay
    assert found({"counters": now}, **shown) == []


def test_what_is_wanted_and_does_not_come() -> None:
    members = [{"interface": "eth2", "group": group, "wanted": "any"} for group in ("239.1.1.1", "239.1.7.7")]
    joins = [{"interface": "eth1", "group": "239.1.7.7", "wanted": "any"}]
    made_ahead = {**ROUTE, "group": "239.1.7.7", "packets": 0}
    (one,) = found(routes=[ROUTE, made_ahead], route_count=2, members=members, joins=joins)
    assert (one.cause, one.severity) == ("bridge-dry", "hint")
    assert one.what == "members want 239.1.7.7, of which nothing comes"
    assert one.evidence == ("joined: 239.1.7.7 on eth1; no datagram came (status)",)
    assert "mcastctl listen -i eth1 239.1.7.7:PORT" in one.fix
    assert found(routes=[ROUTE], route_count=2, members=members) == [], "some routes are not listed"


def test_what_the_reverse_path_filter_drops(tmp_path: Path) -> None:
    def said(grown: int = 7, seconds: float = 5.0, **status: Any) -> list[Finding]:
        wanted = [{"interface": "eth2", "group": one, "wanted": "any"} for one in ("239.1.1.1", "ff15::7")]
        now = {"comes_by": ["eth1.5"], "members": wanted, **status}
        subject = Subject("bridge/tv", SETTINGS, "active", status=now, earlier=now)
        before, after = (
            Kernel({"TcpExtIPReversePathFilter": count}, (), Ruleset(), {}, 0.0) for count in (70, 70 + grown)
        )
        evidence = Evidence(observation=Observation(seconds, before=before, after=after), root=tmp_path)
        found = list(bridges.filtered(subject, evidence))
        assert all(isinstance(one, Finding) for one in found)
        return found  # type: ignore[return-value]

    for name, value in (("eth1.5", 1), ("all", 0)):
        path = tmp_path / f"proc/sys/net/ipv4/conf/{name}/rp_filter"
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    (one,) = said(routes=[{**ROUTE, "last_age": 5.5}])
    assert (one.cause, one.severity) == ("rp-filter", "broken")
    assert one.what.startswith(
        "members want 239.1.1.1, of which nothing comes, and the kernel's reverse path"
    )
    assert one.evidence[0] == "TcpExtIPReversePathFilter grew by 7 (/proc/net/netstat)"
    assert [way.command for way in one.ways] == ["sysctl net.ipv4.conf.eth1/5.rp_filter=0"]
    assert one.ways[0].command in one.fix
    assert said(grown=0) == said(routes=[{**ROUTE, "last_age": 4.5}]) == said(comes_by=["eth9"]) == []


def test_a_bridge_that_does_not_run() -> None:
    subject = Subject("bridge/tv", SETTINGS, "auto-restart")
    assert list(bridges.forwarding(subject, Evidence())) == []


def test_members_that_want_more_than_is_kept() -> None:
    querier = {"interface": "eth2", "version": 4, "asks": True, "groups": 4096, "refused": 7, "crowded": True}
    (one,) = found(routes=[ROUTE], route_count=1, queriers=[querier])
    assert (one.cause, one.severity) == ("members-crowded", "warning")
    assert one.fix.endswith("tcpdump -ni eth2 igmp")
