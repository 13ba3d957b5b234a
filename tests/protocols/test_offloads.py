"""What a network card would have done is done as the kernel would do it."""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.ip import Address
from mcastd.protocols.internet import UDP, IpPacket, build_ip, internet_checksum, read_ip
from mcastd.protocols.offloads import complete_checksum, datagrams_of

ENDS = [tuple(map(ip_address, ends)) for ends in (("203.0.113.1", "232.1.1.1"), ("2001:db8::1", "ff3e::1"))]
PORTS = struct.pack("!HH", 4711, 5004)


def pseudo(source: Address, group: Address, length: int) -> bytes:
    return source.packed + group.packed + struct.pack("!II", length, UDP)


def udp_sum(packet: IpPacket) -> int:
    """0 if the checksum is right."""
    return internet_checksum(pseudo(packet.source, packet.destination, len(packet.body)) + packet.body)


@given(st.sampled_from(ENDS), st.binary(max_size=300))
def test_a_partial_checksum_is_completed(ends: tuple[Address, Address], payload: bytes) -> None:
    length = 8 + len(payload)
    partial = internet_checksum(pseudo(*ends, length)) ^ 0xFFFF
    body = PORTS + struct.pack("!HH", length, partial) + payload
    packet = bytearray(build_ip(IpPacket(*ends, UDP, 9, body)))
    complete_checksum(packet, len(packet) - length, 6)
    read = read_ip(bytes(packet))
    assert read is not None
    assert udp_sum(read) == 0
    assert read.body[6:8] != b"\0\0", "which would say that there is none"
    assert read.body[8:] == payload


@given(st.sampled_from(ENDS), st.binary(min_size=1, max_size=2000), st.integers(1, 700))
def test_segments_are_the_datagrams_that_were_sent(
    ends: tuple[Address, Address], payload: bytes, size: int
) -> None:
    body = PORTS + struct.pack("!HH", 8 + len(payload), 0x1234) + payload
    packet = build_ip(IpPacket(*ends, UDP, 9, body))
    found = [*datagrams_of(packet, len(packet) - len(body), size)]
    read = [read_ip(one) for one in found]
    payloads = []
    for one in read:
        assert one is not None
        assert (one.source, one.destination, one.ttl, udp_sum(one)) == (*ends, 9, 0)
        assert one.body[:4] == PORTS
        assert int.from_bytes(one.body[4:6]) == len(one.body)
        payloads.append(one.body[8:])
    assert b"".join(payloads) == payload
    assert {len(one) for one in payloads[:-1]} <= {size}
    if ends[0].version == 4:
        assert [int.from_bytes(one[4:6]) for one in found] == [*range(len(found))]


def test_what_is_too_short_is_an_error() -> None:
    with pytest.raises((IndexError, struct.error)):
        complete_checksum(bytearray(20), 20, 6)


@given(st.binary(max_size=200), st.sampled_from([0x45, 0x60, 0]), st.integers(-20, 300), st.integers(0, 300))
def test_any_bytes_are_finished_or_are_an_error(rest: bytes, first: int, start: int, size: int) -> None:
    """Those errors that a tap takes for malformed packets, and no others."""
    packet = bytes([first]) + rest
    with suppress(IndexError, KeyError, ValueError, struct.error):
        assert len([*datagrams_of(packet, start, size)]) <= len(packet)
    with suppress(IndexError, KeyError, ValueError, struct.error):
        complete_checksum(changed := bytearray(packet), start, size)
        assert len(changed) == len(packet)
