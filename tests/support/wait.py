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
    began = time.monotonic()
    while not (value := probe()):
        waited = time.monotonic() - began
        if waited > timeout:
            raise AssertionError(f"not within {timeout} s: {what or probe}")
        # The pace of asking, not the wait itself: a probe may cost the daemon a thread.
        time.sleep(min(max(0.005, waited / 20), 0.025))
    return value
