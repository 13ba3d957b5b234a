"""Groups that are joined: how long what comes may gather, and what is given to players."""

from __future__ import annotations

import errno
import math
from ipaddress import ip_address

import pytest
from structlog.testing import capture_logs

from mcastd.config import GatewaySettings
from mcastd.counters import GatewayCounters
from mcastd.errors import LinkError, NoArenaError
from mcastd.gateway.client_queue import StreamBlock
from mcastd.gateway.player import Player
from mcastd.gateway.streams import BATCHES_AT_ONCE, FILLING_DATAGRAMS, StreamPiece, Streams
from mcastd.net.fake import BATCH_DATAGRAMS, FakeReceiver
from mcastd.net.link import Load
from mcastd.protocols.gateway_paths import StreamResource, udp_path

pytestmark = pytest.mark.usefixtures("no_fd_leak")
RESOURCE = StreamResource(ip_address("239.1.1.1"), 5004, None, without_rtp=False)
LATENCY = 0.08
TABLE = {"listen": "127.0.0.1:4022", "allow_groups": ["239.1.0.0/16"], "max_latency": LATENCY, "linger": 0}


def joined() -> tuple[Streams, FakeReceiver, Player]:
    """A group that a player has since 100.0."""
    link = FakeReceiver()
    streams = Streams("gateway/tv", GatewaySettings.model_validate(TABLE), lambda *_: link, GatewayCounters())
    player = Player("192.0.2.1", 1000, 100.0)
    streams.enter(player, RESOURCE, 100.0)
    player.wait_for(RESOURCE, 105.0, 100.0)
    return streams, link, player


def turn(streams: Streams, link: FakeReceiver, count: int, filled: float = 0.0) -> float:
    """So many datagrams come, and are taken when that is due. Returns the seconds until the next time."""
    link.deliver(*[b"x"] * count)
    link.filled = filled
    now = streams.deadline
    assert list(streams.taken(now - 0.001)) == []
    assert sum(one.block.datagrams for one in streams.taken(now)) == count
    return streams.deadline - now


def test_what_comes_gathers_as_long_as_the_receive_buffer_allows() -> None:
    streams, link, _ = joined()
    assert streams.deadline == 100.0 + LATENCY
    assert turn(streams, link, 20) == pytest.approx(LATENCY)
    assert turn(streams, link, 20, filled=0.9) == pytest.approx(LATENCY / 2)
    assert turn(streams, link, 20, filled=0.4) == pytest.approx(LATENCY / 4)
    assert turn(streams, link, 20, filled=0.2) == pytest.approx(LATENCY / 4), "as it is to be"
    pauses = [turn(streams, link, 20, filled=0.01) for _ in range(40)]
    assert pauses[0] > LATENCY / 4
    assert pauses[-1] == pytest.approx(LATENCY)
    streams.close()


def test_a_group_with_little_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, link, _ = joined()
    monkeypatch.setattr(link, "load", lambda: pytest.fail("it is looked at"))
    for _ in range(3):
        assert turn(streams, link, FILLING_DATAGRAMS - 1) == pytest.approx(LATENCY)
    monkeypatch.undo()
    streams.close()


def test_a_reload_changes_how_long() -> None:
    streams, link, _ = joined()
    streams.follow(GatewaySettings.model_validate(TABLE | {"max_latency": 0.3}))
    assert turn(streams, link, 3) == pytest.approx(0.3)
    streams.close()


def test_a_shortage_of_memory_is_said_once_and_costs_nothing() -> None:
    streams, link, _ = joined()
    link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
    link.deliver(b"1", b"2")
    with capture_logs() as logs:
        for now in (101.0, 102.0, 103.0):
            assert list(streams.taken(now)) == []
            assert streams.listed(now)[0].trouble == "cannot receive: no memory left"
    assert [one["event"] for one in logs] == ["reception.delayed"]
    assert (link.network_changes, link.closed) == (0, False)
    link.failure = None
    assert sum(one.block.datagrams for one in streams.taken(104.0)) == 2
    assert streams.listed(104.0)[0].trouble == ""
    streams.close()


def test_a_shortage_of_memory_is_over_also_where_nothing_comes() -> None:
    streams, link, _ = joined()
    link.failure = NoArenaError("cannot receive", "no memory left", errno=errno.ENOMEM)
    assert list(streams.taken(101.0)) == []
    assert streams.listed(101.0)[0].trouble
    link.failure = None
    assert list(streams.taken(102.0)) == []
    assert streams.listed(102.0)[0].trouble == ""
    streams.close()


