"""The file sink on real files, and on a disk that is full."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mcastd import log
from mcastd.config import FileOutput
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.file import CLOCK_LOOK_SECONDS, FileSink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.inbound.sinks.records import Record
from mcastd.net.link import Batch, ListBatch, Origin

MakeFile = Callable[..., FileSink]
MakeBatch = Callable[..., Batch]
ONE_LINE = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"|"))
SENDER = Origin("192.0.2.1", 5000, 1, 1)


class Disk:
    """A writev that has room for so many bytes, and no more."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room = room
        self.error = error
        self.calls = 0

    def writev(self, fd: int, records: Sequence[Record]) -> int:
        self.calls += 1
        data = b"".join(records)
        if data and not self.room:
            raise OSError(self.error, os.strerror(self.error))
        written = os.write(fd, data[: self.room])
        self.room -= written
        return written


class Clocks:
    """A monotonic and a wall clock, set by hand."""

    def __init__(self, wall: float) -> None:
        self.now = 5_000.0
        self.wall = float(wall)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def of_sink(self) -> dict[str, Callable[[], float]]:
        return {"now": lambda: self.now, "wall": lambda: self.wall}


def contents(path: Path) -> list[bytes]:
    """What the file and its rotated ones hold, the newest first."""
    files = [path, *(Path(f"{path}.{n}") for n in range(1, 100))]
    return [file.read_bytes() for file in files if file.exists()]


# -- writing


