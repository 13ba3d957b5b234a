"""Where the datagram is in a packet of a capture, whatever is before it."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.protocols.captured_packets import ETHERNET, LINKS, Fault, Unusable
from mcastd.protocols.pcapng import udp_headers

V4 = udp_headers((ip_address("192.0.2.7"), 40123), (ip_address("239.255.1.2"), 9190), 5, 7)
V6 = udp_headers((ip_address("2001:db8::7"), 40124), (ip_address("ff15::2"), 9191), 5, 7)
TO_V4 = ip_address("239.255.1.2").packed, 9190
TO_V6 = ip_address("ff15::2").packed, 9191
PAYLOAD = b"payload"
MACS = bytes(range(1, 13))
BEFORE = {  # by link type and version of IP
    (0, 4): b"\2\0\0\0",
    (0, 6): b"\x1e\0\0\0",
    (108, 4): b"\0\0\0\2",
    (108, 6): b"\0\0\0\x1e",
    (101, 4): b"",
    (101, 6): b"",
    (12, 4): b"",
    (12, 6): b"",
    (14, 4): b"",
    (228, 4): b"",
    (229, 6): b"",
    (1, 4): MACS + b"\x08\0",
    (1, 6): MACS + b"\x86\xdd",
    (113, 4): b"\0\1\0\1\0\6" + bytes(8) + b"\x08\0",
    (113, 6): b"\0\1\0\1\0\6" + bytes(8) + b"\x86\xdd",
    (276, 4): b"\x08\0\0\0\0\0\0\3\0\1\0\6" + bytes(8),
    (276, 6): b"\x86\xdd\0\0\0\0\0\3\0\1\0\6" + bytes(8),
}


def found(packet: bytes, link: int = 101, *, cut: int = 0) -> tuple[bytes, bytes, int] | Fault | None:
    """The payload of a packet with others around it, and where that went to."""
    data = b"\x45before" + packet + b"after"
    datagram = LINKS[link].datagram(data, 7, 7 + len(packet) - cut)
    if datagram is None or isinstance(datagram, Fault):
        return datagram
    start, stop, destination, port = datagram
    assert stop <= 7 + len(packet) - cut
    return data[start:stop], destination, port


def changed(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


@pytest.mark.parametrize(("link", "version"), BEFORE)
def test_behind_each_link_and_ip_version(link: int, version: int) -> None:
    ip, to = (V4, TO_V4) if version == 4 else (V6, TO_V6)
    packet = BEFORE[link, version] + ip + PAYLOAD
    assert found(packet, link) == (PAYLOAD, *to)
    assert found(packet + b"padding", link) == (PAYLOAD, *to)  # Ethernet has 60 bytes at least
    for cut in range(1, len(packet) + 1):
        fault = found(packet, link, cut=cut)
        assert isinstance(fault, Fault)
        assert (fault.reason, fault.destination) in {(Unusable.SNAPPED, to[0]), (Unusable.SNAPPED, b"")}


@pytest.mark.parametrize(
    "tags", [b"\x81\0\0\7", b"\x88\xa8\0\5\x81\0\x45\7", b"\x91\0\0\1\x81\0\0\2\x81\0\0\3"]
)
def test_behind_vlan_tags(tags: bytes) -> None:
    packet = MACS + tags + b"\x08\0" + V4 + PAYLOAD
    assert found(packet, ETHERNET) == (PAYLOAD, *TO_V4)
    cooked = bytes(14) + tags + b"\x86\xdd" + V6 + PAYLOAD
    assert found(cooked, 113) == (PAYLOAD, *TO_V6)
    assert found(packet, ETHERNET, cut=len(packet) - 14) == Fault(Unusable.SNAPPED, b"")


PPPOE = b"\x11\0\0\7\0\x25"  # version and type, code, session, length


@pytest.mark.parametrize(
    ("before", "version"),
    [
        (b"\x88\x64" + PPPOE + b"\0\x21", 4),
        (b"\x88\x64" + PPPOE + b"\0\x57", 6),
        (b"\x81\0\0\7\x88\x64" + PPPOE + b"\0\x21", 4),
        (b"\x88\x47\0\1\1\x40", 4),
        (b"\x88\x48\0\1\0\x40\0\2\1\x41", 6),
    ],
)
def test_behind_pppoe_and_labels(before: bytes, version: int) -> None:
    ip, to = (V4, TO_V4) if version == 4 else (V6, TO_V6)
    packet = MACS + before + ip + PAYLOAD
    assert found(packet, ETHERNET) == (PAYLOAD, *to)
    for cut in range(1, len(packet) - len(MACS) - 1):
        fault = found(packet, ETHERNET, cut=cut)
        assert isinstance(fault, Fault)
        assert fault.reason == Unusable.SNAPPED


def test_control_of_ppp_is_no_datagram() -> None:
    assert found(MACS + b"\x88\x64" + PPPOE + b"\xc0\x21" + V4 + PAYLOAD, ETHERNET) is None


def extended(*headers: tuple[int, bytes], udp: bytes = V6[40:] + PAYLOAD) -> bytes:
    """An IPv6 packet with extension headers: each by number, and without the next one's."""
    kinds = [number for number, _ in headers] + [17]
    body = b"".join(bytes([kinds[n + 1]]) + rest for n, (_, rest) in enumerate(headers)) + udp
    return changed(changed(V6[:40], 4, struct.pack(">H", len(body))), 6, bytes([kinds[0]])) + body


