"""A made-up protocol of a subscription, added as a real one is: settings, a class, two entries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from mcastd import clock
from mcastd.config import INBOUND_PROTOCOLS, InboundProtocol
from mcastd.config.types import Period
from mcastd.inbound.protocols import PROTOCOLS
from mcastd.inbound.sequencer import Sequencer
from mcastd.net.link import Batch, ListBatch

# A program for `python -c`: what follows it on the command line is that of `python -m mcastd`.
MCASTD_WITH_TARDY = (
    "from support import beacon, tardy; from mcastd.cli import main; tardy.add(); beacon.skip(3); main()"
)
EMPTY = "empty"


class TardySettings(InboundProtocol):
    """Each second datagram is held for a while; empty ones are dropped."""

    kind: Literal["tardy"] = Field("tardy", description='"tardy".')
    hold: Period = Field(1.0, description="For how long, in seconds.")


class Tardy(Sequencer):
    reasons = (EMPTY,)
    deadline = math.inf

    def __init__(self, settings: TardySettings, dropped: Counter[str], _: str = "") -> None:
        self.settings, self.dropped = settings, dropped
        self.kept: list[bytes] = []
        self.fed = 0

    @property
    def held(self) -> int:
        return len(self.kept)

    def feed(self, batch: Batch) -> Iterator[Batch]:
        full = [bytes(payload) for payload in batch.payloads if len(payload)]
        self.dropped[EMPTY] += len(batch) - len(full)
        first = self.fed % 2
        self.fed += len(full)
        self.kept += full[1 - first :: 2]
        if self.kept and self.deadline == math.inf:
            self.deadline = clock.monotonic() + self.settings.hold
        yield ListBatch(full[first::2])

    def expire(self, now: float) -> Iterator[Batch]:
        kept, self.kept, self.deadline = self.kept, [], math.inf
        yield ListBatch(kept)


def add() -> None:
    INBOUND_PROTOCOLS.models["tardy"] = TardySettings
    PROTOCOLS["tardy"] = Tardy


def remove() -> None:
    del INBOUND_PROTOCOLS.models["tardy"], PROTOCOLS["tardy"]
