"""The FIFO sink on real pipes, with a reader that is there, slow, gone, or back again."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import select
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.wait import wait_for

from mcastd import clock, log
from mcastd.config import FifoOutput
from mcastd.inbound.sinks import Ends, fifo
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.fifo import PIPE_BYTES, FifoSink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import Lines
from mcastd.inbound.sinks.queue import RECORD_OVERHEAD_BYTES
from mcastd.net.link import Batch, ListBatch

MakeFifo = Callable[..., FifoSink]
MakeBatch = Callable[..., Batch]
MakeFull = Callable[[str, int], tuple[FifoSink, "Reader"]]
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes: the smallest pipe


class Reader:
    """A program that reads a FIFO when it is told to."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def shrink(self) -> None:
        """Give the pipe the room of one page."""
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PAGE)

    def size(self) -> int:
        return fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)

    def read(self, size: int = 1 << 22) -> bytes:
        """What is in the pipe now, up to ``size`` bytes."""
        try:
            return os.read(self._fd, size)
        except BlockingIOError:
            return b""

    def leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


@pytest.fixture
def path(tmp_path: Path, no_fd_leak: None) -> Path:
    return tmp_path / "pipe"


@pytest.fixture
def attach(path: Path) -> Iterator[Callable[[], Reader]]:
    """Readers of the FIFO at ``path``."""
    readers: list[Reader] = []

    def make() -> Reader:
        readers.append(Reader(path))
        return readers[-1]

    yield make
    for reader in readers:
        reader.leave()


def drained(sink: FifoSink, reader: Reader) -> bytes:
    """All that the reader gets until nothing is queued."""
    data = reader.read()
    while sink.counters.queued:
        sink.flush()
        data += reader.read()
    return data


def queue_of(*records: int) -> int:
    """The ``queue`` setting that holds just these records."""
    return sum(records) + len(records) * RECORD_OVERHEAD_BYTES


# -- making and opening


def test_is_made_with_its_mode_and_directories(path: Path, make_fifo: MakeFifo) -> None:
    path = path.parent / "a" / "b" / "pipe"
    umask = os.umask(0o027)
    try:
        make_fifo(path, mode=0o666).open()
    finally:
        os.umask(umask)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE((path.parent).stat().st_mode) == 0o750


def test_the_pipe_is_made_larger(path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"x"))
    assert reader.size() == PIPE_BYTES


def test_a_file_at_the_path_is_refused_and_left_alone(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch
) -> None:
    path.write_bytes(b"precious")
    sink = make_fifo(path)
    sink.open()
    sink.write(make_batch(b"a", b"b"))
    assert path.read_bytes() == b"precious"
    assert sink.counters.dropped == {"not-a-fifo": 2}
    error = f"cannot write to {path}: it is not a FIFO but a regular file; give another path"
    assert sink.status().error == error


# -- readers that come and go


def test_without_a_reader_datagrams_are_dropped_until_one_comes(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    sink = make_fifo(path)
    with capture_logs() as said:
        sink.open()
        sink.write(make_batch(b"1"))
        sink.write(make_batch(b"2", b"3"))
        assert sink.counters.dropped == {"no-reader": 3}
        reader = attach()
        sink.write(make_batch(b"4", b"", memoryview(b"5" * 65_507)))
    assert drained(sink, reader) == b"4" + b"5" * 65_507
    assert (sink.counters.written, sink.counters.written_bytes) == (3, 65_508)
    assert sink.status().error is None
    assert [(s["event"], s.get("dropped")) for s in said] == [
        ("output.failed", None),
        ("output.recovered", 3),
    ]


def test_what_is_queued_goes_with_the_reader(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    reader.shrink()
    sink.write(make_batch(b"a"))  # opens it, and makes it larger
    reader.read()
    reader.shrink()
    sink.write(make_batch(b"b" * PAGE, b"c" * 10, b"d"))
    assert (sink.counters.written, sink.counters.queued) == (2, 2)
    reader.leave()
    assert sink.pending is not None
    sink.flush()  # what poll(2) calls for: POLLERR
    assert sink.pending is None
    assert sink.counters.queued == 0
    assert sink.counters.dropped == {"reader-gone": 2}
    sink.write(make_batch(b"e"))
    assert sink.counters.dropped == {"reader-gone": 2, "no-reader": 1}
    another = attach()
    sink.write(make_batch(b"f"))
    assert another.read() == b"f"


def test_a_reader_that_left_an_idle_pipe_is_noticed_with_the_next_datagram(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"a"))
    reader.leave()
    sink.write(make_batch(b"b", b"c"))
    sink.write(make_batch(b"d"))
    assert sink.counters.dropped == {"reader-gone": 2, "no-reader": 1}


def test_a_fifo_made_anew_is_noticed(path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach) -> None:
    sink = make_fifo(path)
    sink.open()
    old = attach()
    sink.write(make_batch(b"1"))
    path.unlink()
    os.mkfifo(path)
    new = attach()
    sink.write(make_batch(b"2"))
    assert (old.read(), new.read()) == (b"1", b"2")
    path.unlink()
    sink.write(make_batch(b"3"))
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert sink.counters.dropped == {"no-reader": 1}


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOMEM])
def test_a_pipe_is_kept_while_its_path_cannot_be_seen(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach, number: int
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"1"))
    with patch("mcastd.inbound.sinks.fifo.os.stat", side_effect=OSError(number, os.strerror(number))):
        sink.write(make_batch(b"2"))
    assert (reader.read(), sink.counters.dropped) == (b"12", {})


