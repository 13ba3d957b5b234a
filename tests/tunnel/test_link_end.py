"""Both ends of a link over a network that is made up: what goes in comes out, whatever the network does."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from support.link_wire import HERE, KEY, THERE, LinkWire, WiredEnd

from mcastd.ip import ANY_SOURCE, NO_SOURCE, SourceFilter
from mcastd.protocols.link_control import CarriedStream, GroupWant, build_missing
from mcastd.protocols.link_messages import COUNTERS, HANDSHAKE_BYTES, MessageKind
from mcastd.protocols.row_cipher import RowCipher, row_cipher
from mcastd.rows import listed
from mcastd.token_bucket import TokenBucket
from mcastd.tunnel.gateway import UdpEnd
from mcastd.tunnel.link import heartbeat, sessions, step, wants
from mcastd.tunnel.link import session as session_module
from mcastd.tunnel.link.sent import AGAIN_BYTES
from mcastd.tunnel.link.step import CarriedRun

GROUP = ip_address("239.1.2.3")
STREAM = CarriedStream(
    origin=7, number=5, source=ip_address("10.1.0.9"), source_port=4321, group=GROUP, port=5004
)
OTHER_KEY = bytes(range(2, 34))


def payload(number: int, size: int = 1316) -> bytes:
    return number.to_bytes(4).ljust(size, b"-")


def run(first: int, count: int = 1, size: int = 1316, stream: CarriedStream = STREAM) -> CarriedRun:
    payloads = [payload(first + offset, size) for offset in range(count)]
    return CarriedRun(stream, first, hops=8, ttl=31, payloads=payloads)


def numbers(wired: WiredEnd) -> list[int]:
    return [int.from_bytes(one[:4]) for one in wired.payloads()]


def stream_on(wire: LinkWire, wired: WiredEnd, count: int, first: int = 0, per_second: int = 500) -> None:
    """Send datagrams one by one at a rate."""
    for number in range(first, first + count):
        wire.send(wired, [run(number)])
        wire.run(1 / per_second)


def test_datagrams_arrive_as_they_were() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.send(here, [run(0, 40), run(40, 3, size=64), run(43, 1, size=9000)])
    wire.send(there, [run(7, 2)])
    wire.run(1)
    assert numbers(there) == [*range(44)]
    assert {one.stream for one in there.runs} == {STREAM}
    assert {(one.hops, one.ttl) for one in there.runs} == {(8, 31)}
    assert there.payloads()[-1] == payload(43, 9000)
    assert numbers(here) == [7, 8]
    assert there.end.counts.received == here.end.counts.sent == 44
    assert there.end.counts.received_bytes == here.end.counts.sent_bytes == 40 * 1316 + 3 * 64 + 9000
    assert not there.end.counts.ignored
    assert not there.end.counts.dropped


def test_a_library_that_cannot_open_into_memory_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 13 has such a one."""
    wire = LinkWire()

    def one_by_one(key: bytes) -> RowCipher:
        whole = row_cipher(key)
        return RowCipher(whole.seal_one, whole.open_one)

    monkeypatch.setattr(session_module, "row_cipher", one_by_one)
    here, there = wire.pair(repair_seconds=0.5)
    wire.send(here, [run(0, 40), run(40, 3, size=64)])
    wire.run(1)
    assert numbers(there) == [*range(43)]
    assert not there.end.counts.ignored


def test_nothing_is_in_clear() -> None:
    wire = LinkWire()
    here, _ = wire.pair()
    wire.send(here, [run(1)])
    wire.run(1)
    assert not any(payload(1)[:40] in message or GROUP.packed in message for message in wire.sent)


def test_without_repair_what_is_lost_is_counted() -> None:
    wire = LinkWire(seed=3)
    here, there = wire.pair()
    wire.faults.loss = 0.1
    stream_on(wire, here, 1000)
    wire.faults.loss = 0.0
    wire.run(3)
    reception = there.end.sessions.current.reception
    assert 0 < 1000 - len(there.runs) == reception.lost - reception.late
    assert here.end.last_report.expected - here.end.last_report.received == reception.lost
    assert here.end.heartbeat.round_trip == pytest.approx(0.08, rel=0.2)


@pytest.mark.parametrize("seed", range(4))
def test_with_repair_each_datagram_comes_once_and_in_order(seed: int) -> None:
    """3 % loss, 80 ms there and back, overtaking, repetition: nothing is lost within a second."""
    wire = LinkWire(seed, loss=0.0, overtakes=0.1, repeats=0.05)
    here, there = wire.pair(repair_seconds=1.0)
    wire.faults.loss = 0.03
    stream_on(wire, here, 3000)
    wire.run(3)
    assert numbers(there) == [*range(3000)]
    reception = there.end.sessions.current.reception
    assert reception.repaired > 50
    assert reception.lost == 0
    assert there.end.counts.ignored[step.REPLAYED_RECORD] > 50


def test_a_loss_at_the_end_is_repaired_as_well() -> None:
    wire = LinkWire()
    here, there = wire.pair(repair_seconds=0.5)
    wire.send(here, [run(0, 10)])
    wire.faults.cut = True
    wire.send(here, [run(10, 5)])
    wire.faults.cut = False
    wire.run(0.4)
    assert numbers(there) == [*range(15)]


