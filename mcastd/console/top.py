"""``mcastctl top``: the workers as they work, live on a terminal, or as lines for files and programs."""

from __future__ import annotations

import contextlib
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment

from mcastd import clock
from mcastd.codec import from_json
from mcastd.console.board import Board
from mcastd.console.keyboard import Keyboard
from mcastd.console.screen import Styled, View, draw, plain, press
from mcastd.console.text import ASCII_BLOCKS, BLOCKS
from mcastd.control.client import ControlClient
from mcastd.control.protocol import VarlinkError
from mcastd.errors import ControlError
from mcastd.printable import printable
from mcastd.process import Signals
from mcastd.views import MonitorView

# Seconds until the next attempt to reach a daemon that has gone.
RECONNECT_SECONDS = 1.0
# A daemon that lives replies within the interval and these seconds.
REPLY_MARGIN_SECONDS = 5.0


class Feed:
    """What the daemon says, for a board; and again, after the daemon was gone."""

    def __init__(self, path: Path, board: Board) -> None:
        self._path = path
        self._board = board
        self._client: ControlClient | None = None
        self._trouble = ""
        self._heard = clock.monotonic()  # of the daemon, or of its absence
        self._fresh = False  # nothing has come from this daemon yet

    def connect(self) -> None:
        """Raises ControlError or VarlinkError."""
        self._heard = clock.monotonic()
        client = ControlClient(self._path, timeout=self._board.interval + REPLY_MARGIN_SECONDS)
        try:
            client.begin("io.mcastd.Monitor", interval=self._board.interval)
        except BaseException:
            client.close()
            raise
        self._client, self._fresh = client, True

    def fileno(self) -> int | None:
        return None if self._client is None else self._client.fileno()

    def receive(self) -> int:
        """Take in what has come; how many intervals it ended. Raises ControlError or VarlinkError."""
        assert self._client is not None
        ended = 0
        for reply in self._client.receive():
            self._heard = clock.monotonic()
            if self._fresh:
                self._board.restart()
                self._fresh, self._trouble = False, ""
            ended += self._board.feed(from_json(MonitorView, reply.parameters), self._heard)
            if not reply.continues:
                raise ControlError("mcastd", "it has ended")
        return ended

    def keep_up(self) -> None:
        """As :meth:`receive`, but a daemon that goes is trouble, no error."""
        try:
            self.receive()
        except (ControlError, VarlinkError) as error:
            self._lost(error)

    def retry(self) -> None:
        """Look for a daemon that has gone, if it is time."""
        if self._client is None and clock.monotonic() >= self._heard + RECONNECT_SECONDS:
            try:
                self.connect()
            except (ControlError, VarlinkError) as error:
                self._lost(error)

    def _lost(self, error: Exception) -> None:
        self.close()
        reason = error.cause if isinstance(error, ControlError) else str(error)
        self._trouble = printable(f"daemon gone, waiting for it: {reason}")

    @property
    def trouble(self) -> str:
        """Why the board shows what was; empty if it shows what is."""
        silent = clock.monotonic() - self._heard
        if self._client is not None and silent > self._board.interval + REPLY_MARGIN_SECONDS:
            return f"daemon silent for {silent:.0f} s"
        return self._trouble

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Page:
    """Lines as they are, for rich to put on the screen."""

    def __init__(self, lines: list[Styled]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, _: ConsoleOptions) -> RenderResult:
        for number, line in enumerate(self._lines):
            if number:
                yield Segment.line()
            yield Segment(line.text, console.get_style(line.style) if line.style else None)


def live(path: Path, interval: float) -> int:
    """Show the workers until the user has seen enough; the exit status. Raises as Feed.connect() does."""
    board = Board(interval)
    feed = Feed(path, board)
    feed.connect()
    console = Console(highlight=False)
    blocks = ASCII_BLOCKS if console.options.ascii_only else BLOCKS
    view: View | None = View(*console.size, blocks=blocks)
    with ExitStack() as stack:
        stack.callback(feed.close)
        endings = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        signals = stack.enter_context(Signals(signal.SIGWINCH, *endings))
        keyboard = stack.enter_context(Keyboard(0))
        screen = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
        while view is not None:
            width, height = console.size
            view = replace(view, width=width, height=height, now=clock.monotonic(), trouble=feed.trouble)
            screen.update(Page(draw(board, view)), refresh=True)
            ready = _wait(feed, keyboard, signals)
            if signals.fileno() in ready:
                for number in signals.take():
                    if number in endings:
                        return 128 + number
            if feed.fileno() in ready:
                feed.keep_up()
            feed.retry()
            if keyboard.fileno() in ready:
                try:
                    for key in keyboard.read():
                        view = view and press(key, board, view)
                except EOFError:
                    return 0
    return 0


def _wait(feed: Feed, keyboard: Keyboard, signals: Signals) -> set[int | None]:
    """Block until something has come, or for a second: then ages have grown."""
    poll = select.poll()
    for fd in (keyboard.fileno(), signals.fileno(), feed.fileno()):
        if fd is not None:
            poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(1000)}


def follow(path: Path, interval: float, count: int | None) -> Iterator[str]:
    """A line for each worker each interval, ``count`` times. Raises ControlError or VarlinkError."""
    board = Board(interval)
    feed = Feed(path, board)
    feed.connect()
    titled = True
    with contextlib.closing(feed):
        while count is None or count > 0:
            if feed.receive():
                yield from plain(board, clock.monotonic(), time.strftime("%H:%M:%S"), titled=titled)
                titled = False
                count = None if count is None else count - 1
