"""One worker of the daemon in the foreground: supervised as it always is, its troubles said on stderr."""

from __future__ import annotations

import math
import select
import signal
from collections.abc import Mapping
from contextlib import ExitStack

from mcastd import clock, log
from mcastd.adhoc.settings import OPTIONS
from mcastd.bell import Bell
from mcastd.config import Config, diff
from mcastd.console.live import LiveLine
from mcastd.errors import McastdError, SourceError
from mcastd.makers import Parts
from mcastd.names import short_name
from mcastd.printable import printable
from mcastd.process import Signals, prepare_process
from mcastd.runtime import Runtime
from mcastd.views import S, WorkerView, as_kind
from mcastd.worker import Headline

FIRST_ATTEMPT_SECONDS = 5.0
STOP_SECONDS = 5.0
# Exit status of a program that a signal ended, as shells have it: this plus the signal's number.
INTERRUPTED = 128
# States of a worker that needs nothing.
WELL = {"active", "finished"}


class Session:
    """Entered, it starts the one worker of ``config``, made with ``parts``; left, that has ended."""

    def __init__(self, config: Config, parts: Parts, *, gives_up: bool = False) -> None:
        """``gives_up``: a source that cannot be read ends the session, at any time."""
        log.configure("console", "error")
        prepare_process()
        self.line = LiveLine()
        (self.name,) = config.workers()
        self.began = 0.0  # monotonic seconds
        self.ended_by = 0  # a signal's number
        self._config = config
        self._parts = parts
        self._gives_up = gives_up
        self._trouble = ""
        self._bell: Bell | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        """Raises McastdError if the worker cannot do its work now, SystemExit if a signal comes first."""
        with ExitStack() as stack:
            # A printer that is stuck may come to itself, and ring, later than it is closed
            self._bell = bell = Bell()
            stack.callback(bell.close)
            signals = stack.enter_context(Signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            self._signals = signals
            self._poll = select.poll()
            self._poll.register(signals, select.POLLIN)
            self._poll.register(bell, select.POLLIN)
            runtime = Runtime(lambda: self._config, self.wake, self._parts)
            stack.callback(runtime.close)
            self._supervisor = supervisor = runtime.supervisor
            stack.callback(supervisor.stop_all, STOP_SECONDS)
            supervisor.apply(diff(Config(), self._config), self._config.workers(), STOP_SECONDS)
            self._wait_attempted()
            self.began = clock.monotonic()
            headline = self._headline()
            if self.ended_by:
                supervisor.stop_all(STOP_SECONDS)  # a datagram that is on its way is counted then
                if not supervisor.vitals()[self.name].datagrams:
                    raise SystemExit(INTERRUPTED + self.ended_by)
            if headline.state not in WELL and not self.ended_by:
                raise McastdError(f"cannot {short_name(self.name)}", _trouble_of(headline))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.line.end()

    def view(self) -> WorkerView:
        return self._supervisor.view(self.name)

    def _headline(self) -> Headline:
        (headline,) = self._supervisor.headlines()
        return headline

    def status(self, kind: type[S]) -> S:
        return as_kind(kind, self.view().status)

    def wake(self) -> None:
        """End a :meth:`wait`, from any thread."""
        if self._bell is not None:
            self._bell.ring()

    def _is_rung(self, ready: Mapping[int, int]) -> bool:
        """Return True if the bell was rung, once for each time."""
        bell = self._bell
        if bell is None or bell.fileno() not in ready:
            return False
        bell.quiet()
        return True

    def wait(self, until: float) -> bool:
        """Until that monotonic time, or until something happened; False: a signal asks to end.

        Raises McastdError if the session gives up.
        """
        if self.ended_by:
            return False
        left = max(0.0, until - clock.monotonic())
        ready = dict(self._poll.poll(None if until == math.inf else 1000 * left + 1))
        if self._signals.fileno() in ready:
            self.ended_by = self._signals.take()[0]
            return False
        if self._is_rung(ready):
            self._say_trouble()
        return True

    def _wait_attempted(self) -> None:
        """Until the worker's first attempt is over, a signal comes, or FIRST_ATTEMPT_SECONDS is over."""
        deadline = clock.monotonic() + FIRST_ATTEMPT_SECONDS
        while not self._supervisor.wait_attempted(0) and (left := deadline - clock.monotonic()) > 0:
            ready = dict(self._poll.poll(1000 * left))
            if self._signals.fileno() in ready:
                self.ended_by = self._signals.take()[0]
                return
            self._is_rung(ready)

    def _say_trouble(self) -> None:
        headline = self._headline()
        detail = "" if headline.state in WELL else _trouble_of(headline)
        if self._gives_up and isinstance(headline.error, SourceError):
            raise McastdError(f"cannot {short_name(self.name)}", detail)
        if detail and detail != self._trouble:
            self.line.say(f"mcastctl: {printable(detail)}; going on when that is over")
        self._trouble = detail


def _trouble_of(headline: Headline) -> str:
    """What is wrong, about options, and without what the worker waits for: the session has its own words."""
    if (error := headline.error) is None:
        return headline.detail
    if error.change is None or (option := OPTIONS.get(error.change.key)) is None:
        return error.trouble
    return f"{error.what}: {error.cause}; {error.change.by_option(option)}"
