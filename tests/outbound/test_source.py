"""Reading the source: rounds, following like tail -F, FIFOs whose writers come and go, what is refused."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcastd.errors import SourceError
from mcastd.outbound.framing import make_framer
from mcastd.outbound.pacing import READ_BYTES
from mcastd.outbound.sources.file import NAP_MAX_SECONDS, NAP_MIN_SECONDS, FileSource

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "news.txt"


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "news.fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def open_source(no_fd_leak: None) -> Iterator[Any]:
    sources: list[FileSource] = []

    def opened(path: Path, framing: Any = "line", max_datagram: int = 1472, **settings: Any) -> FileSource:
        sources.append(FileSource(path, make_framer(framing, max_datagram), **settings))
        return sources[-1]

    yield opened
    for source in sources:
        source.close()


def read_all(source: FileSource) -> list[bytes]:
    """What there is to read now."""
    payloads: list[bytes] = []
    while more := source.read():
        payloads += map(bytes, more)
    return payloads


class TestRounds:
    def test_once(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\ntwo\nend")
        source = open_source(path)
        assert read_all(source) == [b"one\n", b"two\n", b"end"]
        assert (source.finished, source.rounds, source.state) == (True, 1, "finished")
        assert read_all(source) == []

    def test_the_last_piece_is_not_repeated(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"x" * 29 + b"\n" + b"y" * 29)
        assert read_all(open_source(path, max_datagram=29)) == [b"x" * 29, b"\n", b"y" * 29]

    @pytest.mark.parametrize("framing", ["line", "chunk", "file"])
    def test_three_times(self, path: Path, open_source: Any, framing: str) -> None:
        path.write_bytes(b"one\ntwo")
        source = open_source(path, framing, repeat=3)
        assert b"".join(read_all(source)) == b"one\ntwo" * 3
        assert (source.finished, source.rounds) == (True, 3)

    def test_forever_reads_what_the_path_names_by_then(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"old\n")
        source = open_source(path, repeat="forever")
        assert source.read() == [b"old\n"]
        path.rename(path.with_suffix(".1"))
        path.write_bytes(b"new\n")
        assert source.read() == [b"new\n"]
        assert source.rounds == 1

    def test_restart(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\n")
        source = open_source(path, repeat=2)
        for rounds in (2, 4):
            assert read_all(source) == [b"one\n"] * 2
            assert (source.finished, source.rounds) == (True, rounds)
            source.restart()
            assert not source.finished

    @pytest.mark.parametrize(
        ("framing", "size", "first"),
        [("line", 16, READ_BYTES // 16), ("chunk", 10, READ_BYTES // 10 // 12 * 12)],
    )
    def test_a_long_file_comes_in_bounded_reads(
        self, path: Path, open_source: Any, framing: str, size: int, first: int
    ) -> None:
        data = b"".join(b"%015d\n" % number for number in range(3 * READ_BYTES // 16)) + b"."
        path.write_bytes(data)
        source = open_source(path, framing, size)
        assert len(source.read()) == first
        assert b"".join(read_all(source)) != data  # the first read's are missing
        source.restart()
        assert b"".join(read_all(source)) == data

    def test_deleted_while_it_is_read(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"line\n" * READ_BYTES)
        source = open_source(path, repeat=2)
        payloads = source.read()
        path.unlink()
        while source.rounds == 0 and len(payloads) < READ_BYTES:
            payloads += source.read()
        with pytest.raises(SourceError, match="no such file"):
            source.read()
        assert payloads == [b"line\n"] * READ_BYTES
        path.write_bytes(b"again\n")
        assert read_all(source) == [b"again\n"]
        assert source.finished

    def test_cut_short_while_it_is_read(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"line\n" * READ_BYTES)
        source = open_source(path)
        first = b"".join(source.read())
        path.write_bytes(b"short\n")
        assert (first + b"".join(read_all(source)))[READ_BYTES:] == b""
        assert source.finished

    @pytest.mark.parametrize("framing", ["line", "chunk", "file"])
    def test_a_file_whose_size_is_not_its_length(self, open_source: Any, framing: str) -> None:
        for path in ("/proc/self/status", "/sys/class/net/lo/mtu"):  # stat(2) says 0 bytes, and 4096
            source = open_source(Path(path), framing, 3 if framing == "chunk" else 1472, repeat=2)
            first, second = Path(path).read_bytes(), b""
            second = b"".join(read_all(source))
            assert second.startswith(first.split(b"\n")[0])
            assert second.count(first.split(b"\n")[0]) == 2
            assert (source.finished, source.rounds) == (True, 2)


class TestRefused:
    def test_missing_then_there(self, path: Path, open_source: Any) -> None:
        source = open_source(path)
        for _ in range(2):
            with pytest.raises(SourceError, match=r"news.txt: no such file or directory; waiting for it"):
                source.read()
        path.write_bytes(b"here\n")
        assert read_all(source) == [b"here\n"]

    def test_empty_then_filled(self, path: Path, open_source: Any) -> None:
        path.touch()
        source = open_source(path, repeat="forever")
        for _ in range(2):
            with pytest.raises(SourceError, match="it is empty; waiting for content"):
                source.read()
        assert (source.finished, source.rounds) == (False, 0)
        path.write_bytes(b"here\n")
        assert source.read() == [b"here\n"]

    def test_directory(self, tmp_path: Path, open_source: Any) -> None:
        with pytest.raises(SourceError, match=r"it is a directory; .* name a file or a FIFO") as refused:
            open_source(tmp_path).read()
        assert refused.value.change is not None  # as mcastctl says it
        assert refused.value.change.by_option("--flute").startswith(f"give --flute {tmp_path} and a rate")

    def test_device(self, open_source: Any) -> None:
        with pytest.raises(SourceError, match="it is a character device"):
            open_source(Path("/dev/zero")).read()

    def test_socket(self, tmp_path: Path, open_source: Any) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            with pytest.raises(SourceError, match="it is a socket"):
                open_source(tmp_path / "s").read()

    def test_not_allowed(self, path: Path, open_source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:  # whoever runs the tests may be root, who reads everything
            raise PermissionError(errno.EACCES, "Permission denied")

        path.touch()
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(SourceError, match="permission denied; allow the user"):
            open_source(path).read()

    def test_a_read_error_loses_nothing(
        self, path: Path, open_source: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(b"line 0\n" * READ_BYTES)
        source = open_source(path)
        payloads = source.read()
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail_with_eio)
            with pytest.raises(SourceError, match="input/output error; trying again"):
                source.read()
        assert payloads + read_all(source) == [b"line 0\n"] * READ_BYTES

    def test_another_file_after_a_read_error(
        self, path: Path, open_source: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(b"a\nunfinished")
        source = open_source(path, follow=True)
        assert source.read() == [b"a\n"]
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail_with_eio)
            with pytest.raises(SourceError):
                source.read()
        path.rename(path.with_suffix(".1"))
        path.write_bytes(b"new\n")
        assert read_all(source) == [b"unfinished", b"new\n"]

    def test_too_long_for_one_datagram_then_shorter(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"x" * 3 * READ_BYTES)
        source = open_source(path, "file")
        for _ in range(2):
            with pytest.raises(SourceError, match="65,507"):
                source.read()
        path.write_bytes(b"short")
        assert read_all(source) == [b"short"]


def fail_with_eio(*_: object) -> bytes:
    raise OSError(errno.EIO, "Input/output error")


class TestFollow:
    def test_what_is_appended_comes_in_whole_lines(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\ntw")
        source = open_source(path, follow=True)
        assert read_all(source) == [b"one\n"]
        append(path, b"o")
        assert read_all(source) == []
        append(path, b"\nthree\n")
        assert read_all(source) == [b"two\n", b"three\n"]
        assert not source.finished

    def test_an_empty_file_is_waited_for(self, path: Path, open_source: Any) -> None:
        path.touch()
        source = open_source(path, follow=True)
        assert source.read() == []
        append(path, b"one\n")
        assert source.read() == [b"one\n"]

    def test_it_looks_ever_less_often_until_something_comes(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\n")
        source = open_source(path, follow=True)
        read_all(source)
        naps = [source.nap]
        for _ in range(10):
            source.read()
            naps.append(source.nap)
        assert naps[0] == NAP_MIN_SECONDS
        assert naps == sorted(naps)
        assert naps[-1] == NAP_MAX_SECONDS
        append(path, b"two\n")
        assert read_all(source) == [b"two\n"]
        assert source.nap == NAP_MIN_SECONDS
        assert source.fileno() is None

    def test_rotation_finishes_the_old_file_first(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\n")
        source = open_source(path, follow=True)
        assert read_all(source) == [b"one\n"]
        old = path.rename(path.with_suffix(".1"))
        append(old, b"two\nunfinished")
        path.write_bytes(b"three\n")
        assert read_all(source) == [b"two\n", b"unfinished", b"three\n"]

    def test_a_writer_that_is_slow_to_reopen_loses_nothing(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\n")
        source = open_source(path, follow=True)
        assert read_all(source) == [b"one\n"]
        old = path.rename(path.with_suffix(".1"))
        assert read_all(source) == []
        assert source.state == "waiting for it to come back: no such file or directory"
        append(old, b"two\nthr")
        assert read_all(source) == [b"two\n"]
        path.touch()  # as logrotate's "create" does, before the writer knows
        assert read_all(source) == []
        append(old, b"ee\n")
        assert read_all(source) == [b"three\n"]
        append(path, b"four\n")
        assert read_all(source) == [b"four\n"]

    def test_truncation_starts_over(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\ntwo\nunfinished")
        source = open_source(path, follow=True)
        assert read_all(source) == [b"one\n", b"two\n"]
        os.truncate(path, 0)
        assert read_all(source) == [b"unfinished"]
        append(path, b"new\n")
        assert read_all(source) == [b"new\n"]

    def test_rotated_again_and_again(self, path: Path, open_source: Any) -> None:
        source = open_source(path, follow=True)
        written = []
        for number in range(20):
            written.append(b"line %d\n" % number)
            path.write_bytes(written[-1])
            assert read_all(source) == written[-1:]
            path.rename(path.with_suffix(f".{number}"))

    def test_replaced_by_a_directory(self, path: Path, open_source: Any) -> None:
        path.write_bytes(b"one\n")
        source = open_source(path, follow=True)
        read_all(source)
        path.unlink()
        path.mkdir()
        with pytest.raises(SourceError, match="directory"):
            source.read()
        path.rmdir()
        path.write_bytes(b"two\n")
        assert read_all(source) == [b"two\n"]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)

    @pytest.mark.parametrize(("path", "size"), [("/proc/self/status", 0), ("/sys/class/net/lo/mtu", 4096)])
    def test_a_file_that_hides_its_size_is_refused(self, open_source: Any, path: str, size: int) -> None:
        """Nothing shows that it has changed, and its end would look like a file that was cut short."""
        source = open_source(Path(path), follow=True)
        for _ in range(2):
            with pytest.raises(SourceError, match=rf"size is always {size},.*repeat = \"forever\" instead"):
                source.read()


class TestFifo:
    def test_writers_come_and_go(self, fifo: Path, open_source: Any) -> None:
        source = open_source(fifo)
        for number in range(3):
            assert read_all(source) == []
            assert source.state == "waiting for a writer"
            with fifo.open("wb", buffering=0) as writer:
                assert source.read() == []
                assert source.state == "waiting for the writer"
                writer.write(b"line %d\nrest" % number)
                assert source.read() == [b"line %d\n" % number]
            assert source.read() == [b"rest"]
        assert not source.finished

    def test_it_is_quiet_without_a_writer_and_readable_with_one(self, fifo: Path, open_source: Any) -> None:
        source = open_source(fifo)
        for _ in range(2):
            assert source.read() == []
            assert source.nap == NAP_MAX_SECONDS
            assert poll(source, 0) == 0
            fifo_writer = os.open(fifo, os.O_WRONLY)
            assert poll(source, 0) == 0
            os.write(fifo_writer, b"x\n")
            assert poll(source, 5000) & select.POLLIN
            assert source.read() == [b"x\n"]
            os.close(fifo_writer)
            assert poll(source, 5000) & select.POLLHUP

    def test_a_writer_that_was_quick_is_not_missed(self, fifo: Path, open_source: Any) -> None:
        source = open_source(fifo)
        assert source.read() == []
        fifo.write_bytes(b"quick\n")
        assert poll(source, 5000) & select.POLLIN
        assert read_all(source) == [b"quick\n"]

    def test_a_writer_always_finds_a_reader(
        self, fifo: Path, open_source: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        really_open = os.open

        def open_after_a_quick_writer(path: Path, flags: int) -> int:
            writer = really_open(path, os.O_WRONLY | os.O_NONBLOCK)  # ENXIO without a reader
            os.write(writer, b"in between\n")
            os.close(writer)
            return really_open(path, flags)

        source = open_source(fifo)
        source.read()
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", open_after_a_quick_writer)
            source.read()
        assert source.read() == [b"in between\n"]

    def test_made_anew(self, fifo: Path, open_source: Any) -> None:
        source = open_source(fifo)
        assert source.read() == []
        fifo.unlink()
        assert source.read() == []
        with pytest.raises(SourceError, match="no such file"):
            source.read()
        os.mkfifo(fifo)
        assert source.read() == []
        fifo.write_bytes(b"new\n")
        assert source.read() == [b"new\n"]

    def test_a_chunk_is_filled_over_several_writes(self, fifo: Path, open_source: Any) -> None:
        source = open_source(fifo, "chunk", 4)
        source.read()
        with fifo.open("wb", buffering=0) as writer:
            writer.write(b"abc")
            assert source.read() == []
            writer.write(b"defg")
            assert list(source.read()) == [b"abcd"]
        assert source.read() == [b"efg"]

    def test_as_file_framing_each_writer_is_a_datagram(self, fifo: Path, open_source: Any) -> None:
        source = open_source(fifo, "file")
        for text in (b"one\ntwo", b"three"):
            source.read()
            fifo.write_bytes(text)
            assert read_all(source) == [text]


def poll(source: FileSource, timeout_ms: int) -> int:
    poller = select.poll()
    fd = source.fileno()
    assert fd is not None
    poller.register(fd, select.POLLIN)
    return dict(poller.poll(timeout_ms)).get(fd, 0)
