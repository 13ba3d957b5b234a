"""What changes on the host's network, and which workers it concerns.

On a host with containers, a VPN or BGP, hundreds of routes, addresses and interfaces come and go a second,
and as a rule none of them concerns a group that is sent or received here. So they are sifted: the kernel
drops notices of routes that no group can take (news.py); it is asked once about each interface that changed,
for all workers; and only the workers that a change concerns are told of it (change.py).

Some routes change without a notice. So all routes in use are asked for again after a change, a few in each
turn: beside threads that receive, hundreds take half a second, and notices must not wait for them.
"""

from __future__ import annotations

import errno
import math
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial

from mcastd import clock, log
from mcastd.errors import CannotAskError, reason_of
from mcastd.ip import Concerned
from mcastd.net import unaided
from mcastd.net.change import Change, Renewed, renewed
from mcastd.net.interfaces import Host, look
from mcastd.net.netlink import FORBIDDEN, Netlink, cannot_ask
from mcastd.net.news import Notices, open_news
from mcastd.net.pace import REFUSED_RETRY_MAX_SECONDS, RETRY_MAX_SECONDS, Pace, Retry
from mcastd.net.routes import Question
from mcastd.threads import Thread

# Some routes change without a notice: with another interface that goes down, or with an address. So all
# routes in use are asked for again this long after an interface has changed. More changes do not delay it.
SETTLE_SECONDS = 3.0
# Routes that are asked for again in one turn: the next notices wait no longer than that.
ROUTES_AT_ONCE = 20
# Seconds between two looks at the host where netlink is forbidden.
UNAIDED_SECONDS = 3.0


