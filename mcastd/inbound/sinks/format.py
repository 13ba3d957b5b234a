"""The base of every format: it makes records of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from mcastd.inbound.sinks.records import Records
from mcastd.net.link import Batch


class Format(ABC):
    """How an output's datagrams are written: one object for each output.

    ``group`` returns the group that is received now, ``interface_name`` the name of an ifindex.
    """

    needs_metadata = False  # True: it writes the origins and times of a batch

    def __init__(self, group: Callable[[], str], interface_name: Callable[[int], str]) -> None:
        self._group = group
        self._interface_name = interface_name

    def head(self) -> bytes:
        """The bytes that a new file begins with, and that each new reader of a pipe gets first.

        They count as no datagram.
        """
        return b""

    @abstractmethod
    def records(self, batch: Batch) -> Records:
        """Make the records of a batch. All its datagrams end with them: none is kept for the next batch."""
