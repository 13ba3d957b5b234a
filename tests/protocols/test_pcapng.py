"""Captures that are written, as others read them."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.captures import about, packets

from mcastd.clock import NANO
from mcastd.protocols import pcapng
from mcastd.protocols.pcapng import BLOCK_MAX_BYTES, Frame, udp_headers

V4 = (ip_address("192.0.2.7"), 40123), (ip_address("239.255.1.2"), 9190)
V6 = (ip_address("2001:db8::7"), 40124), (ip_address("ff15::2"), 9191)
TIME = 1_764_019_199_123_456_789
CHECKED = ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
SECTION = pcapng.section("Linux 6.1", "mcastd 1.2.3")
FILE = SECTION + pcapng.interface("eth3", "inbound/tv")


def packet(ends: tuple[pcapng.Endpoint, pcapng.Endpoint], payload: bytes, number: int = 0) -> bytes:
    frame = Frame(number, udp_headers(*ends, 5, len(payload)), len(payload))
    return frame.before(TIME, payload) + payload + frame.after


def written(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(b"".join(blocks))
    return path


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 1316, 65_507])
def test_packets_of_both_families_are_what_tshark_reads(tmp_path: Path, size: int) -> None:
    payload = bytes(range(1, 252)) * (size // 251) + bytes(range(1, 1 + size % 251))
    path = written(tmp_path / "c", FILE, packet(V4, payload), packet(V6, payload))
    fields = "ip.src", "ip.dst", "ip.ttl", "ipv6.src", "ipv6.dst", "ipv6.hlim", "udp.srcport", "udp.dstport"
    v4, v6 = packets(path, *fields, "udp.payload", "ip.checksum.status", options=CHECKED)
    assert v4[:8] == ("192.0.2.7", "239.255.1.2", "5", "", "", "", "40123", "9190")
    assert v6[:8] == ("", "", "", "2001:db8::7", "ff15::2", "5", "40124", "9191")
    assert [one[8] for one in (v4, v6)] == [payload.hex()] * 2
    assert v4[9] == "1"  # good
    ((_, none), (_, good)) = packets(path, "ip.src", "udp.checksum.status", options=CHECKED)
    assert (none, good) == ("3", "1")  # not there, good
    times = packets(path, "frame.time_epoch", "frame.interface_name", "frame.interface_description")
    assert times == [("1764019199.123456789", "eth3", "inbound/tv")] * 2


def test_a_section_says_who_wrote_it_and_dpkt_reads_it(tmp_path: Path) -> None:
    path = written(tmp_path / "c", FILE, packet(V4, b"news"), packet(V6, b"more"))
    said = about(path)
    assert "mcastd 1.2.3" in said
    assert "Linux 6.1" in said
    with path.open("rb") as file:
        reader = dpkt.pcapng.Reader(file)
        read = [(time, data[0] >> 4) for time, data in reader]
    assert read == [(pytest.approx(TIME / NANO, abs=1e-6), version) for version in (4, 6)]


def test_what_was_dropped_is_noted_at_the_packet_after_it(tmp_path: Path) -> None:
    headers = udp_headers(*V4, 5, 3)
    before, after = Frame(0, headers, 3).noted(TIME, b"abc", 13)
    path = written(
        tmp_path / "c", FILE, packet(V4, b"ab"), before, b"abc", after, pcapng.statistics(0, TIME, 20)
    )
    comments = packets(path, "frame.comment", "udp.payload")
    assert comments == [
        ("", "6162"),
        ("the kernel dropped 13 before this: the receive buffer was full", "616263"),
    ]
    assert b"\x04\0\x08\0" + (13).to_bytes(8, "little") in after  # epb_dropcount, which tshark does not show
    assert "Number of packets:   2" in about(path)


def test_a_second_interface_and_a_second_section(tmp_path: Path) -> None:
    more = pcapng.interface("wg\udcff0", "b")
    path = written(
        tmp_path / "c", FILE, more, packet(V4, b"1", 1), packet(V4, b"2"), SECTION, more, packet(V6, b"3")
    )
    names = packets(path, "frame.interface_name", "udp.payload")
    assert names[:2] == [("wg?0", "31"), ("eth3", "32")]
    # tshark 4.0 looks up the name by the number alone, in the first section
    assert names[2][1] == "33"
    with path.open("rb") as file:
        assert len(list(dpkt.pcapng.Reader(file))) == 3


# -- the end of a file


def whole(data: bytes) -> int | None:
    return pcapng.whole(lambda offset, length: data[offset : offset + length], len(data))


def test_a_file_is_whole_or_its_last_block_is_cut(tmp_path: Path) -> None:
    blocks = [SECTION, pcapng.interface("eth3", ""), packet(V4, b"x" * 100), packet(V6, b"")]
    data = b"".join(blocks)
    ends = [len(b"".join(blocks[:n])) for n in range(1, 5)]
    for size in range(1, len(data) + 1):
        end = whole(data[:size])
        assert end == max((e for e in ends if e <= size), default=0)
    path = written(tmp_path / "c", data[:-5])
    assert subprocess.run(
        ["capinfos", path], capture_output=True, check=False
    ).returncode  # it is cut, to others too
    path.write_bytes(data[: whole(data[:-5])])
    assert "Number of packets:   1" in about(path)


def test_what_is_no_capture_of_this_kind_is_left_alone() -> None:
    big_endian = bytes.fromhex("0a0d0d0a0000001c1a2b3c4d00010000ffffffffffffffff0000001c")
    for data in (b"news\n", b"{}", SECTION[1:], b"\n\r\r\n" + bytes(50), big_endian + b"torn"):
        assert whole(data) in {None, 0}
    assert whole(b"a") is None
    assert whole(big_endian + b"torn") is None
    damaged = FILE + bytes(BLOCK_MAX_BYTES + 1)
    assert whole(damaged) is None
    assert whole(damaged[:-1]) == len(FILE)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_behind_a_section_end_at_a_block_or_are_refused(tail: bytes, cut: int) -> None:
    data = (FILE + tail)[: len(FILE) + len(tail) - cut]
    end = whole(data)
    assert end is None or 0 <= end <= len(data)


@given(st.binary(max_size=50))
def test_the_checksum_of_ipv6_is_the_sum_that_rfc_1071_describes(payload: bytes) -> None:
    block = packet(V6, payload)
    ip = block[28 : 28 + 40 + 8 + len(payload)]
    pseudo = ip[8:40] + (8 + len(payload)).to_bytes(4) + b"\0\0\0\x11"
    words = pseudo + ip[40:] + b"\0" * (len(payload) % 2)
    total = sum(int.from_bytes(words[n : n + 2]) for n in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
