"""Outputs over a connection: TCP, and sockets of a path, with a reader that is slow, gone or back."""

from __future__ import annotations

import contextlib
import errno
import math
import select
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_port
from support.wait import wait_for

from mcastd import clock as mcastd_clock
from mcastd import log
from mcastd.config import OutputSettings, TcpOutput, TcpServerOutput, UdpOutput, UnixOutput
from mcastd.errors import LinkError
from mcastd.inbound.sinks import Sink, StreamFacts, host_name, make_sink, stream, tcp
from mcastd.ip import Address
from mcastd.net import tcp_socket
from mcastd.net.link import Batch, ListBatch, Origin

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6  # blocks of pcapng
MakeOutput = Callable[[OutputSettings], Sink]


def batch_of(*payloads: bytes) -> Batch:
    return ListBatch(payloads, [Origin("192.0.2.1", 5000, 1, 8)] * len(payloads), [1] * len(payloads))


@pytest.fixture
def output(no_fd_leak: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeOutput]:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.02)
    made: list[Sink] = []

    def make(settings: OutputSettings) -> Sink:
        sink = make_sink(settings, StreamFacts(lambda: "239.1.1.1", str), log.get_logger())
        made.append(sink)
        sink.open()
        return sink

    yield make
    for sink in made:
        sink.close(for_good=True)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(60)
        yield sock


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def ticked(sink: Sink, is_so: Callable[[], object]) -> None:
    def look() -> object:
        sink.tick(sink.deadline)
        return is_so()

    wait_for(look, "the sink")


def read(sock: socket.socket, size: int) -> bytes:
    """So many bytes."""
    sock.settimeout(60)
    found = b""
    while len(found) < size:
        more = sock.recv(size - len(found))
        assert more, f"the end after {len(found)} bytes"
        found += more
    return found


def read_while(sink: Sink, sock: socket.socket, size: int) -> bytes:
    """So many bytes, of which the sink may still have some."""
    sock.settimeout(0.01)
    found = b""

    def look() -> bool:
        nonlocal found
        sink.flush()
        with contextlib.suppress(TimeoutError):
            found += sock.recv(size - len(found))
        return len(found) == size

    wait_for(look, f"{size} bytes")
    return found


def counted(sink: Sink) -> tuple[int, int, dict[str, int]]:
    """Written, queued, dropped."""
    counters = sink.counters
    return counters.written, counters.queued, {why: n for why, n in counters.dropped.items() if n}


def test_records_come_in_order_over_tcp(output: MakeOutput, listening: socket.socket) -> None:
    sink = output(TcpOutput(to=f"127.0.0.1:{port_of(listening)}"))
    sink.write(batch_of(b"one ", b"", b"two "))
    sink.write(batch_of(b"three"))
    peer, _ = listening.accept()
    with peer:
        ticked(sink, lambda: counted(sink) == (4, 0, {}))
        assert read(peer, 13) == b"one two three"
        assert sink.problem == ""
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_lengths_tell_datagrams_apart(output: MakeOutput, listening: socket.socket) -> None:
    sink = output(TcpOutput(to=f"127.0.0.1:{port_of(listening)}", framing="length"))
    payloads = [b"one", b"", bytes(65_507)]
    peer, _ = listening.accept()
    with peer:
        sink.write(batch_of(*payloads))
        found = []
        for _ in payloads:
            (size,) = struct.unpack("!I", read(peer, 4))
            found.append(read(peer, size))
            sink.tick(sink.deadline)
            if sink.pending is not None:
                sink.flush()
        assert found == payloads


