"""Transport streams as datagrams: whole packets, at the times of their clock, round after round."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transport import packet, pes

from mcastd.config import OutboundChannel
from mcastd.errors import SourceError
from mcastd.outbound.framing import make_framer
from mcastd.outbound.pacing import READ_BYTES
from mcastd.outbound.sources.file import FileSource, open_source
from mcastd.outbound.timed import TimedSchedule
from mcastd.outbound.transport import RESERVE_BYTES_MAX
from mcastd.protocols import ts
from mcastd.protocols.ts import PACKET_BYTES, PCR_HZ

MS = PCR_HZ // 1000
DATAGRAM = 7 * PACKET_BYTES


class Noted(TimedSchedule):
    def __init__(self) -> None:
        super().__init__()
        self.times: list[list[float]] = []

    def expect(self, times: Sequence[float]) -> None:
        self.times.append(list(times))
        super().expect(times)


def film(count: int = 100, start: int = 0) -> bytes:
    """A packet a millisecond, every fifth with a clock."""
    return b"".join(
        packet(0x100, number, pcr=start + number * MS) if number % 5 == 0 else packet(0x101, number)
        for number in range(count)
    )


@settings(max_examples=40)
@given(st.integers(1, 4000), st.integers(188, 1500))
def test_datagrams_have_as_many_whole_packets_as_fit_by_any_cut(size: int, max_datagram: int) -> None:
    data = film()
    framer = make_framer("ts", max_datagram)
    payloads = [bytes(one) for at in range(0, len(data), size) for one in framer.feed(data[at : at + size])]
    payloads += map(bytes, framer.finish())
    assert b"".join(payloads) == data
    whole = max_datagram // PACKET_BYTES * PACKET_BYTES
    assert {len(one) for one in payloads[:-1]} <= {whole}
    assert 0 < len(payloads[-1]) <= whole
    assert framer.skipped_bytes == 0


@settings(max_examples=40)
@given(st.integers(1, 40_000))
def test_each_datagram_has_the_time_of_its_first_packet_by_any_cut(size: int) -> None:
    data, noted = film(), Noted()
    framer = make_framer("ts", 1472, schedule=noted)
    sizes = [one for at in range(0, len(data), size) for one in framer.feed(data[at : at + size]).sizes]
    last = framer.finish()
    assert [*sizes, *last.sizes] == [DATAGRAM] * 14 + [2 * PACKET_BYTES]
    times = [time for some in noted.times for time in some[:-1]]
    assert times == pytest.approx([number * 0.007 for number in range(15)])
    assert noted.times[-1][-1] == pytest.approx(0.1)
    assert framer.rate == pytest.approx(8 * PACKET_BYTES * 1000)


def test_datagrams_come_as_soon_as_their_time_is_known() -> None:
    noted = Noted()
    framer = make_framer("ts", 1472, schedule=noted)
    data = film()
    assert len(framer.feed(data[: 10 * PACKET_BYTES])) == 0  # the clock of packet 10 is to come
    assert len(framer.feed(data[10 * PACKET_BYTES : 11 * PACKET_BYTES])) == 1
    assert noted.times == [[pytest.approx(0), pytest.approx(0.007)]]


def test_the_datagram_that_waits_for_a_read_has_no_clock() -> None:
    """It may be late by what the read takes."""
    ticks = 1015  # of a packet: 40 Mbit/s, and a clock value every 20 ms
    data = b"".join(
        packet(0x100, number, pcr=number * ticks) if number % 532 == 0 else packet(0x101, number)
        for number in range(20 * 532)
    )
    framer = make_framer("ts", 1472, schedule=Noted())
    reads = range(0, len(data), framer.appetite())
    found = [[*map(bytes, framer.feed(data[at : at + framer.appetite()]))] for at in reads]
    after_a_read = [payloads[0] for payloads in found if payloads][1:]
    assert len(after_a_read) > 10
    assert framer.appetite(1 << 20) < READ_BYTES + DATAGRAM, "what is read at once is looked at meanwhile"
    assert not any(list(ts.clocks(one)) for one in after_a_read)
    assert b"".join(map(b"".join, [*found, map(bytes, framer.finish())])) == data


def test_a_clock_that_hardly_goes_on_keeps_little_back() -> None:
    """By it the rate is 10 terabits a second."""
    data = b"".join(packet(0x100, number, pcr=number // 500) for number in range(4000))
    framer = make_framer("ts", 1472, schedule=Noted())
    came = sum(sum(framer.feed(data[at : at + 100_000]).sizes) for at in range(0, len(data), 100_000))
    assert came > len(data) - 500 * PACKET_BYTES - RESERVE_BYTES_MAX - DATAGRAM


@pytest.mark.parametrize("timed", [False, True])
def test_little_is_kept_where_no_packets_come(timed: bool) -> None:
    """As of a FIFO without a writer, or of a writer that sends something else."""
    framer = make_framer("ts", 1316, schedule=Noted() if timed else None)
    tracemalloc.start()
    try:
        data = film(10_000)
        before = tracemalloc.get_traced_memory()[0]
        framer.feed(film(20) + data)
        at_rest = tracemalloc.get_traced_memory()[0] - before
        framer.finish()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            framer.finish()
        framer.feed(film(20))
        for _ in range(1000):
            framer.feed(b"?" * 100)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert at_rest < 100_000
    assert kept < 10_000


def read_all(source: FileSource) -> bytes:
    data = b""
    while not source.finished:
        data += b"".join(source.read())
    return data


@pytest.mark.parametrize("seamless", [True, False])
def test_a_repeated_file_goes_on_in_time(tmp_path: Path, seamless: bool) -> None:
    path, noted = tmp_path / "film.ts", Noted()
    path.write_bytes(film())
    framer = make_framer("ts", 1472, schedule=noted, seamless=seamless)
    data = read_all(FileSource(path, framer, repeat=3, schedule=noted))
    assert len(data) == 3 * len(film())
    assert (data == 3 * film()) is not seamless
    times = [time for some in noted.times for time in some[:-1]]
    expected = [number * 0.1 + place * 0.007 for number in range(3) for place in range(15)]
    assert times == pytest.approx(expected)
    clocks = [sample.pcr // MS for sample in ts.clocks(data)]
    assert clocks == ([*range(0, 300, 5)] if seamless else [*range(0, 100, 5)] * 3)


def test_the_wait_for_the_last_picture_is_between_the_rounds(tmp_path: Path) -> None:
    """The first PCR of a round stands behind its tables, in its first datagram, which goes at its time."""
    picture = pes(pts=5000 * 90), pes(pts=5060 * 90)  # milliseconds: the last one takes 60
    tables = packet(0, 0) + packet(0x200, 0)
    packets = [packet(0x100, at, pcr=at * MS) if at % 5 == 0 else packet(0x101, at) for at in range(2, 100)]
    packets[1], packets[90] = (packet(0x100, 1, payload=one, starts=True) for one in picture)
    path, noted = tmp_path / "film.ts", Noted()
    path.write_bytes(tables + b"".join(packets))
    framer = make_framer("ts", 1472, schedule=noted, seamless=True)
    data = read_all(FileSource(path, framer, repeat=2, schedule=noted))
    times = [time for some in noted.times for time in some[:-1]]
    first, again = (next(ts.clocks(data, start)).pcr for start in (0, 100 * PACKET_BYTES))
    waited = (again - first) / PCR_HZ - 0.1  # a round has a packet a millisecond
    assert waited == pytest.approx(0.02)  # up to 5120: the first picture came at 5000 + 100
    assert times[15:30] == pytest.approx([time + 0.1 + waited for time in times[:15]])


def test_a_file_that_is_replaced_between_rounds_is_taken(tmp_path: Path) -> None:
    path, noted = tmp_path / "film.ts", Noted()
    path.write_bytes(film())
    framer = make_framer("ts", 1472, schedule=noted, seamless=True)
    source = FileSource(path, framer, repeat=2, schedule=noted)
    data = b""
    while source.rounds == 0:
        data += b"".join(source.read())
        if len(data) == len(film()) and source.rounds == 0:
            (tmp_path / "next").write_bytes(film(50, start=70_000 * MS))
            os.replace(tmp_path / "next", path)
    data += read_all(source)
    assert [sample.pcr // MS for sample in ts.clocks(data)] == [*range(0, 150, 5)]


def test_a_followed_file_that_grows_is_sent_as_its_times_are_known(tmp_path: Path) -> None:
    path, noted = tmp_path / "film.ts", Noted()
    data = film()
    path.write_bytes(data[:3000])
    source = FileSource(path, make_framer("ts", 1472, schedule=noted), follow=True, schedule=noted)
    assert b"".join(source.read()) == data[:DATAGRAM]
    assert len(source.read()) == 0
    with path.open("ab") as file:
        file.write(data[3000:])
    rest = b"".join(source.read())
    assert rest == data[DATAGRAM : 13 * DATAGRAM]  # the clock after them is to come


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        (b"".join(bytes(4) + film()[at : at + 188] for at in range(0, 9400, 188)), None, "192 bytes.*ffmpeg"),
        (
            b"".join(film()[at : at + 188] + bytes(16) for at in range(0, 9400, 188)),
            None,
            "204 bytes.*ffmpeg",
        ),
        (b"line\n" * 50_000, "framing", "no packets of 188 bytes.*with a rate instead of timing.*ffmpeg"),
        (b"short", "framing", "no packets"),
        (packet(0x101, 1) * 99, "rate", "no program clock"),
        (packet(0x101, 1, pcr=5) + packet(0x101, 1) * 99, "rate", "no program clock"),
        (
            b"".join(packet(0x101, 1, pcr=at * 1100 * MS) + packet(0x102, 1) * 20 for at in range(9)),
            "rate",
            "more than a second apart",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_again_and_again(
    tmp_path: Path, data: bytes, key: str | None, words: str
) -> None:
    path, noted = tmp_path / "film.ts", Noted()
    path.write_bytes(data)
    source = FileSource(path, make_framer("ts", 1472, schedule=noted), schedule=noted)
    for _ in range(2):
        with pytest.raises(SourceError, match=words) as refused:
            read_all(source)
        assert (refused.value.change.key if refused.value.change else None) == key
        assert source.position == 0
    path.write_bytes(film())
    assert read_all(source) == film()  # mended
    source.restart()


def test_bytes_between_packets_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "film.ts"
    path.write_bytes(film(50) + b"noise" + film(50) + b"half")
    source = FileSource(path, make_framer("ts", 1472), repeat=2)
    assert read_all(source) == 4 * film(50)
    assert source.skipped_bytes == 18


def test_a_stop_in_the_middle_of_what_is_no_stream_is_no_error(tmp_path: Path) -> None:
    path, noted = tmp_path / "film.ts", Noted()
    path.write_bytes(film())
    source = FileSource(path, make_framer("ts", 1472, schedule=noted), schedule=noted)
    source.read()
    source._framer.feed(b"?" * 5)
    source.restart()
    assert source.schedule is noted
    assert read_all(source) == film()


@pytest.mark.parametrize("seamless", [True, False])
def test_what_one_writer_of_a_pipe_leaves_goes_and_the_next_one_is_taken(
    tmp_path: Path, seamless: bool
) -> None:
    path, noted = tmp_path / "live.ts", Noted()
    os.mkfifo(path)
    source = FileSource(path, make_framer("ts", 1472, schedule=noted, seamless=seamless), schedule=noted)
    assert len(source.read()) == 0
    data = b""
    for part in (film(30), film(20, start=5000 * MS)):
        with path.open("wb") as writer:
            writer.write(part)
            writer.flush()
            data += b"".join(source.read())
            assert len(source.read()) == 0  # the writer is silent: the clock after these is to come
        data += b"".join(source.read())
    assert (data == film(30) + film(20, start=5000 * MS)) is not seamless
    clocks = [sample.pcr // MS for sample in ts.clocks(data)]
    assert clocks[6:] == [*(range(30, 50, 5) if seamless else range(5000, 5020, 5))]
    counters = [data[at + 3] & 15 for at in range(0, len(data), PACKET_BYTES) if ts.pid_at(data, at) == 0x101]
    steps = [later - earlier & 15 for earlier, later in pairwise(counters)]
    assert (steps[23] == 1) is seamless  # from the last of the first writer to the first of the next
    times = [time for some in noted.times for time in some[:-1]]
    assert times == pytest.approx(
        [place * 0.007 for place in range(5)] + [0.03 + place * 0.007 for place in range(3)]
    )
    source.close()


@pytest.mark.parametrize("seam", [None, "continuous", "raw"])
def test_a_channel_makes_one_stream_of_what_writers_of_a_pipe_send(
    tmp_path: Path, seam: Literal["continuous", "raw"] | None
) -> None:
    """As of an encoder that is started again."""
    path = tmp_path / "live.ts"
    os.mkfifo(path)
    source = open_source(
        OutboundChannel(source=path, group="239.1.2.3", port=5004, framing="ts", timing="pcr", seam=seam)
    )
    assert len(source.read()) == 0
    clocks: list[int] = []
    for start in (700 * MS, 90_000 * MS):
        with path.open("wb") as writer:
            writer.write(film(10, start=start))
        while payloads := source.read():
            clocks += [sample.pcr // MS for one in payloads for sample in ts.clocks(bytes(one))]
    assert clocks == [700, 705, *([90_000, 90_005] if seam == "raw" else [710, 715])]
    source.close()


pieces = st.one_of(
    st.binary(max_size=600),
    st.integers(0, 20).map(film),
    st.integers(0, 1 << 33).map(lambda start: film(9, start=300 * start)),
    st.just(packet(0x101, 1, pcr=1, discontinuous=True)),
)


@settings(max_examples=60)
@given(st.lists(st.lists(pieces, max_size=9), max_size=4), st.booleans())
def test_any_bytes_become_whole_packets_in_time_or_are_refused(
    rounds: list[list[bytes]], seamless: bool
) -> None:
    noted, taken, sent = Noted(), 0, 0
    framer = make_framer("ts", 1472, schedule=noted, seamless=seamless)
    try:
        for parts in rounds:
            payloads = []
            for part in parts:
                taken += len(part)
                payloads.append(framer.feed(part))
            payloads.append(framer.finish())
            for some in filter(len, payloads):
                assert all(len(one) % PACKET_BYTES == 0 and 0 < len(one) <= DATAGRAM for one in some)
                assert {bytes(one[::PACKET_BYTES]) for one in some} <= {
                    b"\x47" * count for count in range(1, 8)
                }
                sent += sum(some.sizes)
    except SourceError:
        return
    assert sent + framer.skipped_bytes == taken
    due = [time for some in noted.times for time in some]
    assert due == sorted(due)
