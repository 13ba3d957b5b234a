"""The format ``pcapng`` on files and pipes: each file and each reader gets what Wireshark needs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import counted_calls
from support.captures import about, packets
from support.programs import program

from mcastd import log
from mcastd.config import FifoOutput, FileOutput
from mcastd.inbound.sinks import Ends, Means
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.capture import FRAMES_MAX, Capture
from mcastd.inbound.sinks.fifo import FifoSink
from mcastd.inbound.sinks.file import FOREIGN, FileSink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.net.link import ListBatch, Origin
from mcastd.net.slots import Slots
from mcastd.protocols.capture_reading import CaptureReader
from mcastd.rows import Rows

ETH = Origin("192.0.2.1", 5000, 2, 64)
WG = Origin("192.0.2.2", 5001, 7, -1)
V6 = Origin("2001:db8::1", 5002, 3, 9)
TIME = 1_700_000_000_000_000_001
NAMED = ("frame.interface_name", "ip.src", "udp.payload")


@dataclass(frozen=True)
class InRows(ListBatch):
    """A batch whose datagrams lie in rows."""

    rows: Sequence[Rows] = ()


class Kernel:
    """What a stream says of the kernel, as the test wants it."""

    overflow = 0
    group = "239.255.1.2"
    port = 9190

    def stream(self) -> StreamFacts:
        return StreamFacts(
            lambda: self.group,
            lambda ifindex: f"eth{ifindex}",
            lambda: self.port,
            "inbound/tv",
            lambda: self.overflow,
        )


def batch(*payloads: bytes, origin: Origin = ETH, time: int = TIME) -> ListBatch:
    return ListBatch(payloads, [origin] * len(payloads), [time] * len(payloads))


def file_sink(path: Path, kernel: Kernel | None = None, **settings: object) -> FileSink:
    config = FileOutput.model_validate({"path": path, "format": "pcapng", **settings})
    return FileSink(
        config, Capture((kernel or Kernel()).stream()), Account(config, log.get_logger()), look_every=0
    )


def test_a_file_is_a_capture_from_its_first_byte_on(tmp_path: Path) -> None:
    path = tmp_path / "tv.pcapng"
    sink = file_sink(path)
    sink.open()
    assert "Number of packets:   0" in about(path)
    sink.write(batch(b"one", b"three"))
    sink.write(batch(b"w", origin=WG))
    sink.write(batch(b"two"))
    sink.close()
    assert packets(path, *NAMED) == [
        ("eth2", "192.0.2.1", "6f6e65"),
        ("eth2", "192.0.2.1", "7468726565"),
        ("eth7", "192.0.2.2", "77"),
        ("eth2", "192.0.2.1", "74776f"),
    ]
    fields = packets(path, "ip.dst", "udp.dstport", "ip.ttl", "frame.interface_description")
    assert fields[0] == ("239.255.1.2", "9190", "64", "inbound/tv 239.255.1.2 port 9190")
    assert fields[2][2] == "0"
    assert (sink.counters.written, sink.counters.written_bytes) == (4, path.stat().st_size)


def test_a_file_that_is_gone_on_with_has_a_section_for_each_run(tmp_path: Path) -> None:
    path = tmp_path / "c"
    for number in (b"1", b"2", b"3"):
        sink = file_sink(path)
        sink.open()
        sink.write(batch(number))
        sink.reopen()
        sink.write(batch(number))
        sink.close()
    assert [payload for (payload,) in packets(path, "udp.payload")] == ["31", "31", "32", "32", "33", "33"]


@pytest.mark.parametrize("cut", [1, 30, 80])
def test_what_a_crash_has_cut_is_taken_off_before_more_is_written(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "c"
    sink = file_sink(path)
    sink.write(batch(b"1", b"2" * 20))
    sink.close()
    os.truncate(path, path.stat().st_size - cut)
    again = file_sink(path)
    again.write(batch(b"3"))
    again.close()
    assert [payload for (payload,) in packets(path, "udp.payload")] == ["31", "33"]


def test_a_file_with_something_else_in_it_is_left_alone_and_said(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"news\n")
    sink = file_sink(path)
    sink.write(batch(b"1"))
    assert path.read_bytes() == b"news\n"
    assert dict(sink.counters.dropped) == {FOREIGN: 1}
    assert "there is something else than pcapng in it" in sink.problem
    path.rename(tmp_path / "news")
    sink.write(batch(b"2"))
    assert (packets(path, "udp.payload"), sink.problem) == ([("32",)], "")
    sink.close()


def test_each_file_of_a_rotation_is_a_capture_with_all_its_interfaces(tmp_path: Path) -> None:
    path = tmp_path / "c"
    sink = file_sink(path, rotate_size=1500)
    sink.write(batch(b"a" * 200, origin=WG))
    for number in range(4):
        sink.write(batch(bytes([48 + number]) * 200))
    sink.write(batch(*[b"w" * 200] * 5, origin=WG))
    files = [path, *(Path(f"{path}.{n}") for n in range(1, 8) if Path(f"{path}.{n}").exists())]
    assert len(files) > 2
    assert all(file.stat().st_size <= 1500 for file in files)
    seen = [(name, payload[:2]) for file in reversed(files) for name, _, payload in packets(file, *NAMED)]
    assert seen == [("eth7", "61"), *(("eth2", f"{48 + n:x}") for n in range(4)), *[("eth7", "77")] * 5]
    sink.close()


def test_a_disk_that_refuses_a_head_gets_it_before_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    sink = file_sink(path, fsync=True)
    sink.write(batch(b"1"))

    def refuse(fd: int) -> None:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as context:
        context.setattr(os, "fdatasync", refuse)
        sink.write(batch(b"lost", origin=WG))
    sink.write(batch(b"2", origin=WG))
    sink.close()
    assert packets(path, *NAMED) == [("eth2", "192.0.2.1", "31"), ("eth7", "192.0.2.2", "32")]
    assert dict(sink.counters.dropped) == {"io-error": 1}


def test_where_the_kernel_dropped_something_the_next_packet_says_so(tmp_path: Path) -> None:
    path, kernel = tmp_path / "c", Kernel()
    sink = file_sink(path, kernel)
    sink.write(batch(b"1", b"2"))
    kernel.overflow = 13
    sink.write(batch(b"3", b"4"))
    kernel.overflow = 20
    sink.write(batch(b"5"))
    sink.close()
    comments = [comment for (comment,) in packets(path, "frame.comment")]
    said = "the kernel dropped {} before this: the receive buffer was full".format
    assert comments == ["", "", said(13), "", said(7)]
    assert "Number of packets:   5" in about(path)


@pytest.mark.parametrize("addresses", [("192.0.2.1", "192.0.2.9"), ()])
def test_what_came_before_metadata_was_asked_for_is_of_now(
    tmp_path: Path, addresses: tuple[str, ...]
) -> None:
    sink, before = file_sink(tmp_path / "a"), time.time_ns()
    sink.open()
    sink.write(ListBatch([b"a", b"b"], addresses=addresses))
    sink.write(ListBatch([b"c"], [ETH]))
    sink.close()
    found = CaptureReader().feed((tmp_path / "a").read_bytes())
    assert [bytes(payload) for _, payload, *_ in found] == [b"a", b"b", b"c"]
    assert all(before - 1000 <= at <= time.time_ns() for at, *_ in found)
    sources = [source for source, *_ in packets(tmp_path / "a", "ip.src")]
    assert sources == [*(addresses or ("0.0.0.0", "0.0.0.0")), "192.0.2.1"]


@pytest.mark.parametrize(
    ("group", "sources"),
    [("239.255.1.2", ["192.0.2.1", "0.0.0.0"]), ("ff15::1234", ["::ffff:192.0.2.1", "2001:db8::1"])],
)
def test_legs_of_both_families_are_one_stream(tmp_path: Path, group: str, sources: list[str]) -> None:
    kernel = Kernel()
    kernel.group = group
    sink = file_sink(tmp_path / "a", kernel)
    sink.open()
    sink.write(ListBatch([b"a", b"b"], [ETH, V6], [TIME, TIME + 1]))
    sink.close()
    found = CaptureReader().feed((tmp_path / "a").read_bytes())
    assert [(bytes(payload), ip_address(to), port) for _, payload, to, port in found] == [
        (b"a", ip_address(group), 9190),
        (b"b", ip_address(group), 9190),
    ]
    field = "ip.src" if ip_address(group).version == 4 else "ipv6.src"
    assert [source for source, *_ in packets(tmp_path / "a", field)] == sources


def test_the_group_and_port_are_those_of_now(tmp_path: Path) -> None:
    path, kernel = tmp_path / "c", Kernel()
    sink = file_sink(path, kernel)
    sink.write(batch(b"1"))
    kernel.group, kernel.port = "239.255.1.3", 9191
    sink.write(batch(b"1"))
    kernel.group = "ff12::3%eth2"
    sink.write(batch(b"1", origin=ETH._replace(source="fe80::1")))
    sink.close()
    to = packets(path, "ip.dst", "ipv6.dst", "udp.dstport")
    assert to == [("239.255.1.2", "", "9190"), ("239.255.1.3", "", "9191"), ("", "ff12::3", "9191")]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 70),  # datagrams
            st.integers(0, 9),  # bytes of each
            st.sampled_from([ETH, WG, V6]),
            st.integers(0, 5),  # of these, those that have another length at the end
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, (1 << 64) - 100),
)
def test_blocks_that_are_made_in_one_go_are_those_that_are_made_one_by_one(
    batches: list[tuple[int, int, Origin, int]], time: int
) -> None:
    kernel = Kernel()
    together, alone = Capture(kernel.stream()), Capture(kernel.stream())
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        for count, size, origin, others in batches:
            kernel.group = "ff05::7" if origin is V6 else "239.255.1.2"
            sizes = [size + 1 if index >= count - others else size for index in range(count)]
            payloads = [bytes([65 + index] * length) for index, length in enumerate(sizes)]
            times = [time + index for index in range(count)]
            made = together.records(ListBatch(payloads, [origin] * count, times))
            singles = [
                alone.records(ListBatch([payload], [origin], [at]))
                for payload, at in zip(payloads, times, strict=True)
            ]
            expected = [record for one in singles for record in one.payloads]
            assert [*made.payloads] == expected
            assert (len(made), made.size) == (count, sum(map(len, expected)))
            assert made.write(writing) == made.size, "less than a pipe takes"
            assert os.read(reading, 1 << 16) == b"".join(expected)
        os.close(writing)
        assert not pipe.read()


def test_a_batch_of_one_sender_and_length_takes_as_many_calls_however_many_datagrams_it_has() -> None:
    capture = Capture(Kernel().stream())

    def calls(count: int) -> int:
        slots, metadata = Slots(), ([ETH] * count, [TIME] * count)
        rows = slots.rows([1316] * count)
        for _ in range(2):  # the first one makes what is kept
            with counted_calls() as counts:
                made = capture.records(InRows(slots.views[:count], *metadata, rows=rows))
                size = made.size
        assert (len(made), size) == (count, count * (28 + 28 + 1316 + 4))
        return counts.total()

    assert calls(200) == calls(20) <= 14


def test_many_lengths_of_many_senders_take_bounded_memory() -> None:
    capture = Capture(Kernel().stream())
    for port in range(1, 4):
        sizes = [bytes(size) for size in range(FRAMES_MAX)]
        capture.records(batch(*sizes, origin=ETH._replace(port=port)))
    assert len(capture._frames) <= 2 * FRAMES_MAX


# -- pipes


@pytest.fixture
def pipe(tmp_path: Path, no_fd_leak: None) -> Callable[..., FifoSink]:
    def make(ends: Ends | None = None, **settings: object) -> FifoSink:
        config = FifoOutput.model_validate({"path": tmp_path / "pipe", "format": "pcapng", **settings})
        account = Account(config, log.get_logger())
        return FifoSink(config, Capture(Kernel().stream()), account, Means(ends), look_every=0)

    return make


def test_each_reader_of_a_pipe_gets_a_capture_also_when_an_interface_comes_late(
    tmp_path: Path, pipe: Callable[..., FifoSink]
) -> None:
    sink = pipe()
    sink.open()
    read = tmp_path / "read"
    for expected in (["eth2", "eth7"], ["eth7", "eth2"]):
        with read.open("wb") as out, subprocess.Popen(["cat", tmp_path / "pipe"], stdout=out) as cat:
            while sink.counters.written < 2 or sink.problem:  # until there is a reader
                sink.write(batch(b"x", origin=ETH if expected[0] == "eth2" else WG))
                if sink.problem:
                    sink.counters.dropped.clear()
            written = sink.counters.written
            sink.write(batch(b"y", origin=WG if expected[1] == "eth7" else ETH))
            assert sink.counters.written == written + 1
            sink.close(for_good=True)
            assert cat.wait(30) == 0
        names = [name for (name,) in packets(read, "frame.interface_name")]
        assert list(dict.fromkeys(names)) == expected
        sink = pipe()
        sink.open()
    sink.close()


def test_a_slow_reader_misses_packets_and_no_head(tmp_path: Path, pipe: Callable[..., FifoSink]) -> None:
    program("tshark")  # where it is missing the test ends here, with nothing open
    for oldest in (True, False):
        sink = pipe(queue=1000, when_full="drop-oldest" if oldest else "drop-newest")
        sink.open()
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        for number in range(40):
            origin = ETH._replace(ifindex=2 + number % 10)
            sink.write(batch(bytes([number]) * 60_000, origin=origin))
        assert sink.counters.dropped["full"] > 5
        data = b""
        while sink.counters.queued:
            data += os.read(reader, 1 << 20)
            sink.flush()
        data += os.read(reader, 1 << 20)
        (tmp_path / "read").write_bytes(data)
        shown = packets(tmp_path / "read", "frame.interface_name", "udp.payload")
        assert len(shown) == sink.counters.written
        assert all(name == f"eth{2 + int(content[:2], 16) % 10}" for name, content in shown)
        os.close(reader)
        sink.close(for_good=True)


def test_a_reader_that_outlives_the_subscription_gets_another_section(
    tmp_path: Path, pipe: Callable[..., FifoSink]
) -> None:
    ends = Ends()
    first = pipe(ends)
    first.open()
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    first.write(batch(b"1"))
    first.close()
    second = pipe(ends)
    second.open()
    second.write(batch(b"2", origin=WG))
    (tmp_path / "read").write_bytes(os.read(reader, 1 << 20))
    os.close(reader)
    second.close()
    ends.settle()
    assert packets(tmp_path / "read", "ip.src", "udp.payload") == [("192.0.2.1", "31"), ("192.0.2.2", "32")]


def test_tshark_reads_a_pipe_as_it_comes(tmp_path: Path, pipe: Callable[..., FifoSink]) -> None:
    sink = pipe()
    sink.open()
    command = [
        program("tshark"),
        "-n",
        "-l",
        "-i",
        str(tmp_path / "pipe"),
        "-T",
        "fields",
        "-e",
        "udp.payload",
        "-c",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tshark:
        while not sink.counters.written:
            sink.write(batch(b"live"))
        out, err = tshark.communicate(timeout=60)
    assert out == "6c697665\n", err
    sink.close(for_good=True)
