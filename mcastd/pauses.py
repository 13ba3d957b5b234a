"""Long work with pauses, so that whoever sends or receives meanwhile gets the interpreter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# After so much work there is a pause, which is as long as that took, up to the second of these.
WORK_SECONDS = 0.0002
PAUSE_MAX_SECONDS = 0.001


def with_pauses(items: Iterable[T]) -> Iterator[T]:
    """The same items; where the work on them takes long, with pauses in between.

    A thread that computes hands the interpreter over when another one has waited for 0.1 ms (process.py).
    That is not enough for one that sends: it gives the interpreter up for each datagram, and waits again.
    """
    since = time.monotonic()
    for item in items:
        yield item
        took = time.monotonic() - since
        if took > WORK_SECONDS:
            time.sleep(min(took, PAUSE_MAX_SECONDS))
            since = time.monotonic()