def test_a_peer_that_asks_for_all_again_and_again_gets_it_twice_at_most() -> None:
    wire = LinkWire()
    here, there = wire.pair(repair_seconds=1.0)
    stream_on(wire, here, 500)
    wire.run(0.2)
    before, sent = wire.bytes[HERE], here.end.counts.sent_bytes
    session = there.end.sessions.current
    for _ in range(50):
        for message in session.seal_asides(build_missing([(0, 500)], 1124)):
            wire.inject(message, THERE, HERE)
    wire.run(0.2)
    assert here.end.counts.resent > 500
    assert here.end.counts.withheld > 45 * 500
    assert wire.bytes[HERE] - before < 2.5 * sent + AGAIN_BYTES


@pytest.mark.parametrize("kind", [MessageKind.RECORD, MessageKind.ASIDE])
@pytest.mark.parametrize("counter", [COUNTERS, 2**64 - 1])
def test_a_counter_that_no_message_can_have_is_refused(kind: MessageKind, counter: int) -> None:
    wire = LinkWire()
    here, there = wire.pair(repair_seconds=0.5)
    session = here.end.sessions.current
    counter_now = session._counters[kind]
    session._counters[kind] = counter
    messages = session._seal(kind, [b"\xff"])
    session._counters[kind] = counter_now
    wire.carry(there, there.end.take(listed(messages), HERE, wire.now))
    assert there.end.counts.ignored == {step.MALFORMED: 1}
    stream_on(wire, here, 50)
    wire.run(5)
    assert numbers(there) == [*range(50)]
    assert there.end.counts.ignored == {step.MALFORMED: 1}
    assert there.end.counts.lost == 0


def test_what_takes_longer_than_is_waited_is_given_up() -> None:
    wire = LinkWire()
    here, there = wire.pair(repair_seconds=0.06)  # shorter than the round trip
    stream_on(wire, here, 10)
    wire.faults.cut = True
    stream_on(wire, here, 5, first=10)
    wire.faults.cut = False
    stream_on(wire, here, 85, first=15)
    wire.run(1)
    reception = there.end.sessions.current.reception
    assert reception.lost == 5
    assert reception.held == 0
    came = numbers(there)
    assert sorted(came) == [*range(100)] or sorted(came) == [*range(10), *range(15, 100)]
    assert len(came) == 95 + reception.late


def test_an_unknown_stream_waits_until_it_is_announced() -> None:
    """Announcements go beside the records, and both times may be lost."""
    wire = LinkWire()
    here, there = wire.pair()
    wire.tap = lambda message, source, to: message[0] != MessageKind.ASIDE or source != HERE
    wire.send(here, [run(0, 3)])
    wire.run(0.5)
    assert there.runs == []
    wire.tap = lambda message, source, to: True
    wire.run(1)
    assert numbers(there) == [0, 1, 2]


def test_keys_are_made_anew_without_a_loss() -> None:
    wire = LinkWire(overtakes=0.2)
    here, there = wire.pair()
    first = here.end.sessions.current
    stream_on(wire, here, 13_000, per_second=100)
    wire.run(1)
    assert here.end.sessions.handshakes == there.end.sessions.handshakes == 2
    assert here.end.sessions.current is not first
    assert here.end.sessions.find(first.ours) is None
    assert sorted(numbers(there)) == [*range(13_000)]
    assert not there.end.counts.ignored


def test_keys_expire_if_no_new_ones_can_be_had() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.tap = lambda message, source, to: len(message) != HANDSHAKE_BYTES
    wire.run(sessions.EXPIRY_SECONDS)
    for one in (here, there):
        assert not one.end.is_up
    wire.send(here, [run(0, 2)])
    assert here.end.counts.unsent == {step.DOWN: 2}
    wire.tap = lambda message, source, to: True
    wire.run(sessions.HELLO_MAX_SECONDS + 1)
    assert here.end.is_up
    assert there.end.is_up


@pytest.mark.parametrize("restarted", [HERE, THERE], ids=["connecting", "listening"])
def test_an_end_that_is_started_again_is_met_again(restarted: Any) -> None:
    wire = LinkWire()
    here, there = wire.pair()
    there.end.want([GroupWant(ip_network("239.1.0.0/16"), ANY_SOURCE, 0)], wire.now)
    stream_on(wire, here, 10)
    if restarted == HERE:
        here = wire.add(HERE, THERE)
    else:
        there = wire.add(THERE)
        there.end.want([GroupWant(ip_network("239.1.0.0/16"), ANY_SOURCE, 0)], wire.now)
    stream_on(wire, here, 100, first=10, per_second=10)
    assert numbers(there)[-1] == 109
    assert here.end.peer_wants.distance(GROUP, STREAM.source) == 0


def test_an_end_that_begins_anew_in_the_same_run_is_another_one() -> None:
    """Its numbers of streams mean others now: what they meant before must not count for a moment."""
    wire = LinkWire()
    here, there = wire.add(HERE, THERE, origin=5), wire.add(THERE)
    wire.carry(there, there.end.want([GroupWant(ip_network("239.1.0.0/16"), ANY_SOURCE, 0)], wire.now))
    wire.run(2)
    stream_on(wire, here, 3)
    wire.run(1)
    here = wire.add(HERE, THERE, origin=5)
    wire.run(2)
    assert here.end.peer_wants.wants
    wire.tap = lambda message, source, to: message[0] != MessageKind.ASIDE  # not even announcements arrive
    other = STREAM._replace(number=6, group=ip_address("239.1.2.4"))
    wire.send(here, [run(7, stream=other)])
    wire.run(0.2)
    assert numbers(there) == [0, 1, 2]
    wire.tap = lambda message, source, to: True
    wire.run(1)
    assert numbers(there) == [0, 1, 2, 7]
    assert there.runs[-1].stream == other


