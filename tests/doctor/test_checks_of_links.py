"""The checks of links, on made-up statuses."""

from __future__ import annotations

import shlex
import struct
import subprocess
from ipaddress import IPv6Address, ip_address
from typing import Any

import pytest

from mcastd.config import LinkSettings
from mcastd.doctor import linked
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding
from mcastd.doctor.subject import Subject
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import ICMPV6, IGMP, MEMBERSHIP_TTL, IpPacket, build_ip
from mcastd.protocols.membership import GroupRecord, RecordKind

KEYS = {"key": "/etc/mcastd/key", "send": ["239.0.0.0/8"], "interface": "eth1"}
CONNECTS = LinkSettings.model_validate({"connect": "hub.example.net:9467", **KEYS})
LISTENS = LinkSettings.model_validate({"listen": "0.0.0.0", **KEYS})


def found(
    settings: LinkSettings = LISTENS, earlier: dict[str, Any] | None = None, **status: Any
) -> list[Finding]:
    connects = settings.connect is not None
    ends = {"connect": settings.end if connects else "", "listen": "" if connects else settings.end}
    now = {**ends, "up": False, "seconds": 77.0, "local_port": 4711, **status}
    subject = Subject("link/office", settings, "active", status=now, earlier=earlier or now)
    said = list(linked.link(subject, Evidence()))
    assert all(isinstance(one, Finding) for one in said)
    return said  # type: ignore[return-value]


def test_a_link_that_is_well() -> None:
    counters = {"unsent": {"ttl": 7, "rate": 8, "down": 9}, "ignored": {"wrong-key": 10}}
    assert found(up=True, counters=counters, message_bytes=1472, sizes_tried=True) == []
    assert found(up=True, message_bytes=1152, sizes_tried=False) == [], "it is still looked for"


def test_a_link_that_may_be_about_to_come_up() -> None:
    assert found(seconds=2.9) == []
    assert found(seconds=None) == []


@pytest.mark.parametrize(
    ("settings", "status", "cause", "what"),
    [
        (CONNECTS, {}, "link-silent", "nobody answers at hub.example.net:9467"),
        (LISTENS, {}, "link-silent", "nobody connects to 0.0.0.0, not even with another key"),
        (CONNECTS, {"hindrance": "no such name"}, "link-unreachable", "no such name"),
        (CONNECTS, {"refusal": "network is unreachable"}, "link-unreachable", "network is unreachable"),
        (LISTENS, {"ignored_since_up": ["own"]}, "link-loop", "it leads back to this very daemon"),
        (LISTENS, {"ignored_since_up": ["unexpected", "wrong-key"]}, "link-key", "another key"),
        (CONNECTS, {"ignored_since_up": ["unexpected"]}, "link-both-connect", "both ends connect"),
        (LISTENS, {"ignored_since_up": ["unexpected"]}, "link-silent", "nobody connects"),
        (LISTENS, {"ignored_since_up": ["replayed"]}, "link-clock", "its clock was set back"),
    ],
)
def test_what_keeps_it_down(settings: LinkSettings, status: dict[str, Any], cause: str, what: str) -> None:
    (one,) = found(settings, **status)
    assert (one.cause, one.severity) == (cause, "broken")
    assert what in one.what
    assert one.evidence[0].startswith("down for 77 s; ")


@pytest.mark.parametrize(
    ("listen", "hint"),
    [
        ("0.0.0.0", 'connect) by IPv4 (for IPv6 it is listen = "[::]"), and'),
        ("[::]:9467", 'connect) by IPv6 (for IPv4 it is listen = "0.0.0.0"), and'),
        ("192.0.2.1", "connect), and"),
    ],
)
def test_what_a_peer_of_the_other_ip_version_lacks_is_named(listen: str, hint: str) -> None:
    (one,) = found(LinkSettings.model_validate({"listen": listen, **KEYS}))
    assert hint in one.fix


def test_where_to_look_for_a_port_or_a_way() -> None:
    (one,) = found(LISTENS, hindrance="address already in use")
    assert "ss -lunp" in one.fix
    (one,) = found(CONNECTS, hindrance="no such name")
    assert "ip route" in one.fix


def test_how_often_messages_were_ignored() -> None:
    earlier = {"counters": {"ignored": {"wrong-key": 7}}}
    counters = {"ignored": {"wrong-key": 10}}
    (one,) = found(LISTENS, earlier, ignored_since_up=["wrong-key"], counters=counters)
    assert one.evidence[1] == "messages ignored as wrong-key: 3 while watched, 10 in all (status)"
    assert "/etc/mcastd/key" in one.fix


def test_a_link_that_is_up_by_keys_of_before() -> None:
    (one,) = found(up=True, keys_differ=True, key_age=77.0)
    assert (one.cause, one.severity) == ("link-key", "broken")
    assert one.evidence == ("keys_differ: true; key_age: 77 s (status)",)
    assert "/etc/mcastd/key" in one.fix


