"""Recordings as a source: which stream of them, and when; what is cut, damaged, exchanged, or no capture."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.channel import running
from support.programs import program
from support.recordings import GROUP, HEAD, MILLISECOND, PORT, packet, recording
from support.wait import wait_for

from mcastd import clock
from mcastd.clock import NANO
from mcastd.config import OutboundChannel, StreamSelection
from mcastd.errors import SourceError
from mcastd.net.fake import FakeSender
from mcastd.net.payloads import Payloads
from mcastd.outbound.channel import Channel
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.sources import open_source
from mcastd.outbound.sources.recording import (
    STREAMS_NAMED,
    SURVEY_BYTES,
    TIMED_READ_BYTES,
    RecordingSource,
)
from mcastd.outbound.timed import TimedSchedule

pytestmark = pytest.mark.usefixtures("no_fd_leak")
Opened = Callable[..., RecordingSource]
ONE_TWO = recording([(0, b"one"), (7 * MILLISECOND, b"two")])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tv.pcapng"


@pytest.fixture
def opened(path: Path, no_fd_leak: None) -> Iterator[Opened]:
    sources: list[RecordingSource] = []

    def make(select: StreamSelection | None = None, **settings: Any) -> RecordingSource:
        sources.append(RecordingSource(settings.pop("path", path), select, **settings))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def read_all(source: RecordingSource) -> list[bytes]:
    """All payloads up to the end. What is read without one is bounded."""
    payloads: list[bytes] = []
    for _ in range(1000):
        payloads += map(bytes, source.read())
        if source.finished:
            return payloads
    raise AssertionError("it does not end")


def error_of(source: RecordingSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_all(source)
    return caught.value


# -- which stream


def test_the_only_stream_is_sent(path: Path, opened: Opened) -> None:
    path.write_bytes(ONE_TWO)
    source = opened(repeat=2)
    assert len(source.read()) == 0
    assert source.slow
    assert source.preparing == source.state == "looking for its streams"
    assert read_all(source) == [b"one", b"two"] * 2
    assert (source.rounds, source.state, source.preparing, source.slow) == (2, "finished", "", False)
    source.restart()
    assert read_all(source) == [b"one", b"two"] * 2


def test_at_its_times_little_is_read_at_once(path: Path, opened: Opened) -> None:
    """Nothing is sent while it is looked at."""
    payloads = [bytes(1316)] * 100
    path.write_bytes(recording([(number * MILLISECOND, one) for number, one in enumerate(payloads)]))
    stream = StreamSelection(ip_address(GROUP), PORT)
    assert len(opened(stream, schedule=TimedSchedule()).read()) == TIMED_READ_BYTES // 1400
    assert len(opened(stream).read()) > 40


def test_a_stream_is_selected_without_looking_for_it(path: Path, opened: Opened) -> None:
    path.write_bytes(ONE_TWO + packet(b"six", 8, "ff15::2", 9191) + packet(b"other", 9, GROUP, 9199))
    source = opened(StreamSelection(ip_address(GROUP), PORT))
    assert list(source.read()) == [b"one", b"two"]
    assert read_all(opened(StreamSelection(port=9191))) == [b"six"]
    assert read_all(opened(StreamSelection(ip_address("ff15::2")))) == [b"six"]


def test_several_streams_are_listed(path: Path, opened: Opened) -> None:
    path.write_bytes(ONE_TWO + packet(b"six", 8, "ff15::2", 9191) + packet(b"other", 9, GROUP, 9199))
    error = error_of(opened())
    assert str(error) == (
        f"cannot read {path}: 3 streams are in it, and a channel sends one: {GROUP} port {PORT} (2), ff15::2"
        f' port 9191 (1), {GROUP} port 9199 (1); set select = {{ group = "{GROUP}", port = {PORT} }},'
        " or another of these"
    )
    assert error.change is not None
    assert error.change.key == "select"
    error = error_of(opened(StreamSelection(ip_address(GROUP))))
    assert "2 streams are in it" in error.cause
    assert "ff15" not in error.cause


def test_a_selection_of_nothing_says_what_there_is(path: Path, opened: Opened) -> None:
    path.write_bytes(ONE_TWO)
    source = opened(StreamSelection(ip_address(GROUP), 9199), repeat="forever")
    with pytest.raises(SourceError, match=rf"no datagram in it is selected: {GROUP} port {PORT} \(2\)"):
        read_all(source)
    with pytest.raises(SourceError, match="no datagram in it is selected"):  # without another look
        source.read()
    path.write_bytes(ONE_TWO + packet(b"now", 9, GROUP, 9199))
    os.utime(path, ns=(1, 1))
    assert len(source.read()) == 0
    assert source.rounds == 0
    assert list(source.read()) + list(source.read()) == [b"now"]


def test_many_streams_are_not_all_named(path: Path, opened: Opened) -> None:
    path.write_bytes(HEAD + b"".join(packet(b"x", 0, GROUP, port) for port in range(1, 2000)))
    error = error_of(opened())
    assert error.cause.count(" port ") == STREAMS_NAMED
    assert " streams are in it" in error.cause


def test_no_stream_at_all(path: Path, opened: Opened) -> None:
    path.write_bytes(HEAD)
    assert error_of(opened()).cause == "it has no whole UDP datagram"
    cut = packet(b"snapped")
    short = (
        struct.pack("<II", 6, 64)
        + cut[8:20]
        + struct.pack("<II", 32, 35)
        + cut[28:60]
        + struct.pack("<I", 64)
    )
    path.write_bytes(HEAD + short + short)
    error = error_of(opened())
    assert error.cause == "it has no whole UDP datagram; 2 packets are skipped (snapped)"
    assert "tcpdump -s 0" in error.way_out


# -- what it is


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "neither pcap nor pcapng"),
        (b"ab", "neither"),
    ],
)
def test_what_is_no_capture_is_refused(path: Path, opened: Opened, data: bytes, cause: str) -> None:
    path.write_bytes(data)
    error = error_of(opened())
    assert cause in error.cause
    assert "tv.aux" in error.cause


def test_what_is_compressed_has_to_be_unpacked(path: Path, opened: Opened) -> None:
    path.write_bytes(b"\x1f\x8b\x08" + bytes(50))
    error = error_of(opened())
    assert (error.cause, error.way_out.partition(",")[0]) == ("it is compressed by gzip", "unpack it first")


def test_a_directory_is_no_recording_by_any_protocol(path: Path, opened: Opened) -> None:
    path.mkdir()
    with pytest.raises(SourceError, match=r"it is a directory; name a file or a FIFO$"):
        opened().read()


def test_an_empty_file_waits_for_content(path: Path, opened: Opened) -> None:
    path.write_bytes(b"")
    assert error_of(opened()).waits == "waiting for content"
    source = opened(follow=True)
    assert len(source.read()) == 0
    path.write_bytes(ONE_TWO)
    assert len(source.read()) == 0  # it is looked at
    got: list[bytes] = []
    wait_for(lambda: got.extend(map(bytes, source.read())) or len(got) == 2, "both")
    with path.open("ab") as file:
        file.write(packet(b"three", 9))
    wait_for(lambda: got.extend(map(bytes, source.read())) or len(got) == 3, "what was appended")
    assert got == [b"one", b"two", b"three"]


def test_of_a_pipe_the_first_stream_is_sent(path: Path, opened: Opened) -> None:
    os.mkfifo(path)
    source = opened()
    assert len(source.read()) == 0
    with path.open("wb", buffering=0) as writer:
        writer.write(HEAD + packet(b"other", 0, GROUP, 9199) + ONE_TWO + packet(b"more", 1, GROUP, 9199))
        assert list(source.read()) == [b"other", b"more"]


def test_a_stream_of_multicat(tmp_path: Path, opened: Opened) -> None:
    chunks = [bytes([n]) * 1316 for n in range(1, 6)]
    ticks = [27_000_000 * 3600, 27_000_000 * 3600 + 2700, 27_000_000 * 3601, 27_000_000 * 3601]
    path = tmp_path / "film.ts"
    path.write_bytes(b"".join(chunks[:4]))
    path.with_suffix(".aux").write_bytes(struct.pack(">4Q", *ticks))
    schedule = TimedSchedule()
    source = opened(path=path, schedule=schedule, repeat=2, speed=4)
    assert list(source.read()) == chunks[:4]
    assert schedule.targets(5.0, [1316] * 4) == pytest.approx([5.0, 5.000025, 5.25, 5.25])
    path.write_bytes(
        b"".join(chunks)
    )  # longer than its times: those are of 1316 bytes, unless they come out even
    path.with_suffix(".aux").write_bytes(struct.pack(">4Q", *ticks)[:-3])
    assert read_all(source)[-5:] == chunks
    odd = tmp_path / "odd.ts"
    odd.write_bytes(b"abcabdab")
    odd.with_suffix(".aux").write_bytes(struct.pack(">4Q", *ticks))
    assert read_all(opened(path=odd)) == [b"ab", b"ca", b"bd", b"ab"]


@pytest.mark.root
def test_multicat_itself_has_recorded_it(tmp_path: Path, opened: Opened) -> None:
    source, path = tmp_path / "in.ts", tmp_path / "out.ts"
    packets = b"".join(b"\x47\x1f\xff" + bytes([0x10 | n % 16]) + bytes([n]) * 184 for n in range(70))
    source.write_bytes(packets)
    source.with_suffix(".aux").write_bytes(struct.pack(">10Q", *(270_000 * n for n in range(10))))
    subprocess.run([program("multicat"), source, path], check=True, timeout=60, capture_output=True)
    assert path.with_suffix(".aux").stat().st_size == 80
    assert read_all(opened(path=path)) == [packets[at : at + 1316] for at in range(0, len(packets), 1316)]


# -- what is wrong with it


def test_a_recording_that_is_cut_or_damaged_is_sent_up_to_there(path: Path, opened: Opened) -> None:
    for data, reason, offset in (
        (ONE_TWO + packet(b"three", 9)[:-5], "cut", len(ONE_TWO)),
        (ONE_TWO + b"\6\0\0\0" + bytes(80) + packet(b"three", 9), "damaged", len(ONE_TWO)),
    ):
        path.write_bytes(data)
        with capture_logs() as logs:
            source = opened()
            assert read_all(source) == [b"one", b"two"]
        (event,) = [one for one in logs if one["event"] == "recording.broken"]
        assert (event["reason"], event["offset"], event["log_level"]) == (reason, offset, "warning")
        assert source.state.startswith(f"finished; after {offset:,} bytes ")


def test_packets_that_cannot_be_sent_are_counted(path: Path, opened: Opened) -> None:
    fragment = bytearray(packet(b"fragment"))
    fragment[28 + 6] = 0x20
    elsewhere = bytearray(packet(b"fragment", 0, "239.255.1.3"))
    elsewhere[28 + 6] = 0x20
    path.write_bytes(ONE_TWO + bytes(fragment) + bytes(elsewhere))
    source = opened(StreamSelection(ip_address(GROUP), PORT), repeat=3)
    assert read_all(source) == [b"one", b"two"] * 3
    assert source.dropped == {"fragment": 3}
    assert set(source.dropped) <= set(source.reasons)


def test_cut_while_it_is_read_and_exchanged_for_the_next_round(path: Path, opened: Opened) -> None:
    many = [(n, b"%05d" % n + bytes(995)) for n in range(1000)]
    path.write_bytes(recording(many))
    source = opened(StreamSelection(ip_address(GROUP), PORT), repeat=2)
    first = [bytes(one) for one in source.read()]
    assert 0 < len(first) < 200
    os.truncate(path, 300_000)  # a mapped file would now end the process
    new = path.with_suffix(".new")
    new.write_bytes(ONE_TWO)
    new.rename(path)
    rest = read_all(source)
    assert rest[-2:] == [b"one", b"two"]
    payloads = first + rest[:-2]
    assert payloads == [payload for _, payload in many[: len(payloads)]]
    assert 250 < len(payloads) < 300


def test_an_exchanged_file_is_looked_at_anew(path: Path, opened: Opened) -> None:
    path.write_bytes(ONE_TWO)
    source = opened(repeat="forever")
    got: list[bytes] = []
    while len(got) < 2:
        got += map(bytes, source.read())
    new = path.with_suffix(".new")
    new.write_bytes(recording([(0, b"three")]) + packet(b"two streams", 5, GROUP, 9199))
    new.rename(path)
    with pytest.raises(SourceError, match="2 streams are in it"):
        read_all(source)


def test_a_read_is_bounded_where_little_is_wanted(path: Path, opened: Opened) -> None:
    others = b"".join(packet(bytes(1000), n, GROUP, 9199) for n in range(2 * SURVEY_BYTES // 1000))
    path.write_bytes(HEAD + others + packet(b"wanted"))
    source = opened(StreamSelection(ip_address(GROUP), PORT))
    reads = 0
    while not (payloads := source.read()):
        reads += 1
    assert list(payloads) == [b"wanted"]
    assert reads > 5


# -- when


class NotingSender(FakeSender):
    """A FakeSender that notes when it sends."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def send(self, payloads: Payloads) -> int:
        sent = super().send(payloads)
        self.times += [clock.monotonic()] * sent
        return sent


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_channel_sends_them_as_far_apart_as_they_came(path: Path, is_shared: bool) -> None:
    after = [0, 60, 65, 140, 141, 260]  # milliseconds
    path.write_bytes(recording([(ms * MILLISECOND, b"%d" % ms) for ms in after]))
    config = OutboundChannel(
        source=path, group=GROUP, port=PORT, framing="capture", timing="capture", speed=2, repeat=2
    )
    assert (config.interval, config.rate) == (None, None)
    link, shared = NotingSender(), SharedSender()
    channel = Channel(
        "outbound/tv", config, lambda _: link, open_source(config), shared=shared if is_shared else None
    )
    try:
        with closing(channel), running(channel) as run:
            wait_for(lambda: len(link.sent) == 12, "both rounds")
            wait_for(lambda: channel.counters.rounds == 2, "their account")
            assert not run.failures
        assert link.sent == [b"%d" % ms for ms in after] * 2
        due = [ms / 2000 for ms in after]
        due += [0.130 + 0.026 + at for at in due]  # the mean distance between the rounds
        early = [at - link.times[0] - when for at, when in zip(link.times, due, strict=True)]
        assert min(early) > -0.001  # none goes early; how late is the machine's matter
        status = channel.status()
        assert status.framing == "capture"
        assert channel.counters.sent == 12
        assert channel.counters.rounds == 2
    finally:
        shared.close()