def test_a_pipe_whose_path_leads_nowhere_any_more_is_left(
    tmp_path: Path, make_fifo: MakeFifo, make_batch: MakeBatch
) -> None:
    path = tmp_path / "pipes" / "pipe"
    sink = make_fifo(path)
    sink.open()
    reader = Reader(path)
    sink.write(make_batch(b"1"))
    path.parent.rename(tmp_path / "elsewhere")
    path.parent.write_text("no directory")
    sink._look_every = 5.0
    for number in (b"2", b"3", b"4"):
        sink.write(make_batch(number))
    assert (reader.read(), sink.counters.dropped) == (b"1", {"io-error": 3})
    reader.leave()


def test_reopen_does_not_end_the_readers_input(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"1"))
    assert reader.read() == b"1"
    sink.reopen()
    with pytest.raises(BlockingIOError):  # an end of file would be b""
        os.read(reader._fd, 1)


def test_what_a_pipe_takes_whole_is_written_without_a_look_at_its_room(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"."))
    looks: list[int] = []
    look = fifo.room
    monkeypatch.setattr(fifo, "room", lambda fd: looks.append(fd) or look(fd))
    sink.write(make_batch(b"a" * 1365, b"b" * 1365, b"c" * (select.PIPE_BUF - 2730)))
    assert not looks
    sink.write(make_batch(b"d" * 2000, b"e" * (select.PIPE_BUF - 1999)))
    assert len(looks) == 1
    assert len(reader.read()) == 1 + select.PIPE_BUF + select.PIPE_BUF + 1
    assert sink.counters.written == 6


def test_what_a_pipe_does_not_take_whole_is_not_begun(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"."))
    reader.read()
    reader.shrink()
    sink.write(make_batch(b"x" * (PAGE - 5)))
    sink.write(make_batch(b"abc", b"def"))  # one byte more than there is room for
    assert (sink.counters.written, sink.counters.queued) == (2, 2)
    assert drained(sink, reader) == b"x" * (PAGE - 5) + b"abcdef"


# -- readers that are slow


@pytest.fixture
def full(path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach) -> MakeFull:
    """A sink whose pipe has room for 2 bytes, and whose queue holds a record of 10; and its reader."""

    def make(when_full: str, queue: int) -> tuple[FifoSink, Reader]:
        sink = make_fifo(path, when_full=when_full, queue=queue)
        sink.open()
        reader = attach()
        sink.write(make_batch(b"."))
        reader.read()
        reader.shrink()
        sink.write(make_batch(b"." * (PAGE - 2), b"0123456789"))
        assert sink.counters.written == 2
        return sink, reader

    return make


