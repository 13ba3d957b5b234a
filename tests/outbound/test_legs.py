"""The same datagrams by several legs: each has its own account, and one that is down stops nothing."""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Callable

import pytest

from mcastd.config import OutboundChannel
from mcastd.errors import LinkError
from mcastd.net.fake import FakeSender
from mcastd.net.link import LastBurst, Sender
from mcastd.net.payloads import Chunks, ListPayloads
from mcastd.net.sender import HeardHere
from mcastd.outbound.legs import RETRY_SECONDS, Leg, Legs
from mcastd.status import SenderDescription

CHANNEL = OutboundChannel.model_validate({"source": "/srv/x", "group": "239.192.1.1", "port": 5004})
LINES = [b"line %d\n" % number for number in range(5)]


class Way:
    """Opens links of a leg, unless it is blocked."""

    def __init__(self, *, blocked: bool = False) -> None:
        self.blocked = blocked
        self.links: list[FakeSender] = []

    def __call__(self) -> Sender:
        if self.blocked:
            raise LinkError("cannot send", "no such interface", errno=errno.ENODEV)
        self.links.append(FakeSender())
        return self.links[-1]

    @property
    def sent(self) -> list[bytes]:
        return [payload for link in self.links for payload in link.sent]


class Watch:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def pair(one: Way, other: Way) -> tuple[Leg, Leg, Callable[[], Legs], Watch]:
    first, second, watch = Leg(CHANNEL, lambda _: one()), Leg(CHANNEL, lambda _: other()), Watch()
    return first, second, lambda: Legs((first, second), watch), watch


def test_each_leg_gets_the_same() -> None:
    one, other = Way(), Way()
    first, second, make, _ = pair(one, other)
    legs = make()
    assert legs.send(ListPayloads(LINES)) == 5
    assert one.sent == other.sent == LINES
    assert (first.sent, second.sent, first.dropped, second.dropped) == (5, 5, {}, {})
    assert legs.deadline == float("inf")
    legs.close()
    assert all(link.closed for way in (one, other) for link in way.links)


def test_what_one_has_no_room_for_is_dropped_there_alone() -> None:
    one, other = Way(), Way()
    first, second, make, _ = pair(one, other)
    legs = make()
    one.links[0].room = 2
    assert legs.send(ListPayloads(LINES)) == 5
    assert (one.sent, other.sent) == (LINES[:2], LINES)
    assert (one.links[0].skipped, other.links[0].skipped) == (3, 0)  # they are not sent there again
    assert (first.sent, first.dropped, second.sent, second.dropped) == (2, {"full": 3}, 5, {})
    assert legs.send(ListPayloads(LINES)) == 5
    assert (first.refused, first.dropped) == ({"EAGAIN": 2}, {"full": 8})
    status = first.status()
    assert (status.sent, status.refused, status.dropped) == (2, first.refused, first.dropped)
    other.links[0].room = 0
    with pytest.raises(LinkError) as refused:
        legs.send(ListPayloads(LINES))
    assert refused.value.errno == errno.EAGAIN
    assert (first.dropped["full"], second.dropped) == (8, {})  # it is sent again


@pytest.mark.parametrize("down", [0, 1])
def test_one_that_is_down_stops_nothing_and_comes_back(down: int) -> None:
    ways = Way(), Way()
    first, second, make, watch = pair(*ways)
    ways[down].blocked = True
    legs = make()
    leg = (first, second)[down]
    assert leg.error is not None
    assert leg.error.errno == errno.ENODEV
    assert legs.send(ListPayloads(LINES)) == 5
    assert (leg.sent, leg.dropped) == (0, {"no-way": 5})
    assert legs.deadline == watch.now + RETRY_SECONDS
    ways[down].blocked = False
    watch.now = legs.deadline
    legs.tick(watch.now)
    assert (leg.error, legs.deadline) == (None, float("inf"))
    assert legs.send(ListPayloads(LINES)) == 5
    assert ways[down].sent == LINES
    ways[1 - down].links[0].errors.append(errno.ENETUNREACH)  # now the other
    assert legs.send(ListPayloads(LINES)) == 5
    legs.network_changed()
    assert legs.send(ListPayloads(LINES)) == 5
    assert len(ways[1 - down].links) == 2


