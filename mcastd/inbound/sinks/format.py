"""What an output's format is: a batch in, its records out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from mcastd.inbound.sinks.records import Records
from mcastd.net.link import Batch


class Format(ABC):
    """How an output's datagrams are written: one object for each output.

    ``group`` tells the group that is received now, ``interface_name`` the name of an ifindex.
    """

    needs_metadata = False  # the origins and times of a batch

    def __init__(self, group: Callable[[], str], interface_name: Callable[[int], str]) -> None:
        self._group = group
        self._interface_name = interface_name

    def head(self) -> bytes:
        """What stands before the first record of a new file, and what each new reader of a pipe gets first.

        It counts as no datagram.
        """
        return b""

    @abstractmethod
    def records(self, batch: Batch) -> Records:
        """The records with which all datagrams of the batch end: none is kept for the next batch."""
