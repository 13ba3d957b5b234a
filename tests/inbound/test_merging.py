"""Numbered datagrams by several legs as one stream: what goes on, what each leg brought, which is silent."""

from __future__ import annotations

import math
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audited import Audited

from mcastd.config import InboundSubscription
from mcastd.counters import SequenceCounters
from mcastd.inbound.merging import HEARTBEAT_SECONDS, MergingSequencer
from mcastd.inbound.protocols import make_protocol
from mcastd.net.legs import LegBatch
from mcastd.net.link import ListBatch
from mcastd.protocols import moldudp64
from mcastd.sequence.reorder import HELD_MAX
from mcastd.worker import Books, Vitals

SENDERS = "192.0.2.7", "192.0.2.8"
SEEDS = st.integers(0, 1 << 32)
SSRC, OTHER = 0x01020304, 0x0A0B0C0D
LEGS = [{"group": "239.1.1.1", "port": 5004}, {"group": "239.2.2.2", "port": 5006}]


class Merged:
    """Two legs, under audit, with a clock of the test."""

    def __init__(self, protocol: Any = "rtp", **keys: Any) -> None:
        keys = {"legs": LEGS, "protocol": protocol, "output": "/srv/a", **keys}
        subscription = InboundSubscription.model_validate(keys)
        self.now = 100.0
        self.dropped: Counter[str] = Counter()
        made = make_protocol(subscription, self.dropped, "inbound/tv")
        assert isinstance(made, MergingSequencer)
        self.merging = made
        made._now = lambda: self.now
        for place in made._places.values():
            place.order._now = lambda: self.now
        made.hold_back(subscription.hold_back)
        self.audited = Audited(made, self.dropped)

    def feed(self, leg: int, *datagrams: bytes, sender: str = "") -> list[bytes]:
        addresses = [sender or SENDERS[leg]] * len(datagrams)
        return self._given(self.audited.feed(LegBatch(ListBatch(datagrams, addresses=addresses), leg)))

    def expire(self, now: float) -> list[bytes]:
        self.now = now if now < math.inf else self.now
        return self._given(self.audited.expire(now))

    @staticmethod
    def _given(batches: list[Any]) -> list[bytes]:
        return [bytes(one) for batch in batches for one in batch.payloads]

    @property
    def counted(self) -> SequenceCounters:
        return self.merging._counted()

    @property
    def lost_by(self) -> list[int]:
        return [self.merging.lost_by(leg) for leg in self.merging.legs]

    def begin(self, *numbers: int) -> None:
        """The first datagrams, by both legs."""
        datagrams = [*map(rtp, numbers)]
        assert self.feed(0, *datagrams) == datagrams
        assert self.feed(1, *datagrams) == []


def rtp(number: int, *, ssrc: int = SSRC) -> bytes:
    return struct.pack(">BBHII", 0x80, 33, number % 65_536, 9 * number, ssrc) + b"payload %d" % (number % 7)


def many(begin: int, end: int, *, without: range | tuple[int, ...] = (), ssrc: int = SSRC) -> list[bytes]:
    return [rtp(number, ssrc=ssrc) for number in range(begin, end) if number not in without]


def mold(number: int, count: int, *, session: bytes = b"20261126AB") -> bytes:
    return struct.pack(">10sQH", session, number, count) + b"\0\1m" * (count % 0xFFFF)


# -- a leg that brings nothing of use


def test_a_leg_whose_datagrams_the_settings_refuse_is_no_protection_and_says_so() -> None:
    merged = Merged({"kind": "rtp", "ssrc": SSRC})
    for number in range(5):
        merged.feed(0, rtp(number))
        merged.feed(1, rtp(number, ssrc=OTHER))
        merged.expire(merged.now + 0.3)
    legs = merged.merging.legs
    first, second = map(merged.merging.misfit_of, legs)
    assert first is None
    assert second is not None
    text = "SSRC 0x0A0B0C0D comes, and ssrc = 0x01020304 is to be received"
    assert (second.comes, second.setting) == (text, "ssrc = 0x0A0B0C0D")
    assert merged.merging.problem == f"leg 239.2.2.2:5006 brings nothing of use: {text}"
    assert merged.feed(1, *many(3, 6)) == [rtp(5)]
    assert merged.merging.problem == ""


