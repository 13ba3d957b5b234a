"""A format with a head, and with records that are not each a datagram: on files and pipes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kinds import Pairs

from mcastd import log
from mcastd.config import FifoOutput, FileOutput
from mcastd.inbound.sinks import Ends, Means, fifo
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.fifo import FifoSink
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.queue import RECORD_OVERHEAD_BYTES, RecordQueue
from mcastd.inbound.sinks.records import Made
from mcastd.net.link import ListBatch

HEAD = Pairs.HEAD


class LongHead(Pairs):
    HEAD = b"long " * 20_000


def file_sink(path: Path, more: dict[str, Any] | None = None, **settings: Any) -> FileSink:
    config = FileOutput(path=path, **settings)
    account = Account(config, log.get_logger())
    return FileSink(config, Pairs(StreamFacts(str, str)), account, look_every=0, **(more or {}))


@pytest.fixture
def make_fifo(no_fd_leak: None) -> Iterator[Callable[..., FifoSink]]:
    sinks: list[FifoSink] = []

    def make(path: Path, format: type[Pairs] = Pairs, ends: Ends | None = None) -> FifoSink:
        config = FifoOutput(path=path)
        account = Account(config, log.get_logger())
        sinks.append(FifoSink(config, format(StreamFacts(str, str)), account, Means(ends), look_every=0))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


def counted(sink: FileSink | FifoSink) -> tuple[int, int, dict[str, int], int]:
    counters = sink.counters
    return counters.written, counters.written_bytes, dict(counters.dropped), counters.queued


# -- files


def test_a_file_begins_with_its_head_and_datagrams_are_what_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = file_sink(path)
    sink.open()
    assert path.read_bytes() == HEAD
    sink.write(ListBatch([b"1", b"2", b"3"]))
    assert path.read_bytes() == HEAD + b"1+2\n3\n"
    assert counted(sink) == (3, 12, {}, 0)
    sink.close()
    again = file_sink(path)
    again.write(ListBatch([b"4"]))
    assert path.read_bytes() == HEAD + b"1+2\n3\n4\n"
    os.truncate(path, 0)  # as logrotate's copytruncate does
    again.write(ListBatch([b"5"]))
    assert path.read_bytes() == HEAD + b"5\n"
    again.close()


def test_each_file_of_a_rotation_has_its_head(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = file_sink(path, rotate_size=len(HEAD) + 8)
    sink.write(ListBatch([b"%d" % n for n in range(10)]))
    sink.write(ListBatch([b"longer than a file may be"]))
    files = [path, *(Path(f"{path}.{n}") for n in (1, 2, 3))]
    assert [file.read_bytes() for file in reversed(files)] == [
        HEAD + b"0+1\n2+3\n",
        HEAD + b"4+5\n6+7\n",
        HEAD + b"8+9\n",
        HEAD + b"longer than a file may be\n",
    ]
    assert counted(sink) == (11, 4 * len(HEAD) + 5 * 4 + 26, {}, 0)
    sink.close()


def test_a_file_in_which_nothing_but_the_head_is_is_not_rotated(tmp_path: Path) -> None:
    path, now = tmp_path / "log", [0.0]
    sink = file_sink(path, {"now": lambda: now[0], "wall": lambda: now[0]}, rotate_every=10)
    sink.open()
    for at in (10.0, 20.0):
        now[0] = at
        sink.tick(at)
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    sink.write(ListBatch([b"1"]))
    now[0] = 30.0
    sink.tick(30.0)
    assert path.read_bytes() == HEAD
    assert Path(f"{path}.1").read_bytes() == HEAD + b"1\n"
    sink.close()


def test_a_head_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "log"
    room = [4]

    def writev(fd: int, records: Sequence[bytes]) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, b"".join(records)[: room[0]])
        room[0] -= written
        return written

    sink = file_sink(path)
    with patch.object(os, "writev", writev):
        sink.write(ListBatch([b"1", b"2"]))
        assert path.read_bytes() == b""
        assert counted(sink) == (0, 0, {"no-space": 2}, 0)
        room[0] = 1000
        sink.write(ListBatch([b"3", b"4"]))
    assert path.read_bytes() == HEAD + b"3+4\n"
    assert counted(sink) == (2, 10, {"no-space": 2}, 0)
    sink.close()


def test_what_a_crash_has_left_of_a_head_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for before, after in ((HEAD[:3], HEAD), (HEAD, HEAD), (b"PAX", b"PAX"), (HEAD + b"1\n", HEAD + b"1\n")):
        path.write_bytes(before)
        sink = file_sink(path)
        sink.write(ListBatch([b"2"]))
        assert path.read_bytes() == after + b"2\n"
        sink.close()


def test_a_head_that_the_disk_did_not_take_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = file_sink(path, fsync=True)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as context:
        context.setattr(os, "fdatasync", refuse)
        sink.write(ListBatch([b"1"]))
        assert path.read_bytes() == b""
    sink.write(ListBatch([b"2", b"3"]))
    assert path.read_bytes() == HEAD + b"2+3\n"
    assert counted(sink) == (2, 10, {"io-error": 1}, 0)
    sink.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    limit=st.none() | st.integers(1, 40),
    rooms=st.lists(st.integers(0, 40), max_size=20),
    batches=st.lists(st.integers(0, 7), max_size=8),
)
def test_each_datagram_is_counted_wherever_the_kernel_cuts(
    limit: int | None, rooms: list[int], batches: list[int]
) -> None:
    with TemporaryDirectory() as directory:
        cuts = iter(rooms)

        def writev(fd: int, records: Sequence[bytes]) -> int:
            if not (room := next(cuts, 1 << 20)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os.write(fd, b"".join(records)[:room])

        sink = file_sink(Path(directory, "log"), rotate_size=limit, keep=100)
        for size in batches:
            with patch.object(os, "writev", writev):
                sink.write(ListBatch([b"x"] * size))
        sink.close()
        files = [file.read_bytes() for file in Path(directory).iterdir()]
        assert all(file == b"" or file.startswith(HEAD) for file in files)
        bodies = [file.removeprefix(HEAD) for file in files]
        assert all(set(body.splitlines()) <= {b"x+x", b"x"} and body[-1:] in b"\n" for body in bodies)
        counters = sink.counters
        assert counters.written == sum(body.count(b"x") for body in bodies)
        assert counters.written_bytes == sum(map(len, files))
        assert counters.written + sum(counters.dropped.values()) == sum(batches)


# -- pipes


def test_each_reader_of_a_pipe_gets_the_head_and_the_same_one_only_once(
    tmp_path: Path, make_fifo: Callable[..., FifoSink]
) -> None:
    path, ends = tmp_path / "pipe", Ends()
    first = make_fifo(path, ends=ends)
    first.open()
    for number in (b"1", b"2"):
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        first.write(ListBatch([number, number, b"3"]))
        assert os.read(reader, 100) == HEAD + number + b"+" + number + b"\n3\n"
        if number == b"1":
            os.close(reader)
            first.write(ListBatch([b"nobody"]))
    assert counted(first) == (6, 24, {"reader-gone": 1}, 0)
    first.close()
    second = make_fifo(path, ends=ends)
    second.open()
    second.write(ListBatch([b"4"]))
    assert os.read(reader, 100) == b"4\n"
    os.close(reader)
    second.close()
    ends.settle()


def test_a_head_that_the_pipe_cannot_hold_is_a_trouble_with_a_reason(
    tmp_path: Path, make_fifo: Callable[..., FifoSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fifo, "enlarge", lambda fd, size: False)
    path = tmp_path / "pipe"
    sink = make_fifo(path, LongHead)
    sink.open()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.write(ListBatch([b"1"]))
    assert counted(sink) == (0, 0, {"too-large": 1}, 0)
    assert "the head of its format" in sink.problem
    monkeypatch.undo()
    sink.write(ListBatch([b"2"]))
    assert os.read(reader, 1 << 20) == LongHead.HEAD + b"2\n"
    assert (counted(sink)[0], sink.problem) == (1, "")
    os.close(reader)


def test_a_slow_reader_finds_whole_records_and_datagrams_are_what_is_counted(
    tmp_path: Path, make_fifo: Callable[..., FifoSink]
) -> None:
    path = tmp_path / "pipe"
    sink = make_fifo(path)
    sink.open()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    long = b"x" * 100_000
    for _ in range(20):
        sink.write(ListBatch([long, long, b"odd"]))
    written, _, dropped, queued = counted(sink)
    assert queued
    assert dropped["full"]
    assert written + dropped["full"] + queued == 60
    data = b""
    while sink.counters.queued:
        data += os.read(reader, 1 << 20)
        sink.flush()
    data += os.read(reader, 1 << 20)
    lines = data.removeprefix(HEAD).splitlines(keepends=True)
    assert set(lines) == {long + b"+" + long + b"\n", b"odd\n"}
    assert counted(sink) == (60 - dropped["full"], len(data), dropped, 0)
    os.close(reader)


@pytest.mark.parametrize(("oldest", "left"), [(True, [b"c", b"d"]), (False, [b"a", b"b"])])
@pytest.mark.parametrize("started", [0, 1])
def test_what_is_evicted_counts_as_the_datagrams_that_end_with_it(
    oldest: bool, left: list[bytes], started: int
) -> None:
    queue = RecordQueue()
    first = [b"begun"] if started else []
    queue.add(Made([*first, b"a", b"b", b"c", b"d"], [7] * started + [1, 2, 4, 8]), started)
    limit = queue.size - 2 * (RECORD_OVERHEAD_BYTES + 1)
    assert queue.evict(limit, oldest=oldest) == (3 if oldest else 12)
    assert list(queue.records) == first + left
    assert (queue.datagrams, queue.size) == (7 * started + (12 if oldest else 3), limit)
    assert queue.evict(0, oldest=oldest) == (4 if oldest else 2)  # the last one always stays
    assert queue.clear() == 7 * started + (8 if oldest else 1)
    assert (queue.datagrams, queue.size, queue.started) == (0, 0, 0)