def test_what_is_sent_meanwhile_puts_no_attempt_off() -> None:
    one, other = Way(blocked=True), Way()
    first, _, make, watch = pair(one, other)
    legs = make()
    one.blocked = False
    for _ in range(10):
        watch.now += RETRY_SECONDS / 5
        legs.send(ListPayloads(LINES))
        if legs.deadline <= watch.now:
            legs.tick(watch.now)
    assert (first.error, first.dropped) == (None, {"no-way": 5 * len(LINES)})
    one.blocked = True
    first.fail(LinkError("cannot send", "no such interface"))
    legs.send(ListPayloads(LINES))
    for _ in range(3):  # and so is each after it, which fails
        before = legs.deadline
        watch.now = before
        legs.tick(watch.now)
        assert legs.deadline == before + RETRY_SECONDS


def test_without_any_there_is_no_way() -> None:
    *_, make, _ = pair(Way(blocked=True), Way(blocked=True))
    with pytest.raises(LinkError, match="no such interface"):
        make()


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_prepared_goes_by_each(count: int) -> None:
    one, other = Way(), Way()
    first, second, make, _ = pair(one, other)
    send = make().prepare(4, count)
    assert send is not None
    datagrams = [b"abcd", b"efgh", b"ijkl"]
    data = b"".join(datagrams)
    buffers = [*Chunks(memoryview(data), 4, 3).buffers(0, 3, count)]
    one.links[0].errors.append(errno.ENOBUFS)
    for buffer in buffers:
        send(buffer)
    assert other.sent == datagrams
    assert one.sent == datagrams[count:]
    assert (first.sent, first.dropped, first.refused) == (3 - count, {"full": count}, {"ENOBUFS": 1})
    assert (second.sent, second.dropped) == (3, {})
    assert (one.links[0].skipped, other.links[0].skipped) == (count, 0)
    for way in (one, other):
        way.links[0].errors.append(errno.EAGAIN)
    with pytest.raises(OSError, match="unavailable"):
        send(buffers[0])
    assert (first.sent, second.sent) == (3 - count, 3)


@pytest.mark.parametrize("refusing", [0, 1])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENETUNREACH])
def test_a_plan_ends_where_one_refuses_for_good_and_that_one_is_closed(refusing: int, number: int) -> None:
    ways = Way(), Way()
    first, second, make, watch = pair(*ways)
    legs = make()
    leg, other = (first, second) if refusing == 0 else (second, first)
    ways[refusing].links[0].errors.extend([number] * 2)
    send = legs.prepare(4, 1)
    assert send is not None
    with pytest.raises(LastBurst):
        send(b"abcd")
    assert (leg.refused, leg.trouble) == ({}, "")
    assert legs.deadline == -math.inf
    assert legs.prepare(4, 1) is None
    legs.tick(watch.now)
    assert ways[refusing].links[0].closed
    assert "fake group" in leg.trouble
    assert leg.refused == {errno.errorcode[number]: 1}
    assert legs.deadline == watch.now + RETRY_SECONDS
    assert ways[1 - refusing].sent == [b"abcd"]
    assert legs.prepare(4, 1) is None
    assert legs.send(ListPayloads([b"efgh"])) == 1
    assert ways[1 - refusing].sent == [b"abcd", b"efgh"]
    assert (leg.sent, leg.dropped) == (0, {errno.errorcode[number]: 1, "no-way": 1})
    assert (other.sent, other.dropped, other.trouble) == (2, {}, "")
    assert legs.deadline == watch.now + RETRY_SECONDS
    assert legs.prepare(4, 1) is None  # else a plan would put the attempt off
    watch.now = legs.deadline
    legs.tick(watch.now)
    assert "fake group" in leg.trouble  # until something has gone: it may be refused again
    assert not leg.books().works
    send = legs.prepare(4, 1)
    assert send is not None
    send(b"ijkl")
    assert ways[refusing].sent == [b"ijkl"]
    assert (leg.trouble, leg.books().works) == ("", True)


