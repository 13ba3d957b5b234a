"""Workers that are tried without a daemon, over links in memory."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from mcastd.config import Config, InboundSubscription, OutboundChannel
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Skipped
from mcastd.doctor.trial import Trial
from mcastd.doctor.untried import trial as untried
from mcastd.errors import LinkError, NoArenaError
from mcastd.net.fake import FakeReceiver, FakeSender
from mcastd.status import ChannelStatus, SubscriptionStatus

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def test_a_shortage_of_memory_is_said_as_long_as_it_lasts_and_costs_nothing() -> None:
    link = FakeReceiver()
    settings = InboundSubscription(group="239.255.1.2", port=9190, output="/x")

    def seen() -> tuple[str, str, int]:
        (subject,) = trial.subjects()
        return subject.detail, subject.errno, subject.now(SubscriptionStatus).counters.received

    with Trial({"inbound/news": settings}, lambda _: FakeSender(), lambda _: link) as trial:
        link.deliver(b"1", b"2")
        assert seen() == ("", "", 2)
        link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
        link.deliver(b"3")
        assert seen() == ("cannot receive: no memory left", "ENOMEM", 2)
        link.failure = None
        assert seen() == ("", "", 3)
    assert link.closed


def test_each_way_of_a_channel_with_copies_is_tried() -> None:
    settings = OutboundChannel.model_validate(
        {
            "source": "/x",
            "group": "239.255.1.1",
            "port": 9190,
            "interface": "eth0",
            "copies": [{"group": "239.255.1.2", "interface": "eth7"}],
        }
    )
    missing = {"eth7"}
    opened: list[FakeSender] = []

    def open_sender(way: OutboundChannel) -> FakeSender:
        if way.interface in missing:
            raise LinkError(f"cannot use {way.group} on {way.interface}", "no such interface")
        opened.append(FakeSender())
        return opened[-1]

    with Trial({"outbound/tv": settings}, open_sender, lambda _: FakeReceiver()) as trial:
        (subject,) = trial.subjects()
        legs = subject.now(ChannelStatus).legs
        assert [(leg.group, leg.port, leg.trouble) for leg in legs] == [
            ("239.255.1.1", 9190, ""),
            ("239.255.1.2", 9190, "cannot use 239.255.1.2 on eth7: no such interface"),
        ]
        assert subject.detail == "", "it sends by the other one"
    missing.add("eth0")
    with Trial({"outbound/tv": settings}, open_sender, lambda _: FakeReceiver()) as trial:
        (subject,) = trial.subjects()
        assert subject.detail == "cannot use 239.255.1.1 on eth0: no such interface"
    assert [one.closed for one in opened] == [True]


def test_what_is_not_tried_is_named() -> None:
    def refuse(_: object) -> FakeReceiver:
        raise AssertionError("what comes by a tunnel is not received natively")

    to = {"group": "239.255.1.2", "port": 9190}
    config = Config.model_validate(
        {
            "outbound": {
                "file": {**to, "source": "/x"},
                "fed": {**to, "source": {"kind": "udp", "listen": "127.0.0.1:5000"}},
                "keys": {**to, "source": "/d", "protocol": {"kind": "flute", "key": "k"}, "rate": "1Mbit"},
            },
            "inbound": {"far": {**to, "via": "amt", "output": ["/x", {"kind": "tcp", "to": "192.0.2.7:1"}]}},
            "gateway": {"tv": {"listen": "127.0.0.1:4022", "allow_groups": ["239.0.0.0/8"]}},
        }
    )
    with Trial(config.workers(), lambda _: FakeSender(), refuse) as trial:
        subjects = trial.subjects()
    said = [(one.name, each) for one in subjects for each in untried(one, Evidence())]
    assert [(name, one.reason.split(" tries ")[1]) for name, one in said if isinstance(one, Skipped)] == [
        ("outbound/fed", 'a source of kind = "udp": mcastctl doctor asks it'),
        ("outbound/keys", "the keys of files: mcastctl doctor asks it"),
        ("inbound/far", "a tunnel: mcastctl doctor asks it"),
        ("inbound/far", 'an output of kind = "tcp": mcastctl doctor asks it'),
        ("gateway/tv", "a [gateway.NAME]: mcastctl doctor asks it"),
    ]
    assert not [each for one in subjects for each in untried(replace(one, state="active"), Evidence())]