@pytest.mark.parametrize(
    ("protocol", "other", "text"),
    [
        (
            "rtp",
            lambda number: rtp(number, ssrc=OTHER),
            "stream 0x0A0B0C0D comes by it, and 0x01020304 by another",
        ),
        (
            {"kind": "sequence", "offset": 2, "size": 2},
            lambda number: rtp(number + 30_000),
            "its numbers are far from those of another",
        ),
    ],
)
def test_a_leg_that_brings_another_stream_than_the_others_says_so(
    protocol: Any, other: Callable[[int], bytes], text: str
) -> None:
    merged = Merged(protocol)
    for number in range(1, 9):
        merged.feed(0, rtp(number))
        merged.feed(1, other(number))
        merged.expire(merged.now + 0.3)
    assert merged.merging.problem == f"leg 239.2.2.2:5006 brings nothing of use: {text}"
    assert merged.feed(0, rtp(9)) == [rtp(9)]


# -- what goes on


def test_what_comes_by_both_goes_on_once_and_the_batch_as_it_is() -> None:
    merged = Merged()
    merged.begin(1, 2, 3)
    batch = ListBatch(many(4, 9), addresses=[SENDERS[0]] * 5)
    assert merged.audited.feed(LegBatch(batch, 0)) == [batch], "the same, not a copy"
    assert merged.feed(1, *many(4, 7)) == []
    assert merged.feed(1, *many(7, 11)) == many(9, 11)
    assert merged.dropped == {"other-leg": 3 + 5}
    assert (merged.counted, merged.merging.held) == (SequenceCounters(), 0)


def test_what_one_lost_is_taken_from_the_other_and_all_is_in_order() -> None:
    merged = Merged()
    merged.begin(65_530, 65_531)
    lossy = many(65_532, 65_560, without=(65_535, 65_540, 65_541))
    assert merged.feed(0, *lossy) == many(65_532, 65_535)
    assert merged.merging.held == 22
    assert merged.feed(1, *many(65_532, 65_550, without=(65_545,))) == many(65_535, 65_560)
    assert merged.feed(1, *many(65_550, 65_560)) == []
    assert merged.merging.held == 0
    merged.expire(101.0)
    assert (merged.counted.lost, merged.merging.note(Vitals()).lost) == (0, 0)
    assert [merged.merging.lost_by(leg) for leg in merged.merging.legs] == [3, 1]


def test_what_both_lost_is_waited_for_as_long_as_max_skew() -> None:
    merged = Merged(max_skew=0.25)
    merged.begin(1, 2)
    assert merged.feed(0, *many(4, 8)) == []
    merged.now = 100.1
    assert merged.feed(1, *many(4, 8)) == []
    assert merged.merging.deadline == 100.25
    assert merged.expire(100.25) == many(4, 8)
    assert merged.feed(1, rtp(3)) == []
    assert merged.dropped["late"] == 1
    assert merged.counted == SequenceCounters(lost=1)


def test_nothing_is_given_up_because_the_process_had_no_processor() -> None:
    merged = Merged()
    merged.begin(1, 2)
    merged.feed(0, *many(4, 8))
    assert merged.expire(107.0) == []
    assert merged.feed(1, *many(3, 8)) == many(3, 8)
    assert merged.counted.lost == 0


def test_without_max_skew_the_first_copy_goes_on_at_once() -> None:
    merged = Merged(max_skew=0)
    merged.begin(1, 2)
    assert merged.feed(0, *many(5, 8)) == many(5, 8)
    assert merged.merging.describe(status()).sequence.missing == 2  # type: ignore[union-attr]
    assert merged.feed(1, *many(3, 9)) == [*many(3, 5), rtp(8)]
    assert merged.counted == SequenceCounters(reordered=2)


