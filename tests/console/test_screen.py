"""How top looks for a board and a size, and what keys do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.console.board import Board, Line
from mcastd.console.keyboard import keys
from mcastd.console.screen import COLUMNS, HEAD_LINES, HELP, View, arrange, draw, plain, press, row, style_of
from mcastd.console.text import ASCII_BLOCKS, age, short, sparkline

from .test_board import reply, state, vitals


def make_board(workers: int = 40) -> Board:
    board = Board()
    names = [f"inbound/w{number:02}" for number in range(workers)]
    board.feed(reply(0.0, *map(state, names), *map(vitals, names)), 0.0)
    source = {"last_source": "192.0.2.1", "last_datagram_age": 1.0, "overflow": 3}
    board.feed(reply(1.0, *(vitals(name, 1234, 98765, **source) for name in names)), 1.0)
    return board


def text(board: Board, view: View) -> list[str]:
    return [line.text.rstrip() for line in draw(board, view)]


def test_eighty_columns_show_everything() -> None:
    assert text(make_board(2), View(80, 24, now=3.0)) == [
        "2 of 2 workers active; lost 6; in 2.5k/s 1.6Mbit/s",
        "1-2 of 2, by NAME   q quit  s sort  r reverse  / filter  h help",
        "NAME         STATE  PKT/S BIT/S MINUTE           LOST  OVFL SOURCE           AGE",
        "inbound/w00  active  1.2k  790k               █     3     3 192.0.2.1         3s",
        "inbound/w01  active  1.2k  790k               █     3     3 192.0.2.1         3s",
    ]


@given(st.integers(1, 300), st.integers(1, 100), st.integers(0, 60), st.integers(-5, 100))
def test_any_size_is_filled_and_not_more(width: int, height: int, workers: int, top: int) -> None:
    board = make_board(workers)
    drawn = draw(board, View(width, height, top=top))
    assert len(drawn) <= height
    assert all(len(line.text) <= width for line in drawn)
    assert len(drawn) == min(height, HEAD_LINES + min(workers, max(1, height - HEAD_LINES)))
    assert drawn[:1][0].text.startswith(f"{workers} of"[:width])


def test_columns_go_by_importance() -> None:
    lines = list(make_board(1).lines.values())
    shown = {
        width: [column.title for column in COLUMNS if column.title in arrange(lines, width)]
        for width in (80, 64, 60, 46, 40, 30, 20, 10)
    }
    assert shown[80] == ["NAME", "STATE", "PKT/S", "BIT/S", "MINUTE", "LOST", "OVFL", "SOURCE", "AGE"]
    assert shown[64] == ["NAME", "STATE", "PKT/S", "BIT/S", "MINUTE", "LOST", "OVFL", "AGE"]
    assert shown[46] == ["NAME", "STATE", "PKT/S", "BIT/S", "LOST", "OVFL"]
    assert shown[30] == ["NAME", "STATE", "PKT/S"]
    assert shown[10] == ["NAME"]
    for fewer, more in zip((10, 20, 30, 40, 46, 60, 64), (20, 30, 40, 46, 60, 64, 80), strict=True):
        assert set(shown[fewer]) <= set(shown[more])


def test_who_does_not_run_says_why_instead_of_numbers() -> None:
    board = make_board(2)
    why = "cannot join 239.1.1.2 on eth7: no such interface (have: eth0, eth1, lo); waiting for it"
    waiting = state("inbound/w01", "auto-restart", detail=why, troubled=True)
    board.feed(reply(1.5, waiting, early=True), 1.5)
    drawn = draw(board, View(80, 24))
    assert drawn[0].text.startswith("1 of 2 workers active, 1 in trouble; ")
    assert drawn[-1].text == f"inbound/w01  auto-restart {why[:53]}…"
    assert drawn[-1].style == "yellow"
    assert why in text(board, View(160, 24))[-1]


def test_styles_tell_what_is_wrong() -> None:
    line = make_board(1).lines["inbound/w00"]
    assert style_of(line) == ""
    line.stale = True
    assert (style_of(line), line.condition) == ("yellow", "stale")
    line.stale, line.state = False, "inactive"
    assert style_of(line) == "dim"
    line.state = "failed"
    assert style_of(line) == "red"


def test_files_have_a_column_where_there_are_some() -> None:
    board = make_board(3)
    whole = {"files": 1234, "files_percent": 44.4}
    board.feed(
        reply(2.0, vitals("inbound/w00", 1234, **whole), vitals("inbound/w01", files_percent=0.0)), 2.0
    )
    title, *rows = text(board, View(100, 24, now=3.0))[2:]
    at = title.index("FILES") + len("FILES")
    assert [line[:at].rpartition("  ")[2].strip() for line in rows] == ["1.2k 44%", "0 0%", ""]
    assert "FILES" not in text(board, View(30, 24))[2]
    exact = list(plain(board, 3.0, "12:00:00", titled=False))
    assert ["  files 1.2k 44%" in line for line in exact] == [True, False, False]
    board.order = "FILES"
    assert board.wanted()[0].name == "inbound/w00"


def test_players_have_a_column_where_there_are_some() -> None:
    board = make_board(2)
    board.feed(reply(2.0, vitals("inbound/w01", 1234, players=12)), 2.0)
    title, *rows = text(board, View(100, 24, now=3.0))[2:]
    at = title.index("PLAYERS") + len("PLAYERS")
    assert [line[:at].rpartition("  ")[2].strip() for line in rows] == ["", "12"]
    assert ["  players 12" in line for line in plain(board, 3.0, "12:00:00", titled=False)] == [False, True]
    board.order = "PLAYERS"
    assert board.wanted()[0].name == "inbound/w01"
    board.feed(reply(3.0, vitals("inbound/w01", 1235, players=0)), 3.0)
    assert "PLAYERS" not in text(board, View(100, 24, now=3.0))[2]


def test_trouble_and_help_are_shown() -> None:
    board, view = make_board(30), View(80, 24)
    assert text(board, replace(view, trouble="daemon gone"))[0] == "daemon gone"
    shown = text(board, replace(view, help=True))
    assert shown[2:] == [line.rstrip() for line in HELP]
    assert max(map(len, HELP)) <= 80


def test_without_a_terminal_nothing_is_cut() -> None:
    board = make_board(1)
    board.feed(reply(1.5, state("inbound/" + "x" * 50, "failed", detail="y" * 99), early=True), 1.5)
    title, first, second = plain(board, 3.0, "12:00:00", titled=True)
    assert title.split() == ["TIME", "NAME", "STATE", "PKT/S", "BIT/S", "LOST", "OVERFLOW", "AGE", "SOURCE"]
    assert " ".join(first.split()) == "12:00:00 inbound/w00 active 1234.0 790120 3 3 3s 192.0.2.1"
    assert second.endswith("y" * 99)
    assert len(list(plain(board, 3.0, "12:00:00", titled=False))) == 2


# -- keys


def type_keys(board: Board, view: View, *pressed: str) -> View | None:
    after: View | None = view
    for key in pressed:
        assert after is not None
        after = press(key, board, after)
    return after


def test_what_scrolls_stays_on_the_screen() -> None:
    board, view = make_board(40), View(80, HEAD_LINES + 10)
    expected = {
        ("Up",): 0,
        ("Down", "Down"): 2,
        ("PgDn", "Up"): 9,
        ("PgDn", "PgDn", "PgDn", "PgDn", "PgDn"): 30,
        ("End",): 30,
        ("End", "PgUp"): 20,
        ("End", "Home"): 0,
    }
    for pressed, top in expected.items():
        after = type_keys(board, view, *pressed)
        assert after is not None
        assert after.top == top
        assert text(board, after)[HEAD_LINES].startswith(f"inbound/w{top:02}")
    assert "31-40 of 40" in text(board, replace(view, top=99))[1]


@pytest.mark.parametrize(
    "pressed", [("q",), ("Ctrl-C",), ("/", "q", "Ctrl-C"), ("h", "Ctrl-C"), ("h", "q", "q")]
)
def test_the_end(pressed: tuple[str, ...]) -> None:
    board = make_board(1)
    assert type_keys(board, View(80, 24), *pressed) is None


def test_the_filter_follows_what_is_typed() -> None:
    board, view = make_board(40), View(80, 24, top=15)
    after = type_keys(board, view, "/", "W", "3", "q", "Backspace")
    assert after is not None
    assert text(board, after)[1] == "show names with: W3_"
    assert len(text(board, after)) == HEAD_LINES + 10
    after = type_keys(board, after, "Enter", "x")
    assert after is not None
    assert "1-10 of 10 with 'W3', by NAME" in text(board, after)[1]
    for way in (("Esc",), ("/", "Esc")):
        board.filter = "w3"
        after = type_keys(board, view, *way)
        assert after is not None
        assert (board.filter, after.typing) == ("", False)


def test_order_help_and_keys_without_a_meaning() -> None:
    board, view = make_board(1), View(80, 24)
    assert type_keys(board, view, "s", "s", "r", "F5", "x", "é") == view
    assert (board.order, board.backwards) == ("PKT/S", True)
    assert "by PKT/S, backwards" in text(board, view)[1]
    for key in ("h", "?"):
        after = type_keys(board, view, key)
        assert after == replace(view, help=True)
        assert type_keys(board, view, key, "s") == view
    assert board.order == "PKT/S"


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("qs/", ["q", "s", "/"]),
        ("\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["Up", "Down", "PgUp", "PgDn", "Home", "End"]),
        ("\x1b", ["Esc"]),
        ("\x1b\x1b[A", ["Esc", "Up"]),
        ("\r\x7f\x03", ["Enter", "Backspace", "Ctrl-C"]),
        ("\x1b[1;5A\x1b[200~\x01é日", ["é", "日"]),
        ("\x1bOP", ["h"]),
    ],
)
def test_keys_have_names(typed: str, names: list[str]) -> None:
    assert keys(typed) == names


# -- words and numbers


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (0.04, "0"),
        (0.5, "0.5"),
        (9.94, "9.9"),
        (9.96, "10"),
        (2, "2"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (99_940, "99.9k"),
        (99_960, "100k"),
        (12_345_678, "12.3M"),
        (10**16, "10.0P"),
        (10**19, "huge"),
    ],
)
def test_short_numbers(number: float, expected: str) -> None:
    assert short(number) == expected


@given(st.floats(0, 1e15) | st.integers(0, 10**17))
def test_short_numbers_are_short(number: float) -> None:
    assert len(short(number)) <= 5


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (-1, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h"),
        (86_400, "1d"),
        (1e9, "999d"),
    ],
)
def test_ages(seconds: float | None, expected: str) -> None:
    assert age(seconds) == expected


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 4, "    "),
        ([0, 0], 4, "    "),
        ([1, 2, 4, 8], 4, "▁▂▄█"),
        ([8], 4, "   █"),
        ([1000, 0, 0.1, 0], 4, "█ ▁ "),
        ([1, 8, 1, 1], 2, "█▁"),
        ([1, 1, 8, 8], 8, "▁▁▁▁████"),
    ],
)
def test_sparklines(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width, 4) == expected


def test_sparklines_in_ascii() -> None:
    assert sparkline([0, 1, 4, 8], 4, 4, ASCII_BLOCKS) == " .=@"


def test_a_row_has_the_columns_that_there_is_room_for() -> None:
    board = make_board(1)
    line: Line = board.lines["inbound/w00"]
    assert row(line, {"NAME": 5, "LOST": 5}, board, View(11, 24)).text == "inbo…     3"


def test_the_readme_shows_what_is_shown() -> None:
    """Its picture was captured from a terminal; whoever changes the columns captures it again."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    picture = next(block for block in readme.split("```\n") if "\nNAME  " in block).splitlines()
    head, keys_line, title, *rows = picture
    names = [line.partition(" ")[0] for line in rows]
    board = Board()
    board.feed(reply(0.0, *map(state, names), *map(vitals, names)), 0.0)
    board.feed(reply(0.0, state("inbound/weather", "auto-restart"), early=True), 0.0)
    drawn = text(board, View(80, 24))
    assert [keys_line, title] == drawn[1:3]
    assert re.sub(r"[\d.]+k?", "N", head).startswith("N of N workers active, N in trouble; lost N; in N/s ")
    assert [line.partition(" ")[0] for line in drawn[3:]] == names
    assert max(map(len, picture)) <= 80
