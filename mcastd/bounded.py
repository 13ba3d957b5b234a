"""Calls that may never return, since a mount, a disk or a name server hangs: each in a thread of its own."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from mcastd.threads import Thread

T = TypeVar("T")

STATUS_PATIENCE_SECONDS = 0.05


class Patience:
    """What the status of one worker, or of many together, may wait for locks that workers hold. One thread's.

    If each of hundreds were waited for by itself, the status would come too late for anybody.
    """

    def __init__(self, seconds: float = STATUS_PATIENCE_SECONDS) -> None:
        self.left = seconds

    @contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[bool]:
        """The block holds ``lock`` if it gets True: else what was seen last has to do."""
        held = lock.acquire(blocking=False)
        if not held and self.left > 0:
            began = time.monotonic()
            held = lock.acquire(timeout=self.left)
            self.left = max(0.0, self.left - (time.monotonic() - began)) if held else 0.0
        try:
            yield held
        finally:
            if held:
                lock.release()


def begin(question: Callable[[], T], name: str = "question") -> Future[T]:
    """Call ``question`` in a new thread. Returns its result, or what it raises, as a future.

    Raises OSError (EAGAIN) if there is no thread to be had.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    try:
        Thread(target=run, name=name).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no more threads") from error
    return answer


def ask(question: Callable[[], T], seconds: float | None, name: str = "question") -> T:
    """Call ``question`` in a new thread, and wait for its result for up to ``seconds``; None is for ever.

    Unix signals are handled while it waits, as they are not in a system call that hangs. Raises what
    ``question`` raises; TimeoutError, and leaves the thread behind, if it takes longer; OSError (EAGAIN) if
    there is no thread to be had.
    """
    return begin(question, name).result(seconds)


class Attempt(Generic[T]):
    """Has a thread make something that may take long, as a connection, while its user goes on.

    For one thread.
    """

    def __init__(self, make: Callable[[], T], discard: Callable[[T], object], name: str) -> None:
        """``make`` is called by a thread of that name; ``discard`` ends what comes after :meth:`give_up`."""
        self._make = make
        self._discard = discard
        self._name = name
        self._made: Future[T] | None = None  # None: no attempt is under way

    @property
    def is_under_way(self) -> bool:
        return self._made is not None

    def take(self, wait_seconds: float = 0.0) -> T | None:
        """What was made; None: it is not there yet. If no attempt is under way, begin one, and wait so long.

        Raises what ``make`` raises, and OSError (EAGAIN) if there is no thread to be had.
        """
        if (made := self._made) is None:
            made = self._made = begin(self._make, self._name)
            if wait_seconds:
                with suppress(TimeoutError):
                    made.exception(wait_seconds)
        if not made.done():
            return None
        self._made = None
        return made.result()

    def give_up(self) -> None:
        """End the attempt, if one is under way, and have what still comes of it discarded."""
        made, self._made = self._made, None
        if made is not None:
            made.add_done_callback(self._end)

    def _end(self, made: Future[T]) -> None:
        if made.exception() is None:
            self._discard(made.result())
