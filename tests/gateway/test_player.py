"""One connection: what it is sent, and until when something has to happen."""

from __future__ import annotations

import math
from ipaddress import ip_address

from mcastd.gateway.client_queue import StreamBlock
from mcastd.gateway.player import HALF_CLOSED_SECONDS, REQUEST_SECONDS, Player, head_of
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.protocols.http_request import HttpRefusal

RESOURCE = StreamResource(ip_address("239.1.1.1"), 5004, None, without_rtp=False)
STALL = 20.0


def asking(now: float) -> Player:
    player = Player("192.0.2.1", 1000, now)
    assert player.deadline == now + REQUEST_SECONDS
    assert player.feed(b"GET /udp/239.1.1.1:5004 HTTP/1.1\r\nHost: x\r\n\r\n") is not None
    return player


def test_what_waits_has_to_go_on() -> None:
    player = asking(100.0)
    player.wait_for(RESOURCE, 105.0, 100.0)
    player.went(0, 101.0, STALL)
    assert (player.deadline, player.has_begun) == (105.0, False), "nothing has come yet"
    player.take([b"news"], StreamBlock(b"news", 1), 102.0)
    assert (player.deadline, player.has_begun) == (math.inf, True)
    player.went(0, 103.0, STALL)
    assert player.deadline == 123.0
    player.queue.went(5)
    player.went(5, 110.0, STALL)
    assert player.deadline == 130.0, "it takes a little at a time"
    player.went(0, 120.0, STALL)
    assert player.deadline == 130.0
    player.take([b"more"], StreamBlock(b"more", 1), 121.0)
    player.went(0, 121.0, STALL)
    assert player.deadline == 130.0, "what comes anew is no progress"
    left = sum(map(len, player.queue.buffers()))
    player.queue.went(left)
    player.went(left, 129.0, STALL)
    assert player.deadline == math.inf, "there is nothing to take"


def test_one_keeps_up_while_nothing_waits_for_it() -> None:
    player = asking(100.0)
    assert not player.keeps_up
    player.wait_for(RESOURCE, 105.0, 100.0)
    assert not player.keeps_up, "it has to have a head first"
    player.take([b"news"], StreamBlock(b"news", 1), 102.0)
    assert not player.keeps_up, "that waits still"
    player.queue.went(sum(map(len, player.queue.buffers())))
    assert player.keeps_up
    player.half_close(103.0)
    assert not player.keeps_up, "each piece tells whether it is there still"


def test_one_that_sends_nothing_more_has_to_be_sent_something() -> None:
    player = asking(100.0)
    player.wait_for(RESOURCE, 105.0, 100.0)
    player.half_close(101.0)
    assert player.deadline == 105.0, "as any that waits"
    player.take([b"news"], StreamBlock(b"news", 1), 102.0)
    left = sum(map(len, player.queue.buffers()))
    player.queue.went(left)
    player.went(left, 103.0, STALL)
    assert player.deadline == 103.0 + HALF_CLOSED_SECONDS
    player.take([b"more"], StreamBlock(b"more", 1), 104.0)
    player.went(0, 104.0, STALL)
    assert player.deadline == 104.0 + STALL, "something waits for it"
    player.queue.went(4)
    player.went(4, 105.0, STALL)
    assert player.deadline == 105.0 + HALF_CLOSED_SECONDS


def test_the_head_of_an_answer() -> None:
    for status, kind, fields in (
        (200, "text/html", []),
        (401, "text/plain", ["WWW-Authenticate: Bearer"]),
        (405, "text/plain", ["Allow: GET, HEAD"]),
        (501, "text/plain", ["Allow: GET, HEAD"]),
    ):
        line, *rest = head_of(status, kind, 7, ["X: y"]).decode().split("\r\n")
        assert line.startswith(f"HTTP/1.1 {status} ")
        assert [one for one in rest if one] == [
            f"Content-Type: {kind}",
            "Content-Length: 7",
            *fields,
            "X: y",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        assert rest[-2:] == ["", ""]


def test_those_of_a_batch_that_go_with_the_first_are_counted() -> None:
    """The stream begins in the middle of what came together: at a table, behind two datagrams."""
    player = asking(100.0)
    player.wait_for(RESOURCE, 105.0, 100.0)
    sound, table = b"\x47\x01\x00\x10" + bytes(184), b"\x47\x40\x00\x10" + bytes(184)
    payloads = [sound, sound, table, sound, sound]
    player.take(payloads, StreamBlock(b"".join(payloads), 5), 100.5)
    buffers = player.queue.buffers()
    assert buffers[1:] == [table + sound + sound]
    player.queue.went(sum(map(len, buffers)))
    assert player.queue.sent == 3


def test_an_answer_has_to_be_taken_in_time_and_nothing_is_read_behind_it() -> None:
    player = Player("192.0.2.1", 1000, 100.0)
    player.refuse(HttpRefusal(408, "the request takes too long"), 104.0)
    assert player.deadline == 104.0 + REQUEST_SECONDS
    assert player.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") is None
    assert player.request is None
