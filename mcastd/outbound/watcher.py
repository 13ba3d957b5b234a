"""One thread that watches all sources at rest, so that a thousand workers need not wake each second.

Not inotify(7): it misses what another host writes to a network file system. A stat(2) a second of each of a
thousand sources costs about a thousandth of a core.

A look at a source hangs while its file system does. Then another thread goes on with the others. The source,
and those on the same file system, go back to their channels: each looks itself, and is named if that hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

# Seconds between two looks at the same source.
LOOK_EVERY_SECONDS = 1.0
# How long one look may take before another thread goes on with the other sources.
LOOK_MAX_SECONDS = 0.5
# How long close() waits for a thread, which may hang.
CLOSE_SECONDS = 1.0


class _Watched(NamedTuple):
    has_news: Callable[[], bool]
    tell: Callable[[], None]
    device: int


class Watcher:
    """Calls back when a source has news. It has no thread until the first source comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of all that follows but the events; held for no look
        self._watched: dict[object, _Watched] = {}
        self._some = threading.Event()  # set while there are sources to watch
        self._leader: threading.Thread | None = None  # the thread that looks; one that is replaced ends
        self._deputy: threading.Thread | None = None  # replaces a leader that hangs
        self._busy = threading.Event()  # while the leader is on its round
        self._looks = 0  # grows with each look
        self._looking_at: object = None
        self._closed = threading.Event()

    def watch(
        self, who: object, has_news: Callable[[], bool], tell: Callable[[], None], device: int = 0
    ) -> bool:
        """Ask ``has_news`` once a second until :meth:`forget`; call ``tell`` if it has, or if it hangs.

        ``device`` is the file system of the source, 0 if unknown. Returns False if no thread can be had: then
        the caller has to look itself.
        """
        with self._lock:
            try:
                if self._deputy is None:
                    deputy = threading.Thread(target=self._stand_by, name="watcher-deputy", daemon=True)
                    deputy.start()
                    self._deputy = deputy
                if self._leader is None:
                    self._lead()
            except RuntimeError:  # no more threads
                return False
            self._watched[who] = _Watched(has_news, tell, device)
            self._some.set()
        return True

    def forget(self, who: object) -> None:
        with self._lock:
            self._watched.pop(who, None)

    def close(self) -> None:
        self._closed.set()
        self._some.set()
        self._busy.set()
        with self._lock:
            threads = [thread for thread in (self._leader, self._deputy) if thread is not None]
        for thread in threads:
            thread.join(CLOSE_SECONDS)

    # -- with the lock held

    def _lead(self) -> None:
        """Start a new leader. Raises RuntimeError if there is no thread."""
        leader = threading.Thread(target=self._look, name="watcher", daemon=True)
        before, self._leader = self._leader, leader
        try:
            leader.start()
        except RuntimeError:
            self._leader = before
            raise

    def _replace_leader(self) -> None:
        try:
            self._lead()
        except RuntimeError:  # no more threads: wait for the old one
            return
        stuck = self._watched.get(self._looking_at)
        if stuck is None:  # its channel has ended
            return
        for who, watched in list(self._watched.items()):
            if watched is stuck or watched.device == stuck.device != 0:
                del self._watched[who]
                watched.tell()

    # -- the threads

    def _look(self) -> None:
        """The leader's life: a round each second."""
        me = threading.current_thread()
        while not self._closed.is_set():
            self._some.wait()
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._some.clear()
            for who in watched:
                with self._lock:
                    if (one := self._watched.get(who)) is None:
                        continue
                    self._looks += 1
                    self._looking_at = who
                    self._busy.set()
                has_news = one.has_news()
                with self._lock:
                    if self._leader is not me:
                        return
                    self._looking_at = None
                    if has_news and self._watched.get(who) is one:
                        one.tell()
            self._busy.clear()
            self._closed.wait(LOOK_EVERY_SECONDS if watched else 0)

    def _stand_by(self) -> None:
        """The deputy's life: where a look takes too long, it makes another thread the leader."""
        while not self._closed.is_set():
            self._busy.wait()
            before = self._looks, self._looking_at
            if self._closed.wait(LOOK_MAX_SECONDS):
                return
            with self._lock:
                if before == (self._looks, self._looking_at) and self._looking_at is not None:
                    self._replace_leader()
