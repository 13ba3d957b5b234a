"""Questions to what may never answer (a mount, a disk, a name server), asked in a thread of their own."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begin(question: Callable[[], T], name: str = "question") -> Future[T]:
    """The answer to ``question``, or what it raises, as it will be. Raises OSError without a thread."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no more threads") from error
    return answer


def ask(question: Callable[[], T], seconds: float | None, name: str = "question") -> T:
    """The answer to ``question``, or what it raises. Raises TimeoutError if neither comes in time.

    Its thread is left to it then. With None, wait for ever; Unix signals are handled meanwhile, which they
    are not in a system call that hangs. Raises OSError if there is no thread to be had.
    """
    return begin(question, name).result(seconds)
