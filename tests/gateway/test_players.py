"""Connections at work, without a thread: what comes costs one call for each that keeps up."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from support.gateway import begun, read

from mcastd.config import GatewaySettings
from mcastd.counters import GatewayCounters
from mcastd.gateway.interest import Interest
from mcastd.gateway.players import Players
from mcastd.gateway.rules import PlayerRules
from mcastd.gateway.streams import Streams
from mcastd.ip import Address
from mcastd.net.fake import FakeReceiver

TABLE = {"listen": "127.0.0.1:4022", "allow_groups": ["239.1.0.0/16"], "client_buffer": 4_000_000}
HOST = ip_address("192.0.2.1")


class Room:
    """Players and one group in memory, by socket pairs; each step is a second later."""

    def __init__(self, **settings: Any) -> None:
        config = GatewaySettings.model_validate(TABLE | settings)
        self.link = FakeReceiver()
        self.counters = GatewayCounters()
        self.interest = Interest()
        self.interest.open()
        self.streams = Streams("gateway/tv", config, lambda *_: self.link, self.counters)
        rules = PlayerRules("tv", config, dict)
        self.players = Players(rules, self.streams, self.interest, self.counters)
        self.now = 100.0
        self._clients: list[socket.socket] = []

    def connect(self, path: str = "/udp/239.1.1.1:5004") -> tuple[socket.socket, int]:
        """A player's end, and the descriptor of ours. It has asked for something."""
        client, ours = socket.socketpair()
        self._clients.append(client)
        ours.setblocking(False)
        client.settimeout(30)
        fd = ours.fileno()
        self.players.add(ours, HOST, self.now)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: tv\r\n\r\n".encode())
        self.players.see_to(fd, select.POLLIN, self.now)
        return client, fd

    def deliver(self, *payloads: bytes) -> None:
        """Have these come, and go to players."""
        self.link.deliver(*payloads)
        self.now += 1
        for piece in self.streams.taken(self.now):
            self.players.give(piece, self.now)

    def wanted(self) -> dict[int, int]:
        """What is waited for, by descriptor, that is so now."""
        self.interest.tell()
        return dict(self.interest.ready())

    def close(self) -> None:
        self.players.close(self.now)
        self.streams.close()
        self.interest.close()
        for client in self._clients:
            client.close()


