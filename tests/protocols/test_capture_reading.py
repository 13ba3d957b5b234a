"""Captures that are read: of both formats, in any byte order and unit of time, cut, damaged, and made up."""

from __future__ import annotations

import struct
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.captures import packets
from support.programs import program

from mcastd.protocols import capture_reading, pcapng
from mcastd.protocols.capture_reading import (
    ALL,
    RECORD_MAX_BYTES,
    Break,
    CaptureReader,
    Selection,
)
from mcastd.protocols.pcapng import Frame, udp_headers

V4 = (ip_address("192.0.2.7"), 40123), (ip_address("239.255.1.2"), 9190)
V6 = (ip_address("2001:db8::7"), 40124), (ip_address("ff15::2"), 9191)
TIME = 1_764_019_199_123_456_789
SECTION = pcapng.section("Linux 6.1", "mcastd 1.2.3")
FILE = SECTION + pcapng.interface("eth3", "inbound/tv")
ETHERNET = bytes(range(12)) + b"\x08\0"


def ip_packet(payload: bytes, ends: tuple[pcapng.Endpoint, pcapng.Endpoint] = V4) -> bytes:
    return udp_headers(*ends, 5, len(payload)) + payload


def packet(payload: bytes, time: int = TIME, ends: tuple[pcapng.Endpoint, pcapng.Endpoint] = V4) -> bytes:
    frame = Frame(0, udp_headers(*ends, 5, len(payload)), len(payload))
    return frame.before(time, payload) + payload + frame.after


def pcap(
    *records: tuple[int, int, bytes], order: str = "<", magic: int = 0xA1B2C3D4, link: int = 101
) -> bytes:
    """A file of records: seconds, fraction, and packet."""
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 1 << 18, link)
    return head + b"".join(
        struct.pack(f"{order}IIII", seconds, fraction, len(data), len(data) + 5) + data
        for seconds, fraction, data in records
    )


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str) -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(order: str = "<", link: int = 101, snap: int = 0, **options: bytes) -> bytes:
    codes = {"resolution": 9, "offset": 14, "name": 2}
    described = b"".join(
        struct.pack(f"{order}HH", codes[name], len(value)) + value + bytes(-len(value) % 4)
        for name, value in options.items()
    )
    return block(1, struct.pack(f"{order}HHI", link, 0, snap) + described, order)


def enhanced(number: int, ticks: int, data: bytes, order: str = "<") -> bytes:
    fields = struct.pack(f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data) + 3)
    return block(6, fields + data, order)


def read(
    data: bytes, selection: Selection = ALL, piece: int = 1 << 16
) -> tuple[list[tuple[int, bytes]], CaptureReader]:
    """The times and payloads of a file, fed in pieces, and who has read them."""
    reader = CaptureReader(selection)
    recorded = [one for at in range(0, len(data), piece) for one in reader.feed(data[at : at + piece])]
    reader.finish()
    return [(time, bytes(payload)) for time, payload, *_ in recorded], reader


def broken(data: bytes) -> tuple[Break, int]:
    reader = read(data)[1]
    assert reader.broken is not None
    assert reader.broken.cause
    assert reader.feed(FILE + packet(b"more")) == []
    return reader.broken[:2]


# -- the formats


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_pcap(order: str, magic: int, unit: int, piece: int) -> None:
    records = (
        (5, 123_456, ip_packet(b"one")),
        (1 << 31, 7, ip_packet(b"", V6)),
        (4, 0, ip_packet(b"3" * 9000)),
    )
    data = pcap(*records, order=order, magic=magic, link=0x1000_0065)  # flags above the link type
    recorded, reader = read(data, piece=piece)
    assert recorded == [
        (5_000_000_000 + 123_456 * unit, b"one"),
        ((1 << 31) * 1_000_000_000 + 7 * unit, b""),
        (4_000_000_000, b"3" * 9000),
    ]
    assert reader.broken is None


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("piece", [1, 13, 1 << 16])
def test_pcapng_of_sections_that_differ(order: str, piece: int) -> None:
    other = "<>"[order == "<"]
    data = b"".join(
        (
            section(order),
            interface(order, 1, resolution=b"\x09"),
            interface(
                order, 101, resolution=b"\x8a", offset=struct.pack(f"{order}q", -7)
            ),  # 2 to the minus 10
            block(0x0BAD, b"of others" * 9, order),
            enhanced(1, 2049, ip_packet(b"binary"), order),
            enhanced(0, TIME, ETHERNET + ip_packet(b"nano"), order),
            section(other),
            interface(other, 101, name=b"eth7"),
            interface(other, 101, resolution=b"\x00"),
            enhanced(0, 1_000_003, ip_packet(b"micro"), other),
            enhanced(1, 12, ip_packet(b"whole"), other),
        )
    )
    recorded, reader = read(data, piece=piece)
    assert recorded == [
        (2_000_976_562 - 7_000_000_000, b"binary"),
        (TIME, b"nano"),
        (1_000_003_000, b"micro"),
        (12_000_000_000, b"whole"),
    ]
    assert (reader.broken, reader.skipped.total()) == (None, 0)


