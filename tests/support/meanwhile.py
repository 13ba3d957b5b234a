"""Something that goes on in a thread while a test looks, as datagrams that come."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def meanwhile(step: Callable[[], object], seconds: float, name: str = "meanwhile") -> Iterator[None]:
    """While the block runs, call ``step`` again and again, so many ``seconds`` after it has returned.

    An error in it ends the thread, and is raised when the block is through.
    """
    over = threading.Event()
    errors: list[Exception] = []

    def run() -> None:
        try:
            while not over.wait(seconds):
                step()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
