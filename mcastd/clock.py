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
