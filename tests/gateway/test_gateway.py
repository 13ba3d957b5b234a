"""A gateway over real connections, with groups in memory; and all of it between hosts."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.gateway import PATH, Gateway, asked, begun, drained, read, wait_for_group, whole
from support.host import three_in_a_row
from support.peer import Talker
from support.ports import free_port
from support.programs import program
from support.wait import wait_for

from mcastd.config import GatewaySettings
from mcastd.console.status import playing
from mcastd.delivery.keys import KeyFileError
from mcastd.errors import LinkError
from mcastd.gateway import worker as worker_module
from mcastd.gateway.subscriptions import Unplayable
from mcastd.gateway.worker import GatewayWorker
from mcastd.net.fake import FakeReceiver
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.worker import Context, GatewayBooks, Signal


def packet(pid: int, number: int = 0) -> bytes:
    return b"\x47" + pid.to_bytes(2) + bytes([0x10 | number % 16]) + bytes(184)


def test_a_player_gets_a_group_from_its_table_on(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    with tv.ask() as player:
        link = tv.link()
        link.deliver(packet(256, 1), packet(256, 2) + packet(0) + packet(256, 3), packet(256, 4))
        head, body = begun(player)
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n")
        assert b"\r\nConnection: close" in head
        assert b"Content-Length" not in head
        wanted = packet(0) + packet(256, 3) + packet(256, 4)
        assert read(player, len(wanted), body) == wanted
        with tv.ask() as other:
            tv.wait_for_players(2)
            assert len(tv.links) == 1, "one membership for both"
            link.deliver(packet(0) + packet(257))
            assert begun(other)[1] in {b"", packet(0) + packet(257)}
            assert read(player, 376) == packet(0) + packet(257)
    wait_for(lambda: tv.worker.status().counters.received == 4, "they are counted")
    (group, *_) = tv.worker.status().groups
    assert (group.group, group.port, group.sender) == ("239.1.1.1", 5004, "")
    tv.wait_for_players(0)
    wait_for(lambda: tv.worker.status().counters.ended == {"gone": 2}, "their end")
    assert tv.worker.status().counters.answered == {"200": 2}


def test_what_is_told_of_players(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(max_clients=7)
    with tv.connect(), tv.ask() as player, tv.ask("/udp/239.1.1.2:5004"), tv.ask("/nothing") as refused:
        assert whole(refused)[0] == 404
        refused.close()
        tv.link(2)
        links = {str(resource.group): link for resource, link in tv.links}
        links["239.1.1.1"].deliver(b"one", b"two")
        assert read(player, 6, begun(player)[1]) == b"onetwo"
        wait_for(lambda: tv.worker.status().connections == 3, "that one has gone")
        wait_for(lambda: any(one.sent == 2 for one in tv.worker.status().players), "the account")
        status = tv.worker.status()
        assert (status.served, status.max_clients) == (2, 7)
        assert tv.worker.books().gateway == GatewayBooks(players=2, groups=2, lingering=0)
        assert tv.worker.vitals().players == 2
        assert sorted(playing(one).split("; ")[0] for one in status.players) == [
            "player 127.0.0.1: /udp/239.1.1.1:5004",
            "player 127.0.0.1: /udp/239.1.1.2:5004",
            "player 127.0.0.1: nothing asked yet",
        ]
        assert next(playing(one) for one in status.players if one.sent).endswith("s, 2 datagrams")
        assert status.counters.answered == {"200": 1, "404": 1}
        links["239.1.1.2"].deliver(b"x")
        wait_for(lambda: tv.worker.status().counters.answered["200"] == 2, "it has begun")
    wait_for(lambda: tv.worker.books().gateway == GatewayBooks(players=0, groups=2, lingering=2), "no player")
    assert tv.worker.status().counters.ended == {"gone": 2}
    assert tv.worker.status().counters.answered == {"200": 2, "404": 1}


def test_what_is_no_transport_stream_goes_as_it_is(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    with tv.ask() as player:
        tv.link().deliver(b"news", b"", b"more")
        head, body = begun(player)
        assert b"application/octet-stream" in head
        assert read(player, 8, body) == b"newsmore"


def test_rtp_is_taken_off(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    header = struct.pack("!BBHII", 0x80, 33, 7, 9, 11)
    with tv.ask("/rtp/239.1.1.1:5004") as player, tv.ask() as other:
        link = tv.link()
        tv.wait_for_players(2)
        link.deliver(header + b"one ", b"\x81\xc8no rtp", b"neither", header + b"two")
        assert read(player, 7, begun(player)[1]) == b"one two"
        assert read(other, 40, begun(other)[1])[:16] == header + b"one "
    wait_for(lambda: tv.worker.status().counters.dropped["not-rtp"] == 2, "they are counted")


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("/rtp/239.1.1.1:5004", "/udp/239.1.1.1:5004"),
        ("/rtp/192.0.2.1@239.1.1.1:5004", "/udp/192.0.2.1@239.1.1.1:5004"),
        ("/rtp/[2001:db8::1]@[ff15::1]:5004", "/udp/[2001:db8::1]@[ff15::1]:5004"),
    ],
)
def test_what_is_no_rtp_is_told_of(gateway: Callable[..., Gateway], path: str, other: str) -> None:
    tv = gateway(first_data=0.5, allow_groups=["239.1.0.0/16", "ff15::/16"])
    with tv.ask(path) as player:
        tv.link().deliver(b"no rtp")
        status, body = whole(player)
    assert status == 504
    assert body.decode().endswith(f" port 5004 is no RTP: ask for {other}\n")


def test_an_interface_that_goes_is_told_of_and_comes_back(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(first_data=0.2, max_clients=9)
    with tv.ask() as player:
        link = tv.link()
        tv.wait_for_players(1)
        link.deliver(b"one")
        assert read(player, 3, begun(player)[1]) == b"one"
        link.error = LinkError("cannot use 239.1.1.1 on eth0", "no such interface", waits="waiting for it")
        tv.reload()
        (group,) = tv.worker.status().groups
        assert (group.interfaces, group.trouble) == ((), str(link.error))
        assert "no such interface" in tv.answer("/")[1].decode()
        assert tv.answer() == (503, f"{link.error}\n".encode())
        link.error = None
        tv.reload()
        (group,) = tv.worker.status().groups
        assert (group.interfaces, group.trouble) == (("fake0",), "")
        link.problem = "eth0 is down: nothing arrives there"
        assert tv.answer() == (
            504,
            b"nothing comes to 239.1.1.1 port 5004: eth0 is down: nothing arrives there\n",
        )
        link.deliver(b"two")
        assert read(player, 3) == b"two"


def test_of_one_sender(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    with tv.ask("/udp/192.0.2.1@239.1.1.1:5004"), tv.ask():
        tv.link(2)
        assert {str(one.sender) for one, _ in tv.links} == {"192.0.2.1", "None"}


@pytest.mark.parametrize(
    ("path", "keys", "status", "said"),
    [
        ("/udp/239.2.1.1:5004", {}, 403, b"239.2.1.1 is not in allow_groups"),
        ("/udp/192.0.2.1:5004", {}, 400, b"192.0.2.1 is no multicast address"),
        ("/udp/232.1.1.1:5004", {}, 400, b"ask for /udp/SENDER@232.1.1.1:5004"),
        ("/nothing", {}, 404, b"ask for /udp/GROUP:PORT"),
        (PATH, {"method": "POST"}, 405, b"GET and HEAD are served"),
        (PATH, {"host": "evil.example.org"}, 421, b"evil.example.org is not in names"),
        (PATH, {"method": "HEAD"}, 200, b""),
        ("/nothing", {"method": "HEAD"}, 404, b""),
    ],
)
def test_what_is_answered_at_once(
    gateway: Callable[..., Gateway], path: str, keys: dict[str, str], status: int, said: bytes
) -> None:
    tv = gateway()
    found, body = tv.answer(path, **keys)
    assert found == status
    assert said in body
    assert bool(body) is bool(said)
    assert tv.links == []


@pytest.mark.parametrize("host", ["127.0.0.1:4022", "[::1]:4022", "tv", "localhost", "TV.example.net:80"])
def test_a_name_of_its_own(gateway: Callable[..., Gateway], host: str) -> None:
    assert gateway(names=["tv.example.net"]).answer(host=host, method="HEAD")[0] == 200


def test_the_name_is_that_of_the_target_if_it_has_one(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(names=["tv.example.net"])
    tv.subscriptions = {"news": StreamResource(ip_address("239.1.1.7"), 5004, None, without_rtp=False)}
    head = b"GET http://%s/playlist.m3u HTTP/1.1\r\nHost: %s\r\n\r\n"
    status, body = asked(tv.connect(), head % (b"evil.example.org", b"tv.example.net"))
    assert (status, body) == (421, b"evil.example.org is not in names\n")
    status, body = asked(tv.connect(), head % (b"tv.example.net:80", b"evil.example.org"))
    assert status == 200
    assert b"\nhttp://tv.example.net:80/news\n" in body


def test_heads_that_are_odd(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    assert asked(tv.connect(), b"\r\nGET /nothing HTTP/1.0\r\n\r\n")[0] == 404
    assert asked(tv.connect(), b"HEAD / HTTP/1.1\r\n\r\n") == (400, b""), "no Host; a HEAD gets no body"
    assert asked(tv.connect(), b"GET / HTTP/1.1\r\n\r\n") == (400, b"Host is missing\n")


def test_one_that_sends_nothing_more_is_served(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """nc -N, say: it closes its direction behind the request."""
    tv = gateway()
    monkeypatch.setattr("mcastd.gateway.player.HALF_CLOSED_SECONDS", 60)
    with tv.ask() as player, tv.ask("/nothing") as other:
        for sock in (player, other):
            sock.shutdown(socket.SHUT_WR)
        assert whole(other)[0] == 404
        tv.link().deliver(b"one")
        assert read(player, 3, begun(player)[1]) == b"one"
        monkeypatch.setattr("mcastd.gateway.player.HALF_CLOSED_SECONDS", 0.05)
        tv.link().deliver(b"two")
        assert read(player, 3) == b"two"
        assert player.recv(1) == b"", "whether it is there still, only more data would tell"
    assert tv.worker.status().counters.ended == {"gone": 1}


def test_a_subscription_by_its_name_and_in_the_playlist(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    assert tv.answer("/news")[0] == 404
    own, other = ip_address("239.1.1.7"), ip_address("239.2.2.2")
    tv.subscriptions = {
        "news": StreamResource(own, 5004, ip_address("192.0.2.1"), without_rtp=True),
        "other": StreamResource(other, 5004, None, without_rtp=False),
    }
    assert tv.answer("/other")[0] == 403
    assert tv.answer("/playlist.m3u", host="tv:4022") == (
        200,
        b"#EXTM3U\n#EXTINF:-1,news\nhttp://tv:4022/news\n",
    )
    with tv.ask("/news") as player:
        tv.link().deliver(struct.pack("!BBHII", 0x80, 33, 7, 9, 11) + b"one")
        assert read(player, 3, begun(player)[1]) == b"one"
    assert tv.links[0][0] == tv.subscriptions["news"]


def test_a_subscription_that_players_cannot_have_is_refused_with_the_reason(
    gateway: Callable[..., Gateway],
) -> None:
    tv = gateway()
    tv.subscriptions = {"films": Unplayable("has files, which are no stream")}
    assert tv.answer("/films") == (404, b"films has files, which are no stream\n")
    assert tv.answer("/playlist.m3u")[1] == b"#EXTM3U\n"
    assert b"films" not in tv.answer("/")[1]
    assert tv.worker.status().counters.refused == {"request": 1}
    assert tv.links == []


def test_a_group_that_is_silent_or_cannot_be_joined(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(first_data=0.05, linger=0)
    status, body = tv.answer()
    assert (status, body) == (504, b"nothing comes to 239.1.1.1 port 5004\n")
    wait_for(lambda: tv.links[0][1].closed, "that it is left")
    tv.refusal = LinkError("cannot join 239.1.1.1", "no route", "add one")
    assert tv.answer() == (503, b"cannot join 239.1.1.1: no route; add one\n")
    assert tv.worker.status().counters.refused == {"silent": 1, "no-way": 1}


def test_no_more_players_than_are_to_be_served(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(max_clients=1)
    with tv.ask() as player:
        tv.link().deliver(b"x")
        begun(player)
        assert tv.answer()[0] == 503
        assert tv.answer(method="HEAD")[0] == 200


def test_one_address_has_not_all_places(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(max_clients=3, max_per_address=2)
    with tv.ask() as player, tv.ask(), tv.connect("127.0.0.3") as other:
        tv.wait_for_players(2)
        assert tv.answer() == (429, b"2 players of your address are served, and no more\n")
        assert tv.answer(method="HEAD")[0] == 200
        other.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        tv.wait_for_players(3)
        tv.link().deliver(b"x")
        begun(player)
        player.close()
        tv.wait_for_players(2)
        with tv.ask():
            tv.wait_for_players(3)
    assert tv.worker.status().counters.refused == {"per-address": 1}


def test_a_player_that_closes_and_comes_again_at_once_has_its_place(gateway: Callable[..., Gateway]) -> None:
    """Only the answer to more data would tell that it has gone, and here comes none."""
    tv = gateway(max_per_address=1)
    with tv.ask() as player:
        link = tv.link()
        link.deliver(b"x")
        assert begun(player)[0].startswith(b"HTTP/1.1 200 ")
        assert tv.answer()[0] == 429, "while it is there"
    for number in range(3, 53):
        with tv.ask() as player:
            wait_for(lambda number=number: tv.worker.status().counters.requests == number, "its request")
            link.deliver(b"x")
            assert begun(player)[0].startswith(b"HTTP/1.1 200 ")
    assert tv.worker.status().counters.refused == {"per-address": 1}
    assert len(tv.links) == 1


@pytest.mark.parametrize(("limits", "status"), [({"max_per_address": 2}, 429), ({"max_clients": 2}, 503)])
def test_one_that_has_closed_its_end_makes_way_before_anybody_is_refused(
    gateway: Callable[..., Gateway], limits: dict[str, int], status: int
) -> None:
    """It may read on, and does so for as long as there is room; then it is the one that ends."""
    tv = gateway(**limits)
    with tv.ask() as first, tv.ask() as second:
        link = tv.link()
        tv.wait_for_players(2)
        link.deliver(b"x")
        begun(first)
        begun(second)
        second.shutdown(socket.SHUT_WR)
        link.deliver(b"y")
        assert read(second, 1) == b"y"
        with tv.ask() as third:
            assert drained(second) == b""
            link.deliver(b"z")
            begun(third)
            assert tv.answer()[0] == status
            assert read(first, 2) == b"yz"
    wait_for(lambda: tv.worker.status().counters.ended == {"gone": 3}, "their end")


def test_one_that_has_no_stream_makes_no_way(gateway: Callable[..., Gateway]) -> None:
    """A connection that has got an answer holds no place that another one could have."""
    tv = gateway(max_per_address=1)
    with tv.ask() as player, tv.connect() as answered:
        tv.link().deliver(b"x")
        begun(player)
        answered.sendall(b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answered.shutdown(socket.SHUT_WR)
        assert [tv.answer()[0] for _ in range(3)] == [429] * 3


def test_of_those_who_do_not_ask_the_address_with_most_makes_room(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.gateway.players.ASKING_MAX", 4)
    tv = gateway()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(tv.connect("127.0.0.3"))
        crowd = [stack.enter_context(tv.connect("127.0.0.2")) for _ in range(5)]
        assert [sock.recv(1) for sock in crowd[:2]] == [b"", b""], "those that had most time to ask"
        first.sendall(b"HEAD /udp/239.1.1.1:5004 HTTP/1.0\r\n\r\n")
        assert whole(first)[0] == 200
        crowd[4].sendall(b"HEAD /nothing HTTP/1.0\r\n\r\n")
        assert whole(crowd[4])[0] == 404
    assert tv.worker.status().counters.refused["full"] == 2


def test_those_who_may_not_are_not_answered(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(allow_clients=["127.0.0.2/32"])
    with contextlib.suppress(ConnectionError), tv.ask() as sock:
        assert sock.recv(1) == b""
    wait_for(lambda: tv.worker.status().counters.refused == {"client": 1}, "the account")


def test_a_group_lingers(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(linger=600)
    with tv.ask() as player:
        tv.link().deliver(b"x")
        begun(player)
    tv.wait_for_players(0)
    tv.link().deliver(b"old")
    wait_for(lambda: tv.worker.status().counters.received == 2, "what nobody gets")
    with tv.ask() as player:
        tv.wait_for_players(1)
        tv.link().deliver(b"y")
        head, body = begun(player)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert read(player, 1, body) == b"y"
        assert len(tv.links) == 1, "it was joined still"


def test_a_group_is_left_once_it_has_lingered(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(linger=0.05)
    with tv.ask() as player:
        tv.link().deliver(b"x")
        begun(player)
    wait_for(lambda: tv.links[0][1].closed, "that it is left")
    assert tv.worker.status().groups == ()


def test_no_more_groups_linger_than_players_are_served(gateway: Callable[..., Gateway]) -> None:
    """One that asks for a group after the other, and goes each time."""
    tv = gateway(linger=600, max_clients=2)
    for number in range(1, 7):
        with tv.ask(f"/udp/239.1.1.{number}:5004") as player:
            tv.link(number).deliver(b"x")
            begun(player)
        wait_for(lambda: tv.worker.status().connections == 0, "that it has gone")
        assert [link.closed for _, link in tv.links] == [*[True] * (number - 2), *[False] * min(number, 2)]
    with tv.ask("/udp/239.1.1.5:5004") as player:
        tv.wait_for_players(1)
        tv.links[4][1].deliver(b"y")
        assert read(player, 1, begun(player)[1]) == b"y"
        assert len(tv.links) == 6, "it was joined still"
        assert tv.answer("/udp/239.1.1.6:5004", method="HEAD")[0] == 200
        with tv.ask("/udp/239.1.1.7:5004"):
            tv.link(7)
            assert [link.closed for _, link in tv.links[4:]] == [False, True, False]


def test_one_that_never_reads_costs_the_others_nothing(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(client_buffer=200_000)
    with tv.ask() as stuck, tv.ask() as player:
        link = tv.link()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tv.wait_for_players(2)
        sent = 0
        found = b""
        while not tv.worker.status().counters.dropped["slow"]:
            link.deliver(*(struct.pack("!I", sent + number) + bytes(1312) for number in range(50)))
            sent += 50
            if not found:
                found = begun(player)[1]
            found = read(player, 1316 * sent, found)
        numbers = [struct.unpack_from("!I", found, at)[0] for at in range(0, len(found), 1316)]
        assert numbers == [*range(sent)]
        (one,) = [one for one in tv.worker.status().players if one.dropped]
        assert one.held_bytes <= 200_000
        assert one.sent + one.dropped <= sent


def test_one_that_takes_nothing_is_ended_and_one_that_gets_nothing_stays(
    gateway: Callable[..., Gateway],
) -> None:
    tv = gateway(client_buffer=200_000, stall=0.5, max_clients=2)
    with tv.ask("/udp/239.1.1.2:5004") as waiting, tv.ask() as stuck:
        tv.link(2)
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        links = {str(resource.group): link for resource, link in tv.links}
        links["239.1.1.2"].deliver(b"one")
        assert read(waiting, 3, begun(waiting)[1]) == b"one"
        assert tv.answer()[0] == 503, "all places are taken"
        while not tv.worker.status().counters.ended["stalled"]:
            links["239.1.1.1"].deliver(*([bytes(1316)] * 50))
            wait_for(lambda: not links["239.1.1.1"]._waiting, "that they are taken")
        with pytest.raises(ConnectionResetError):
            drained(stuck)
        links["239.1.1.2"].deliver(b"two")
        assert read(waiting, 3) == b"two", "it had nothing to take for longer than that"
        with tv.ask() as other:
            wait_for(lambda: all(one.players for one in tv.worker.status().groups), "its place")
            links["239.1.1.1"].deliver(b"three")
            assert read(other, 5, begun(other)[1]) == b"three"
    assert tv.worker.status().counters.ended["stalled"] == 1


def test_one_that_never_takes_its_answer_is_ended(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.gateway.player.REQUEST_SECONDS", 0.05)
    tv = gateway()
    with tv.ask("/nothing"), tv.ask(PATH, "Content-Length: 5"):
        wait_for(lambda: tv.worker.status().counters.refused["request"] == 2, "the answers")
        wait_for(lambda: tv.worker.status().connections == 0, "their end")


def test_what_is_sent_behind_a_request_is_not_read(gateway: Callable[..., Gateway]) -> None:
    """It costs the others nothing: it stops whoever sends it."""
    tv = gateway()
    with tv.ask() as player:
        tv.wait_for_players(1)
        player.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                player.send(bytes(65536))
        player.settimeout(30)
        tv.link().deliver(b"one")
        assert read(player, 3, begun(player)[1]) == b"one"
        tv.link().deliver(b"two")
        assert read(player, 3) == b"two"
        player.settimeout(0.01)
        with pytest.raises(TimeoutError):
            player.sendall(bytes(1 << 20))

    def has_ended() -> bool:
        """Its FIN is behind what is not read: only the answer to data tells that it has gone."""
        tv.link().deliver(b"more")
        return tv.worker.status().counters.ended == {"gone": 1}

    wait_for(has_ended, "its end")


def test_a_stream_has_a_head_however_little_is_held(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(client_buffer=1000)
    with tv.ask() as player:
        tv.link().deliver(*(bytes([number]) * 1316 for number in range(1, 9)))
        head, body = begun(player)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert read(player, 8, body)


def test_hostile_connections_change_nothing_for_a_player(gateway: Callable[..., Gateway]) -> None:
    """Those that never ask, ask for too much, or do not speak HTTP."""
    tv = gateway()
    with contextlib.ExitStack() as stack, tv.ask() as player:
        tv.link().deliver(b"begin")
        assert read(player, 5, begun(player)[1]) == b"begin"
        for number in range(400):
            sock = stack.enter_context(tv.connect())
            with contextlib.suppress(OSError):  # one that is put out for others
                match number % 4:
                    case 1:
                        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
                    case 2:
                        sock.sendall(b"\x16\x03\x01")
                    case 3:
                        sock.sendall(b"GET /" + b"x" * 9000)
        wait_for(lambda: tv.worker.status().counters.refused["request"] >= 130, "answers")
        assert tv.worker.status().connections <= 258
        tv.link().deliver(b"goes on")
        assert read(player, 7) == b"goes on"


def test_one_that_asks_slowly_is_told(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.gateway.player.REQUEST_SECONDS", 0.05)
    tv = gateway()
    with tv.connect() as sock:
        sock.sendall(b"GET /")
        assert whole(sock)[0] == 408


def test_a_reload_keeps_players_and_ends_those_who_may_not_go_on(gateway: Callable[..., Gateway]) -> None:
    tv = gateway(linger=0)
    with tv.ask() as player, tv.ask("/udp/239.1.1.2:5004") as other:
        tv.link(2)
        links = {str(resource.group): link for resource, link in tv.links}
        for link, sock in ((links["239.1.1.1"], player), (links["239.1.1.2"], other)):
            link.deliver(b"one")
            assert read(sock, 3, begun(sock)[1]) == b"one"
        assert tv.answer("/udp/239.2.1.1:5004", method="HEAD")[0] == 403
        tv.reload(allow_groups=["239.1.1.1", "239.2.0.0/16"], interface="eth5", receive_buffer="8MiB")
        assert other.recv(1) == b"", "its group may not be had any more"
        assert tv.answer("/udp/239.2.1.1:5004", method="HEAD")[0] == 200
        assert (links["239.1.1.1"].interface, links["239.1.1.1"].receive_buffer) == ("eth5", 8 << 20)
        assert tv.worker.books().identity.interface == "eth5"
        second = free_port()
        tv.reload(listen=[f"127.0.0.1:{second}"])
        assert tv.worker.status().listen == (f"127.0.0.1:{second}",)
        with pytest.raises(ConnectionRefusedError):
            tv.connect()
        links["239.1.1.1"].deliver(b"two")
        assert read(player, 3) == b"two"
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            taken = f"127.0.0.1:{elsewhere.getsockname()[1]}"
            tv.reload(listen=[taken])
            assert tv.worker.status().listen == ()
            assert tv.context.degraded
            assert tv.context.detail == f"at no address; not at {taken}: address already in use"
            links["239.1.1.1"].deliver(b"three")
            assert read(player, 5) == b"three"
        wait_for(lambda: tv.worker.status().listen == (taken,), "the port is free")
        wait_for(lambda: not tv.context.degraded, "all is well")
        tv.reload(allow_clients=["192.0.2.0/24"])
        assert player.recv(1) == b""
    assert tv.worker.status().counters.ended == {"not-allowed": 2}


TOKEN_WORD = "correct-horse-battery"


def test_a_token_is_needed_and_nowhere_told(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN_WORD}\n")
    file.chmod(0o600)
    tv = gateway(token=str(file))
    tv.subscriptions = {"news": StreamResource(ip_address("239.1.1.7"), 5004, None, without_rtp=False)}
    for query, fields in (
        ("", ()),
        ("?token=", ()),
        ("?token=other-horse-battery", ()),
        (f"?Token={TOKEN_WORD}", ()),
        ("", (f"Authorization: Basic {TOKEN_WORD}",)),
        ("", (f"Authorization: Bearer {TOKEN_WORD}x",)),
        ("", ("Authorization: Bearer \xe9",)),
    ):
        for path in ("/", "/playlist.m3u", PATH, "/nothing", "/udp/1.2.3.4:5"):
            status, body = tv.answer(path + query, *fields)
            assert (status, body.startswith(b"a token is needed")) == (401, True), (path, query, fields)
    head = b"GET / HTTP/1.0\r\n\r\n"
    with tv.connect() as sock:
        sock.sendall(head)
        assert b"\r\nWWW-Authenticate: Bearer\r\n" in begun(sock)[0] + b"\r\n"
    bearer = f"authorization: bearer  {TOKEN_WORD}"
    assert b"http://127.0.0.1/news\n" in tv.answer("/playlist.m3u", bearer)[1]
    assert (
        f"http://127.0.0.1/news?token={TOKEN_WORD}\n".encode()
        in tv.answer(f"/playlist.m3u?token={TOKEN_WORD}")[1]
    )
    with tv.ask(f"{PATH}?token={TOKEN_WORD}") as player:
        tv.link().deliver(b"one")
        assert read(player, 3, begun(player)[1]) == b"one"
        assert TOKEN_WORD not in repr(tv.worker.status())
        file.write_text("x")
        tv.reload()
        assert "the token before holds" in tv.context.detail
        assert TOKEN_WORD not in tv.context.detail
        tv.link().deliver(b"two")
        assert read(player, 3) == b"two"
        file.write_text("another-horse-battery")
        tv.reload()
        assert player.recv(1) == b"", "what it knows holds no more"
    assert tv.answer(f"/?token={TOKEN_WORD}")[0] == 401
    assert tv.answer("/?token=another-horse-battery")[0] == 200
    assert tv.worker.status().counters.refused == {"token": 37}


def test_a_token_that_could_not_be_read_is_read_again(
    gateway: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when no descriptor was left at the reload."""
    monkeypatch.setattr(worker_module, "REREAD_SECONDS", 0.05)
    file = tmp_path / "token"
    file.write_text(TOKEN_WORD)
    file.chmod(0o600)
    tv = gateway(token=str(file))
    file.rename(tmp_path / "away")
    tv.reload()
    assert "no such file" in tv.context.detail
    (tmp_path / "away").write_text("another-horse-battery")
    (tmp_path / "away").rename(file)
    wait_for(lambda: "the token before holds" not in tv.context.detail, "that it is read")
    assert not tv.context.degraded
    assert tv.answer("/?token=another-horse-battery")[0] == 200


