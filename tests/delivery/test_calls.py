"""What files cost of Python: the functions that are called for a batch of datagrams, and none for each.

With all that has to be done by the kernel, and by hashes and ciphers, this is what is left to be saved.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from types import FrameType

import pytest
from support.flute import pass_of
from support.trees import directory_sink

import mcastd
from mcastd.config import FluteInbound
from mcastd.delivery.carousel import Carousel
from mcastd.delivery.catalog import Catalog
from mcastd.inbound.flute import FluteSequencer
from mcastd.net.slots import SLOTS, Slots
from mcastd.rows import Rows

ROOT = str(Path(mcastd.__file__).parent)
SYMBOL_BYTES = 1448
# Of a stripe of eight blocks, each with 1024 symbols.
FILE_BYTES = 8 * 1024 * SYMBOL_BYTES


class Calls:
    """Counts calls of functions of mcastd."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def during(self, work: Callable[[], object]) -> None:
        sys.setprofile(self._count)
        try:
            work()
        finally:
            sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            self.counts[frame.f_code.co_qualname] += 1


class InSlots:
    """A batch of datagrams that lie in slots, as one recvmmsg(2) leaves them there."""

    truncated = 0
    origins = times = ()

    def __init__(self, slots: Slots, datagrams: Sequence[bytes]) -> None:
        for view, datagram in zip(slots.views, datagrams, strict=False):
            view[: len(datagram)] = datagram
        self._slots = slots
        self._lengths = [*map(len, datagrams)]
        self.sources = [("192.0.2.7", len(datagrams))]
        self.size = sum(self._lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def payloads(self) -> Sequence[memoryview]:
        return [slot[:length] for slot, length in zip(self._slots.views, self._lengths, strict=False)]

    @property
    def rows(self) -> Sequence[Rows]:
        return self._slots.rows(self._lengths)

    def write(self, fd: int) -> int:
        raise NotImplementedError


@pytest.fixture
def carousel(tmp_path: Path) -> Carousel:
    """Of one file."""
    source = tmp_path / "image"
    source.write_bytes(random.Random(3).randbytes(FILE_BYTES))
    catalog = Catalog(source, SYMBOL_BYTES, protected=False, digested=True)
    while not catalog.scan():
        pass
    return Carousel(catalog, session=1, max_datagram=1472, loss=0.0, interleave=8)


def test_a_batch_that_is_received_in_order(carousel: Carousel, tmp_path: Path) -> None:
    datagrams = [*chain.from_iterable(pass_of(carousel, 0, 3600.0, time.time))]
    dropped: Counter[str] = Counter()
    sequencer, sink = FluteSequencer(FluteInbound(), dropped), directory_sink(tmp_path / "files")
    slots, calls = Slots(), Calls()

    def take(datagrams: Sequence[bytes]) -> None:
        for given in sequencer.feed(InSlots(slots, datagrams)):
            sink.write(given)

    batches = [datagrams[at : at + SLOTS] for at in range(0, len(datagrams), SLOTS)]
    counted = batches[3:-3]  # the first ones begin the file and its blocks, the last ones end them
    for batch in batches[:3]:
        take(batch)
    for batch in counted:
        calls.during(lambda batch=batch: take(batch))  # type: ignore[misc] # mypy cannot infer its type
    for batch in batches[-3:]:
        take(batch)
    while not (tmp_path / "files" / "image").exists():  # what takes long is done in steps
        sink.tick(sink.deadline)
    sink.close()
    assert (tmp_path / "files" / "image").read_bytes() == (tmp_path / "image").read_bytes()
    assert (dropped.total(), sink.counters.dropped.total()) == (0, 0)
    assert sink.counters.written == len(datagrams)
    # Some nine runs of symbols, of twelve functions each, and what is done once
    assert calls.counts.total() / len(counted) < 170, calls.counts


def test_a_pass_that_is_sent(carousel: Carousel) -> None:
    """A turn of all blocks has 128 datagrams, and several go together; they are made by the block."""
    carousel.describe(3600.0)
    calls = Calls()
    sent = 0

    def send() -> None:
        nonlocal sent
        while (datagrams := carousel.next(0.0)) is not None:
            sent += len(datagrams.sizes)

    for number in range(2):
        carousel.begin(number)
        sent = 0
        calls.counts.clear()
        calls.during(send)
    assert sent > 8 * 1024
    assert calls.counts.total() / (sent / SLOTS) < 60, calls.counts