def test_drop_newest(full: MakeFull, make_batch: MakeBatch) -> None:
    sink, reader = full("drop-newest", queue_of(10, 3, 3))
    sink.write(make_batch(b"AAA"))
    sink.write(make_batch(b"BBB", b"CCC", b"DDD"))
    assert sink.counters.queued == 3
    assert sink.counters.dropped == {"full": 2}
    assert str(sink.status().error).endswith("pipe: the pipe is full; its reader is too slow")
    assert drained(sink, reader) == b"." * (PAGE - 2) + b"0123456789AAABBB"
    assert (sink.counters.written, sink.counters.queued) == (5, 0)
    sink.write(make_batch(b"E"))
    assert reader.read() == b"E"
    assert sink.status().error is None


def test_a_reader_that_is_too_slow_is_a_problem_until_it_has_caught_up(
    path: Path, full: MakeFull, make_batch: MakeBatch
) -> None:
    sink, reader = full("drop-newest", queue_of(10, 3, 3))
    assert sink.problem == ""
    sink.write(make_batch(b"AAA", b"BBB", b"CCC"))
    assert sink.problem == f"cannot write to {path}: the pipe is full"
    reader.read(PAGE)
    sink.write(make_batch(b"D" * (PAGE + 1)))  # there is room now, and not for long
    assert sink.problem
    drained(sink, reader)
    assert sink.problem == ""


def test_drop_oldest(full: MakeFull, make_batch: MakeBatch) -> None:
    sink, reader = full("drop-oldest", queue_of(10, 3, 3))
    sink.write(make_batch(b"AAA"))
    sink.write(make_batch(b"BBB", b"CCC", b"DDD"))
    assert sink.counters.dropped == {"full": 2}
    assert drained(sink, reader) == b"." * (PAGE - 2) + b"BBBCCCDDD"
    assert sink.counters.written == 5


def test_block_drops_nothing_and_says_when_to_stop(full: MakeFull, make_batch: MakeBatch) -> None:
    sink, reader = full("block", queue_of(10, 3, 3))
    sink.write(make_batch(b"AAA"))
    assert not sink.blocked
    sink.write(make_batch(b"BBB", b"CCC", b"DDD"))
    assert sink.blocked
    assert drained(sink, reader) == b"." * (PAGE - 2) + b"0123456789AAABBBCCCDDD"
    assert not sink.blocked
    assert (sink.counters.written, sink.counters.dropped) == (7, {})


def test_an_absent_reader_never_blocks(full: MakeFull, make_batch: MakeBatch) -> None:
    sink, reader = full("block", 1)
    assert sink.blocked
    reader.leave()
    sink.flush()
    assert not sink.blocked
    sink.write(make_batch(b"AAA"))
    assert not sink.blocked
    assert sink.counters.dropped == {"reader-gone": 1, "no-reader": 1}


@pytest.mark.parametrize("when_full", ["drop-newest", "drop-oldest"])
def test_one_record_is_queued_however_large_and_empty_ones_are_not_free(
    full: MakeFull, make_batch: MakeBatch, when_full: str
) -> None:
    sink, reader = full(when_full, queue_of(10, 0, 0))
    drained(sink, reader)
    sink.write(make_batch(b"." * (PAGE - 1)))
    sink.write(make_batch(b"A" * 65_507))
    assert (sink.counters.queued, sink.counters.dropped) == (1, {})
    assert drained(sink, reader).endswith(b"A" * 65_507)
    reader.shrink()
    sink.write(make_batch(b"x" * PAGE))
    sink.write(make_batch(b"y", *[b""] * 1000))
    assert sink.counters.queued == 3
    assert sink.counters.dropped == {"full": 998}


# -- the end


