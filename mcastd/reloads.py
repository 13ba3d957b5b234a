"""Reloads, one at a time, however many are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Reloads(Generic[T]):
    """One thread, which does ``first`` and then a reload for whoever asks; at most one more waits its turn.

    Who asks while one is under way is told of the next: it begins after the request, so it sees all that was
    edited before.
    """

    def __init__(self, first: Callable[[], None], reload: Callable[[], T]) -> None:
        self._first = first
        self._reload = reload
        self._asked = threading.Condition()  # the lock of the two below
        self._next: Future[T] | None = None
        self._refusal: Exception | None = None
        self._running: Future[T] | None = None

    def start(self) -> None:
        """Raises RuntimeError if there is no thread to be had."""
        threading.Thread(target=self._run, name="reload", daemon=True).start()

    def request(self) -> Future[T]:
        """Ask for a reload that begins from now on; its outcome. Never blocks."""
        with self._asked:
            if self._next is None:
                self._next = Future()
                self._asked.notify()
            asked = self._next
            if self._refusal:
                asked.set_exception(self._refusal)
                self._next = None
            return asked

    def close(self, refusal: Exception) -> None:
        """Begin none any more: whoever waits for one, or asks, is told ``refusal``."""
        with self._asked:
            self._refusal = refusal
            for one in (self._running, self._next):
                if one is not None:
                    with suppress(InvalidStateError):  # it has just ended
                        one.set_exception(refusal)
            self._next = None
            self._asked.notify()

    def _run(self) -> None:
        self._first()
        while True:
            with self._asked:
                while self._next is None and self._refusal is None:
                    self._asked.wait()
                if self._next is None or self._refusal:
                    return
                self._running, self._next = self._next, None
            try:
                outcome = self._reload()
            except Exception as error:
                with suppress(InvalidStateError):  # closed meanwhile
                    self._running.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    self._running.set_result(outcome)
