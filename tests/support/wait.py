"""Wait for the thing itself, with a deadline; never for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

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


def wait_accounted(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The counters of a worker that sends on, once each datagram that it received is in one of them.

    A worker counts what came before what became of it, and its status may be read in between.
    """

    def accounted() -> dict[str, Any] | None:
        counters = read()
        is_all = counters["received"] == counters["forwarded"] + sum(counters["dropped"].values())
        return counters if is_all else None

    counters = wait_for(accounted, "what was received is forwarded or dropped")
    assert counters is not None
    return counters
