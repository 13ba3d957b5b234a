"""RTP with repair (SMPTE ST 2022-1): what is lost is made of it, and goes on once, in its place."""

from __future__ import annotations

import math
import random
import struct
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from support.audited import Audited
from support.repair import matrix, media, of_ffmpeg

from mcastd.codec import from_json
from mcastd.config import RtpInbound
from mcastd.inbound.repairing import READ_SECONDS, RepairingSequencer
from mcastd.net.legs import LegBatch
from mcastd.net.link import ListBatch, Origin
from mcastd.protocols.fec2022 import AHEAD_MAX, KEPT_FEC_PACKETS, parse_fec
from mcastd.status import SubscriptionStatus
from mcastd.worker import Vitals

SENDER = "192.0.2.7"
SEEDS = st.integers(0, 1 << 32)
COLUMNS, ROWS = 8, 5
MEDIA, COLUMN, ROW = 0, 1, 2


class Repairing:
    """The protocol under audit, with a clock of the test."""

    def __init__(self) -> None:
        self.now = 100.0
        self.dropped: Counter[str] = Counter()
        self.repairing = RepairingSequencer(
            RtpInbound(jitter=False), self.dropped, "inbound/tv", lambda: self.now
        )
        self.repairing.hold_back(0.5)
        self.audited = Audited(self.repairing, self.dropped)

    def feed(self, link: int, *datagrams: bytes, sender: str = SENDER) -> list[bytes]:
        """What goes on of datagrams; of repair, after what was sent before it has surely been read."""
        batch = ListBatch(datagrams, addresses=[sender] * len(datagrams))
        gone = self.audited.feed(LegBatch(batch, link))
        if link != MEDIA:
            gone += self.audited.expire(self.now + READ_SECONDS)
        return [bytes(one) for given in gone for one in given.payloads]

    def expire(self, now: float) -> list[bytes]:
        return [bytes(one) for given in self.audited.expire(now) for one in given.payloads]

    @property
    def status(self) -> SubscriptionStatus:
        return self.repairing.describe(from_json(SubscriptionStatus, {}))


def test_what_is_lost_is_made_of_repair_and_goes_on_in_its_place() -> None:
    packets = media(65_520, COLUMNS * ROWS)
    repair = matrix(packets, 65_520, COLUMNS, ROWS)
    sent = [*packets.values()]
    repairing = Repairing()
    lost = {9, 17, 30}  # two of a column, so that rows are needed, too
    assert repairing.feed(MEDIA, *[one for at, one in enumerate(sent) if at not in lost]) == sent[:9]
    gone = repairing.feed(COLUMN, *repair[:COLUMNS]) + repairing.feed(ROW, *repair[COLUMNS:])
    assert gone == sent[9:]
    assert (repairing.repairing.repaired, repairing.repairing.held) == (3, 0)
    assert (
        repairing.dropped == {"fec": COLUMNS + ROWS - 3, "not-fec": 0} or "not-fec" not in repairing.dropped
    )
    repairing.expire(200.0)
    counters = repairing.status.sequence
    assert counters is not None
    assert counters.repaired == 3
    assert (counters.counters.lost, counters.counters.reordered, repairing.repairing.note(Vitals()).lost) == (
        0,
        0,
        0,
    )


def test_repair_that_is_read_before_its_media_makes_nothing_of_it() -> None:
    packets = media(100, COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:7])
    batch = ListBatch(repair[COLUMNS:], addresses=[SENDER] * ROWS)
    assert repairing.audited.feed(LegBatch(batch, ROW)) == []
    assert repairing.repairing.held == ROWS
    assert repairing.repairing.deadline == 100.0 + READ_SECONDS
    assert repairing.feed(MEDIA, *sent[7:]) == sent[7:]
    assert repairing.expire(100.0 + READ_SECONDS) == []
    assert (repairing.repairing.repaired, repairing.dropped, repairing.repairing.held) == (
        0,
        {"fec": ROWS},
        0,
    )


def test_repair_far_ahead_of_what_was_read_is_of_use_once_its_media_is_read() -> None:
    """As where this process had no processor for a while: each socket has much that waits."""
    blocks = 5
    packets = media(100, blocks * COLUMNS * ROWS)
    sent, first = [*packets.values()], (blocks - 1) * COLUMNS * ROWS
    assert first > AHEAD_MAX
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:7])
    repair = matrix(packets, 100 + first, COLUMNS, ROWS)
    batch = ListBatch(repair[COLUMNS:], addresses=[SENDER] * ROWS)
    assert repairing.audited.feed(LegBatch(batch, ROW)) == []
    lost = first + 3
    assert repairing.feed(MEDIA, *sent[7:lost], *sent[lost + 1 :]) == sent[7:lost]
    assert repairing.expire(100.0 + READ_SECONDS) == sent[lost:]
    assert repairing.dropped == {"fec": ROWS - 1}


