"""The server on real Unix sockets, with good, bad and dead clients."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import varlink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.wait import wait_for

from mcastd.control.client import ControlClient
from mcastd.control.commands import MAX_CHANGES, MAX_EXAMINATIONS
from mcastd.control.protocol import CALL_MAX_BYTES, Call, Decoder, VarlinkError
from mcastd.control.server import MAX_CONNECTIONS, ControlServer
from mcastd.errors import ControlError

pytestmark = pytest.mark.usefixtures("no_fd_leak")
LIST = Call("io.mcastd.List").encode()


def connect(path: Path) -> socket.socket:
    """A client that fails a test rather than hang it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(str(path))
    return connection


def names(path: Path) -> list[str]:
    with ControlClient(path, timeout=60) as client:
        return [worker["name"] for worker in client.call("io.mcastd.List")["workers"]]


def is_served(path: Path) -> bool:
    """Whether a client gets an answer of a server that drops who is silent, or does not read, very soon.

    That may be this client, too, on a loaded machine.
    """
    with contextlib.suppress(ControlError):
        return bool(names(path))
    return False


def is_dropped(connection: socket.socket) -> bool:
    """Wait until the server ends the connection; what it sent before is dropped too."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_while_no_thread_can_be_had_one_serves_all_in_turn(
    server: ControlServer, path: Path, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "control-client":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch, ExitStack() as stack:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            assert names(path)
        silent = stack.enter_context(connect(path))
        assert names(path)
        assert is_dropped(silent), "it had to go for one that asks"
        daemon.proceed.clear()
        stack.callback(daemon.proceed.set)
        busy = stack.enter_context(connect(path))
        busy.sendall(Call("io.mcastd.Reload").encode())
        assert daemon.entered.acquire(timeout=60)
        with pytest.raises(VarlinkError, match="no thread left to answer; raise TasksMax="):
            names(path)
        daemon.proceed.set()
        assert b"inbound/new" in busy.recv(1 << 16)
        busy.close()
        assert names(path)
    assert names(path), "there are more again"
    with connect(path) as silent, connect(path) as another:
        assert names(path)
        for one in (silent, another):
            one.sendall(LIST)
            assert one.recv(1 << 16)


# -- a peer that is not ours


@pytest.fixture
def peer(server: ControlServer, path: Path) -> Iterator[varlink.Client]:
    with varlink.Client(f"unix:{path}") as client:
        yield client
        client.cleanup()


def test_another_client_introspects(peer: varlink.Client) -> None:
    with peer.open_connection() as connection:
        assert peer.get_interfaces(connection) == ["org.varlink.service", "io.mcastd"]
        assert peer.info["product"] == "mcastd"
        described = peer.get_interface("io.mcastd", connection)
    assert described.get_method("Reload")


def test_another_client_calls(peer: varlink.Client, daemon: Any) -> None:
    with peer.open("io.mcastd") as mcastd:
        assert [worker["name"] for worker in mcastd.List()["workers"]] == [w.name for w in daemon.workers]
        assert mcastd.Get("inbound/news")["worker"]["status"] == daemon.workers[1].status
        assert mcastd.Reload()["added"] == ["inbound/new"]
        mcastd.Stop("inbound/news")
        with pytest.raises(varlink.VarlinkError) as raised:
            mcastd.Stop("nobody")
        assert raised.value.error() == "io.mcastd.NoSuchWorker"
        with pytest.raises(varlink.InvalidParameter):
            mcastd.Get()
        mcastd.Reopen(_oneway=True)
        assert mcastd.Describe()["pid"] == 4711  # and is not the reply to the call before
    assert daemon.asked == ["reload", "stop inbound/news", "reopen"]


# -- the socket file


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_socket_is_for_owner_and_group_whatever_the_umask(
    path: Path, daemon: Any, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    chmod = os.chmod

    def spy(path: str, mode: int, **options: Any) -> None:
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode, **options)

    monkeypatch.setattr(os, "chmod", spy)
    before = os.umask(umask)
    try:
        server = ControlServer(path, daemon)
        server.start()
    finally:
        os.umask(before)
    assert modes[-1] & ~0o660 == 0  # nor was it wider at first
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    server.close()


def test_close_removes_the_socket_and_may_be_called_again(server: ControlServer, path: Path) -> None:
    assert names(path)
    server.close()
    assert not path.exists()
    server.close()


def test_close_without_start(path: Path, daemon: Any) -> None:
    ControlServer(path, daemon).close()


def test_close_leaves_what_is_not_ours(server: ControlServer, path: Path) -> None:
    path.unlink()
    path.write_text("precious")
    server.close()
    assert path.read_text() == "precious"


def test_a_second_daemon_is_refused_by_name(server: ControlServer, path: Path, daemon: Any) -> None:
    with pytest.raises(ControlError) as raised:
        ControlServer(path, daemon).start()
    assert str(raised.value) == (
        f"control socket {path}: in use by mcastd (pid {os.getpid()}); stop it, or set daemon.control_socket"
    )
    assert names(path)


def test_one_of_many_that_start_together_wins(path: Path, daemon: Any) -> None:
    servers = [ControlServer(path, daemon) for _ in range(8)]
    barrier = threading.Barrier(len(servers))
    won: list[bool] = []

    def start(server: ControlServer) -> None:
        barrier.wait()
        with contextlib.suppress(ControlError):
            server.start()
            won.append(True)

    threads = [threading.Thread(target=start, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [True]
    assert names(path)
    for server in servers:
        server.close()


def test_the_socket_of_a_dead_daemon_is_replaced(path: Path, daemon: Any) -> None:
    program = (
        "import sys, pathlib, unittest.mock; from mcastd.control.server import ControlServer;"
        "ControlServer(pathlib.Path(sys.argv[1]), unittest.mock.Mock()).start();"
        "print(flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, path], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        with pytest.raises(ControlError, match=f"in use by mcastd \\(pid {process.pid}\\)"):
            ControlServer(path, daemon).start()
        process.kill()
    assert path.is_socket()
    server = ControlServer(path, daemon)
    server.start()
    assert names(path)
    server.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_not_a_socket_is_not_touched(path: Path, daemon: Any, kind: str) -> None:
    path.parent.mkdir()
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("elsewhere")
    before = path.lstat()
    with pytest.raises(ControlError, match=r"not a socket; set daemon\.control_socket to another path"):
        ControlServer(path, daemon).start()
    assert os.path.samestat(before, path.lstat())
    assert os.listdir(path.parent) == [path.name], (
        "and nothing is left beside it: /etc/passwd.lock is another's"
    )


@pytest.mark.parametrize(
    ("kind", "user"),
    [(socket.SOCK_STREAM, r"pid \d+"), (socket.SOCK_DGRAM, "another program")],
)
def test_the_socket_of_another_program_is_not_touched(path: Path, daemon: Any, kind: int, user: str) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        if kind == socket.SOCK_STREAM:
            other.listen()
        with pytest.raises(ControlError, match=f"in use by {user}"):
            ControlServer(path, daemon).start()
        assert path.is_socket()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/proc/control", "no such file or directory"),
        ("/dev/null/control", "not a directory"),
        (200 * "x", "AF_UNIX path too long"),
    ],
)
def test_the_system_may_refuse(tmp_path: Path, daemon: Any, name: str, reason: str) -> None:
    with pytest.raises(ControlError) as raised:
        ControlServer(tmp_path / name, daemon).start()
    text = str(raised.value)
    assert text.startswith(f"control socket {tmp_path / name}")
    assert f": {reason}; run as root, or set daemon.control_socket" in text


# -- good clients


def test_calls_in_a_row_are_answered_in_order(server: ControlServer, path: Path) -> None:
    calls = [Call("io.mcastd.Describe"), Call("io.mcastd.Reopen", oneway=True), Call("io.mcastd.Nothing")]
    with connect(path) as connection:
        connection.sendall(b"".join(call.encode() for call in calls * 10))
        connection.shutdown(socket.SHUT_WR)
        stream = b""
        while data := connection.recv(1 << 16):
            stream += data
    replies = stream.split(b"\0")[:-1]
    assert [b'"error"' in reply for reply in replies] == [False, True] * 10


def test_a_long_call_holds_up_nobody_else(server: ControlServer, path: Path, daemon: Any) -> None:
    daemon.proceed.clear()
    with connect(path) as slow:
        slow.sendall(Call("io.mcastd.Reload").encode())
        assert daemon.entered.acquire(timeout=60)
        assert names(path)
        daemon.proceed.set()
        assert b"unchanged" in slow.recv(1 << 16)


def test_replies_may_be_long(server: ControlServer, path: Path, daemon: Any) -> None:
    daemon.workers = daemon.workers * 2000
    assert len(names(path)) == 6000


# -- bad clients


@given(data=st.binary() | st.binary().map(lambda data: LIST + data + b"\0") | st.text().map(str.encode))
@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_leave_it_alive(server: ControlServer, path: Path, data: bytes) -> None:
    with connect(path) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        is_dropped(connection)
    assert names(path)


def test_garbage_ends_the_connection(server: ControlServer, path: Path) -> None:
    with connect(path) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n\0")
        assert connection.recv(1) == b""


def test_an_endless_message_ends_the_connection(server: ControlServer, path: Path) -> None:
    with connect(path) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"[" * (2 * CALL_MAX_BYTES))
        assert is_dropped(connection)
    assert names(path)


@pytest.mark.parametrize("filling", [b"{},", b"[],", b'"",', b"1e9,"])
def test_calls_that_say_much_take_little_memory(filling: bytes) -> None:
    """Each connection may have one, for as long as its call takes, and any member of the group connects."""
    call = b'{"x":[' + filling * ((CALL_MAX_BYTES - 20) // len(filling)) + b"0]}\0"
    tracemalloc.start()
    try:
        (_,) = Decoder(CALL_MAX_BYTES).feed(call)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MAX_CONNECTIONS * most < 100 << 20


def test_silent_clients_make_room(server: ControlServer, path: Path) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(path)) for _ in range(MAX_CONNECTIONS + 8)]
        assert names(path)
        assert is_dropped(silent[0])


def test_a_client_that_is_heard_of_stays(server: ControlServer, path: Path) -> None:
    with ControlClient(path, timeout=60) as regular, ExitStack() as stack:
        for _ in range(2 * MAX_CONNECTIONS):
            stack.enter_context(connect(path))
            assert regular.call("io.mcastd.Describe")


def test_a_call_under_way_does_not_make_room(server: ControlServer, path: Path, daemon: Any) -> None:
    daemon.proceed.clear()
    with connect(path) as slow, ExitStack() as stack:
        slow.sendall(Call("io.mcastd.Reload").encode())
        assert daemon.entered.acquire(timeout=60)
        silent = [stack.enter_context(connect(path)) for _ in range(MAX_CONNECTIONS + 8)]
        assert is_dropped(silent[0])
        daemon.proceed.set()
        assert b"unchanged" in slow.recv(1 << 16)


def test_few_changes_at_a_time_and_who_looks_does_not_wait(
    server: ControlServer, path: Path, daemon: Any
) -> None:
    daemon.proceed.clear()
    with ExitStack() as stack:
        waiting = [stack.enter_context(connect(path)) for _ in range(MAX_CHANGES)]
        for connection in waiting:
            connection.sendall(Call("io.mcastd.Reload").encode())
            assert daemon.entered.acquire(timeout=60)
        with ControlClient(path, timeout=60) as late:
            with pytest.raises(VarlinkError, match="4 clients are at it already"):
                late.call("io.mcastd.Stop", name="inbound/news")
            assert late.call("io.mcastd.List")["workers"]
        daemon.proceed.set()
        assert all(b"unchanged" in connection.recv(1 << 16) for connection in waiting)
    with ControlClient(path, timeout=60) as client:
        client.call("io.mcastd.Stop", name="inbound/news")


LONG_DOCTOR = Call("io.mcastd.Doctor", {"watch": 600.0}).encode()


def test_who_hangs_up_during_an_examination_gives_back_its_turn(
    server: ControlServer, path: Path, daemon: Any
) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_EXAMINATIONS):
            stack.enter_context(connect(path)).sendall(LONG_DOCTOR)
            assert daemon.entered.acquire(timeout=60)
        with ControlClient(path, timeout=60) as client:
            with pytest.raises(VarlinkError, match="4 clients are at it already"):
                client.call("io.mcastd.Doctor")
            assert client.call("io.mcastd.List")["workers"]

    def examined() -> bool:
        with contextlib.suppress(VarlinkError), ControlClient(path, timeout=60) as client:
            return bool(client.call("io.mcastd.Doctor")["checks"])
        return False

    wait_for(examined, "a turn")


def test_who_writes_no_more_still_gets_its_answer(server: ControlServer, path: Path) -> None:
    with connect(path) as connection:
        connection.sendall(Call("io.mcastd.Doctor").encode())
        connection.shutdown(socket.SHUT_WR)
        assert b"interface-down" in connection.recv(1 << 16)


CROWD = """
import os, socket, sys
os.setuid(65534)  # only now: nobody may not read the interpreter
crowd = []
for _ in range(100):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    one.sendall(sys.argv[2].encode() + bytes(1))
    crowd.append(one)
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.root
@pytest.mark.parametrize("call", [LONG_DOCTOR, Call("io.mcastd.List").encode()])
def test_other_users_cannot_lock_root_out(daemon: Any, call: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        path = Path(directory, "control")
        server = ControlServer(path, daemon)
        server.start()
        stack.callback(server.close)
        os.chmod(directory, 0o755)
        path.chmod(0o666)  # as for members of the group
        with ControlClient(path, timeout=60) as regular, ControlClient(path, timeout=60) as silent:
            assert silent.call("io.mcastd.Describe")
            command = [sys.executable, "-c", CROWD, str(path), call[:-1].decode()]
            crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            with crowd:
                assert crowd.stdout is not None
                assert crowd.stdout.readline() == b"there\n"
                assert regular.call("io.mcastd.List")["workers"]
                assert names(path)
                with ControlClient(path, timeout=60) as doctor:
                    assert doctor.call("io.mcastd.Doctor")["checks"]
                assert silent.call("io.mcastd.Describe"), "the crowd took its room from itself"
                crowd.communicate()


def test_a_client_that_is_silent_for_too_long_is_dropped(path: Path, daemon: Any) -> None:
    server = ControlServer(path, daemon, timeout=0.05)
    server.start()
    with connect(path) as connection:
        connection.sendall(LIST[:-1])
        assert is_dropped(connection)
    server.close()


def test_a_client_that_does_not_read_is_dropped(path: Path, daemon: Any) -> None:
    server = ControlServer(path, daemon, timeout=0.05)
    server.start()
    with connect(path) as connection:
        connection.settimeout(0.01)
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 << 20:  # it ends long before that
                with contextlib.suppress(TimeoutError):
                    sent += connection.send(LIST * 100)
        assert sent < 64 << 20
        wait_for(lambda: is_served(path), "others are served")
    server.close()


def test_a_client_may_leave_in_the_middle_of_a_call(server: ControlServer, path: Path, daemon: Any) -> None:
    daemon.proceed.clear()
    with connect(path) as connection:
        connection.sendall(Call("io.mcastd.Reload").encode())
        assert daemon.entered.acquire(timeout=60)
    daemon.proceed.set()
    wait_for(lambda: daemon.asked == ["reload"])
    assert names(path)


# -- the end, and near it


def test_close_lets_a_reply_go_out(server: ControlServer, path: Path, daemon: Any) -> None:
    daemon.proceed.clear()
    with connect(path) as slow, connect(path) as silent:
        slow.sendall(Call("io.mcastd.Reload").encode())
        assert daemon.entered.acquire(timeout=60)
        closing = threading.Thread(target=server.close, args=(60,))
        closing.start()
        assert is_dropped(silent)
        daemon.proceed.set()
        assert b"unchanged" in slow.recv(1 << 16)
        closing.join()


def test_close_waits_neither_for_the_daemon_nor_for_clients(
    server: ControlServer, path: Path, daemon: Any
) -> None:
    daemon.proceed.clear()
    with connect(path) as blocked, connect(path) as unread:
        blocked.sendall(Call("io.mcastd.Reload").encode())
        assert daemon.entered.acquire(timeout=60)
        unread.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                unread.send(LIST * 100)
        server.close(patience=0.01)
        assert is_dropped(blocked)
    assert not path.exists()


def test_without_file_descriptors_one_client_is_served_and_others_when_there_are_some_again(
    server: ControlServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.control.server.ACCEPT_RETRY_SECONDS", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        logs = stack.enter_context(capture_logs())
        # Several: what earlier tests left may be closed meanwhile, and have room for one more
        first, *others = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(10)]
        connected = [first]
        with socket.socket() as next_fd:
            lowest = next_fd.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for client in (first, *others):
            client.settimeout(60)
        first.connect(str(path))
        first.sendall(LIST)
        assert b"outbound/news" in first.recv(1 << 16)

        def is_one_refused() -> bool:
            if others:
                connected.append(others.pop())
                connected[-1].connect(str(path))
            return any(log["event"] == "client.refused" for log in logs)

        wait_for(is_one_refused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for client in connected:
            client.sendall(LIST)
            assert b"outbound/news" in client.recv(1 << 16)