OTHER_STREAM = STREAM._replace(number=6, group=ip_address("239.1.2.4"))
# What is sent behind a record that is lost, and held: the lowest number of each stream is 12.
HELD = [(STREAM, 12), (OTHER_STREAM, 112), (STREAM, 13), (OTHER_STREAM, 113)]


def streamed(wired: WiredEnd) -> list[tuple[CarriedStream, int]]:
    """The streams of what came, and their numbers."""
    return [(one.stream, int.from_bytes(each[:4])) for one in wired.runs for each in one.payloads]


def holding(repair_seconds: float) -> tuple[LinkWire, WiredEnd, WiredEnd]:
    """Two ends, of which the second one holds records and can ask for none that is missing."""
    wire = LinkWire()
    here, there = wire.pair(repair_seconds=repair_seconds)
    for stream, number in ((STREAM, 10), (OTHER_STREAM, 110)):
        wire.send(here, [run(number, stream=stream)])
    wire.run(1)
    wire.tap = lambda message, source, to: source == HERE or message[0] != MessageKind.ASIDE
    wire.faults.cut = True
    wire.send(here, [run(11)])
    wire.faults.cut = False
    for stream, number in HELD:
        wire.send(here, [run(number, stream=stream)])
    wire.run(0.045)
    assert streamed(there) == [(STREAM, 10), (OTHER_STREAM, 110)]
    assert there.end.sessions.current.reception.held == len(HELD)
    there.runs.clear()
    return wire, here, there


def test_what_is_held_of_a_peer_that_is_started_again_keeps_its_streams() -> None:
    """Its numbers of streams mean others now."""
    wire, _, there = holding(repair_seconds=1.0)
    anew = wire.add(HERE, THERE, repair_seconds=1.0)
    wire.want_all(anew)
    wire.run(0.2)
    assert streamed(there) == HELD, "nothing before it comes any more"
    assert there.end.counts.lost == 1
    later = [(OTHER_STREAM, 200), (STREAM, 100)]  # the other way round
    for stream, number in later:
        wire.send(anew, [run(number, stream=stream)])
    wire.run(5)
    assert streamed(there) == [*HELD, *later]


def test_a_part_of_a_peer_that_is_started_again_belongs_to_no_other_datagram() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.send(here, [run(1)])
    wire.run(1)
    records = count()
    wire.tap = lambda message, source, to: message[0] != MessageKind.RECORD or next(records) > 0
    wire.send(here, [run(2, size=4000)])  # but for its first part
    here = wire.add(HERE, THERE)
    wire.run(0.2)
    assert there.end.counts.dropped == {step.INCOMPLETE: 1}
    records = count(1)
    wire.send(here, [run(2, size=4000)])
    wire.run(5)
    assert numbers(there) == [1, 2]
    assert there.end.counts.dropped == {step.INCOMPLETE: 1}


def test_what_is_held_when_the_peer_takes_its_leave_is_given() -> None:
    wire, here, there = holding(repair_seconds=5.0)
    wire.carry(here, here.end.close(wire.now))
    del wire.ends[HERE]
    wire.run(0.1)
    assert streamed(there) == HELD
    assert (there.end.counts.lost, there.end.counts.received) == (1, 6)


def test_what_is_held_when_this_end_takes_its_leave_is_given() -> None:
    """As by a reload to another port."""
    wire, _, there = holding(repair_seconds=5.0)
    wire.carry(there, there.end.close(wire.now))
    assert streamed(there) == HELD
    assert (there.end.counts.lost, there.end.counts.received) == (1, 6)


def test_what_is_held_by_keys_that_expire_is_given() -> None:
    """As where no other ones can be agreed on."""
    wire, _, there = holding(repair_seconds=30.0)
    session = there.end.sessions.current
    session.began = wire.now - sessions.EXPIRY_SECONDS + 1
    wire.run(0.5)
    assert streamed(there) == []
    wire.run(1)
    assert there.end.sessions.current is not session
    assert streamed(there) == HELD


def test_what_is_held_by_keys_that_are_forgotten_is_given() -> None:
    """No longer than former keys are kept is waited for what is missing; nor longer than for two new ones."""
    wire, here, there = holding(repair_seconds=30.0)
    for repair_seconds in (29.0, 28.0):
        assert streamed(there) == []
        here.end.change(KEY, here.settings._replace(repair_seconds=repair_seconds), wire.now)
        wire.run(0.5)
    assert streamed(there) == HELD
    assert there.end.counts.lost == 1
    wire, here, there = holding(repair_seconds=30.0)
    here.end.sessions.current.sent._batches.clear()  # so that nothing is sent again
    wire.tap = lambda message, source, to: True
    here.end.change(KEY, here.settings._replace(repair_seconds=29.0), wire.now)
    wire.run(sessions.FORMER_SECONDS - 1)
    assert streamed(there) == []
    wire.run(2)
    assert streamed(there) == HELD


def test_a_cut_shows_and_ends() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.faults.cut = True
    stream_on(wire, here, 100, per_second=10)
    assert not here.end.is_up
    assert here.end.counts.unsent[step.DOWN] > 0
    wire.faults.cut = False
    wire.run(sessions.HELLO_MAX_SECONDS + 2)
    assert here.end.is_up
    wire.send(here, [run(500)])
    wire.run(1)
    assert numbers(there)[-1] == 500


def test_a_peer_that_takes_its_leave_is_gone_at_once() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    here.end.want([GroupWant(ip_network("239.1.0.0/16"), ANY_SOURCE, 0)], wire.now)
    wire.run(1)
    assert there.end.peer_wants.wants
    wire.carry(here, here.end.close(wire.now))
    here.end.meet(None)
    wire.run(1)
    assert not there.end.is_up
    assert not there.end.peer_wants.wants