@pytest.mark.parametrize("order", "<>")
def test_old_and_simple_blocks(order: str) -> None:
    one, two = ip_packet(b"one"), ip_packet(b"twenty-two")
    old = struct.pack(f"{order}HHIIII", 0, 7, 0, 5_000_000, len(one), len(one) + 3) + one
    head = section(order) + interface(order, 101)
    recorded, _ = read(
        head + block(2, old, order) + block(3, struct.pack(f"{order}I", len(two)) + two, order)
    )
    assert recorded == [(5_000_000_000, b"one"), (5_000_000_000, b"twenty-two")]  # it has no time
    snapped = section(order) + interface(order, 101, snap=30)
    _, reader = read(snapped + block(3, struct.pack(f"{order}I", len(two)) + two[:30], order))
    assert reader.skipped == {"snapped": 1}


def test_what_this_program_writes_and_others_have_converted(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    times = [TIME, TIME + 20, TIME - 5_000_000_000]
    ours.write_bytes(
        FILE
        + b"".join(packet(b"%d" % time, time, ends) for time, ends in zip(times, (V4, V6, V4), strict=True))
    )
    for name, unit in (("pcapng", 1), ("nsecpcap", 1), ("pcap", 1000)):
        converted = tmp_path / name
        subprocess.run([program("editcap"), "-F", name, ours, converted], check=True, timeout=30)
        recorded, reader = read(converted.read_bytes())
        assert recorded == [(time - time % unit, b"%d" % time) for time in times]
        assert reader.broken is None
    shown = packets(converted, "udp.payload", "frame.time_epoch")
    assert [(bytes.fromhex(payload), f"{float(time):.6f}") for payload, time in shown] == [
        (payload, f"{time / 1e9:.6f}") for time, payload in recorded
    ]


# -- what is wanted of it


def test_a_stream_is_selected() -> None:
    elsewhere = V4[0], (V4[1][0], 9199)
    data = FILE + packet(b"four") + packet(b"six", ends=V6) + packet(b"port", ends=elsewhere)
    group = V4[1][0].packed
    assert [payload for _, payload in read(data)[0]] == [b"four", b"six", b"port"]
    assert [payload for _, payload in read(data, Selection(group))[0]] == [b"four", b"port"]
    assert [payload for _, payload in read(data, Selection(port=9191))[0]] == [b"six"]
    assert [payload for _, payload in read(data, Selection(group, 9199))[0]] == [b"port"]
    assert CaptureReader().feed(data)[1][2:] == (V6[1][0].packed, 9191)


def test_packets_that_cannot_be_used_are_counted_if_they_are_of_the_stream() -> None:
    whole = ip_packet(b"payload")
    fragment = whole[:6] + b"\x20\0" + whole[8:]
    v6 = ip_packet(b"payload", V6)
    data = SECTION + interface() + interface(link=105)
    data += (
        enhanced(0, 1, whole[:-1])
        + enhanced(0, 2, fragment)
        + enhanced(0, 3, v6[:-1])
        + enhanced(0, 4, whole[:9])
    )
    data += enhanced(0, 5, whole[:9] + b"\6" + whole[10:]) + enhanced(1, 6, whole) + enhanced(2, 7, whole)
    data += enhanced(0, 8, whole[:25] + b"\3" + whole[26:])
    recorded, reader = read(data)
    assert (recorded, reader.others) == ([], 1)
    faults = {"snapped": 3, "fragment": 1, "malformed": 1, "link-type": 1, "no-interface": 1}
    assert reader.skipped == faults
    _, reader = read(data, Selection(V4[1][0].packed))
    assert reader.skipped == {**faults, "snapped": 2}


# -- what is wrong with it


@pytest.mark.parametrize(
    "data",
    [FILE + packet(b"one") + packet(b"two", ends=V6), pcap((1, 2, ip_packet(b"a")), (3, 4, ip_packet(b"b")))],
)
def test_a_file_may_be_cut_anywhere(data: bytes) -> None:
    whole = read(data)[0]
    assert read(data)[1].broken is None
    for size in range(len(data)):
        recorded, reader = read(data[:size])
        assert recorded == whole[: len(recorded)]
        if reader.broken is None:
            assert read(data[:size], piece=1)[1].broken is None  # it ends between two blocks
            continue
        reason, offset, _ = reader.broken
        assert reason is (Break.NO_CAPTURE if size < 4 else Break.CUT)
        assert read(data[:offset])[0] == recorded
        assert reader.broken == read(data[:size], piece=3)[1].broken


def test_the_rest_of_a_block_that_nobody_needs_may_be_cut() -> None:
    names = block(4, bytes(3 * RECORD_MAX_BYTES))
    data = FILE + packet(b"one") + names + packet(b"two")
    assert [payload for _, payload in read(data)[0]] == [b"one", b"two"]
    reason, offset = broken(data[: -len(packet(b"two")) - 1])
    assert (reason, offset) == (Break.CUT, len(data) - len(packet(b"two")) - 1)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "too short"),
        (b"\n\r\r", "too short"),
        (b"GET / HTTP/1.1\r\nHost: example\r\n", "neither"),
        (b"\x1f\x8b" + bytes(40), "gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "zstd"),
        (bytes(1 << 17), "neither"),
    ],
)
def test_what_is_no_capture(data: bytes, cause: str) -> None:
    assert broken(data) == (Break.NO_CAPTURE, 0)
    made = read(data)[1].broken
    assert made is not None
    assert cause in made.cause


