"""A made-up kind of source and of outbound protocol, added as real ones are: a model and an entry each."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcastd.config import OUTBOUND_PROTOCOLS, SOURCES, OutboundProtocol, SourceSettings
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.net.sender_around import SenderAround
from mcastd.outbound import protocols, sources
from mcastd.outbound.pacing import Pacer

# A program for `python -c`: what follows it on the command line is that of `python -m mcastd`.
MCASTD_WITH_NUMBERS = (
    "from support import beacon, numbers; from mcastd.cli import main; numbers.add(); beacon.skip(3); main()"
)


class NumbersSettings(SourceSettings):
    """Numbers from 1 on, by a schedule of their own."""

    kind: Literal["numbers"] = "numbers"
    has_schedule: ClassVar[bool] = True
    most: int = Field(10**6, description="The last one.")


class Numbers(sources.Source):
    def __init__(self, most: int) -> None:
        self.schedule = Pacer(interval=0.005, rate=None)
        self.position, self._most = 0, most

    def read(self) -> Payloads:
        self.position, self.finished = self.position + 1, self.position == self._most
        return ListPayloads() if self.finished else ListPayloads([b"number %d\n" % self.position])

    def restart(self) -> None:
        self.position, self.finished = 0, False


class CountedSettings(OutboundProtocol):
    """Two bytes in front of each datagram count them."""

    kind: Literal["counted"] = "counted"
    overhead: ClassVar[int] = 2


class Counted(SenderAround):
    count = 0

    def send(self, payloads: Payloads) -> int:
        numbered = (n.to_bytes(2) + payload for n, payload in enumerate(payloads, self.count))
        sent = super().send(ListPayloads(numbered))
        self.count += sent
        return sent


def add() -> None:
    """Add the kinds to this process."""
    SOURCES.models["numbers"] = NumbersSettings
    sources.OPENERS["numbers"] = lambda channel, *_: Numbers(channel.source.most)
    OUTBOUND_PROTOCOLS.models["counted"] = CountedSettings
    protocols.PROTOCOLS["counted"] = lambda *_: Counted
