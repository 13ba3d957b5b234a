"""``mcastctl listen --flute``: the daemon's own subscription, with a directory as its output."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Mapping

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.adhoc import file_report, report
from mcastd.adhoc.file_keys import keep_serials
from mcastd.adhoc.listen import RATES_SECONDS, SILENCE_SECONDS
from mcastd.adhoc.outcomes import FileOutcomes
from mcastd.adhoc.session import Session
from mcastd.adhoc.settings import by_tunnel, configure, endpoint
from mcastd.config import Config, DirectoryOutput, OutputSettings
from mcastd.console.live import write_all
from mcastd.delivery.names import PARTIAL_DIRECTORY
from mcastd.delivery.received import Outcome
from mcastd.errors import McastdError, reason_of
from mcastd.inbound.sinks import FORMATS, Means, Sink, StreamFacts
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.directory import DirectorySink
from mcastd.makers import Parts
from mcastd.printable import printable
from mcastd.protocols import raptorq
from mcastd.status import SubscriptionStatus

# The permission bits of a new file before the umask of the command takes some away.
FILE_MODE = 0o666


def settings(
    group: str,
    directory: str,
    interfaces: tuple[str, ...],
    sources: tuple[str, ...],
    keys: Mapping[str, object],
    *,
    relay: str | None = None,
) -> Config:
    """The configuration of one subscription, from the command line. Raises Refused.

    ``keys`` are settings of its protocol. With some, the files get the modes that they have at the sender.
    """
    address, port = endpoint(group)
    output = {"kind": "directory", "path": os.path.abspath(directory)}
    if not keys:
        os.umask(umask := os.umask(0))
        output["mode"] = f"0{FILE_MODE & ~umask:o}"
    named = {"group": address, "port": port, "interface": interfaces or None, "sources": list(sources)}
    named["via"] = by_tunnel(relay)
    return configure("inbound", "listen", {**named, "protocol": {"kind": "flute", **keys}, "output": output})


def require_empty(directory: str) -> None:
    """Raises McastdError if there is something in the directory.

    Its files are the user's own, as are those that are received: nothing tells which may be replaced.
    """
    try:
        found = {*os.listdir(directory)} - {PARTIAL_DIRECTORY}
    except OSError:  # it is made, or what is wrong with it is met when it is opened
        return
    if found:
        raise McastdError(
            f"cannot receive into {printable(directory)}",
            "there is something in it, and without keys anybody in the network could replace it",
            "name a new directory, use --verify-key or --key, or allow it with --replace",
        )


def listen(
    config: Config,
    *,
    limit: int | None = None,
    seconds: float = math.inf,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Receive files until told to stop, ``limit`` of them are there, or ``seconds`` are over.

    The exit status is 0 if ``limit`` files came or, without a limit, all that were on their way; else 1.
    Raises McastdError.
    """
    keep_serials()
    return _Listening(config, limit, as_json=as_json, quiet=quiet).run(seconds)


class _Listening:
    """One call of the command."""

    def __init__(self, config: Config, limit: int | None, *, as_json: bool, quiet: bool) -> None:
        self._session = Session(config, Parts(make_sink=self._make_sink))
        self._line = self._session.line
        self._outcomes = FileOutcomes(self._session.wake)
        self._directory = config.inbound["listen"].output[0].label
        self._limit = math.inf if limit is None else limit
        self._tell = None if quiet else self._as_json if as_json else self._as_text
        self._as_json_at_end = as_json
        self._error: OSError | None = None  # standard output takes nothing any more
        self._trouble = ""  # that was said last

    def run(self, seconds: float) -> int:
        session, outcomes = self._session, self._outcomes
        with session:
            self._require_output()
            self._watch(session.began + seconds)
            listened = clock.monotonic() - session.began
            before = session.status(SubscriptionStatus)
        self._show_outcomes()
        after = session.status(SubscriptionStatus)
        result = file_report.received(outcomes, before, after, listened)
        if self._as_json_at_end:
            self._write(json.dumps({"summary": result}).encode() + b"\n")
        for line in file_report.received_lines(result):
            self._line.say(line)
        if self._error is not None and self._error.errno != errno.EPIPE:
            self._line.say(f"mcastctl: cannot write to standard output: {reason_of(self._error)}")
            return 1
        return 0 if outcomes.landed >= self._limit or file_report.all_landed(result) else 1

    def _make_sink(
        self,
        output: OutputSettings,
        stream: StreamFacts,
        log: FilteringBoundLogger,
        means: Means,
    ) -> Sink:
        assert isinstance(output, DirectoryOutput)
        format = FORMATS[output.format](stream)
        return DirectorySink(output, format, Account(output, log), means, on_outcome=self._outcomes.add)

    def _require_output(self) -> None:
        """Raises McastdError if the directory cannot be used: it is no use to wait for files then."""
        (output,) = self._session.status(SubscriptionStatus).outputs
        if output.error is not None:
            raise McastdError("cannot listen", self._session.view().detail or output.error, output.way_out)

    def _watch(self, deadline: float) -> None:
        """Until the end: tell of each file, show the progress, say what is wrong."""
        session, line = self._session, self._line
        if line.on:
            status = session.status(SubscriptionStatus)
            into = f"into {printable(self._directory)}"
            line.say(
                f"receiving {status.group} port {status.port} {report.where(status)} {into}; Ctrl-C ends it"
            )
        tick, since, size = session.began + RATES_SECONDS, session.began, 0
        hints = file_report.Hints(SILENCE_SECONDS, repairs=raptorq.available())
        while session.wait(min(deadline, tick)):
            now = clock.monotonic()
            self._show_outcomes()
            if self._outcomes.landed >= self._limit or now >= deadline or self._error is not None:
                return
            if now < tick:
                continue
            tick = max(tick + RATES_SECONDS, now)
            self._say_trouble()
            status = session.status(SubscriptionStatus)
            for words in hints.lines(status, now - session.began):
                line.say(words)
            if line.on and status.counters.received:
                bits = 8 * (status.counters.received_bytes - size) / (now - since)
                line.show(file_report.coming(status, bits))
            since, size = now, status.counters.received_bytes

    def _say_trouble(self) -> None:
        """Say what hinders a worker that receives all the same, as a full disk."""
        view = self._session.view()
        trouble = view.detail if view.troubled and view.state == "active" else ""
        if trouble and trouble != self._trouble:
            self._line.say(f"mcastctl: {printable(trouble)}")
        self._trouble = trouble

    def _show_outcomes(self) -> None:
        for outcome in self._outcomes.take():
            if self._tell is not None:
                self._write(self._tell(outcome))

    def _as_text(self, outcome: Outcome) -> bytes:
        return f"{file_report.outcome_line(outcome)}\n".encode(errors="backslashreplace")

    def _as_json(self, outcome: Outcome) -> bytes:
        return json.dumps(file_report.outcome_record(outcome, self._directory)).encode() + b"\n"

    def _write(self, data: bytes) -> None:
        """Write to standard output, above the line of progress if that is on the same terminal."""
        if self._error is None:
            try:
                if os.isatty(sys.stdout.fileno()):
                    with self._line.above():
                        write_all(sys.stdout.fileno(), data)
                else:
                    write_all(sys.stdout.fileno(), data)
            except OSError as error:
                self._error = error
