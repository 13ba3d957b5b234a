"""Files between us and flute-alc, another FLUTE: ours repaired by its code, its taken by our subscription."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from support.flute import joined, pass_of
from support.trees import directory_sink, files_below

from mcastd import clock
from mcastd.config import FluteInbound
from mcastd.delivery.carousel import Carousel
from mcastd.delivery.catalog import Catalog
from mcastd.inbound.flute import FluteSequencer
from mcastd.net.link import ListBatch
from mcastd.protocols import raptorq
from mcastd.protocols.manifest_packets import manifest_packets

flute = pytest.importorskip(
    "flute", reason="needs flute-alc, which has wheels for x86_64 and Python up to 3.11 only"
)

SESSION = 5
LARGE_BYTES = 100_000_003
CONTENT = {"empty": b"", "d/one": b"1", "d/megabyte": random.Random(20261126).randbytes(1_000_003)}


needs_library = pytest.mark.skipif(not raptorq.available(), reason="needs raptorq, which is not installed")


def receiver_into(target: Path) -> Any:
    """A receiver of flute-alc that writes files into a directory, which is made."""
    target.mkdir()
    return flute.receiver.Receiver(
        flute.receiver.UDPEndpoint("239.255.7.1", 9190),
        SESSION,
        flute.receiver.ObjectWriterBuilder(str(target)),
        flute.receiver.Config(),
    )


@needs_library
@pytest.mark.parametrize("manifest", [b"", random.Random(7).randbytes(20_011)], ids=["plain", "signed"])
@pytest.mark.parametrize(("lost", "passes"), [(0.0, 1), (0.05, 1), (0.15, 3)])
def test_files_of_a_channel_are_received_whole_over_loss(
    tmp_path: Path, lost: float, passes: int, manifest: bytes
) -> None:
    """It takes no notice of a manifest, whatever that says."""
    for name, content in CONTENT.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    catalog = Catalog(tmp_path / "source", 1448, protected=True)
    while not catalog.scan():
        pass
    carousel = Carousel(catalog, session=SESSION, max_datagram=1468, loss=0.05, interleave=8)
    target = tmp_path / "target"
    receiver = receiver_into(target)
    packets = manifest_packets(SESSION, manifest, 43, 1468) if manifest else []
    dice = random.Random(f"lost {lost}")
    dropped = 0
    for number in range(passes):
        carousel.describe(3600.0, packets)
        carousel.begin(number)
        while (datagrams := carousel.next(time.time())) is not None:
            for datagram in joined(datagrams):
                if dice.random() < lost:
                    dropped += 1
                else:
                    receiver.push(datagram)
    assert (dropped > 20) == (lost > 0)
    files = (path for path in target.rglob("*") if path.is_file())
    assert {str(path.relative_to(target)): path.read_bytes() for path in files} == CONTENT


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize(("lost", "protect"), [(0.0, 0.0), pytest.param(0.05, 0.05, marks=needs_library)])
def test_a_large_file_of_a_channel_is_received_whole(tmp_path: Path, lost: float, protect: float) -> None:
    """Without a code, and with RaptorQ over the loss that it is to survive.

    It keeps 10 MiB of blocks that are not complete, and gives up a file that needs more at once. It leaves
    out the checksum beside the MD5.
    """
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "large").write_bytes(random.Random(6).randbytes(LARGE_BYTES))
    catalog = Catalog(source, 1448, protected=protect > 0, digested=True)
    while not catalog.scan():
        pass
    assert catalog.files[0].md5 is not None
    assert catalog.files[0].checksum is not None
    carousel = Carousel(catalog, session=SESSION, max_datagram=1468, loss=protect, interleave=6)
    receiver, dice = receiver_into(target), random.Random(5)
    sent = dropped = 0
    for datagram in chain.from_iterable(pass_of(carousel, 0, 3600.0, time.time)):
        sent += 1
        if lost and dice.random() < lost:
            dropped += 1
        else:
            receiver.push(datagram)
    assert (dropped > 3000) is (lost > 0)
    assert sent * 1448 < 1.16 * LARGE_BYTES
    assert digest_of(target / "large") == digest_of(source / "large")


def test_a_large_file_of_flute_alc_is_received_whole(tmp_path: Path) -> None:
    content = random.Random(7).randbytes(LARGE_BYTES)
    oti = flute.sender.Oti.new_no_code(1448, 1024)
    sender = flute.sender.Sender(SESSION, oti, flute.sender.Config())
    sender.add_object_from_buffer(content, "application/octet-stream", "file:///d/large", None)
    sender.publish()
    dropped: Counter[str] = Counter()
    sequencer = FluteSequencer(FluteInbound(), dropped)
    sink = directory_sink(tmp_path / "received")
    datagrams, fed = iter(sender.read, None), 0
    while some := [bytes(datagram) for datagram in islice(datagrams, 128)]:
        fed += len(some)
        assert fed < 2 * LARGE_BYTES // 1448
        for batch in sequencer.feed(ListBatch(some)):
            sink.write(batch)
    for _ in range(10_000):  # what takes long is done in steps
        if sink.deadline > clock.monotonic():
            break
        sink.tick(clock.monotonic())
    landed = files_below(tmp_path / "received")
    sink.close(for_good=True)
    assert dropped.total() == sink.counters.dropped.total() == 0
    assert [*landed] == ["d/large"]
    assert hashlib.sha256(landed["d/large"]).digest() == hashlib.sha256(content).digest()
