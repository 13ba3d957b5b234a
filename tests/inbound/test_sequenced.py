"""Numbered datagrams between link and outputs: what goes on, what is dropped and why, what is counted."""

from __future__ import annotations

import math
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audited import Audited
from support.subscription import Run, file_output
from support.wait import wait_for

from mcastd.codec import from_json
from mcastd.config import InboundSubscription, MoldInbound, RtpInbound, SequenceInbound
from mcastd.counters import SequenceCounters
from mcastd.inbound import numbered_streams
from mcastd.inbound.arrivals import NumberedArrivals
from mcastd.inbound.numbered import FieldSequencer, MoldSequencer, RtpSequencer
from mcastd.inbound.numbered_streams import CANDIDATES_MAX, SENDERS_MAX, SILENT_SECONDS
from mcastd.inbound.sequenced import FAR_NUMBERS, NumberedSequencer
from mcastd.net.legs import LegBatch
from mcastd.net.link import ListBatch, Origin
from mcastd.rows import Rows
from mcastd.sequence.jitter import Jitter
from mcastd.status import NumberedSender, SubscriptionStatus
from mcastd.worker import Signal, Vitals

A, B = "192.0.2.7", "192.0.2.8"
SSRC, OTHER = 0x01020304, 0x0A0B0C0D


class Taking:
    """A protocol with a clock of the test, under audit."""

    def __init__(self, kind: type[NumberedSequencer], settings: Any) -> None:
        self.now = 100.0
        self.dropped: Counter[str] = Counter()
        self.sequencer = kind(settings, self.dropped, now=lambda: self.now)  # type: ignore[call-arg, arg-type]
        self.audited = Audited(self.sequencer, self.dropped)

    def feed(
        self, *datagrams: bytes, sender: str | Sequence[str] = A, times: Sequence[int] = ()
    ) -> list[bytes]:
        """Feed a batch; return what goes on."""
        addresses = [sender] * len(datagrams) if isinstance(sender, str) else sender
        batches = self.audited.feed(ListBatch(datagrams, times=times, addresses=addresses))
        return [bytes(one) for batch in batches for one in batch.payloads]

    def expire(self, now: float) -> list[bytes]:
        self.now = now
        return [bytes(one) for batch in self.audited.expire(now) for one in batch.payloads]

    @property
    def senders(self) -> Sequence[NumberedSender]:
        streams = self.sequencer._streams
        return [streams._sender(one, self.now) for one in streams]

    @property
    def counted(self) -> SequenceCounters:
        return self.sequencer.total


def rtp(
    number: int, *, ssrc: int = SSRC, payload_type: int = 33, stamp: int | None = None, first: int = 0x80
) -> bytes:
    stamp = 1000 * number if stamp is None else stamp
    return struct.pack(">BBHII", first, payload_type, number % 65_536, stamp, ssrc) + b"payload %d" % (
        number % 9
    )


def mold(number: int, count: int = 1, *, session: bytes = b"20261126AB") -> bytes:
    return struct.pack(">10sQH", session, number, count) + b"\0\1m" * (count % 0xFFFF)


def of_rtp(**keys: Any) -> Taking:
    return Taking(RtpSequencer, RtpInbound.model_validate(keys))


def of_mold(**keys: Any) -> Taking:
    return Taking(MoldSequencer, MoldInbound.model_validate(keys))


def of_field(**keys: Any) -> Taking:
    return Taking(FieldSequencer, SequenceInbound.model_validate({"offset": 0, "size": 2, **keys}))


# -- RTP


def test_a_stream_in_order_goes_on_as_it_comes_from_its_first_datagram_on() -> None:
    taking = of_rtp()
    assert taking.feed(rtp(7)) == []
    assert taking.sequencer.held == 1, "until the second confirms that there is a stream"
    assert taking.feed(rtp(8), rtp(9)) == [rtp(7), rtp(8), rtp(9)]
    batch = ListBatch([rtp(10), rtp(11)], addresses=[A, A])
    assert taking.audited.feed(batch) == [batch], "the same, not a copy"
    assert (taking.counted, taking.dropped) == (SequenceCounters(), {})
    assert taking.senders[0].stream == "0x01020304"


def test_the_first_two_may_come_together() -> None:
    taking = of_rtp()
    assert taking.feed(rtp(7), rtp(8)) == [rtp(7), rtp(8)]
    assert taking.sequencer.held == 0


def test_a_marker_or_another_timestamp_is_no_trouble() -> None:
    taking = of_rtp()
    taking.feed(rtp(65_533), rtp(65_534))
    more = [rtp(65_535, payload_type=0x80 | 33), rtp(0, stamp=5), rtp(1, payload_type=0x80 | 33)]
    assert taking.feed(*more) == more


def test_loss_repetition_and_order_are_counted_and_a_duplicate_does_not_go_on() -> None:
    taking = of_rtp()
    taking.feed(*map(rtp, range(10)))
    came = [rtp(number) for number in (10, 13, 12, 13, 14, 10)]
    assert taking.feed(*came) == [rtp(number) for number in (10, 13, 12, 14)]
    assert taking.dropped == {"duplicate": 2}
    assert taking.senders[0].missing == 1
    assert taking.sequencer.deadline == 101.0
    assert taking.expire(101.0) == []
    assert taking.counted == taking.senders[0].counters == SequenceCounters(lost=1, duplicated=2, reordered=1)
    assert taking.sequencer.note(Vitals()).lost == 1
    assert taking.senders[0].datagrams == 16