def test_appends_what_comes(tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before ")
    sink = make_file(path)
    largest = bytes(range(256)) * 255 + bytes(227)
    assert len(largest) == 65_507
    sink.write(make_batch(b"a", b"", largest))
    sink.write(make_batch(b""))
    sink.write(make_batch())
    sink.close()
    assert path.read_bytes() == b"before a" + largest
    assert (sink.counters.written, sink.counters.written_bytes) == (4, 65_508)
    assert not sink.counters.dropped


def test_makes_file_and_directories_with_their_modes(tmp_path: Path, make_file: MakeFile) -> None:
    path = tmp_path / "a" / "b" / "log"
    umask = os.umask(0o077)
    try:
        make_file(path, mode=0o664).open()
        assert stat.S_IMODE(path.stat().st_mode) == 0o664
        os.umask(0o022)
        make_file(tmp_path / "c" / "log").open()
        assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o750
        path.chmod(0o600)
        make_file(path, mode=0o664).open()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600  # somebody's decision
    finally:
        os.umask(umask)


def test_one_write_a_batch_as_far_as_the_kernel_takes_it(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    disk = Disk(1 << 20)
    sink = make_file(tmp_path / "log", writev=disk.writev)
    sink.write(make_batch(*[b"x"] * 1024))
    assert disk.calls == 1
    sink.write(make_batch(*[b"x"] * 1025))
    assert disk.calls == 3
    assert sink.counters.written == 2049


def test_fsync_syncs_each_batch(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    sink = make_file(tmp_path / "log", fsync=True)
    sink.write(make_batch(b"a", b"b"))
    sink.write(make_batch(b"c"))
    assert len(synced) == 2


def refuse_sync(fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_does_not_get_to_the_disk_is_dropped_and_taken_back(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = make_file(path, fsync=True, format="lines")
    sink.write(make_batch(b"a"))
    with monkeypatch.context() as context:
        context.setattr(os, "fdatasync", refuse_sync)
        sink.write(make_batch(b"b", b"", b"c"))
        assert sink.problem == f"cannot write to {path}: input/output error"
    assert path.read_bytes() == b"a\n"
    assert (sink.counters.written, sink.counters.written_bytes) == (1, 2)
    assert sink.counters.dropped == {"io-error": 3}
    sink.write(make_batch(b"d"))
    assert path.read_bytes() == b"a\nd\n"
    assert (sink.counters.written, sink.problem) == (2, "")


def test_a_sync_that_fails_at_a_rotation_takes_back_what_that_file_got(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = make_file(path, fsync=True, rotate_size=4)
    sink.write(make_batch(b"1"))
    with monkeypatch.context() as context:
        context.setattr(os, "fdatasync", refuse_sync)
        sink.write(make_batch(b"22", b"333"))
    assert contents(path) == [b"1"]
    assert (sink.counters.written, sink.counters.dropped) == (1, {"io-error": 2})
    sink.write(make_batch(b"44", b"555"))
    assert contents(path) == [b"555", b"144"]


def test_what_fits_on_a_full_disk_is_synced_and_counted(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    sink = make_file(path, fsync=True, writev=Disk(room=5).writev, format="lines")
    sink.write(make_batch(b"aa", b"bb"))
    assert path.read_bytes() == b"aa\n"
    assert (sink.counters.written, sink.counters.dropped) == (1, {"no-space": 1})


# -- what others do to the file


def test_a_file_moved_or_deleted_is_made_anew(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    sink = make_file(path)
    sink.write(make_batch(b"1"))
    path.rename(tmp_path / "moved")
    sink.write(make_batch(b"2"))
    path.unlink()
    sink.write(make_batch(b"3"))
    assert (tmp_path / "moved").read_bytes() == b"1"
    assert path.read_bytes() == b"3"
    assert sink.counters.written == 3


def no_directory(path: Path) -> None:
    """The directory of a path becomes something else."""
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.write_text("no directory")


def a_circle(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to(path.parent)


@pytest.mark.parametrize("change", [no_directory, a_circle])
def test_a_file_whose_path_leads_nowhere_any_more_is_left(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "logs" / "log"
    sink = make_file(path)
    sink.write(make_batch(b"1"))
    change(path)
    sink._look_every = 5.0
    for number in (b"2", b"3", b"4"):
        sink.write(make_batch(number))
    assert (sink.counters.dropped, bool(sink.problem)) == ({"io-error": 3}, True), "each, not one of them"
    path.parent.unlink()
    sink.write(make_batch(b"5"))
    assert (tmp_path / "elsewhere" / "log").read_bytes() == b"1"
    assert (path.read_bytes(), sink.problem) == (b"5", "")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOMEM])
def test_a_file_is_kept_while_its_path_cannot_be_seen(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, number: int
) -> None:
    """As in a directory that the daemon's user may not enter any more."""
    path = tmp_path / "log"
    sink = make_file(path)
    sink.write(make_batch(b"1"))
    with patch("mcastd.inbound.sinks.file.os.stat", side_effect=OSError(number, os.strerror(number))):
        sink.write(make_batch(b"2"))
    assert path.read_bytes() == b"12"
    path.unlink()
    sink.write(make_batch(b"3"))
    assert path.read_bytes() == b"3"
    assert (sink.counters.written, sink.counters.dropped) == (3, {})


def test_reopen_makes_the_file_at_once(tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch) -> None:
    path = tmp_path / "log"
    sink = make_file(path)
    sink.write(make_batch(b"1"))
    path.rename(tmp_path / "log.1")
    sink.reopen()
    assert path.read_bytes() == b""
    sink.write(make_batch(b"2"))
    assert contents(path) == [b"2", b"1"]


def test_a_file_cut_by_others_gets_no_hole(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(100)
    sink = make_file(path, writev=disk.writev, rotate_size=60)
    sink.write(make_batch(b"x" * 50))
    os.truncate(path, 0)  # logrotate's copytruncate
    disk.room = 5
    sink.write(make_batch(b"y" * 50))
    disk.room = 100
    sink.write(make_batch(b"z" * 50))
    assert contents(path) == [b"z" * 50]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a directory"),
        (os.mkfifo, "a FIFO"),
        (lambda path: path.symlink_to("/dev/null"), "a character device"),
    ],
)
def test_refuses_what_is_no_file_until_it_is_gone(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, make: Callable[[Path], None], kind: str
) -> None:
    path = tmp_path / "log"
    make(path)
    sink = make_file(path)
    with capture_logs() as said:
        sink.open()
        sink.write(make_batch(b"a"))
        sink.write(make_batch(b"b", b"c"))
    assert sink.counters.dropped == {"not-a-file": 3}
    error = f"cannot write to {path}: it is not a regular file but {kind}; give another path"
    assert sink.status().error == error
    assert len(said) == 1
    path.rename(tmp_path / "away")
    sink.write(make_batch(b"d"))
    assert path.read_bytes() == b"d"
    assert sink.status().error is None


# -- a disk that is full


def test_what_does_not_fit_is_dropped_and_writing_resumes(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    disk = Disk(8)
    sink = make_file(path, format="lines", writev=disk.writev)
    with capture_logs() as said:
        sink.write(make_batch(b"one", b"two", b"three"))
        disk.room = 3
        sink.write(make_batch(b"four"))
        disk.room = 100
        sink.write(make_batch(b"five"))
    assert path.read_bytes() == b"one\ntwo\nfive\n"
    assert sink.counters.dropped == {"no-space": 2}
    assert [s["event"] for s in said] == ["output.failed", "output.recovered"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EDQUOT, "no-space"),
        (errno.EFBIG, "file-too-large"),
        (errno.EIO, "io-error"),
        (errno.EACCES, "permission"),
    ],
)
def test_each_error_has_its_reason(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, number: int, reason: str
) -> None:
    sink = make_file(tmp_path / "log", writev=Disk(0, number).writev)
    sink.write(make_batch(b"a"))
    assert sink.counters.dropped == {reason: 1}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["lines", "json"]),
    rooms=st.lists(st.integers(0, 400), max_size=30),
    batches=st.lists(st.lists(ONE_LINE, max_size=6), max_size=10),
)
def test_no_torn_record_ever(name: str, rooms: list[int], batches: list[list[bytes]]) -> None:
    """The kernel cuts writes anywhere and refuses some: the file holds whole records, those counted."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "log")
        cuts = iter(rooms)

        def writev(fd: int, records: Sequence[Record]) -> int:
            return Disk(next(cuts, 1 << 20)).writev(fd, records)

        format = FORMATS[name](StreamFacts(lambda: "239.1.1.1", str))
        config = FileOutput(kind="file", path=path, format=name)
        sink = FileSink(config, format, Account(config, log.get_logger()))
        offered: list[bytes] = []
        for payloads in batches:
            batch = ListBatch(payloads, [SENDER] * len(payloads), [1] * len(payloads))
            offered += [bytes(record) for record in format.records(batch).payloads]
            with patch.object(os, "writev", writev):
                sink.write(batch)
        sink.close()
        counters = sink.counters
        assert counters.written + sum(counters.dropped.values()) == len(offered)
        data = path.read_bytes() if path.exists() else b""
        assert len(data) == counters.written_bytes
        rest = iter(offered)
        written = 0
        while data:  # a subsequence of what was offered; no record begins with another
            record = next(record for record in rest if data.startswith(record))
            data = data.removeprefix(record)
            written += 1
            if name == "json":
                json.loads(record)
        assert written == counters.written


def test_a_torn_record_that_cannot_be_taken_back_at_once_is_taken_back_later(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, length: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "log"
    disk = Disk(6)
    sink = make_file(path, format="lines", writev=disk.writev)
    with monkeypatch.context() as context:
        context.setattr(os, "ftruncate", refuse)
        sink.write(make_batch(b"one", b"two"))
        disk.room = 100
        sink.write(make_batch(b"three"))
    assert path.read_bytes() == b"one\ntw"
    sink.write(make_batch(b"four"))
    assert path.read_bytes() == b"one\nfour\n"
    assert sink.counters.written == 2
    assert sink.counters.dropped == {"io-error": 2}


PROGRAM = """
import errno, json, os, resource, subprocess, sys
from pathlib import Path
from mcastd import log
from mcastd.codec import as_json
from mcastd.config import FileOutput
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import Lines
from mcastd.net.link import ListBatch

directory, how = sys.argv[1:]
path = Path(directory, "log")
if how == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory], check=True)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
config = FileOutput(kind="file", path=path, format="lines")
sink = FileSink(config, Lines(StreamFacts(str, str)), Account(config, log.get_logger()))
for n in range(100):
    sink.write(ListBatch([b"%d " % n + b"x" * 1000, b"y" * 500]))
full = path.read_bytes().splitlines(True)
failed = sink.status()
if how == "tmpfs":
    os.truncate(path, 0)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.write(ListBatch([b"again"]))
whole = all(line.endswith(b"\\n") and len(line) in (501, 1003, 1004) for line in full)
print(json.dumps(as_json([len(full), whole, failed, path.read_bytes()[-6:].decode(), sink.status()])))
"""


@pytest.mark.parametrize(("how", "reason"), [("tmpfs", "no-space"), ("rlimit", "file-too-large")])
def test_a_real_limit(tmp_path: Path, how: str, reason: str) -> None:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), how]
    if how == "tmpfs":
        program = ["unshare", "--mount", *program]
    done = subprocess.run(program, check=True, capture_output=True, text=True, timeout=60)
    count, whole, failed, tail, status = json.loads(done.stdout.splitlines()[-1])
    assert whole
    assert failed["counters"]["written"] == count > 0
    assert failed["counters"]["dropped"] == {reason: 200 - count}
    assert failed["error"]
    assert tail == "again\n"
    assert status["error"] is None
    assert done.stdout.count("output.failed") + done.stderr.count("output.failed") == 1


# -- rotation


def test_rotates_by_size_and_keeps_so_many(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    sink = make_file(path, rotate_size=4, keep=2)
    sink.write(make_batch(*[b"%d" % n for n in range(10)]))
    assert contents(path) == [b"89", b"4567", b"0123"]
    sink.write(make_batch(b"ab", b"larger", b"c"))
    assert contents(path) == [b"c", b"larger", b"89ab"]
    assert sink.counters.written == 13


def test_keep_nothing_and_keep_less_than_before(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    make_file(path, rotate_size=1, keep=5).write(make_batch(*[b"%d" % n for n in range(6)]))
    assert contents(path) == [b"5", b"4", b"3", b"2", b"1", b"0"]
    make_file(path, rotate_size=1, keep=2).write(make_batch(b"6"))
    assert contents(path) == [b"6", b"5", b"4"]
    make_file(path, rotate_size=1, keep=0).write(make_batch(b"7", b"8"))
    assert contents(path) == [b"8"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    limit=st.integers(1, 60),
    keep=st.integers(0, 4),
    batches=st.lists(st.lists(st.integers(0, 70), max_size=8), max_size=8),
)
def test_no_file_is_larger_than_allowed(limit: int, keep: int, batches: list[list[int]]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "log")
        config = FileOutput(kind="file", path=path, rotate_size=limit, keep=keep)
        sink = FileSink(config, FORMATS["raw"](StreamFacts(str, str)), Account(config, log.get_logger()))
        stream = b""
        for number, sizes in enumerate(batches):
            payloads = [bytes([65 + number]) * size for size in sizes]
            stream += b"".join(payloads)
            sink.write(ListBatch(payloads))
        sink.close()
        files = contents(path)
        assert len(files) <= keep + 1
        assert stream.endswith(b"".join(reversed(files)))
        alone = {size for sizes in batches for size in sizes if size > limit}
        assert all(len(file) <= limit or len(file) in alone for file in files)
        assert sink.counters.written == sum(map(len, batches))


def test_rotates_at_multiples_of_the_period(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    clocks = Clocks(86_399)
    sink = make_file(path, rotate_every=86_400, sink=clocks.of_sink())
    sink.open()
    sink.write(make_batch(b"1"))
    clocks.pass_by(1)
    sink.write(make_batch(b"2"))
    clocks.pass_by(86_399)
    sink.write(make_batch(b"2"))
    clocks.pass_by(10 * 86_400)
    sink.write(make_batch(b"3"))
    assert contents(path) == [b"3", b"22", b"1"]


@pytest.mark.parametrize("step", [2, 3_700, 86_400 * 400])
def test_a_wall_clock_that_is_set_back_and_forth_pushes_out_nothing(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, step: int
) -> None:
    path = tmp_path / "log"
    clocks = Clocks(3_600 * 100 - 1)
    sink = make_file(path, rotate_every=3_600, keep=3, sink=clocks.of_sink())
    sink.write(make_batch(b"1"))
    clocks.pass_by(2)
    sink.write(make_batch(b"2"))
    for _ in range(6):
        clocks.wall -= step
        sink.write(make_batch(b"<"))
        clocks.wall += step
        sink.write(make_batch(b">"))
    assert contents(path) == [b"2" + b"<>" * 6, b"1"]


def test_a_wall_clock_that_was_set_right_ends_periods_again(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    clocks = Clocks(3_600 * 10_000)
    sink = make_file(path, rotate_every=3_600, sink=clocks.of_sink())
    sink.write(make_batch(b"1"))
    clocks.wall = 3_600 * 100
    sink.write(make_batch(b"1"))
    clocks.pass_by(3_600)
    sink.write(make_batch(b"2"))
    assert contents(path) == [b"2", b"11"]


def test_a_file_is_rotated_at_the_end_of_its_period_although_nothing_comes(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    clocks = Clocks(3_600 * 100)
    sink = make_file(path, rotate_every=3_600, keep=2, sink=clocks.of_sink())
    sink.open()
    sink.write(make_batch(b"1"))
    ticks = 0
    while contents(path) != [b"", b"1"]:
        assert clocks.now < sink.deadline <= clocks.now + CLOCK_LOOK_SECONDS
        clocks.pass_by(sink.deadline - clocks.now)
        sink.tick(clocks.now)
        ticks += 1
    assert clocks.wall == 3_600 * 101
    for _ in range(1_000):  # an empty one is no news
        clocks.pass_by(sink.deadline - clocks.now)
        sink.tick(clocks.now)
    assert contents(path) == [b"", b"1"]


def test_what_is_kept_too_many_of_goes_at_the_start(tmp_path: Path, make_file: MakeFile) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"0")
    for n in (1, 2, 3, 4, 6):
        Path(f"{path}.{n}").write_bytes(b"%d" % n)
    make_file(path, rotate_size=100, keep=2).open()
    assert contents(path) == [b"0", b"1", b"2", b"6"]  # behind a gap: it may be somebody else's
    make_file(path, keep=1).open()  # not rotated: what is kept is not ours
    assert contents(path) == [b"0", b"1", b"2", b"6"]


def test_a_file_that_could_not_be_opened_is_tried_again_although_nothing_comes(
    tmp_path: Path, make_file: MakeFile
) -> None:
    path = tmp_path / "log"
    path.mkdir()
    clocks = Clocks(0)
    sink = make_file(path, sink=clocks.of_sink())
    sink.open()
    assert sink.problem == f"cannot write to {path}: it is not a regular file but a directory"
    clocks.pass_by(sink.deadline - clocks.now)
    sink.tick(clocks.now)
    assert sink.problem
    path.rmdir()
    clocks.pass_by(sink.deadline - clocks.now)
    sink.tick(clocks.now)
    assert (sink.problem, sink.deadline) == ("", math.inf)
    assert path.read_bytes() == b""


def test_a_full_disk_is_a_problem_until_something_was_written(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    disk = Disk(room=0)
    clocks = Clocks(1)
    path = tmp_path / "log"
    sink = make_file(path, writev=disk.writev, rotate_every=3_600, sink=clocks.of_sink())
    sink.open()
    sink.write(make_batch(b"1"))
    problem = f"cannot write to {path}: no space left on device"
    assert sink.problem == problem
    clocks.pass_by(100)
    sink.tick(clocks.now)
    sink.reopen()
    assert sink.problem == problem
    disk.room = 1
    sink.write(make_batch(b"2"))
    assert sink.problem == ""


def test_a_file_found_belongs_to_the_period_of_its_last_write(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old")
    os.utime(path, (7_000, 7_000))
    make_file(path, rotate_every=3600, sink=Clocks(7_199).of_sink()).write(make_batch(b"+"))
    assert contents(path) == [b"old+"]
    os.utime(path, (7_000, 7_000))
    make_file(path, rotate_every=3600, sink=Clocks(7_200).of_sink()).write(make_batch(b"new"))
    assert contents(path) == [b"new", b"old+"]


def test_a_file_that_cannot_be_rotated_does_not_grow(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.1").mkdir()
    (tmp_path / "log.1" / "in-the-way").touch()
    sink = make_file(path, rotate_size=4, keep=1)
    for _ in range(3):
        sink.write(make_batch(b"1234", b"5"))
    assert path.read_bytes() == b"1234"
    assert sink.counters.dropped == {"rotation": 5}
    assert str(sink.status().error).startswith(f"cannot rotate {path}: is a directory; ")
    (tmp_path / "log.1").rename(tmp_path / "away")
    sink.write(make_batch(b"6"))
    assert contents(path) == [b"6", b"1234"]


def test_a_rotation_that_fails_half_way_loses_no_older_file(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = make_file(path, rotate_size=1, keep=3)
    sink.write(make_batch(b"1", b"2", b"3"))
    rename = os.rename

    def refuse(source: str, target: str, **directories: int) -> None:
        if source == path.name:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rename(source, target, **directories)

    with monkeypatch.context() as context:
        context.setattr(os, "rename", refuse)
        for _ in range(5):
            sink.write(make_batch(b"x"))
    sink.write(make_batch(b"4"))
    assert contents(path) == [b"4", b"3", b"2", b"1"]
