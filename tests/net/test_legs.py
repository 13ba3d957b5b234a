"""Several links as one: whatever happens to one leg, the others go on, and nothing that came is lost."""

from __future__ import annotations

import errno
import select
from collections.abc import Iterator

import pytest
from support.arenas import FewArenas, LeasingReceiver

from mcastd.errors import LinkError, NoArenaError
from mcastd.net.fake import BATCH_DATAGRAMS
from mcastd.net.legs import LegBatch, ReceivingLegs
from mcastd.net.link import LegLink, Metadata


class Ways:
    """Two legs whose links can be had, or not."""

    def __init__(self) -> None:
        self.refused: list[LinkError | None] = [None, None]
        self.opened: list[list[LeasingReceiver]] = [[], []]
        self.arenas = FewArenas(9)

    def open(self, leg: int) -> LeasingReceiver:
        if (error := self.refused[leg]) is not None:
            raise error
        self.opened[leg].append(self.arenas.receiver())
        self.opened[leg][-1].joined = f"fake{leg}"
        return self.opened[leg][-1]

    def legs(self) -> ReceivingLegs:
        return ReceivingLegs([("A", lambda: self.open(0)), ("B", lambda: self.open(1))])

    def refuse(self, leg: int, why: str) -> None:
        """The link that there is fails, and another one cannot be had."""
        self.refused[leg] = error = LinkError("cannot join", why, errno=errno.ENODEV)
        for link in self.opened[leg]:
            link.error = error


@pytest.fixture
def ways(no_fd_leak: None) -> Iterator[Ways]:
    ways = Ways()
    yield ways
    assert all(link.closed for links in ways.opened for link in links)


def taken(legs: ReceivingLegs) -> list[tuple[int, list[bytes]]]:
    """All that there is: the leg and payloads of each batch."""
    batches = []
    for _ in range(50):
        batch = legs.receive()
        if batch:
            assert isinstance(batch, LegBatch)
            batches.append((batch.leg, [bytes(payload) for payload in batch.payloads]))
        if legs.emptied:
            return batches
    raise AssertionError("it never says that all is read")


def test_each_batch_tells_by_which_leg_it_came(ways: Ways) -> None:
    legs = ways.legs()
    (left,), (right,) = ways.opened
    assert not select.select([legs], [], [], 0)[0]
    right.deliver(b"b1", b"b2")
    assert select.select([legs], [], [], 0)[0]
    left.deliver(b"a1")
    assert taken(legs) == [(0, [b"a1"]), (1, [b"b1", b"b2"])]
    assert not legs.receive()
    assert legs.emptied
    legs.close()


def test_what_comes_by_a_leg_that_was_read_empty_before_is_read(ways: Ways) -> None:
    """Whoever waits for what is new, as the thread that reads for all, would wait for something else."""
    legs = ways.legs()
    (left,), (right,) = ways.opened
    for number in (b"1", b"2", b"3"):
        left.deliver(b"a" + number)
        right.deliver(b"b" + number)
        assert sorted(taken(legs)) == [(0, [b"a" + number]), (1, [b"b" + number])]
        assert not select.select([legs], [], [], 0)[0]
    # Also if a visit ended before all was read
    left.deliver(b"a4")
    assert legs.receive()
    left.deliver(b"a5")
    right.deliver(b"b5")
    assert sorted(taken(legs)) == [(0, [b"a5"]), (1, [b"b5"])]
    legs.close()


def test_a_flood_on_one_leg_keeps_the_other_from_nothing(ways: Ways) -> None:
    legs = ways.legs()
    (left,), (right,) = ways.opened
    left.deliver(*[b"a"] * (3 * BATCH_DATAGRAMS))
    right.deliver(b"b")
    assert [leg for leg, _ in taken(legs)][:3] == [0, 1, 0]
    assert taken(legs) == []
    legs.close()


def test_all_legs_come_by_the_only_arena(ways: Ways) -> None:
    ways.arenas.free = 1
    legs = ways.legs()
    (left,), (right,) = ways.opened
    for number in (b"1", b"2"):
        left.deliver(*[b"a" + number] * (BATCH_DATAGRAMS + 1))
        right.deliver(b"b" + number)
        assert sorted(leg for leg, _ in taken(legs)) == [0, 0, 1]
    legs.idle()
    assert ways.arenas.free == 1
    left.deliver(*[b"a3"] * (BATCH_DATAGRAMS + 1))
    assert legs.receive()
    right.deliver(b"b3")
    ways.refuse(0, "there is no interface eth0")
    legs.network_changed()
    assert [leg for leg, _ in taken(legs)] == [1, 0], "also by that of a leg that has failed"
    legs.idle()
    ways.arenas.free = 0
    with pytest.raises(NoArenaError):
        legs.receive()
    ways.arenas.free = 1
    legs.close()
    assert ways.arenas.free == 1