@pytest.fixture
def room(no_fd_leak: None) -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is handed to send(2), by whomever."""
    made: list[bytes] = []
    send = socket.socket.send

    def noted(sock: socket.socket, data: bytes) -> int:
        made.append(data)
        return send(sock, data)

    monkeypatch.setattr(socket.socket, "send", noted)
    return made


def test_what_comes_is_one_call_for_each_and_one_buffer_for_all(room: Room, sends: list[bytes]) -> None:
    clients = [room.connect()[0] for _ in range(3)]
    room.deliver(b"begin")
    assert [read(client, 5, begun(client)[1]) for client in clients] == [b"begin"] * 3
    sends.clear()
    before = room.counters.sent_bytes
    room.deliver(b"one ", b"two ", b"three")
    assert sends == [b"one two three"] * 3
    assert all(data is sends[0] for data in sends)
    assert [read(client, 13) for client in clients] == [b"one two three"] * 3
    assert (room.counters.sent, room.counters.received) == (3 * 4, 4)
    assert room.counters.sent_bytes - before == 3 * 13
    assert [one.sent for one in room.players.listed(room.now)] == [4] * 3


def test_one_that_falls_behind_is_sent_to_when_it_has_room_and_gets_all(
    room: Room, sends: list[bytes]
) -> None:
    client, fd = room.connect()
    room.deliver(b"begin")
    assert read(client, 5, begun(client)[1]) == b"begin"
    sent = b""
    while not room.players.listed(room.now)[0].held_bytes:
        sent += bytes([len(sent) % 251]) * 50_000
        room.deliver(sent[-50_000:])
    sends.clear()
    sent += b"more" + b"and more"
    room.deliver(b"more")
    room.deliver(b"and more")
    assert sends == [], "the kernel says when it has room"
    assert fd not in room.wanted()
    found = b""
    while len(found) < len(sent):
        found += client.recv(1 << 20)
        if room.wanted().get(fd, 0) & select.POLLOUT:
            room.players.see_to(fd, select.POLLOUT, room.now)
    assert found == sent
    assert room.players.listed(room.now)[0].held_bytes == 0
    sends.clear()
    room.deliver(b"again")
    assert (sends, read(client, 5)) == ([b"again"], b"again")
    assert room.counters.sent == room.counters.received
    assert room.counters.dropped["slow"] == 0


def test_one_that_has_gone_is_found_by_what_comes(room: Room) -> None:
    (gone, _), (client, _) = room.connect(), room.connect()
    room.deliver(b"begin")
    gone.close()
    room.deliver(b"one")
    assert read(client, 8, begun(client)[1]) == b"beginone"
    assert (room.players.connections, room.counters.ended) == (1, {"gone": 1})
    assert (room.counters.sent, room.counters.received) == (3, 2)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ECONNRESET, "gone"), (errno.EPIPE, "gone"), (errno.ETIMEDOUT, "unreachable")],
)
@pytest.mark.parametrize("call", ["send", "recv"])
def test_why_a_stream_has_ended_is_counted(
    room: Room, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    (_, ended), _ = room.connect(), room.connect()
    room.deliver(b"begin")

    def fails(sock: socket.socket, _: object) -> int:
        if sock.fileno() == ended:
            raise OSError(number, os.strerror(number))
        return 3

    with monkeypatch.context() as broken:
        broken.setattr(socket.socket, call, fails)
        if call == "send":
            room.deliver(b"one")
        else:
            room.players.see_to(ended, select.POLLERR, room.now)
    assert room.counters.ended == {reason: 1}
    assert room.players.served == 1
    room.players.close(room.now)
    assert room.counters.ended == {reason: 1, "stopped": 1}
    assert room.players.served == 0


def test_who_has_gone_has_no_place_of_its_address(room: Room) -> None:
    room.players._rules = replace(
        room.players._rules, settings=GatewaySettings.model_validate(TABLE | {"max_per_address": 1})
    )
    for _ in range(3):
        client, _ = room.connect()
        room.deliver(b"begin")
        assert begun(client)[0].startswith(b"HTTP/1.1 200 ")
        refused, _ = room.connect()
        assert begun(refused)[0].startswith(b"HTTP/1.1 429 ")
        client.close()
        room.deliver(b"more")
    assert room.counters.refused == {"per-address": 3}
    assert not room.players._places._served


def test_players_are_looked_at_when_the_rules_are_others_and_not_whenever_the_network_is(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.connect()
    looked: list[Address] = []
    monkeypatch.setattr(
        PlayerRules, "allows_client", lambda self, address: looked.append(address) or self.title != "radio"
    )
    before = room.players._rules
    room.players.follow(replace(before), room.now)
    assert looked == []
    room.players.follow(replace(before, title="other"), room.now)
    assert looked == [HOST]
    assert room.players.served == 1
    room.players.follow(replace(before, title="radio"), room.now)
    assert (room.players.served, room.counters.ended) == (0, {})


def test_a_deadline_that_has_moved_on_is_none(room: Room) -> None:
    client, _ = room.connect()
    assert room.players.deadline == room.now + 5
    room.deliver(b"begin")
    assert read(client, 5, begun(client)[1]) == b"begin"
    room.players.tick(room.now + 60)
    assert (room.players.connections, room.counters.refused) == (1, {})
    _, silent = room.connect("/udp/239.1.1.2:5004")
    assert silent in room.players
    room.players.tick(room.now + 60)
    assert room.counters.refused == {"silent": 1}