def test_a_sender_that_begins_anew_is_a_restart_and_nothing_of_it_is_lost() -> None:
    taking = of_rtp()
    taking.feed(*map(rtp, range(5)))
    assert taking.feed(rtp(30_000)) == []
    assert taking.sequencer.held == 1
    assert taking.feed(rtp(30_001), rtp(30_002)) == [rtp(30_000), rtp(30_001), rtp(30_002)]
    assert taking.feed(rtp(50_000), rtp(50_001)) == [rtp(50_000), rtp(50_001)]
    assert taking.counted == SequenceCounters(restarts=2)


def test_what_is_far_off_and_alone_is_a_stray() -> None:
    taking = of_rtp()
    taking.feed(*map(rtp, range(5)))
    assert taking.feed(rtp(30_000), rtp(5)) == [rtp(5)]
    assert taking.feed(rtp(40_000), rtp(6)) == [rtp(6)]
    assert (taking.sequencer.held, taking.dropped["stray"]) == (1, 1)
    assert taking.expire(taking.sequencer.deadline) == []
    assert (taking.sequencer.held, taking.dropped["stray"]) == (0, 2)


def test_what_is_no_rtp_is_dropped_by_reason() -> None:
    taking = of_rtp(ssrc=SSRC)
    taking.feed(rtp(1), rtp(2))
    report = bytes([0x81, 200]) + bytes(26)
    wrong = [b"", b"\x47" * 188, report, rtp(3, first=0x90)[:14], rtp(3, first=0xA0)[:-1] + b"\xff"]
    assert taking.feed(wrong[0], rtp(3), *wrong[1:], rtp(4, ssrc=OTHER), rtp(4)) == [rtp(3), rtp(4)]
    assert taking.dropped == {"not-rtp": 4, "rtcp": 1, "other-stream": 1}
    assert taking.counted == SequenceCounters()


def test_a_stream_with_extensions_goes_on() -> None:
    taking = of_rtp()
    made = [struct.pack(">BBHII", 0x90, 33, n, n, SSRC) + b"\xbe\xde\0\1exte" + b"p%d" % n for n in range(6)]
    assert taking.feed(*made[:3]) + taking.feed(*made[3:]) == made


def test_another_stream_waits_until_the_one_that_is_received_is_silent() -> None:
    taking = of_rtp()
    taking.feed(rtp(1), rtp(2))
    taking.now += SILENT_SECONDS - 0.1
    assert taking.feed(rtp(500, ssrc=OTHER), rtp(501, ssrc=OTHER)) == []
    assert taking.feed(rtp(3), sender=B) == []
    assert taking.dropped == {"other-stream": 2, "other-sender": 1}
    taking.now += 0.2
    assert taking.feed(rtp(502, ssrc=OTHER)) == []
    assert taking.feed(rtp(3)) == [rtp(3)], "it is not lost yet"
    taking.now += SILENT_SECONDS
    assert taking.feed(rtp(503, ssrc=OTHER), rtp(504, ssrc=OTHER))[-1] == rtp(504, ssrc=OTHER)
    assert [one.stream for one in taking.senders] == ["0x0A0B0C0D"]
    assert taking.counted.restarts == 1
    assert taking.feed(rtp(4)) == []


def test_the_ssrc_that_is_named_is_the_only_one() -> None:
    taking = of_rtp(ssrc=OTHER)
    assert taking.feed(rtp(1), rtp(2), rtp(3)) == []
    assert taking.feed(rtp(9, ssrc=OTHER), rtp(10, ssrc=OTHER)) == [rtp(9, ssrc=OTHER), rtp(10, ssrc=OTHER)]
    assert taking.dropped == {"other-stream": 3}


def test_another_payload_type_has_its_number_but_does_not_go_on() -> None:
    taking = of_rtp()
    taking.feed(rtp(1), rtp(2))
    assert taking.feed(rtp(3), rtp(4, payload_type=101), rtp(5)) == [rtp(3), rtp(5)]
    assert (taking.dropped, taking.counted) == ({"other-payload-type": 1}, SequenceCounters())
    taking.now += SILENT_SECONDS
    assert taking.feed(rtp(6, payload_type=96), rtp(7, payload_type=96)) == [
        rtp(6, payload_type=96),
        rtp(7, payload_type=96),
    ], "the stream goes on with another one"
    fixed = of_rtp(payload_type=33)
    fixed.feed(rtp(1, payload_type=96), rtp(2, payload_type=96))
    fixed.now += 10 * SILENT_SECONDS
    assert fixed.feed(rtp(3, payload_type=96), rtp(4)) == [rtp(4)]


def test_whoever_changes_ssrc_or_address_with_each_datagram_is_counted_and_keeps_nothing() -> None:
    taking = of_rtp()
    taking.feed(rtp(1), rtp(2))
    for number in range(3, 300):
        senders = [f"198.51.100.{number % 250}", A, A]
        good = rtp(number)
        assert taking.feed(rtp(number), rtp(number, ssrc=number), good, sender=senders) == [good]
    assert taking.dropped == {"other-sender": 297, "other-stream": 297}
    taking.now += 2 * SILENT_SECONDS
    for number in range(CANDIDATES_MAX + 500):
        assert taking.feed(rtp(7 * number, ssrc=number)) == []
    assert len(taking.sequencer._streams._candidates) == CANDIDATES_MAX
    assert (taking.dropped["stray"], taking.sequencer.held) == (CANDIDATES_MAX + 499, 1)
    assert taking.feed(rtp(300)) == [rtp(300)]


def strangers_among(made: Sequence[bytes], strange: Sequence[bytes], senders: Sequence[str]) -> Any:
    """A batch in which after each second of ``made`` one of ``strange`` comes, with the senders of all."""
    batch, addresses, left = list[bytes](), list[str](), [*zip(strange, senders, strict=True)]
    for index, one in enumerate(made):
        batch.append(one)
        addresses.append(A)
        if index % 2 and left:
            datagram, address = left.pop(0)
            batch.append(datagram)
            addresses.append(address)
    return batch, addresses