def test_a_listening_end_that_took_its_leave_is_found_when_it_is_back() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.carry(there, there.end.close(wire.now))
    del wire.ends[THERE]
    wire.run(5)
    assert not here.end.is_up
    there = wire.add(THERE)
    wire.run(sessions.HELLO_MAX_SECONDS + 1)
    assert here.end.is_up
    assert there.end.is_up


def test_a_nat_that_forgets_is_followed() -> None:
    """The peer's address changes: its next record says so."""
    wire = LinkWire()
    here, there = wire.pair()
    moved = ip_address("203.0.113.77"), 61_000
    wire.ends[moved] = wire.ends.pop(HERE)
    here.address = moved
    stream_on(wire, here, 5)
    wire.run(1)
    assert there.end.peer == moved
    assert there.end.counts.roamed == 1
    wire.send(there, [run(9)])
    wire.run(1)
    assert numbers(here) == [9]


@pytest.mark.parametrize("moved", [HERE, THERE], ids=["connecting", "listening"])
def test_an_end_with_another_address_is_found_there_soon(moved: UdpEnd) -> None:
    """It knows that the way is another one, and its peer learns it long before it would speak by itself."""
    wire = LinkWire()
    here, there = wire.pair()
    mover, other = (here, there) if moved == HERE else (there, here)
    elsewhere = ip_address("203.0.113.77"), 4711
    wire.run(7)
    wire.ends[elsewhere] = wire.ends.pop(moved)
    mover.address = elsewhere
    for _ in range(50):  # of many changes in a row, one costs a message
        mover.end.heartbeat.doubt(wire.now)
        wire.run(0.01)
    before = len(wire.sent)
    wire.run(1)
    assert len(wire.sent) <= before + 3
    assert other.end.peer == elsewhere
    stream_on(wire, other, 20)
    wire.run(1)
    assert numbers(mover) == [*range(20)]


def test_what_comes_late_of_the_keys_before_moves_nobody() -> None:
    """The peer has moved, and made new keys: of the old ones, a straggler comes from where it was."""
    wire = LinkWire()
    here, there = wire.pair()
    stragglers = here.end.sessions.current.seal([b"whatever"], wire.now)
    moved = ip_address("203.0.113.77"), 61_000
    wire.ends[moved] = wire.ends.pop(HERE)
    here.address = moved
    here.end.sessions.renew(wire.now)
    wire.run(1)
    assert there.end.peer == moved
    wire.inject(stragglers[0], HERE, THERE)
    wire.run(1)
    assert there.end.peer == moved
    assert there.end.counts.roamed == 0, "the handshake has told it"


def test_a_way_that_is_another_one_after_a_cut_is_looked_at_anew() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    assert here.end.path.size == 1472
    wire.faults.cut = True
    stream_on(wire, here, 60, per_second=1)
    assert not here.end.is_up
    wire.faults.cut, wire.faults.largest = False, 1300
    while not here.end.is_up or not there.end.is_up:
        wire.run(0.1)
    there.runs.clear()
    stream_on(wire, here, 20, first=100)
    wire.run(1)
    assert numbers(there) == [*range(100, 120)]


def test_a_very_slow_way_is_one() -> None:
    """Six seconds there and back, as by a modem with long queues: nobody is taken for lost."""
    wire = LinkWire(seconds=3.0)
    here, there = wire.add(HERE, THERE), wire.add(THERE)
    wire.want_all(here, there)
    wire.run(30)
    for second in range(150):
        stream_on(wire, here, second % 20 == 0)
        wire.run(1)
        assert here.end.is_up
        assert there.end.is_up


def test_wants_that_were_overtaken_by_newer_ones_are_void() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    kept: list[bytes] = []

    def keep(message: bytes, source: UdpEnd, to: UdpEnd) -> bool:
        kept.append(message)
        return False

    narrow = GroupWant(ip_network("239.7.0.0/16"), ANY_SOURCE, 0)
    wire.tap = keep
    wire.carry(there, there.end.want([narrow], wire.now))
    wire.tap = lambda message, source, to: True
    wire.carry(there, there.end.want([narrow._replace(groups=ip_network("239.8.0.0/16"))], wire.now))
    wire.run(0.1)
    for message in kept:
        wire.inject(message, THERE, HERE)
    wire.run(0.1)
    assert [str(want.groups) for want in here.end.peer_wants.wants] == ["239.8.0.0/16"]


def test_a_listening_end_notices_in_a_while_that_its_peer_is_gone_though_nothing_is_sent() -> None:
    wire = LinkWire()
    _, there = wire.pair()
    wire.run(300)
    assert there.end.is_up
    wire.faults.cut = True
    wire.run(heartbeat.QUIET_SECONDS - 26)
    assert there.end.is_up, "it has heard something a moment ago"
    wire.run(26 + 10)
    assert not there.end.is_up


def test_an_old_message_from_elsewhere_moves_nobody() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    stream_on(wire, here, 5)
    sent = [*wire.sent]
    wire.run(1)
    elsewhere = ip_address("203.0.113.66"), 666
    for message in sent:
        wire.carry(there, there.end.take(listed([message]), elsewhere, wire.now))
    assert there.end.peer == HERE
    assert there.end.counts.roamed == 0
    assert numbers(there) == [*range(5)]
    assert there.end.counts.ignored[step.REPLAYED_RECORD] > 0
    assert there.end.sessions.ignored[sessions.REPLAYED] == 1


