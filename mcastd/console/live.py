"""A line at the bottom of a terminal that is written over as things change, beside what scrolls by."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

# Seconds to wait for a terminal that is stopped (Ctrl-S), so that a program that has to end can end.
TERMINAL_WAIT_SECONDS = 0.5

_CLEAR = b"\r\x1b[K"  # also of what was typed, like the ^C that a terminal shows


class LiveLine:
    """The line, on stderr; nothing if that is no terminal. For several threads."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._fd = stream.fileno()
        self.on = os.isatty(self._fd) and os.environ.get("TERM", "dumb") != "dumb"
        self._lock = threading.Lock()
        self._text = b""

    def show(self, text: str) -> None:
        """Have ``text`` there, cut to the width of the terminal."""
        if self.on:
            with self._turn():
                self._text = text[: shutil.get_terminal_size().columns - 1].encode(errors="backslashreplace")
                self._write(_CLEAR + self._text)

    def say(self, text: str) -> None:
        """A line that stays, above the live one; also where there is none."""
        with self.above():
            self._write(text.encode(errors="backslashreplace") + b"\n")

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Whatever is written meanwhile, on this terminal, stands above the line."""
        with self._turn():
            if self.on:
                self._write(_CLEAR)
            try:
                yield
            finally:
                if self._text:
                    self._write(self._text)

    def end(self) -> None:
        """Take the line away."""
        with self._turn():
            if self.on:
                self._text = b""
                self._write(_CLEAR)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        locked = self._lock.acquire(timeout=TERMINAL_WAIT_SECONDS)
        try:
            yield
        finally:
            if locked:
                self._lock.release()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            write_all(self._fd, data)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of it, waiting for room; others may have made the file non-blocking. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