def test_repair_that_is_read_before_the_stream_is_known_is_of_use_and_so_is_its_first_datagram() -> None:
    packets = media(100, COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    assert repairing.feed(MEDIA, sent[0]) == []
    for sender in (SENDER, "192.0.2.66"):
        batch = ListBatch(repair[COLUMNS:], addresses=[sender] * ROWS)
        assert repairing.audited.feed(LegBatch(batch, ROW)) == []
    assert repairing.feed(MEDIA, *sent[1:3], *sent[4:]) == sent[:3]  # of the row of the first datagram
    assert repairing.expire(100.0 + READ_SECONDS) == sent[3:]
    assert repairing.repairing.repaired == 1
    assert repairing.dropped == {"fec": ROWS - 1, "other-sender": ROWS}
    assert repairing.repairing.held == 0


def test_what_is_made_when_media_comes_has_come_with_that() -> None:
    packets = media(100, COLUMNS)
    sent = [*packets.values()]
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:5])
    assert repairing.feed(ROW, *matrix(packets, 100, COLUMNS, 1)[COLUMNS:]) == []
    origins = [Origin(SENDER, 5004, number, 8) for number in (3, 4)]
    batch = ListBatch(sent[6:], origins, [1007, 1008], addresses=[SENDER] * 2)
    (given_on,) = [one for one in repairing.audited.feed(LegBatch(batch, MEDIA)) if len(one)]
    assert [*map(bytes, given_on.payloads)] == sent[5:]
    assert ([*given_on.times], [*given_on.origins]) == ([1008, 1007, 1008], [origins[1], *origins])


def test_a_batch_of_media_is_taken_as_a_whole() -> None:
    packets = media(100, COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:3])
    assert repairing.feed(ROW, repair[COLUMNS]) == []
    assert repairing.feed(MEDIA, *sent[3:]) == sent[3:]
    assert (repairing.repairing.repaired, repairing.dropped["duplicate"]) == (0, 0)


def forged(base: int, offset: int, count: int) -> bytes:
    covered = struct.pack(">HHBxxxIBBBB", base % 65536, 9, 33, 0, 0, offset, count, 0)
    return struct.pack(">BBHII", 0x80, 96, 1, 0, 0) + covered + b"payload"


def test_a_flood_of_repair_in_the_name_of_the_sender_is_counted_by_reason_and_repair_goes_on() -> None:
    packets = media(100, 4 * COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:4], *sent[5:40])
    at = 100 + 40
    ahead = [forged(at + 90, 1, count) for count in range(12, 20)]
    wide = [forged(at, 1, 255), forged(at, 255, 4)]
    near = [forged(at + base, offset, 9) for base in range(20) for offset in range(1, 9)]
    assert repairing.feed(COLUMN, *ahead, *wide, *near) == []
    assert repairing.feed(ROW, repair[COLUMNS]) == sent[4:40]
    assert (repairing.dropped["fec-ahead"], repairing.dropped["not-fec"]) == (8, 2)
    assert repairing.dropped["fec-surplus"] == len(near) - repairing.repairing.held > 100
    assert repairing.feed(COLUMN, *[forged(7 * one, 1, 9) for one in range(9_000)]) == []
    assert repairing.repairing.held <= KEPT_FEC_PACKETS
    assert repairing.feed(MEDIA, *sent[40:]) == sent[40:]


def test_what_comes_after_it_was_made_is_a_duplicate() -> None:
    packets = media(100, COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:4], *sent[5:])
    assert repairing.feed(ROW, repair[COLUMNS]) == sent[4:]
    assert repairing.feed(MEDIA, sent[4]) == []
    assert repairing.dropped["duplicate"] == 1


def test_repair_waits_for_media_and_is_dropped_when_it_is_of_no_use() -> None:
    packets = media(100, 3 * COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:2])
    assert repairing.feed(ROW, repair[COLUMNS]) == []
    assert repairing.repairing.held == 1
    assert repairing.feed(MEDIA, *sent[2:7]) == sent[2:8], "the last of the row is made before it comes"
    assert repairing.feed(COLUMN, repair[0]) == []
    assert repairing.expire(math.inf) == []
    assert repairing.repairing.held == 0
    assert repairing.dropped == {"fec": 1}


