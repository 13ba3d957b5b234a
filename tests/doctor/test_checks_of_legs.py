"""What is said of the legs of a subscription, and what each of them is seen to have by itself."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from mcastd.codec import from_json
from mcastd.config import InboundSubscription
from mcastd.doctor import legs, memberships
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.examine import examine
from mcastd.doctor.finding import Finding
from mcastd.doctor.subject import Subject, by_leg
from mcastd.net.interfaces import Host, Interface
from mcastd.status import SubscriptionStatus

GROUPS = "239.255.6.1", "239.255.6.2"
SETTINGS = InboundSubscription.model_validate(
    {
        "legs": [
            {"group": group, "port": 9190 + at, "interface": f"eth{at}"} for at, group in enumerate(GROUPS)
        ],
        "protocol": "rtp",
        "output": "/srv/a",
    }
)


def status(**fields: Any) -> SubscriptionStatus:
    joined = [
        {"interface": f"eth{at}", "ifindex": 2 + at, "group": group, "wanted": "any", "actual": "any"}
        for at, group in enumerate(GROUPS)
    ]
    return from_json(SubscriptionStatus, {"memberships": joined, **fields})


def leg(number: int, **fields: Any) -> dict[str, Any]:
    said = {"received": 70 + number, "received_bytes": 700 + number, "overflow": 7 + number}
    return {**said, "joined": [f"eth{number}"], "sender": f"192.0.2.{number}", "age": 0.5, **fields}


def said(now: SubscriptionStatus) -> list[tuple[str, str]]:
    subject = Subject("inbound/news", SETTINGS, "active", status=now)
    found = [*legs.legs(subject, Evidence())]
    return [(one.cause, one.what) for one in found if isinstance(one, Finding)]


def test_legs_that_protect_and_such_that_do_not() -> None:
    assert said(status()) == []
    assert said(status(legs=[leg(0), leg(1)])) == []
    ((cause, what),) = said(status(legs=[leg(0), leg(1, silent=True)]))
    assert (cause, "leg 239.255.6.2:9191 eth1 brings nothing" in what) == ("leg-silent", True)
    ((cause, what),) = said(status(legs=[leg(0), leg(1)], shared_sender="192.0.2.77"))
    assert (cause, "all legs come from 192.0.2.77" in what) == ("legs-shared", True)
    ((cause, what),) = said(
        status(legs=[leg(0), leg(1)], shared_sender="192.0.2.77", shared_interface="eth9")
    )
    assert (cause, "all legs come by eth9" in what) == ("legs-shared", True)


def test_each_leg_is_looked_at_with_what_it_has() -> None:
    now = status(legs=[leg(0), leg(1)], counters={"received": 999, "overflow": 99})
    first, second = by_leg(Subject("inbound/news", SETTINGS, "active", status=now, earlier=now))
    assert isinstance(second.settings, InboundSubscription)
    assert (str(second.settings.group), second.settings.port, second.settings.legs) == (GROUPS[1], 9191, ())
    assert second.table == "legs[1] of [inbound.news]"
    for number, one in enumerate((first, second)):
        for seen in (one.now(SubscriptionStatus), one.before(SubscriptionStatus)):
            counters = seen.counters
            assert (counters.received, counters.received_bytes, counters.overflow) == (
                *(70 + number, 700 + number),
                7 + number,
            )
            assert [each.interface for each in seen.memberships] == [f"eth{number}"]


def test_a_leg_that_nobody_runs_is_looked_at_by_its_group() -> None:
    trial = status()
    for number, one in enumerate(by_leg(Subject("inbound/news", SETTINGS, status=trial))):
        assert [each.interface for each in one.now(SubscriptionStatus).memberships] == [f"eth{number}"]
    plain = Subject("inbound/news", SETTINGS.by_leg()[1], status=trial)
    assert by_leg(plain) == [plain]


def test_a_leg_that_is_down_hides_nothing_of_another_one() -> None:
    down, no_carrier = (
        Interface(2 + at, f"eth{at}", 0x1002 + at, 0, (ip_address("10.0.0.1"),)) for at in (0, 1)
    )
    host = Host({2: down, 3: no_carrier}, 0.0)
    subject = Subject("inbound/news", SETTINGS, "active", status=status(legs=[leg(0), leg(1)]))
    report = examine([subject], Evidence(look=lambda: host), ["interface"])
    assert [(one.cause, one.part) for one in report.findings] == [
        ("interface-down", f"leg {GROUPS[0]} port 9190"),
        ("no-carrier", f"leg {GROUPS[1]} port 9191"),
    ]


def test_a_membership_of_another_leg_is_not_missed() -> None:
    host = Host({}, 0.0)
    host._groups = {4: {2 + at: frozenset({one.group}) for at, one in enumerate(SETTINGS.by_leg())}}
    for one in by_leg(Subject("inbound/news", SETTINGS, "active", status=status(legs=[leg(0), leg(1)]))):
        assert [*memberships.membership(one, Evidence(look=lambda: host))] == []  # type: ignore[arg-type]