@pytest.mark.parametrize(
    ("kind", "make", "strange", "reasons"),
    [
        (
            of_rtp,
            rtp,
            [(rtp(7), B), (rtp(8, ssrc=OTHER), B), (rtp(9, ssrc=OTHER), A), (b"junk", B), (b"x" * 20, A)],
            {"other-sender": 1, "other-stream": 2, "not-rtp": 2},
        ),
        (
            of_mold,
            mold,
            [(mold(7), B), (mold(8, session=b"20261127AB"), A), (mold(9, 70)[:30], A)],
            {"other-sender": 1, "other-stream": 1, "not-moldudp64": 1},
        ),
        (
            of_field,
            lambda number: b"%c%cxyz" % divmod(number, 256),
            [(b"", A), (b"1", B)],
            {"too-short": 2},
        ),
    ],
)
def test_strangers_cost_a_step_each_and_the_stream_among_them_none(
    monkeypatch: pytest.MonkeyPatch, kind: Any, make: Any, strange: Any, reasons: dict[str, int]
) -> None:
    taking, single = kind(), list[bytes]()
    sort_one = NumberedSequencer._sort_one

    def counted(of: Any, sorting: Any, index: int, datagram: bytes, address: str) -> None:
        single.append(bytes(datagram))
        sort_one(of, sorting, index, datagram, address)

    taking.feed(make(1), make(2))
    monkeypatch.setattr(NumberedSequencer, "_sort_one", counted)
    made = [make(number) for number in range(3, 67)]
    batch, senders = strangers_among(made, *zip(*strange, strict=True))
    assert taking.feed(*batch, sender=senders) == made
    assert sorted(single) == sorted(one for one, _ in strange)
    assert (taking.dropped, taking.counted) == (reasons, SequenceCounters())
    in_order = None if kind is of_mold else range(3, 67)
    assert taking.sequencer.numbers == in_order, "so that legs take it in order, too"


def test_senders_of_one_group_are_sorted_by_their_columns_and_go_on_as_they_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taking = of_field()
    made = [struct.pack(">H4x", number) for number in range(100)]
    taking.feed(made[0], made[50], sender=[A, B])
    monkeypatch.setattr(NumberedSequencer, "_sort_one", lambda *_: pytest.fail("one by one"))
    batch = [made[at] for pair in zip(range(1, 21), range(51, 71), strict=True) for at in pair]
    del batch[9]  # of B
    senders = [(B if one >= made[50] else A) for one in batch]
    assert taking.feed(*batch, sender=senders) == batch
    assert taking.sequencer.numbers is None
    taking.expire(200.0)
    assert {one.address: (one.counters.lost, one.datagrams) for one in taking.senders} == {
        A: (0, 21),
        B: (1, 20),
    }


def test_what_is_held_of_one_sender_costs_the_stream_of_another_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taking = held_back(of_field())
    made = [struct.pack(">H4x", number) for number in range(100)]
    taking.feed(made[0], made[1], sender=B)
    taking.feed(made[0], sender=A)
    assert taking.feed(made[3], sender=B) == []
    monkeypatch.setattr(NumberedArrivals, "put", lambda *_, **__: pytest.fail("datagram by datagram"))
    assert taking.feed(*made[1:9]) == made[1:9]
    batch = ListBatch(made[9:20], addresses=[A] * 11)
    assert taking.audited.feed(batch) == [batch]
    monkeypatch.undo()
    assert taking.feed(*made[21:30]) == []
    assert taking.feed(made[20]) == made[20:30]
    assert taking.sequencer.held == 1


def test_what_a_heartbeat_shows_to_be_missing_is_waited_for() -> None:
    taking = held_back(of_mold())
    beat = mold(4, 0)
    assert taking.feed(mold(1), mold(2)) == [mold(1), mold(2)]
    assert taking.feed(beat) == [beat]
    assert taking.feed(mold(4)) == []
    assert taking.feed(mold(3)) == [mold(3), mold(4)]
    assert taking.feed(mold(5)) == [mold(5)]


@pytest.mark.parametrize("stranger", [(), (b"news",)])
def test_what_is_missing_before_another_payload_type_is_waited_for(stranger: tuple[bytes, ...]) -> None:
    taking = held_back(of_rtp(payload_type=33))
    assert taking.feed(rtp(1), rtp(2)) == [rtp(1), rtp(2)]
    assert taking.feed(rtp(4, payload_type=96)) == []
    after = [rtp(number) for number in range(5, 9)]
    assert taking.feed(*after, *stranger) == []
    assert taking.feed(rtp(3)) == [rtp(3)]
    left = [bytes(one) for some in taking.sequencer.expire(math.inf) for one in some.payloads]
    assert left == after


def is_over(taking: Taking) -> bool:
    stream = taking.sequencer.stream
    return stream is not None and stream.is_over


@settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from(["rtp", "mold", "field"]), st.booleans())
def test_a_batch_is_what_its_datagrams_are_one_after_another(seed: int, kind: str, holds: bool) -> None:
    generator = random.Random(seed)
    makes: dict[str, tuple[Any, Any]] = {
        "rtp": (of_rtp, lambda n: rtp(n, payload_type=generator.choice([33] * 30 + [33 if holds else 96]))),
        "mold": (of_mold, lambda n: mold(n, generator.choice([1] * 30 + [0, 0xFFFF]))),
        "field": (of_field, lambda n: struct.pack(">Hx", n)),
    }
    kind_of, make = makes[kind]
    whole, each = kind_of(), kind_of()
    if holds:
        held_back(whole)
        held_back(each)

    def come(one: bytes, sender: str) -> None:
        batch.append(one)
        senders.append(sender)
        expected.extend(each.feed(one, sender=sender))

    number = 10
    for _ in range(12):
        batch, senders, expected = list[bytes](), list[str](), list[bytes]()
        for _ in range(generator.randrange(30)):
            number += generator.choice([1] * 30 + [0, 2, -2, 4])
            come(make(number), A)
            # Where a session has ended another one may begin, in a batch only if no more of this one follows
            if generator.random() < 0.05 and not is_over(each):
                stranger = generator.choice([b"junk", rtp(number, ssrc=OTHER), mold(3, session=b"o" * 10)])
                come(stranger, generator.choice([A, B]) if kind != "field" else B)
        given_on = whole.feed(*batch, sender=senders) if batch else []
        if kind == "field":  # what is held of one sender may pass another's
            given_on, expected = sorted(given_on), sorted(expected)
        assert given_on == expected
        assert (whole.dropped, whole.counted) == (each.dropped, each.counted)


def test_a_single_datagram_goes_on_when_the_run_ends() -> None:
    taking = of_rtp()
    taking.feed(rtp(1))
    assert taking.expire(math.inf) == [rtp(1)]
    assert taking.sequencer.held == 0


@pytest.mark.parametrize("at_a_time", [1, 2, 5, 40])
def test_a_sender_that_begins_anew_has_no_jitter_by_that(at_a_time: int) -> None:
    """Its timestamps jump with its numbers; nor has a single datagram that is far off."""
    taking, base = of_rtp(), 10**18
    numbers = [*range(100, 120), 9000, *range(120, 130), *range(40_000, 40_030)]
    made = [rtp(number, stamp=90 * number) for number in numbers]
    times = [base + 10**6 * place for place in range(len(numbers))]
    for begin in range(0, len(made), at_a_time):
        some = slice(begin, begin + at_a_time)
        taking.feed(*made[some], times=times[some])
    assert taking.counted.restarts == 1
    jitter = taking.senders[0].jitter
    assert jitter is not None
    assert jitter.most_ms < 0.1  # the place of the one that is left out


def test_jitter_is_measured_with_the_clock_of_the_payload_type() -> None:
    taking = of_rtp()
    base = 10**18
    stamps = [0, 90, 180, 270, 360, 450]  # a millisecond each at 90 kHz
    times = [base + 10**6 * place for place in (0, 1, 2, 3, 6, 5)]
    made = [rtp(number, stamp=stamp) for number, stamp in enumerate(stamps)]
    taking.feed(*made[:2], times=times[:2])
    taking.feed(*made[2:], times=times[2:])
    jitter = taking.senders[0].jitter
    assert jitter is not None
    after_late = 2 / 16
    assert jitter.now_ms == pytest.approx(after_late + (2 - after_late) / 16)
    silent = of_rtp(jitter=False)
    silent.feed(*made[:2], times=times[:2])
    assert silent.senders[0].jitter is None


# -- MoldUDP64


def test_messages_are_counted_and_heartbeats_tell_of_what_is_lost() -> None:
    taking = of_mold()
    assert taking.feed(mold(1, 3), mold(4, 2)) == [mold(1, 3), mold(4, 2)]
    assert taking.feed(mold(6, 0), mold(6, 2)) == [mold(6, 0), mold(6, 2)]
    assert taking.feed(mold(11, 0)) == [mold(11, 0)]
    taking.expire(200.0)
    assert taking.counted == SequenceCounters(lost=3)
    assert taking.feed(mold(11, 0xFFFF)) == [mold(11, 0xFFFF)], "the end of the session"
    assert taking.senders[0].stream == "20261126AB"


def test_the_next_session_is_received_at_once_where_the_last_one_has_ended() -> None:
    """All of it is wanted, from its first message on."""
    taking, end, following = of_mold(), mold(3, 0xFFFF), b"20261127AA"
    taking.feed(mold(1), mold(2))
    begun = [mold(1, session=following), mold(2, 3, session=following)]
    assert taking.feed(*begun) == [], "the last one has not ended"
    assert taking.dropped == {"other-stream": 2}
    assert taking.feed(end, end, *begun, end) == [end, end, *begun]
    assert taking.dropped == {"other-stream": 3}
    assert taking.senders[0].stream == following.decode()
    assert taking.counted == SequenceCounters(restarts=1)
    # After its end the session goes on, as it should not: then it has not ended
    taking.feed(mold(5, 0xFFFF, session=following), mold(5, session=following))
    assert taking.feed(mold(1), mold(2)) == []


def test_the_end_of_a_session_lets_no_other_sender_in_its_place() -> None:
    taking = of_mold()
    taking.feed(mold(1), mold(2), mold(3, 0xFFFF))
    assert taking.feed(mold(3), mold(4), sender=B) == []
    assert taking.dropped == {"other-sender": 2}


def test_what_is_no_moldudp64_and_another_session() -> None:
    taking = of_mold(session="20261126AB")
    taking.feed(mold(1), mold(2))
    liar = struct.pack(">10sQH", b"20261126AB", 3, 500) + b"\0\1m"
    assert taking.feed(mold(3), liar, mold(4)[:19], mold(4, session=b"20261127  "), mold(4)) == [
        mold(3),
        mold(4),
    ]
    assert taking.dropped == {"not-moldudp64": 2, "other-stream": 1}
    assert taking.feed(liar[:10] + struct.pack(">QH", 5, 9) + b"\0\1m") == []
    assert taking.dropped["not-moldudp64"] == 3


