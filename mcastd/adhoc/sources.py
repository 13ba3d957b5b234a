"""What ``mcastctl send`` sends that is no file, and the numbers on what it sends."""

from __future__ import annotations

import math
import os
import select
from typing import Literal

from mcastd import clock
from mcastd.adhoc import numbered
from mcastd.errors import SourceError, reason_of
from mcastd.net.link import Sender
from mcastd.net.payloads import ListPayloads, Payloads
from mcastd.net.sender_around import SenderAround
from mcastd.outbound.framing import Framer
from mcastd.outbound.pacing import READ_BYTES
from mcastd.outbound.sources.source import NAP_MAX_SECONDS, Source

# Datagrams that are made at once.
DATAGRAMS_AT_ONCE = 256
ROOM = bytes(numbered.SIZE)


class StreamSource(Source):
    """A source that is open already, as standard input is: read as it comes, until its end."""

    nap = NAP_MAX_SECONDS
    state = "reading"

    def __init__(self, fd: int, framer: Framer) -> None:
        self._fd = fd
        self._framer = framer
        self._poll = select.poll()  # not O_NONBLOCK, which would be the shell's, too
        self._poll.register(fd, select.POLLIN)

    @property
    def lines_split(self) -> int:
        return self._framer.lines_split

    def fileno(self) -> int | None:
        return self._fd

    def read(self) -> Payloads:
        while not self.finished and self._poll.poll(0):
            try:
                data = os.read(self._fd, self._framer.appetite())
            except OSError as error:
                what = "cannot read standard input"
                raise SourceError(what, reason_of(error), errno=error.errno or 0) from error
            self.position += len(data)
            if not data:
                self.finished, self.rounds, self.state = True, 1, "finished"
                return self._framer.finish()
            if payloads := self._framer.feed(data):
                return payloads
        return ListPayloads()

    def restart(self) -> None:
        """There is no way back: it goes on."""


class Repeated(Source):
    """One payload, ``count`` times."""

    def __init__(self, payload: bytes, count: int | Literal["forever"]) -> None:
        self._payload = payload
        self._count: float = math.inf if count == "forever" else count

    def read(self) -> Payloads:
        number = int(min(DATAGRAMS_AT_ONCE, self._count - self.rounds))
        self.rounds += number
        self.finished = not number
        return ListPayloads([self._payload] * number)

    def restart(self) -> None:
        self.rounds, self.finished = 0, False


class Headed:
    """A Framer that leaves room for a number at the head of each payload."""

    skipped_bytes = 0
    rate = None

    def __init__(self, framer: Framer) -> None:
        self._framer = framer

    @property
    def lines_split(self) -> int:
        return self._framer.lines_split

    def appetite(self, read_bytes: int = READ_BYTES) -> int:
        return self._framer.appetite(read_bytes)

    def feed(self, data: bytes) -> Payloads:
        return ListPayloads(ROOM + payload for payload in self._framer.feed(data))

    def finish(self) -> Payloads:
        return ListPayloads(ROOM + payload for payload in self._framer.finish())


class Outgoing:
    """What has gone: when, and up to which number. Outlives the links that it is sent by."""

    def __init__(self, *, numbers: bool, total: int | Literal["forever"] = "forever") -> None:
        self.first = self.last = 0.0  # monotonic seconds
        self.run = os.urandom(4).hex().encode()
        self._numbers = numbers
        self._total = 0 if total == "forever" else total
        self._sent = 0

    def by(self, link: Sender) -> Sender:
        return _By(self, link)

    def send(self, link: Sender, payloads: Payloads) -> int:
        if self._numbers:
            payloads = self._stamped(payloads)
        sent = link.send(payloads)
        self.last = clock.monotonic()
        if not self._sent:
            self.first = self.last
        self._sent += sent
        return sent

    def _stamped(self, payloads: Payloads) -> Payloads:
        """The payloads with their numbers: none is used up by one that is refused."""
        now = int(clock.wall() * 1e9)
        return ListPayloads(
            numbered.make(self.run, number, self._total, now) + payload[numbered.SIZE :]
            for number, payload in enumerate(payloads, self._sent + 1)
        )


class _By(SenderAround):
    """The Sender that a channel sees."""

    def __init__(self, outgoing: Outgoing, link: Sender) -> None:
        super().__init__(link)
        self._outgoing = outgoing

    def send(self, payloads: Payloads) -> int:
        return self._outgoing.send(self._link, payloads)
