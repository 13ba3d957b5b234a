"""What senders of packets that are too long are told, and of which packets nobody may be told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.ip import Address
from mcastd.protocols.icmp import ICMP, too_big
from mcastd.protocols.internet import ICMPV6, IGMP, UDP, IpPacket, build_ip, internet_checksum

ENDS = {
    4: (ip_address("203.0.113.1"), ip_address("232.1.1.1")),
    6: (ip_address("2001:db8::1"), ip_address("ff3e::1")),
}
HEADERS = {4: 20, 6: 40}
LONGEST = {4: 576, 6: 1280}
BOTH = pytest.mark.parametrize("version", [4, 6])


def packet(version: int, size: int, protocol: int = UDP, source: Address | None = None) -> bytes:
    ends = ENDS[version]
    body = bytes(number % 251 for number in range(size - HEADERS[version]))
    return build_ip(IpPacket(source or ends[0], ends[1], protocol, 7, body))


@BOTH
@pytest.mark.parametrize("size", [600, 1460, 9000])
def test_the_message_has_the_length_that_goes_and_the_beginning_of_the_packet(
    version: int, size: int
) -> None:
    sent = packet(version, size)
    message = too_big(sent, 570)
    assert message is not None
    head, quoted = message[:8], message[8:]
    if version == 4:
        assert (head[:2], head[4:]) == (b"\x03\x04", (570).to_bytes(4))
        assert internet_checksum(message) == 0
    else:  # the kernel has the checksum to fill in
        assert head == b"\x02\x00\x00\x00" + (570).to_bytes(4)
    assert sent.startswith(quoted)
    assert len(quoted) >= HEADERS[version] + 8, "the ports are in it"
    whole = HEADERS[version] + len(message)
    assert whole == min(size, LONGEST[version])


@BOTH
def test_nobody_is_told_of_what_is_icmp_itself_or_from_no_single_host(version: int) -> None:
    assert too_big(packet(version, 1460, IGMP), 1000) is not None
    assert too_big(packet(version, 1460, ICMP if version == 4 else ICMPV6), 1000) is None
    for source in {
        4: ("0.0.0.0", "127.0.0.1", "224.0.0.9", "255.255.255.255"),
        6: ("::", "::1", "fe80::1", "ff3e::9"),
    }[version]:
        assert too_big(packet(version, 1460, source=ip_address(source)), 1000) is None, source
    assert too_big(packet(4, 1460, source=ip_address("169.254.3.4")), 1000) is not None


def fragment(offset: int) -> bytes:
    changed = bytearray(packet(4, 1460))
    changed[6:8] = (0x4000 | offset).to_bytes(2)
    changed[10:12] = bytes(2)
    changed[10:12] = internet_checksum(bytes(changed[:20])).to_bytes(2)
    return bytes(changed)


def test_of_fragments_the_first_alone_is_told_of() -> None:
    assert too_big(fragment(0), 1000) is not None
    assert too_big(fragment(183), 1000) is None


@given(st.binary(max_size=120), st.integers(576, 65_535))
def test_any_bytes_are_taken(data: bytes, mtu: int) -> None:
    too_big(data, mtu)


@given(st.sampled_from([4, 6]), st.integers(0, 1500), st.data())
def test_what_is_changed_on_the_way_never_makes_a_longer_answer(
    version: int, size: int, data: st.DataObject
) -> None:
    sent = bytearray(packet(version, HEADERS[version] + size))
    for _ in range(data.draw(st.integers(0, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    message = too_big(bytes(sent), 576)
    if message is not None:
        header = HEADERS[sent[0] >> 4]
        assert header + len(message) <= max(len(sent), header + 8)


def test_the_packet_is_as_it_was_read() -> None:
    built = IpPacket(*ENDS[4], UDP, 7, bytes(1400))
    for one in (built, replace(built, ttl=3)):
        message = too_big(build_ip(one), 1000)
        assert message is not None
        assert message[8 + 8] == one.ttl
