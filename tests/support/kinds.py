"""Made-up kinds, as short as a kind can be: what they may do is all that the house may ask of a kind."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Literal

from mcastd import clock
from mcastd.config import Interfaces, OutputSettings
from mcastd.inbound.sinks import Means, Sink
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.records import Made, Records
from mcastd.ip import Address
from mcastd.net.link import Batch


class Pairs(Format):
    """A format with a head, and with a record for two datagrams of a batch."""

    HEAD = b"PAIRS\n"

    def head(self, since: int | None = None) -> bytes:
        return self.HEAD

    def records(self, batch: Batch) -> Records:
        pairs = [batch.payloads[at : at + 2] for at in range(0, len(batch), 2)]
        return Made([b"+".join(map(bytes, pair)) + b"\n" for pair in pairs], [len(pair) for pair in pairs])


class MemoryOutput(OutputSettings):
    """Received datagrams kept in memory, a moment after they came."""

    kind: Literal["memory"] = "memory"
    name: str
    format: Literal["raw", "pairs"] = "raw"
    interface: str | None = None

    @property
    def label(self) -> str:
        return f"memory {self.name}"

    def ways(self) -> Iterable[tuple[Interfaces | None, Address]]:
        return [(self.interface, IPv4Address("239.255.9.9"))] if self.interface else []


class MemorySink(Sink):
    """A sink without a path: what waits is kept at the deadline."""

    reasons = ("closed",)
    may_queue = True
    SECONDS = 0.01

    def __init__(self, config: MemoryOutput, format: Format, account: Account, means: Means) -> None:
        super().__init__(account)
        self.kept = format.head()
        self.changes = 0
        self._format = format
        self._waiting = b""

    def write(self, batch: Batch) -> None:
        records = self._format.records(batch)
        self._waiting += b"".join(map(bytes, records.payloads))
        self.counters.queued += len(records)
        self.deadline = clock.monotonic() + self.SECONDS

    def tick(self, now: float) -> None:
        self.kept += self._waiting
        self._account.wrote(self.counters.queued, len(self._waiting))
        self.counters.queued, self._waiting, self.deadline = 0, b"", float("inf")

    def network_changed(self) -> None:
        self.changes += 1

    def close(self, *, for_good: bool = False) -> None:
        self.tick(0.0)
