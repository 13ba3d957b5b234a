"""Sources that others send to: by UDP, over TCP, and by a socket at a path."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import shutil
import socket
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_port
from support.strangers import STRANGER, give_away
from support.wait import wait_for

from mcastd import clock
from mcastd.config import OutboundChannel
from mcastd.errors import SourceError
from mcastd.net import arenas, listeners
from mcastd.outbound.lengths import LENGTH
from mcastd.outbound.sources import Source, at_path, open_source
from mcastd.outbound.sources.at_path import PathBinding
from mcastd.outbound.sources.datagrams import DatagramSource
from mcastd.outbound.sources.received import REMEMBERED_ADDRESSES, Admission
from mcastd.status import ReceptionStatus

LONGEST = 65_507
SIZES = (0, 1, 188, *([1316] * 20), 1472, 1473, 8000, 0, LONGEST, 7)
OpenReceived = Callable[..., Source]


def payloads_of(sizes: tuple[int, ...]) -> list[bytes]:
    return [bytes([number]) * size for number, size in enumerate(sizes)]


@pytest.fixture
def opened(no_fd_leak: None) -> Iterator[OpenReceived]:
    sources: list[Source] = []

    def make(kind: str, *, channel: dict[str, Any] | None = None, **keys: object) -> Source:
        table = {"group": "239.255.1.2", "port": 9190, "source": {"kind": kind, **keys}}
        sources.append(open_source(OutboundChannel.model_validate(table | (channel or {}))))
        assert sources[-1].read() == []
        return sources[-1]

    yield make
    for source in sources:
        source.restart()


@pytest.fixture
def listen() -> str:
    return f"127.0.0.1:{free_port()}"


def end_of(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    return host, int(port)


def read(source: Source, count: int) -> list[bytes]:
    """So many datagrams, which come by and by."""
    found: list[bytes] = []

    def look() -> bool:
        found.extend(map(bytes, source.read()))
        return len(found) >= count

    wait_for(look, f"{count} datagrams")
    return found


def read_empty(source: Source) -> bool:
    return not len(source.read())


def times_open(path: Path) -> int:
    """By how many descriptors of this process."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found += os.readlink(f"/proc/self/fd/{fd}") == str(path)
    return found


def is_readable(source: Source) -> bool:
    fd = source.fileno()
    assert fd is not None
    return bool(select.select([fd], [], [], 0)[0])


def reception(source: Source) -> ReceptionStatus:
    found = source.reception()
    assert found is not None
    return found


def dropped(source: Source) -> dict[str, int]:
    return {why: count for why, count in source.dropped.items() if count}


