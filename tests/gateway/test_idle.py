"""Thousands of connections that never ask: a bounded number is kept, which costs the others nothing."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from typing import Any

import pytest
from support.gateway import Gateway, begun, read, whole
from support.wait import wait_for

from mcastd.deadlines import STALE_MAX
from mcastd.gateway.players import ASKING_MAX

# Connections that come in all, and together; those whose clients' ends are open: more than are kept.
COMING, TOGETHER, OPEN_MAX = 2000, 50, ASKING_MAX + 64


class Walked(dict[int, Any]):
    """A dict that counts how often somebody goes through all of it."""

    walks = 0

    def __iter__(self) -> Iterator[int]:
        self.walks += 1
        return super().__iter__()

    def items(self) -> ItemsView[int, Any]:  # type: ignore[override] # what a dict has is a subclass of it
        self.walks += 1
        return super().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override] # as above
        self.walks += 1
        return super().values()


def test_thousands_that_never_ask_are_bounded_and_nobody_goes_through_them(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.gateway.player.REQUEST_SECONDS", 3600.0)
    tv = gateway()
    players = tv.worker._players
    with contextlib.ExitStack() as stack, tv.ask() as player:
        tv.link().deliver(b"begin")
        assert read(player, 5, begun(player)[1]) == b"begin"
        idle: deque[socket.socket] = deque()
        stack.callback(lambda: [sock.close() for sock in idle])
        refused, come = tv.worker.counters.refused, 1

        def are_seen_to() -> bool:
            return refused["full"] + players.connections == come

        for _ in range(COMING // TOGETHER):
            for _ in range(TOGETHER):
                idle.append(tv.connect())
                if len(idle) > OPEN_MAX:
                    idle.popleft().close()
            come += TOGETHER
            wait_for(are_seen_to, "that all are accepted")
            assert players.connections <= ASKING_MAX + 1
        assert len(players._deadlines) <= 2 * (ASKING_MAX + 9) + STALE_MAX
        walked = players._by_fd = Walked(players._by_fd)
        for number in range(50):
            tv.link().deliver(b"%05d" % number)
            assert read(player, 5) == b"%05d" % number
        assert walked.walks == 0
        assert len(walked) >= ASKING_MAX, "they are there still"
        with tv.ask("/nothing") as one_more:
            assert whole(one_more)[0] == 404, "who asks is answered"


def test_those_that_never_ask_are_ended_each_in_its_time(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.gateway.player.REQUEST_SECONDS", 0.2)
    tv = gateway()
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(tv.connect())
        wait_for(lambda: tv.worker.counters.refused == {"request": 200}, "that they are told")
        wait_for(lambda: tv.worker.status().connections == 0, "their end")