def test_whatever_is_not_of_the_peer_is_dropped_and_counted() -> None:
    """Every record and aside forged, replayed, cut, reflected; and what is no message at all."""
    wire = LinkWire()
    wire.random.randrange = lambda end: 7  # so that both ends have one index for their sessions
    here, there = wire.pair()
    assert here.end.sessions.current.ours == there.end.sessions.current.ours == 7
    before = len(wire.sent)
    wire.send(here, [run(0, 2), run(2, 30, size=10), run(32, 1, size=4000)])
    here.end.want([GroupWant(ip_network("239.0.0.0/8"), ANY_SOURCE, 0)], wire.now)
    of_here = [message for message in wire.sent[before:] if message[0] >= MessageKind.RECORD]
    assert len(of_here) > 6
    wire.run(1)
    counted = there.end.counts
    came = there.payloads()
    for message in of_here:
        ignored = counted.ignored.copy()
        wire.carry(there, there.end.take(listed([message]), HERE, wire.now))
        assert counted.ignored[step.REPLAYED_RECORD] == ignored[step.REPLAYED_RECORD] + 1
        cuts = [message[:end] for end in range(len(message))]
        flips = [bytes([*message[:at], message[at] ^ 1, *message[at + 1 :]]) for at in range(len(message))]
        for wrong in (*cuts, *flips, message + b"x", b"\x23" + message[1:], b""):
            ignored = counted.ignored.copy()
            wire.carry(there, there.end.take(listed([wrong]), HERE, wire.now))
            more = counted.ignored - ignored
            assert more.total() == 1
            assert step.REPLAYED_RECORD not in more
        ignored = here.end.counts.ignored.copy()
        wire.carry(here, here.end.take(listed([message]), THERE, wire.now))
        assert here.end.counts.ignored - ignored == {step.FORGED: 1}
    assert there.payloads() == came
    assert here.runs == []
    assert {step.FORGED, step.UNKNOWN_SESSION, step.NO_MESSAGE, step.OTHER_VERSION} <= {*counted.ignored}


def test_what_is_forged_among_others_costs_them_nothing() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    stream, burst = here.end.send([run(0, 40)], wire.now).bursts
    wire.carry(there, there.end.take(listed(stream.messages), HERE, wire.now))
    records = burst.messages
    mixed = [*records[:4], records[4][:-1] + b"x", records[3], records[5][:20], *records[5:]]
    wire.carry(there, there.end.take(listed([*map(memoryview, mixed)]), HERE, wire.now))
    assert numbers(there) == [0, 1, 2, 3, *range(5, 40)]
    assert there.end.counts.ignored == {step.FORGED: 1, step.REPLAYED_RECORD: 1, step.NO_MESSAGE: 1}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=5), st.integers(0x10, 0x15))
def test_any_messages_are_taken(messages: list[bytes], kind: int) -> None:
    wire = LinkWire()
    here, _ = wire.pair()
    index = here.end.sessions.current.ours.to_bytes(2)
    for message in messages:
        for one in (message, bytes([kind, 0]) + index + message):
            wire.carry(here, here.end.take(listed([one, memoryview(one)]), THERE, wire.now))
    wire.run(2)
    assert here.end.is_up


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 24), st.binary(max_size=60)), max_size=8))
def test_whatever_the_peer_seals_is_taken(frames: list[tuple[bool, int, bytes]]) -> None:
    """Another version of this program, or one with an error, has the key."""
    wire = LinkWire()
    here, there = wire.pair(repair_seconds=0.1)
    session = there.end.sessions.current
    for is_record, kind, rest in frames:
        frame = bytes([kind]) + rest
        messages = session.seal([frame], wire.now) if is_record else session.seal_asides([frame])
        wire.carry(here, here.end.take(listed(messages), THERE, wire.now))
        wire.run(0.05)
    wire.run(3)


def test_a_peer_that_left_is_not_asked_what_its_last_datagrams_were() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.tap = lambda message, source, to: message[0] != MessageKind.ASIDE
    wire.send(there, [run(0, 3)])
    wire.tap = lambda message, source, to: True
    wire.run(wire.faults.seconds)
    wire.carry(there, there.end.close(wire.now))
    del wire.ends[THERE]
    wire.run(5)
    assert here.end.counts.dropped == {step.UNKNOWN_STREAM: 3}


def test_a_link_in_clear_carries_the_same_and_no_end_with_a_key_takes_it_for_its_peer() -> None:
    wire = LinkWire()
    here, there = wire.pair(plain=True, repair_seconds=0.5)
    wire.faults.loss = 0.1
    stream_on(wire, here, 200)
    wire.send(here, [run(200, 1, size=9000), run(201, 30, size=10)])
    wire.run(3)
    assert sorted(numbers(there)) == [*range(231)]
    assert any(payload(7) in message for message in wire.sent), "who listens can read it"
    assert not there.end.counts.ignored
    other = LinkWire()
    other.add(HERE, THERE, plain=True)
    sealed = other.add(THERE)
    other.run(10)
    assert not sealed.end.is_up
    assert sealed.end.counts.ignored[sessions.WRONG_KEY] > 1


def test_a_wrong_key_gets_no_answer() -> None:
    wire = LinkWire()
    wire.add(HERE, THERE, key=OTHER_KEY)
    there = wire.add(THERE)
    wire.run(30)
    assert there.end.sessions.ignored[sessions.WRONG_KEY] > 3
    assert wire.bytes[THERE] == 0
    assert not there.end.is_up