@pytest.fixture(params=[True, False], ids=["recvmmsg", "recvmsg"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches by one system call; or, without ctypes, by one for each packet."""
    monkeypatch.setattr(arenas, "HAVE_RECVMMSG", request.param)
    monkeypatch.setattr(listeners, "pools", defaultdict(arenas.Pool))
    monkeypatch.setattr(listeners, "path_pool", arenas.Pool(of_paths=True))


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_the_socket_holds_what_comes_while_there_is_no_memory(
    opened: OpenReceived, listen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, sent = str(tmp_path / "news"), payloads_of((1, 2, 3))
    source = opened("udp", listen=listen) if kind == "udp" else opened("unix", path=path)

    def refuse(**_: object) -> None:
        raise MemoryError

    with socket.socket(socket.AF_INET if kind == "udp" else socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for payload in sent:
            sock.sendto(payload, end_of(listen) if kind == "udp" else path)
    with monkeypatch.context() as patch:
        for pool in (*listeners.pools.values(), listeners.path_pool):
            pool.spare.clear()
        patch.setattr(arenas, "MmsgArena", refuse)
        patch.setattr(arenas, "PlainArena", refuse)
        for _ in range(2):
            assert len(source.read()) == 0
            assert source.trouble.startswith("cannot receive: no memory left; raise MemoryMax=")
            assert (source.fileno(), source.nap) == (None, arenas.MEMORY_RETRY_SECONDS)
            assert source.comes_once, "a channel keeps it when another group is set"
    assert read(source, 3) == sent
    assert source.trouble == ""
    assert source.fileno() is not None
    assert source.nap > arenas.MEMORY_RETRY_SECONDS
    assert reception(source).overflow == 0


@pytest.mark.usefixtures("reading")
class TestDatagrams:
    def test_each_is_as_it_was_sent(self, opened: OpenReceived, listen: str) -> None:
        source = opened("udp", listen=listen)
        assert source.state == "waiting for datagrams"
        assert not is_readable(source)
        sent = payloads_of(SIZES)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for payload in sent:
                sock.sendto(payload, end_of(listen))
        wait_for(lambda: is_readable(source), "something")
        assert read(source, len(sent)) == sent
        assert source.read() == []
        seen = reception(source)
        assert (seen.received, seen.received_bytes, seen.overflow) == (len(SIZES), sum(SIZES), 0)
        assert (seen.by_sender, seen.other_senders, seen.refused) == ({"127.0.0.1": len(SIZES)}, 0, {})
        assert seen.receive_buffer is not None
        assert seen.receive_buffer > 0
        assert seen.connected is None
        assert dropped(source) == {}

    def test_what_comes_in_one_piece_is_told_apart(self, opened: OpenReceived, listen: str) -> None:
        source = opened("udp", listen=listen)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT
            sock.sendto(b"".join(bytes([number]) * 100 for number in range(9)) + b"end", end_of(listen))
        assert read(source, 10) == [*(bytes([number]) * 100 for number in range(9)), b"end"]
        assert reception(source).received == 10

    def test_by_ipv6(self, opened: OpenReceived) -> None:
        port = free_port()
        source = opened("udp", listen=f"[::1]:{port}", senders=["::1/128", "2001:db8::/32"])
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"six", ("::1", port))
        assert read(source, 1) == [b"six"]
        assert reception(source).by_sender == {"::1": 1}

    def test_only_those_may_send_that_are_named(self, opened: OpenReceived, listen: str) -> None:
        source = opened("udp", listen=listen, senders=["127.0.0.2", "127.0.1.0/24"])
        senders = ["127.0.0.2", "127.0.0.3", "127.0.1.9", "127.0.0.3", "127.0.0.2"]
        for number, address in enumerate(senders):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((address, 0))
                sock.sendto(b"%d" % number, end_of(listen))
        assert read(source, 3) == [b"0", b"2", b"4"]
        seen = reception(source)
        assert seen.by_sender == {"127.0.0.2": 2, "127.0.1.9": 1}
        assert seen.refused == {"127.0.0.3": 2}
        assert (seen.received, dropped(source)) == (5, {"sender": 2})

    def test_a_flood_of_those_who_may_not_ends_a_read(
        self, opened: OpenReceived, listen: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = opened("udp", listen=listen, senders=["127.0.0.2"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(700):  # several batches
                sock.sendto(b"no", end_of(listen))
        monkeypatch.setattr("mcastd.outbound.sources.datagrams.BATCHES_AT_ONCE", 1)
        wait_for(lambda: source.read() == [] and reception(source).received == 700, "all of them")
        assert dropped(source) == {"sender": 700}

    def test_that_nothing_comes_back_any_more_is_news(
        self, opened: OpenReceived, listen: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing else may come, and the channel would say for ever that something does."""
        source = opened("udp", listen=listen)
        assert isinstance(source, DatagramSource)
        assert (read_empty(source), source.nap, source.has_news()) == (True, math.inf, False)
        now = time.monotonic()
        source._guard._returning["192.0.2.2"] = now
        assert (read_empty(source), source.nap, source.has_news()) == (True, 1.0, False)
        assert "192.0.2.2 sends back" in source.trouble
        monkeypatch.setattr("mcastd.clock.monotonic", lambda: now + 61.0)
        assert (source.trouble, source.has_news()) == ("", True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"news", end_of(listen))
            assert read(source, 1) == [b"news"]
        assert (read_empty(source), source.nap, source.has_news()) == (True, math.inf, False)

    def test_what_the_kernel_drops_is_counted(self, opened: OpenReceived, listen: str) -> None:
        source = opened("udp", listen=listen, receive_buffer=4096)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(60):
                sock.sendto(bytes(1000), end_of(listen))
        lost = reception(source).overflow
        assert 0 < lost < 60
        assert len(read(source, 60 - lost)) == 60 - lost
        wait_for(lambda: source.reception_books().overflow == lost, "what others see")  # type: ignore[union-attr]
        source.restart()
        assert reception(source).overflow == lost, "of a socket that is closed"

    def test_what_comes_fast_gathers(self, opened: OpenReceived, listen: str) -> None:
        source = opened("udp", listen=listen, max_latency=0.25)
        assert source.gather == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(2):
                sock.sendto(b"two", end_of(listen))
            read(source, 2)
            assert source.gather == 0.25
            assert source.read() == [], "nothing gathered"
            assert source.gather == 0

    def test_a_port_that_another_has(self, listen: str, opened: OpenReceived) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(end_of(listen))
            with pytest.raises(SourceError, match="another program has this port") as error:
                opened("udp", listen=listen)
            assert error.value.code == "EADDRINUSE"
        assert opened("udp", listen=listen).read() == []

    def test_an_address_that_is_not_here(self, opened: OpenReceived) -> None:
        with pytest.raises(SourceError, match=r"192\.0\.2\.1.*waiting for the address") as error:
            opened("udp", listen="192.0.2.1:5000")
        assert error.value.code == "EADDRNOTAVAIL"


@pytest.mark.usefixtures("reading")
class TestAtAPath:
    def test_each_datagram_is_as_it_was_sent(self, opened: OpenReceived, tmp_path: Path) -> None:
        path = tmp_path / "made" / "news"
        source = opened("unix", path=str(path), mode="0622")
        found = path.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o622
        sent = payloads_of((0, 1, 1316, LONGEST))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(tmp_path / "of the sender"))  # a name that is no address
            for payload in sent:
                sock.sendto(payload, str(path))
                assert read(source, 1) == [payload]
        assert reception(source).received == 4
        assert reception(source).by_sender == {}
        source.restart()
        assert not path.exists()

    def test_what_no_datagram_of_udp_can_hold_is_dropped(self, opened: OpenReceived, tmp_path: Path) -> None:
        source = opened("unix", path=str(tmp_path / "news"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            for size in (1, LONGEST + 1, 100_000, 2):
                sock.sendto(bytes(size), str(tmp_path / "news"))
        assert read(source, 2) == [bytes(1), bytes(2)]
        assert (reception(source).received, dropped(source)) == (4, {"too-long": 2})

    @pytest.mark.parametrize("type_", ["datagram", "stream"])
    def test_a_path_that_was_removed_is_made_again(
        self, opened: OpenReceived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_: str
    ) -> None:
        monkeypatch.setattr(at_path, "LOOK_SECONDS", 0.0)
        path = tmp_path / "made" / "news"
        source = opened("unix", path=str(path), type=type_)
        assert (source.nap, source.has_news()) == (1.0, False)
        kind = socket.SOCK_DGRAM if type_ == "datagram" else socket.SOCK_STREAM
        with socket.socket(socket.AF_UNIX, kind) as before, socket.socket(socket.AF_UNIX, kind) as after:
            before.connect(str(path))
            before.send(b"before\n")
            shutil.rmtree(path.parent)
            assert source.has_news()
            assert read(source, 1) == [b"before\n"], "what is there already is not lost"
            before.close()
            wait_for(lambda: source.read() == [] and path.exists(), "the path")
            assert not source.has_news()
            after.connect(str(path))
            after.send(b"after\n")
            assert read(source, 1) == [b"after\n"]
        path.unlink()
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(str(path))
            if type_ == "stream":
                other.listen()
            with pytest.raises(SourceError, match="another program has it"):
                wait_for(lambda: source.read() != [], "that it looks")
        source.restart()
        assert not source.has_news()

    @pytest.mark.parametrize("type_", ["datagram", "stream"])
    def test_no_descriptors_are_taken(self, opened: OpenReceived, tmp_path: Path, type_: str) -> None:
        source = opened("unix", path=str(tmp_path / "news"), type=type_)
        kind = socket.SOCK_DGRAM if type_ == "datagram" else socket.SOCK_STREAM
        with socket.socket(socket.AF_UNIX, kind) as sender, (tmp_path / "file").open("wb") as file:
            sender.connect(str(tmp_path / "news"))
            for _ in range(3):
                socket.send_fds(sender, [b"line\n"], [file.fileno()] * 20)
            assert read(source, 3) == [b"line\n"] * 3
            assert times_open(tmp_path / "file") == 1, "by the test"

    def test_what_a_dead_program_left_is_replaced(self, opened: OpenReceived, tmp_path: Path) -> None:
        path = tmp_path / "news"
        for type_ in ("datagram", "stream"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
                dead.bind(str(path))
            source = opened("unix", path=str(path), type=type_)
            kind = socket.SOCK_DGRAM if type_ == "datagram" else socket.SOCK_STREAM
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.connect(str(path))
            source.restart()
            assert not path.exists()

    @pytest.mark.parametrize("type_", ["datagram", "stream"])
    @pytest.mark.parametrize("other", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_one_that_another_has_is_left(
        self, opened: OpenReceived, tmp_path: Path, type_: str, other: socket.SocketKind
    ) -> None:
        path = tmp_path / "news"
        with socket.socket(socket.AF_UNIX, other) as alive:
            alive.bind(str(path))
            if other == socket.SOCK_STREAM:
                alive.listen()
            with pytest.raises(SourceError, match="another program has it") as error:
                opened("unix", path=str(path), type=type_)
            assert error.value.code == "EADDRINUSE"
            assert path.exists()

    def test_one_whose_program_is_busy_is_left(self, opened: OpenReceived, tmp_path: Path) -> None:
        path = tmp_path / "news"
        with socket.socket(socket.AF_UNIX) as alive, contextlib.ExitStack() as waiting:
            alive.bind(str(path))
            alive.listen(0)
            while True:  # until no more of them may wait
                one = waiting.enter_context(socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                if one.connect_ex(str(path)) == errno.EAGAIN:
                    break
            with pytest.raises(SourceError, match="another program has it"):
                opened("unix", path=str(path), type="stream")

    @pytest.mark.root
    def test_one_of_a_stranger_is_left(self, opened: OpenReceived, tmp_path: Path) -> None:
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared").chmod(0o1777)
        path = tmp_path / "shared" / "news"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        give_away(path)
        with pytest.raises(SourceError, match=f"it belongs to uid {STRANGER}"):
            opened("unix", path=str(path))
        assert path.exists()

    def test_it_is_never_open_to_more_than_it_is_to_be(
        self, opened: OpenReceived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As it is made, before its mode is set again for what the umask has taken away."""
        monkeypatch.setattr(PathBinding, "_set_mode", lambda *_: None)
        before = os.umask(0)
        try:
            opened("unix", path=str(tmp_path / "news"), mode="0620")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "news").lstat().st_mode) == 0o620

    @pytest.mark.parametrize("type_", ["datagram", "stream"])
    def test_something_else_is_left(self, opened: OpenReceived, tmp_path: Path, type_: str) -> None:
        (tmp_path / "news").write_text("of somebody")
        with pytest.raises(SourceError, match="it is not a socket but a regular file; give another path"):
            opened("unix", path=str(tmp_path / "news"), type=type_)
        assert (tmp_path / "news").read_text() == "of somebody"

    def test_one_that_was_made_anew_by_another_is_left(self, opened: OpenReceived, tmp_path: Path) -> None:
        path = tmp_path / "news"
        source = opened("unix", path=str(path))
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(path))
            source.restart()
            assert path.exists()


@pytest.fixture(params=["tcp", "unix"])
def way(request: pytest.FixtureRequest, tmp_path: Path, listen: str) -> tuple[dict[str, Any], Any, int]:
    """The keys of a source of a stream; where it is connected to; and the family of that."""
    if request.param == "tcp":
        return {"kind": "tcp-server", "listen": listen}, end_of(listen), socket.AF_INET
    path = str(tmp_path / "news")
    return {"kind": "unix", "type": "stream", "path": path}, path, socket.AF_UNIX


class TestStreams:
    def connect(self, way: tuple[dict[str, Any], Any, int]) -> socket.socket:
        sock = socket.socket(way[2], socket.SOCK_STREAM)
        sock.connect(way[1])
        return sock

    def test_lines_of_one_writer_after_the_other(self, opened: OpenReceived, way: Any) -> None:
        source = opened(**way[0])
        assert (source.state, reception(source).connected) == ("waiting for a writer", "")
        with self.connect(way) as first, self.connect(way) as second:
            second.sendall(b"of the second\n")
            first.sendall(b"one\ntw")
            assert read(source, 1) == [b"one\n"]
            assert reception(source).connected in {"127.0.0.1", f"pid {os.getpid()}"}
            assert source.read() == []
            assert source.state == "waiting for the writer"
            first.sendall(b"o\nend")
            first.close()
            assert read(source, 3) == [b"two\n", b"end", b"of the second\n"]
            second.close()
            wait_for(lambda: source.read() == [] and reception(source).connected == "", "its end")
        assert not source.finished
        assert (reception(source).received, reception(source).received_bytes) == (4, 25)
        assert dropped(source) == {}

    def test_datagrams_by_their_lengths(self, opened: OpenReceived, way: Any) -> None:
        source = opened(**way[0], framing="length")
        sent = payloads_of((0, 1, 1316, LONGEST, 3))
        with self.connect(way) as writer:
            framed = b"".join(LENGTH.pack(len(payload)) + payload for payload in sent)
            writer.setblocking(False)
            left, found = memoryview(framed), []

            def exchange() -> bool:
                nonlocal left
                if left:
                    left = left[writer.send(left[:30_000]) :]
                found.extend(map(bytes, source.read()))
                return len(found) == len(sent)

            wait_for(exchange, "all of them")
            assert found == sent
            writer.setblocking(True)
            writer.sendall(LENGTH.pack(9) + b"torn")
        wait_for(lambda: source.read() == [] and dropped(source), "the end of it")
        assert (reception(source).received, dropped(source)) == (6, {"torn": 1})

    def test_another_kind_of_stream_is_refused_and_the_next_one_read(
        self, opened: OpenReceived, way: Any
    ) -> None:
        source = opened(**way[0], framing="length")
        with self.connect(way) as wrong, self.connect(way) as right:
            wrong.sendall(b"GET / HTTP/1.1\r\n")
            right.sendall(LENGTH.pack(5) + b"right")
            assert read(source, 1) == [b"right"]
            assert (reception(source).received, dropped(source)) == (2, {"malformed": 1})
            wrong.settimeout(60)
            with contextlib.suppress(ConnectionError):
                assert wrong.recv(1) == b"", "it is told"

    def test_packets_of_a_transport_stream(self, opened: OpenReceived, way: Any) -> None:
        source = opened(**way[0], channel={"framing": "ts", "max_datagram": 1316})
        packet = b"\x47\x1f\xff\x10" + bytes(184)
        with self.connect(way) as writer:
            writer.sendall(packet * 10)
        assert [len(one) for one in read(source, 2)] == [1316, 564]


def test_only_those_may_connect_that_are_named(opened: OpenReceived, listen: str) -> None:
    source = opened("tcp-server", listen=listen, senders=["127.0.0.2"])
    for address in ("127.0.0.3", "127.0.0.2"):
        with socket.socket() as writer:
            writer.bind((address, 0))
            writer.connect(end_of(listen))
            writer.sendall(b"news\n")
    assert read(source, 1) == [b"news\n"]
    seen = reception(source)
    assert (seen.by_sender, seen.refused, dropped(source)) == (
        {"127.0.0.2": 1},
        {"127.0.0.3": 1},
        {"sender": 1},
    )


def test_a_port_of_tcp_that_another_has(opened: OpenReceived, listen: str) -> None:
    with socket.create_server(end_of(listen)):
        with pytest.raises(SourceError, match="another program has this port") as error:
            opened("tcp-server", listen=listen)
        assert error.value.code == "EADDRINUSE"


def test_writers_that_are_cut_off(opened: OpenReceived, listen: str) -> None:
    source = opened("tcp-server", listen=listen)
    with socket.socket() as writer:
        writer.connect(end_of(listen))
        writer.sendall(b"one\nand")
        assert read(source, 1) == [b"one\n"]
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    assert read(source, 1) == [b"and"]
    assert source.read() == []


@pytest.fixture
def program() -> Iterator[socket.socket]:
    """One that gives a stream to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(60)
        yield sock


def end_at(program: socket.socket) -> str:
    return f"127.0.0.1:{program.getsockname()[1]}"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Monotonic seconds, which pass as a test wants it."""
    found = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: found[0])
    return found


def accepted(program: socket.socket, source: Source) -> socket.socket:
    """The connection that a source makes, once it knows of it."""
    sock, _ = program.accept()
    wait_for(lambda: source.read() == [] and reception(source).connected, "the connection")
    return sock


class TestConnecting:
    def test_one_that_ends_is_connected_to_again(
        self, opened: OpenReceived, program: socket.socket, now: list[float]
    ) -> None:
        source = opened("tcp", connect=end_at(program))
        with accepted(program, source) as given:
            assert (source.state, reception(source).connected) == ("waiting for the writer", "127.0.0.1")
            assert not is_readable(source)
            given.sendall(b"one\ntw")
            assert read(source, 1) == [b"one\n"]
            given.sendall(b"o\nend")
        assert read(source, 2) == [b"two\n", b"end"]
        assert reception(source).connected == ""
        assert source.read() == []
        assert (source.state, source.has_news()) == ("waiting to connect again", False)
        now[0] += source.nap
        assert source.has_news()
        source.read()
        with accepted(program, source) as given:
            given.sendall(b"again\n")
            assert read(source, 1) == [b"again\n"]
        seen = reception(source)
        assert (seen.received, seen.received_bytes, seen.by_sender) == (4, 17, {"127.0.0.1": 4})
        assert dropped(source) == {}

    def test_datagrams_by_their_lengths(self, opened: OpenReceived, program: socket.socket) -> None:
        source = opened("tcp", connect=end_at(program), framing="length")
        with accepted(program, source) as given:
            given.sendall(b"".join(LENGTH.pack(size) + bytes(size) for size in (0, 1316, 5)))
            assert read(source, 3) == [b"", bytes(1316), bytes(5)]
            given.sendall(LENGTH.pack(9) + b"torn")
        wait_for(lambda: source.read() == [] and dropped(source), "the end of it")
        assert dropped(source) == {"torn": 1}

    def test_another_kind_of_stream_is_left(self, opened: OpenReceived, program: socket.socket) -> None:
        source = opened("tcp", connect=end_at(program), framing="length")
        with accepted(program, source) as given:
            given.sendall(b"HTTP/1.1 400 Bad Request\r\n")
            wait_for(lambda: source.read() == [] and dropped(source), "it is refused")
        assert dropped(source) == {"malformed": 1}

    def test_where_nobody_is(self, opened: OpenReceived, listen: str) -> None:
        words = r"cannot connect to 127\.0\.0\.1 port [0-9]+: connection refused"

        def look() -> None:
            source = opened("tcp", connect=listen)
            wait_for(source.read, "an error")

        with pytest.raises(SourceError, match=words) as no:
            look()
        assert no.value.code == "ECONNREFUSED"
        assert no.value.way_out.startswith("start the program")
        assert no.value.waits == "trying again"

    def test_one_that_ends_each_connection_is_asked_less_and_less(
        self, opened: OpenReceived, program: socket.socket, now: list[float]
    ) -> None:
        source = opened("tcp", connect=end_at(program))
        naps = []
        for seconds in (0, 1, 0, 11, 0):
            given = accepted(program, source)
            now[0] += seconds
            given.close()
            wait_for(lambda: source.read() == [] and source.state == "waiting to connect again", "its end")
            naps.append(round(source.nap, 3))
            now[0] += source.nap
            source.read()
        assert naps == [0.2, 0.4, 0.8, 0.1, 0.2]


def test_addresses_of_strangers_are_remembered_as_far_as_there_is_room() -> None:
    admission = Admission([ip_network("192.0.2.0/24")])
    for number in range(REMEMBERED_ADDRESSES + 5):
        assert not admission.admits(f"10.0.{number >> 8}.{number & 255}")
    assert len(admission._known) == 5
    assert admission.admits("192.0.2.7")
