"""Datagrams that are read by columns, beside the same read one by one."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.amt_relay import datagram

from mcastd.protocols.internet import ICMPV6, IpPacket, build_ip
from mcastd.protocols.packet_rows import PacketRows, rows_of
from mcastd.rows import RowMemory, SpacedRows
from mcastd.tunnel.alike import Alike, by_group, datagrams_alike, packets_alike
from mcastd.tunnel.inner import InnerDatagrams, TunnelledDatagram

GROUPS = {4: ip_address("239.1.2.3"), 6: ip_address("ff15::7")}
STRIDE, ROWS = 2112, 40
BOTH = pytest.mark.parametrize("version", [4, 6])


def laid(packets: list[bytes], version: int = 4) -> PacketRows:
    """Packets as a tap has them."""
    memory = RowMemory(memoryview(bytearray(24 + STRIDE * ROWS)))
    (rows,) = rows_of(packets, memory, STRIDE, version)
    return rows


def segments(packets: list[bytes], before: bytes = b"\6\0") -> SpacedRows:
    """Messages of one size as the kernel puts them together: one right after another."""
    data, size = b"".join(before + packet for packet in packets), len(before + packets[0])
    memory = RowMemory(memoryview(bytearray(data + bytes(-len(data) % 4))))
    return SpacedRows(memory, 0, size, size=size, count=len(packets))


def one_by_one(packets: list[bytes]) -> list[TunnelledDatagram] | None:
    """What each of them is; None: one is nothing that is taken."""
    inner = InnerDatagrams(Counter())
    found = [inner.read(packet, 0.0) for packet in packets]
    return None if None in found else [one for one in found if one is not None]


def each(alike: Alike | None) -> list[TunnelledDatagram] | None:
    """The datagrams that were read at once."""
    return alike and [alike[0]._replace(payload=bytes(payload)) for payload in alike[1]]


def numbered(packet: bytes, number: int) -> bytes:
    """The same packet of IPv4 with another identification."""
    checksum = int.from_bytes(packet[10:12]) - number
    return packet[:4] + number.to_bytes(2) + packet[6:10] + (checksum % 0xFFFF).to_bytes(2) + packet[12:]


@BOTH
@pytest.mark.parametrize("size", [2, 3, 188, 1316])
@pytest.mark.parametrize("behind", [0, 6])
def test_what_is_alike_is_read_at_once(version: int, size: int, behind: int) -> None:
    packets = [datagram(bytes([number + 1]) * size, GROUPS[version]) for number in range(ROWS)]
    if version == 4:
        packets = [numbered(packet, number) for number, packet in enumerate(packets)]
    found = packets_alike(laid([packet + b"padding"[:behind] for packet in packets], version))
    assert each(found) == one_by_one(packets)
    assert found is not None
    assert each(datagrams_alike(segments(packets), 2)) == one_by_one(packets)
    assert datagrams_alike(segments(packets[:1]), 2) is None, "there is nothing to be gained"


@BOTH
def test_the_smallest_are_read_at_once_or_by_themselves(version: int) -> None:
    for size in (0, 1):
        packets = [datagram(bytes(size), GROUPS[version])] * 3
        assert each(packets_alike(laid(packets, version))) == one_by_one(packets)
        assert datagrams_alike(segments(packets), 2) is None


def test_what_is_not_alike_is_not() -> None:
    same = datagram(b"one", GROUPS[4])
    for other in (
        datagram(b"longer", GROUPS[4]),
        datagram(b"two", ip_address("239.1.2.4")),
        datagram(b"two", GROUPS[4], checksum=0),
        datagram(b"two", GROUPS[4], checksum=7),
        datagram(b"two", ip_address("192.0.2.1")),
        numbered(same, 9)[:4] + same[4:6] + numbered(same, 9)[6:],  # with the checksum of another header
    ):
        assert packets_alike(laid([same, other])) is None
        assert packets_alike(laid([other, same])) is None
        if len(other) == len(same):
            assert datagrams_alike(segments([same, other]), 2) is None
    assert packets_alike(laid([same, datagram(b"two", GROUPS[4])])) is not None
    assert packets_alike(laid([same[:-1]] * 2)) is None
    assert packets_alike(laid([b"", same])) is None
    no_udp = build_ip(IpPacket(ip_address("2001:db8::1"), GROUPS[6], ICMPV6, 9, bytes(20)))
    assert packets_alike(laid([no_udp, no_udp], 6)) is None


def test_of_messages_with_different_bytes_before_packets_none_is_read() -> None:
    messages = [b"\6\0" + datagram(b"one", GROUPS[4]), b"\6\1" + datagram(b"two", GROUPS[4])]
    assert datagrams_alike(segments(messages, b""), 2) is None


@BOTH
def test_packets_to_several_groups_are_read_group_by_group(version: int) -> None:
    others = {4: ip_address("239.1.2.4"), 6: ip_address("ff15::8")}
    groups = [(GROUPS if number % 3 else others)[version] for number in range(12)]
    packets = [datagram(b"%04d" % number, group) for number, group in enumerate(groups)]
    found = by_group(segments(packets), 2)
    expected = [[number for number in range(12) if not number % 3], [n for n in range(12) if n % 3]]
    assert [[*numbers] for _, numbers in found] == expected
    for rows, numbers in found:
        assert each(datagrams_alike(rows, 2)) == one_by_one([packets[number] for number in numbers])
    ((rows, numbers),) = by_group(segments(packets[:1]), 2)
    assert (len(rows), [*numbers]) == (1, [0])


@given(st.lists(st.binary(min_size=25, max_size=25), min_size=1, max_size=9), st.sampled_from([0, 2, 25]))
def test_of_any_bytes_each_is_in_one_group(packets: list[bytes], before: int) -> None:
    found = by_group(segments(packets, b""), before)
    assert sorted(number for _, numbers in found for number in numbers) == [*range(len(packets))]
    for rows, numbers in found:
        assert [bytes(rows.row(at)) for at in range(len(rows))] == [packets[number] for number in numbers]


@given(st.sampled_from([4, 6]), st.data(), st.sampled_from([b"", b"\6\0"]))
def test_whatever_is_changed_what_is_taken_is_what_one_by_one_is(
    version: int, data: st.DataObject, before: bytes
) -> None:
    payloads = data.draw(st.lists(st.binary(min_size=5, max_size=6), min_size=2, max_size=4))
    if before:  # messages are of one size
        payloads = [payload[:5] for payload in payloads]
    packets = [bytearray(datagram(payload, GROUPS[version])) for payload in payloads]
    changes = data.draw(st.integers(0, 1))
    for _ in range(changes):  # of two, each may hide the other
        packet = data.draw(st.sampled_from(packets))
        at = data.draw(st.integers(0, len(packet) - 1))
        packet[at] = data.draw(st.integers(0, 255))
    changed = [*map(bytes, packets)]
    found = (
        datagrams_alike(segments(changed, before), len(before))
        if before
        else packets_alike(laid(changed, version))
    )
    if found is not None:
        assert each(found) == one_by_one(changed)
    elif len({*map(len, payloads)}) == 1 and not changes:
        pytest.fail("these are alike")


@given(
    st.lists(st.binary(min_size=60, max_size=60), min_size=2, max_size=4), st.sampled_from([0x45, 0x60, 0])
)
def test_any_bytes_are_taken_by_nobody_or_by_both(packets: list[bytes], first: int) -> None:
    packets = [bytes([first or packet[0]]) + packet[1:] for packet in packets]
    for found in (datagrams_alike(segments(packets), 2), packets_alike(laid(packets, 4))):
        assert found is None or each(found) == one_by_one(packets)
