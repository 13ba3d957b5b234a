"""A worker's thread: runs it, again after each failure, and keeps its state for others to see."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mcastd import clock, log
from mcastd.bounded import Patience
from mcastd.errors import SHORTAGE_WAYS_OUT, SHORTAGES, LinkError, McastdError, reason_of
from mcastd.names import table_of
from mcastd.supervisor.restart import Backoff
from mcastd.supervisor.state import ATTEMPTED, TROUBLED, Event, State, after
from mcastd.threads import NoThreadError, Thread
from mcastd.views import AnyStatus, WorkerView
from mcastd.worker import Context, Headline, Signal, Worker

T = TypeVar("T")
# At most this long between two attempts.
RETRY_MAX_SECONDS = 5.0
# The same after an error whose end the network watch notices at once.
WATCHED_RETRY_MAX_SECONDS = 60.0
WATCHED_ERRNOS = {errno.ENODEV, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN}
# Seconds at work on one thing after which a worker hangs: nothing that it does takes a tenth of that.
HANG_SECONDS = 5.0
# One that runs, or would if it got a processor, is given this long.
WORK_SECONDS = 60.0
TRYING_AGAIN = "trying again"
PACKAGE = Path(__file__).parent.parent
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # levels of the log
# By the state that a worker has come to: the level and the event of the log.
CHANGES = {
    State.ACTIVATING: (DEBUG, "activating"),
    State.ACTIVE: (INFO, "activated"),
    State.DEACTIVATING: (DEBUG, "deactivating"),
    State.INACTIVE: (INFO, "stopped"),
    State.AUTO_RESTART: (WARNING, "waiting"),
    State.FAILED: (ERROR, "crashed"),
    State.FINISHED: (INFO, "finished"),
}
# Of a worker's thread: with the default of 8 MiB, two thousand of them take 16 GiB of address space.
STACK_BYTES = 256 << 10

# Of all workers that have had their attempt: an event takes a kilobyte, and there may be thousands.
_HAS_ATTEMPTED = threading.Event()
_HAS_ATTEMPTED.set()


class WorkerThread:
    """One worker in one thread, from start to its end; a new start is a new WorkerThread."""

    def __init__(self, worker: Worker, on_change: Callable[[], None] = lambda: None) -> None:
        self.worker = worker
        # Set: with its present settings it works, or has said why it cannot. Replaced with the lock held
        self.attempted = threading.Event()
        self._on_change = on_change
        self._log = log.get_logger(worker=worker.name)
        self._context = Context(self._ready, self._note_attempt)
        self._lock = threading.Lock()  # state, since, detail and error change together
        self._state = State.INACTIVE
        self._since = clock.monotonic()
        self._detail = ""
        self._error: McastdError | None = None  # the one that the detail describes
        self._restarts = 0
        self._said = ""  # the reason that was logged last, so that it is logged once
        self._busy_since: float | None = None  # the context's, as look_if_hung() saw it last
        self._faulty = False  # it raised an error when it was asked, which was logged
        self.hung = ""  # what it hangs in, and since when; "" if it does not hang
        self._thread: Thread | None = None  # None: it could not be started yet

    def start(self) -> None:
        """Raises OSError or RuntimeError if no file descriptor or thread can be had; call it again, then."""
        try:
            thread = Thread(target=self._main, name=self.worker.name)
            self._context.open()
            size = threading.stack_size(STACK_BYTES)  # process-wide: set it, start this thread, restore it
            try:
                thread.start()
            finally:
                threading.stack_size(size)
            self._thread = thread
        except (OSError, RuntimeError) as error:
            self._context.close()
            self._apply(Event.START)
            number = error.errno if isinstance(error, OSError) and error.errno else errno.EAGAIN
            cause, way_out = reason_of(error), SHORTAGE_WAYS_OUT.get(number, "")
            if isinstance(error, NoThreadError):
                cause, way_out = error.cause, error.way_out
            what = "cannot start the worker's thread"
            refused = McastdError(what, cause, way_out, waits=TRYING_AGAIN, errno=number)
            self._apply(Event.ERROR, str(refused), refused)
            raise

    def send(self, signal: Signal) -> None:
        if signal is Signal.STOP:
            self._apply(Event.STOP)
            if self._thread is None:
                self._apply(Event.END)
        self._context.send(signal)

    def update(self, settings: object) -> bool:
        """Have the worker take over ``settings`` as it runs. ``attempted`` is set once it has.

        Returns False if it cannot: then it has to be started anew.
        """
        anew = self._state in (State.INACTIVE, State.FINISHED, State.FAILED, State.DEACTIVATING)
        if anew or not self.worker.update(settings):
            return False
        if not self.hung and not self.unanswered(clock.monotonic()):
            with self._lock:
                self.attempted = threading.Event()
        self.send(Signal.NETWORK)
        if self._state is State.AUTO_RESTART:
            self.send(Signal.RETRY)
        return True

    def join(self, timeout: float) -> bool:
        """Wait for at most ``timeout`` seconds. Returns True if the thread has ended."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    @property
    def may_hang(self) -> bool:
        """False while the worker waits for something to do, as it was when it was looked at before."""
        return self._context.busy_since is not None or bool(self.hung)

    def look_if_hung(self, now: float) -> bool:
        """See whether the worker is at one thing for too long. Returns True if that has changed.

        It takes two looks that see the same: when the whole process was stopped, all workers are late.
        """
        since, working = self._context.busy_since, self._context.is_working(now)
        hangs = (
            since is not None
            and since == self._busy_since
            and (bool(self.hung) or now - since > (WORK_SECONDS if working else HANG_SECONDS))
            and not self._context.waits_for
        )
        self._busy_since = since
        if hangs == bool(self.hung):
            return False
        if hangs and since is not None:
            began = time.strftime("%H:%M:%S", time.localtime(clock.wall() - (now - since)))
            self.hung = (
                f"works in {self._place()} since {began}, and comes to no end"
                if working
                else f"hangs in {self._place()} since {began}, as a disk or mount that is gone makes it"
            )
            self._log.error("worker.hung", reason=self.hung)
        else:
            self.hung = ""
            self._log.warning("worker.recovered", reason="it hangs no more")
        return True

    def _place(self) -> str:
        """Where in the program the thread is: the innermost function that is ours."""
        frame = sys._current_frames().get((self._thread and self._thread.ident) or 0)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                return f"{frame.f_code.co_qualname}() ({path.relative_to(PACKAGE)}:{frame.f_lineno})"
            frame = frame.f_back
        return "the system"

    def unanswered(self, now: float) -> str:
        """Which path has not answered the worker for a while, and for how long, in words; "" if none."""
        return self._context.unanswered(now)

    @property
    def state(self) -> State:
        return self._state

    def headline(self) -> Headline:
        with self._lock:
            state = self._state
            active = state is State.ACTIVE
            detail = self._context.detail if active else self._detail
            # Another attempt is no better than the one before until it works
            again = state is State.ACTIVATING and bool(detail)
            troubled = self._context.degraded if active else again or state in TROUBLED
            error = None if active else self._error
            if unanswered := self._context.unanswered(clock.monotonic()):
                detail, troubled, error = unanswered, True, None
            elif self.hung:
                detail, troubled = "; ".join(filter(None, [self.hung, detail])), True
            return Headline(self.worker.name, state, self._since, detail, self._restarts, troubled, error)

    def ask(self, question: Callable[[], T], otherwise: T) -> T:
        """Return what a method of the worker returns; ``otherwise`` if it raises an error, which is a bug.

        So a bug in one worker keeps no answer of the others back. It is logged once.
        """
        try:
            return question()
        except Exception:
            if not self._faulty:
                self._faulty = True
                self._log.exception("worker.crashed", detail="while it was asked")
            return otherwise

    def view(self, patience: Patience | None = None) -> WorkerView:
        name, state, since, detail, restarts, troubled, error = self.headline()
        unknown: AnyStatus = {}
        return WorkerView(
            name=name,
            kind=table_of(name),
            state=state,
            since=clock.monotonic() - since,
            detail=detail,
            restarts=restarts,
            troubled=troubled,
            errno=error.code if error else "",
            way_out=error.way_out if error else "",
            waits=error.waits if error else "",
            status=self.ask(lambda: self.worker.status(patience), unknown),
        )

    def _main(self) -> None:
        backoff, crashes = Backoff(), Backoff(longest=60.0)
        try:
            while not self._context.stopping:
                self._apply(Event.START)
                self._context.begin()
                try:
                    self._run()
                except McastdError as error:
                    wakes = Signal.RETRY
                    backoff.longest = RETRY_MAX_SECONDS
                    if isinstance(error, LinkError):
                        wakes |= Signal.NETWORK
                        if error.errno in WATCHED_ERRNOS:
                            backoff.longest = WATCHED_RETRY_MAX_SECONDS
                    delay = backoff.delay(self._worked_for())
                    self._trouble(error)
                    if self._wait(delay, wakes):
                        backoff = Backoff()
                except Exception as error:
                    delay = crashes.delay(self._worked_for())
                    self._crashed(error, delay)
                    self._wait(delay)
                else:
                    if not self._context.stopping:
                        self._apply(Event.FINISH)
                    return
        finally:
            self._close()

    def _run(self) -> None:
        """One run of the worker. A shortage is a cause that can go away, wherever it is met."""
        try:
            self.worker.run(self._context)
        except OSError as error:
            if error.errno not in SHORTAGES or isinstance(error, BlockingIOError):
                raise
            raise _cannot_work(reason_of(error), error.errno or 0) from error
        except MemoryError as error:
            raise _cannot_work("no memory left", errno.ENOMEM) from error

    def _close(self) -> None:
        self._context.waits_for = "its files"
        try:
            self.worker.close()
        except Exception:
            self._log.exception("worker.crashed", detail="while closing")
        if self._state is not State.FINISHED:
            self._apply(Event.STOP)
        self._apply(Event.END)
        self._context.close()

    def _wait(self, delay: float, wakes: Signal = Signal.RETRY) -> bool:
        """Wait for ``delay`` seconds, or until a stop. Returns True if one of the ``wakes`` came first."""
        deadline = clock.monotonic() + delay
        while not self._context.stopping and (left := deadline - clock.monotonic()) > 0:
            if self._context.take(wakes):
                return True
            self._context.wait(left)
        return False

    def _worked_for(self) -> float:
        return clock.monotonic() - self._since if self._state is State.ACTIVE else 0.0

    def _ready(self) -> None:
        if not self._apply(Event.READY):
            self._on_change()  # of the detail

    def _trouble(self, error: McastdError) -> None:
        self._restarts += 1
        self._apply(Event.ERROR, str(error), error)

    def _crashed(self, error: Exception, delay: float) -> None:
        self._restarts += 1
        reason = f"crashed: {type(error).__name__}: {reason_of(error)}"
        self._apply(Event.CRASH, f"{reason}; this is a bug in mcastd; next attempt in {delay:g} s")

    def _apply(self, event: Event, detail: str = "", error: McastdError | None = None) -> bool:
        """Go on to the state after ``event``. Returns True if it is another one.

        ``error`` is the one that the detail describes.
        """
        with self._lock:
            before = self._state
            state = after(before, event)
            changed = state is not before
            if changed:
                self._since = clock.monotonic()
            if event is not Event.START and (changed or detail):
                self._detail, self._error = detail, error
            self._state = state
        if changed and state in ATTEMPTED:
            self._note_attempt()
        if changed:
            self._log_change(before, state, detail)
        if changed or detail:
            self._on_change()
        return changed

    def _note_attempt(self) -> None:
        with self._lock:
            self.attempted.set()
            self.attempted = _HAS_ATTEMPTED

    def _log_change(self, before: State, state: State, reason: str) -> None:
        """Log a transition. An attempt that failed for the same reason as the one before: at level debug."""
        level, name = CHANGES[state]
        fields: dict[str, object] = {"from": before, "to": state}
        if reason:
            fields["reason"] = reason
        match state:
            case State.ACTIVE:
                fields["detail"], self._said = self._context.detail, ""
            case State.AUTO_RESTART:
                level, self._said = DEBUG if reason == self._said else level, reason
            case State.FAILED:
                fields["exc_info"] = True
        self._log.log(level, f"worker.{name}", **fields)


def _cannot_work(cause: str, number: int) -> McastdError:
    """What a run ends with for a shortage of this errno."""
    way_out = SHORTAGE_WAYS_OUT.get(number, "")
    return McastdError("cannot work", cause, way_out, waits=TRYING_AGAIN, errno=number)