@pytest.mark.parametrize("refusing", [0, 1])
@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL, errno.EIO])
@pytest.mark.parametrize(("count", "data"), [(3, b"abcdefghij"), (1, b"abcdefghij"), (1, b"")])
@pytest.mark.parametrize("ending", ["tick", "send", "close"])
def test_what_one_does_not_take_as_it_was_prepared_goes_there_otherwise(
    refusing: int, number: int, count: int, data: bytes, ending: str
) -> None:
    """As segments that its interface cannot have: alone on a channel they are not lost either."""
    ways = Way(), Way()
    first, second, make, _ = pair(*ways)
    legs = make()
    leg, other = (first, second) if refusing == 0 else (second, first)
    ways[refusing].links[0].errors.append(number)
    send = legs.prepare(4, count)
    assert send is not None
    with pytest.raises(LastBurst):  # what was prepared for it holds no more
        send(memoryview(buffer := bytearray(data)))
    buffer[:] = bytes(len(buffer))  # it may be used for what is read next
    datagrams = [b"abcd", b"efgh", b"ij"] if count == 3 else [data]
    assert (ways[refusing].sent, ways[1 - refusing].sent) == ([], datagrams)
    assert legs.prepare(4, count) is None
    if ending == "tick":
        legs.tick(50.0)
    elif ending == "close":
        legs.close()
    else:
        assert legs.send(ListPayloads([b"klmn"])) == 1
        assert ways[refusing].sent == ways[1 - refusing].sent == [*datagrams, b"klmn"]
        return
    assert ways[refusing].sent == ways[1 - refusing].sent == datagrams
    for one in (leg, other):
        assert (one.sent, one.dropped, one.trouble, one.refused) == (len(datagrams), {}, "", {})
    if ending == "close":
        return
    assert legs.send(ListPayloads([b"klmn"])) == 1
    assert legs.prepare(4, count) is not None
    assert ways[refusing].sent == ways[1 - refusing].sent == [*datagrams, b"klmn"]


def test_what_one_does_not_take_as_it_was_prepared_may_find_little_room_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = Way(), Way()
    first, _, make, _ = pair(one, other)
    legs = make()
    send = legs.prepare(4, 3)
    assert send is not None
    one.links[0].errors.append(errno.EIO)
    monkeypatch.setattr(one.links[0], "note_refusal", lambda *_: setattr(one.links[0], "room", 2))
    with pytest.raises(LastBurst):
        send(b"abcdefghijkl")
    legs.tick(50.0)
    assert (one.sent, first.sent) == ([b"abcd", b"efgh"], 2)
    assert first.dropped == {"full": 1}
    assert len(other.sent) == 3


@pytest.mark.parametrize("failing", [0, 1])
def test_while_one_is_full_the_refusal_of_another_does_not_end_all(failing: int) -> None:
    ways = Way(), Way()
    first, second, make, _ = pair(*ways)
    legs = make()
    ways[failing].links[0].errors.append(errno.EPERM)
    ways[1 - failing].links[0].errors.append(errno.EAGAIN)
    with pytest.raises(LinkError) as refused:
        legs.send(ListPayloads(LINES))
    assert refused.value.errno == errno.EAGAIN
    assert legs.send(ListPayloads(LINES)) == 5
    assert ways[1 - failing].sent == LINES
    assert [bool(leg.trouble) for leg in (first, second)] == [failing == 0, failing == 1]


