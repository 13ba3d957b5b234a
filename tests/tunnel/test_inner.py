"""What is inside the packets of a tunnel: datagrams as scapy-free bytes of the test's own, and any bytes."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.amt_relay import GROUP, SOURCE, SOURCE_6, datagram
from support.packets import ip4

from mcastd.protocols.internet import UDP, IpPacket, build_ip, internet_checksum
from mcastd.tunnel.inner import BAD_CHECKSUM, FRAGMENT, MALFORMED, NOT_MULTICAST, NOT_UDP, InnerDatagrams

V4, V6 = (SOURCE, GROUP), (SOURCE_6, ip_address("ff3e::1"))


def reading() -> tuple[InnerDatagrams, Counter[str]]:
    dropped: Counter[str] = Counter()
    return InnerDatagrams(dropped), dropped


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize("payload", [b"", b"x", b"media" * 263])
def test_a_datagram_is_read_with_all_that_is_known_of_it(ends: tuple, payload: bytes) -> None:  # type: ignore[type-arg]
    inner, dropped = reading()
    assert inner.read(datagram(payload, ends[1]) + b"padding", 0.0) == (
        *(ends[1], 5004, ends[0], 4711, 9),
        payload,
    )
    assert not dropped


def test_a_datagram_without_a_checksum_is_good_and_one_with_a_wrong_one_is_not() -> None:
    inner, dropped = reading()
    got = inner.read(datagram(b"news", checksum=0), 0.0)
    assert got is not None
    assert got.payload == b"news"
    for ends in (V4, V6):
        assert inner.read(datagram(b"news", ends[1], checksum=4711), 0.0) is None
    assert dropped == {BAD_CHECKSUM: 2}


def test_what_is_none_is_dropped_by_reason() -> None:
    inner, dropped = reading()
    unicast = ip_address("192.0.2.1")
    good = datagram(b"news")
    long = good[:24] + struct.pack("!H", 500) + good[26:]
    for data, reason in (
        (b"", MALFORMED),
        (good[:30], MALFORMED),
        (long, MALFORMED),
        (ip4("232.1.1.1", "0102"), NOT_UDP),
        (build_ip(IpPacket(*V4, UDP, 9, b"1234567")), MALFORMED),
        (datagram(b"news", unicast), NOT_MULTICAST),
    ):
        before = dropped.copy()
        assert inner.read(data, 0.0) is None
        assert dropped - before == {reason: 1}


def test_fragments_are_one_datagram_and_what_is_missing_of_it_is_counted() -> None:
    inner, dropped = reading()
    packet = datagram(b"media" * 500)
    body = packet[20:]

    def piece(at: int, size: int, more: bool) -> bytes:
        part = body[at : at + size]
        head = bytearray(packet[:20])
        head[2:4] = (20 + len(part)).to_bytes(2)
        head[4:8] = struct.pack("!HH", 77, (0x2000 if more else 0) | at // 8)
        head[10:12] = bytes(2)
        head[10:12] = internet_checksum(bytes(head)).to_bytes(2)
        return bytes(head) + part

    first, second = piece(0, 1480, True), piece(1480, 2000, False)
    assert inner.read(second, 0.0) is None
    got = inner.read(first, 0.0)
    assert got is not None
    assert got.payload == b"media" * 500
    assert inner.read(first, 0.0) is None
    assert inner.held == 1
    inner.expire(inner.deadline)
    assert dropped == {FRAGMENT: 1}


@given(st.binary(max_size=100), st.sampled_from([b"", b"E", b"`"]))
def test_any_bytes_are_read_as_something_or_counted(data: bytes, first: bytes) -> None:
    inner, dropped = reading()
    got = inner.read(first + data, 0.0)
    assert (got is not None) + dropped.total() + inner.held == 1
