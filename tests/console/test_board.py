"""What top makes of the daemon's replies: rates, history, order."""

from __future__ import annotations

from typing import Any

import pytest

from mcastd.codec import from_json
from mcastd.console.board import ORDERS, Board
from mcastd.console.screen import View, headline, plain
from mcastd.views import MonitorView


def state(name: str, state: str = "active", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "detail": "", "troubled": False, **more}


def vitals(name: str, datagrams: int = 0, payload_bytes: int = 0, **more: Any) -> dict[str, Any]:
    nothing = {"dropped": 0, "overflow": 0, "stale": False, "last_source": "", "last_datagram_age": None}
    return {"name": name, "datagrams": datagrams, "payload_bytes": payload_bytes, **nothing, **more}


def reply(
    at: float, *parts: dict[str, Any], removed: tuple[str, ...] = (), early: bool = False
) -> MonitorView:
    done = [part for part in parts if "datagrams" in part]
    states = [part for part in parts if "state" in part]
    told = {"at": at, "states": states, "vitals": None if early else done, "removed": list(removed)}
    return from_json(MonitorView, told)


@pytest.fixture
def board() -> Board:
    board = Board(interval=2.0)
    board.feed(reply(100.0, state("inbound/a"), vitals("inbound/a", 10, 1000)), 5.0)
    return board


def test_rates_are_by_the_daemon_s_clock(board: Board) -> None:
    line = board.lines["inbound/a"]
    assert (line.rate, line.bits, list(line.history)) == (
        0,
        0,
        [],
    )  # of what was before nobody knows the time
    assert board.feed(reply(104.0, vitals("inbound/a", 50, 3000)), 77.0)
    assert (line.rate, line.bits, list(line.history)) == (10, 4000, [10])
    board.feed(reply(106.0), 78.0)
    assert (line.rate, line.bits, list(line.history)) == (0, 0, [10, 0])


def test_an_early_word_of_a_state_ends_no_interval(board: Board) -> None:
    assert not board.feed(reply(100.1, state("inbound/a", "failed", detail="crashed"), early=True), 5.1)
    line = board.lines["inbound/a"]
    assert (line.state, line.detail, list(line.history)) == ("failed", "crashed", [])
    board.feed(reply(102.0, vitals("inbound/a", 12, 1000)), 7.0)
    assert line.rate == 1


def test_history_is_a_minute(board: Board) -> None:
    for number in range(1, 100):
        board.feed(reply(100.0 + 2 * number, vitals("inbound/a", 10 + number * number)), 5.0)
    history = board.lines["inbound/a"].history
    assert len(history) == board.span == 30
    assert history[-1] == (99 * 99 - 98 * 98) / 2


def test_losses_source_and_age(board: Board) -> None:
    told = vitals("inbound/a", 11, dropped=2, overflow=3, last_source="192.0.2.1", last_datagram_age=0.5)
    board.feed(reply(102.0, told), 7.0)
    line = board.lines["inbound/a"]
    assert (line.lost, line.overflow, line.source, line.last) == (5, 3, "192.0.2.1", 6.5)
    board.feed(reply(104.0), 9.0)
    assert line.last == 6.5  # so it is older by then


def test_workers_come_go_and_count_anew(board: Board) -> None:
    board.feed(reply(102.0, state("inbound/b"), vitals("inbound/b", 4), vitals("inbound/a", 2)), 7.0)
    assert board.lines["inbound/a"].rate == 0  # made anew: less than before
    assert board.lines["inbound/b"].rate == 2
    board.feed(reply(104.0, removed=("inbound/a", "inbound/never")), 9.0)
    assert list(board.lines) == ["inbound/b"]
    board.restart()
    assert not board.feed(reply(1.0, state("inbound/c"), vitals("inbound/c", 99)), 11.0)
    assert [(line.name, line.rate) for line in board.wanted()] == [("inbound/c", 0)]


def test_terminals_are_safe_from_it(board: Board) -> None:
    evil = state("in\x1b[2J", "\x1b", detail="\x07"), vitals("in\x1b[2J", last_source="\x1bc")
    board.feed(reply(102.0, *evil), 7.0)
    line = board.lines["in\x1b[2J"]
    assert [line.name, line.state, line.detail, line.source] == [r"in\x1b[2J", r"\x1b", r"\x07", r"\x1bc"]


@pytest.fixture
def several(board: Board) -> Board:
    board.restart()
    workers = {  # state, datagrams, bytes, dropped, overflow, source, age
        "inbound/a": ("active", 5, 900, 1, 2, "10.0.0.2", 9.0),
        "inbound/b": ("failed", 0, 0, 0, 0, "", None),
        "outbound/c": ("auto-restart", 7, 100, 9, 0, "10.0.0.1", 1.0),
        "outbound/d": ("active", 7, 100, 0, 0, "", 2.0),
    }
    board.feed(reply(0.0, *(state(name, worker[0]) for name, worker in workers.items())), 0.0)
    done = [
        vitals(
            name,
            *worker[1:3],
            dropped=worker[3],
            overflow=worker[4],
            last_source=worker[5],
            last_datagram_age=worker[6],
            stale=name == "outbound/d",
        )
        for name, worker in workers.items()
    ]
    board.feed(reply(1.0, *done), 50.0)
    return board


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("NAME", "abcd"),
        ("STATE", "bcda"),  # the worst first
        ("PKT/S", "cdab"),
        ("BIT/S", "acdb"),
        ("LOST", "cabd"),
        ("OVFL", "abcd"),
        ("SOURCE", "bdca"),
        ("AGE", "badc"),  # silent for longest first
    ],
)
def test_order(several: Board, order: str, expected: str) -> None:
    several.order = order
    assert "".join(line.name[-1] for line in several.wanted()) == expected


def test_orders_come_in_turn_and_can_be_turned_round(several: Board) -> None:
    several.backwards = True
    assert "".join(line.name[-1] for line in several.wanted()) == "dcba"
    seen = [several.order]
    for _ in ORDERS:
        several.next_order()
        assert not several.backwards
        seen.append(several.order)
    assert seen == [*ORDERS, "NAME"]


@pytest.mark.parametrize(("text", "expected"), [("", "abcd"), ("OUT", "cd"), ("/b", "b"), ("x", "")])
def test_filter(several: Board, text: str, expected: str) -> None:
    several.filter = text
    assert "".join(line.name[-1] for line in several.wanted()) == expected


def test_what_a_protocol_holds_is_shown_while_it_does(board: Board) -> None:
    board.feed(reply(102.0, vitals("inbound/a", 12, 1200, held=3)), 7.0)
    (shown,) = plain(board, 7.0, "12:00:00", titled=False)
    assert shown.endswith("-  held 3")
    assert "; held 3; " in headline(board, View(100, 10))
    board.feed(reply(104.0, vitals("inbound/a", 12, 1200)), 9.0)
    (shown,) = plain(board, 9.0, "12:00:02", titled=False)
    assert "held" not in shown + headline(board, View(100, 10))
