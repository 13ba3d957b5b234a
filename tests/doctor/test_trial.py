"""Workers that are tried without a daemon, over links in memory."""

from __future__ import annotations

import errno

import pytest

from mcastd.config import InboundSubscription
from mcastd.doctor.trial import Trial
from mcastd.errors import NoArenaError
from mcastd.net.fake import FakeReceiver, FakeSender
from mcastd.status import SubscriptionStatus

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
