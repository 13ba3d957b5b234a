"""What became of datagrams that were handed over: written, or dropped, by reason."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from mcastd.errors import SinkError

# Reasons to drop.
FULL = "full"  # the server is away for too long, or too slow
SPOOL = "spool"  # the disk takes nothing
CRASHED = "crashed"
STOPPED = "stopped"


@dataclass(slots=True)
class HandOverResults:
    """What became of datagrams since they were asked for last."""

    written: int = 0
    written_bytes: int = 0
    dropped: dict[str, tuple[int, SinkError]] = field(default_factory=dict)  # by reason


class Outcomes:
    """The results of one output: one thread adds to them, another one collects them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results = HandOverResults()

    def write(self, sizes: list[int]) -> None:
        """Messages of these sizes, in bytes, are with the server."""
        with self._lock:
            self._results.written += len(sizes)
            self._results.written_bytes += sum(sizes)

    def drop(self, count: int, error: SinkError) -> None:
        with self._lock:
            dropped = self._results.dropped
            before, _ = dropped.get(error.reason, (0, error))
            dropped[error.reason] = before + count, error

    def collect(self) -> HandOverResults:
        """What became of datagrams since the last call."""
        with self._lock:
            results, self._results = self._results, HandOverResults()
        return results


def cannot_write(label: str, cause: str, reason: str, way_out: str = "") -> SinkError:
    """An output, by its label, does not take what it should, for a reason to drop."""
    return SinkError(f"cannot write to {label}", cause, way_out, reason=reason)
