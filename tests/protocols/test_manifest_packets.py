"""The packets of a manifest: their order, how they are cut, and how long they are."""

from __future__ import annotations

import pytest

from mcastd.protocols.alc import parse
from mcastd.protocols.fec import NO_CODE, RAPTORQ
from mcastd.protocols.manifest_packets import MANIFEST_HEADER_BYTES, manifest_packets, read_plain

# Bytes of a datagram, and of them the symbol: before it are the magic of 4 bytes and the serial of 8.
DATAGRAM = 160
SYMBOL = DATAGRAM - MANIFEST_HEADER_BYTES - 12


def test_blocks_take_turns() -> None:
    """So an outage takes a little of each."""
    data = bytes(range(256)) * 1000
    packets = [parse(each) for each in manifest_packets(5, data, 43, DATAGRAM)]
    assert [(packet.sbn, packet.esi) for packet in packets[:7]] == [
        *((0, 0), (1, 0), (2, 0)),
        *((0, 1), (1, 1), (2, 1)),
        (0, 2),
    ]
    in_order = sorted(packets, key=lambda packet: (packet.sbn, packet.esi))
    assert b"".join(read_plain(packet.payload).symbol for packet in in_order) == data


@pytest.mark.parametrize(
    ("length", "scheme", "esis"), [(SYMBOL, NO_CODE, [0]), (SYMBOL + 1, RAPTORQ, [0, 1, 2, 3, 4])]
)
def test_what_fits_into_one_packet_has_no_code(length: int, scheme: int, esis: list[int]) -> None:
    pytest.importorskip("raptorq")
    datagrams = manifest_packets(5, bytes(length), 43, DATAGRAM, protect=lambda _symbols, _blocks: 3)
    packets = [parse(each) for each in datagrams]
    assert [packet.esi for packet in packets] == esis
    assert {packet.header.scheme for packet in packets} == {scheme}
    assert max(map(len, datagrams)) <= DATAGRAM
