"""What ``mcastctl top`` knows of the workers: fed with io.mcastd.Monitor's replies, asked for lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcastd.names import table_of
from mcastd.printable import printable
from mcastd.views import MonitorView, VitalsView

MINUTE = 60.0  # seconds of history
# Worst first:
STATES = ("failed", "auto-restart", "activating", "deactivating", "inactive", "finished", "active")


@dataclass(slots=True)
class Line:
    """One worker. Its texts are printable; rates are of the last interval."""

    name: str
    history: deque[float]  # datagrams a second, an interval each, the newest last
    state: str = ""
    detail: str = ""
    troubled: bool = False
    datagrams: int = 0
    payload_bytes: int = 0
    lost: int = 0  # on this host: given up by protocols or outputs, or dropped by the kernel
    overflow: int = 0  # the latter alone
    network: int = 0  # lost in the network, by the numbers of datagrams
    held: int = 0  # kept by a protocol for now
    files: int = 0  # that have landed, or that are sent whole
    files_percent: float | None = None  # of those that are being received, or of a pass
    players: int = 0  # that a gateway serves
    stale: bool = False
    source: str = ""
    last: float | None = None  # when the last datagram was, on the clock of feed()'s ``now``
    rate: float = 0.0  # datagrams a second
    bits: float = 0.0  # payload bits a second

    @property
    def kind(self) -> str:
        return table_of(self.name)

    @property
    def condition(self) -> str:
        """The state, or what is wrong in spite of it."""
        return "stale" if self.stale and self.state == "active" else self.state

    @property
    def idle(self) -> bool:
        """It does not run: there is nothing to see but why."""
        return self.state in ("failed", "auto-restart")


Key = Callable[[Line], Any]
ORDERS: dict[str, tuple[Key, bool]] = {  # by column: what is compared, and whether the largest comes first
    "NAME": (lambda line: line.name, False),
    "STATE": (lambda line: (STATES.index(line.state) if line.state in STATES else -1, not line.stale), False),
    "PKT/S": (lambda line: line.rate, True),
    "BIT/S": (lambda line: line.bits, True),
    "LOST": (lambda line: line.lost, True),
    "OVFL": (lambda line: line.overflow, True),
    "NET": (lambda line: line.network, True),
    "FILES": (lambda line: line.files, True),
    "PLAYERS": (lambda line: line.players, True),
    "SOURCE": (lambda line: line.source, False),
    "AGE": (lambda line: -float("inf") if line.last is None else line.last, False),  # never, then the oldest
}


@dataclass(slots=True)
class Board:
    """All workers, and in which order and by which filter they are wanted."""

    interval: float = 1.0  # seconds between replies that have vitals
    order: str = "NAME"
    backwards: bool = False
    filter: str = ""
    lines: dict[str, Line] = field(default_factory=dict)
    _at: float | None = None  # daemon's seconds of the last reply with vitals

    @property
    def span(self) -> int:
        """Intervals in a minute: so long is a whole history."""
        return max(2, round(MINUTE / self.interval))

    def restart(self) -> None:
        """Another daemon: what is known is not true any more."""
        self.lines.clear()
        self._at = None

    def feed(self, reply: MonitorView, now: float) -> bool:
        """Take in a reply that came at ``now``, in seconds; whether it ended an interval."""
        for worker in reply.states:
            line = self._line(worker.name)
            line.state, line.detail = printable(worker.state), printable(worker.detail)
            line.troubled = worker.troubled
        for name in reply.removed:
            self.lines.pop(name, None)
        if reply.vitals is None:
            return False
        before, self._at = self._at, reply.at
        passed = None if before is None else max(reply.at - before, 1e-9)
        changed = {vitals.name: vitals for vitals in reply.vitals}
        for name, line in self.lines.items():
            _advance(line, changed.get(name), passed, now)
        return passed is not None

    def _line(self, name: str) -> Line:
        line = self.lines.get(name)
        if line is None:
            line = self.lines[name] = Line(printable(name), deque(maxlen=self.span))
        return line

    def wanted(self) -> list[Line]:
        """The lines that the filter lets through, in order; those that are alike by name."""
        text = self.filter.casefold()
        lines = [line for line in self.lines.values() if text in line.name.casefold()]
        lines.sort(key=lambda line: line.name)
        key, descending = ORDERS[self.order]
        lines.sort(key=key, reverse=descending != self.backwards)
        return lines

    def next_order(self) -> None:
        """Sort by the next column, the usual way round."""
        names = list(ORDERS)
        self.order = names[(names.index(self.order) + 1) % len(names)]
        self.backwards = False


def _advance(line: Line, vitals: VitalsView | None, passed: float | None, now: float) -> None:
    """``passed`` seconds are over (None: the first picture); without vitals nothing has happened in them."""
    datagrams, payload_bytes = line.datagrams, line.payload_bytes
    if vitals is not None:
        line.datagrams, line.payload_bytes = vitals.datagrams, vitals.payload_bytes
        line.overflow = vitals.overflow
        line.lost = vitals.dropped + line.overflow
        line.network = vitals.lost
        line.held = vitals.held
        line.files, line.files_percent = vitals.files, vitals.files_percent
        line.players = vitals.players
        line.stale = vitals.stale
        line.source = printable(vitals.last_source)
        last = vitals.last_datagram_age
        line.last = None if last is None else now - last
    if passed is not None:
        # A worker that was made anew counts from nothing
        line.rate = max(0, line.datagrams - datagrams) / passed
        line.bits = max(0, line.payload_bytes - payload_bytes) * 8 / passed
        line.history.append(line.rate)