def test_the_clock_of_a_peer_may_be_set_back() -> None:
    """Its hellos are refused until the end of before does not answer, which is asked though all is quiet."""
    wire = LinkWire()
    wire.pair()
    here = wire.add(HERE, THERE)
    here.end.sessions._wall_ns = lambda: 1000
    wire.run(2)
    there = wire.ends[THERE]
    assert not here.end.is_up
    assert there.end.sessions.ignored[sessions.REPLAYED] > 0
    wire.run(3 * heartbeat.ANSWER_SECONDS + sessions.HELLO_MAX_SECONDS)
    assert here.end.is_up
    assert there.end.is_up
    assert there.end.sessions.clock_offset < -1e6


def test_a_peer_that_is_away_for_hours_is_called_all_the_time() -> None:
    """1024 hellos are too many for the double of the time between them."""
    wire = LinkWire()
    here = wire.add(HERE, THERE)
    wire.run(1100 * sessions.HELLO_MAX_SECONDS)
    assert here.end.sessions.tries > 1024
    there = wire.add(THERE)
    wire.run(2 * sessions.HELLO_MAX_SECONDS)
    assert here.end.is_up
    assert there.end.is_up


def hellos(wire: LinkWire, count: int) -> list[bytes]:
    """As they were sent before, by another end at the peer's address."""
    before = wire.add(HERE, THERE)
    return [before.end.sessions.hello(wire.now + 10 * number) for number in range(1, count + 1)]


def test_nothing_is_computed_for_hellos_that_are_forged_or_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = LinkWire()
    recorded = hellos(wire, 3)
    wire.run(1)
    here, there = wire.pair()
    newest = next(message for message in reversed(wire.sent) if message[0] == MessageKind.HELLO)
    monkeypatch.setattr(sessions, "NoiseHandshake", lambda *_, **__: 1 / 0)
    flips = [bytes([*newest[:at], newest[at] ^ 1, *newest[at + 1 :]]) for at in range(4, len(newest))]
    for message in (*flips, bytes([MessageKind.HELLO]).ljust(HANDSHAKE_BYTES, b"\0")):
        wire.carry(there, there.end.take(listed([message]), HERE, wire.now))
    assert there.end.counts.ignored == {sessions.WRONG_KEY: len(flips) + 1}
    for message in (newest, *recorded):
        wire.carry(there, there.end.take(listed([message]), HERE, wire.now))
    assert there.end.counts.ignored[sessions.REPLAYED] == 4
    wire.run(10)
    assert here.end.is_up
    assert there.end.is_up


