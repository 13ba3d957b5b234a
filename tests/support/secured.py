"""A channel and a subscription of files with keys, in memory: the datagrams of a pass, and who takes them.

Keys are named by their files in the test's directory; what is sent is ``source`` in it, what is received
``received``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mcastd import clock
from mcastd.config import FluteInbound, FluteOutbound, OutboundChannel
from mcastd.inbound.flute import FluteSequencer
from mcastd.net.link import ListBatch
from mcastd.outbound.sources.objects import ObjectsSource
from support.trees import directory_sink, files_below


class Sender:
    """A run of a channel. It makes one pass at a time."""

    def __init__(
        self,
        place: Path,
        *,
        sign: str = "",
        key: str = "",
        protect: str = "0%",
        object_max: int | None = None,
        session: int = 7,
        wall: clock.Clock = clock.wall,
    ) -> None:
        protocol = {"kind": "flute", "protect": protect, "session": session, "interleave": 1}
        protocol |= {"sign_key": str(place / sign)} if sign else {}
        protocol |= {"key": str(place / key)} if key else {}
        channel = {"source": place / "source", "group": "239.255.1.2", "port": 9190, "rate": "1Gbit"}
        settings = OutboundChannel.model_validate(channel | {"protocol": protocol, "repeat": "forever"})
        assert isinstance(settings.protocol, FluteOutbound)
        self.source = ObjectsSource(
            place / "source",
            settings.protocol,
            "outbound/images",
            max_datagram=settings.max_datagram,
            rate=settings.rate,
            repeat="forever",
            object_max=object_max,
            wall=wall,
        )

    def a_pass(self) -> list[bytes]:
        """The datagrams of a pass, or of what is left of it."""
        return self._read(math.inf)

    def some(self, count: int) -> list[bytes]:
        """The next datagrams of a pass, at least ``count``."""
        return self._read(count)

    def _read(self, most: float) -> list[bytes]:
        rounds, datagrams = self.source.rounds, list[bytes]()
        while self.source.rounds == rounds and len(datagrams) < most:
            datagrams += [bytes(one) for one in self.source.read()]
        return datagrams


class Receiver:
    """A run of a subscription."""

    def __init__(
        self,
        place: Path,
        *,
        name: str = "images",
        output: Mapping[str, Any] = MappingProxyType({}),
        **protocol: Any,
    ) -> None:
        named = {key: [str(place / one) for one in places] for key, places in protocol.items()}
        self.path = place / "received"
        self.dropped: Counter[str] = Counter()
        settings = FluteInbound.model_validate(named)
        self.sequencer = FluteSequencer(settings, self.dropped, f"inbound/{name}")
        self.sequencer.open()
        self.sink = directory_sink(self.path, **output)
        self.fed = 0

    def take(self, datagrams: list[bytes]) -> None:
        self.fed += len(datagrams)
        for start in range(0, len(datagrams), 37):
            for batch in self.sequencer.feed(ListBatch(datagrams[start : start + 37])):
                self.sink.write(batch)
        for _ in range(200):  # what takes long is done in steps
            if self.sink.deadline > clock.monotonic():
                break
            self.sink.tick(clock.monotonic())

    def give_to(self, path: Path) -> None:
        """Receive into another directory from now on, as after a reload."""
        self.sink.close(for_good=True)
        self.fed -= self.sink.counters.written + self.sink.counters.dropped.total()
        self.path, self.sink = path, directory_sink(path)

    @property
    def accounted(self) -> int:
        counters = self.sink.counters
        here = self.dropped.total() + self.sequencer.held
        return here + counters.written + counters.dropped.total()

    @property
    def files(self) -> dict[str, bytes]:
        return files_below(self.path)
