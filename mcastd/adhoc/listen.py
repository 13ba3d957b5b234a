"""``mcastctl listen``: the daemon's own subscription, with this terminal, file or pipe as its output."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from dataclasses import replace
from functools import partial

from mcastd import clock
from mcastd.adhoc import Refused, report, shown
from mcastd.adhoc.session import Session
from mcastd.adhoc.settings import by_tunnel, configure, endpoint
from mcastd.adhoc.sink import Listener, Printer
from mcastd.config import Config
from mcastd.console.live import write_all
from mcastd.console.text import plural
from mcastd.errors import reason_of
from mcastd.inbound.sinks.format import Format, StreamFacts
from mcastd.inbound.sinks.formats import FORMATS as OF_OUTPUTS
from mcastd.makers import Parts
from mcastd.status import SubscriptionStatus

# Seconds without a datagram after which the trouble so far is shown.
SILENCE_SECONDS = 3.0
# Seconds between two looks at the rates.
RATES_SECONDS = 1.0
BODIES = {"auto": shown.text_or_hex, "text": shown.text, "hex": shown.hexdump}
FORMATS: dict[str, type[Format]] = {**OF_OUTPUTS, "json": shown.HarmlessJson}


def settings(
    group: str, interfaces: tuple[str, ...], sources: tuple[str, ...], relay: str | None = None
) -> Config:
    """The configuration of one subscription, from the command line. Raises Refused."""
    address, port = endpoint(group)
    named = {"group": address, "port": port, "interface": interfaces or None, "sources": list(sources)}
    named["via"] = by_tunnel(relay)
    output = {"kind": "file", "path": "/dev/stdout", "format": "json"}  # json: for what it needs to know
    # Each datagram by itself: what is lost at the receive buffer is to be counted exactly
    return configure("inbound", "listen", {**named, "output": output, "coalesce": False})


def listen(config: Config, output: str, *, limit: int | None = None, seconds: float = math.inf) -> int:
    """Receive and show until told to stop, ``limit`` datagrams have come, or ``seconds`` are over.

    ``output`` is ``auto``, ``text``, ``hex``, ``raw``, ``json``, ``pcapng`` or ``quiet``. The exit status: 0
    if something came, and of what is numbered all; else 1. Raises McastdError, Refused.
    """
    if output == "pcapng" and os.isatty(sys.stdout.fileno()):
        raise Refused("--pcapng writes no text: let it go to a file or a program, as in > capture.pcapng")
    session = Session(config, Parts(make_sink=lambda _, stream, *__: listener.listen_to(stream)))
    make_printer = None if output == "quiet" else partial(_make_printer, output, session)
    listener = Listener(limit, session.wake, make_printer)
    with session:
        _watch(session, listener, session.began + seconds)
        listened = clock.monotonic() - session.began
        receive_buffer = session.status(SubscriptionStatus).receive_buffer
    printer = listener.printer
    result = report.received(
        listener,
        listened,
        overflow=_overflow(session),
        receive_buffer=receive_buffer,
        shown=None if printer is None else printer.shown,
    )
    whole = printer is None or _end_output(session, printer, result if output == "json" else None)
    for line in report.received_lines(result):
        session.line.say(line)
    return 0 if whole and listener.tally.received and not listener.tracker.counts.lost else 1


def _make_printer(output: str, session: Session, stream: StreamFacts) -> Printer:
    stream = replace(stream, worker="mcastctl listen")
    for_eyes = os.isatty(sys.stdout.fileno())

    def write_above(data: bytes) -> None:
        with session.line.above():
            _write(data)

    body = BODIES.get(output)
    format = FORMATS[output](stream) if body is None else shown.Shown(body, stream)
    gap = _gap if output in BODIES else lambda _count: b""
    return Printer(write_above if for_eyes else _write, format, gap, session.wake, for_eyes=for_eyes)


def _watch(session: Session, listener: Listener, deadline: float) -> None:
    """Until the end: show rates, say what is wrong."""
    line, tally, printer = session.line, listener.tally, listener.printer
    silence = session.began + SILENCE_SECONDS
    tick = session.began + RATES_SECONDS if line.on else math.inf
    since, datagrams, size = session.began, 0, 0
    if line.on:
        status = session.status(SubscriptionStatus)
        line.say(f"listening to {status.group} port {status.port} {report.where(status)}; Ctrl-C ends it")
    while session.wait(min(deadline, silence, tick)):
        now = clock.monotonic()
        if listener.full or now >= deadline or (printer is not None and printer.error):
            return
        if tally.received:
            silence = math.inf
        elif now >= silence:
            silence = math.inf
            for words in report.silence(session.status(SubscriptionStatus), SILENCE_SECONDS):
                line.say(words)
        if now >= tick:
            tick = max(tick + RATES_SECONDS, now)
            if tally.received:
                elapsed = now - since
                skipped = 0 if printer is None else printer.skipped
                per_second = (tally.received - datagrams) / elapsed
                bits = 8 * (tally.received_bytes - size) / elapsed
                line.show(report.flowing(per_second, bits, listener, _overflow(session), skipped))
            since, datagrams, size = now, tally.received, tally.received_bytes


def _end_output(session: Session, printer: Printer, result: report.Summary | None) -> bool:
    """The last words on stdout, or on what became of it. Returns False if it is broken.

    One that does not read on (EPIPE) has had enough: that is no error.
    """
    error = printer.error
    if result is not None and printer.ended:
        try:
            _write(json.dumps({"summary": result}).encode() + b"\n")
        except OSError as refused:
            error = refused
    if error is None or error.errno == errno.EPIPE:
        return True
    session.line.say(f"mcastctl: cannot write to standard output: {reason_of(error)}")
    return False


def _overflow(session: Session) -> int:
    return session.status(SubscriptionStatus).counters.overflow


def _write(data: bytes) -> None:
    write_all(sys.stdout.fileno(), data)


def _gap(count: int) -> bytes:
    return f"({plural(count, 'datagram')} not shown)\n".encode()
