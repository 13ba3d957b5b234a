"""A thread that works step by step for many, and is replaced when a step hangs, or an error ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mcastd import clock
from mcastd.threads import NoThreadError, Thread

# How long close() waits for each of the two threads, which may hang.
CLOSE_SECONDS = 1.0
# A step that hangs for longer, while no other thread can be had, leaves all without service.
STUCK_SECONDS = 15.0


class ReplaceableThread:
    """Two threads: one that takes the steps, and a deputy that has it replaced when it hangs or has died.

    ``work`` is the first one's main function. It sets ``steps`` and ``at`` before each step, and ``at`` to
    None after it, with the lock held, unless another step follows at once. If :attr:`current` is not its
    thread after a step, it sets nothing and returns. If a step takes longer than ``step_max_seconds``, the
    deputy calls ``on_hang`` once, with the lock held, which may :meth:`replace` the thread. If it does not,
    it is called again while the step hangs; and while it is ``unfinished``, as where memory was missing.

    If an error ends the first one, as one of memory that is short, ``on_hang`` is called as if the step hung;
    then :attr:`has_died` is True, and ``at`` may be None.
    """

    def __init__(
        self,
        name: str,
        work: Callable[..., None],
        on_hang: Callable[[], None],
        *,
        step_max_seconds: float,
    ) -> None:
        self.lock = threading.Lock()  # for these attributes, and for what the owner's threads share
        # That takes the steps; None before the first begin(), and after close()
        self.current: threading.Thread | None = None
        self.has_died = False  # an error has ended the current one
        self.unfinished = False  # set by the owner: on_hang has replaced the thread, and has more to do
        self.busy = threading.Event()  # set while a step may hang; the deputy sleeps otherwise
        self.closed = threading.Event()
        self.steps = 0  # begun so far
        self.at: object = None  # what the step under way is for, such as an fd; None between steps
        self.step_max_seconds = step_max_seconds
        self._name = name
        self._work = work
        self._on_hang = on_hang
        self._deputy: threading.Thread | None = None
        # A step that hung while no other thread could be had, or was the last one before the thread died: its
        # number, and since when (monotonic seconds)
        self._stuck: tuple[int, float] | None = None

    def is_stuck(self) -> bool:
        """Returns True if for long a step hangs, or the thread is dead, and no other thread can be had.

        For any thread.
        """
        if self._stuck is None or (self.at is None and not self.has_died):
            return False
        step, since = self._stuck
        return step == self.steps and clock.monotonic() - since > STUCK_SECONDS

    def begin(self, *arguments: object) -> None:
        """Start both threads unless they run. The lock is held. Raises RuntimeError if none can be had."""
        try:
            # First: without it, one that works could not be replaced
            if self._deputy is None or not self._deputy.is_alive():
                deputy = Thread(target=self._stand_by, name=f"{self._name}-deputy")
                deputy.start()
                self._deputy = deputy
            if self.current is None:
                self.replace(*arguments)
            elif self.has_died or self.unfinished:
                self._on_hang()
        except MemoryError as error:
            raise NoThreadError(self._name) from error
        if self.has_died:
            raise NoThreadError(self._name)

    def replace(self, *arguments: object) -> None:
        """Start another thread in its place. The lock is held.

        Raises RuntimeError if no thread can be had, then the old one stays; or after close().
        """
        if self.closed.is_set():
            raise RuntimeError("closed")
        before = self.current, self.at
        try:
            thread = Thread(target=self._run, args=arguments, name=self._name)
            self.current, self.at = thread, None  # before it starts, which may begin a step at once
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self.current, self.at = before
            self._note_stuck()
            raise NoThreadError(self._name) from error
        self.has_died, self._stuck = False, None

    def _note_stuck(self) -> None:
        """No other thread can be had for the step under way."""
        if self.at is not None and (self._stuck is None or self._stuck[0] != self.steps):
            self._stuck = self.steps, clock.monotonic()

    def close(self, wake: Callable[[], object]) -> None:
        """End both; ``wake`` ends what the one that works waits in, and is called with the lock held."""
        self.closed.set()
        self.busy.set()
        with self.lock:
            threads = [thread for thread in (self.current, self._deputy) if thread is not None]
            self.current = None
            wake()
        for thread in threads:
            thread.join(CLOSE_SECONDS)

    def _stand_by(self) -> None:
        """The deputy's main function."""
        while not self.closed.is_set():
            if not self.unfinished:
                self.busy.wait()
            before = self.steps, self.at
            if self.closed.wait(self.step_max_seconds):
                return
            with self.lock:
                hangs = self.at is not None and before == (self.steps, self.at)
                if self.unfinished or self.has_died or hangs:
                    try:
                        self._on_hang()
                    except MemoryError:  # it is tried again after the next wait
                        self._note_stuck()

    def _run(self, *arguments: object) -> None:
        """The main function of the one that takes the steps."""
        try:
            self._work(*arguments)
        finally:
            with self.lock:
                if self.current is threading.current_thread():  # nothing but an error ends it
                    self.has_died = True
                    self._stuck = self.steps, clock.monotonic()
                    self.busy.set()
