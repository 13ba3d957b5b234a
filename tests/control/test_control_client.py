"""What the client says when there is nobody to talk to, or somebody else."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcastd.control.client import ControlClient
from mcastd.control.protocol import VarlinkError
from mcastd.control.server import ControlServer
from mcastd.errors import ControlError

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen(0)
        yield listener


def failure(path: Path, timeout: float = 60) -> str:
    with pytest.raises(ControlError) as raised, ControlClient(path, timeout) as client:
        client.call("io.mcastd.List")
    text = str(raised.value)
    assert text.startswith(f"control socket {path}: ")
    return text.removeprefix(f"control socket {path}: ")


def test_nobody_is_there(tmp_path: Path) -> None:
    path = tmp_path / "control"
    way_out = "is mcastd running? (systemctl status mcastd)"
    assert failure(path) == f"no such file or directory; {way_out}"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert failure(path) == f"connection refused; {way_out}"


@pytest.mark.root
def test_permission_denied() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        os.chmod(directory, 0o755)  # unlike tmp_path, it can be entered by others
        path = Path(directory) / "control"
        listener.bind(str(path))
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            assert failure(path) == "permission denied; join group mcastd or use sudo"
        finally:
            os.seteuid(0)


def test_no_answer(listener: socket.socket, tmp_path: Path) -> None:
    assert failure(tmp_path / "control", 0.01).startswith("no answer within 0.01 s; is mcastd running?")
    # Its backlog is full now.
    assert failure(tmp_path / "control", 0.01).startswith("no answer within 0.01 s; is mcastd running?")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed before it replied; is mcastd running"),
        (b'{"parameters":{}', "closed before it replied; is mcastd running"),
        (b"SSH-2.0-x\0", "no varlink service: it sent a message that is not JSON; see --socket"),
        (b'{"error":1}\0', "no varlink service: it sent 'error' has the wrong type; see --socket"),
    ],
)
def test_a_strange_answer(listener: socket.socket, tmp_path: Path, answer: bytes, text: str) -> None:
    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    assert re.match(re.escape(text), failure(tmp_path / "control"))
    thread.join()


def test_an_error_reply_leaves_the_connection_usable(server: ControlServer, path: Path) -> None:
    with ControlClient(path) as client:
        with pytest.raises(VarlinkError) as raised:
            client.call("io.mcastd.Get", name="x")
        assert raised.value.name == "io.mcastd.NoSuchWorker"
        assert client.call("io.mcastd.Get", name="inbound/news")["worker"]["restarts"] == 1
