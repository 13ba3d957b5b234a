"""Logs by structlog: events are ``noun past-tense-verb`` with fields, one line each, on stderr.

``console`` for people, ``json`` for machines, ``journal`` for systemd: one line with the ``<N>`` priority
prefix of sd-daemon(3), which journald turns into PRIORITY=. If stderr is journald's, it gets the line and its
fields, so that ``journalctl MCASTD_WORKER=inbound/news`` finds them. ``auto`` picks by what stderr is.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import logging
import os
import re
import select
import socket
import struct
import sys
import threading
from collections import deque
from itertools import starmap
from types import ModuleType
from typing import Any, Literal, TextIO, cast

from mcastd import clock
from mcastd.printable import printable
from mcastd.threads import Thread

# structlog loads rich where it is installed, for tracebacks, and ours are plain; and asyncio, with ssl, for
# loggers that nothing here has. Each is a tenth of a start, and megabytes. So while it is imported, an import
# of rich fails, and that of asyncio gives an empty module.
_BEFORE = {name: sys.modules.get(name) for name in ("asyncio", "rich")}
sys.modules["asyncio"] = _BEFORE["asyncio"] or ModuleType("asyncio")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
    from structlog.typing import EventDict, WrappedLogger
finally:
    for _name, _module in _BEFORE.items():
        del sys.modules[_name]
        if _module:
            sys.modules[_name] = _module

LogFormat = Literal["auto", "console", "json", "journal"]
# Of lines that wait to be written; beyond it they are counted as lost.
BACKLOG_BYTES = 1 << 20
# A write that takes longer is reported as a log that is not taken.
STALLED_SECONDS = 2.0
# At the end of the process, the log is given up after this long without progress.
FLUSH_SECONDS = 1.0
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}  # syslog(3)


def configure(log_format: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Set the process's log format and lowest level; may be called again to change them."""
    stream = stream or sys.stderr
    if log_format == "auto":
        log_format = detect(stream)
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=log_format == "json")
    chains: dict[str, list[Any]] = {
        "console": [
            timestamp,
            structlog.processors.format_exc_info,
            make_printable,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        "json": [timestamp, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        "journal": [structlog.processors.format_exc_info, render_journal],
    }
    if log_format == "journal" and detect(stream) == "journal":
        chains["journal"].insert(1, Journal())
    lines = _Lines(stream)
    logger = _LineLogger(lines)
    structlog.configure(
        processors=[structlog.processors.add_log_level, *chains[log_format]],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,  # so that a reload changes the level of loggers already made
    )
    logging.basicConfig(stream=cast(TextIO, lines), level=logging.WARNING, force=True)


def make_printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what a terminal would obey in what comes from others. A traceback keeps its lines."""
    shown = {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}
    if "exception" in event:
        shown["exception"] = "\n".join(map(printable, str(event["exception"]).split("\n")))
    return shown


class _Lines(io.TextIOBase):
    """Writes whole lines and never fails: a full disk behind stderr must not end the daemon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._fd = stream.fileno()
        except (OSError, ValueError):
            self._fd = -1  # a stream in memory

    def write(self, text: str) -> int:
        if self._fd < 0:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
        elif _writer is not None:
            _writer.add(self._fd, text.encode(errors="backslashreplace"))
        else:
            _write(self._fd, text.encode(errors="backslashreplace"))
        return len(text)


class _LineLogger:
    """Writes what structlog has rendered: one for all loggers and threads, so that a call is cheap.

    It has no lock, as each line is written whole. structlog's own has one: a thread that holds it would wait
    for the thread that writes, and that one, which logs as well, for the lock.
    """

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines

    def _write(self, line: str) -> None:
        self._lines.write(line + "\n")

    debug = info = warning = error = critical = _write


def _write(fd: int, line: bytes) -> None:
    """In one system call, if it can be: lines of several threads do not mix then. Blocks."""
    with contextlib.suppress(OSError):
        while line:
            try:
                line = line[os.write(fd, line) :]
            except BlockingIOError:  # another process has set O_NONBLOCK on a terminal or pipe that we share
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                poll.poll()


class _Writer:
    """One thread writes for all, so that none of them waits for a reader of the log that does not read.

    What waits to be written is bounded. Lines beyond that are counted, and the count is logged when half of
    the room is free again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # the lock of all that follows
        self._waiting: deque[tuple[int, bytes]] = deque()  # (fd, line); the first may be half written
        self._bytes = 0
        self._written = 0  # lines, ever
        self._lost = 0  # lines that had no room, since that was last logged
        self._since = 0.0  # monotonic seconds when the first line came to its turn
        Thread(target=self._run, name="log").start()

    def add(self, fd: int, line: bytes) -> None:
        with self._changed:
            if self._bytes + len(line) > BACKLOG_BYTES:
                self._lost += 1
                return
            if not self._waiting:
                self._since = clock.monotonic()
                self._changed.notify_all()
            self._waiting.append((fd, line))
            self._bytes += len(line)

    def flush(self, patience: float) -> bool:
        """Wait until all is written, or nothing is for ``patience`` seconds. Returns True if all is."""
        with self._changed:
            while self._waiting:
                before = self._written
                if not self._changed.wait(patience) and self._written == before:
                    return False
        return True

    def problem(self) -> str:
        with self._changed:
            waited = clock.monotonic() - self._since if self._waiting else 0.0
            lost = f", {self._lost} lost" if self._lost else ""
            if waited < STALLED_SECONDS and not lost:
                return ""
            return f"the log is not taken: {len(self._waiting)} lines wait for stderr{lost}"

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                fd, line = self._waiting[0]
            _write(fd, line)
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(line)
                self._written += 1
                self._since = clock.monotonic()
                if self._lost and self._bytes <= BACKLOG_BYTES // 2:
                    lost, self._lost = self._lost, 0
                    # With the lock (it is reentrant): flush() must not see the log empty before this line.
                    get_logger().warning("log.lost", lines=lost, reason="stderr was not read")
                self._changed.notify_all()


_writer: _Writer | None = None


def write_in_background() -> None:
    """From now on no thread waits for whoever reads the log. Until :func:`flush`, lines may be under way."""
    global _writer  # noqa: PLW0603 - one for the process, as stderr is
    if _writer is None:
        with contextlib.suppress(RuntimeError):  # no thread to be had: then it is written as before
            _writer = _Writer()
            atexit.register(flush, FLUSH_SECONDS)  # whichever way the process ends


def flush(patience: float = FLUSH_SECONDS) -> bool:
    """Wait until the log is written, or nothing of it is for ``patience`` seconds. Returns True if all is."""
    return _writer is None or _writer.flush(patience)


def problem() -> str:
    """What is wrong with the log, for people; "" if nothing is."""
    return "" if _writer is None else _writer.problem()


def detect(stream: TextIO) -> Literal["console", "journal"]:
    """``journal`` if ``stream`` is journald's (systemd.exec(5), $JOURNAL_STREAM), else ``console``."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return "console"
    is_journal = os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
    return "journal" if is_journal else "console"


JOURNAL = "/run/systemd/journal/socket"


class Journal:
    """Sends events to journald in its native protocol, with each field as ``MCASTD_FIELD``.

    An event that journald does not take at once goes on to the next processor, and to stderr.
    """

    def __init__(self, path: str = JOURNAL) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        priority, message = render_journal(logger, method, dict(event))[1:].split(">", 1)
        fields = {"MESSAGE": message, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "mcastd"}
        fields |= {
            f"MCASTD_{re.sub('[^A-Z0-9_]', '_', key.upper())}": value
            if isinstance(value, str)
            else _field(value)
            for key, value in event.items()
            if key != "level"
        }
        try:
            self._socket.sendto(
                b"".join(starmap(_assignment, fields.items())), socket.MSG_DONTWAIT, self._path
            )
        except OSError:
            return event
        raise structlog.DropEvent


def _assignment(name: str, value: str) -> bytes:
    """As https://systemd.io/JOURNAL_NATIVE_PROTOCOL has it: more than one line needs its length before it."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)


def render_journal(_logger: WrappedLogger, method: str, event: EventDict) -> str:
    """``<6>event key=value ...`` on one line; a traceback is folded into one ``exception=`` field."""
    level = str(event.pop("level", method))
    parts = [str(event.pop("event", ""))]
    parts += [f"{key}={_field(value)}" for key, value in event.items()]
    return f"<{PRIORITIES.get(level, 6)}>" + " ".join(parts)


def _field(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    plain = text.isprintable() and not any(character in text for character in ' "=')
    return text if plain and text else printable(json.dumps(text, ensure_ascii=False))


def get_logger(**fields: object) -> structlog.typing.FilteringBoundLogger:
    """A logger that adds ``fields`` to each event."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**fields)
    return logger