def test_a_format_has_its_head_for_each_connection(output: MakeOutput, listening: socket.socket) -> None:
    sink = output(TcpOutput(to=f"127.0.0.1:{port_of(listening)}", format="pcapng"))
    for _ in range(2):
        ticked(sink, lambda: sink.pending is None and sink.deadline == math.inf)
        peer, _ = listening.accept()
        with peer:
            sink.write(batch_of(b"packet"))
            assert read(peer, 4) == bytes.fromhex("0a0d0d0a"), "a section header (pcapng)"
            sink.write(batch_of(b"another"))
            ticked(sink, lambda: not sink.counters.queued)
            peer.setblocking(False)
            assert bytes.fromhex("0a0d0d0a") not in peer.recv(65_536), "one is enough"
        wait_for(lambda: happens(sink), "that it has gone, after which a new connection is made")


@pytest.mark.parametrize("framing", ["none", "length"])
def test_what_is_queued_for_one_reader_has_no_head_of_its_own_for_the_next(
    output: MakeOutput, listening: socket.socket, framing: str
) -> None:
    def came_by(ifindex: int, *payloads: bytes) -> None:
        origins = [Origin("192.0.2.1", 5000, ifindex, 8)] * len(payloads)
        sink.write(ListBatch(payloads, origins, [1] * len(payloads)))

    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    settings = {"to": f"127.0.0.1:{port_of(listening)}", "framing": framing, "queue": 1 << 24}
    sink = output(TcpOutput(format="pcapng", **settings))
    peer, _ = listening.accept()
    came_by(1, b"first")
    while not sink.counters.queued:
        came_by(1, *[bytes(1400)] * 100)
    came_by(2, b"second")
    came_by(3, b"third")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    ticked(sink, lambda: sink.flush() or select.select([listening], [], [], 0)[0])
    peer, _ = listening.accept()
    with peer:
        blocks, last = [], b""
        while b"third" not in last:
            if framing == "length":
                (size,) = struct.unpack("!I", read_while(sink, peer, 4))
                record = read_while(sink, peer, size)
            else:
                record = head = read_while(sink, peer, 8)
                record += read_while(sink, peer, struct.unpack("=II", head)[1] - 8)
            last = record
            while record:
                kind, size = struct.unpack_from("=II", record)
                blocks.append(kind)
                record = record[size:]
    assert blocks[:4] == [SECTION, INTERFACE, INTERFACE, INTERFACE]
    assert {*blocks[4:]} == {PACKET}


def test_what_comes_while_the_peer_is_away_is_held_for_it(output: MakeOutput) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = port_of(first)
    sink = output(TcpOutput(to=f"127.0.0.1:{port}", queue=4096))
    ticked(sink, lambda: "connection refused" in sink.problem)
    sink.write(batch_of(b"held"))
    assert counted(sink) == (0, 1, {})
    sink.write(batch_of(*[bytes(1000)] * 5))
    assert counted(sink) == (0, 4, {"unreachable": 2})
    with socket.create_server(("127.0.0.1", port)) as again:
        ticked(sink, lambda: counted(sink) == (4, 0, {"unreachable": 2}))
        assert sink.problem == ""
        peer, _ = again.accept()
        with peer:
            assert read(peer, 3004)[:4] == b"held"


