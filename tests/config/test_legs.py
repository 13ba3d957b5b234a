"""``legs`` of a subscription, and how copies by them are told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mcastd.config import Config, InboundSubscription, dump, load
from mcastd.config.advice import advise
from mcastd.config.model import Conflicts

A = {"group": "239.1.1.1", "port": 5004, "interface": "eth0", "sources": ["192.0.2.7"]}
B = {"group": "239.2.2.2", "port": 5006, "interface": "eth1", "exclude_sources": ["192.0.2.9"]}


def subscription(**keys: Any) -> InboundSubscription:
    wanted = {"legs": [A, B], "protocol": "rtp", "output": "/srv/a", **keys}
    return InboundSubscription.model_validate(
        {key: value for key, value in wanted.items() if value is not None}
    )


def test_it_is_known_by_its_first_leg_and_asked_for_each() -> None:
    one = subscription()
    assert (str(one.group), one.port, one.interface) == ("239.1.1.1", 5004, "eth0")
    assert one.hold_back == 0.05
    left, right = one.by_leg()
    assert (str(left.group), left.port, left.interface, [*map(str, left.sources)]) == (
        *("239.1.1.1", 5004, "eth0"),
        ["192.0.2.7"],
    )
    assert (str(right.group), right.port, right.interface, right.sources) == ("239.2.2.2", 5006, "eth1", ())
    assert [*map(str, right.exclude_sources)] == ["192.0.2.9"]
    assert [*one.ways()] == [("eth0", one.group), ("eth1", right.group)]
    assert [leg.label for leg in one.legs] == ["239.1.1.1:5004 eth0", "239.2.2.2:5006 eth1"]


def test_without_legs_it_is_its_own_only_way() -> None:
    one = subscription(legs=None, group="239.1.1.1", port=5004, reorder="20ms")
    assert [*one.by_leg()] == [one]
    assert one.hold_back == 0.02


@pytest.mark.parametrize(
    ("keys", "place", "why"),
    [
        ({"legs": [A]}, ("legs",), "are the ways of one stream, 2 to 8 of them"),
        ({"legs": [A, A]}, ("legs", 1), "239.1.1.1 port 5004 is received already"),
        ({"group": "239.9.9.9"}, ("group",), 'contradicts "legs"'),
        ({"interface": "eth7"}, ("interface",), 'contradicts "legs"'),
        ({"reorder": "1s"}, ("reorder",), '"max_skew" says how long'),
        ({"protocol": "raw"}, ("protocol",), 'or merge to "payload"'),
        ({"merge": "payload"}, ("merge",), 'does not apply to protocol = "rtp"'),
        (
            {"merge": "payload", "protocol": "raw", "max_skew": 0},
            ("max_skew",),
            "must be more than 0",
        ),
        ({"legs": None, "group": "239.1.1.1", "port": 5, "max_skew": 0}, ("max_skew",), "without legs"),
        (
            {"legs": None, "group": "239.1.1.1", "port": 5, "merge": "payload", "protocol": "raw"},
            *(("merge",), "without legs"),
        ),
    ],
)
def test_what_contradicts_itself_is_refused_at_its_key(
    keys: dict[str, Any], place: tuple[str | int, ...], why: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        subscription(**keys)
    (error,) = refusal.value.errors()
    cause = error["ctx"]["error"]
    assert isinstance(cause, Conflicts)
    assert [(where, why in words) for where, words in cause.found] == [(place, True)]


@pytest.mark.parametrize(
    ("leg", "said"),
    [
        ({"port": 5004}, ["inbound.tv.legs[0].group: missing; it is required"]),
        ({**A, "group": "eth0"}, ["inbound.tv.legs[0].group: must be a multicast address"]),
        ({**A, "sources": ["fe80::7"]}, ["inbound.tv.legs[0].sources: fe80::7 is IPv6"]),
        ({**A, "sources": [], "interface": "fe80::7"}, ["inbound.tv.legs[0].interface: fe80::7 is IPv6"]),
        ({**A, "grupp": 7}, ['inbound.tv.legs[0].grupp: unknown key; did you mean "group"?']),
    ],
)
def test_what_is_wrong_with_a_leg_is_said_once_and_there(
    tmp_path: Any, leg: dict[str, Any], said: list[str]
) -> None:
    import tomli_w

    from mcastd.errors import ConfigError

    keys = {"legs": [leg, B], "protocol": "rtp", "output": "/srv/a"}
    path = tmp_path / "a.toml"
    path.write_text(tomli_w.dumps({"inbound": {"tv": keys}}))
    with pytest.raises(ConfigError) as refusal:
        load(path)
    lines = str(refusal.value).splitlines()
    assert len(lines) == len(said), lines
    assert all(words in line for words, line in zip(said, lines, strict=True)), lines


def test_it_is_written_and_read_again() -> None:
    config = Config.model_validate(
        {"inbound": {"tv": {"legs": [A, B], "protocol": "rtp", "output": "/srv/a"}}}
    )
    import tomllib

    assert Config.model_validate(tomllib.loads(dump(config))) == config


def test_what_is_unwise_about_legs() -> None:
    def advice(*legs: dict[str, Any]) -> list[str]:
        one = {"legs": [*legs], "protocol": "rtp", "output": "/srv/a"}
        return [
            f"{note.path()}: {note.reason}"
            for note in advise(Config.model_validate({"inbound": {"tv": one}}))
        ]

    assert advice(A, B) == []
    assert advice(A, {**B, "interface": "eth0"}) == [
        "inbound.tv.legs: all come by eth0: what fails there fails for all"
    ]
    (source_specific,) = advice(A, {**B, "group": "232.1.1.1", "exclude_sources": []})
    assert source_specific.startswith("inbound.tv.legs: none are named, but 232.1.1.1 is source-specific")