def test_all_that_a_batch_is_asked_for_is_that_of_the_link(ways: Ways) -> None:
    legs = ways.legs()
    ways.opened[1][0].deliver(b"one", b"three")
    batch = legs.receive()
    assert (len(batch), batch.size, batch.truncated) == (2, 8, 0)
    assert batch.sources == [("192.0.2.1", 2)]
    assert [origin.port for origin in batch.origins] == [5000, 5000]
    assert batch.times == [0, 0]
    assert [len(rows) for rows in batch.rows] == [1, 1]
    legs.close()


def test_a_leg_that_cannot_be_had_is_named_and_opened_when_it_can(ways: Ways) -> None:
    ways.refuse(1, "there is no interface eth1")
    legs = ways.legs()
    assert legs.problem == "B: cannot join: there is no interface eth1"
    assert legs.retry_at is not None
    assert legs.glance().wanted == 2
    lost: list[int] = []
    legs.on_lost = lambda: lost.append(1)
    legs.set_metadata(Metadata.NONE)
    legs.set_coalesce(False)
    legs.set_receive_buffer(77_000)
    legs.tell_senders_apart(True)
    ways.refused[1] = None
    legs.network_changed()
    assert legs.problem == ""
    assert legs.retry_at is None
    (second,) = ways.opened[1]
    assert (second.metadata, second.coalesce, second.receive_buffer) == (Metadata.NONE, False, 77_000)
    assert second.senders_apart
    second.on_lost()
    assert lost == [1]
    second.deliver(b"b")
    assert select.select([legs], [], [], 0)[0]
    assert taken(legs) == [(1, [b"b"])]
    legs.close()


def test_what_came_by_a_leg_that_fails_is_given_first(ways: Ways) -> None:
    legs = ways.legs()
    (left,), (right,) = ways.opened
    right.deliver(*[b"b%d" % index for index in range(BATCH_DATAGRAMS + 1)])
    right.dropped_by_kernel, left.dropped_by_kernel = 5, 30
    ways.refuse(1, "it was deleted")
    legs.network_changed()
    assert right.left
    assert legs.problem == "B: cannot join: it was deleted"
    assert legs.load().overflow == 35
    left.deliver(b"a")
    given = taken(legs)
    assert sum(len(payloads) for leg, payloads in given if leg == 1) == BATCH_DATAGRAMS + 1
    assert (0, [b"a"]) in given
    assert right.closed
    assert legs.load().overflow == legs.glance().overflow == 35
    ways.refused[1] = None
    legs.network_changed()
    ways.opened[1][1].deliver(b"again")
    assert taken(legs) == [(1, [b"again"])]
    legs.close()


def test_each_leg_is_seen_by_itself_and_what_they_have_in_common(ways: Ways) -> None:
    legs = ways.legs()
    (left,), (right,) = ways.opened
    left.dropped_by_kernel, right.dropped_by_kernel, right.trouble, right.problem = 5, 7, "refused", "down"
    assert legs.by_leg() == (LegLink(("fake0",), 5, ""), LegLink(("fake1",), 7, "refused; down"))
    assert legs.glance().shared == ""
    right.joined, right.problem = "fake0", ""
    legs.network_changed()
    assert legs.glance().shared == "fake0"
    assert legs.problem == "all legs come by fake0: what fails there fails for all"
    ways.refuse(1, "it was deleted")
    legs.network_changed()
    assert legs.problem == "B: cannot join: it was deleted"
    assert legs.by_leg()[1] == LegLink((), 7, "cannot join: it was deleted")
    legs.close()


def test_without_any_leg_there_is_no_link(ways: Ways) -> None:
    ways.refuse(0, "there is no interface eth0")
    ways.refuse(1, "there is no interface eth1")
    with pytest.raises(LinkError, match="eth0"):
        ways.legs()
    ways.refused = [None, None]
    legs = ways.legs()
    ways.opened[0][0].deliver(b"a")
    ways.refuse(0, "gone")
    ways.refuse(1, "gone, too")
    with pytest.raises(LinkError, match="gone"):
        legs.network_changed()
    assert taken(legs) == [(0, [b"a"])]
    legs.close()


def test_each_leg_is_told_and_asked(ways: Ways) -> None:
    legs = ways.legs()
    (left,), (right,) = ways.opened
    legs.rejoin()
    assert (left.rejoins, right.rejoins) == (1, 1)
    left.trouble, right.problem = "refused", "no carrier"
    assert (legs.trouble, legs.problem) == ("A: refused", "B: no carrier")
    left.deadline, right.deadline = 8.0, 4.0
    assert legs.deadline == 4.0
    legs.tick(5.0)
    assert (left.ticks, right.ticks) == ([], [5.0])
    left.filled, right.filled = 0.25, 0.5
    assert legs.load().filled == 0.5
    assert legs.describe().interfaces == ("fake0", "fake1")
    left.retry_at = 9.0
    assert legs.retry_at == 9.0
    legs.leave()
    assert left.left
    assert right.left
    legs.close()
