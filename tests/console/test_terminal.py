"""The terminal that other tests look at: it shows, hears, and leaves nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

from support.terminal import Terminal

PROGRAM = "import os; print(os.get_terminal_size()); print('heard', ascii(input('what? ')), flush=True)"


def test_a_program_finds_a_terminal_and_hears_what_is_typed() -> None:
    with Terminal([sys.executable, "-c", PROGRAM], columns=60, lines=10) as terminal:
        terminal.wait("columns=60, lines=10)\nwhat?")
        terminal.type("éx", "Enter")
        assert terminal.wait("ended with").split("\n")[1:4] == ["what? éx", r"heard '\xe9x'", "ended with 0"]
        terminal.wait(lambda screen: screen.endswith("\n$"))
        assert "icanon" in terminal.modes().split()
        terminal.resize(100, 12)
        assert (terminal.state("pane_width"), terminal.state("pane_height")) == ("100", "12")
        shell = Path("/proc", terminal.state("pane_pid"))
    assert not shell.exists()
