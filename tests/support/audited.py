"""A protocol of a subscription under audit: its contract (``inbound/protocols.py``), checked at each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mcastd.inbound.sequencer import Sequencer
from mcastd.net.link import Batch


class Audited:
    """Hands all on to a protocol, which counts in ``dropped`` what it drops.

    After each call, all that it was fed was given on, is dropped, or is held; each reason is one of its own.
    """

    def __init__(self, protocol: Sequencer, dropped: Counter[str]) -> None:
        self.protocol = protocol
        self.dropped = dropped
        self.fed = self.given = 0

    def feed(self, batch: Batch) -> list[Batch]:
        self.fed += len(batch)
        return self._audit(self.protocol.feed(batch))

    def expire(self, now: float) -> list[Batch]:
        return self._audit(self.protocol.expire(now))

    def _audit(self, batches: Iterable[Batch]) -> list[Batch]:
        given = list(batches)
        self.given += sum(map(len, given))
        assert self.fed == self.given + self.protocol.held + self.dropped.total()
        assert self.dropped.keys() <= set(self.protocol.reasons)
        return given