def test_close_lets_a_reader_finish(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make_fifo(path, queue=4 * PIPE_BYTES)
    monkeypatch.setattr(fifo, "LINGER_SECONDS", 60.0)
    data = b""

    def read() -> None:
        nonlocal data
        data = path.read_bytes()

    sink.open()
    program = threading.Thread(target=read)
    program.start()
    wait_for(lambda: sink.open() or sink.status().error is None, "the reader")
    for n in range(60):  # three times what the pipe holds
        sink.write(make_batch(b"%d" % (n % 10) * 50_000))
    sink.close()
    program.join()
    assert data == b"".join(b"%d" % (n % 10) * 50_000 for n in range(60))
    assert (sink.counters.written, sink.counters.dropped) == (60, {})


def test_close_writes_what_the_reader_still_takes_and_drops_the_rest(
    full: MakeFull, make_batch: MakeBatch
) -> None:
    sink, reader = full("drop-newest", 1 << 20)
    sink.write(make_batch(b"A" * PAGE, b"B"))
    assert reader.read() == b"." * (PAGE - 2)
    sink.close()
    assert reader.read() == b"0123456789"
    assert (sink.counters.written, sink.counters.queued) == (3, 0)
    assert sink.counters.dropped == {"stopped": 2}
    assert reader.read() == b""


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    when_full=st.sampled_from(["drop-newest", "drop-oldest", "block"]),
    queue=st.integers(1, 20_000),
    steps=st.lists(
        st.lists(st.integers(0, 6000) | st.just(30_000), max_size=6)
        | st.integers(1, 9000)
        | st.just("leave"),
        max_size=20,
    ),
)
def test_each_datagram_is_accounted_for_and_none_is_torn(
    when_full: str, queue: int, steps: list[list[int] | int | str]
) -> None:
    """Batches, reads and readers that leave, in any order; every reader gets whole lines, in order."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "pipe")
        config = FifoOutput(kind="fifo", path=path, when_full=when_full, queue=queue, format="lines")
        sink = FifoSink(config, Lines(StreamFacts(str, str)), Account(config, log.get_logger()))
        sink.open()
        counters = sink.counters
        reader = Reader(path)
        received, number, whole, data = 0, 0, 0, b""
        for step in [*steps, "leave"]:
            if isinstance(step, list):
                payloads = [b"%d:" % (number + n) + b"x" * size for n, size in enumerate(step)]
                number += len(payloads)
                received += len(payloads)
                sink.write(ListBatch([memoryview(bytearray(p)) for p in payloads]))
                reader.shrink() if not data and counters.written == 0 else None
            elif isinstance(step, int):
                data += reader.read(step)
                sink.flush()
            else:
                data += drained(sink, reader)
                assert data == b"" or data.endswith(b"\n")
                numbers = [int(line.partition(b":")[0]) for line in data.splitlines()]
                assert numbers == sorted(set(numbers))
                whole += len(numbers)
                reader.leave()
                data = b""
                sink.write(ListBatch([b"nobody"]))
                received += 1
                reader = Reader(path)
            assert received == counters.written + sum(counters.dropped.values()) + counters.queued
            if when_full == "block":
                assert "full" not in counters.dropped
        assert whole == counters.written
        reader.leave()
        sink.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pages=st.sampled_from([1, 2, 4, 16]),
    steps=st.lists(
        st.lists(st.integers(0, 4000) | st.integers(4000, 70_000), max_size=8) | st.integers(1, 99_000),
        max_size=40,
    ),
)
@example(pages=16, steps=[*[[2100]] * 13, [2100] * 8])  # each write leaves half a page unused
@example(pages=16, steps=[*[[5000]] * 20])  # longer than what the pipe always takes whole or not at all
def test_a_reader_that_stalls_finds_whole_records_whatever_happens(
    pages: int, steps: list[list[int] | int]
) -> None:
    """However full and fragmented the pipe is: no record is begun in vain."""
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fifo, "PIPE_BYTES", pages * PAGE)
        patch.setattr(fifo, "LINGER_SECONDS", 0.0)
        path = Path(directory, "pipe")
        config = FifoOutput(kind="fifo", path=path, format="lines")
        sink = FifoSink(config, Lines(StreamFacts(str, str)), Account(config, log.get_logger()))
        sink.open()
        reader, data = Reader(path), b""
        for step in steps:
            if isinstance(step, list):
                sink.write(ListBatch([b"x" * size for size in step]))
            else:
                data += reader.read(step)
                sink.flush()
            assert sink._queue.started == 0  # a process that is killed here leaves no part of a record
        sink.close()
        data += reader.read()
        reader.leave()
        assert data == b"" or data.endswith(b"\n")
        assert data.count(b"\n") == sink.counters.written


def test_a_record_that_the_pipe_cannot_hold_is_dropped_and_the_others_go_on(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"a"))
    reader.shrink()
    command = fcntl.fcntl

    def limited(fd: int, what: int, *argument: int) -> int:
        if what == fcntl.F_SETPIPE_SZ and argument[0] > 2 * PAGE:  # as beyond fs.pipe-user-pages-soft
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return command(fd, what, *argument)

    monkeypatch.setattr(fcntl, "fcntl", limited)
    sink.write(make_batch(b"b" * PAGE, b"c" * 3 * PAGE, b"d" * 2 * PAGE, b"e"))
    assert drained(sink, reader) == b"a" + b"b" * PAGE + b"d" * 2 * PAGE + b"e"
    assert sink.counters.dropped == {"too-large": 1}
    sink.write(make_batch(b"f" * (2 * PAGE + 1)))
    assert sink.counters.dropped == {"too-large": 2}
    assert sink.problem == f"cannot write to {path}: the pipe holds {2 * PAGE} bytes, less than one record"


# -- room that poll(2) does not tell of


def test_a_record_waits_for_room_that_the_pipe_does_not_tell_of(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"a" * PIPE_BYTES))
    reader.read(PIPE_BYTES - 10)
    now = clock.monotonic()
    sink.write(make_batch(b"b" * (PIPE_BYTES - 20)))
    assert sink.counters.queued == 1
    assert sink.pending is None  # the pipe could be written to all the time
    pauses = []
    for _ in range(20):
        assert now < sink.deadline <= clock.monotonic() + fifo.ROOM_LOOK_MAX_SECONDS
        pauses.append(sink.deadline - now)
        wait_for(lambda: clock.monotonic() >= sink.deadline)
        now = clock.monotonic()
        sink.tick(now)
    assert pauses[-1] > 10 * fifo.ROOM_LOOK_SECONDS  # it takes nothing: later and later
    assert reader.read() == b"a" * 10
    sink.tick(clock.monotonic())
    assert reader.read() == b"b" * (PIPE_BYTES - 20)
    assert (sink.counters.queued, sink.deadline) == (0, math.inf)


def test_a_reader_that_leaves_meanwhile_is_noticed(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    sink = make_fifo(path)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"a" * 10))
    sink.write(make_batch(b"b" * PIPE_BYTES))
    reader.leave()
    sink.tick(clock.monotonic())
    assert sink.counters.dropped == {"reader-gone": 1}
    assert sink.deadline == math.inf


# -- from one sink to the next


class Store:
    """What a service manager keeps."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    def add(self, name: str, fd: int) -> None:
        assert name not in self.kept
        self.kept[name] = os.dup(fd)

    def remove(self, name: str) -> None:
        os.close(self.kept.pop(name))


