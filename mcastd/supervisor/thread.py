"""A worker's thread: runs it, again after each failure, and keeps its state for others to see."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from mcastd import clock, log
from mcastd.errors import LinkError, McastdError
from mcastd.supervisor.restart import Backoff
from mcastd.supervisor.state import ATTEMPTED, TROUBLED, Event, State, after
from mcastd.worker import Context, Signal, Worker, WorkerView

LONGEST = 5.0  # seconds between attempts at most
LONGEST_IF_TOLD = 60.0  # the same, for a cause whose end rtnetlink tells at once
TOLD_BY_THE_NETWORK = {errno.ENODEV, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN}
STACK = 256 << 10  # bytes; the default of 8 MiB is address space for two thousand threads


class WorkerThread:
    """One worker in one thread, from start to its end; a new start is a new WorkerThread."""

    def __init__(self, worker: Worker, on_change: Callable[[], None] = lambda: None) -> None:
        self.worker = worker
        self.attempted = threading.Event()
        self._on_change = on_change
        self._log = log.get_logger(worker=worker.name)
        self._context = Context(self._ready)
        self._lock = threading.Lock()  # state, since and detail change together
        self._state = State.INACTIVE
        self._since = clock.monotonic()
        self._detail = ""
        self._restarts = 0
        self._said = ""  # the trouble that the log has been told of
        self._thread = threading.Thread(target=self._main, name=worker.name, daemon=True)

    def start(self) -> None:
        """Raises OSError or RuntimeError if there is no file descriptor or thread to be had."""
        try:
            self._context.open()
            size = threading.stack_size(STACK)  # of threads started from here on: so only for this one
            try:
                self._thread.start()
            finally:
                threading.stack_size(size)
        except (OSError, RuntimeError) as error:
            self._context.close()
            way_out = "raise LimitNOFILE= or TasksMax= of the service; trying again"
            self._apply(Event.START)
            self._apply(Event.ERROR, f"cannot start the worker's thread: {error}; {way_out}")
            raise

    def send(self, signal: Signal) -> None:
        if signal is Signal.STOP:
            self._apply(Event.STOP)
            if self._thread.ident is None:  # it could not be started
                self._apply(Event.END)
        self._context.send(signal)

    def update(self, settings: object) -> bool:
        """Whether the worker takes over ``settings`` as it runs."""
        if self._state in (State.INACTIVE, State.FINISHED) or not self.worker.update(settings):
            return False
        self.send(Signal.NETWORK)
        return True

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended, after at most ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def busy_for(self, now: float) -> float:
        """The heartbeat: seconds since the worker last waited for something; 0 while it waits."""
        return self._context.busy_for(now)

    @property
    def state(self) -> State:
        return self._state

    def headline(self) -> tuple[State, str, bool]:
        """The state, the detail, and whether all is well: what can be told without asking the worker."""
        with self._lock:
            active = self._state is State.ACTIVE
            detail = self._context.detail if active else self._detail
            troubled = self._context.degraded if active else self._state in TROUBLED
            return self._state, detail, troubled

    def view(self) -> WorkerView:
        with self._lock:
            state, since, restarts = self._state, self._since, self._restarts
            detail = self._context.detail if state is State.ACTIVE else self._detail
        age = clock.monotonic() - since
        name = self.worker.name
        kind = name.partition("/")[0]
        return WorkerView(name, kind, state, age, detail, restarts, self.worker.status())

    def _main(self) -> None:
        backoff, crashes = Backoff(), Backoff(longest=60.0)
        try:
            while not self._context.stopping:
                self._apply(Event.START)
                self._context.begin()
                try:
                    self.worker.run(self._context)
                except McastdError as error:
                    wakes = Signal.RETRY
                    backoff.longest = LONGEST
                    if isinstance(error, LinkError):
                        wakes |= Signal.NETWORK
                        if error.errno in TOLD_BY_THE_NETWORK:
                            backoff.longest = LONGEST_IF_TOLD
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
                        self._log.info("worker.finished")
                    return
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self.worker.close()
        except Exception:
            self._log.exception("worker.crashed", detail="while closing")
        if self._state is not State.FINISHED:
            self._apply(Event.STOP)
            self._log.info("worker.stopped")
        self._apply(Event.END)
        self._context.close()

    def _wait(self, delay: float, wakes: Signal = Signal.RETRY) -> bool:
        """Let ``delay`` seconds pass, or less if told to stop; whether one of the ``wakes`` ended it."""
        deadline = clock.monotonic() + delay
        while not self._context.stopping and (left := deadline - clock.monotonic()) > 0:
            if self._context.take(wakes):
                return True
            self._context.wait(left)
        return False

    def _worked_for(self) -> float:
        return clock.monotonic() - self._since if self._state is State.ACTIVE else 0.0

    def _ready(self) -> None:
        if self._state is not State.ACTIVE:
            self._log.info("worker.activated", detail=self._context.detail)
        self._said = ""
        self._apply(Event.READY)

    def _trouble(self, error: McastdError) -> None:
        self._restarts += 1
        self._apply(Event.ERROR, str(error))
        if str(error) != self._said:  # once, not at each attempt
            self._said = str(error)
            self._log.warning("worker.waiting", reason=str(error))

    def _crashed(self, error: Exception, delay: float) -> None:
        self._restarts += 1
        reason = f"crashed: {type(error).__name__}: {error}"
        self._apply(Event.CRASH, f"{reason}; this is a bug in mcastd; next attempt in {delay:g} s")
        self._log.exception("worker.crashed", next_attempt=delay)

    def _apply(self, event: Event, detail: str = "") -> None:
        with self._lock:
            state = after(self._state, event)
            changed = state is not self._state
            if changed:
                self._since = clock.monotonic()
            if changed or detail:
                self._detail = detail
            self._state = state
        if state in ATTEMPTED:
            self.attempted.set()
        if changed:
            self._on_change()
