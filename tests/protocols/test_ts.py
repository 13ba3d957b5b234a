"""Packets of transport streams: each field in its place, as tshark and ffprobe read it, of any bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.programs import program
from support.transport import film, packet, pes

from mcastd.protocols import ts
from mcastd.protocols.ts import PACKET_BYTES, PCR_MODULUS, PTS_MODULUS, ClockSample, PacketHeader

PCR = (0x1_5A3C_96E1 * 300) + 217


def probed(path: Path, *arguments: str) -> dict[str, list[dict[str, str]]]:
    command = [program("ffprobe"), "-v", "error", "-of", "json", *arguments, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    shown: dict[str, list[dict[str, str]]] = json.loads(ran.stdout)
    return shown


def test_each_field_of_a_header_has_its_own_bits() -> None:
    for at in (0, 188):
        data = b"\x47" * at + bytes((0x47, 0x12, 0x34, 0x1B)) + bytes(184)
        assert ts.header_at(data, at) == PacketHeader(0x1234, False, False, 0, False, True, 11)
    flags = [
        bytes((0x47, first, 0x34, control)) for first, control in ((0x81, 0), (0x41, 0), (1, 0x80), (1, 0x20))
    ]
    assert [ts.header_at(data, 0)[1:] for data in flags] == [
        (True, False, 0, False, False, 0),
        (False, True, 0, False, False, 0),
        (False, False, 2, False, False, 0),
        (False, False, 0, True, False, 0),
    ]


def test_a_clock_is_found_among_packets_without_one() -> None:
    data = packet(0x21, 3) + packet(0x22, 4, pcr=PCR) + packet(0x23, 5, adaptation=b"\0")
    data += packet(0x24, 6, pcr=PCR + 1, discontinuous=True)
    assert [*ts.clocks(data)] == [ClockSample(188, 0x22, PCR, False), ClockSample(564, 0x24, PCR + 1, True)]
    assert [*ts.clocks(b"xyz" + data + b"more", 3)] == [
        ClockSample(191, 0x22, PCR, False),
        ClockSample(567, 0x24, PCR + 1, True),
    ]
    assert [clock.pcr for clock in ts.clocks(data, 188)] == [PCR, PCR + 1]
    assert [*ts.clocks(data[:375])] == []  # the packet is not whole


@pytest.mark.parametrize("length", [0, 6, 184, 255])
def test_a_field_too_short_or_too_long_for_a_clock_has_none(length: int) -> None:
    data = bytearray(packet(0x22, 4, pcr=PCR))
    data[4] = length
    assert ts.pcr_at(data, 0) is None
    assert not [*ts.clocks(data)]


def test_payloads_that_look_like_a_clock_are_none() -> None:
    assert not [*ts.clocks(packet(0x22, 4, payload=b"\xff" * 184))]


@given(st.integers(0, PCR_MODULUS - 1))
def test_a_clock_is_read_as_it_was_written(pcr: int) -> None:
    assert ts.pcr_at(packet(9, 1, pcr=pcr), 0) == pcr
    assert ts.clock_at(packet(9, 1, pcr=pcr), 0) == (9, pcr, False, False)
    assert ts.pcr_bytes(pcr + PCR_MODULUS) == ts.pcr_bytes(pcr)


@given(st.integers(0, PTS_MODULUS - 1), st.integers(0, PTS_MODULUS - 1))
def test_times_are_read_as_they_were_written_and_what_they_are_stays(pts: int, dts: int) -> None:
    data = bytearray(packet(0x101, 7, payload=pes(pts=1, dts=2), starts=True))
    before = bytes(data)
    at_pts, at_dts = ts.pes_times_at(data, 0)
    assert at_pts is not None
    assert at_dts is not None
    assert (ts.time_at(data, at_pts), ts.time_at(data, at_dts)) == (1, 2)
    ts.set_time(data, at_pts, pts)
    ts.set_time(data, at_dts, dts)
    assert (ts.time_at(data, at_pts), ts.time_at(data, at_dts)) == (pts, dts)
    assert (data[at_pts] >> 4, data[at_dts] >> 4) == (3, 1)
    ts.set_time(data, at_pts, 1)
    ts.set_time(data, at_dts, 2)
    assert data == before


def test_times_are_where_a_pes_header_has_them_and_nowhere_else() -> None:
    alone = packet(0x101, 7, payload=pes(pts=5), starts=True)
    assert ts.pes_times_at(alone, 0) == (4 + 9, None)
    assert ts.pes_times_at(packet(0x101, 7, pcr=PCR, payload=pes(pts=5), starts=True), 0) == (4 + 8 + 9, None)
    assert ts.pes_times_at(packet(0x101, 7, payload=pes(pts=5, dts=6), starts=True), 0) == (4 + 9, 4 + 14)
    for none in (
        packet(0x101, 7, payload=pes(pts=5)),  # goes on
        packet(0x101, 7, payload=pes(), starts=True),
        packet(0x101, 7, payload=pes(pts=5, stream=0xBE), starts=True),  # padding
        packet(0x101, 7, payload=b"\0\0\2" + pes(pts=5)[3:], starts=True),
        alone[:3] + bytes((alone[3] | 0x80,)) + alone[4:],  # scrambled
        packet(0x101, 7, adaptation=bytes(175), payload=pes(pts=5)[:8], starts=True),  # cut
    ):
        assert ts.pes_times_at(none, 0) == (None, None)


def test_lengths_that_lie_lead_no_further_than_the_packet() -> None:
    data = bytearray(packet(0x101, 7, adaptation=b"\0", payload=pes(pts=5, dts=6), starts=True))
    for length in range(256):
        data[4] = length
        for each in ts.pes_times_at(data, 0):
            assert each is None or each + 5 <= PACKET_BYTES
        assert ts.payload_at(data, 0) == min(5 + length, PACKET_BYTES)
    assert ts.payload_at(packet(0x101, 7, payload=b"", adaptation=bytes(183)), 0) == PACKET_BYTES


@given(st.binary(min_size=PACKET_BYTES, max_size=5 * PACKET_BYTES), st.integers(0, 9))
def test_any_bytes_are_read(data: bytes, start: int) -> None:
    data = b"\0" * start + data
    for clock in ts.clocks(data, start):
        assert (clock.at - start) % PACKET_BYTES == 0
        assert 0 <= clock.pcr < PCR_MODULUS
        assert clock == ClockSample(
            clock.at,
            ts.pid_at(data, clock.at),
            ts.pcr_at(data, clock.at),
            ts.is_discontinuous_at(data, clock.at),
        )
    one_by_one = [at for at in range(start, len(data) - 187, 188) if ts.pcr_at(data, at) is not None]
    assert [clock.at for clock in ts.clocks(data, start)] == one_by_one
    header = ts.header_at(data, start)
    assert header.pid == ts.pid_at(data, start)
    assert start + 4 <= ts.payload_at(data, start) <= start + PACKET_BYTES
    for at in ts.pes_times_at(data, start):
        assert at is None or start < at <= start + PACKET_BYTES - 5


def test_packets_are_found_where_five_follow_one_another() -> None:
    packets = b"".join(packet(0x33, counter, payload=b"\x47" * 184) for counter in range(6))
    assert ts.find_packets(packets) == 0
    assert ts.find_packets(packets, 1) == 4  # bytes that look like it: the payload is full of them
    plain = b"".join(packet(0x33, counter) for counter in range(6))
    assert ts.find_packets(b"G" * 3 + b"noise" + plain) == 8
    assert ts.find_packets(plain, 1) == 188
    assert ts.find_packets(plain, 189) == -1  # four are left
    assert ts.find_packets(b"") == -1


def test_longer_packets_are_recognized() -> None:
    plain = [packet(0x33, counter) for counter in range(8)]
    timed = b"".join(bytes((0, 1, 2, counter)) + one for counter, one in enumerate(plain))
    protected = b"".join(one + bytes(range(16)) for one in plain)
    streams = b"".join(plain), timed, protected, protected[100:], b"no stream at all" * 99, b""
    assert [ts.packet_length(data) for data in streams] == [188, 192, 204, 204, None, None]


def test_a_film_is_read_as_ffprobe_and_tshark_read_it(tmp_path: Path) -> None:
    path = film(tmp_path / "film.ts")
    data = path.read_bytes()
    shown = probed(path, "-show_entries", "packet=pts,dts,stream_index,pos")["packets"]
    expected = sorted((int(one["pos"]), int(one["pts"]), int(one["dts"])) for one in shown if "pos" in one)
    found = []
    for at in range(0, len(data), PACKET_BYTES):
        at_pts, at_dts = ts.pes_times_at(data, at)
        if at_pts is not None:
            pts = ts.time_at(data, at_pts)
            found.append((at, pts, pts if at_dts is None else ts.time_at(data, at_dts)))
    assert found == expected
    command = [program("tshark"), "-n", "-r", str(path), "-T", "fields"]
    for field in ("pid", "cc", "pusi", "tei", "af.pcr"):
        command += ["-e", f"mp2t.{field}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    lines = [line.split("\t") for line in ran.stdout.splitlines()]
    headers = [ts.header_at(data, at) for at in range(0, len(data), PACKET_BYTES)]
    assert [(int(line[0], 16), int(line[1])) for line in lines] == [(one.pid, one.counter) for one in headers]
    assert [line[2] for line in lines] == [str(int(one.starts_unit)) for one in headers]
    pcrs = [int(line[4], 16) for line in lines if line[4]]
    assert pcrs == [clock.pcr for clock in ts.clocks(data)]
    assert len(pcrs) > 10
