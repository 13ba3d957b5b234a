"""Messages made of packets as they lie in memory, beside what they should be, packet by packet."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.ip import Address
from mcastd.protocols import amt
from mcastd.protocols.internet import UDP, IpPacket, build_ip, read_ip
from mcastd.protocols.packet_rows import PacketRows, rows_of
from mcastd.rows import RowMemory
from mcastd.tunnel.encapsulation import MALFORMED, TTL_TOO_LOW, encapsulate, fitting

S1, S2, S6 = map(ip_address, ("203.0.113.1", "203.0.113.2", "2001:db8::1"))
G1, G2, G6 = map(ip_address, ("232.1.1.1", "239.1.1.2", "ff3e::1"))
STRIDE, ROWS = 2112, 40


def laid(packets: list[bytes], version: int = 4, more: int = 0) -> list[PacketRows]:
    """Packets in memory; ``more`` bytes come behind each, as a short frame has them."""
    memory = RowMemory(memoryview(bytearray(24 + STRIDE * ROWS)))
    return [*rows_of([packet + bytes(more) for packet in packets], memory, STRIDE, version)]


def packet(
    source: Address = S1,
    group: Address = G1,
    ttl: int = 9,
    body: bytes = b"12345678",
    identification: int = 0,
) -> bytes:
    built = bytearray(build_ip(IpPacket(source, group, UDP, ttl, body)))
    if source.version == 4:  # any checksum may be that of a header
        total = int.from_bytes(built[10:12]) - identification
        built[4:6], built[10:12] = identification.to_bytes(2), (total % 0xFFFF).to_bytes(2)
    assert read_ip(bytes(built)) is not None
    return bytes(built)


PACKETS = {
    4: st.builds(
        packet,
        st.sampled_from([S1, S2]),
        st.sampled_from([G1, G2]),
        st.integers(0, 255),
        st.sampled_from([b"12345678", bytes(1324), b"x"]),
        identification=st.integers(0, 0xFFFF),
    ),
    6: st.builds(packet, st.just(S6), st.just(G6), st.integers(0, 255), st.sampled_from([b"", bytes(1324)])),
}


@given(st.sampled_from([4, 6]), st.data(), st.sampled_from([0, 6]))
def test_each_packet_goes_on_once_with_one_ttl_less(version: int, data: st.DataObject, more: int) -> None:
    sent = data.draw(st.lists(PACKETS[version], min_size=1, max_size=ROWS))
    expected: dict[bytes, list[IpPacket]] = {}
    low = 0
    for one in map(read_ip, sent):
        assert one is not None
        if one.ttl < 2:
            low += 1
        else:
            key = one.source.packed + one.destination.packed
            expected.setdefault(key, []).append(replace(one, ttl=one.ttl - 1))
    dropped: Counter[str] = Counter()
    (rows,) = laid(sent, version, more)
    found = encapsulate(rows, dropped)
    read = {}
    for key, messages, size in found:
        assert key not in read
        assert not size or {*map(len, messages)} == {size}
        read[key] = []
        for message in messages:
            data_message = amt.read(bytes(message))
            assert isinstance(data_message, amt.TunnelData)
            inside = read_ip(data_message.packet)
            assert inside is not None, "the checksum of the header is right"
            assert amt.build(data_message) == bytes(message)
            read[key].append(inside)
    assert read == expected
    assert dropped[TTL_TOO_LOW] == low == dropped.total()


def test_any_checksum_is_changed_as_it_should_be() -> None:
    memory = RowMemory(memoryview(bytearray(24 + 64 * 256)))
    uppers = set()
    for rows in rows_of([packet(identification=number) for number in range(0, 1 << 16, 7)], memory, 64, 4):
        ((_, messages, _),) = encapsulate(rows, Counter())
        for message in map(bytes, messages):
            assert read_ip(message[2:]) is not None
            assert message[12:14] != b"\xff\xff"
            uppers.add(message[12])
    assert len(uppers) == 256


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=ROWS), st.sampled_from([4, 6]))
def test_any_bytes_are_taken_and_counted(packets: list[bytes], version: int) -> None:
    dropped: Counter[str] = Counter()
    (rows,) = laid(packets, version)
    found = encapsulate(rows, dropped)
    assert sum(len(messages) for _, messages, _ in found) + dropped.total() == len(packets)
    assert {*dropped} <= {TTL_TOO_LOW, MALFORMED}
    for _, messages, _ in found:
        for message in messages:
            assert len(message) <= 2 + 80
            assert message[2] >> 4 == version


def test_of_a_packet_that_says_more_than_came_there_is_no_message() -> None:
    dropped: Counter[str] = Counter()
    (rows,) = laid([packet(body=bytes(100))[:-1], packet()])
    ((_, messages, _),) = encapsulate(rows, dropped)
    assert ([bytes(message[22:]) for message in messages], dropped) == ([b"12345678"], {MALFORMED: 1})


def test_more_than_memory_holds_comes_in_parts() -> None:
    sent = [packet(body=b"%08d" % number) for number in range(2 * ROWS + 3)]
    memory = RowMemory(memoryview(bytearray(24 + STRIDE * ROWS)))
    found = []
    for rows in rows_of(sent, memory, STRIDE, 4):
        for _, messages, _ in encapsulate(rows, Counter()):
            found += [bytes(message[22:]) for message in messages]
    assert found == [b"%08d" % number for number in range(2 * ROWS + 3)]


def test_what_does_not_fit_is_cut_or_left_out() -> None:
    small, large, six = packet(), packet(body=bytes(1500)), packet(S6, G6, body=bytes(1500))
    may_be_cut = bytearray(large)
    assert may_be_cut[6] == 0x40
    may_be_cut[6] = 0
    checksum = int.from_bytes(may_be_cut[10:12]) + 0x4000
    may_be_cut[10:12] = (checksum % 0xFFFF).to_bytes(2)
    messages = [b"\x06\x00" + one for one in (small, large, bytes(may_be_cut), six)]
    found, cut, left_out = fitting(messages, 1470)
    assert (cut, left_out, len(found)) == (1, [messages[1], messages[3]], 3)
    assert found[0] == messages[0]
    read = [read_ip(bytes(one[2:])) for one in found]
    assert [one and one.fragment for one in read] == [None, (0, 0, True), (0, 1448, False)]
    assert all(len(one) <= 1472 for one in found)
    assert fitting(messages[:1], len(small)) == (messages[:1], 0, [])
    assert fitting(messages[3:], 1540) == (messages[3:], 0, [])


@pytest.mark.parametrize(("version", "source", "group"), [(4, S1, G1), (6, S6, G6)])
def test_packets_that_are_alike_are_known_to_be_so(version: int, source: Address, group: Address) -> None:
    alike = [packet(source, group, body=b"%08d" % number) for number in range(ROWS)]
    ((_, messages, size),) = encapsulate(laid(alike, version, 6)[0], Counter())
    assert (size, len(messages)) == (2 + len(alike[0]), ROWS)
    others = [packet(source, group, body=bytes(number)) for number in range(ROWS)]
    ((_, messages, size),) = encapsulate(laid(others, version)[0], Counter())
    assert (size, len(messages)) == (0, ROWS)
    dropped: Counter[str] = Counter()
    cut = [one[:-1] if row == 7 else one for row, one in enumerate(alike)]
    ((_, messages, size),) = encapsulate(laid(cut, version)[0], dropped)
    assert (size, len(messages), dropped) == (0, ROWS - 1, {MALFORMED: 1})
