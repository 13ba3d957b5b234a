"""Announcements: ours is as RFC 2974 draws it and as tshark reads it, others' are read, bombs are not."""

from __future__ import annotations

import zlib
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.captures import packets

from mcastd.ip import Address
from mcastd.protocols import pcapng, sap
from mcastd.protocols.lct import Malformed
from mcastd.protocols.sap import SapPacket, build, group_for, message_of, parse

IPV4, IPV6 = IPv4Address("192.0.2.9"), IPv6Address("2001:db8::9")
DESCRIPTION = (
    b"v=0\r\no=mcastd 4711 17 IN IP4 192.0.2.9\r\ns=News\r\nc=IN IP4 239.192.1.2/8\r\nt=0 0\r\n"
    b"m=video 5004 RTP/AVP 33\r\n"
)
TYPE = b"application/sdp\0"


def refusal(packet: bytes) -> str:
    with pytest.raises(Malformed) as refused:
        parse(packet)
    return refused.value.reason


def header(flags: int, words: int = 0, origin: Address = IPV4) -> bytes:
    return bytes([flags, words, 0x12, 0x34]) + origin.packed


def test_what_is_built_is_as_the_rfc_draws_it() -> None:
    assert build(IPV4, 0xABCD, b"v=0") == b"\x20\0\xab\xcd\xc0\0\x02\x09application/sdp\0v=0"
    assert build(IPV4, 7, b"o=", deletion=True)[:4] == b"\x24\0\0\x07"
    assert build(IPV6, 7, b"v=0")[:20] == b"\x30\0\0\x07" + IPV6.packed


@pytest.mark.parametrize("origin", [IPV4, IPV6])
@pytest.mark.parametrize("deletion", [False, True])
def test_what_is_built_is_read_the_same(origin: Address, deletion: bool) -> None:
    packet = build(origin, 0x1234, DESCRIPTION, deletion=deletion)
    assert parse(packet) == SapPacket(origin, 0x1234, deletion, DESCRIPTION)


def test_forms_that_others_send() -> None:
    expected = SapPacket(IPV4, 0x1234, deletion=False, payload=DESCRIPTION)
    assert parse(header(0x20) + DESCRIPTION) == expected, "without a type"
    assert parse(header(0x28) + b"Application/SDP\0" + DESCRIPTION) == expected, "R is ignored"
    assert parse(header(0x20, words=3) + 12 * b"\xff" + TYPE + DESCRIPTION) == expected, "authenticated"
    assert parse(header(0x21) + zlib.compress(TYPE + DESCRIPTION)) == expected
    assert parse(header(0x21, words=1) + b"v=0." + zlib.compress(DESCRIPTION)) == expected
    deletion = parse(header(0x34, origin=IPV6) + b"o=- 1 2 IN IP6 ::1\r\n")
    assert (deletion.origin, deletion.deletion, deletion.payload[:3]) == (IPV6, True, b"o=-")


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "too-short"),
        (b"\x20\0\0", "too-short"),
        (header(0x20)[:-1], "too-short"),
        (header(0x30), "too-short"),
        (header(0x20, words=255) + 1019 * b"x", "too-short"),
        (header(0x00) + DESCRIPTION, "version"),
        (header(0x40) + DESCRIPTION, "version"),
        (header(0x22) + DESCRIPTION, "encrypted"),
        (header(0x23) + zlib.compress(DESCRIPTION), "encrypted"),
        (header(0x20), "payload-type"),
        (header(0x20) + b"text/plain\0v=0", "payload-type"),
        (header(0x20) + 300 * b" " + TYPE + b"v=0", "payload-type"),
        (header(0x20) + TYPE[:-1], "payload-type"),
        (header(0x20) + TYPE + 17_000 * b"x", "too-long"),
        (header(0x21) + b"x" + zlib.compress(DESCRIPTION), "compression"),
        (header(0x21) + zlib.compress(TYPE + DESCRIPTION)[:-2], "compression"),
        (header(0x21), "compression"),
    ],
)
def test_what_is_refused(packet: bytes, reason: str) -> None:
    assert refusal(packet) == reason


def test_a_bomb_is_not_set_off() -> None:
    """A thousandth of the 20 MB of zeros is made."""
    bomb = header(0x21) + zlib.compress(TYPE + bytes(20_000_000), 9)
    assert len(bomb) < 60_000
    assert refusal(bomb) == "too-long"


def test_a_message_is_another_one_after_a_change() -> None:
    changed = DESCRIPTION.replace(b" 17 ", b" 18 ")
    assert 0 < message_of(DESCRIPTION) != message_of(changed) < 1 << 16
    assert message_of(b"") == 1


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("224.0.0.77", "224.0.0.255"),
        ("224.2.128.1", "224.2.127.254"),
        ("232.1.2.3", "224.2.127.254"),
        ("239.191.1.1", "239.255.255.255"),
        ("239.192.0.1", "239.195.255.255"),
        ("239.195.9.9", "239.195.255.255"),
        ("239.196.0.1", "239.255.255.255"),
        ("239.255.7.7", "239.255.255.255"),
        ("ff12::1234", "ff02::2:7ffe"),
        ("ff15::1", "ff05::2:7ffe"),
        ("ff3e::8000:1", "ff0e::2:7ffe"),
    ],
)
def test_where_a_group_is_announced(group: str, expected: str) -> None:
    assert group_for(ip_address(group)) == ip_address(expected)
    assert ip_address(expected) in sap.GROUPS


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=64), st.sampled_from([b"", header(0x20), header(0x21), header(0x35), header(0x20, 1)])
)
def test_any_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    with suppress(Malformed):
        assert len(parse(start + data).payload) < 64 << 10


def test_tshark_reads_it(tmp_path: Path) -> None:
    fields = ("sap.flags.t", "sap.message_identifier_hash", "sap.originating_source", "sdp.session_name")
    fields += ("sdp.media.port_string", "sdp.connection_info.address")
    announced, deleted = (build(IPV4, 0x1A2B, DESCRIPTION, deletion=gone) for gone in (False, True))
    capture = tmp_path / "sap.pcapng"
    blocks = [pcapng.section("", "test"), pcapng.interface("x", "")]
    for packet in (announced, deleted):
        headers = pcapng.udp_headers(
            (IPV4, 40_000), (IPv4Address("239.195.255.255"), sap.PORT), 8, len(packet)
        )
        frame = pcapng.Frame(0, headers, len(packet))
        blocks += [frame.before(1, packet), packet, frame.after]
    capture.write_bytes(b"".join(blocks))
    first, second = packets(capture, *fields)
    assert first == ("0", "0x1a2b", "192.0.2.9", "News", "5004", "239.192.1.2")
    assert second[:3] == ("1", "0x1a2b", "192.0.2.9")
