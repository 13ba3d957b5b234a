"""Which datagrams of a batch came from which sender."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mcastd.net.link import Batch


def by_sender(batch: Batch) -> Iterator[tuple[str, Sequence[bytes | memoryview]]]:
    """The datagrams of a batch, those in a row from one address together; "" if none is known."""
    payloads, sources = batch.payloads, batch.sources
    if len(sources) < 2:
        yield (sources[0][0] if sources else ""), payloads
        return
    start = 0
    for address, count in sources:
        yield address, payloads[start : start + count]
        start += count
