"""Sinks as a subscription makes them, with what a test wants to hold in its own hands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.subscription import Run

from mcastd import log
from mcastd.config import FifoOutput, FileOutput
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import Ends, Means, fifo
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.fifo import FifoSink
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.sinks.format import Format, StreamFacts
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.net.link import Batch, ListBatch, Origin

SENDER = Origin("192.0.2.1", 5000, 1, 1)
TIME = 1_700_000_000_000_000_001


Writev = Callable[[int, Sequence[Any]], int]


def _format(name: str) -> Format:
    return FORMATS[name](StreamFacts(lambda: "239.255.1.2", lambda ifindex: f"eth{ifindex}"))


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A batch from one sender; its buffers are overwritten when the next one is made, as a receiver does."""
    buffers: list[memoryview] = []

    def make(*payloads: bytes) -> Batch:
        for buffer in buffers:
            buffer[:] = b"#" * len(buffer)
        buffers[:] = [memoryview(bytearray(payload)) for payload in payloads]
        return ListBatch(list(buffers), [SENDER] * len(payloads), [TIME] * len(payloads))

    return make


@pytest.fixture
def make_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FileSink]]:
    """A file sink that looks at its path for each batch.

    ``sink`` is for its own parameters, ``writev`` takes the place of the system call, the rest is its
    configuration.
    """
    sinks: list[FileSink] = []

    def make(
        path: Path, *, sink: dict[str, Any] | None = None, writev: Writev = os.writev, **settings: Any
    ) -> FileSink:
        monkeypatch.setattr(os, "writev", writev)
        config = FileOutput(kind="file", path=path, **settings)
        account = Account(config, log.get_logger())
        sinks.append(FileSink(config, _format(config.format), account, look_every=0, **(sink or {})))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def make_fifo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FifoSink]]:
    """A FIFO sink that does not linger."""
    monkeypatch.setattr(fifo, "LINGER_SECONDS", 0.0)
    sinks: list[FifoSink] = []

    def make(path: Path, ends: Ends | None = None, **settings: Any) -> FifoSink:
        config = FifoOutput(kind="fifo", path=path, **settings)
        account = Account(config, log.get_logger())
        sinks.append(FifoSink(config, _format(config.format), account, Means(ends), look_every=0))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def reader(no_fd_leak: None) -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture(params=["alone", "with others"])
def make_run(request: pytest.FixtureRequest, reader: Reader) -> Iterator[Callable[..., Run]]:
    """Subscriptions; each test runs with those that read for themselves, and with the shared reader."""
    runs: list[Run] = []

    def make(*output: dict[str, Any], **settings: Any) -> Run:
        runs.append(Run(reader if request.param == "with others" else None, output=output, **settings))
        return runs[-1]

    yield make
    for run in runs:
        run.stop()
        run.worker.close()
        run.context.close()
