"""A channel in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mcastd.outbound.channel import Channel
from mcastd.worker import Context, Signal
from support.wait import wait_for


@dataclass(frozen=True)
class Running:
    """A run that is under way."""

    context: Context
    failures: list[BaseException] = field(default_factory=list)  # what ended it


@contextmanager
def running(channel: Channel) -> Iterator[Running]:
    """A run of a channel, begun when the block is entered. At the end it is told to stop, and has stopped."""
    ready = threading.Event()
    run = Running(Context(ready.set).open())

    def main() -> None:
        try:
            channel.run(run.context)
        except BaseException as error:
            run.failures.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    try:
        wait_for(lambda: ready.is_set() or not thread.is_alive(), "ready")
        yield run
    finally:
        run.context.send(Signal.STOP)
        thread.join(60)
        assert not thread.is_alive(), "it does not stop"
        run.context.close()