def test_of_a_name_with_several_addresses_the_one_that_answers_is_connected_to(
    output: MakeOutput, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As localhost has two, and a program listens at one of them; without a pause, until all were tried."""
    known = [ip_address(f"127.0.0.{number}") for number in (2, 3, 1)]
    tried: list[str] = []

    def connecting(to: Address, port: int) -> socket.socket:
        tried.append(str(to))
        return tcp_socket.connecting(to, port)

    monkeypatch.setattr(host_name, "addresses_of", lambda _: known)
    monkeypatch.setattr(tcp, "connecting", connecting)
    monkeypatch.setattr(stream, "RETRY_SECONDS", 3600.0)
    sink = output(TcpOutput(to=f"logs.example.net:{port_of(listening)}"))
    sink.write(batch_of(b"held"))
    ticked(sink, lambda: counted(sink) == (1, 0, {}))
    peer, _ = listening.accept()
    assert read(peer, 4) == b"held"
    assert tried == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    peer.close()
    listening.close()
    ticked(sink, lambda: "connection refused" in sink.problem)
    sink.tick(math.inf)
    assert tried[3:] == ["127.0.0.1"], "all were tried: the others come after a pause"


def test_an_address_that_does_not_answer_keeps_the_others_waiting_for_a_moment(
    output: MakeOutput, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of IPv6 where a firewall drops that: here since no more may wait there."""
    monkeypatch.setattr(
        host_name, "addresses_of", lambda _: [ip_address("127.0.0.2"), ip_address("127.0.0.1")]
    )
    monkeypatch.setattr(stream, "CONNECT_SECONDS", 3600.0)
    monkeypatch.setattr(tcp, "NEXT_SECONDS", 0.1)
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.2", port_of(listening)))
        silent.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        sink = output(TcpOutput(to=f"logs.example.net:{port_of(listening)}"))
        sink.write(batch_of(b"held"))
        ticked(sink, lambda: counted(sink) == (1, 0, {}))
        peer, _ = listening.accept()
        assert read(peer, 4) == b"held"
        peer.close()


def test_an_address_is_not_to_blame_for_a_name_server(
    output: MakeOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [ip_address("127.0.0.1"), ip_address("127.0.0.2")]
    monkeypatch.setattr(host_name, "addresses_of", lambda _: known)
    monkeypatch.setattr(stream, "RETRY_SECONDS", 3600.0)
    sink = output(TcpOutput(to=f"logs.example.net:{free_port()}"))
    assert isinstance(sink, tcp.TcpSink)
    ticked(sink, lambda: str(sink._name.address) == "127.0.0.2")
    for error, address in (
        (LinkError("cannot resolve logs.example.net", "DNS does not answer"), "127.0.0.2"),
        (OSError(errno.EMFILE, ""), "127.0.0.2"),
        (OSError(errno.ECONNREFUSED, ""), "127.0.0.1"),
    ):
        sink._break(error)
        assert str(sink._name.address) == address


def test_a_peer_that_is_started_again_is_connected_again(output: MakeOutput) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = port_of(first)
        sink = output(TcpOutput(to=f"127.0.0.1:{port}"))
        peer, _ = first.accept()
        sink.write(batch_of(b"one"))
        assert read(peer, 3) == b"one"
        peer.close()
    ticked(sink, lambda: sink.write(batch_of(b"gone")) or sink.status().error)
    with socket.create_server(("127.0.0.1", port)) as again:
        ticked(sink, lambda: sink.pending is None and sink.status().error is None)
        sink.write(batch_of(b"!"))
        peer, _ = again.accept()
        with peer:
            read(peer, 1)
    written, queued, dropped = counted(sink)
    assert queued == 0
    assert {*dropped} <= {"reader-gone", "unreachable"}
    assert written >= 2


@pytest.mark.parametrize("when_full", ["drop-newest", "drop-oldest", "block"])
def test_a_slow_reader(output: MakeOutput, listening: socket.socket, when_full: str) -> None:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sink = output(
        TcpOutput(to=f"127.0.0.1:{port_of(listening)}", when_full=when_full, queue=1 << 20, framing="length")
    )
    peer, _ = listening.accept()
    with peer:
        ticked(sink, lambda: sink.status().error is None)
        sent = 0
        while not (sink.blocked or sink.counters.dropped) and sent < 20_000:
            sink.write(batch_of(*[struct.pack("!I", sent + n) + bytes(1000) for n in range(10)]))
            sent += 10
        assert sink.blocked is (when_full == "block")
        written, queued, dropped = counted(sink)
        assert written + queued + sum(dropped.values()) == sent
        assert {*dropped} == (set() if when_full == "block" else {"full"})
        found = []
        while sink.counters.queued or len(found) < sink.counters.written:
            sink.flush()
            (size,) = struct.unpack("!I", read(peer, 4))
            found.append(struct.unpack("!I", read(peer, size)[:4])[0])
        assert found == sorted({*found}), "each once, in order, none cut"
        assert len(found) == sent - sum(dropped.values())
        if when_full == "drop-newest":
            assert found == [*range(len(found))]
        assert (sink.blocked, sink.problem) == (False, "")


def test_one_that_waits_serves_one_reader_at_a_time(output: MakeOutput) -> None:
    sink = output(TcpServerOutput(listen="127.0.0.1:9321"))
    sink.write(batch_of(b"nobody's"))
    assert counted(sink) == (0, 0, {"no-reader": 1})
    assert sink.problem == "", "it is no fault that nobody reads"
    with (
        socket.create_connection(("127.0.0.1", 9321)) as first,
        socket.create_connection(("127.0.0.1", 9321)) as second,
    ):
        ticked(sink, lambda: sink.status().error is None)
        sink.write(batch_of(b"first"))
        assert read(first, 5) == b"first"
        first.close()
        wait_for(lambda: happens(sink), "its end")
        sink.write(batch_of(b"second"))
        assert read(second, 6) == b"second"


def test_only_those_may_read_that_are_named(output: MakeOutput) -> None:
    """One that may not takes the place of nobody."""
    at = "127.0.0.1", free_port()
    listen = f"{at[0]}:{at[1]}"
    sink = output(TcpServerOutput(listen=listen, readers=["127.0.0.2", "127.0.1.0/24"]))
    with (
        socket.create_connection(at, source_address=("127.0.0.3", 0)) as stranger,
        socket.create_connection(at, source_address=("127.0.1.9", 0)) as reader,
    ):
        ticked(sink, lambda: sink.status().error is None)
        sink.write(batch_of(b"news"))
        assert read(reader, 4) == b"news"
        stranger.settimeout(60)
        assert stranger.recv(1) == b""
        settings = TcpServerOutput(listen=listen, readers=["127.0.1.0/24"], queue=4096)
        new = make_sink(settings, StreamFacts(lambda: "239.1.1.1", str), log.get_logger())
        assert new.take_over(sink)
        new.write(batch_of(b"more"))
        assert read(reader, 4) == b"more", "it may go on"
        settings = TcpServerOutput(listen=listen, readers=["127.0.0.3"])
        other = make_sink(settings, StreamFacts(lambda: "239.1.1.1", str), log.get_logger())
        assert other.take_over(new)
        other.write(batch_of(b"no more"))
        reader.settimeout(60)
        assert reader.recv(1) == b""
        assert other.counters.dropped == {"no-reader": 1}
        for one in (new, other):
            one.close()


def test_what_waits_for_a_reader_that_goes_is_not_for_the_next_one(output: MakeOutput) -> None:
    port = free_port()
    sink = output(TcpServerOutput(listen=f"127.0.0.1:{port}", queue=1 << 24))
    count = 0
    with socket.create_connection(("127.0.0.1", port)) as reader:
        ticked(sink, lambda: sink.status().error is None)
        while not sink.counters.queued:
            sink.write(batch_of(*[bytes(60_000)] * 100))
            count += 100
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: happens(sink), "its end")
    written, queued, dropped = counted(sink)
    assert (queued, dropped) == (0, {"reader-gone": count - written})


def test_a_port_that_is_taken_is_said(output: MakeOutput, listening: socket.socket) -> None:
    sink = output(TcpServerOutput(listen=f"127.0.0.1:{port_of(listening)}"))
    assert "cannot listen at 127.0.0.1" in sink.problem
    assert "address already in use" in sink.problem


# -- sockets of a path


class UnixReceiver:
    def __init__(self, path: Path, kind: socket.SocketKind) -> None:
        self.sock = socket.socket(socket.AF_UNIX, kind)
        self.sock.bind(str(path))
        self.sock.settimeout(60)
        if kind == socket.SOCK_STREAM:
            self.sock.listen()

    def close(self) -> None:
        self.sock.close()


def test_datagrams_of_a_path_keep_their_sizes(output: MakeOutput, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    receiver = UnixReceiver(path, socket.SOCK_DGRAM)
    sink = output(UnixOutput(path=path))
    sent = [b"", b"one", bytes(65_507)]
    sink.write(batch_of(*sent))
    assert [receiver.sock.recv(1 << 17) for _ in sent] == sent
    assert counted(sink) == (3, 0, {})
    receiver.close()


def test_a_reader_of_datagrams_that_is_slow_loses_none_that_fit(output: MakeOutput, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    receiver = UnixReceiver(path, socket.SOCK_DGRAM)
    sink = output(UnixOutput(path=path))
    sent = [b"%d" % number for number in range(500)]  # net.unix.max_dgram_qlen is 10, or some more
    sink.write(batch_of(*sent))
    assert sink.counters.queued > 0
    found = []
    while len(found) < len(sent):
        found.append(receiver.sock.recv(99))
        sink.tick(sink.deadline)
    assert found == sent
    assert counted(sink) == (500, 0, {})
    receiver.close()


def test_a_path_without_a_socket_is_said_and_looked_for_again(
    output: MakeOutput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.inbound.sinks.sending.RETRY_SECONDS", 0.02)
    path = tmp_path / "socket"
    sink = output(UnixOutput(path=path))
    assert sink.problem == f"cannot send to {path}: no such file or directory"
    path.write_text("something else")
    ticked(sink, lambda: "it is not a socket but a regular file" in sink.problem)
    sink.write(batch_of(b"1"))
    assert counted(sink) == (0, 1, {})
    path.unlink()
    receiver = UnixReceiver(path, socket.SOCK_DGRAM)
    ticked(sink, lambda: not sink.problem)
    sink.write(batch_of(b"2"))
    assert [receiver.sock.recv(9) for _ in range(2)] == [b"1", b"2"]
    receiver.close()


def test_what_comes_while_a_program_is_started_again_is_held(
    output: MakeOutput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.inbound.sinks.sending.RETRY_SECONDS", 0.02)
    path = tmp_path / "socket"
    receiver = UnixReceiver(path, socket.SOCK_DGRAM)
    sink = output(UnixOutput(path=path, queue=4096, when_full="drop-oldest"))
    sink.write(batch_of(b"one"))
    assert receiver.sock.recv(9) == b"one"
    receiver.close()
    sink.write(batch_of(*[b"%d" % number + bytes(1000) for number in range(6)]))
    assert "connection refused" in sink.problem
    assert counted(sink) == (1, 3, {"unreachable": 3})
    path.unlink()
    receiver = UnixReceiver(path, socket.SOCK_DGRAM)
    ticked(sink, lambda: counted(sink) == (4, 0, {"unreachable": 3}))
    assert [receiver.sock.recv(2000)[:1] for _ in range(3)] == [b"3", b"4", b"5"]
    assert sink.problem == ""
    receiver.close()


@pytest.mark.parametrize("kind", ["tcp", "tcp-server", "datagram", "stream", "udp"])
def test_want_of_descriptors_is_said_as_such(
    output: MakeOutput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def none_left(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    settings: OutputSettings
    match kind:
        case "tcp":
            settings = TcpOutput(to="127.0.0.1:9")
        case "tcp-server":
            settings = TcpServerOutput(listen="127.0.0.1:9")
        case "udp":
            settings = UdpOutput(to="127.0.0.1:9")
        case _:
            settings = UnixOutput(path=tmp_path / "socket", type=kind)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        sink = output(settings)
    assert sink.status().reason == "no-descriptors"
    assert "no-descriptors" in sink.reasons


def test_a_program_that_accepts_no_connection_is_said(output: MakeOutput, tmp_path: Path) -> None:
    path = tmp_path / "reader"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))
        sink = output(UnixOutput(path=path, type="stream"))
        assert "are waiting for its program" in sink.problem
        assert sink.status().way_out == "see whether the program accepts connections"
        sink.write(batch_of(b"held"))
        taken, _ = listening.accept()
        taken.close()
        ticked(sink, lambda: counted(sink) == (1, 0, {}))


def test_a_stream_of_a_path(output: MakeOutput, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    receiver = UnixReceiver(path, socket.SOCK_STREAM)
    sink = output(UnixOutput(path=path, type="stream", format="lines"))
    sink.write(batch_of(b"one", b"two"))
    peer, _ = receiver.sock.accept()
    with peer:
        assert read(peer, 8) == b"one\ntwo\n"
    receiver.close()


def test_what_a_stream_may_not_be() -> None:
    def refused(make: Callable[[], Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            make()

    refused(lambda: TcpServerOutput(listen="localhost:1"), "must be an address of this host and a port")
    refused(lambda: UnixOutput(path="/s", framing="length"), 'framing is of type = "stream"')


# -- what happens while nothing comes


def happens(sink: Sink) -> bool:
    """Return True if what the sink awaits has happened; it was told of it."""
    if (awaited := sink.awaits) is None:
        return False
    poll = select.poll()
    poll.register(*awaited)
    if not poll.poll(0):
        return False
    sink.tick(0.0)
    return True


def test_a_peer_that_closes_is_noticed_and_connected_to_again(
    output: MakeOutput, listening: socket.socket
) -> None:
    sink = output(TcpOutput(to=f"127.0.0.1:{port_of(listening)}"))
    peer, _ = listening.accept()
    ticked(sink, lambda: sink.deadline == math.inf)
    assert not happens(sink)
    peer.sendall(b"what a reader says is for nobody")
    wait_for(lambda: happens(sink), "what it says")
    assert (sink.deadline, happens(sink)) == (math.inf, False)
    peer.close()
    wait_for(lambda: happens(sink), "its end")
    again, _ = listening.accept()
    again.close()


def test_a_program_at_a_path_that_closes_is_noticed(output: MakeOutput, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "player"))
        server.listen()
        sink = output(UnixOutput(path=tmp_path / "player", type="stream"))
        peer, _ = server.accept()
        assert sink.awaits is not None
        peer.shutdown(socket.SHUT_WR)
        wait_for(lambda: happens(sink), "the end of its side")
        assert not happens(sink), "it still reads"
        sink.write(batch_of(b"news"))
        assert read(peer, 4) == b"news"
        peer.close()
        wait_for(lambda: happens(sink), "its end")
        server.accept()[0].close()


def test_a_reader_that_comes_is_noticed_without_looking(output: MakeOutput) -> None:
    port = free_port()
    sink = output(TcpServerOutput(listen=f"127.0.0.1:{port}"))
    assert (sink.deadline, happens(sink)) == (math.inf, False)
    with socket.create_connection(("127.0.0.1", port)) as reader:
        wait_for(lambda: happens(sink), "it")
        sink.write(batch_of(b"news"))
        assert read(reader, 4) == b"news"
        assert sink.deadline == math.inf
    wait_for(lambda: happens(sink), "its end")
    with socket.create_connection(("127.0.0.1", port)) as reader:
        wait_for(lambda: happens(sink), "the next one")
        sink.write(batch_of(b"more"))
        assert read(reader, 4) == b"more"


def test_a_reader_that_ends_its_side_goes_on_to_read_until_another_comes(output: MakeOutput) -> None:
    port = free_port()
    sink = output(TcpServerOutput(listen=f"127.0.0.1:{port}"))
    with socket.create_connection(("127.0.0.1", port)) as one:
        wait_for(lambda: happens(sink), "it")
        one.shutdown(socket.SHUT_WR)
        wait_for(lambda: happens(sink), "the end of its side")
        sink.write(batch_of(b"news"))
        assert read(one, 4) == b"news"
        assert not happens(sink)
        with socket.create_connection(("127.0.0.1", port)) as other:
            wait_for(lambda: happens(sink), "another")
            sink.write(batch_of(b"more"))
            assert read(other, 4) == b"more"
            assert one.recv(1) == b""


# -- other settings of the same output


def test_another_queue_costs_no_connection_and_no_datagram(
    output: MakeOutput, listening: socket.socket
) -> None:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    keys = {"to": f"127.0.0.1:{port_of(listening)}", "framing": "length"}
    old = output(TcpOutput(**keys, queue=4 << 20))
    peer, _ = listening.accept()
    with peer:
        ticked(old, lambda: old.status().error is None)
        sent = 0
        while not old.counters.queued:
            old.write(batch_of(*[struct.pack("!I", sent + n) + bytes(1000) for n in range(100)]))
            sent += 100
        new = make_sink(
            TcpOutput(**keys, queue=8 << 20), StreamFacts(lambda: "239.1.1.1", str), log.get_logger()
        )
        assert new.take_over(old)
        new.go_on_from(old)
        old.close()
        assert {*old.counters.dropped.values()} <= {0}
        assert old.counters.queued == 0
        found = []
        while new.counters.queued or len(found) < new.counters.written:
            new.flush()
            (size,) = struct.unpack("!I", read(peer, 4))
            found.append(struct.unpack("!I", read(peer, size)[:4])[0])
        assert found == [*range(sent)]
        assert counted(new) == (sent, 0, {})
        new.close()


def test_what_came_back_is_over_though_nothing_comes(
    output: MakeOutput, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = output(TcpOutput(to=f"127.0.0.1:{port_of(listening)}"))
    ticked(sink, lambda: sink.status().error is None)
    assert isinstance(sink, stream.StreamSink)
    now = mcastd_clock.monotonic()
    sink._returns._guard._returning["192.0.2.2"] = now
    sink.write(ListBatch([b"x"], [Origin("192.0.2.1", 5000, 1, 8)], [1]))
    trouble = sink._returns.trouble
    assert trouble is not None
    sink.account.drop(1, trouble)
    sink.write(ListBatch([], [], []))
    assert now + 59.0 < sink.deadline < now + 62.0
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now + 59.0)
    sink.tick(now + 59.0)
    assert "sends back" in sink.problem
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now + 61.0)
    sink.tick(now + 61.0)
    assert (sink.problem, sink.deadline) == ("", math.inf)


def test_one_that_waits_goes_on_to_wait_at_its_port(output: MakeOutput) -> None:
    port = free_port()
    old = output(TcpServerOutput(listen=f"127.0.0.1:{port}"))
    with socket.create_connection(("127.0.0.1", port)) as reader:
        ticked(old, lambda: old.status().error is None)
        settings = TcpServerOutput(listen=f"127.0.0.1:{port}", queue=4096)
        new = make_sink(settings, StreamFacts(lambda: "239.1.1.1", str), log.get_logger())
        with socket.create_connection(("127.0.0.1", port)) as other:
            assert new.take_over(old)
            old.close()
            new.open()
            new.write(batch_of(b"news"))
            assert read(reader, 4) == b"news"
            reader.close()
            wait_for(lambda: happens(new), "its end")
            new.write(batch_of(b"more"))
            assert read(other, 4) == b"more", "it waits since before"
        new.close()


@pytest.mark.parametrize("change", [{"framing": "length"}, {"format": "json"}, {"format": "pcapng"}])
def test_a_reader_of_another_stream_is_another_reader(
    output: MakeOutput, listening: socket.socket, change: dict[str, str]
) -> None:
    to = f"127.0.0.1:{port_of(listening)}"
    old = output(TcpOutput(to=to))
    ticked(old, lambda: old.status().error is None)
    assert not output(TcpOutput(to=to, **change)).take_over(old)
