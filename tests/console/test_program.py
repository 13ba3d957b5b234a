"""The commands of both programs, and what is said of a word that is none."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from mcastd import cli, ctl
from mcastd.console.program import COMMANDS

MAINS: dict[str, click.Group] = {"mcastd": cli.main, "mcastctl": ctl.main}


@pytest.mark.parametrize("program", MAINS)
def test_the_table_of_commands_is_whole(program: str) -> None:
    assert set(COMMANDS[program]) == set(MAINS[program].commands)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("mcastd start", "did you mean systemctl start mcastd?"),
        ("mcastd status", "did you mean mcastctl status?"),
        ("mcastd chekc", "did you mean mcastd check?"),
        ("mcastd help", "did you mean mcastd --help?"),
        ("mcastd version", "did you mean mcastd --version?"),
        ("mcastctl restart", "did you mean systemctl restart mcastd?"),
        ("mcastctl stop", "did you mean systemctl stop mcastd or mcastctl stop-worker NAME?"),
        ("mcastctl run", "did you mean mcastd run?"),
        ("mcastctl staus", "did you mean mcastctl status?"),
        ("mcastctl help", "did you mean mcastctl --help?"),
        ("mcastctl xyzzy", "mcastctl --help lists them"),
    ],
)
def test_a_word_that_is_no_command_is_answered_with_what_may_be_meant(line: str, hint: str) -> None:
    program, word = line.split()
    result = CliRunner().invoke(MAINS[program], [word], prog_name=program)
    assert result.exit_code == 2
    assert result.output.endswith(f"Error: no command '{word}'; {hint}\n")