def test_a_jump_in_a_session_is_a_loss_however_large() -> None:
    taking = of_mold()
    taking.feed(mold(1), mold(2))
    assert taking.feed(mold(5_000_000), mold(5_000_001)) == [mold(5_000_000), mold(5_000_001)]
    taking.expire(200.0)
    assert taking.counted == SequenceCounters(lost=4_999_997)
    assert taking.feed(mold(3), mold(3)) == [mold(3)], "it comes late, and is new"
    assert taking.dropped == {"duplicate": 1}


def test_one_number_far_ahead_is_no_loss_and_neither_of_a_wide_field() -> None:
    taking = of_mold()
    taking.feed(mold(1), mold(2))
    assert taking.feed(mold(1 << 40)) == [mold(1 << 40)]
    assert (taking.senders[0].missing, taking.sequencer.deadline) == (0, math.inf)
    for number in (3, 4, 6, 7):
        taking.expire(taking.now + 0.6)
        assert taking.feed(mold(number)) == [mold(number)]
    taking.expire(taking.now + 5.0)
    assert (taking.counted.lost, taking.counted.restarts) == (1, 1), "5 is"
    wide = of_field(size=8)
    made = [number.to_bytes(8, "big") for number in (10, 11, 11 + (1 << 19), 12, 13, 14)]
    wide.feed(*made)
    wide.expire(200.0)
    assert (wide.counted.lost, wide.counted.restarts) == (0, 1)


# -- a number at a place


def test_each_sender_has_an_order_of_its_own() -> None:
    taking = of_field(offset=1, size=4, byte_order="little")
    made = [b"x" + number.to_bytes(4, "little") + b"y" for number in range(9)]
    assert taking.feed(made[1], made[7], made[2], made[8], sender=[A, B, A, B]) == [
        *(made[1], made[7], made[2], made[8])
    ]
    assert taking.feed(made[5], sender=A) == [made[5]]
    taking.expire(200.0)
    lost = {one.address: one.counters.lost for one in taking.senders}
    assert lost == {A: 2, B: 0}
    assert taking.counted == SequenceCounters(lost=2)
    assert taking.feed(made[6][:4]) == []
    assert taking.dropped == {"too-short": 1}


def test_the_shortest_datagram_that_has_its_number_is_good() -> None:
    taking = of_field(offset=1, size=2)
    assert taking.feed(b"x\0\1", b"x\0\2", b"x\0\4") == [b"x\0\1", b"x\0\2", b"x\0\4"]
    taking.expire(200.0)
    assert taking.counted == SequenceCounters(lost=1)


def test_several_numbers_in_a_datagram() -> None:
    taking = of_field(offset=2, size=4, count_offset=1)
    made = [struct.pack(">BBI", 9, count, number) for number, count in ((5, 3), (8, 2), (12, 1))]
    assert taking.feed(*made) == made
    taking.expire(200.0)
    assert taking.counted == SequenceCounters(lost=2)


def test_senders_are_bounded_and_one_that_is_silent_makes_room() -> None:
    taking = of_field()
    for number in range(SENDERS_MAX + 5):
        for datagram in (b"\0\1", b"\0\2"):
            taking.feed(datagram, sender=f"198.51.100.{number}")
    assert (len(taking.senders), taking.dropped) == (SENDERS_MAX, {"too-many-senders": 10})
    taking.now += SILENT_SECONDS
    assert taking.feed(b"\0\1", sender="203.0.113.1") == [b"\0\1"]
    assert len(taking.senders) == SENDERS_MAX


def test_senders_that_were_never_in_order_make_room_and_take_it_from_none_that_was() -> None:
    taking = of_field()
    made = [struct.pack(">H", number) for number in range(40)]
    taking.feed(made[0], made[1], sender=A)
    taking.now += SILENT_SECONDS
    for number in range(20):
        strangers = [f"198.51.100.{at}" for at in range(10 * number, 10 * number + 10)]
        forged = [struct.pack(">H", 3_000 * number % 65_536)] * 10
        assert taking.feed(*forged, sender=strangers) == forged
        assert taking.feed(made[number], sender=B) == [made[number]]
    assert len(taking.senders) == SENDERS_MAX
    assert taking.feed(made[2], made[4], sender=A) == [made[2], made[4]]
    assert {one.address: one.missing for one in taking.senders}[A] == 1, "it was not forgotten"
    status = taking.sequencer.describe(from_json(SubscriptionStatus, {}))
    assert status.sequence is not None
    assert [one.address for one in status.sequence.senders[:2]] == [A, B], "those in order before all others"
    assert taking.dropped == {}


def test_a_stream_that_went_on_in_whole_batches_is_known_too() -> None:
    """What strangers send after it does not take its place, and what it loses then is counted."""
    taking = of_field(size=4)
    made = [struct.pack(">I", number) for number in range(46)]
    taking.feed(made[0])
    for number in range(1, 41, 4):
        taking.feed(*made[number : number + 4])
    for number in range(200):
        taking.feed(made[0], sender=f"198.51.100.{number}")
    taking.feed(made[45])
    taking.expire(200.0)
    assert taking.counted.lost == 4


def test_a_flood_of_first_datagrams_does_not_keep_a_stream_from_beginning() -> None:
    taking = of_rtp()
    assert taking.feed(rtp(1)) == []
    for ssrc in range(300):
        assert taking.feed(rtp(9 * ssrc, ssrc=1_000 + ssrc), sender=B) == []
    assert taking.feed(rtp(2)) == [rtp(2)], "not the last of the others, which waits for its successor"
    assert [(one.address, one.datagrams) for one in taking.senders] == [(A, 1)]
    assert taking.dropped == {"stray": 301}