HUGE = struct.pack("<I", 0xFFFF_FFFC)


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<III", 6, 0, 0),
        struct.pack("<III", 6, 31, 0) + bytes(31),  # not of whole words
        struct.pack("<III", 6, 28, 0) + bytes(28),  # shorter than its head
        struct.pack("<III", 3, 12, 12),
        struct.pack("<III", 1, 16, 101) + bytes(8),
        struct.pack("<I", 6) + HUGE + bytes(30),
        struct.pack("<I", 1) + HUGE + bytes(30),
        struct.pack("<I", 0x0A0D0D0A) + HUGE + b"\x4d\x3c\x2b\x1a" + bytes(30),
        struct.pack("<III", 0x0A0D0D0A, 28, 0x1A2B3C4E) + bytes(30),
        struct.pack("<III", 0x0BAD, 8, 0),
    ],
)
def test_a_block_that_lies_ends_the_reading(bad: bytes) -> None:
    data = FILE + packet(b"one") + bad + packet(b"two")
    assert [payload for _, payload in read(data)[0]] == [b"one"]
    assert broken(data) == (Break.DAMAGED, len(FILE + packet(b"one")))
    _, reader = read(data, piece=5)
    assert reader.broken is not None
    assert reader.broken[:2] == (Break.DAMAGED, len(FILE + packet(b"one")))


def test_a_record_that_lies_ends_the_reading() -> None:
    good = pcap((1, 2, ip_packet(b"one")))
    assert broken(good + struct.pack("<IIII", 3, 4, RECORD_MAX_BYTES + 1, 5) + bytes(50)) == (
        Break.DAMAGED,
        len(good),
    )


def test_a_packet_longer_than_its_block_is_skipped() -> None:
    lying = bytearray(packet(b"lie"))
    lying[20:24] = struct.pack("<I", len(ip_packet(b"lie")) + 9)
    recorded, reader = read(FILE + bytes(lying) + packet(b"two"))
    assert [payload for _, payload in recorded] == [b"two"]
    assert reader.skipped == {"malformed": 1}


def test_the_interfaces_of_a_section_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_reading, "INTERFACES_MAX", 11)
    described = interface()
    data = SECTION + described * 11
    assert read(data + enhanced(10, 1, ip_packet(b"last")))[0] == [(1000, b"last")]
    assert read(data + data)[1].broken is None  # each section has its own
    assert broken(data + described) == (Break.DAMAGED, len(data))


def test_extremes_of_time() -> None:
    data = (
        section("<")
        + interface(resolution=b"\xff")
        + interface(resolution=b"\x7f", offset=b"\xff" * 7 + b"\x7f")
    )
    data += enhanced(0, (1 << 64) - 1, ip_packet(b"a")) + enhanced(1, (1 << 64) - 1, ip_packet(b"b"))
    recorded, _ = read(data)
    assert recorded == [(0, b"a"), (((1 << 63) - 1) * 1_000_000_000, b"b")]


GOOD = [
    SECTION + interface() + interface(link=1, resolution=b"\x09") + packet(b"one") + packet(b"two", ends=V6),
    section(">") + interface(">") + block(4, b"names", ">") + enhanced(0, 77, ip_packet(b"three"), ">"),
    pcap((1, 2, ip_packet(b"four")), (3, 4, ip_packet(b"five", V6))),
]


@settings(max_examples=60)
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=4)), max_size=4),
    st.lists(st.integers(1, 90), max_size=6),
    st.binary(max_size=40),
)
def test_damage_anywhere_gives_the_same_in_any_pieces(
    data: bytes, changes: list[tuple[int, bytes]], pieces: list[int], tail: bytes
) -> None:
    for at, value in changes:
        data = data[:at] + value + data[at + len(value) :]
    data += tail
    whole, reader = read(data, piece=1 << 20)
    cut, recorded = CaptureReader(), []
    at = 0
    for size in [*pieces, len(data)]:
        recorded += [(time, bytes(payload)) for time, payload, *_ in cut.feed(data[at : at + size])]
        at += size
    assert cut.finish() == reader.broken
    assert recorded == whole
    assert (cut.skipped, cut.others) == (reader.skipped, reader.others)
