"""Made-up kinds, as short as a kind can be: what they may do is all that the house may ask of a kind."""

from __future__ import annotations

from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.records import Made, Records
from mcastd.net.link import Batch


class Pairs(Format):
    """A format with a head, and with a record for two datagrams of a batch."""

    HEAD = b"PAIRS\n"

    def head(self) -> bytes:
        return self.HEAD

    def records(self, batch: Batch) -> Records:
        pairs = [batch.payloads[at : at + 2] for at in range(0, len(batch), 2)]
        return Made([b"+".join(map(bytes, pair)) + b"\n" for pair in pairs], [len(pair) for pair in pairs])