@pytest.mark.parametrize("small", [0, 1])
def test_while_one_is_full_what_is_too_big_for_another_is_tried_again(small: int) -> None:
    ways = Way(), Way()
    first, second, make, _ = pair(*ways)
    legs = make()
    leg, other = (first, second) if small == 0 else (second, first)
    ways[small].links[0].largest = 3
    ways[1 - small].links[0].errors.append(errno.ENOBUFS)
    with pytest.raises(LinkError) as refused:
        legs.send(ListPayloads(LINES))
    assert refused.value.errno == errno.ENOBUFS
    assert legs.send(ListPayloads(LINES)) == 5
    assert ways[1 - small].sent == LINES
    assert (leg.dropped, leg.trouble, other.dropped) == ({"too-big": 5}, "", {})
    ways[1 - small].links[0].largest = 3
    with pytest.raises(LinkError) as refused:
        legs.send(ListPayloads(LINES))
    assert refused.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("small", [0, 1])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_what_is_too_big_for_one_takes_no_other_with_it(small: int, first: int) -> None:
    ways = Way(), Way()
    one, two, make, _ = pair(*ways)
    legs = make()
    leg, other = (one, two) if small == 0 else (two, one)
    ways[small].links[0].largest = 8
    datagrams = [b"it is much longer" if number in {first, 4} else line for number, line in enumerate(LINES)]
    assert legs.send(ListPayloads(datagrams)) == 5
    assert ways[1 - small].sent == datagrams
    assert ways[small].sent == [datagram for datagram in datagrams if len(datagram) <= 8]
    assert (leg.sent, leg.dropped, leg.trouble) == (3, {"too-big": 2}, "")
    assert (other.sent, other.dropped) == (5, {})
    ways[small].links[0].room = 2
    ways[1 - small].links[0].room = 4
    assert legs.send(ListPayloads(datagrams)) == 4, "what no leg has taken is sent again"
    full = 2 if first == 3 else 1  # one that is too big, too, if it comes after the link was full
    assert ways[small].links[0].skipped == full
    assert (leg.sent, other.sent) == (5, 9)
    assert leg.dropped == {"too-big": 4 - full, "full": full}


@pytest.mark.parametrize("dead", [0, 1])
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE])
def test_one_without_a_carrier_does_not_decide_what_is_sent(dead: int, number: int) -> None:
    """The kernel takes all for it. What it took and the other did not would be lost where it could arrive."""
    ways = Way(), Way()
    first, second, make, _ = pair(*ways)
    legs = make()
    leg, other = (first, second) if dead == 0 else (second, first)
    deaf, working = ways[dead].links[0], ways[1 - dead].links[0]
    deaf.carrier = False
    working.errors.append(number)
    with pytest.raises(LinkError) as refused:
        legs.send(ListPayloads(LINES))
    assert (refused.value.errno, other.dropped, leg.dropped) == (number, {}, {})
    working.room = 2
    assert legs.send(ListPayloads(LINES)) == 2
    assert (other.sent, other.dropped, leg.sent, leg.dropped) == (2, {}, 0, {"no-carrier": 2})
    working.room = None
    assert legs.send(ListPayloads(LINES[2:])) == 3
    assert deaf.sent == working.sent == LINES  # to those who listen on this host it goes once, too
    send = legs.prepare(4, 2)
    assert send is not None
    working.errors.append(number)
    with pytest.raises(OSError, match=r".") as plan_refused:
        send(b"abcdefgh")
    assert (plan_refused.value.errno, other.dropped) == (number, {})
    send(b"abcdefgh")
    assert deaf.sent == working.sent == [*LINES, b"abcd", b"efgh"]
    assert (other.sent, other.dropped, leg.sent, leg.dropped) == (7, {}, 0, {"no-carrier": 7})


