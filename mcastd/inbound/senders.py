"""Which datagrams of a batch came from which sender."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mcastd.net.link import Batch
from mcastd.rows import Rows, listed


def by_sender(batch: Batch) -> Iterator[tuple[str, Sequence[Rows]]]:
    """The datagrams of a batch, those in a row from one address together; "" if none is known."""
    sources = batch.sources
    if len(sources) < 2:
        yield (sources[0][0] if sources else ""), batch.rows
        return
    payloads, start = batch.payloads, 0
    for address, count in sources:
        yield address, listed(payloads[start : start + count])
        start += count
