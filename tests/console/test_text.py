"""Words and numbers for a terminal."""

from __future__ import annotations

import pytest

from mcastd.console.text import bar, span
from mcastd.printable import printable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-1, "0s"),
        (59.9, "59s"),
        (60, "1min 0s"),
        (3661, "1h 1min"),
        (90061, "1d 1h"),
        (86400, "1d 0h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("news é 日本", "news é 日本"),
        (7, "7"),
        ("\x1b[2J\x07\n", r"\x1b[2J\x07\n"),
        ("\x9b1m", r"\x9b1m"),  # CSI in one character
        ("\u202egpj.exe", r"\u202egpj.exe"),  # right to left: text that is not what it looks like
        ("\udcff", r"\udcff"),
    ],
)
def test_terminals_are_safe_from_it(value: object, text: str) -> None:
    assert printable(value) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (0.0, "[----------]   0%"),
        (0.456, "[####------]  45%"),
        (0.999, "[#########-]  99%"),
        (1.0, "[##########] 100%"),
        (1.5, "[##########] 100%"),
        (-0.5, "[----------]   0%"),
    ],
)
def test_a_bar_is_full_at_the_end_only(part: float, text: str) -> None:
    assert bar(part, 10) == text
