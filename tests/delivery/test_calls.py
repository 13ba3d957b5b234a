"""What files cost of Python: the functions that are called for a batch of datagrams, and none for each.

With all that has to be done by the kernel, and by hashes and ciphers, this is what is left to be saved.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
from support.calls import counted_calls
from support.flute import pass_of
from support.in_slots import InSlots
from support.trees import directory_sink

from mcastd.config import FluteInbound
from mcastd.delivery.carousel import Carousel
from mcastd.delivery.catalog import Catalog
from mcastd.inbound.flute import FluteSequencer
from mcastd.net.link import ListBatch
from mcastd.net.slots import SLOTS, Slots

SYMBOL_BYTES = 1448
# Of a stripe of eight blocks, each with 1024 symbols.
FILE_BYTES = 8 * 1024 * SYMBOL_BYTES


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
    slots, calls = Slots(), Counter[str]()

    def received(datagrams: Sequence[bytes]) -> InSlots:
        return InSlots(slots, ListBatch(datagrams, addresses=["192.0.2.7"] * len(datagrams)))

    def take(batch: InSlots) -> None:
        for given in sequencer.feed(batch):
            sink.write(given)

    batches = [datagrams[at : at + SLOTS] for at in range(0, len(datagrams), SLOTS)]
    counted = batches[3:-3]  # the first ones begin the file and its blocks, the last ones end them
    for batch in batches[:3]:
        take(received(batch))
    for batch in counted:
        lying = received(batch)
        with counted_calls() as counts:
            take(lying)
        calls += counts
    for batch in batches[-3:]:
        take(received(batch))
    while not (tmp_path / "files" / "image").exists():  # what takes long is done in steps
        sink.tick(sink.deadline)
    sink.close()
    assert (tmp_path / "files" / "image").read_bytes() == (tmp_path / "image").read_bytes()
    assert (dropped.total(), sink.counters.dropped.total()) == (0, 0)
    assert sink.counters.written == len(datagrams)
    # Some nine runs of symbols, of twelve functions each, and what is done once
    assert calls.total() / len(counted) < 170, calls


def test_a_pass_that_is_sent(carousel: Carousel) -> None:
    """A turn of all blocks has 128 datagrams, and several go together; they are made by the block."""
    carousel.describe(3600.0)
    for number in range(2):
        carousel.begin(number)
        sent = 0
        with counted_calls() as calls:
            while (datagrams := carousel.next(0.0)) is not None:
                sent += len(datagrams)
    assert sent > 8 * 1024
    assert calls.total() / (sent / SLOTS) < 60, calls
