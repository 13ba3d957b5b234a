"""The two clocks: monotonic seconds for deadlines and ages, wall-clock seconds for what users read."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since some fixed point; pure code takes one, or ``now``, as an argument."""

NANO = 1_000_000_000
"""Nanoseconds in a second."""

monotonic: Clock = time.monotonic
wall: Clock = time.time

# What a wall clock is set by at least, to be noticed: what has come may wait so long to be read.
SET_NANOS = NANO


def was_set(nanoseconds: int, seconds: float) -> bool:
    """Return True if the wall clock was set between two moments.

    By that clock they are ``nanoseconds`` apart; what happened then was read ``seconds`` apart, by the
    monotonic one.
    """
    return not -SET_NANOS <= nanoseconds <= seconds * NANO + SET_NANOS
