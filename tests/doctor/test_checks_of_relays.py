"""The checks of AMT relays, on made-up statuses."""

from __future__ import annotations

from typing import Any

from mcastd.config import AmtRelaySettings
from mcastd.doctor import relays
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding
from mcastd.doctor.subject import Subject

SETTINGS = AmtRelaySettings.model_validate({"listen": "192.0.2.1"})


def found(earlier: dict[str, Any] | None = None, **status: Any) -> list[Finding]:
    now = {"interfaces": ["eth1"], "mtu": 1500, **status}
    subject = Subject("amt_relay/edge", SETTINGS, "active", status=now, earlier=earlier or now)
    said = list(relays.serving(subject, Evidence()))
    assert all(isinstance(one, Finding) for one in said)
    return said  # type: ignore[return-value]


def test_a_relay_that_is_well() -> None:
    counters = {"dropped": {"ttl": 7, "unwanted": 8}, "missed": {"too-big": 9}}
    assert found(counters=counters) == [], "what was before the watch is over"


def test_what_is_dropped_or_missed_meanwhile() -> None:
    earlier = {"counters": {"dropped": {"ttl": 7}, "missed": {"too-big": 8}}}
    gateways = [{"address": "192.0.2.9", "path_mtu": 1400}, {"address": "192.0.2.8", "path_mtu": None}]
    ttl, size = found(
        earlier, counters={"dropped": {"ttl": 90}, "missed": {"too-big": 20}}, gateways=gateways
    )
    assert (ttl.cause, ttl.severity) == ("amt-ttl", "broken")
    assert ttl.evidence == ("dropped for their TTL: 83 while watched, 90 in all (status)",)
    assert (size.cause, size.severity) == ("amt-too-big", "warning")
    assert size.evidence == (
        "missed as too-big: 12 while watched; the path to 192.0.2.9: 1400 (ICMP) (status)",
    )


def test_where_it_cannot_listen() -> None:
    settings = AmtRelaySettings.model_validate({"listen": ["127.0.0.1:2300", "127.0.0.2"]})
    status = {"refused_listen": {"127.0.0.1:2300": "address already in use"}}
    (one,) = relays.heard(Subject("amt_relay/edge", settings, "active", status=status), Evidence())
    assert isinstance(one, Finding)
    assert (one.cause, one.severity) == ("amt-unheard", "broken")
    assert one.what == "it cannot listen at 127.0.0.1:2300: address already in use"
    assert "ss -lunp" in one.fix


def test_senders_with_an_address_of_their_link() -> None:
    earlier, now = ({"counters": {"dropped": {"link-local": count}}} for count in (5, 17))
    (one,) = found(earlier, **now)
    assert (one.cause, one.severity) == ("sender-link-local", "broken")
    assert one.evidence == ("dropped for that: 12 while watched, 17 in all (status)",)
    assert one.fix == "give the sender an address of its network, as by DHCP"


def test_what_is_wanted_and_does_not_come() -> None:
    (one,) = found(silent=["232.1.1.1", "232.1.1.2"])
    assert (one.cause, one.severity) == ("amt-dry", "hint")
    assert one.what == "gateways want 232.1.1.1, 232.1.1.2, of which nothing comes to the relay"
    assert "mcastctl listen -i eth1 232.1.1.1:PORT" in one.fix


def test_a_way_that_takes_less_than_what_is_sent() -> None:
    gateways = [
        {"address": "192.0.2.9", "mtu": 1500, "path_mtu": 1400},
        {"address": "192.0.2.8", "mtu": 1500, "path_mtu": None},
        {"address": "192.0.2.7", "mtu": 1280, "path_mtu": 1300},
        {"address": "192.0.2.6", "mtu": 1420, "path_mtu": 1380},
    ]
    (one,) = found(gateways=gateways)
    assert (one.cause, one.severity) == ("amt-path", "warning")
    assert one.what.startswith("a router on the way to 192.0.2.9, 192.0.2.6 takes")
    assert one.evidence == (
        "the path to 192.0.2.9: 1400 bytes (ICMP, status)",
        "the path to 192.0.2.6: 1380 bytes (ICMP, status)",
    )
    assert one.fix == "mtu = 1380 in [amt_relay.edge]"
    forged = [{"address": "192.0.2.9", "mtu": 1500, "path_mtu": 68}]
    assert found(gateways=forged)[0].fix == "mtu = 576 in [amt_relay.edge]", "less is not to be set"
