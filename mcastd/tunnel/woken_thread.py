"""A thread for all tunnels, or all links: it begins with the first of them, and a bell wakes it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mcastd.bell import Bell
from mcastd.threads import Thread


class WokenThread:
    """For any thread. What it runs waits for the bell beside its own descriptors, until it :attr:`ends`."""

    def __init__(self, name: str, run: Callable[[Bell], None]) -> None:
        self.ends = False
        self._name = name
        self._run = run
        self._lock = threading.Lock()  # of the two below
        self._thread: Thread | None = None
        self._bell: Bell | None = None

    @property
    def has_begun(self) -> bool:
        return self._thread is not None

    def begin(self) -> None:
        """Begin, if it has not yet. Raises OSError if there is no descriptor, RuntimeError if no thread."""
        with self._lock:
            if self._thread is not None:
                return
            bell = Bell()
            try:
                thread = Thread(target=self._live, name=self._name, args=(bell,))
                thread.start()
            except RuntimeError:
                bell.close()
                raise
            self._thread, self._bell = thread, bell

    def wake(self) -> None:
        with self._lock:
            if self._bell is not None:
                self._bell.ring()

    def close(self) -> None:
        """Have it end, and wait for that."""
        self.ends = True
        self.wake()
        if (thread := self._thread) is not None:
            thread.join()

    def _live(self, bell: Bell) -> None:
        try:
            self._run(bell)
        finally:
            with self._lock:
                self._bell = None
                bell.close()