class HeldUpSender(NotingSender):
    """One that takes a while for one datagram."""

    def send(self, payloads: Payloads) -> int:
        sent = super().send(payloads)
        if len(self.sent) == 20:
            time.sleep(0.4)
        return sent

    def prepare(self, size: int, count: int) -> None:
        """Nothing: all goes by :meth:`send`."""


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_is_late_stays_so_where_most_of_the_file_is_of_others(path: Path, is_shared: bool) -> None:
    """A read that finds nothing of the stream is no pause of it."""
    of_others = [packet(bytes(1300), n, GROUP, 9199) for n in range(20)]
    wanted = [packet(b"%d" % n, 10 * MILLISECOND * n) for n in range(100)]
    path.write_bytes(HEAD + b"".join(one + b"".join(of_others) for one in wanted))
    select = {"group": GROUP, "port": PORT}
    config = OutboundChannel(
        source=path, group=GROUP, port=PORT, framing="capture", timing="capture", select=select
    )
    link, shared = HeldUpSender(), SharedSender()
    channel = Channel(
        "outbound/tv", config, lambda _: link, open_source(config), shared=shared if is_shared else None
    )
    try:
        with closing(channel), running(channel):
            wait_for(lambda: channel.counters.sent == 100, "all of it")
        assert channel.counters.late > 40, "it catches up at twice the pace"
    finally:
        shared.close()


def test_an_interval_instead(path: Path) -> None:
    path.write_bytes(recording([(n * NANO, b"%d" % n) for n in range(5)]))
    config = OutboundChannel(source=path, group=GROUP, port=PORT, framing="capture", interval=0)
    link = FakeSender()
    channel = Channel("outbound/tv", config, lambda _: link, open_source(config))
    with closing(channel), running(channel):
        wait_for(lambda: len(link.sent) == 5, "all of them, at once")
    assert link.sent == [b"%d" % n for n in range(5)]
