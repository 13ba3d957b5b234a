"""How often senders are told that their packets are too long, and which of them."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest
from support.amt_relay import datagram

from mcastd.amt_relay.notices import AGAIN_MAX_SECONDS, MESSAGES_PER_SECOND, TOLD_KEPT, SenderNotices
from mcastd.ip import Address

SSM, ASM, SSM_6, ASM_6 = map(ip_address, ("232.1.1.1", "239.1.1.1", "ff3e::1", "ff1e::1"))
S1, S2 = map(ip_address, ("203.0.113.1", "203.0.113.2"))


class Sent(list[tuple[Address, int]]):
    """To whom messages went, with the length that they say."""

    refusal = ""

    def send(self, to: Address, message: bytes) -> str:
        if not self.refusal:
            self.append((to, int.from_bytes(message[4:8])))
        return self.refusal


@pytest.fixture
def sent() -> Sent:
    return Sent()


def long(group: Address = SSM, source: Address = S1) -> bytes:
    return datagram(bytes(1400), group, source=source)


@pytest.mark.parametrize(("ssm", "asm"), [(SSM, ASM), (SSM_6, ASM_6)])
def test_only_senders_of_source_specific_multicast_are_told(sent: Sent, ssm: Address, asm: Address) -> None:
    notices = SenderNotices(sent.send)
    assert not notices.tell(long(asm), 1000, 0.0)
    assert sent == []
    assert notices.tell(memoryview(long(ssm)), 1000, 0.0)
    assert sent == [(ip_address("2001:db8::1") if ssm.version == 6 else S1, 1000)]


def test_one_that_does_not_listen_is_told_ever_more_seldom(sent: Sent) -> None:
    notices = SenderNotices(sent.send)
    times = [0.1 * tick for tick in range(36_000) if notices.tell(long(), 1000, 0.1 * tick)]
    waits = [round(after - before) for before, after in itertools.pairwise(times)]
    assert waits[:6] == [1, 2, 4, 8, 16, 32]
    assert {*waits[6:]} == {round(AGAIN_MAX_SECONDS)}
    # One that has listened, and has forgotten it after a while, as Linux does after ten minutes
    later = 3600 + 600
    assert notices.tell(long(), 1000, later)
    assert not notices.tell(long(), 1000, later + 0.9)
    assert notices.tell(long(), 1000, later + 1.1)


def test_less_is_told_at_once_and_each_group_of_a_sender_by_itself(sent: Sent) -> None:
    notices = SenderNotices(sent.send)
    assert notices.tell(long(), 1000, 0.0)
    assert not notices.tell(long(), 1000, 0.5)
    assert not notices.tell(long(), 1200, 0.5), "that is no news to it"
    assert notices.tell(long(), 900, 0.5)
    assert notices.tell(long(ip_address("232.1.1.2")), 1000, 0.5)
    assert notices.tell(long(source=S2), 1000, 0.5)
    assert sent == [(S1, 1000), (S1, 900), (S1, 1000), (S2, 1000)]


def test_forged_senders_cause_no_more_than_some_messages_a_second_and_little_memory(sent: Sent) -> None:
    notices = SenderNotices(sent.send)
    for number in range(20_000):  # in ten seconds
        notices.tell(long(source=ip_address(0xC6120000 + number)), 1000, number / 2000)
    assert len(sent) == 10 * MESSAGES_PER_SECOND
    for number in range(2 * TOLD_KEPT):
        notices.tell(long(source=ip_address(0xC6120000 + number)), 1000, 100.0 + number)
    assert len(notices._told) == TOLD_KEPT


def test_what_could_not_be_sent_was_not_told(sent: Sent) -> None:
    notices = SenderNotices(sent.send)
    sent.refusal = "Network is unreachable"
    assert not notices.tell(long(), 1000, 0.0)
    sent.refusal = ""
    assert notices.tell(long(), 1000, 0.1)
