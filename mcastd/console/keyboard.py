"""Keys, one by one, from a terminal."""

from __future__ import annotations

import os
import re
import select
import termios
from types import TracebackType
from typing import Any

# Seconds in which the rest of a key's sequence comes; without it the key was Esc.
ESCAPE_SECONDS = 0.02
NAMES = {
    "\x1b[A": "Up",
    "\x1bOA": "Up",
    "\x1b[B": "Down",
    "\x1bOB": "Down",
    "\x1b[5~": "PgUp",
    "\x1b[6~": "PgDn",
    "\x1b[H": "Home",
    "\x1bOH": "Home",
    "\x1b[1~": "Home",
    "\x1b[F": "End",
    "\x1bOF": "End",
    "\x1b[4~": "End",
    "\x1bOP": "h",  # F1
    "\x1b[11~": "h",
    "\x1b": "Esc",
    "\r": "Enter",
    "\n": "Enter",
    "\x7f": "Backspace",
    "\b": "Backspace",
    "\x03": "Ctrl-C",
}
KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])|.", re.DOTALL)


def keys(text: str) -> list[str]:
    """What was typed: names of keys, and letters as themselves; what has no name is left out."""
    found = (NAMES.get(sequence, sequence) for sequence in KEY.findall(text))
    return [key for key in found if key in NAMES.values() or (len(key) == 1 and key.isprintable())]


class Keyboard:
    """The terminal on ``fd``, telling each key at once, without an echo; as it was before at the end.

    Ctrl-C and Ctrl-Z are keys like any other: nothing ends a program that has not tidied up.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] = []

    def fileno(self) -> int:
        return self._fd

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._fd)
        modes = termios.tcgetattr(self._fd)
        modes[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSADRAIN, modes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def read(self) -> list[str]:
        """What was typed. Raises EOFError if the terminal is gone."""
        data = self._take()
        if data.endswith(b"\x1b") and select.select([self._fd], [], [], ESCAPE_SECONDS)[0]:
            data += self._take()
        return keys(data.decode(errors="ignore"))

    def _take(self) -> bytes:
        try:
            data = os.read(self._fd, 1024)
        except OSError as error:  # EIO: hung up
            raise EOFError from error
        if not data:
            raise EOFError
        return data