def test_a_group_that_fails_keeps_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be memory for no other."""
    streams, link, _ = joined()
    idle = list[str]()
    monkeypatch.setattr(link, "idle", lambda: idle.append("idle"))
    link.deliver(*[b"x"] * (BATCH_DATAGRAMS + 1))
    for _ in streams.taken(101.0):
        link.failure = LinkError("cannot receive", "network is down", errno=errno.ENETDOWN)
    assert (idle, link.network_changes) == (["idle"], 1)
    streams.close()


def test_a_group_is_joined_again_as_often_as_is_wanted() -> None:
    streams, link, _ = joined()
    assert list(streams.taken(1000.0)) == []
    assert link.rejoins == 0, "never, unless it is said"
    streams.follow(GatewaySettings.model_validate(TABLE | {"rejoin_every": 120}))
    for now, count in ((1001.0, 1), (1120.9, 1), (1121.0, 2), (1121.5, 2)):
        list(streams.taken(now))
        assert link.rejoins == count
    streams.close()


def test_what_is_given_is_for_those_who_have_it_and_ends_with_the_last() -> None:
    streams, link, player = joined()
    other = Player("192.0.2.2", 1000, 100.0)
    streams.enter(other, RESOURCE._replace(without_rtp=True), 100.0)
    link.deliver(b"\x80\x21" + bytes(10) + b"one", b"no rtp")
    got = list(streams.taken(101.0))
    block = StreamBlock(b"\x80\x21" + bytes(10) + b"oneno rtp", 2)
    assert [(one.players, one.block) for one in got] == [
        ([player], block),
        ([other], StreamBlock(b"one", 1)),
    ]
    assert isinstance(got[0], StreamPiece)
    streams.leave(other, RESOURCE._replace(without_rtp=True), 102.0)
    assert streams.count() == (1, 0)
    streams.leave(player, RESOURCE, 103.0)
    assert streams.count() == (1, 1)
    assert list(streams.taken(104.0)) == []
    assert (streams.count(), streams.deadline, link.closed) == ((0, 0), math.inf, True)


TABLE_PACKET = b"\x47\x40\x00\x10" + bytes(184)  # of a PAT
HEADER = b"\x80\x21\x00\x07" + bytes(8)  # of RTP
REPORT = b"\x80\xc8\x00\x06" + bytes(24)  # of RTCP


def test_a_transport_stream_in_rtp_is_had_without_it_however_it_is_asked_for() -> None:
    """As players and playlists of udpxy and msd_lite expect it."""
    streams, link, player = joined()
    other = Player("192.0.2.2", 1000, 100.0)
    streams.enter(other, RESOURCE._replace(without_rtp=True), 100.0)
    block = StreamBlock(2 * TABLE_PACKET, 2)
    for number, first in enumerate((HEADER + TABLE_PACKET, REPORT)):
        link.deliver(first, HEADER + TABLE_PACKET, *[HEADER + TABLE_PACKET] * number)
        pieces = [(one.players, one.block) for one in streams.taken(101.0 + number)]
        assert pieces == [([player], block), ([other], block)]
    for last in (HEADER + b"sound", TABLE_PACKET, HEADER + TABLE_PACKET[:-1]):
        link.deliver(last)
        got = [one.block.data for one in streams.taken(streams.deadline) if one.players == [player]]
        assert got == [last], "what carries no transport stream goes as it comes"
    streams.close()


def test_what_came_is_counted_once_and_what_was_lost_with_a_group_stays_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counters = GatewayCounters()
    link = FakeReceiver()
    settings = GatewaySettings.model_validate(TABLE)
    streams = Streams("gateway/tv", settings, lambda *_: link, counters)
    without = RESOURCE._replace(without_rtp=True)
    player = Player("192.0.2.1", 1000, 100.0)
    streams.enter(player, without, 100.0)
    for now, payloads in ((101.0, [b"no rtp", HEADER + b"one"]), (103.0, [b"none"]), (105.0, [])):
        link.deliver(*payloads)
        list(streams.taken(now))
    assert (counters.received, counters.received_bytes, counters.dropped) == (3, 25, {"not-rtp": 2})
    assert streams.last == 103.0
    (shown,) = streams.shown(106.0)
    assert (shown.status.received, shown.status.age) == (3, 3.0)
    assert shown.rates == (8 * 25 / 3, 0.0)
    link.dropped_by_kernel = 7
    assert streams.overflow() == 7
    meanwhile: list[int] = []
    load = link.load

    def load_while_scraped() -> Load:
        meanwhile.append(streams.overflow())
        return load()

    monkeypatch.setattr(link, "load", load_while_scraped)
    streams.leave(player, without, 107.0)
    list(streams.taken(108.0))
    assert (link.closed, streams.overflow(), {*meanwhile}) == (True, 7, {7}), "a counter never shrinks"


def test_all_batches_that_have_come_are_taken_but_not_of_one_group_for_ever() -> None:
    streams, link, _ = joined()
    link.deliver(*[b"x"] * BATCH_DATAGRAMS * (BATCHES_AT_ONCE + 1))
    taken = [piece.block.datagrams for piece in streams.taken(101.0)]
    assert taken == [BATCH_DATAGRAMS] * BATCHES_AT_ONCE
    assert [piece.block.datagrams for piece in streams.taken(102.0)] == [BATCH_DATAGRAMS]
    streams.close()


def test_a_group_follows_the_settings_and_what_was_refused_is_tried_again() -> None:
    streams, link, _ = joined()
    streams.follow(GatewaySettings.model_validate(TABLE | {"interface": "eth3", "receive_buffer": 1 << 21}))
    assert (link.interface, link.receive_buffer, link.network_changes) == ("eth3", 1 << 21, 1)
    link.retry_at = 200.0
    for now, tries in ((199.9, 1), (200.0, 2)):
        list(streams.taken(now))
        assert link.network_changes == tries
    streams.close()


def test_it_is_said_why_players_have_got_nothing() -> None:
    streams, link, _ = joined()
    without = RESOURCE._replace(without_rtp=True)
    streams.enter(Player("192.0.2.2", 1000, 100.0), without, 100.0)
    assert streams.why_nothing(RESOURCE, 100.0) == "nothing comes to 239.1.1.1 port 5004"
    link.deliver(TABLE_PACKET)
    assert sum(one.block.datagrams for one in streams.taken(101.0)) == 1
    other = f"what comes to 239.1.1.1 port 5004 is no RTP: ask for {udp_path(RESOURCE)}"
    assert streams.why_nothing(without, 100.0) == other
    assert "has no table to begin at" in streams.why_nothing(RESOURCE, 100.0)
    assert streams.why_nothing(without, 101.5) == "nothing comes to 239.1.1.1 port 5004", "of late"
    link.deliver(HEADER + TABLE_PACKET)
    assert sum(one.block.datagrams for one in streams.taken(102.0)) == 2
    assert "has no table to begin at" in streams.why_nothing(without, 100.0)
    streams.close()
