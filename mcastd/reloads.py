"""Reloads, one at a time, however many are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic, TypeVar

from mcastd.threads import Thread

T = TypeVar("T")


class Reloads(Generic[T]):
    """One thread, which calls ``first``, and then ``reload`` for each request; at most one reload is waiting.

    All requests that come during a reload share the next one. It begins after them, so it reads whatever was
    edited before they were made.
    """

    def __init__(self, first: Callable[[], None], reload: Callable[[], T]) -> None:
        self._first = first
        self._reload = reload
        self._asked = threading.Condition()  # its lock guards all that follows
        self._next: Future[T] | None = None
        self._refusal: Exception | None = None
        self._running: Future[T] | None = None

    def start(self) -> None:
        """Raises RuntimeError if there is no thread to be had."""
        Thread(target=self._run, name="reload").start()

    def request(self) -> Future[T]:
        """Ask for a reload that begins after this call. Returns its outcome as a future; never blocks."""
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
        """Begin no further reload. All who wait for one now, or ask for one later, get ``refusal``."""
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
