"""Our packets and those of flute-alc, another FLUTE (MIT, in Rust), each read by the other."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.flute import headers_of

from mcastd.protocols.alc import PacketReader, empty_object, fdt_packets
from mcastd.protocols.fdt import FdtInstance, FileEntry, build, parse
from mcastd.protocols.fec import NO_CODE, RAPTORQ, REED_SOLOMON, SMALL_BLOCK, Blocks, Oti, build_fti, raptorq
from mcastd.protocols.lct import build as build_header
from mcastd.rows import listed

flute = pytest.importorskip(
    "flute", reason="needs flute-alc, which has wheels for x86_64 and Python up to 3.11 only"
)

TSI = 7
NOW = 1_800_000_000.0
SYMBOL = 1400
CONTENT = {
    "d/empty": b"",
    "d/one": b"1",
    "d/megabyte": random.Random(20261126).randbytes(1_000_001),
}


def joined(oti: Oti, length: int, symbols: dict[tuple[int, int], bytes]) -> bytes:
    """An object of which all source symbols came."""
    blocks = Blocks(oti, length)
    places = [(sbn, esi) for sbn in range(blocks.count) for esi in range(blocks.symbols(sbn))]
    return b"".join(symbols[place] for place in places)[:length]


def received(datagrams: list[bytes]) -> dict[str, bytes]:
    """The files of a session, as our modules read it from batches."""
    reader = PacketReader()
    symbols: dict[tuple[int | None, int | None], dict[tuple[int, int], bytes]] = defaultdict(dict)
    cut: dict[tuple[int | None, int | None], tuple[Oti, int]] = {}
    told: dict[tuple[int | None, int | None], dict[int, int]] = defaultdict(dict)
    encodings: dict[int | None, str] = {}
    for start in range(0, len(datagrams), 44):
        batch = datagrams[start : start + 44]
        stretches = reader.read(listed(batch))
        assert sum(stretch.length for stretch in stretches) == len(batch)
        for stretch in stretches:
            header = stretch.header
            assert header.tsi == TSI
            if header.fti is not None:
                cut[header.toi, header.fdt_id] = header.fti
            encodings[header.fdt_id] = header.encoding
            of_object = symbols[header.toi, header.fdt_id]
            for run in stretch.runs:
                for index, payload in enumerate(run.payloads):
                    of_object[run.sbn, run.esi + index] = bytes(payload)
                if run.block_symbols is not None:
                    told[header.toi, header.fdt_id][run.sbn] = run.block_symbols
    files = {}
    for toi, fdt_id in [*cut]:
        if toi == 0:
            table = joined(*cut[0, fdt_id], symbols[0, fdt_id])
            for entry in parse(table, NOW, encodings[fdt_id]).files:
                oti, length = cut.get((entry.toi, None), (entry.oti, entry.transfer_length))
                assert oti is not None
                assert length is not None
                assert entry.oti in (None, oti), "told twice, and the same"
                files[entry.location] = joined(oti, length, symbols[entry.toi, None])
                blocks = Blocks(oti, length)
                assert not length or all(blocks.symbols(sbn) == k for sbn, k in told[entry.toi, None].items())
                assert entry.md5 in (b"", hashlib.md5(files[entry.location]).digest())
    return files


@pytest.mark.parametrize("inband", [False, True])
@pytest.mark.parametrize("scheme", [NO_CODE, REED_SOLOMON, SMALL_BLOCK])
def test_what_flute_alc_sends_is_received_whole(scheme: int, inband: bool) -> None:
    kind = flute.sender.Oti
    oti = {
        NO_CODE: lambda: kind.new_no_code(SYMBOL, 64),
        REED_SOLOMON: lambda: kind.new_reed_solomon_rs28(SYMBOL, 60, 6),
        SMALL_BLOCK: lambda: kind.new_reed_solomon_rs28_under_specified(SYMBOL, 60, 6),
    }[scheme]()
    oti.inband_fti = inband
    sender = flute.sender.Sender(TSI, oti, flute.sender.Config())
    for name, content in CONTENT.items():
        sender.add_object_from_buffer(content, "application/octet-stream", f"file:///{name}", None)
    sender.publish()
    datagrams = []
    while (datagram := sender.read()) is not None:
        datagrams.append(bytes(datagram))
        assert len(datagrams) < 5000
    assert received(datagrams) == CONTENT


def sent(scheme: int, *, inband: bool) -> Iterator[bytes]:
    """The session as our modules build it: source symbols only."""
    entries, objects = [], []
    for toi, (name, content) in enumerate(CONTENT.items(), 1):
        length = len(content)
        oti = raptorq(length, SYMBOL, 100) if scheme == RAPTORQ else Oti(NO_CODE, SYMBOL, 64)
        entries.append(FileEntry(toi, name, length, length, oti, md5=hashlib.md5(content).digest()))
        objects.append((toi, oti, content))
    table = build(FdtInstance(int(NOW) + 3600, tuple(entries)))
    yield from fdt_packets(TSI, 3, table, SYMBOL)
    for toi, oti, content in objects:
        more = build_fti(oti, len(content)) if inband else b""
        blocks = Blocks(oti, len(content))
        header = build_header(TSI, toi, scheme, more)
        for sbn in range(blocks.count):
            headers = headers_of(header, scheme, sbn, range(blocks.symbols(sbn)))
            start, stop = blocks.offset(sbn), blocks.offset(sbn) + blocks.size(sbn)
            for head, at in zip(headers, range(start, stop, SYMBOL), strict=True):
                symbol = content[at : min(at + SYMBOL, stop)]
                yield head + (symbol.ljust(SYMBOL, b"\0") if scheme == RAPTORQ else symbol)
        if not content:
            yield empty_object(TSI, toi, scheme, more)


@pytest.mark.parametrize("inband", [False, True])
@pytest.mark.parametrize("scheme", [NO_CODE, RAPTORQ])
def test_what_we_send_is_received_whole_by_flute_alc(scheme: int, inband: bool, tmp_path: Path) -> None:
    writer = flute.receiver.ObjectWriterBuilder(str(tmp_path))
    endpoint = flute.receiver.UDPEndpoint("239.255.7.1", 9190)
    receiver = flute.receiver.Receiver(endpoint, TSI, writer, flute.receiver.Config())
    datagrams = list(sent(scheme, inband=inband))
    for datagram in datagrams:
        receiver.push(datagram)
    found = {
        str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert found == CONTENT
    assert received(datagrams) == CONTENT