def test_what_strangers_lose_is_not_known_to_be_lost_and_what_a_stream_loses_is_also_after_it() -> None:
    taking = of_field()
    made = [struct.pack(">H", number) for number in range(200)]
    for stranger in range(3):
        taking.feed(made[1], made[2], made[5], made[6], sender=f"198.51.100.{stranger}")
    taking.feed(*made[:40], *made[44:50])
    taking.expire(200.0)
    assert (taking.counted.lost, taking.sequencer.known_lost) == (10, 4)
    for number in range(2 * SENDERS_MAX):
        taking.now += SILENT_SECONDS
        taking.feed(made[1], made[2], sender=f"203.0.113.{number}")
    assert A not in {one.address for one in taking.senders}
    assert (taking.counted.lost, taking.sequencer.known_lost) == (10, 4)


def test_where_one_sender_begins_anew_nothing_of_another_goes_on_for_it() -> None:
    taking = of_field()
    made = [struct.pack(">H", number) for number in (1, 2, 9_000, 9_001, 20_000)]
    taking.feed(made[0], made[1], sender=A)
    taking.feed(made[0], made[1], sender=B)
    assert taking.feed(made[2], made[4], sender=[A, B]) == []
    assert taking.feed(made[3], sender=A) == [made[3]]
    assert (taking.dropped, taking.sequencer.held) == ({"stray": 2}, 0)


# -- put in order


def held_back(taking: Taking, seconds: float = 0.05) -> Taking:
    taking.sequencer.hold_back(seconds)
    return taking


def test_what_comes_too_early_waits_and_is_a_copy() -> None:
    taking = held_back(of_rtp())
    taking.feed(*map(rtp, range(3)))
    memory = bytearray(rtp(4))
    assert taking.feed(memory) == []
    memory[:] = bytes(len(memory))
    assert (taking.sequencer.held, taking.sequencer.deadline) == (1, 100.05)
    assert taking.feed(rtp(3), rtp(5)) == [rtp(3), rtp(4), rtp(5)]
    assert taking.counted == SequenceCounters(reordered=1)
    assert taking.sequencer.held == 0
    batch = ListBatch([rtp(6), rtp(7)], addresses=[A, A])
    assert taking.audited.feed(batch) == [batch]


def test_a_gap_is_waited_for_so_long_and_what_comes_later_is_late() -> None:
    taking = held_back(of_rtp())
    taking.feed(*map(rtp, range(3)))
    assert taking.feed(rtp(4), rtp(6)) == []
    assert taking.expire(100.049) == []
    assert taking.expire(100.05) == [rtp(4), rtp(6)]
    assert taking.feed(rtp(3), rtp(7), rtp(5)) == [rtp(7)]
    assert taking.dropped == {"late": 2}
    assert taking.counted == SequenceCounters(reordered=2), "the network lost none"


def test_a_batch_is_taken_apart_once_however_much_of_it_is_held() -> None:
    asked: Counter[str] = Counter()

    class Asked(LegBatch):
        @property
        def payloads(self) -> Sequence[bytes | memoryview]:
            asked["payloads"] += 1
            return super().payloads

        @property
        def times(self) -> Sequence[int]:
            asked["times"] += 1
            return super().times

        @property
        def rows(self) -> Sequence[Rows]:
            asked["rows"] += 1
            return super().rows

    taking = held_back(of_rtp())
    taking.feed(*map(rtp, range(3)))
    taking.audited.feed(Asked(ListBatch([*map(rtp, range(4, 204))], addresses=[A] * 200), 0))
    assert taking.sequencer.held == 200
    assert 0 < max(asked.values()) < 5, "however many they are"


def test_it_keeps_origins_and_times() -> None:
    taking = held_back(of_rtp())
    taking.feed(rtp(1), rtp(2), times=[11, 12])
    origin = Origin(A, 5004, 2, 7)
    for number, time in ((4, 14), (3, 13)):
        batches = taking.audited.feed(ListBatch([rtp(number)], [origin], [time], addresses=[A]))
    (batch,) = batches
    assert (batch.times, batch.origins, batch.sources) == ([13, 14], [origin] * 2, [(A, 2)])


def test_a_restart_and_another_stream_end_the_waiting() -> None:
    taking = held_back(of_rtp())
    taking.feed(*map(rtp, range(3)))
    assert taking.feed(rtp(4), rtp(30_000)) == []
    assert taking.feed(rtp(30_001)) == [rtp(4), rtp(30_000), rtp(30_001)]
    assert taking.feed(rtp(30_003)) == []
    taking.now += 2 * SILENT_SECONDS
    anew = [rtp(number, ssrc=OTHER) for number in (70, 71)]
    assert taking.feed(*anew) == [rtp(30_003), *anew]
    assert taking.feed(rtp(72, ssrc=OTHER)) == [rtp(72, ssrc=OTHER)]


def test_it_can_begin_and_end_while_it_runs() -> None:
    taking = of_rtp()
    taking.feed(*map(rtp, range(3)))
    taking.sequencer.hold_back(1.0)
    assert taking.feed(rtp(4), rtp(5)) == []
    taking.sequencer.hold_back(0)
    assert taking.sequencer.deadline <= taking.now
    assert taking.expire(taking.now) == [rtp(4), rtp(5)]
    assert taking.feed(rtp(7), rtp(6)) == [rtp(7), rtp(6)], "as it comes"


def test_another_payload_type_leaves_no_gap() -> None:
    taking = held_back(of_rtp())
    taking.feed(*map(rtp, range(3)))
    assert taking.feed(rtp(3, payload_type=101), rtp(4)) == [rtp(4)]