def test_what_comes_twice_by_one_leg_is_a_duplicate_and_no_copy() -> None:
    merged = Merged()
    merged.begin(1, 2, 3)
    assert merged.feed(0, rtp(3), rtp(4)) == [rtp(4)]
    assert merged.dropped == {"other-leg": 3, "duplicate": 1}
    assert merged.counted == SequenceCounters(duplicated=1)


def test_what_is_late_on_one_leg_fills_what_is_waited_for() -> None:
    merged = Merged()
    merged.begin(1, 2)
    assert merged.feed(0, rtp(4), rtp(3), rtp(5)) == many(3, 6)


def test_a_leg_that_was_away_goes_on_where_the_other_is() -> None:
    merged = Merged()
    merged.begin(1, 2)
    for number in range(3, 9_003, 100):
        merged.now += 0.01
        assert merged.feed(1, *many(number, number + 100)) == many(number, number + 100)
    assert merged.feed(0, *many(8_990, 8_992)) == []
    assert merged.feed(0, *many(8_992, 9_010)) == many(9_003, 9_010)
    assert merged.feed(1, *many(9_003, 9_020)) == many(9_010, 9_020)
    merged.now += 1.2
    assert merged.feed(0, *many(9_010, 9_030)) == many(9_020, 9_030)
    assert merged.counted.restarts == 0
    assert merged.merging._places[merged.merging.legs[0]].is_settled
    assert merged.dropped.keys() == {"other-leg"}


def test_a_sender_that_begins_anew_does_so_by_both_legs_once() -> None:
    merged = Merged()
    merged.begin(1, 2, 3)
    assert merged.feed(0, rtp(30_000)) == []
    assert merged.feed(0, *many(30_001, 30_005)) == many(30_000, 30_005)
    assert merged.feed(1, rtp(4)) == [], "of before: later ones have gone on"
    assert merged.dropped["late"] == 1
    assert merged.feed(1, *many(30_000, 30_008)) == many(30_005, 30_008)
    assert merged.counted.restarts == 1
    assert merged.feed(0, *many(30_005, 30_009)) == [rtp(30_008)]


def test_a_sender_that_begins_anew_close_behind_is_followed_after_a_while() -> None:
    merged = Merged()
    merged.begin(5_000, 5_001)
    merged.feed(0, *many(4_000, 4_010))
    merged.feed(1, *many(4_000, 4_010))
    merged.now += 0.9
    assert merged.feed(0, *many(4_010, 4_020)) == []
    merged.now += 0.3
    assert merged.feed(0, *many(4_020, 4_030)) == many(4_020, 4_030)
    assert merged.feed(1, *many(4_010, 4_020)) == []
    assert merged.counted.restarts == 1


def test_another_stream_is_taken_when_the_one_has_ended() -> None:
    merged = Merged()
    merged.begin(1, 2)
    merged.now += 0.9
    assert merged.feed(0, *many(3, 6)) == many(3, 6)
    merged.now += 0.2
    assert merged.feed(1, *many(70, 75, ssrc=OTHER)) == [], "of another SSRC than the other leg's"
    assert merged.dropped["other-stream"] == 5
    merged.now += 1.0
    assert merged.feed(1, *many(75, 79, ssrc=OTHER)) == many(75, 79, ssrc=OTHER)
    assert merged.counted.restarts == 1


def test_a_leg_whose_numbers_are_far_off_has_another_stream() -> None:
    merged = Merged()
    merged.begin(1, 2)
    merged = Merged()
    assert merged.feed(0, *many(1, 4)) == many(1, 4)
    assert merged.feed(1, *many(30_000, 30_004)) == []
    assert merged.dropped == {"other-stream": 4}


def test_numbers_at_a_place_are_of_one_stream_by_each_leg() -> None:
    def numbered(*numbers: int) -> list[bytes]:
        return [number.to_bytes(4, "big") for number in numbers]

    merged = Merged({"kind": "sequence", "offset": 0, "size": 4})
    assert merged.feed(0, *numbered(1, 2, 3)) == numbered(1, 2, 3)
    assert merged.feed(1, *numbered(1, 2, 3, 4)) == numbered(4)
    assert merged.feed(0, *numbered(4, 5), sender="192.0.2.99") == []
    assert merged.dropped == {"other-leg": 3, "other-sender": 2}


