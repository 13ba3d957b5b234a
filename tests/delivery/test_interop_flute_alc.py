"""What a channel sends, received by flute-alc, another FLUTE: repaired by its code of our symbols."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from mcastd.delivery.carousel import Carousel
from mcastd.delivery.catalog import Catalog
from mcastd.protocols import raptorq
from mcastd.protocols.manifest_packets import manifest_packets

flute = pytest.importorskip(
    "flute", reason="needs flute-alc, which has wheels for x86_64 and Python up to 3.11 only"
)

SESSION = 5
CONTENT = {"empty": b"", "d/one": b"1", "d/megabyte": random.Random(20261126).randbytes(1_000_003)}


@pytest.mark.skipif(not raptorq.available(), reason="needs raptorq, which is not installed")
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
    target.mkdir()
    receiver = flute.receiver.Receiver(
        flute.receiver.UDPEndpoint("239.255.7.1", 9190),
        SESSION,
        flute.receiver.ObjectWriterBuilder(str(target)),
        flute.receiver.Config(),
    )
    packets = manifest_packets(SESSION, manifest, 43, 1468) if manifest else []
    dice = random.Random(f"lost {lost}")
    dropped = 0
    for number in range(passes):
        carousel.begin(number, 3600.0, packets)
        while (datagrams := carousel.next(time.time())) is not None:
            for datagram in zip(*datagrams, strict=True):
                if dice.random() < lost:
                    dropped += 1
                else:
                    receiver.push(b"".join(datagram))
    assert (dropped > 20) == (lost > 0)
    files = (path for path in target.rglob("*") if path.is_file())
    assert {str(path.relative_to(target)): path.read_bytes() for path in files} == CONTENT