def test_repair_of_others_and_what_is_none_is_dropped_by_reason() -> None:
    packets = media(100, COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    repairing.feed(COLUMN, repair[0], b"short")
    repairing.feed(MEDIA, *sent[:4], *sent[5:])
    assert repairing.feed(ROW, repair[COLUMNS], sender="192.0.2.99") == []
    assert repairing.feed(ROW, b"\0" * 40) == []
    assert repairing.dropped == {"fec": 1, "not-fec": 2, "other-sender": 1}


def test_another_stream_is_not_repaired_by_the_packets_of_the_last() -> None:
    packets = media(100, COLUMNS * ROWS)
    sent, repair = [*packets.values()], matrix(packets, 100, COLUMNS, ROWS)
    repairing = Repairing()
    repairing.feed(MEDIA, *sent[:20])
    repairing.feed(COLUMN, repair[0])
    assert repairing.repairing.held == 1
    repairing.now += 2
    repairing.expire(repairing.now)
    other = [one[:8] + b"ssrc" + one[12:] for one in sent]
    repairing.feed(MEDIA, *other[:2])
    assert repairing.repairing.held == 0
    assert repairing.feed(MEDIA, *other[2:4], *other[5:9]) == other[2:4]
    assert repairing.repairing._decoder.recovered == 0


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 65_535), st.sampled_from([0.02, 0.1]))
def test_all_goes_on_in_order_but_what_cannot_be_made(seed: int, first: int, loss: float) -> None:
    draw = random.Random(seed)
    packets = media(first, 4 * COLUMNS * ROWS)
    sent, repairing = [*packets.values()], Repairing()
    came = [one for at, one in enumerate(sent) if at < 2 or draw.random() > loss]
    gone: list[bytes] = []
    for block in range(4):
        begin = block * COLUMNS * ROWS
        part = [one for one in sent[begin : begin + COLUMNS * ROWS] if one in came]
        while part:
            count = draw.randrange(1, 12)
            gone += repairing.feed(MEDIA, *part[:count])
            del part[:count]
        repair = matrix(packets, (first + begin) % 65_536, COLUMNS, ROWS)
        for link, some in ((COLUMN, repair[:COLUMNS]), (ROW, repair[COLUMNS:])):
            gone += repairing.feed(link, *[one for one in some if draw.random() > loss])
    gone += repairing.expire(math.inf)
    assert gone == [one for one in sent if one in gone], "in order, byte for byte, none twice"
    assert {*came} <= {*gone}
    assert len(gone) == len(came) + repairing.repairing.repaired
    last = max(at for at, one in enumerate(sent) if one in gone)
    sequence = repairing.status.sequence
    assert sequence is not None
    assert sequence.counters.lost == last + 1 - len(gone)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=60) | st.integers(0, 60)), max_size=50),
    st.integers(1, 255),
)
def test_whatever_comes_is_accounted_for(came: list[tuple[int, bytes | int]], count: int) -> None:
    repairing, packets = Repairing(), [*media(0, 61).values()]
    for link, what in came:
        if isinstance(what, bytes):
            repairing.feed(link, what)
        elif link == MEDIA:
            repairing.feed(link, packets[what])
        else:
            head = struct.pack(">BBHIIHHBxxxIBBBB", 0x80, 96, 1, 0, 0, what, 9, 33, 0, 0, 1, count, 0)
            repairing.feed(link, head + b"repair")
        repairing.now += 0.05
        repairing.expire(repairing.now)
    repairing.expire(math.inf)
    assert repairing.repairing.held == 0


def test_all_that_ffmpeg_protects_is_made_byte_for_byte() -> None:
    sent, columns, rows = of_ffmpeg()
    chance = random.Random(5)
    # The first two, by which a stream is known, and the end, whose matrix ffmpeg does not end, come
    lost = {at for at in range(2, len(sent) - 80) if chance.random() < 0.03}
    assert len(lost) > 20
    first = int.from_bytes(sent[0][2:4])
    due: list[tuple[int, int, bytes]] = []  # repair: when all that it covers was sent
    covered: list[set[int]] = []
    for link, packets in ((COLUMN, columns), (ROW, rows)):
        for packet in packets:
            parsed = parse_fec(packet)
            assert parsed is not None
            places = {(number - first) % 65_536 for number in parsed.sequences}
            due.append((max(places), link, packet))
            covered.append(places)
    repairing, gone = Repairing(), list[bytes]()
    due.sort()
    for at, packet in enumerate(sent):
        gone += repairing.feed(MEDIA, packet) if at not in lost else []
        while due and due[0][0] <= at:
            _, link, repair = due.pop(0)
            gone += repairing.feed(link, repair)
    gone += repairing.expire(math.inf)
    left = set(lost)
    while alone := {at for places in covered if len(places & left) == 1 for at in places & left}:
        left -= alone
    assert gone == [packet for at, packet in enumerate(sent) if at not in left]
    assert repairing.repairing.repaired == len(lost) - len(left) > 0.9 * len(lost)


def test_what_another_sender_sends_neither_stops_repair_nor_gets_into_what_is_repaired() -> None:
    packets = media(1000, COLUMNS * ROWS)
    repair, sent = matrix(packets, 1000, COLUMNS, ROWS), [*packets.values()]
    far = sent[0][:2] + (22_000).to_bytes(2) + sent[0][4:]
    forged = [
        sent[at][:12] + bytes(len(sent[at]) - 12) for at in (9, 16)
    ]  # of the column and row of the lost
    for strange in ([far], forged):
        repairing = Repairing()
        gone = repairing.feed(MEDIA, *sent[:8])
        assert repairing.feed(MEDIA, *strange, sender="192.0.2.66") == []
        gone += repairing.feed(MEDIA, *[sent[at] for at in range(8, len(sent)) if at != 17])
        gone += repairing.feed(COLUMN, *repair[:COLUMNS]) + repairing.feed(ROW, *repair[COLUMNS:])
        assert gone == sent
        assert (repairing.repairing.repaired, repairing.dropped["other-sender"]) == (1, len(strange))