def test_a_way_that_is_too_narrow_for_a_link() -> None:
    (one,) = found(up=True, message_bytes=1152, sizes_tried=True, too_narrow=True)
    assert (one.cause, one.severity) == ("link-mtu", "broken")
    assert "below 1200 bytes" in one.what


def test_messages_that_are_as_long_as_they_may_be_are_no_trouble() -> None:
    narrow = LinkSettings.model_validate({"connect": "hub.example.net", "mtu": 1320, **KEYS})
    for size in (1292, 1272):  # by IPv4, and by IPv6
        assert found(narrow, up=True, message_bytes=size, sizes_tried=True) == []
    (one,) = found(narrow, up=True, message_bytes=1240, sizes_tried=True)
    assert (one.cause, one.severity) == ("link-mtu", "warning")


def test_what_does_not_go_although_it_is_up() -> None:
    earlier = {"counters": {"unsent": {"ttl": 7, "rate": 8}}}
    counters = {"unsent": {"ttl": 10, "rate": 12}}
    more = {"message_bytes": 1152, "sizes_tried": True, "refused_wants": ["239.1.1.1 any"]}
    ttl, rate, mtu, wants = found(CONNECTS, earlier, up=True, counters=counters, **more)
    assert (ttl.cause, ttl.severity) == ("link-ttl", "broken")
    assert ttl.evidence == ("unsent for their TTL: 3 while watched, 10 in all (status)",)
    assert (rate.cause, rate.severity) == ("link-rate", "warning")
    assert rate.evidence == ("unsent for the rate: 4 while watched, 12 in all (status)",)
    assert (mtu.cause, mtu.severity) == ("link-mtu", "warning")
    assert "more than 1152 bytes" in mtu.what
    assert (wants.cause, wants.severity) == ("link-not-sent", "hint")
    assert "239.1.1.1 any" in wants.what


def test_senders_with_an_address_of_their_link() -> None:
    earlier, now = ({"unsent": {"link-local": count}} for count in (5, 17))
    (one,) = found(CONNECTS, {"counters": earlier}, up=True, counters=now)
    assert (one.cause, one.severity) == ("sender-link-local", "broken")
    assert one.evidence == ("dropped for that: 12 while watched, 17 in all (status)",)


def test_what_a_link_has_no_room_to_ask_for() -> None:
    (left_out,) = found(up=True, wants_left_out=71, wants_widened=72)
    assert (left_out.cause, left_out.severity) == ("link-wants", "warning")
    assert "71 are too many" in left_out.what
    (widened,) = found(up=True, wants_widened=72)
    assert (widened.cause, widened.severity) == ("link-wants", "hint")
    assert "72 groups from any source" in widened.what
    assert widened.evidence == ("wants_left_out: 0; wants_widened: 72 (status)",)


def test_what_is_in_clear_is_said() -> None:
    (one,) = found(up=True, security="none", peer="192.0.2.9:9466")
    assert (one.cause, one.severity) == ("link-in-clear", "hint")


def test_members_that_want_more_than_is_kept() -> None:
    querier = {
        "interface": "eth 1",
        "version": 6,
        "asks": True,
        "groups": 4096,
        "refused": 7,
        "crowded": True,
    }
    (one,) = found(up=True, queriers=[{**querier, "version": 4, "crowded": False}, querier])
    assert (one.cause, one.severity) == ("members-crowded", "warning")
    assert one.evidence == (
        "querier of IPv6 on eth 1: 4096 groups kept, refused 7 times to keep more (status)",
    )
    assert one.fix.endswith("tcpdump -ni 'eth 1' 'ip6[6] = 0'")


@pytest.mark.parametrize("version", [4, 6])
def test_the_command_that_looks_for_those_who_want_too_much_shows_reports(version: int) -> None:
    (one,) = found(up=True, queriers=[{"interface": "lan", "version": version, "crowded": True}])
    filter_ = shlex.split(one.fix)[-1]
    if version == 4:
        (message,) = igmp.build_reports([GroupRecord(RecordKind.TO_EXCLUDE, ip_address("239.1.2.3"))], 1400)
        ends, protocol = (ip_address("10.1.0.9"), igmp.ALL_IGMPV3_ROUTERS), IGMP
    else:
        host, protocol = IPv6Address("fe80::9"), ICMPV6
        records = [GroupRecord(RecordKind.TO_EXCLUDE, ip_address("ff15::123"))]
        (message,) = mld.build_reports(records, 1400, host, mld.ALL_MLDV2_ROUTERS)
        ends = host, mld.ALL_MLDV2_ROUTERS
    packet = build_ip(IpPacket(*ends, protocol, MEMBERSHIP_TTL, message, router_alert=True))
    frame = bytes(12) + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    capture += struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame
    shows = ["tcpdump", "-Z", "root", "-nr", "-", filter_]
    shown = subprocess.run(shows, input=capture, capture_output=True, check=True).stdout
    assert shown.count(b"report") == 1
