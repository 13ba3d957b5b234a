"""A thread that works step by step for many, and is replaced when a step hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable

# How long close() waits for each of the two threads, which may hang.
CLOSE_SECONDS = 1.0


class ReplaceableThread:
    """The thread that works, and its deputy, which sees to it that another works when it hangs.

    ``work`` is the life of the one that works. It sets ``steps`` and ``at`` before each step, and ``at`` to
    None after it, with the lock held; and it ends if :attr:`current` is another thread by then. If a step
    takes longer than ``step_max_seconds``, the deputy calls ``on_hang`` with the lock held, which may
    :meth:`replace` the thread.
    """

    def __init__(
        self,
        name: str,
        work: Callable[..., None],
        on_hang: Callable[[], None],
        *,
        step_max_seconds: float,
    ) -> None:
        self.lock = threading.Lock()  # of what is here, and of what its owner shares between threads
        self.current: threading.Thread | None = None  # the one that works
        self.busy = threading.Event()  # set while it has something to do
        self.closed = threading.Event()
        self.steps = 0  # begun so far
        self.at: object = None  # what the step under way is for; None: none is
        self.step_max_seconds = step_max_seconds
        self._name = name
        self._work = work
        self._on_hang = on_hang
        self._deputy: threading.Thread | None = None

    def begin(self, *arguments: object) -> None:
        """Start both threads, unless they run. The lock is held. Raises RuntimeError if there is none."""
        if self._deputy is None:  # first: without it, one that works could not be replaced
            deputy = threading.Thread(target=self._stand_by, name=f"{self._name}-deputy", daemon=True)
            deputy.start()
            self._deputy = deputy
        if self.current is None:
            self.replace(*arguments)

    def replace(self, *arguments: object) -> None:
        """Have a new thread work. The lock is held. Raises RuntimeError if there is none."""
        thread = threading.Thread(target=self._work, args=arguments, name=self._name, daemon=True)
        before, self.current = self.current, thread
        try:
            thread.start()
        except RuntimeError:
            self.current = before
            raise

    def close(self, wake: Callable[[], object]) -> None:
        """End both; ``wake`` ends what the one that works waits in."""
        self.closed.set()
        self.busy.set()
        with self.lock:
            threads = [thread for thread in (self.current, self._deputy) if thread is not None]
        wake()
        for thread in threads:
            thread.join(CLOSE_SECONDS)

    def _stand_by(self) -> None:
        """The deputy's life."""
        while not self.closed.is_set():
            self.busy.wait()
            before = self.steps, self.at
            if self.closed.wait(self.step_max_seconds):
                return
            with self.lock:
                if self.at is not None and before == (self.steps, self.at):
                    self._on_hang()