@pytest.mark.parametrize("is_new", [True, False])
def test_under_a_flood_of_recorded_hellos_the_peer_is_heard(
    is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an end that has just begun, which takes each for the first time; or by one that lost its peer."""
    wire, computed = LinkWire(), Counter[bool]()
    recorded = hellos(wire, 400)
    wire.run(1)
    if is_new:
        there = wire.add(THERE)
    else:
        _, there = wire.pair()
        del wire.ends[HERE]
        wire.run(heartbeat.QUIET_SECONDS + 5)
    handshake = sessions.NoiseHandshake

    def counted(*arguments: Any, initiator: bool, **rest: Any) -> Any:
        computed[initiator] += 1
        return handshake(*arguments, initiator=initiator, **rest)

    monkeypatch.setattr(sessions, "NoiseHandshake", counted)
    stranger = ip_address("203.0.113.66"), 666
    for number in range(100):
        if number == 20:
            here = wire.add(HERE, THERE)
        wire.carry(there, there.end.take(listed(recorded), stranger, wire.now))
        wire.run(0.1)
    assert here.end.is_up
    assert there.end.is_up
    assert there.end.peer == HERE
    assert there.end.counts.ignored[sessions.TOO_MANY] > 0
    assert computed[False] <= 2 * (sessions.COMPUTED_MAX + 10 * sessions.COMPUTED_PER_SECOND)


def test_a_key_is_changed_without_a_loss_if_both_ends_are_in_time() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    stream_on(wire, here, 10)
    here.end.change(OTHER_KEY, here.settings, wire.now)
    stream_on(wire, here, 600, first=10, per_second=10)  # a minute with two keys
    assert there.end.sessions.ignored[sessions.WRONG_KEY] > 0
    assert here.end.sessions.keys_differ
    assert not there.end.sessions.keys_differ, "strangers may say the same"
    there.end.change(OTHER_KEY, there.settings, wire.now)
    stream_on(wire, here, 1500, first=610, per_second=10)
    wire.run(1)
    assert here.end.sessions.handshakes > 1
    assert numbers(there) == [*range(2110)]
    assert not here.end.sessions.keys_differ


def test_a_key_that_only_the_listening_end_has_changed_shows_there_soon() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.run(20)
    there.end.change(OTHER_KEY, there.settings, wire.now)
    for _ in range(20):
        wire.run(1)
        assert here.end.is_up
        assert there.end.is_up
    assert there.end.sessions.keys_differ
    assert here.end.sessions.keys_differ
    here.end.change(OTHER_KEY, here.settings, wire.now)
    wire.run(1)
    assert not there.end.sessions.keys_differ
    assert not here.end.sessions.keys_differ
    assert here.end.sessions.handshakes == 2


@pytest.mark.parametrize("at", [HERE, THERE], ids=["connecting", "listening"])
def test_a_key_that_is_changed_in_the_middle_of_a_handshake_costs_nothing(at: UdpEnd) -> None:
    """The peer may use the session already that this end has answered with."""
    wire = LinkWire()
    here, there = wire.pair()
    changed = wire.ends[at]
    here.end.sessions.renew(wire.now)
    wire.carry(here, here.end.tick(wire.now))
    wire.run(1.5 * wire.faults.seconds)  # the welcome is on its way
    changed.end.change(OTHER_KEY, changed.settings, wire.now)
    stream_on(wire, here, 300, per_second=10)
    wire.run(1)
    assert numbers(there) == [*range(300)]


@pytest.mark.parametrize("rate", [0, 200], ids=["idle", "busy"])
@pytest.mark.parametrize("at", [HERE, THERE], ids=["connecting", "listening"])
def test_what_the_peer_has_to_know_of_other_settings_it_is_told_at_once(at: UdpEnd, rate: int) -> None:
    """And nothing is lost for it, nor held back for what nobody keeps."""
    wire = LinkWire(overtakes=0.1)
    here, there = wire.pair()
    changed, other = (here, there) if at == HERE else (there, here)
    wire.run(10)
    stream_on(wire, changed, rate, per_second=200)
    changed.end.change(KEY, changed.settings._replace(repair_seconds=0.75), wire.now)
    stream_on(wire, changed, rate, first=rate, per_second=200)
    wire.run(1.5)
    assert here.end.sessions.handshakes == there.end.sessions.handshakes == 2
    assert sorted(numbers(other)) == [*range(2 * rate)]
    stream_on(wire, other, 300, per_second=100)
    assert other.end.sessions.current.peer.repair_seconds == 0.75
    wire.faults.loss = 0.05
    stream_on(wire, other, 500, first=300, per_second=100)
    wire.faults.loss = 0.0
    wire.run(2)
    assert sorted(numbers(changed)) == [*range(800)]
    assert changed.end.counts.repaired > 10
    assert here.end.sessions.handshakes == 2


def test_other_settings_of_this_end_alone_hold_at_once_and_cost_nothing() -> None:
    wire = LinkWire()
    here, there = wire.pair(keepalive_seconds=100.0)
    assert here.end.path.size == 1472
    here.end.change(KEY, here.settings._replace(likely_bytes=(1272,), keepalive_seconds=3.0), wire.now)
    stream_on(wire, here, 100, per_second=100)
    assert here.end.path.size == 1272
    wire.run(5)
    sent = len(wire.sent)
    wire.run(12)
    assert len(wire.sent) == sent + 2 * 4  # questions and answers
    here.end.limit(TokenBucket(80_000).take)
    stream_on(wire, here, 1000, first=100, per_second=100)
    here.end.limit(None)
    stream_on(wire, here, 100, first=1100, per_second=100)
    wire.run(1)
    unsent = here.end.counts.unsent
    assert {*unsent} == {step.BEYOND_RATE}
    assert unsent[step.BEYOND_RATE] > 800
    assert numbers(there)[:100] + numbers(there)[-100:] == [*range(100), *range(1100, 1200)]
    assert here.end.sessions.handshakes == 1


def test_what_was_not_asked_for_is_dropped() -> None:
    """A peer, or who has its key, does not decide what there is on the network here."""
    wire = LinkWire()
    here, there = wire.pair()
    only = SourceFilter(False, (STREAM.source,))
    wire.carry(there, there.end.want([GroupWant(ip_network("239.1.2.0/24"), only, 0)], wire.now))
    streams = [
        STREAM,
        STREAM._replace(number=6, group=ip_address("239.1.3.3")),
        STREAM._replace(number=7, source=ip_address("10.1.0.10")),
    ]
    for number, stream in enumerate(streams):
        wire.send(here, [run(10 * number, 2, stream=stream)])
    wire.run(1)
    assert numbers(there) == [0, 1]
    assert there.end.counts.dropped == {step.UNWANTED: 4}
    assert there.end.counts.received == 6


def test_hops_and_ttls_that_cannot_be_are_put_right() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.send(here, [run(0)._replace(hops=255), run(1)._replace(ttl=0)])
    wire.run(1)
    assert [(one.hops, one.ttl) for one in there.runs] == [(step.HOPS_MAX, 31)]
    assert there.end.counts.ignored == {step.MALFORMED: 1}


def test_wants_are_told_and_withdrawn() -> None:
    wire = LinkWire(loss=0.3, seed=5)
    here, there = wire.add(HERE, THERE), wire.add(THERE)
    changes: Counter[bool] = Counter()
    there.on_step = lambda step: changes.update([step.wants_changed])
    only = SourceFilter(False, (STREAM.source,))
    wire.carry(here, here.end.want([GroupWant(ip_network("239.1.2.3"), only, 2)], wire.now))
    wire.run(20)
    assert there.end.peer_wants.distance(GROUP, STREAM.source) == 2
    assert there.end.peer_wants.distance(GROUP, ip_address("10.1.0.10")) is None
    assert there.end.peer_wants.distance(ip_address("239.1.2.4"), STREAM.source) is None
    assert changes[True] == 1
    wire.carry(here, here.end.want([], wire.now))
    wire.run(20)
    assert there.end.peer_wants.distance(GROUP, STREAM.source) is None
    assert changes[True] == 2


def test_what_a_peer_wanted_before_it_began_anew_is_void_and_that_is_news() -> None:
    wire = LinkWire()
    here, there = wire.add(HERE, THERE), wire.add(THERE)
    wire.carry(here, here.end.want([GroupWant(ip_network("239.1.2.3"), ANY_SOURCE, 0)], wire.now))
    wire.run(2)
    assert there.end.peer_wants.wants
    changes: Counter[bool] = Counter()
    there.on_step = lambda step: changes.update([step.wants_changed])
    wire.add(HERE, THERE)
    wire.run(5)
    assert there.end.is_up
    assert not there.end.peer_wants.wants
    assert changes[True] == 1


def test_wants_are_forgotten_if_they_are_not_told_again() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    many = [GroupWant(ip_network(f"239.7.{n // 256}.{n % 256}"), ANY_SOURCE, 0) for n in range(300)]
    wire.carry(here, here.end.want(many, wire.now))
    wire.run(wants.GONE_SECONDS * 2)
    assert there.end.peer_wants.wants == tuple(many)
    wire.faults.cut = True
    wire.run(wants.GONE_SECONDS)
    assert there.end.peer_wants.wants == ()


def test_an_empty_want_is_told_as_well() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    wire.carry(here, here.end.want([GroupWant(ip_network("239.1.2.3"), NO_SOURCE, 0)], wire.now))
    wire.run(1)
    assert there.end.peer_wants.distance(GROUP, STREAM.source) is None
    assert there.end.peer_wants.serial == 2


@pytest.mark.parametrize(("largest", "found"), [(1472, 1472), (1400, 1392), (1300, 1300), (1152, 1152)])
def test_the_largest_size_is_found(largest: int, found: int) -> None:
    wire = LinkWire(largest=largest)
    here, there = wire.add(HERE, THERE), wire.add(THERE)
    wire.want_all(here, there)
    wire.run(60)
    for one in (here, there):
        assert found - 16 <= one.end.path.size <= found
    wire.send(here, [run(0, 2)])
    wire.run(1)
    assert numbers(there) == [0, 1]


def test_a_path_that_becomes_narrower_is_noticed() -> None:
    wire = LinkWire()
    here, there = wire.pair()
    assert here.end.path.size == 1472
    wire.faults.largest = 1280
    wire.run(60)
    assert 1264 <= here.end.path.size <= 1280
    wire.send(here, [run(0)])
    wire.run(1)
    assert numbers(there) == [0]
    wire.faults.largest = 1472
    wire.run(700)
    assert here.end.path.size == 1472


def test_what_the_kernel_refuses_is_not_tried_again() -> None:
    wire = LinkWire()
    here, _ = wire.pair()
    wire.faults.largest = 1400
    here.end.too_large(1472, wire.now)
    wire.run(5)
    assert 1384 <= here.end.path.size <= 1400


def test_a_rate_is_kept() -> None:
    wire = LinkWire()
    here, there = wire.pair(allow=lambda sizes, now: min(3, len(sizes)))
    wire.send(here, [run(0, 5), run(5, 2)])
    wire.run(1)
    assert numbers(there) == [0, 1, 2, 5, 6]
    assert here.end.counts.unsent == {step.BEYOND_RATE: 2}
    assert here.end.counts.sent == 5


def test_an_idle_link_costs_little() -> None:
    wire = LinkWire()
    wire.pair()
    wire.run(60)
    before = len(wire.sent)
    wire.run(3600)
    # An hour: keep-alives and answers, 30 handshakes, sizes that are confirmed, wants that are told again
    assert len(wire.sent) - before < 3600 / 25 * 2 + 30 * 4 + 3600 / 30 * 4 + 3600 / 30 * 4 + 100


def test_reports_are_answered_even_if_some_are_lost() -> None:
    wire = LinkWire(loss=0.2, seed=9)
    here, there = wire.add(HERE, THERE), wire.add(THERE)
    wire.run(300)
    assert here.end.is_up
    assert there.end.is_up
    assert here.end.heartbeat.unanswered < heartbeat.UNANSWERED_MAX


@pytest.mark.parametrize("lost", [HERE, THERE])
@pytest.mark.parametrize("sender", [None, HERE, THERE])
def test_a_way_that_is_lost_in_one_direction_is_no_link(lost: UdpEnd, sender: UdpEnd | None) -> None:
    """What still comes of the peer is no answer, to neither end, be they idle or not; and it comes back."""
    wire = LinkWire()
    wire.pair()
    wire.tap = lambda message, source, to: source != lost
    for second in range(120):
        if sender is not None:
            wire.send(wire.ends[sender], [run(10 * second, 10)])
        wire.run(1)
    assert [end.end.is_up for end in wire.ends.values()] == [False, False]
    wire.tap = lambda message, source, to: True
    wire.run(2 * sessions.HELLO_MAX_SECONDS)
    assert [end.end.is_up for end in wire.ends.values()] == [True, True]


def test_losses_both_ways_are_no_way_that_is_lost() -> None:
    wire = LinkWire(loss=0.1, seed=9)
    here, there = wire.pair()
    for second in range(900):
        wire.send(here, [run(second, 1)])
        wire.run(1)
        assert here.end.is_up
        assert there.end.is_up


def test_a_link_to_oneself_is_no_link() -> None:
    wire = LinkWire()
    here, _ = wire.add(HERE, THERE, origin=5), wire.add(THERE, origin=5)
    wire.run(5)
    assert not here.end.is_up
    assert wire.ends[THERE].end.sessions.ignored[sessions.OWN] > 0


def test_both_connecting_is_seen() -> None:
    wire = LinkWire()
    here, there = wire.add(HERE, THERE), wire.add(THERE, HERE)
    wire.run(5)
    for one in (here, there):
        assert not one.end.is_up
        assert one.end.sessions.ignored[sessions.UNEXPECTED] > 0


def test_the_answer_is_no_longer_than_the_question() -> None:
    wire = LinkWire()
    wire.add(HERE, THERE)
    wire.add(THERE)
    wire.tap = lambda message, source, to: message[0] in (MessageKind.HELLO, MessageKind.WELCOME)
    wire.run(60)
    assert 0 < wire.bytes[THERE] <= wire.bytes[HERE]
