"""The base of every format: it makes records of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcastd.inbound.sinks.records import Records
from mcastd.net.link import Batch, Origin
from mcastd.net.payloads import Payloads, as_payloads


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What a format may ask about the stream whose datagrams it writes."""

    group: Callable[[], str]  # returns the group that is received now
    interface_name: Callable[[int], str]  # returns the name of an ifindex
    port: Callable[[], int] = int  # returns the port that is received now
    worker: str = ""  # the name of the subscription
    overflow: Callable[[], int] = int  # returns how many datagrams the kernel has dropped so far


UNKNOWN = Origin(source="", port=0, ifindex=0, ttl=-1)


def metadata_of(batch: Batch, time: int = 0) -> tuple[Sequence[Origin], Sequence[int]]:
    """The origins and times of a batch.

    What came before a reload asked for them, and was held, has none: then only the senders are known, all
    else is as in UNKNOWN, and ``time`` stands for its times: 0 is none.
    """
    origins, times, count = batch.origins, batch.times, len(batch)
    if len(origins) != count:
        senders = [address for address, number in batch.sources for _ in range(number)] or [""] * count
        origins = [UNKNOWN._replace(source=address) for address in senders]
    return origins, times if len(times) == count else [time] * count


class Format(ABC):
    """How an output's datagrams are written: one object for each output."""

    raw = False  # True: a batch is its own records
    needs_metadata = False  # True: it writes the origins and times of a batch
    # Not None: the head grows. The records that were made last need the head of this revision before them,
    # wherever they are written; what another object of the format has written does not count.
    revision: int | None = None

    def __init__(self, stream: StreamFacts) -> None:
        self.stream = stream

    def head(self, since: int | None = None) -> bytes:
        """The bytes that a new file begins with, and that each new reader of a pipe gets first.

        They count as no datagram. With ``since`` they are those that a file or reader with the head of that
        revision still lacks.
        """
        return b""

    def whole(self, fd: int, size: int) -> int | None:
        """Return where the records of a file end that are whole: a crash may have cut the last one.

        ``fd`` can be read, and has ``size`` bytes, more than none. None: it has something else in it, and
        nothing can be appended. Raises OSError.
        """
        return size

    @abstractmethod
    def records(self, batch: Batch) -> Records:
        """Make the records of a batch. All its datagrams end with them: none is kept for the next batch."""

    def payloads(self, batch: Batch) -> Payloads:
        """The same, to be sent as datagrams."""
        return as_payloads(self.records(batch).payloads)