def test_the_next_sink_goes_on_in_the_same_pipe_and_its_reader_sees_no_end(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    """Of the same process, and of one that got the write end from the store."""
    store = Store()
    ends = Ends(store)
    first = make_fifo(path, ends=ends)
    first.open()
    reader = attach()
    first.write(make_batch(b"1"))
    assert len(store.kept) == 1
    first.close()
    second = make_fifo(path, ends=ends)
    second.open()
    ends.settle()
    second.write(make_batch(b"2"))
    second.close()
    of_the_dead = ends.take(second._known)
    assert of_the_dead is not None
    os.close(of_the_dead)
    [(name, kept)] = store.kept.items()
    ends = Ends(store, [os.dup(kept)])
    third = make_fifo(path, ends=ends)
    third.open()
    ends.settle()
    third.write(make_batch(b"3"))
    assert reader.read() == b"123"
    assert list(store.kept) == [name]
    with pytest.raises(BlockingIOError):
        os.read(reader._fd, 1)
    third.close()
    ends.settle()  # no sink has taken it: the FIFO is not configured any more
    assert not store.kept
    assert os.read(reader._fd, 1) == b""


def test_a_write_end_whose_reader_left_or_whose_path_moved_is_not_kept(
    path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, attach
) -> None:
    store = Store()
    ends = Ends(store)
    sink = make_fifo(path, ends=ends)
    sink.open()
    reader = attach()
    sink.write(make_batch(b"1"))
    reader.leave()
    sink.write(make_batch(b"2"))
    assert not store.kept
    another = attach()
    sink.write(make_batch(b"3"))
    sink.close()
    path.rename(path.with_name("moved"))
    sink = make_fifo(path, ends=ends)
    sink.open()
    ends.settle()
    assert not store.kept
    assert (another.read(), another.read()) == (b"3", b"")
