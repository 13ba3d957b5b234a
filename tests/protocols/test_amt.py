"""Messages of AMT: to the byte, beside tshark, and any bytes."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.captures import packets
from support.packets import ip4
from support.wire import pcap

from mcastd.protocols.amt import (
    LINUX_P_FLAG,
    AmtMessage,
    GatewayAddress,
    RelayAdvertisement,
    RelayDiscovery,
    TunnelData,
    TunnelQuery,
    TunnelRequest,
    TunnelTeardown,
    TunnelUpdate,
    build,
    read,
)

NONCE, MAC = b"NoNc", b"AbCdEf"
GENERAL = ip4("224.0.0.1", "1100 CCCC 00000000 027d 0000")
REPORT = ip4("224.0.0.22", "2200 CCCC 0000 0001 04000000 ef010101")
V4, V6 = GatewayAddress(ip_address("192.0.2.9"), 2268), GatewayAddress(ip_address("2001:db8::9"), 54321)
WITH_MAC = MAC.hex() + NONCE.hex()
MESSAGES: dict[str, tuple[AmtMessage, str]] = {
    "discovery": (RelayDiscovery(NONCE), f"01000000{NONCE.hex()}"),
    "advertisement": (RelayAdvertisement(NONCE, V4.address), f"02000000{NONCE.hex()}c0000209"),
    "advertisement6": (
        RelayAdvertisement(NONCE, V6.address),
        f"02000000{NONCE.hex()}20010db8000000000000000000000009",
    ),
    "request": (TunnelRequest(NONCE, mld=False), f"03000000{NONCE.hex()}"),
    "request6": (TunnelRequest(NONCE, mld=True), f"03010000{NONCE.hex()}"),
    "query": (TunnelQuery(NONCE, MAC, GENERAL), f"0400{WITH_MAC}{GENERAL.hex()}"),
    "query, full": (TunnelQuery(NONCE, MAC, GENERAL, full=True), f"0402{WITH_MAC}{GENERAL.hex()}"),
    "query, gateway": (
        TunnelQuery(NONCE, MAC, GENERAL, gateway=V4),
        f"0401{WITH_MAC}{GENERAL.hex()}08dc{'00' * 12}c0000209",
    ),
    "update": (TunnelUpdate(NONCE, MAC, REPORT), f"0500{WITH_MAC}{REPORT.hex()}"),
    "data": (TunnelData(b"E packet"), f"0600{b'E packet'.hex()}"),
    "teardown": (TunnelTeardown(NONCE, MAC, V6), f"0700{WITH_MAC}d43120010db8000000000000000000000009"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_to_the_byte(name: str) -> None:
    message, expected = MESSAGES[name]
    assert build(message).hex() == expected
    assert read(bytes.fromhex(expected)) == message


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_cut_is_none(name: str) -> None:
    """Where a packet ends is for its own header to say; an address of 4 bytes is one of 16 that was cut."""
    message, expected = MESSAGES[name]
    whole = bytes.fromhex(expected)
    fixed = {TunnelQuery: 12, TunnelUpdate: 12, TunnelData: 1}.get(type(message), len(whole))
    for length in range(fixed):
        found = read(whole[:length])
        assert found is None or (length == 12 and name == "advertisement6")
    assert read(bytes([whole[0] | 0x10]) + whole[1:]) is None


def test_reserved_bits_are_not_looked_at() -> None:
    assert read(b"\x01\xff\xff\xff" + NONCE) == RelayDiscovery(NONCE)
    assert read(b"\x03\x7e\xff\xff" + NONCE) == TunnelRequest(NONCE, mld=False)
    assert read(b"\x04\xfc" + MAC + NONCE + GENERAL) == TunnelQuery(NONCE, MAC, GENERAL)
    assert read(b"\x05\xff" + MAC + NONCE + REPORT) == TunnelUpdate(NONCE, MAC, REPORT)
    assert read(b"\x06\xffpacket") == TunnelData(b"packet")


def test_linux_has_another_flag_for_mld() -> None:
    message = build(TunnelRequest(NONCE, mld=True), p_flag=LINUX_P_FLAG)
    assert message == b"\x03\x80\0\0" + NONCE
    assert read(message) == TunnelRequest(NONCE, mld=True)


def test_the_unspecified_and_the_loopback_address_of_ipv6_are_no_ipv4() -> None:
    for text in ("::", "::1"):
        teardown = TunnelTeardown(NONCE, MAC, GatewayAddress(IPv6Address(text), 7))
        assert read(build(teardown)) == teardown


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60))
def test_any_bytes_are_a_message_or_none(first: int, second: int, rest: bytes) -> None:
    for datagram in (rest, bytes([first & 0x0F, second]) + rest, bytes([first, second]) + rest):
        found = read(datagram)
        if found is not None:
            assert read(build(found)) == found


def test_tshark_reads_what_is_built(tmp_path: Path) -> None:
    sent = []
    for message, _ in MESSAGES.values():
        body = build(message)
        udp = struct.pack("!HHHH", 40000, 2268, 8 + len(body), 0) + body
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
        sent.append(head + IPv4Address("192.0.2.1").packed + IPv4Address("192.0.2.2").packed + udp)
    capture = tmp_path / "messages.pcap"
    capture.write_bytes(pcap(sent))
    fields = {
        "type": "amt.type",
        "discovery": "amt.discovery_nonce",
        "request": "amt.request_nonce",
        "relay4": "amt.relay_address.ipv4",
        "relay6": "amt.relay_address.ipv6",
        "p": "amt.request.p",
        "l": "amt.membership_query.l",
        "g": "amt.membership_query.g",
        "mac": "amt.response_mac",
        "port": "amt.gateway.port_number",
        "address": "amt.gateway.ip_address",
        "igmp": "igmp.type",
        "group": "igmp.maddr",
    }
    shown = packets(capture, *fields.values())
    told = [{key: text for key, text in zip(fields, of_packet, strict=True) if text} for of_packet in shown]
    nonce, mac = f"0x{NONCE.hex()}", f"0x{int.from_bytes(MAC):016x}"
    asked = {"request": nonce, "mac": mac, "group": "0.0.0.0"}
    assert told == [
        {"type": "1", "discovery": nonce},
        {"type": "2", "discovery": nonce, "relay4": "192.0.2.9"},
        {"type": "2", "discovery": nonce, "relay6": "2001:db8::9"},
        {"type": "3", "request": nonce, "p": "0"},
        {"type": "3", "request": nonce, "p": "1"},
        {"type": "4", **asked, "l": "0", "g": "0", "igmp": "0x11"},
        {"type": "4", **asked, "l": "1", "g": "0", "igmp": "0x11"},
        {"type": "4", **asked, "l": "0", "g": "1", "igmp": "0x11", "port": "2268", "address": "::192.0.2.9"},
        {"type": "5", **asked, "igmp": "0x22", "group": "239.1.1.1"},
        {"type": "6"},
        {"type": "7", "request": nonce, "mac": mac, "port": "54321", "address": "2001:db8::9"},
    ]