def test_where_the_only_one_with_a_carrier_is_closed_the_others_decide() -> None:
    one, other = Way(), Way()
    first, second, make, _ = pair(one, other)
    legs = make()
    one.links[0].carrier = False
    other.links[0].errors.append(errno.EPERM)
    assert legs.send(ListPayloads(LINES)) == 5
    assert one.sent == LINES
    assert not legs.carrier
    assert (first.dropped, second.dropped) == ({"no-carrier": 5}, {"EPERM": 5})


def test_a_refusal_is_over_once_the_kernel_takes_datagrams_also_without_a_carrier() -> None:
    one, other = Way(), Way()
    first, _, make, watch = pair(one, other)
    legs = make()
    one.links[0].errors.append(errno.EPERM)
    legs.send(ListPayloads(LINES))
    watch.now = legs.deadline
    legs.tick(watch.now)
    one.links[1].carrier = False
    assert "fake group" in first.trouble
    legs.send(ListPayloads(LINES))
    assert first.trouble == "fake0 has no carrier"


def test_without_a_carrier_nothing_counts_as_sent() -> None:
    one, other = Way(), Way()
    first, second, make, _ = pair(one, other)
    legs = make()
    one.links[0].carrier = False
    assert legs.carrier
    assert legs.send(ListPayloads(LINES)) == 5
    assert (first.sent, first.dropped, second.sent) == (0, {"no-carrier": 5}, 5)
    other.links[0].carrier = False
    assert not legs.carrier


def test_it_is_named_after_the_first_that_is_open_with_a_carrier_or_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All series of the metrics would get other labels."""
    one, other = Way(), Way()
    first, _, make, _ = pair(one, other)
    legs = make()
    for way, name in ((one, "eth7"), (other, "eth8")):
        way.links[0].sending = name
        monkeypatch.setattr(way.links[0], "describe", lambda name=name: SenderDescription(name, "192.0.2.9"))
    one.links[0].carrier = False
    assert (legs.describe().interface, legs.sending) == ("eth7", "eth7")
    one.links[0].errors.append(errno.EPERM)
    assert legs.send(ListPayloads(LINES)) == 5
    assert first.link is None
    assert (legs.describe().interface, legs.sending) == ("eth8", "eth8")
    other.links[0].errors.append(errno.EPERM)
    with pytest.raises(LinkError):
        legs.send(ListPayloads(LINES))
    assert (legs.describe().interface, legs.sending) == ("eth8", "eth8"), "another thread may ask"


def test_what_the_kernel_refused_says_nothing_of_other_settings() -> None:
    one, other = Way(), Way()
    first, _, make, _ = pair(one, other)
    legs = make()
    one.links[0].errors.append(errno.EPERM)
    legs.send(ListPayloads(LINES))
    legs.close()
    first.settings = CHANNEL.model_copy()
    make()
    assert first.trouble
    legs.close()
    first.settings = CHANNEL.model_copy(update={"interface": "eth9"})
    make()
    assert first.trouble == ""


def test_each_has_books() -> None:
    one, other = Leg(CHANNEL, lambda _: FakeSender()), Leg(CHANNEL, lambda _: FakeSender())
    one.sent, one.dropped = 3, Counter(full=4, EAGAIN=5)
    other.error = LinkError("cannot send", "no such interface")
    assert [leg.books() for leg in (one, other)] == [(3, 9, True), (0, 0, False)]


def test_a_way_that_is_opened_later_sends_other_datagrams_than_were_looped_before() -> None:
    heard, opened = HeardHere(), [FakeSender()]
    first = Leg(CHANNEL, lambda _: FakeSender())
    other = Leg(CHANNEL, lambda _: opened.pop(), heard)
    legs = Legs([first, other])
    assert other.link is not None
    other.link.errors.append(errno.EPERM)  # type: ignore[attr-defined] # it is a FakeSender
    heard.note("a flow", 5)
    assert legs.send(ListPayloads(LINES)) == len(LINES)
    assert other.link is None
    assert heard.by("a flow") == 0