def test_each_sender_is_put_in_order_by_itself() -> None:
    taking = held_back(of_field())
    made = [bytes([0, number, 7]) for number in range(9)]
    assert taking.feed(made[1], made[5], sender=[A, B]) == [made[1], made[5]]
    assert taking.feed(made[3], made[7], made[2], sender=[A, B, A]) == [made[2], made[3]]
    assert taking.sequencer.held == 1
    assert taking.expire(math.inf) == [made[7]]


@settings(max_examples=25)
@given(st.integers(0, 1 << 30))
def test_whatever_the_network_does_it_goes_on_in_order_and_the_lost_are_those_that_were(seed: int) -> None:
    """1 % dropped, 2 % doubled, 3 % up to 8 ms late: a thousand a second, held back for 50 ms."""
    generator = random.Random(seed)
    dropped = {number for number in range(2, 590) if generator.random() < 0.01}
    arrivals = []
    for number in range(600):
        if number not in dropped:
            late = generator.uniform(0.002, 0.008) if number > 1 and generator.random() < 0.03 else 0
            arrivals.append((0.001 * number + late, number))
            if generator.random() < 0.02:
                arrivals.append((0.001 * number + 0.0001 + late, number))
    taking = held_back(of_rtp())
    given_on = []
    arrivals.sort()
    while arrivals:
        size = generator.randrange(1, 12)
        batch, arrivals = arrivals[:size], arrivals[size:]
        given_on += taking.expire(100.0 + batch[-1][0])
        given_on += taking.feed(*(rtp(65_300 + number) for _, number in batch))
    given_on += taking.expire(math.inf)
    assert given_on == [rtp(65_300 + number) for number in range(600) if number not in dropped]
    assert taking.counted.lost == len(dropped)


def test_a_subscription_writes_the_payload_in_order(tmp_path: Any, make_run: Any) -> None:
    output = {"kind": "file", "path": str(tmp_path / "a"), "format": "payload"}
    run: Run = make_run(output, protocol={"kind": "rtp", "jitter": False}, reorder=30.0 / 60)
    link = run.start()
    link.deliver(rtp(1), rtp(2), rtp(4), rtp(5))
    wait_for(lambda: run.worker.counters.held == 2, "what comes after the gap")
    assert run.worker.vitals().held == 2
    link.deliver(rtp(3))
    wait_for(lambda: run.worker.sinks[0].counters.written == 5, "all of it")
    assert (tmp_path / "a").read_bytes() == b"".join(b"payload %d" % number for number in range(1, 6))
    link.deliver(rtp(7))
    wait_for(lambda: run.worker.sinks[0].counters.written == 6, "what came after a gap that stays")
    assert run.worker.counters.held == 0
    reload = {"group": "239.255.1.2", "port": 9190, "protocol": {"kind": "rtp", "jitter": False}}
    assert run.worker.update(InboundSubscription.model_validate({**reload, "output": [output]}))
    run.context.send(Signal.NETWORK)
    wait_for(lambda: run.worker._applied is run.worker._config, "the new settings")
    link.deliver(rtp(9), rtp(8))
    wait_for(lambda: run.worker.sinks[0].counters.written == 8, "what comes, as it comes")
    assert (tmp_path / "a").read_bytes().endswith(b"payload 7payload 0payload 8")


# -- what the settings refuse