class NetworkWatch:
    """Keeps one :class:`Host` for all workers, and tells which of them a change concerns. Has one thread.

    ``on_change`` is called from that thread, once for the changes that came together, with
    :meth:`Change.concerned`. A worker then compares what it has with :meth:`host`. If the kernel cannot be
    asked now, the host stays what it was, and the kernel is asked again. Where netlink is forbidden, the host
    is looked at every few seconds instead: see unaided.py.
    """

    def __init__(self, on_change: Callable[[Concerned], None]) -> None:
        self._on_change = on_change
        self._log = log.get_logger()
        self._lock = threading.Lock()  # held while the watch begins, and for the first look at the host
        self._host: Host | None = None
        self._notices = Notices()  # that were read, and not acted on yet
        self._unanswered = Retry(RETRY_MAX_SECONDS)  # while the kernel cannot be asked anything
        self._refused = Notices()  # what the kernel refused to describe, to be asked for again
        self._refusal = Retry(REFUSED_RETRY_MAX_SECONDS)
        self._settle_at = math.inf  # monotonic seconds: when all routes in use become doubted
        self._doubted: list[Question] = []  # routes in use that are still to be asked for again
        self._look: Callable[[], Host] = look
        self.problem = ""  # what keeps it from noticing changes at once
        self._close: ExitStack | None = None  # ends all; None: it could not begin yet
        with suppress(CannotAskError):  # in a sandbox, or short of descriptors: workers wait, and say why
            self._begin()

    def _begin(self) -> None:
        """Open the sockets and start the thread. Raises CannotAskError."""
        with ExitStack() as undo:
            try:
                self._netlink = undo.enter_context(closing(Netlink()))
                self._news = undo.enter_context(open_news())
                life = self._watch
                self._look = partial(look, self._netlink.ask)
            except CannotAskError as error:
                if error.errno not in FORBIDDEN:
                    raise
                life, self._look = self._look_regularly, unaided.look
                self._note_forbidden(error)
            try:
                wake, self._woken = socket.socketpair()
            except OSError as error:
                raise cannot_ask(reason_of(error), error.errno or 0) from error
            undo.enter_context(self._woken)
            self._ended = select.poll()
            self._ended.register(self._woken, select.POLLIN)
            self._poll = select.poll()
            self._poll.register(self._woken, select.POLLIN)
            if not self.problem:
                self._poll.register(self._news, select.POLLIN)
            try:
                thread = Thread(target=life, name="interfaces")
                thread.start()
            except RuntimeError as error:
                wake.close()
                raise cannot_ask(str(error), errno.EAGAIN) from error
            undo.callback(thread.join)
            undo.enter_context(wake)  # closed first, which ends the thread
            self._close = undo.pop_all()

    def host(self) -> Host:
        """The host as the kernel last described it. Raises CannotAskError if it never did."""
        if self._host is not None:
            return self._host
        with self._lock:
            if self._close is None:
                self._begin()
            if self._host is None:
                self._host = self._look()
            return self._host

    def close(self) -> None:
        with self._lock:  # not held while the thread ends, which may want it
            close, self._close = self._close, ExitStack()
        if close is not None:
            close.close()

    def _note_forbidden(self, error: CannotAskError) -> None:
        if not self.problem:
            self.problem = (
                f"changes of interfaces, addresses and routes are noticed up to {UNAIDED_SECONDS:g} s late:"
                f" {error.cause} (netlink); {error.way_out}"
            )
            self._log.warning("network.forbidden", reason=self.problem)

    def _look_regularly(self) -> None:
        """The thread's main function where netlink is forbidden."""
        while not self._ended.poll(UNAIDED_SECONDS * 1000):
            try:
                self._compare()
            except CannotAskError as error:
                if self._unanswered.put_off(clock.monotonic()):
                    self._log.warning("network.unknown", reason=str(error))
            except Exception:  # a bug of ours must not leave all workers without news
                self._log.exception("network.failed")

    def _compare(self) -> None:
        with self._lock:
            before = self._host
        if before is None:  # nobody has looked yet
            return
        after = unaided.look(before)
        self._unanswered.reset()
        if change := Change(before, after, before.routes.known()):
            self._host = after
            self._on_change(change.concerned)

    def _watch(self) -> None:
        pace = Pace(clock.monotonic())
        while self._wait():
            if self._ended.poll(pace.wait(clock.monotonic()) * 1000):  # let changes gather
                return
            before = time.thread_time()
            try:
                self._notices.take_all(self._news)
                self._renew()
            except Exception:  # a bug of ours must not leave all workers without news
                self._log.exception("network.failed")
                self._notices.overrun = True
                self._unanswered.at = clock.monotonic() + RETRY_MAX_SECONDS
            pace.note(clock.monotonic(), time.thread_time() - before)

    def _wait(self) -> bool:
        """Block until there is something to do. Returns False once closed."""
        due = min(
            -math.inf if self._notices or self._doubted else math.inf,
            self._refusal.at if self._refused else math.inf,
            self._settle_at,
        )
        due = max(due, self._unanswered.at)
        self._poll.poll(None if due == math.inf else max(0.0, due - clock.monotonic()) * 1000 + 1)
        return not self._ended.poll(0)

    def _renew(self) -> None:
        """Take one turn: ask the kernel for what has changed, and tell the workers that it concerns."""
        now = clock.monotonic()
        if now < self._unanswered.at:
            return
        with self._lock:
            before = self._host
        if before is None:  # nobody has looked yet
            self._notices = Notices()
            return
        if self._refused and now >= self._refusal.at:
            self._notices.add(self._refused)
            self._refused = Notices()
        if now >= self._settle_at and not self._doubted:
            self._settle_at, self._doubted = math.inf, list(before.routes.known())
        notices, doubted = self._notices, self._doubted[:ROUTES_AT_ONCE]
        try:
            answer = renewed(before, notices, self._netlink, doubted)
        except CannotAskError as error:
            if self._unanswered.put_off(now):
                self._log.warning("network.unknown", reason=str(error))
            return
        self._unanswered.reset()
        self._notices, self._doubted = Notices(), self._doubted[ROUTES_AT_ONCE:]
        self._note_refused(answer, now)
        if notices.links or notices.overrun:
            self._settle_at = min(self._settle_at, now + SETTLE_SECONDS)
        change = Change(before, answer.host, answer.old_routes, overrun=notices.overrun)
        if change:
            self._host = answer.host
            self._on_change(change.concerned)

    def _note_refused(self, answer: Renewed, now: float) -> None:
        """Keep what the kernel refused to describe, to ask for it again; log that once."""
        if answer.refused:
            self._refused.add(answer.refused)
            if self._refusal.put_off(now):
                self._log.warning("network.refused", reason=str(answer.refusal))
        elif not self._refused:
            self._refusal.reset()
