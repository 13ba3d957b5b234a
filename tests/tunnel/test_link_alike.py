"""Datagrams that are read by columns, beside the same read one by one."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.amt_relay import datagram

from mcastd.protocols.packet_rows import PacketRows, rows_of
from mcastd.rows import RowMemory
from mcastd.tunnel.inner import InnerDatagrams
from mcastd.tunnel.link.alike import datagrams_alike
from mcastd.tunnel.link.local import TakenDatagrams

GROUPS = {4: ip_address("239.1.2.3"), 6: ip_address("ff15::7")}
STRIDE, ROWS = 2112, 20


def laid(packets: list[bytes], version: int) -> PacketRows:
    memory = RowMemory(memoryview(bytearray(24 + STRIDE * ROWS)))
    (rows,) = rows_of(packets, memory, STRIDE, version)
    return rows


def one_by_one(packets: list[bytes]) -> list[TakenDatagrams] | None:
    """What each of them is; None: one is nothing that is taken."""
    inner = InnerDatagrams(Counter())
    found: list[TakenDatagrams] = []
    for packet in packets:
        if (one := inner.read(packet, 0.0)) is None:
            return None
        found.append(
            TakenDatagrams((one.source, one.source_port), (one.group, one.port), one.ttl, [one.payload])
        )
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 188, 1316])
@pytest.mark.parametrize("behind", [0, 6])
def test_what_is_alike_is_read_at_once(version: int, size: int, behind: int) -> None:
    payloads = [bytes([number]) * size for number in range(ROWS)]
    packets = [datagram(payload, GROUPS[version]) for payload in payloads]
    found = datagrams_alike(laid([packet + b"padding"[:behind] for packet in packets], version))
    each = one_by_one(packets)
    assert each is not None
    assert found == each[0]._replace(payloads=payloads)


def test_what_is_not_alike_is_not() -> None:
    same = datagram(b"one", GROUPS[4])
    for other in (
        datagram(b"longer", GROUPS[4]),
        datagram(b"two", ip_address("239.1.2.4")),
        datagram(b"two", GROUPS[4], checksum=0),
        datagram(b"two", GROUPS[4], checksum=7),
        datagram(b"two", ip_address("192.0.2.1")),
    ):
        assert datagrams_alike(laid([same, other], 4)) is None
        assert datagrams_alike(laid([other, same], 4)) is None
    assert datagrams_alike(laid([same, datagram(b"two", GROUPS[4])], 4)) is not None
    assert datagrams_alike(laid([same[:-1]], 4)) is None


@given(st.sampled_from([4, 6]), st.data())
def test_whatever_is_changed_what_is_taken_is_what_one_by_one_is(version: int, data: st.DataObject) -> None:
    payloads = data.draw(st.lists(st.binary(min_size=5, max_size=6), min_size=1, max_size=4))
    packets = [bytearray(datagram(payload, GROUPS[version])) for payload in payloads]
    for _ in range(data.draw(st.integers(0, 1))):  # of two, each may hide the other
        packet = data.draw(st.sampled_from(packets))
        at = data.draw(st.integers(0, len(packet) - 1))
        packet[at] = data.draw(st.integers(0, 255))
    changed = [*map(bytes, packets)]
    found = datagrams_alike(laid(changed, version))
    if found is not None:
        assert one_by_one(changed) == [found._replace(payloads=[payload]) for payload in found.payloads]


@given(st.sampled_from([4, 6]), st.lists(st.binary(min_size=1, max_size=90), min_size=1, max_size=4))
def test_any_bytes_are_read_or_left(version: int, packets: list[bytes]) -> None:
    """By chance no bytes have right checksums all the way."""
    found = datagrams_alike(laid(packets, version))
    if found is not None:
        assert one_by_one(packets) == [found._replace(payloads=[payload]) for payload in found.payloads]