REFUSED: dict[str, tuple[Taking, Callable[[int], bytes], str, str]] = {
    "ssrc": (
        of_rtp(ssrc=OTHER),
        rtp,
        "SSRC 0x01020304 comes, and ssrc = 0x0A0B0C0D is to be received",
        "ssrc = 0x01020304",
    ),
    "payload type": (
        of_rtp(payload_type=96),
        rtp,
        "payload type 33 comes, and payload_type = 96 is to be received",
        "payload_type = 33",
    ),
    "plain transport stream": (
        of_rtp(),
        lambda _: (b"\x47" + bytes(187)) * 7,
        "what comes is no RTP: it looks like a transport stream in plain UDP",
        "raw",
    ),
    "text": (of_rtp(), lambda _: b"news", "what comes is no RTP", ""),
    "reports": (
        of_rtp(),
        lambda _: b"\x80\xc8" + bytes(26),
        "reports (RTCP) come, and no RTP, which mostly has the port before theirs",
        "",
    ),
    "session": (
        of_mold(session="OTHER"),
        mold,
        'session "20261126AB" comes, and session = "OTHER" is to be received',
        'session = "20261126AB"',
    ),
    "no MoldUDP64": (of_mold(), lambda _: b"news", "what comes is no MoldUDP64", ""),
    "short": (
        of_field(offset=8, size=4),
        lambda _: b"news",
        "datagrams of 4 bytes come, and number and count of each end at byte 12",
        "",
    ),
    "no numbers": (of_rtp(), lambda number: rtp(7919 * number), FAR_NUMBERS, ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_nothing_is_accepted_it_says_what_comes(case: str) -> None:
    taking, make, comes, way_out = REFUSED[case]
    sequencer = taking.sequencer
    for number in range(4):
        assert taking.feed(make(number)) == []
        taking.expire(taking.now + 0.2)
        assert sequencer.problem == "", "it is early yet"
    assert taking.feed(make(4)) == []
    assert sequencer.deadline <= taking.now + 0.5, "it wakes whoever reports it"
    taking.expire(taking.now + 0.5)
    assert sequencer.problem == f"takes nothing: {comes}"
    misfit = sequencer.misfit
    assert misfit is not None
    fits = ("", way_out) if case == "plain transport stream" else (way_out, "")
    assert (misfit.setting, misfit.protocol, taking.dropped[misfit.reason] > 1) == (*fits, True)
    assert sequencer.deadline > taking.now, "it is told once"


def test_what_is_accepted_ends_it_and_a_datagram_now_and_then_is_no_problem() -> None:
    taking = of_rtp(ssrc=SSRC)
    for _ in range(3):
        taking.feed(rtp(1, ssrc=OTHER))
        taking.expire(taking.now + 0.6)
    assert taking.sequencer.problem
    taking.feed(rtp(1), rtp(2))
    assert (taking.sequencer.problem, taking.sequencer.misfit) == ("", None)
    for number in range(3, 20):
        taking.feed(rtp(number, ssrc=OTHER), rtp(number))
        taking.expire(taking.now + 0.6)
        assert taking.sequencer.problem == ""
    taking.feed(b"junk")
    taking.expire(taking.now + 60)
    assert taking.sequencer.problem == "", "one alone may be anybody's"


def test_a_payload_type_that_is_not_wanted_does_not_go_on_from_its_first_datagram_on() -> None:
    taking = of_rtp(payload_type=96)
    for number in range(5):
        assert taking.feed(rtp(number)) == []
    assert taking.dropped == {"other-payload-type": 5}
    assert taking.feed(rtp(5, payload_type=96)) == [rtp(5, payload_type=96)]


# -- all of them


@settings(max_examples=25)
@given(st.integers(0, 1 << 30), st.sampled_from(["rtp", "mold", "field"]))
def test_every_datagram_is_accounted_for_whatever_comes(seed: int, kind: str) -> None:
    generator = random.Random(seed)
    taking, make = {
        "rtp": (of_rtp(), lambda n: rtp(n, ssrc=generator.choice([SSRC] * 9 + [OTHER]))),
        "mold": (of_mold(), lambda n: mold(n, generator.choice([1, 1, 1, 0, 2, 0xFFFF]))),
        "field": (of_field(count_offset=3), lambda n: (n % 65_536).to_bytes(2, "big") + b"x\1"),
    }[kind]
    number, fed = 0, set[bytes]()
    for _ in range(30):
        batch = []
        for _ in range(generator.randrange(1, 20)):
            number += generator.choice([1] * 20 + [0, 2, -3, 5000, 70_000])
            made = make(max(number, 0))
            spoilt = generator.random() < 0.03
            batch.append(generator.randbytes(generator.randrange(30)) if spoilt else made)
        taking.now += generator.choice([0.001, 0.3, 2.0])
        if generator.random() < 0.1:
            taking.sequencer.hold_back(generator.choice([0.0, 0.05, 1.0]))
        sender = A if generator.random() < 0.9 else [generator.choice([A, B]) for _ in batch]
        fed.update(batch)
        assert fed >= {*taking.feed(*batch, sender=sender)}
        if generator.random() < 0.3:
            taking.expire(taking.now)
    taking.expire(math.inf)
    assert taking.sequencer.held == 0


def test_in_a_subscription(tmp_path: Any, make_run: Any) -> None:
    run: Run = make_run(file_output(tmp_path / "a"), protocol={"kind": "rtp", "jitter": False})
    link = run.start()
    link.deliver(rtp(1), rtp(2), rtp(4), b"junk", rtp(4))
    counters = run.worker.counters
    wait_for(lambda: counters.received == 5 and run.worker.vitals().lost == 1, "the loss")
    status = run.worker.status()
    assert (tmp_path / "a").read_bytes() == rtp(1) + rtp(2) + rtp(4)
    assert counters.dropped == {"not-rtp": 1, "duplicate": 1}
    assert status.sequence is not None
    assert status.sequence.counters == SequenceCounters(lost=1, duplicated=1)
    assert (status.sequence.senders[0].payload_type, status.sequence.senders[0].datagrams) == (33, 4)
    books = run.worker.books()
    assert (books.sequence, books.jitter) == (SequenceCounters(lost=1, duplicated=1), None)
    assert {"not-rtp", "rtcp", "other-stream", "stray"} <= set(books.identity.reasons)


def test_what_a_subscription_refuses_is_silence_and_degrades_it(tmp_path: Any, make_run: Any) -> None:
    protocol = {"kind": "rtp", "payload_type": 96}
    run: Run = make_run(file_output(tmp_path / "a"), protocol=protocol, expect_every=0.4)
    link, number = run.start(), count()

    def told(text: str) -> bool:
        link.deliver(rtp(next(number)))
        return text in run.context.detail

    wait_for(lambda: told("stale: nothing for more than 0.4 s"), "the silence")
    wait_for(lambda: told("takes nothing: payload type 33 comes, and payload_type = 96"), "what comes")
    misfit = run.worker.status().misfit
    assert misfit is not None
    assert (misfit.reason, misfit.setting) == ("other-payload-type", "payload_type = 33")
    link.deliver(*(rtp(next(number), payload_type=96) for _ in range(3)))
    wait_for(lambda: run.context.detail == "receiving 239.255.1.2 port 9190", "all is well")


def test_jitter_is_told_as_it_is_on_average_and_at_most() -> None:
    jitter = Jitter(90_000)
    jitter.feed([0, 0, 0], [1, 32_000_001, 32_000_001], 0.032)  # 32 ms late, and then no more
    assert (jitter.value, jitter.most) == (pytest.approx(0.001875), pytest.approx(0.002))
    told = numbered_streams._described(jitter)
    expected = pytest.approx(1.875), pytest.approx(1.9375), pytest.approx(2.0)
    assert (told.now_ms, told.mean_ms, told.most_ms) == expected