def test_a_gateway_without_its_token_serves_nobody(tmp_path: Path) -> None:
    table = {"listen": f"127.0.0.1:{free_port()}", "allow_groups": ["239.1.0.0/16"]}
    config = GatewaySettings.model_validate(table | {"token": str(tmp_path / "missing")})
    worker = GatewayWorker("gateway/tv", config, lambda *_: FakeReceiver())
    context = Context().open()
    try:
        with pytest.raises(KeyFileError, match="no such file"):
            worker.run(context)
        assert worker.status().listen == ()
    finally:
        context.close()


def test_a_page_for_people(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    tv.subscriptions = {
        "news": StreamResource(ip_address("239.1.1.1"), 5004, None, without_rtp=False),
        "other": StreamResource(ip_address("239.2.2.2"), 5004, None, without_rtp=False),
    }
    with tv.ask() as player:
        tv.link().deliver(b"one")
        begun(player)
        for path in ("/", "/status"):
            with tv.ask(path) as sock:
                head, body = begun(sock)
                page = body + drained(sock)
            assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n")
            assert b"\r\nContent-Security-Policy: default-src 'none'; style-src 'sha256-" in head
            assert b'<a href="/news">news</a>' in page
            assert b'<a href="/playlist.m3u">' in page
            assert b"other" not in page
            assert b"<td>1</td>" in page
        assert tv.answer("/", method="HEAD") == (200, b"")


def test_the_end_leaves_nothing(gateway: Callable[..., Gateway]) -> None:
    tv = gateway()
    with tv.ask() as player:
        tv.link().deliver(b"x")
        begun(player)
        tv.context.send(Signal.STOP)
        while player.recv(99):
            pass
    wait_for(lambda: tv.links[0][1].closed, "that the group is left")


@pytest.mark.root
def test_curl_at_a_daemon(tmp_path: Path) -> None:
    """A group of another host, by unicast to a third one."""
    with three_in_a_row() as (left, relay, right):
        config = """
[gateway.tv]
listen = "10.9.0.1:4022"
allow_groups = ["239.1.0.0/16"]
allow_clients = ["10.9.0.0/24"]
interface = "eth0"
first_data = "60s"
"""
        with (
            RunningDaemon(tmp_path, config, enter=relay.enter([])) as daemon,
            Talker(left, "eth0", "239.1.1.1", 5004, source="10.8.0.1") as talker,
        ):
            daemon.wait_state("gateway/tv", "active")
            url = "http://10.9.0.1:4022/udp/239.1.1.1:5004"
            command = right.enter([program("curl"), "-sS", "--max-time", "60", "-N", url])
            with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
                assert curl.stdout is not None
                try:
                    wait_for_group(daemon)
                    talker.send(3)
                    assert [curl.stdout.readline() for _ in range(3)] == talker.sent[:3]
                    shown = daemon.ctl("status", "gateway/tv").stdout
                    assert "player 10.9.0.2: /udp/239.1.1.1:5004; for " in shown
                finally:
                    curl.terminate()
            wait_for(lambda: daemon.worker("gateway/tv")["status"]["connections"] == 0, "its end")


@pytest.mark.root
def test_a_player_of_a_daemon_needs_its_token_and_stays_over_a_reload(tmp_path: Path) -> None:
    """Three hosts in a row, as above."""
    token = tmp_path / "tv.token"
    token.write_text(f"{TOKEN_WORD}\n")
    token.chmod(0o600)
    config = f"""
[gateway.tv]
listen = "10.9.0.1:4022"
allow_groups = ["239.1.1.1"]
interface = "eth0"
token = "{token}"
"""
    with three_in_a_row() as (left, relay, right):

        def curl(path: str, *options: str) -> list[str]:
            url = f"http://10.9.0.1:4022{path}"
            return right.enter([program("curl"), "-sS", "--max-time", "60", "-N", *options, url])

        def fetched(path: str, *options: str) -> str:
            return subprocess.run(curl(path, *options), capture_output=True, text=True, check=True).stdout

        with (
            RunningDaemon(tmp_path, config, enter=relay.enter([])) as daemon,
            Talker(left, "eth0", "239.1.1.1", 5004, source="10.8.0.1") as talker,
        ):
            daemon.wait_state("gateway/tv", "active")
            assert fetched("/").startswith("a token is needed")
            assert "<h1>tv</h1>" in fetched("/", "-H", f"Authorization: Bearer {TOKEN_WORD}")
            with subprocess.Popen(
                curl(f"/udp/239.1.1.1:5004?token={TOKEN_WORD}"), stdout=subprocess.PIPE
            ) as player:
                assert player.stdout is not None
                try:
                    wait_for_group(daemon)
                    talker.send(3)
                    assert [player.stdout.readline() for _ in range(3)] == talker.sent[:3]
                    daemon.write(config.replace("239.1.1.1", "239.1.0.0/16"))
                    answer = daemon.ctl("reload")
                    assert answer.returncode == 0, answer.stderr
                    talker.send(3)
                    assert [player.stdout.readline() for _ in range(3)] == talker.sent[3:]
                    shown = daemon.ctl("status", "gateway/tv").stdout + daemon.ctl("status", "--json").stdout
                    assert "/udp/239.1.1.1:5004" in shown
                    assert TOKEN_WORD not in shown + daemon.log.read_text()
                    (note,) = daemon.call("Reload")["notes"]
                    assert "changed gateway/tv; keys and tokens were read from their files again" in note
                finally:
                    player.terminate()
