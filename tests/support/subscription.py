"""A subscription in a thread of the test, over links in memory."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcastd.config import InboundSubscription
from mcastd.errors import LinkError
from mcastd.inbound.reader import Reader, Visited
from mcastd.inbound.sinks import Sink
from mcastd.inbound.subscription import Subscription
from mcastd.net.fake import FakeReceiver
from mcastd.net.link import Metadata
from mcastd.worker import Context, Signal
from support.wait import wait_for


class VisitedByHand(Reader):
    """The test makes the visits."""

    visited: Visited | None = None

    def add(self, fd: int, visited: Visited) -> bool:
        self.visited = visited
        return True

    def remove(self, fd: int, visited: Visited) -> None:
        self.visited = None


class Run:
    """A subscription in a thread, with a fake link for each of its runs."""

    def __init__(self, reader: Reader | None, sink: Sink | None = None, **settings: Any) -> None:
        self.links: list[FakeReceiver] = []
        self.refusal: LinkError | None = None
        self.hold: Callable[[], None] | None = None  # called when a link is opened
        self.waiting: list[bytes] = []  # in the link when it is opened
        self.ready = threading.Event()
        self.failure: BaseException | None = None
        self.context = Context(self.ready.set).open()
        config = InboundSubscription(group="239.255.1.2", port=9190, **settings)
        sinks = {} if sink is None else {"make_sink": lambda *_: sink}
        self.worker = Subscription("inbound/news", config, self._open, reader=reader, **sinks)
        self._thread: threading.Thread | None = None

    def _open(self, config: InboundSubscription, metadata: Metadata) -> FakeReceiver:
        if self.hold:
            self.hold()
        if self.refusal:
            raise self.refusal
        self.links.append(FakeReceiver(metadata))
        self.link.deliver(*self.waiting)
        return self.links[-1]

    @property
    def link(self) -> FakeReceiver:
        return self.links[-1]

    def start(self) -> FakeReceiver:
        self.ready.clear()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self.ready.wait(60)
        return self.link

    def _main(self) -> None:
        try:
            self.worker.run(self.context)
        except BaseException as error:  # for the test to look at
            self.failure = error

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()
            self._thread = None

    def stop(self) -> None:
        self.context.send(Signal.STOP)
        self.join()

    def received(self, count: int) -> None:
        counters = self.worker.counters
        wait_for(lambda: counters.received >= count and self.quiet(), f"{count} datagrams")

    def quiet(self) -> bool:
        """Whether every output has accounted for all that was received."""
        return all(
            self.worker.counters.received
            == sink.counters.written + sum(sink.counters.dropped.values()) + sink.counters.queued
            for sink in self.worker.sinks
        )

    def reading(self, how: str) -> None:
        wait_for(lambda: self.worker.status().reading == how, how)


def file_output(path: Path, **settings: Any) -> dict[str, Any]:
    return {"kind": "file", "path": path, **settings}


def fifo_output(path: Path, **settings: Any) -> dict[str, Any]:
    return {"kind": "fifo", "path": path, **settings}


def lost(name: str = "eth7") -> LinkError:
    return LinkError(f"cannot use 239.255.1.2 on {name}", "no such interface", errno=errno.ENODEV)