def test_behind_extension_headers_and_options() -> None:
    eight, sixteen = b"\0" + bytes(6), b"\1" + bytes(14)
    for number in (0, 43, 60, 135, 139, 140):
        assert found(extended((number, eight))) == (PAYLOAD, *TO_V6)
        assert found(extended((number, sixteen), (60, eight))) == (PAYLOAD, *TO_V6)
    assert found(extended((51, b"\4" + bytes(22)))) == (PAYLOAD, *TO_V6)  # 24 bytes, in units of 4
    atomic = b"\0\0\0\1\2\3\4"  # a fragment that is all of the packet: RFC 6946
    assert found(extended((0, eight), (44, atomic))) == (PAYLOAD, *TO_V6)
    assert found(extended((50, bytes(7)))) is None  # ESP
    assert found(extended((59, b""))) is None  # no next header
    options = b"\x94\4\0\0"  # router alert
    packet = bytes([0x46]) + V4[1:2] + struct.pack(">H", 24 + 8 + 7) + V4[4:20] + options + V4[20:] + PAYLOAD
    assert found(packet) == (PAYLOAD, *TO_V4)


@pytest.mark.parametrize("flags", [b"\x20\0", b"\0\1", b"\x3f\xff", b"\x60\0"])
def test_fragments_of_ipv4(flags: bytes) -> None:
    assert found(changed(V4, 6, flags) + PAYLOAD) == Fault(Unusable.FRAGMENT, TO_V4[0])


@pytest.mark.parametrize("offset", [b"\0\1", b"\0\x08", b"\xff\xf9"])
def test_fragments_of_ipv6(offset: bytes) -> None:
    packet = extended((60, bytes(7)), (44, b"\0" + offset + bytes(4)))
    assert found(packet) == Fault(Unusable.FRAGMENT, TO_V6[0])


def test_what_is_not_of_udp() -> None:
    assert found(changed(V4, 9, b"\6") + PAYLOAD) is None
    assert found(changed(V6, 6, b"\x3a") + PAYLOAD) is None
    assert found(b"\x15" + V4[1:] + PAYLOAD) is None  # version 1
    for kind in (b"\x08\6", b"\x88\x47", b"\0\x26"):
        assert found(MACS + kind + V4 + PAYLOAD, ETHERNET) is None
        assert found(MACS + b"\x81\0\0\7" + kind + V4 + PAYLOAD, ETHERNET) is None


@pytest.mark.parametrize(
    ("packet", "to"),
    [
        (changed(V4, 0, b"\x44"), TO_V4),  # a header of 16 bytes
        (changed(V4, 2, struct.pack(">H", 27)), TO_V4),  # no room for UDP's
        (changed(V4, 2, struct.pack(">H", 34)), TO_V4),  # a byte less than UDP says
        (changed(V4, 2, b"\0\0"), TO_V4),
        (changed(V4, 24, b"\0\7"), TO_V4),
        (changed(V4, 24, b"\0\0"), TO_V4),
        (changed(V4, 24, b"\xff\xff"), TO_V4),
        (changed(V6, 4, b"\0\0"), TO_V6),
        (changed(V6, 4, b"\0\x0e"), TO_V6),
        (changed(V6, 44, b"\0\7"), TO_V6),
        (changed(V6, 44, b"\xff\xff"), TO_V6),
    ],
)
def test_lengths_that_contradict_each_other(packet: bytes, to: tuple[bytes, int]) -> None:
    assert found(packet + PAYLOAD) == Fault(Unusable.MALFORMED, to[0])


def test_lengths_that_claim_more_than_was_captured() -> None:
    longer = changed(changed(V4, 2, struct.pack(">H", 36)), 24, struct.pack(">H", 16))
    assert found(longer + PAYLOAD) == Fault(Unusable.SNAPPED, TO_V4[0])
    header = extended((0, b"\xff" + bytes(6)))  # 2048 bytes
    assert found(changed(header, 4, b"\xff\xff")) == Fault(Unusable.SNAPPED, TO_V6[0])
    assert found(header) == Fault(Unusable.MALFORMED, TO_V6[0])


def test_an_empty_datagram() -> None:
    v4 = udp_headers((ip_address("192.0.2.7"), 40123), (ip_address("239.255.1.2"), 9190), 5, 0)
    assert found(v4) == (b"", *TO_V4)


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(BEFORE)),
    st.lists(st.tuples(st.integers(0, 70), st.binary(min_size=1, max_size=4)), max_size=4),
    st.integers(0, 80),
)
def test_any_packet_is_found_within_its_bounds(
    kind: tuple[int, int], changes: list[tuple[int, bytes]], cut: int
) -> None:
    link, version = kind
    packet = BEFORE[kind] + (V4 if version == 4 else V6) + PAYLOAD
    for at, value in changes:
        packet = changed(packet, min(at, len(packet)), value)
    data = packet + bytes(range(200))
    datagram = LINKS[link].datagram(data, 0, stop := max(0, len(packet) - cut))
    if datagram is not None and not isinstance(datagram, Fault):
        begin, end, destination, port = datagram
        assert 28 <= begin <= end <= stop
        assert (len(destination), port) in {(4, port), (16, port)}
