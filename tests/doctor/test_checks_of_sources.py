"""What is said of a channel whose source is what others send."""

from __future__ import annotations

from typing import Any

import pytest

from mcastd.codec import from_json
from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.doctor import outputs, reception
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding
from mcastd.doctor.subject import Subject
from mcastd.status import ChannelStatus, SubscriptionStatus

UDP = {"kind": "udp", "listen": "192.0.2.5:5000"}


def status(**reception: Any) -> ChannelStatus:
    return from_json(ChannelStatus, {"reception": {"received": 7, **reception}})


def said(
    now: ChannelStatus | None = None,
    before: ChannelStatus | None = None,
    *,
    source: dict[str, str] | str = UDP,
    state: str = "active",
    errno: str = "",
    **settings: Any,
) -> list[tuple[str, str, str]]:
    table = {"group": "239.255.6.1", "port": 9190, "source": source, **settings}
    subject = Subject(
        "outbound/news",
        OutboundChannel.model_validate(table),
        state,
        status=now or status(),
        earlier=before,
        errno=errno,
    )
    found = [one for one in reception.reception(subject, Evidence()) if isinstance(one, Finding)]
    return [(one.cause, one.what, one.fix) for one in found]


def test_one_that_is_well() -> None:
    assert said() == []
    assert said(source="/srv/news") == []
    assert said(status(overflow=3, refused={"192.0.2.9": 4})) == [], "nothing was watched"
    assert said(status(overflow=3), status(overflow=3)) == []


def test_what_overflows_while_being_watched() -> None:
    ((cause, _, fix),) = said(status(overflow=5), status(overflow=2))
    assert cause == "source-overflow"
    assert fix.startswith("receive_buffer = 16777216 (bytes) in source of [outbound.news]")
    ((_, _, fix),) = said(status(overflow=5), status(overflow=2), rate="1Mbit")
    assert fix.startswith("a higher rate, or none, in [outbound.news]; or, for bursts, receive_buffer")


def test_those_who_may_not_send() -> None:
    now, before = (
        status(refused={"192.0.2.9": 4, "192.0.2.8": 5}),
        status(refused={"192.0.2.9": 3, "192.0.2.8": 5}),
    )
    ((cause, what, _),) = said(now, before)
    assert (cause, what) == ("sender-refused", "what 192.0.2.9 sends is dropped: it may not send")


def test_one_to_which_nothing_comes() -> None:
    ((cause, what, fix),) = said(status(received=0))
    assert (cause, what) == ("source-silent", "nothing has ever come to its source udp 192.0.2.5:5000")
    assert "nft list ruleset" in fix
    ((cause, _, fix),) = said(status(received=0), source={"kind": "unix", "path": "/run/news"})
    assert "nft" not in fix


@pytest.mark.parametrize(
    ("source", "see"),
    [
        (UDP, "ss -lnp --udp 'sport = :5000'"),
        ({"kind": "tcp-server", "listen": "[::]:5001"}, "ss -lnp --tcp 'sport = :5001'"),
        ({"kind": "unix", "path": "/run/news"}, "ss -xlp"),
    ],
)
def test_one_that_another_program_has(source: dict[str, str], see: str) -> None:
    ((cause, _, fix),) = said(source=source, state="auto-restart", errno="EADDRINUSE")
    assert cause == "source-taken"
    assert see in fix


def test_what_comes_back() -> None:
    ((cause, what, fix),) = said(status(returned_by="192.0.2.7"))
    assert cause == "circle"
    assert "comes back to its source by 192.0.2.7" in what
    assert "senders in source of [outbound.news]" in fix


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ({"kind": "nats", "servers": "nats://192.0.2.7", "subject": "tv.>"}, "subject"),
        ({"kind": "redis", "servers": "redis://192.0.2.7", "key": "tv", "group": "g"}, "key"),
    ],
)
def test_what_comes_back_by_an_engine(source: dict[str, str], key: str) -> None:
    ((cause, _, fix),) = said(status(returned_by="b/inbound/back (of 192.0.2.5)"), source=source)
    assert cause == "circle"
    assert fix == (
        f"have the outputs of b/inbound/back (of 192.0.2.5) hand over to another {key}, or not receive"
        f" 239.255.6.1; or take from another {key} in source of [outbound.news]"
    )


def test_what_comes_back_from_where_an_output_sends() -> None:
    table = {"group": "239.255.6.1", "port": 9190, "output": {"kind": "udp", "to": "192.0.2.7:5000"}}
    error = {
        "path": "192.0.2.7:5000",
        "error": "cannot send all: circle",
        "reason": "circle",
        "way_out": "name them",
    }
    now = from_json(SubscriptionStatus, {"outputs": [error]})
    subject = Subject("inbound/news", InboundSubscription.model_validate(table), "active", status=now)
    (found,) = outputs.outputs(subject, Evidence())
    assert isinstance(found, Finding)
    assert (found.cause, found.what, found.fix) == ("circle", "cannot send all: circle", "name them")
