"""Wait for the thing itself, with a deadline; never for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Long enough for a machine with many others on it: only what never comes is waited for so long.
DEADLINE_SECONDS = 60.0


def wait_for(probe: Callable[[], T], what: str = "", timeout: float = DEADLINE_SECONDS) -> T:
    """Call ``probe`` until it returns something true, and return that; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or probe}")
        time.sleep(0.005)  # the pace of asking, not the wait itself
    return value
