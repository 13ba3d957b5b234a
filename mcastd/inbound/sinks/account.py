"""An output's books: counts each datagram, and logs each trouble once."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from mcastd import clock
from mcastd.clock import Clock
from mcastd.config import OutputSettings
from mcastd.counters import OutputCounters, copy_of
from mcastd.errors import SinkError, reason_of
from mcastd.status import OutputStatus

# The same trouble is not logged again within this time: that of a disk that is nearly full comes and goes.
REPEAT_MIN_SECONDS = 60.0

# Reasons to drop, by errno.
REASONS = {
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "no-space",
    errno.EFBIG: "file-too-large",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.EMFILE: "no-descriptors",
    errno.ENFILE: "no-descriptors",
}
NO_DESCRIPTORS = REASONS[errno.EMFILE]
UNREACHABLE = "unreachable"
# For any other errno.
IO_ERROR = "io-error"
TROUBLES = (*sorted(set(REASONS.values())), IO_ERROR)
NO_READER = "no-reader"
READER_GONE = "reader-gone"
# A trouble that a datagram met counts for so long, if no other datagram comes that shows more.
TROUBLE_SECONDS = 60.0
# A pipe's reader may come and go: this is logged, without a warning.
EXPECTED = {NO_READER, READER_GONE}


def why_no_way(number: int) -> str:
    """The reason of what cannot be sent since there is no way, by the errno of looking for one."""
    return NO_DESCRIPTORS if number in {errno.EMFILE, errno.ENFILE} else UNREACHABLE


class Account:
    """Counts what became of an output's datagrams, and keeps the trouble that it is in now, if any."""

    def __init__(
        self, config: OutputSettings, log: FilteringBoundLogger, now: Clock = clock.monotonic
    ) -> None:
        self.counters = OutputCounters()
        self._config = config
        self._log = log
        self._now = now
        # Any thread reads both: what keeps the output from being written; None: nothing does
        self.trouble: SinkError | None = None
        # The same in one line; "" if nothing does but a missing reader
        self.problem = ""
        self.troubled_at = -math.inf  # monotonic seconds when it was last met
        self._dropped = 0  # since output.recovered was last logged
        self._logged = ""  # the reason of the trouble that was logged last; "" after output.recovered
        self._logged_at: dict[str, float] = {}  # by reason: monotonic seconds

    @property
    def log(self) -> FilteringBoundLogger:
        """The log of the output's worker."""
        return self._log

    def wrote(self, datagrams: int, size: int) -> None:
        self.counters.written += datagrams
        self.counters.written_bytes += size

    def drop(self, datagrams: int, error: OSError | SinkError) -> None:
        """Count datagrams as dropped for ``error``; with 0 of them, only note the trouble."""
        trouble = error if isinstance(error, SinkError) else self._translated(error)
        self.trouble = trouble
        self.problem = "" if trouble.reason in EXPECTED else f"{trouble.what}: {trouble.cause}"
        self.troubled_at = now = self._now()
        if datagrams:
            self.counters.dropped[trouble.reason] += datagrams
            self._dropped += datagrams
        logged_at = self._logged_at.get(trouble.reason, -math.inf)
        if trouble.reason != self._logged and now - logged_at >= REPEAT_MIN_SECONDS:
            write = self._log.info if trouble.reason in EXPECTED else self._log.warning
            write("output.failed", **self._config.named, reason=trouble.reason, error=str(trouble))
            self._logged = trouble.reason
            self._logged_at[trouble.reason] = now

    def attempt(self, step: Callable[[], None]) -> bool:
        """Do a step that takes no datagram, like opening, and note its error. Returns True if it has none."""
        try:
            step()
        except (OSError, SinkError) as error:
            self.drop(0, error)
            return False
        return True

    def recovered(self) -> None:
        """The last batch was taken whole: the trouble, if there was one, is over."""
        if self.trouble is None:
            return
        self.trouble, self.problem = None, ""
        if self._logged:
            self._log.info(
                "output.recovered", **self._config.named, after=self._logged, dropped=self._dropped
            )
            self._logged = ""
            self._dropped = 0

    def status(self) -> OutputStatus:
        trouble = self.trouble  # once: the worker's thread may recover meanwhile
        config = self._config
        return OutputStatus(
            kind=config.kind,
            format=None if config.takes_objects else config.format,
            path=config.label,
            counters=copy_of(self.counters),
            error=None if trouble is None else str(trouble),
            way_out="" if trouble is None else trouble.way_out,
            reason=None if trouble is None else trouble.reason,
        )

    def _translated(self, error: OSError) -> SinkError:
        return SinkError(
            f"cannot write to {self._config.label}",
            reason_of(error),
            waits="tried again with each datagram",
            errno=error.errno or 0,
            reason=REASONS.get(error.errno or 0, IO_ERROR),
        )
