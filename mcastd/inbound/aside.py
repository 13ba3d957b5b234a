"""The datagram that waits for its successor: if that comes, a stream begins with it, or begins anew.

RFC 3550 appendix A.1 wants two in a row. Of several that might be the first, the last one waits.
"""

from __future__ import annotations

import math

from mcastd.inbound.sorting import Sorting
from mcastd.net.link import ListBatch
from mcastd.rows import RowBytes
from mcastd.sequence.order import LATE_SECONDS


class Aside:
    """Room for one. While its batch is sorted it waits in that (``sorting.aside``), and then here."""

    def __init__(self) -> None:
        self._datagram: ListBatch | None = None
        self.until = math.inf  # monotonic seconds: then it is overdue; inf: none waits

    def __len__(self) -> int:
        return int(self._datagram is not None)

    def put(self, sorting: Sorting, index: int) -> bool:
        """Have a datagram of a batch wait. Returns True if another one did, which waits no longer."""
        replaced = self._datagram is not None or sorting.aside is not None
        self._clear(sorting)
        sorting.aside = index
        return replaced

    def take(self, sorting: Sorting) -> tuple[int | ListBatch, RowBytes, str] | None:
        """Return the one that waits, as what goes on of a batch, with its payload and its sender; or None.

        It waits no longer.
        """
        datagram, index = self._datagram, sorting.aside
        self._clear(sorting)
        if index is not None:
            return index, sorting.columns.payloads[index], sorting.columns.addresses[index]
        return None if datagram is None else (datagram, datagram.payloads[0], datagram.addresses[0])

    def keep(self, sorting: Sorting) -> None:
        """The batch is sorted, and will be gone: keep a copy of the one in it that waits."""
        if sorting.aside is not None:
            self._datagram = sorting.copy(sorting.aside)
            self.until = sorting.now + LATE_SECONDS

    def expire(self, now: float) -> ListBatch | None:
        """Return the one that has waited for too long, at monotonic time ``now``; it waits no longer."""
        if now < self.until:
            return None
        datagram, self._datagram, self.until = self._datagram, None, math.inf
        return datagram

    def _clear(self, sorting: Sorting) -> None:
        self._datagram, self.until, sorting.aside = None, math.inf, None
