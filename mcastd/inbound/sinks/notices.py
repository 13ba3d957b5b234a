"""A line for each file that has landed, in a named pipe: for scripts, and whatever else waits for files."""

from __future__ import annotations

import os
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from mcastd.config import FifoOutput
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.fifo import FifoSink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import Raw
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.net.link import ListBatch
from mcastd.status import NoticesStatus
from mcastd.worker import OutputIdentity


class LandingNotices(FifoSink):
    """A pipe that gets a path in each line. Lines that nobody reads in time are dropped, and counted."""

    def __init__(self, path: Path, log: FilteringBoundLogger, means: Means = ALONE) -> None:
        config = FifoOutput(path=path)
        super().__init__(config, Raw(StreamFacts(lambda: "", str)), Account(config, log), means)

    def identity(self) -> OutputIdentity:
        return OutputIdentity(str(self._path), self.counters, self.reasons)

    def tell(self, path: Path) -> None:
        self.write(ListBatch([line_of(path)]))

    def told(self) -> NoticesStatus:
        """For any thread."""
        status = super().status()
        counters = status.counters
        return NoticesStatus(
            path=status.path,
            written=counters.written,
            queued=counters.queued,
            dropped=counters.dropped,
            error=status.error,
        )


def line_of(path: Path) -> bytes:
    r"""A path as a line: a newline in it is written ``\n``, and so a backslash ``\\``."""
    return os.fsencode(path).replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n"
