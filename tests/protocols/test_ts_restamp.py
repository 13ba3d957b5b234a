"""A stream that is repeated is one stream: clock, times and counters go on, for each PID."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.programs import program
from support.transport import film, packet, pes

from mcastd.protocols import ts
from mcastd.protocols.ts import NULL_PID, PACKET_BYTES, PCR_HZ, PCR_MODULUS, PTS_MODULUS
from mcastd.protocols.ts_columns import PidColumn
from mcastd.protocols.ts_restamp import Restamper

MS = PCR_HZ // 1000


def repeated(*rounds: Sequence[bytes]) -> list[bytes]:
    restamper = Restamper()
    return [
        b"".join([bytes(restamper.feed(piece)) for piece in pieces] + [bytes(restamper.finish())])
        for pieces in rounds
    ]


def packets_of(data: bytes) -> list[bytes]:
    return [data[at : at + PACKET_BYTES] for at in range(0, len(data), PACKET_BYTES)]


def counters(data: bytes) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for header in (ts.header_at(one, 0) for one in packets_of(data)):
        if header.has_payload:
            found.setdefault(header.pid, []).append(header.counter)
    return found


def pcrs(data: bytes) -> list[int]:
    return [sample.pcr for sample in ts.clocks(data)]


def a_round(start: int = 90_000 * MS, pts: int = 900_000) -> bytes:
    """21 ms at 1 ms a packet: a clock every 7 ms, a picture every 10 ms, counters that end as they like."""
    data = b""
    for number in range(21):
        pid = 0x100 if number % 7 == 0 else (0x100, 0x101, 0x1000)[number % 3]
        pcr = start + number * MS if number % 7 == 0 else None
        begins = pid == 0x101 and number % 10 == 1
        unit = pes(pts=(pts + number * 90) % PTS_MODULUS, dts=(pts + number * 90 - 30) % PTS_MODULUS)
        data += packet(pid, 3 * pid + number // 3, pcr=pcr, payload=unit if begins else None, starts=begins)
    return data + packet(NULL_PID, 0)


def test_the_first_round_is_as_it_was() -> None:
    data = a_round()
    assert repeated([data[:1880], data[1880:]]) == [data]


@pytest.mark.parametrize("start", [90_000 * MS, PCR_MODULUS - 30 * MS, PCR_MODULUS - 3 * MS])
@pytest.mark.parametrize("size", [1, 3, 99])
def test_clock_and_times_go_on_over_the_seam(start: int, size: int) -> None:
    data = a_round(start % PCR_MODULUS, 900_000)
    pieces = [data[at : at + size * PACKET_BYTES] for at in range(0, len(data), size * PACKET_BYTES)]
    rounds = repeated(pieces, pieces, pieces)
    expected = [
        (start + (22 * number + 7 * step) * MS) % PCR_MODULUS for number in range(3) for step in range(3)
    ]
    assert pcrs(b"".join(rounds)) == expected
    for number, one in enumerate(rounds):
        for unit, before in zip(ts.units(one), ts.units(data), strict=True):
            assert unit.decoded == (before.decoded + number * 22 * 90) % PTS_MODULUS
            pts = ts.time_at(data, before.pts_at) + number * 22 * 90
            assert ts.time_at(one, unit.pts_at) == pts % PTS_MODULUS


def test_nothing_else_is_changed() -> None:
    data = a_round()
    _, again = repeated([data], [data])
    times = {at for sample in ts.clocks(data) for at in range(sample.at + 6, sample.at + 12)}
    for unit in ts.units(data):
        assert unit.dts_at is not None
        times.update(range(unit.pts_at, unit.dts_at + 5))
    for at, (one, other) in enumerate(zip(data, again, strict=True)):
        if at % PACKET_BYTES == 3:
            assert one & 0xF0 == other & 0xF0
        else:
            assert one == other or at in times


def test_the_counters_of_each_pid_go_on_and_fillers_have_none() -> None:
    data = b"".join(
        packet(0x100, number) + packet(0x1000, 3 * number) + packet(NULL_PID, 0) for number in range(5)
    )
    data += packet(0x100, 4, adaptation=bytes(183), payload=b"")  # without a payload: the counter stays
    rounds = repeated([data], [data], [data])
    found = [counters(one) for one in rounds]
    assert [one[0x100] for one in found] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    assert [one[0x1000] for one in found] == [[0, 3, 6, 9, 12], [13, 0, 3, 6, 9], [10, 13, 0, 3, 6]]
    assert [one[NULL_PID] for one in found] == [[0] * 5] * 3
    ends = [ts.header_at(one, len(one) - PACKET_BYTES) for one in rounds]
    assert [(end.counter, end.has_payload) for end in ends] == [(4, False), (9, False), (14, False)]


def test_many_pids_go_on_as_well() -> None:
    data = b"".join(packet(pid, pid // 7) for pid in range(0, 8190, 7) for _ in range(1))
    column = PidColumn()
    assert column.of(data) is None
    assert column.of(packet(0x100, 1)) is None  # it is not tried again and again
    _, again = repeated([data], [data])
    assert counters(again) == {pid: [(pid // 7 + 1) % 16] for pid in range(0, 8190, 7)}
    few, later = repeated([data[: 9 * PACKET_BYTES], data], [data[: 9 * PACKET_BYTES]])
    assert len(few) == len(data) + 9 * PACKET_BYTES
    assert counters(later) == {pid: [(pid // 7 + 1) % 16] for pid in range(0, 63, 7)}


def test_another_film_goes_on_where_the_one_before_ended() -> None:
    one, other = a_round(), a_round(5 * MS, 77)
    _, replaced = repeated([one], [other])
    assert pcrs(replaced) == [(90_000 + 22 + 7 * step) * MS for step in range(3)]


def test_a_stream_without_a_clock_keeps_its_times() -> None:
    data = b"".join(packet(0x101, number, payload=pes(pts=number), starts=True) for number in range(20))
    _, again = repeated([data], [data])
    assert [unit.decoded for unit in ts.units(again)] == [*range(20)]
    assert counters(again)[0x101] == [number % 16 for number in range(20, 40)]


def test_what_never_had_a_clock_does_not_wait_for_one() -> None:
    restamper = Restamper()
    restamper.feed(packet(0x101, 3))
    restamper.finish()
    assert restamper.feed(packet(0x101, 9)) == packet(0x101, 4)


def test_the_clock_waits_for_the_last_picture() -> None:
    """Where the pictures take longer than the packets that they are in, the clock goes on later."""
    data = b"".join(
        packet(0x101, number, pcr=number * 10 * MS, payload=pes(pts=number * 40 * 90), starts=True)
        for number in range(5)
    )
    _, again = repeated([data], [data])
    assert [unit.decoded for unit in ts.units(again)] == [(5 + number) * 40 * 90 for number in range(5)]
    assert pcrs(again) == [(200 + number * 10) * MS for number in range(5)]


@given(
    st.lists(
        st.lists(st.sampled_from([0, 1, 16, 17, 256, 4096, 8191, *range(32, 64)]), max_size=20), max_size=6
    )
)
def test_the_keys_of_a_column_tell_its_pids_apart(batches: list[list[int]]) -> None:
    column = PidColumn()
    for pids in batches:
        keys = column.of(b"".join(packet(pid, 0) for pid in pids))
        assert keys is not None
        assert [*keys] == [column.keys[pid] for pid in pids]
        assert len(set(column.keys.values())) == len(column.keys)


@settings(max_examples=40)
@given(st.lists(st.lists(st.binary(min_size=12, max_size=40), max_size=8), max_size=4))
def test_any_packets_are_taken_and_none_is_lost(rounds: list[list[bytes]]) -> None:
    pieces = [[one.ljust(PACKET_BYTES, b"\x31") for one in part] for part in rounds]
    assert [len(one) for one in repeated(*pieces)] == [len(part) * PACKET_BYTES for part in pieces]


def test_ffmpeg_decodes_three_seams_without_a_word(tmp_path: Path) -> None:
    data = film(tmp_path / "film.ts").read_bytes()
    path = tmp_path / "again.ts"
    for rounds, is_fine in ((b"".join(repeated(*[[data]] * 4)), True), (data * 4, False)):
        path.write_bytes(rounds)
        command = [program("ffmpeg"), "-v", "warning", "-i", str(path), "-f", "null", "-"]
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
        )
        assert (ran.stderr == "") is is_fine, ran.stderr
