"""A Sender around others: what it holds goes when it is due, in whichever thread the channel sends."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.channel import running
from support.wait import wait_for

from mcastd import clock
from mcastd.config import OutboundChannel
from mcastd.errors import LinkError
from mcastd.net.fake import FakeSender
from mcastd.net.link import Sender
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.net.sender_around import SenderAround
from mcastd.outbound.channel import Channel
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources import open_source

LINES = [b"line %d\n" % number for number in range(7)]


class TwoLegs(SenderAround):
    """Sends everything by one leg, and once more by the other, a while later."""

    def __init__(self, link: Sender, other: Sender, later: float) -> None:
        super().__init__(link)
        self._other, self._later = other, later
        self._kept: deque[tuple[float, ListPayloads]] = deque()

    def send(self, payloads: Payloads) -> int:
        sent = super().send(payloads)
        copies = ListPayloads(map(bytes, payloads.part(0, sent)))
        self._kept.append((clock.monotonic() + self._later, copies))
        return sent

    @property
    def deadline(self) -> float:
        return self._kept[0][0] if self._kept else math.inf

    @property
    def held(self) -> int:
        return sum(len(payloads) for _, payloads in self._kept)

    def tick(self, now: float) -> None:
        while self.deadline <= now:
            self._other.send(self._kept[0][1])
            self._kept.popleft()

    def close(self) -> None:
        for _, payloads in self._kept:
            self._other.send(payloads)
        super().close()
        self._other.close()


class Bench:
    def __init__(self, path: Path, later: float, shared: SharedSender | None, **settings: object) -> None:
        self.first, self.second = FakeSender(), FakeSender()
        table = {"source": path, "group": "239.255.1.2", "port": 9190, "interval": 0} | settings
        config = OutboundChannel.model_validate(table)
        link = TwoLegs(self.first, self.second, later)
        self.channel = Channel("outbound/news", config, lambda _: link, open_source(config), shared=shared)

    @contextmanager
    def running(self) -> Iterator[list[BaseException]]:
        """A run in another thread, with what it raises. At the end it is told to stop."""
        with running(self.channel) as run:
            yield run.failures
        self.channel.close()
        assert self.first.closed
        assert self.second.closed


@pytest.fixture(params=["alone", "with others"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    path = tmp_path / "news"
    path.write_bytes(b"".join(LINES))
    with closing(SharedSender()) as shared:
        lent = shared if request.param == "with others" else None
        yield lambda later, **settings: Bench(path, later, lent, **settings)


def test_a_channel_ends_when_nothing_is_held_any_more(bench: Callable[..., Bench]) -> None:
    it = bench(0.2)
    with it.running() as failures:
        wait_for(lambda: it.first.sent == LINES, "the first leg")
        assert it.second.sent == []
        wait_for(lambda: it.second.sent == LINES, "the second leg")
        wait_for(lambda: it.second.closed, "the end")
    assert not failures


def test_what_is_held_goes_between_two_datagrams(bench: Callable[..., Bench]) -> None:
    """The next datagram is an hour away."""
    it = bench(0.05, interval="1h")
    with it.running() as failures:
        wait_for(lambda: it.second.sent == LINES[:1], "the second leg")
        assert it.first.sent == LINES[:1]
    assert not failures


def test_what_is_held_goes_while_the_source_is_at_rest(bench: Callable[..., Bench]) -> None:
    it = bench(0.05, follow=True)
    with it.running() as failures:
        wait_for(lambda: it.second.sent == LINES, "the second leg")
    assert not failures


def test_a_paced_channel_sends_all_of_it_twice(bench: Callable[..., Bench]) -> None:
    it = bench(0.003, interval="2ms", repeat=20)
    with it.running() as failures:
        wait_for(lambda: it.second.closed, "the end")
    assert it.first.sent == it.second.sent == LINES * 20
    assert it.channel.counters.sent == len(LINES) * 20
    assert not failures


def test_what_is_held_at_the_end_is_sent_first(bench: Callable[..., Bench]) -> None:
    it = bench(3600.0)
    with it.running():
        wait_for(lambda: it.first.sent == LINES, "the first leg")
    assert it.second.sent == LINES


def test_what_a_tick_raises_ends_the_run(bench: Callable[..., Bench]) -> None:
    it = bench(0.05, interval="1h")
    it.second.errors.append(1)
    with it.running() as failures:
        wait_for(lambda: failures, "the failure")
    assert [type(failure) for failure in failures] == [LinkError]
    assert it.second.sent == LINES[:1], "kept until the link is closed"


@pytest.mark.parametrize("link", [FakeSender(), SenderAround(FakeSender())], ids=["fake", "around"])
def test_one_that_holds_nothing_has_no_deadline(link: Sender) -> None:
    assert link.send(ListPayloads(LINES)) == len(LINES)
    assert (link.held, link.deadline) == (0, math.inf)