def test_messages_are_merged_by_their_numbers_however_they_are_cut() -> None:
    merged = Merged("moldudp64", max_skew=0)
    first = [mold(1, 3), mold(4, 2), mold(6, 1)]
    assert merged.feed(0, *first) == first
    assert merged.feed(1, *first) == []
    assert merged.feed(1, mold(7, 4), mold(11, 1)) == [mold(7, 4), mold(11, 1)]
    assert merged.feed(0, mold(7, 2), mold(9, 5)) == [mold(9, 5)], "two of its messages are new"
    assert merged.feed(0, mold(16, 2)) == [mold(16, 2)]
    assert merged.feed(1, mold(14, 2), mold(16, 2)) == [mold(14, 2)]
    assert merged.dropped == {"other-leg": 5}


def test_two_lines_of_another_encoder_have_all_messages_that_one_of_them_brought() -> None:
    pytest.importorskip("moldudp")
    messages = {number: b"%d " % number * (number % 40) for number in range(1, 2001)}
    # Each line cuts them into packets at other places
    lines = [[*by_another_encoder(messages, together)] for together in (7, 11)]
    turns = sorted((number, leg, packet) for leg, line in enumerate(lines) for number, packet in line)
    merged, chance = Merged("moldudp64", max_skew=0), random.Random(7)
    came, gone = dict[int, bytes](), dict[int, bytes]()
    for number, leg, packet in turns:
        if number < 20 or chance.random() > 0.2:
            came |= by_another_decoder(packet)
            for given in merged.feed(leg, packet):
                gone |= by_another_decoder(given)
    assert merged.expire(math.inf) == []
    assert gone == came == {number: messages[number] for number in came}
    assert 0 < len(messages) - len(came) < 200, "some are lost by both"
    assert merged.counted.lost == max(came) - len(came)
    assert merged.dropped.keys() == {"other-leg"}


def by_another_encoder(messages: Mapping[int, bytes], together: int) -> Iterator[tuple[int, bytes]]:
    """Packets of at most so many messages, each with the number of its first message."""
    from moldudp.codec.encoder import MoldUDPEncoder

    for begin in range(1, len(messages) + 1, together):
        packets = list[bytes]()
        encoder = MoldUDPEncoder(SimpleNamespace(publish=lambda packet, to=packets: to.append(bytes(packet))))
        encoder.session(b"20261126AB")
        encoder.seq(begin)
        for number in range(begin, min(begin + together, len(messages) + 1)):
            encoder.add_msg(messages[number])
        encoder.process()
        counts = map(moldudp64.messages, packets)
        yield from zip(accumulate(counts, initial=begin), packets, strict=False)


def by_another_decoder(packet: bytes) -> dict[int, bytes]:
    """The messages of a packet, by number."""
    from moldudp.codec.decoder import MoldUDPDecoder

    found = list[bytes]()
    decoder = MoldUDPDecoder(SimpleNamespace(on_msgblk=found.append))
    decoder.buffer(packet)
    decoder.decode()
    return dict(enumerate(found, decoder.seq()))


def test_heartbeats_go_on_by_one_leg() -> None:
    merged = Merged("moldudp64")
    for leg in (0, 1):
        merged.feed(leg, mold(1, 1), mold(2, 1))
    assert merged.feed(0, mold(3, 0)) == [mold(3, 0)]
    assert merged.feed(1, mold(3, 0)) == []
    merged.now += HEARTBEAT_SECONDS
    assert merged.feed(1, mold(3, 0)) == [mold(3, 0)]
    assert merged.feed(0, mold(3, 0)) == []


