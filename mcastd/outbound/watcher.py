"""One thread that watches all sources at rest, so that a thousand workers need not wake each second.

It uses stat(2), since inotify(7) misses what another host writes to a network file system. A call a second
for each of a thousand sources costs about a thousandth of a core.

A look at a source hangs while its file system does. Then another thread goes on with the others. The source,
and those on the same file system, go back to their channels: each looks itself, and the status names it if
that hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from mcastd.replaceable import ReplaceableThread

# Seconds between two looks at the same source.
LOOK_EVERY_SECONDS = 1.0
# How long one look may take before another thread goes on with the other sources.
LOOK_MAX_SECONDS = 0.5


class _Watched(NamedTuple):
    has_news: Callable[[], bool]
    wake: Callable[[], None]
    device: int


class Watcher:
    """Calls back when a source has news. It has no thread until the first source comes."""

    def __init__(self) -> None:
        self._thread = ReplaceableThread(
            "watcher", self._look, self._hand_back, step_max_seconds=LOOK_MAX_SECONDS
        )
        self._watched: dict[object, _Watched] = {}  # changed with the thread's lock held
        self._some = threading.Event()  # set while there are sources to watch

    def watch(
        self, channel: object, has_news: Callable[[], bool], wake: Callable[[], None], device: int = 0
    ) -> bool:
        """Call ``has_news`` once a second until :meth:`forget`; call ``wake`` if it is true, or hangs.

        ``device`` is the file system of the source, 0 if unknown. Returns False if no thread can be had: then
        the caller has to look itself.
        """
        with self._thread.lock:
            try:
                self._thread.begin()
            except RuntimeError:  # no more threads
                return False
            self._watched[channel] = _Watched(has_news, wake, device)
            self._some.set()
        return True

    def forget(self, channel: object) -> None:
        with self._thread.lock:
            self._watched.pop(channel, None)

    def close(self) -> None:
        self._thread.close(self._some.set)

    def _hand_back(self) -> None:
        """A look takes long: let another thread watch the others. The lock is held."""
        stuck = self._watched.get(self._thread.at)
        try:
            self._thread.replace()
        except RuntimeError:  # no more threads: wait for the old one
            return
        if stuck is None:  # its channel has ended
            return
        for channel, watched in list(self._watched.items()):
            if watched is stuck or watched.device == stuck.device != 0:
                del self._watched[channel]
                watched.wake()

    # -- the thread

    def _look(self) -> None:
        """The thread's main function: look at each source once a second."""
        thread, me = self._thread, threading.current_thread()
        while not thread.closed.is_set():
            self._some.wait()
            with thread.lock:
                watched = list(self._watched)
                if not watched:
                    self._some.clear()
            for channel in watched:
                with thread.lock:
                    if (one := self._watched.get(channel)) is None:
                        continue
                    thread.steps += 1
                    thread.at = channel
                    if not thread.busy.is_set():
                        thread.busy.set()
                has_news = one.has_news()
                with thread.lock:
                    if thread.current is not me:
                        return
                    thread.at = None
                    if has_news and self._watched.get(channel) is one:
                        one.wake()
            thread.busy.clear()
            thread.closed.wait(LOOK_EVERY_SECONDS if watched else 0)
