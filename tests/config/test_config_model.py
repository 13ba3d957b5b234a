"""The models as code uses them: defaults, normal forms, and what a valid configuration cannot hold."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mcastd.config import (
    INBOUND_PROTOCOLS,
    OUTBOUND_PROTOCOLS,
    SOURCES,
    Config,
    DaemonSettings,
    FifoOutput,
    FileOutput,
    InboundSubscription,
    OutboundChannel,
)
from mcastd.config.model import Conflicts

CHANNEL = {"source": "/srv/news.txt", "group": "239.255.1.2", "port": 9190}
SUBSCRIPTION = {"group": "239.255.1.2", "port": 9190, "output": "/var/log/news.log"}


def channel(**settings: object) -> OutboundChannel:
    return OutboundChannel.model_validate(CHANNEL | settings)


def subscription(**settings: object) -> InboundSubscription:
    return InboundSubscription.model_validate(SUBSCRIPTION | settings)


def test_defaults_of_a_channel() -> None:
    expected = OutboundChannel(
        source=Path("/srv/news.txt"),
        group=IPv4Address("239.255.1.2"),
        port=9190,
        ttl=1,
        rate=None,
        interval=2.0,
        interface=None,
        framing="line",
        max_datagram=1472,
        repeat=1,
        follow=False,
        loop=True,
        dscp=0,
    )
    assert channel() == expected


@pytest.mark.parametrize(
    ("settings", "max_datagram"),
    [({"group": "ff15::1"}, 1452), ({"framing": "file"}, 65_507), ({"max_datagram": 29}, 29)],
)
def test_default_of_max_datagram(settings: dict[str, object], max_datagram: int) -> None:
    assert channel(**settings).max_datagram == max_datagram


def test_a_rate_replaces_the_interval() -> None:
    paused = channel(rate=0)
    assert (paused.rate, paused.interval) == (0, None)
    assert channel(interval=0).interval == 0


def test_defaults_of_a_subscription() -> None:
    one = subscription()
    assert (one.interface, one.sources, one.receive_buffer) == (None, (), 4 << 20)
    assert one.output == (
        FileOutput(
            kind="file",
            path=Path("/var/log/news.log"),
            format="raw",
            rotate_size=None,
            rotate_every=None,
            keep=7,
            mode=0o640,
            fsync=False,
        ),
    )


def test_one_output_stands_for_an_array_and_a_path_for_a_file() -> None:
    pipe = {"kind": "fifo", "path": "/run/news.pipe"}
    assert subscription(output=pipe).output == (FifoOutput(path="/run/news.pipe"),)
    assert subscription(output=["/a", pipe]).output == (
        FileOutput(path="/a"),
        FifoOutput(path="/run/news.pipe"),
    )
    assert FifoOutput(path="/p").queue == 1 << 20
    assert FifoOutput(path="/p").when_full == "drop-newest"


def test_defaults_of_the_daemon() -> None:
    assert DaemonSettings() == DaemonSettings(
        log_level="info",
        log_format="auto",
        control_socket=Path("/run/mcastd/control"),
        metrics=None,
        stop_timeout=10.0,
    )


def test_workers_have_full_names_in_order() -> None:
    config = Config(outbound={"b": channel(), "a": channel()}, inbound={"b": subscription()})
    assert list(config.workers()) == ["outbound/b", "outbound/a", "inbound/b"]
    assert config.workers()["inbound/b"] == subscription()


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        channel().ttl = 3  # type: ignore[misc]


RECORDED = {"framing": "capture", "timing": "capture"}


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ({"interval": 1, "rate": 1}, "interval", 'contradicts "rate"'),
        ({"follow": True, "repeat": 2}, "follow", 'contradicts "repeat"'),
        ({"follow": True, "repeat": "forever"}, "follow", 'contradicts "repeat"'),
        ({"follow": True, "framing": "file"}, "follow", 'contradicts framing = "file"'),
        ({"max_datagram": 1472, "framing": "file"}, "max_datagram", "does not apply"),
        ({"max_datagram": 1472, "framing": "capture"}, "max_datagram", "as long as they were"),
        ({**RECORDED, "rate": 1}, "rate", 'contradicts "timing"'),
        ({**RECORDED, "interval": 1}, "interval", 'contradicts "timing"'),
        ({**RECORDED, "speed": 0}, "speed", "must be a number from 0.001 to 1000, not 0"),
        ({**RECORDED, "speed": True}, "speed", "not true"),
        ({"framing": "capture", "select": {}}, "select", "must be a table of group and port"),
        ({"framing": "capture", "select": {"ports": 1}}, "select", "must be a table of group and port"),
        ({"framing": "capture", "select": {"port": 0}}, "select", "must be a whole number from 1 to 65535"),
        ({"framing": "capture", "select": {"group": "x"}}, "select", "must be an address"),
        ({"interface": "all"}, "interface", "inbound subscriptions"),
        ({"interface": "fe80::1"}, "interface", "fe80::1 is IPv6, but the group 239.255.1.2 is IPv4"),
    ],
)
def test_what_a_channel_cannot_be(settings: dict[str, object], key: str, reason: str) -> None:
    assert_refused(lambda: channel(**settings), key, reason)


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ({"sources": ["::1"]}, "sources", "::1 is IPv6, but the group is IPv4"),
        ({"sources": ["192.0.2.1", "192.0.2.1"]}, "sources", "192.0.2.1 is named twice"),
        ({"interface": "192.0.2.1", "group": "ff15::1"}, "interface", "192.0.2.1 is IPv4, but"),
        ({"output": []}, "output", "must have at least one output"),
    ],
)
def test_what_a_subscription_cannot_be(settings: dict[str, object], key: str, reason: str) -> None:
    assert_refused(lambda: subscription(**settings), key, reason)


@pytest.mark.parametrize(
    "settings",
    [
        {"group": "224.0.0.9", "ttl": 2},
        {"follow": True, "repeat": "once"},
        {"follow": True, "framing": "chunk"},
        {"max_datagram": 65_507, "framing": "file"},
        {"interface": "fe80::1", "group": "ff02::1"},
        {"framing": "capture", "rate": "8Mbit"},
        {"framing": "capture", "timing": "capture", "speed": 0.5, "follow": True},
        {"framing": "capture", "select": {"group": "192.0.2.9"}, "repeat": "forever"},
    ],
)
def test_what_a_channel_can_be(settings: dict[str, object]) -> None:
    channel(**settings)


def assert_refused(make: Any, key: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    (error,) = [e for e in caught.value.errors() if e["type"] != "default_factory_not_called"]
    assert error["loc"] == (key,)
    assert reason in error["msg"]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("/var/log/news.log", "is already an output of inbound/first"),
        ("//var/./log/x/../news.log", '"/var/log/news.log" is already an output of inbound/first'),
        ("/run/mcastd/control", "is already the control socket"),
        (["/a", {"kind": "fifo", "path": "/a"}], "is already an output of inbound/second"),
    ],
)
def test_an_output_has_a_path_of_its_own(output: object, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Config(
            outbound={"news": channel(), "again": channel()},
            inbound={"first": subscription(), "second": subscription(output=output)},
        )


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_an_output_is_no_name_that_another_is_rotated_to(order: tuple[str, str]) -> None:
    rotated = subscription(output={"kind": "file", "path": "/n.log", "rotate_size": 4096, "keep": 3})
    both = {"a": rotated, "b": subscription(output="/n.log.2")}
    with pytest.raises(ValidationError, match="is a name that inbound/a rotates its output to"):
        Config(inbound={name: both[name] for name in order})


def test_an_output_may_be_the_source_of_a_relay() -> None:
    pipe = {"kind": "fifo", "path": "/run/mcastd/relay.pipe"}
    Config(
        outbound={"out": channel(source="/run/mcastd/relay.pipe", group="239.255.1.3")},
        inbound={"in": subscription(output=pipe)},
    )


FIRST, SECOND = {"group": "239.1.1.1", "port": 7}, {"group": "239.1.1.2", "port": 8}


@pytest.mark.parametrize(
    ("outbound", "inbound", "named"),
    [
        ({"o": FIRST | {"source": "/p"}}, {"i": FIRST | {"output": "/p"}}, ["o"]),
        ({"o": FIRST | {"source": "/x/../p"}}, {"i": FIRST | {"output": ["/q", "//p"]}}, ["o"]),
        (
            {"o": FIRST | {"source": "/p", "interface": "eth0"}},
            {"i": FIRST | {"output": {"kind": "fifo", "path": "/p"}, "interface": "all"}},
            ["o"],
        ),
        (  # by way of another
            {"a": FIRST | {"source": "/p"}, "b": SECOND | {"source": "/q"}, "c": SECOND | {"source": "/r"}},
            {"a": FIRST | {"output": "/q"}, "b": SECOND | {"output": "/p"}},
            ["a", "b"],  # what c sends goes round as well, but does not come back to it
        ),
        ({"o": FIRST | {"source": "/p"}}, {"i": SECOND | {"output": "/p"}}, []),  # relays
        ({"o": FIRST | {"source": "/p"}}, {"i": FIRST | {"output": "/p", "sources": ["192.0.2.1"]}}, []),
        ({"o": FIRST | {"source": "/p", "loop": False}}, {"i": FIRST | {"output": "/p"}}, []),
        ({"o": FIRST | {"source": "/p", "enabled": False}}, {"i": FIRST | {"output": "/p"}}, []),
        (
            {"o": FIRST | {"source": "/p", "interface": "eth0"}},
            {"i": FIRST | {"output": "/p", "interface": "eth1"}},
            [],
        ),
        (
            {"a": FIRST | {"source": "/p"}, "b": SECOND | {"source": "/q"}},
            {"i": FIRST | {"output": "/q"}},
            [],
        ),
    ],
)
def test_a_channel_must_not_get_back_what_it_sent(
    outbound: dict[str, object], inbound: dict[str, object], named: list[str]
) -> None:
    tables = {"outbound": outbound, "inbound": inbound}
    if not named:
        Config.model_validate(tables)
        return
    with pytest.raises(ValidationError) as raised:
        Config.model_validate(tables)
    (details,) = raised.value.errors()
    found = details["ctx"]["error"].found
    assert [location[1] for location, _ in found] == named
    assert {location[::2] for location, _ in found} == {("outbound", "source")}
    assert "comes back to it for ever: inbound." in found[0][1]


def test_a_channel_that_gets_back_what_it_sent_is_told_by_which_subscription_and_file() -> None:
    outbound = {"o": FIRST | {"source": "/p"}}
    inbound = {"other": SECOND | {"output": "/q"}, "back": FIRST | {"output": ["/r", "/p"]}}
    with pytest.raises(ValidationError) as raised:
        Config.model_validate({"outbound": outbound, "inbound": inbound})
    ((_, reason),) = raised.value.errors()[0]["ctx"]["error"].found
    assert "inbound.back receives its group, and writes /p;" in reason


def test_a_worker_that_is_not_enabled_does_not_run_and_uses_no_path() -> None:
    config = Config(
        outbound={"a": channel(enabled=False), "b": channel()},
        inbound={"c": subscription(enabled=False), "d": subscription()},  # one output: no conflict
    )
    assert list(config.workers()) == ["outbound/b", "inbound/d"]
    assert config.disabled() == ["outbound/a", "inbound/c"]
    assert config.of_enabled() == Config(outbound={"b": channel()}, inbound={"d": subscription()})


@pytest.mark.parametrize(
    "model",
    [
        Config,
        DaemonSettings,
        OutboundChannel,
        InboundSubscription,
        FileOutput,
        FifoOutput,
        *SOURCES.models.values(),
        *OUTBOUND_PROTOCOLS.models.values(),
        *INBOUND_PROTOCOLS.models.values(),
    ],
)
def test_every_key_is_described_in_a_sentence(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"timing": "pcr"}, "timing", 'needs framing = "ts"'),
        ({"framing": "ts", "timing": "pcr", "rate": 1}, "rate", 'contradicts "timing"'),
        ({"framing": "ts", "timing": "pcr", "interval": 1}, "interval", 'contradicts "timing"'),
        ({"framing": "ts", "late": "resume"}, "late", "does nothing without timing"),
        ({"framing": "chunk", "seam": "raw"}, "seam", "does not apply to framing"),
        ({"framing": "ts", "max_datagram": 187}, "max_datagram", "at least 188"),
    ],
)
def test_keys_of_transport_streams_that_do_not_fit(settings: dict[str, object], key: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        channel(**settings)
    (error,) = [e for e in caught.value.errors() if e["type"] != "default_factory_not_called"]
    conflicts = error.get("ctx", {}).get("error")
    if isinstance(conflicts, Conflicts):
        ((location, reason),) = conflicts.found
    else:
        location, reason = error["loc"], error["msg"]
    assert location == (key,)
    assert words in reason


def test_a_transport_stream_at_the_times_of_its_clock_has_no_other_pace() -> None:
    assert channel(framing="ts", timing="pcr").interval is None
    assert channel(framing="ts").interval == 2.0


def test_copies_are_the_same_channel_elsewhere() -> None:
    one = channel(
        ttl=3, copies=[{"group": "239.192.2.1", "interface": "eth1"}, {"group": "239.1.1.1", "port": 7}]
    )
    assert [(str(leg.group), leg.port, leg.interface, leg.ttl) for leg in one.by_leg()] == [
        ("239.255.1.2", 9190, None, 3),
        ("239.192.2.1", 9190, "eth1", 3),
        ("239.1.1.1", 7, None, 3),
    ]
    assert [(way, str(group)) for way, group in one.ways()] == [
        (None, "239.255.1.2"),
        ("eth1", "239.192.2.1"),
        (None, "239.1.1.1"),
    ]


@pytest.mark.parametrize(
    ("copy", "key", "words"),
    [
        ({"group": "239.255.1.2"}, ("copies", 0), "is sent to already"),
        ({"group": "239.255.1.3", "interface": "fe80::1"}, ("copies", 0, "interface"), "is IPv6"),
    ],
)
def test_a_copy_that_does_not_fit(copy: dict[str, object], key: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        channel(copies=[copy])
    ((location, reason),) = caught.value.errors()[0]["ctx"]["error"].found
    assert location == key
    assert words in reason