@pytest.mark.parametrize("max_skew", [0, 0.05])
@pytest.mark.parametrize("is_together", [False, True])
def test_the_next_session_is_merged_at_once_where_the_last_one_has_ended(
    max_skew: float, is_together: bool
) -> None:
    merged, following = Merged("moldudp64", max_skew=max_skew), b"20261127AA"
    before = [mold(1, 2), mold(3, 1)]
    begun = [mold(1, 1, session=following), mold(2, 3, session=following), mold(5, 1, session=following)]
    for leg in (0, 1):
        merged.feed(leg, *before)
    assert merged.feed(0, *begun[:2]) == [], "the last one has not ended"
    merged.now += 0.2
    end = [mold(4, 0xFFFF)] * 2
    for leg in (1, 0):
        given = merged.feed(leg, *end, *begun) if is_together else merged.feed(leg, *end)
        given += [] if is_together else merged.feed(leg, *begun)
        assert [one for one in given if one not in end] == (begun if leg else [])
    assert merged.feed(0, mold(6, 2, session=following)) == [mold(6, 2, session=following)]
    assert merged.counted.restarts == 1


def test_what_is_held_goes_on_at_the_end() -> None:
    merged = Merged()
    merged.begin(1, 2)
    assert merged.feed(0, *many(5, 7)) == []
    assert merged.expire(math.inf) == many(5, 7)
    lone = Merged()
    assert lone.feed(0, rtp(1)) == lone.feed(1, rtp(1)) == []
    assert lone.expire(math.inf) == [rtp(1)]


def test_other_legs_go_on_where_the_stream_is() -> None:
    merged = Merged()
    merged.begin(1, 2)
    assert merged.feed(0, *many(4, 8)) == []
    assert merged.feed(1, rtp(40_000)) == []
    assert merged.merging.held == 5
    kept, _ = merged.merging.legs
    assert merged.merging.change_legs(["239.3.3.3:5008", kept.label, "239.4.4.4:5010"])
    assert merged.audited.expire(merged.now) == []
    assert merged.dropped["stray"] == 1, "of the leg that there is no longer"
    assert merged.merging.legs[1] is kept
    assert [leg.index for leg in merged.merging.legs] == [0, 1, 2]
    for leg in (0, 2):
        assert merged.feed(leg, *many(1, 3), sender="192.0.2.9") == []
    assert merged.feed(2, rtp(3), sender="192.0.2.9") == many(3, 8)
    assert merged.feed(1, rtp(8), sender=SENDERS[0]) == [rtp(8)]
    assert (merged.counted.lost, merged.counted.restarts) == (0, 0)


# -- accounts


def status() -> Any:
    from mcastd.codec import from_json
    from mcastd.status import SubscriptionStatus

    return from_json(SubscriptionStatus, {})


def test_each_leg_has_an_account_with_its_skew() -> None:
    merged = Merged(max_skew="300ms")
    merged.begin(1, 2)
    merged.feed(0, *many(3, 8))
    merged.now += 0.1
    merged.feed(1, *many(3, 6))
    merged.now += 0.05
    merged.feed(1, *many(6, 10))
    merged.now += 0.02
    merged.feed(0, *many(8, 10))
    left, right = merged.merging.describe(status()).legs
    size = len(rtp(1))
    assert (left.received, left.received_bytes, left.first, left.lost) == (9, 9 * size, 7, 0)
    assert (right.received, right.first, right.sender) == (9, 2, SENDERS[1])
    assert (left.skew_ms, left.most_skew_ms) == (pytest.approx(20), pytest.approx(20))
    assert (right.skew_ms, right.most_skew_ms) == (pytest.approx(150), pytest.approx(150))
    assert (left.age, right.age) == (0.0, pytest.approx(0.02))
    merged.feed(0, *many(10, 12))
    merged.now += 0.03
    merged.feed(1, *many(10, 12))
    _, right = merged.merging.describe(status()).legs
    assert (right.skew_ms, right.most_skew_ms) == (pytest.approx(30), pytest.approx(150))


