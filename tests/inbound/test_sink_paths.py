"""Where an output's path leads: links, directories that others may write, what they put there."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.strangers import STRANGER, give_away, shared

from mcastd.errors import SinkError
from mcastd.inbound.sinks.fifo import FifoSink
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.sinks.paths import place_of
from mcastd.net.link import Batch

MakeFile = Callable[..., FileSink]
MakeFifo = Callable[..., FifoSink]
MakeBatch = Callable[..., Batch]
__all__ = ["shared"]  # a fixture
UNSAFE = "in a directory that others may write"

pytestmark = pytest.mark.usefixtures("no_fd_leak")


# -- links


def test_what_a_link_leads_to_is_rotated_beside_it_and_the_link_stays(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "logs").mkdir()
    link, target = tmp_path / "logs" / "news", tmp_path / "data" / "real"
    link.symlink_to("../data/real")
    sink = make_file(link, rotate_size=1, keep=2)
    sink.write(make_batch(b"1", b"2", b"3", b"4"))
    assert os.listdir(tmp_path / "logs") == ["news"]
    assert os.readlink(link) == "../data/real"
    assert [target.read_bytes(), *(Path(f"{target}.{n}").read_bytes() for n in (1, 2))] == [b"4", b"3", b"2"]
    assert len(os.listdir(tmp_path / "data")) == 3
    link.unlink()
    link.symlink_to(tmp_path / "data" / "other")  # absolute, and to nothing yet
    sink.write(make_batch(b"5"))
    assert (tmp_path / "data" / "other").read_bytes() == b"5"


def test_directories_may_be_links_and_missing_ones_are_made(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "logs").symlink_to("disk")
    sink = make_file(tmp_path / "logs" / "a" / ".." / "b" / "news", rotate_size=1)
    sink.write(make_batch(b"1", b"2"))
    assert (tmp_path / "disk" / "b" / "news").read_bytes() == b"2"
    assert (tmp_path / "disk" / "b" / "news.1").read_bytes() == b"1"
    assert stat.S_IMODE((tmp_path / "disk" / "a").stat().st_mode) == 0o750


def test_links_in_a_circle_are_an_error(tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch) -> None:
    path = tmp_path / "log"
    path.symlink_to("log")
    sink = make_file(path)
    sink.write(make_batch(b"1"))
    assert "too many levels of symbolic links" in sink.problem.lower()
    path.unlink()
    sink.write(make_batch(b"2"))
    assert path.read_bytes() == b"2"


@pytest.fixture
def stdout(tmp_path: Path) -> Iterator[int]:
    """A file that is open and has no name any more, as a shell gives to its children."""
    path = tmp_path / "stdout"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    path.unlink()
    yield fd
    os.close(fd)


def test_an_open_file_is_written_by_its_name_in_proc(
    tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, stdout: int
) -> None:
    link = tmp_path / "stdout"
    link.symlink_to(f"/proc/self/fd/{stdout}")
    sink = make_file(link)
    sink.write(make_batch(b"1"))
    assert (os.pread(stdout, 10, 0), sink.problem) == (b"1", "")


def test_an_open_pipe_is_written_by_its_name_in_proc(make_fifo: MakeFifo, make_batch: MakeBatch) -> None:
    reading, writing = os.pipe()
    try:
        sink = make_fifo(Path(f"/proc/self/fd/{writing}"))
        sink.write(make_batch(b"1"))
        assert (os.read(reading, 10), sink.problem) == (b"1", "")
    finally:
        os.close(reading)
        os.close(writing)


# -- directories that others may write


@pytest.mark.root
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_that_others_put_there_is_not_followed(
    shared: Path, tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch, dangling: bool
) -> None:
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"secret")
    path = shared / "log"
    path.symlink_to(victim)
    give_away(path)
    sink = make_file(path, rotate_size=1)
    sink.open()
    sink.write(make_batch(b"1", b"2"))
    assert sink.counters.dropped == {"unsafe-path": 2}
    assert sink.problem == f"cannot write to {path}: log is a symbolic link of uid {STRANGER}, {UNSAFE}"
    assert victim.exists() is not dangling
    assert dangling or victim.read_bytes() == b"secret"
    path.unlink()
    path.symlink_to(victim)  # by the administrator
    sink.write(make_batch(b"3"))
    assert (victim.read_bytes()[-1:], sink.problem) == (b"3", "")


@pytest.mark.root
def test_nor_is_one_in_place_of_a_directory(
    shared: Path, tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    (tmp_path / "private").mkdir()
    link = shared / "logs"
    link.symlink_to(tmp_path / "private")
    give_away(link)
    sink = make_file(link / "log")
    sink.write(make_batch(b"1"))
    assert sink.counters.dropped == {"unsafe-path": 1}
    assert os.listdir(tmp_path / "private") == []


def test_a_hard_link_is_not_written(
    shared: Path, tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"secret")
    path = shared / "log"
    os.link(victim, path)
    sink = make_file(path)
    sink.write(make_batch(b"1"))
    assert victim.read_bytes() == b"secret"
    assert sink.problem == f"cannot write to {path}: it is a hard link, {UNSAFE}"
    path.unlink()
    sink.write(make_batch(b"2"))
    assert (path.read_bytes(), sink.problem) == (b"2", "")


@pytest.mark.root
def test_nor_a_pipe_of_a_stranger_that_has_the_inode_number_of_ours(
    tmp_path: Path, make_fifo: MakeFifo, make_batch: MakeBatch
) -> None:
    """Many file systems give it to the next file at once; here the same pipe becomes the stranger's."""
    tmp_path.chmod(0o775)
    pipe = tmp_path / "pipe"
    sink = make_fifo(pipe)
    sink.write(make_batch(b"1"))
    assert sink.counters.dropped == {"no-reader": 1}  # it is known now
    give_away(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        sink.write(make_batch(b"2"))
        sink.write(make_batch(b"3"))
        assert sink.counters.dropped == {"no-reader": 1, "unsafe-path": 2}
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@pytest.mark.root
def test_nor_a_file_or_a_pipe_of_a_stranger(
    tmp_path: Path, make_file: MakeFile, make_fifo: MakeFifo, make_batch: MakeBatch
) -> None:
    tmp_path.chmod(0o1777)
    log, pipe = tmp_path / "log", tmp_path / "pipe"
    log.touch()
    os.mkfifo(pipe)
    give_away(log)
    give_away(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for sink, path in ((make_file(log), log), (make_fifo(pipe), pipe)):
            sink.write(make_batch(b"1"))
            assert sink.counters.dropped == {"unsafe-path": 1}
            assert sink.problem == f"cannot write to {path}: it belongs to uid {STRANGER}, {UNSAFE}"
        assert log.read_bytes() == b""
        assert os.read(reader, 1) == b""  # nobody has it open for writing
    finally:
        os.close(reader)


@pytest.mark.root
def test_whose_directory_it_is_may_make_the_pipe(
    tmp_path: Path, make_fifo: MakeFifo, make_batch: MakeBatch
) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir()
    pipe = directory / "pipe"
    os.mkfifo(pipe)
    give_away(directory)
    give_away(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        make_fifo(pipe).write(make_batch(b"1"))
        assert os.read(reader, 10) == b"1"
    finally:
        os.close(reader)


def test_elsewhere_they_are(tmp_path: Path, make_file: MakeFile, make_batch: MakeBatch) -> None:
    victim, path = tmp_path / "victim", tmp_path / "log"
    victim.touch()
    os.link(victim, path)
    make_file(path).write(make_batch(b"1"))
    assert victim.read_bytes() == b"1"


@pytest.mark.root
def test_a_directory_cannot_be_exchanged_on_the_way(tmp_path: Path) -> None:
    """The walk is by open directories."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with place_of(tmp_path / "a" / "log") as place:
        (tmp_path / "a").rename(tmp_path / "c")
        (tmp_path / "a").symlink_to("b")
        os.close(place.create(0, 0o600))
    assert os.listdir(tmp_path / "c") == ["log"]
    assert os.listdir(tmp_path / "b") == []


@pytest.mark.root
def test_the_link_whose_owner_is_looked_at_is_the_one_that_is_followed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others put a link of root's in place of theirs, when theirs has been read."""
    log, theirs, ours = shared / "log", tmp_path / "theirs", shared / "ours"
    log.symlink_to(tmp_path / "secret")
    give_away(log)
    ours.symlink_to(tmp_path / "harmless")
    readlink = os.readlink

    def exchange(*args: object, **at: int) -> str:
        text = readlink(*args, **at)
        if ours.is_symlink():
            log.rename(theirs)
            ours.rename(log)
        return text

    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", exchange)
        with place_of(log) as place:
            assert place.name == "harmless"
    log.unlink()
    theirs.rename(log)
    with pytest.raises(SinkError, match=UNSAFE), place_of(log):
        pass


def test_a_link_that_may_not_be_read_is_said_to_be_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/1/root: opened as a directory it would be called none."""
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    (tmp_path / "root").symlink_to("/")
    readlink = os.readlink

    def refuse(name: str, **at: int) -> str:
        if name == "root":
            raise refused
        return readlink(name, **at)

    monkeypatch.setattr(os, "readlink", refuse)
    with pytest.raises(PermissionError), place_of(tmp_path / "root" / "etc"):
        pass


def test_nothing_is_opened_that_takes_the_place_of_a_known_pipe(
    tmp_path: Path, make_fifo: MakeFifo, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may do something when it is opened; here another pipe shows whether it was."""
    pipe, other = tmp_path / "pipe", tmp_path / "other"
    os.mkfifo(other)
    reader = os.open(other, os.O_RDONLY | os.O_NONBLOCK)
    sink, look = make_fifo(pipe), os.stat
    sink.write(make_batch(b"1"))

    def exchange(path: Path, **how: object) -> os.stat_result:
        found = look(path, **how)
        if path == pipe and not how and not os.path.islink(path):
            pipe.unlink()
            pipe.symlink_to(other)
        return found

    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", exchange)
            sink.write(make_batch(b"2"))
        poll = select.poll()
        poll.register(reader, 0)
        assert poll.poll(0) == []  # POLLHUP: it has had a writer
        sink.write(make_batch(b"3"))  # where nobody else writes, the link is meant
        assert os.read(reader, 10) == b"3"
    finally:
        os.close(reader)


def test_a_pipe_gets_its_mode_and_no_link_misleads_that(tmp_path: Path) -> None:
    umask = os.umask(0o777)
    try:
        with place_of(tmp_path / "pipe") as place:
            place.make_fifo(0o642)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "pipe").stat().st_mode) == 0o642


def test_as_many_links_are_followed_as_the_kernel_follows(tmp_path: Path) -> None:
    (tmp_path / "link0").write_bytes(b"news")
    for number in range(1, 42):
        (tmp_path / f"link{number}").symlink_to(f"link{number - 1}")
    for path, follows in ((tmp_path / "link40", True), (tmp_path / "link41", False)):
        with nullcontext() if follows else pytest.raises(OSError, match="symbolic links"):
            assert path.read_bytes() == b"news"
        with (
            nullcontext() if follows else pytest.raises(OSError, match="symbolic links"),
            place_of(path) as place,
        ):
            assert place.name == "link0"
