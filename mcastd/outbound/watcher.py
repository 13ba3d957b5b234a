"""One thread that looks after all sources at rest: a thousand workers need not wake for it each second.

Not inotify(7): it does not tell of what another host writes to a network file system, and a stat(2) of
each source a second costs a thousand of them about a thousandth of a core.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

EVERY = 1.0  # seconds


class Watcher:
    """Calls back when a source has news. It has no thread until the first source comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[object, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._some = threading.Event()  # to be watched
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def watch(self, who: object, has_news: Callable[[], bool], tell: Callable[[], None]) -> bool:
        """Ask ``has_news`` once a second, and ``tell`` if so, until it is forgotten; whether that can be."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._look, name="watcher", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: the worker looks itself
                    return False
                self._thread = thread
            self._watched[who] = has_news, tell
            self._some.set()
        return True

    def forget(self, who: object) -> None:
        with self._lock:
            self._watched.pop(who, None)

    def close(self) -> None:
        self._closed.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._closed.is_set():
            self._some.wait()
            with self._lock:
                watched = list(self._watched.values())
                if not watched:
                    self._some.clear()
            for has_news, tell in watched:
                if has_news():
                    tell()
            self._closed.wait(EVERY if watched else 0)