def test_a_leg_is_silent_while_the_other_goes_on_and_not_if_both_are(caplog: Any) -> None:
    merged = Merged()
    merged.begin(1, 2)
    merged.feed(0, rtp(3))
    assert merged.merging.deadline == math.inf, "maybe that was the last"
    merged.now = 100.5
    merged.feed(0, rtp(4))
    assert merged.merging.deadline == pytest.approx(101.05)
    merged.expire(101.0)
    assert merged.merging.problem == ""
    merged.expire(101.05)
    assert merged.merging.problem == "leg 239.2.2.2:5006 is silent"
    assert [leg.silent for leg in merged.merging.enter(books()).legs] == [False, True]
    assert merged.merging.deadline > 102, "it is said once"
    merged.feed(1, *many(3, 5))
    assert merged.merging.problem == ""
    merged.expire(200.0)
    assert merged.merging.problem == ""


def test_a_leg_that_never_brought_anything_is_silent() -> None:
    merged = Merged()
    for number in range(1, 9, 2):
        merged.now += 0.4
        merged.feed(0, *many(number, number + 2))
    merged.expire(merged.now)
    assert merged.merging.problem == "leg 239.2.2.2:5006 is silent"


def test_one_sender_of_all_legs_is_said() -> None:
    merged = Merged()
    merged.feed(0, *many(1, 4), sender="192.0.2.77")
    assert merged.merging.problem == ""
    merged.feed(1, *many(1, 4), sender="192.0.2.77")
    assert merged.merging.problem == "all legs come from 192.0.2.77: what fails there fails for all"
    assert merged.merging.describe(status()).shared_sender == "192.0.2.77"
    assert merged.merging.enter(books()).legs_share


def books() -> Books:
    from mcastd.worker import WorkerIdentity

    return Books(WorkerIdentity("239.1.1.1", 5004, "eth0"), None, None)


# -- at random


def steps(draw: random.Random, count: int) -> Iterator[tuple[int, list[int]]]:
    """Batches of two legs, each with losses and now and then a swap, by turns of their own."""
    at = [0, 0]
    while min(at) < count:
        leg = draw.randrange(2) if abs(at[0] - at[1]) < 300 else at.index(min(at))
        end = min(count, at[leg] + draw.randrange(1, 40))
        numbers = [number for number in range(at[leg], end) if draw.random() > 0.04]
        if len(numbers) > 2 and draw.random() < 0.3:
            numbers[0], numbers[1] = numbers[1], numbers[0]
        at[leg] = end
        if numbers:
            yield leg, numbers


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(0, 65_535), st.sampled_from([1.0, 0.0]))
def test_each_that_any_leg_brings_goes_on_once(seed: int, first: int, max_skew: float) -> None:
    draw = random.Random(seed)
    merged = Merged(max_skew=max_skew)
    had, gone = set[int](), list[bytes]()
    merged.feed(0, rtp(first), rtp(first + 1))
    merged.feed(1, rtp(first), rtp(first + 1))
    for leg, numbers in steps(draw, 400):
        gone += merged.feed(leg, *[rtp(first + 2 + number) for number in numbers])
        had |= {*numbers}
    gone += merged.expire(math.inf)
    expected = [rtp(first + 2 + number) for number in sorted(had)]
    assert sorted(gone) == sorted(expected)
    assert not max_skew or gone == expected
    assert merged.dropped.keys() <= {"other-leg"}
    assert merged.counted.lost == max(had) + 1 - len(had)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.binary(max_size=30) | st.integers(0, 70_000), st.floats(0, 0.7)),
        max_size=60,
    ),
    st.sampled_from(["rtp", "moldudp64", {"kind": "sequence", "offset": 1, "size": 1, "count_offset": 3}]),
    st.sampled_from([0.05, 0.0]),
)
def test_whatever_comes_is_accounted_for(
    came: list[tuple[int, bytes | int, float]], protocol: Any, max_skew: float
) -> None:
    merged = Merged(protocol, max_skew=max_skew)
    for leg, what, wait in came:
        merged.now += wait
        merged.feed(leg, what if isinstance(what, bytes) else rtp(what))
        merged.expire(merged.now)
    merged.expire(math.inf)
    assert merged.merging.held == 0


