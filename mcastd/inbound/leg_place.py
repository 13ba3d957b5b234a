"""Where a leg stands in the stream that legs make together, and where in a batch of it another one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcastd.inbound.misfits import Misfits
from mcastd.inbound.numbered_streams import OfStream
from mcastd.inbound.sequenced import NumberedSequencer
from mcastd.net.link import Batch
from mcastd.sequence.stream import Wire


@dataclass(slots=True)
class LegPlace:
    """Where a leg stands in the merged stream."""

    order: NumberedSequencer
    misfits: Misfits  # of the merge, of what this order lets go on
    stream: OfStream | None = None  # that was admitted
    restarts: int = 0  # of its order, that the merge knows of
    # Another leg has seen the sender begin anew: until then this one still brings what was before
    behind_until: float = 0.0  # monotonic seconds
    # It began anew near the number that the merge is at: it may have been away, or its sender did begin anew
    rejoined_at: float | None = None  # monotonic seconds

    @property
    def is_settled(self) -> bool:
        stream, order = self.stream, self.order
        return (
            stream is not None
            and stream is order.stream
            and self.restarts == order.total.restarts
            and not self.behind_until
            and self.rejoined_at is None
        )


def beginning_of(batch: Batch, numbers: Sequence[int], stream: OfStream | None, wire: Wire) -> int:
    """The index of the first datagram of a batch that is of what begins anew in it.

    ``stream`` is the one that is at its end.
    """
    numbering, at = wire.numbering, 0
    half = numbering.numbers // 2
    for index, datagram in enumerate(batch.payloads):
        if stream is not None and wire.identity_of(datagram) != stream.identity:
            at = index + 1
        elif index > at:
            ahead = (numbers[index] - numbers[index - 1] + half) % numbering.numbers - half
            at = at if -numbering.misorder <= ahead < numbering.dropout else index
    return at % len(batch)


def breaks_of(numbers: Sequence[int], end: int) -> list[int]:
    """The indices before ``end`` at which a number is not the one after the one before it."""
    return [index for index in range(1, end) if numbers[index] != numbers[index - 1] + 1]
