"""Channels on several hosts that take the same messages for one group, which an output hands over again."""

from __future__ import annotations

import pytest

from mcastd import clock
from mcastd.engines.consumer import TakenMessage
from mcastd.engines.provenance import Provenance
from mcastd.net.link import DatagramFlow
from mcastd.outbound.sources.returned import ReturnedMessages

STEP_SECONDS = 0.01


class Host:
    """One channel, and what it has sent."""

    def __init__(self, address: str) -> None:
        self.flow = DatagramFlow(address, 40_000, "239.1.1.1", 5004)
        self.returned = ReturnedMessages()
        self.returned.sends_by(lambda: [self.flow])
        self.sent: list[bytes] = []

    def take(self, messages: list[TakenMessage], now: float) -> list[TakenMessage]:
        """What is handed over again of what it sends."""
        back = {*self.returned.sift(messages, now)}
        went = [one.payload for index, one in enumerate(messages) if index not in back]
        self.sent += went
        return [TakenMessage(b"", one, made_of=Provenance(self.flow, "c/inbound/in")) for one in went]


def new(number: int) -> TakenMessage:
    return TakenMessage(b"", b"payload %d" % number)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_it_ends_however_many_take_it(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Else each would send what the others have sent, and there would be more and more of it."""
    hosts = [Host(f"10.9.0.{number}") for number in range(1, count + 1)]
    going: list[TakenMessage] = []
    now = 1000.0
    for number in range(300):
        going = [again for host in hosts for again in host.take([*going, new(number)], now)]
        assert len(going) <= 2 * count, "one that came before anybody knew, and a new one"
        now += STEP_SECONDS
    assert len(going) == count, "each sends what is new, and nothing else"
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    for host in hosts:
        assert {*host.sent} == {new(number).payload for number in range(300)}
        assert host.returned.returned_by == f"c/inbound/in (of {host.flow.source})"


def test_what_others_hand_over_is_not_compared() -> None:
    """Two sites may have the same to say; of who returns what is sent, nothing goes twice."""
    host = Host("10.9.0.1")
    other = Provenance(DatagramFlow("10.7.0.1", 5000, "239.7.7.7", 5004), "d/inbound/in")
    own, same = Provenance(host.flow, "c/inbound/in"), b"keep-alive"
    others = Provenance(host.flow._replace(source="10.9.0.9"), "c/inbound/in")
    messages = [TakenMessage(b"", same, made_of=of) for of in (other, own, other, others, None)]
    assert host.returned.sift(messages, 1000.0) == [1, 3]
    assert host.returned.sift(messages[2:4], 1001.0) == [1]
    assert host.returned.sift(messages[3:4], 1007.0) == [], "it was sent too long ago"
    assert host.returned.sift(messages[3:4], 1008.0) == [0]
    assert host.returned.sift(messages[3:4], 1062.0) == [], "nothing has come back for a minute"


def test_of_those_who_return_it_so_many_are_known() -> None:
    """Anybody may write to an engine, as anybody."""
    host = Host("10.9.0.1")
    for number in range(500):
        message = TakenMessage(b"", b"x", made_of=Provenance(host.flow, f"c{number}/inbound/in"))
        assert host.returned.sift([message], 1000.0) == [0]
    assert len(host.returned._writers) <= 65


def test_while_all_are_of_other_programs_nothing_is_looked_at() -> None:
    host = Host("10.9.0.1")
    for number in range(300):
        messages = [TakenMessage(b"", b"same")] * 3
        assert host.returned.sift(messages, 1000.0 + number * STEP_SECONDS) == []
    assert host.returned.returned_by == ""