def ahead(protocol: str) -> tuple[Callable[[int], bytes], bytes]:
    """Makes datagrams of a protocol; and one that is far ahead of all of them."""
    return (rtp, rtp(2_900)) if protocol == "rtp" else (lambda number: mold(number, 1), mold(1 << 40, 1))


@pytest.mark.parametrize("protocol", ["rtp", "moldudp64"])
def test_one_datagram_far_ahead_takes_nothing_from_those_that_come(protocol: str) -> None:
    merged = Merged(protocol)
    make, far = ahead(protocol)
    first, gone, sent = [make(1), make(2)], list[bytes](), [make(number) for number in range(3, 1_500)]
    assert merged.feed(0, *first) == first
    assert merged.feed(1, *first) == []
    assert merged.feed(0, far) == []
    for datagram in sent:
        gone += merged.feed(0, datagram) + merged.feed(1, datagram)
        gone += merged.expire(merged.now + 0.001)
    assert gone == sent
    assert (merged.dropped["stray"], merged.dropped["late"], merged.merging.held) == (1, 0, 0)
    assert merged.counted == SequenceCounters()


@pytest.mark.parametrize("protocol", ["rtp", "moldudp64"])
def test_after_one_datagram_far_ahead_in_a_pause_the_stream_goes_on_soon(protocol: str) -> None:
    merged = Merged(protocol)
    make, far = ahead(protocol)
    first, gone, sent = [make(1), make(2)], list[bytes](), [make(number) for number in range(3, 203)]
    merged.feed(0, *first)
    merged.feed(1, *first)
    assert merged.feed(0, far) == []
    merged.expire(100.04)
    assert merged.expire(100.05) == [far]
    for datagram in sent:
        gone += merged.feed(1, datagram)
        gone += merged.expire(merged.now + 0.01)
    assert gone == sent[-len(gone) :]
    assert len(gone) > 90  # those after a second, and max_skew
    assert merged.counted.restarts == 1


def test_a_flood_far_ahead_by_one_leg_takes_nothing_from_those_that_come() -> None:
    merged = Merged("moldudp64")
    first = [mold(1, 1), mold(2, 1)]
    merged.feed(0, *first)
    merged.feed(1, *first)
    gone, sent, forged = list[bytes](), [mold(number, 1) for number in range(3, 203)], 0
    for index, datagram in enumerate(sent):
        begin = (1 << 40) + 1_000 * index
        gone += merged.feed(0, *(mold(number, 1) for number in range(begin, begin + 200, 2)))
        forged += 100
        gone += merged.feed(1, datagram)
        gone += merged.expire(merged.now + 0.001)
        assert merged.merging.held <= HELD_MAX
    assert gone == sent
    assert merged.dropped["stray"] == forged - merged.merging.held > 0
    assert (merged.counted.lost, merged.counted.restarts) == (0, 0)


def test_what_is_lost_of_a_known_stream_stays_so_when_another_begins() -> None:
    merged = Merged()
    merged.begin(*range(1, 50))
    for leg in (0, 1):
        merged.feed(leg, rtp(53))
    merged.expire(100.05)
    assert (merged.counted.lost, merged.merging.known_lost) == (3, 3)
    merged.now = 110.0
    anew = [rtp(number, ssrc=OTHER) for number in (7, 8, 11)]
    assert merged.feed(0, *anew) == anew[:2]
    merged.expire(110.05)
    assert (merged.counted.lost, merged.merging.known_lost) == (5, 3)


@pytest.mark.parametrize("max_skew", [0, "50ms"])
def test_one_number_far_ahead_is_no_loss_of_legs(max_skew: Any) -> None:
    merged = Merged("moldudp64", max_skew=max_skew)
    first = [mold(1, 1), mold(2, 1)]
    merged.feed(0, *first)
    merged.feed(1, *first)
    merged.feed(0, mold(1 << 40, 1))
    for number in range(3, 30):
        for leg in (0, 1):
            merged.feed(leg, mold(number, 1))
        merged.expire(merged.now + 0.2)
    merged.expire(merged.now + 5.0)
    assert merged.counted.lost == 0
    assert merged.lost_by == [0, 0]
