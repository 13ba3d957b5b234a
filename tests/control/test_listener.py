"""The control socket's place: one daemon's alone, and nobody else's to prepare."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.strangers import STRANGER, give_away

from mcastd.control.listener import listen
from mcastd.errors import ControlError

OWN_DIRECTORY = "remove it, or set daemon.control_socket to a path in a directory that only you may write"

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def lock(path: Path) -> Path:
    return Path(f"{path}.lock")


def refusal(path: Path) -> str:
    with pytest.raises(ControlError) as refused, listen(path):
        pass
    return str(refused.value)


def test_the_mode_does_not_depend_on_the_umask(path: Path, lock: Path) -> None:
    umask = os.umask(0o777)
    try:
        with listen(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(umask)
    assert not path.exists()
    assert lock.read_text() == f"{os.getpid()}\n"


@pytest.mark.root
def test_a_link_of_others_on_its_way_is_refused(tmp_path: Path) -> None:
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    shared.mkdir()
    shared.chmod(0o1777)
    elsewhere.mkdir()
    (shared / "mcastd").symlink_to(elsewhere)
    give_away(shared / "mcastd")
    told = refusal(shared / "mcastd" / "control")
    assert f"mcastd is a symbolic link of uid {STRANGER}, in a directory that others may write" in told
    assert os.listdir(elsewhere) == []


def test_a_second_one_is_told_who_the_first_is(path: Path) -> None:
    with listen(path):
        assert f"in use by mcastd (pid {os.getpid()})" in refusal(path)


@pytest.mark.parametrize("content", [b"\x1b[31mEVIL\x07", b"", "\u0663".encode(), b"9" * 30])
def test_what_the_lock_file_says_is_a_pid_or_not_repeated(path: Path, lock: Path, content: bytes) -> None:
    with lock.open("wb") as file:
        file.write(content)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        said = refusal(path)
    assert said.isprintable()
    assert "in use by mcastd (pid unknown)" in said or "9" * 20 in said


@pytest.mark.root
def test_a_lock_file_of_a_stranger_is_not_trusted(path: Path, lock: Path) -> None:
    lock.write_text("1\n")
    os.chown(lock, STRANGER, STRANGER)
    with lock.open() as file:  # with or without a lock on it
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refusal(path) == f"control socket {path}: {lock} is a file of uid {STRANGER}; {OWN_DIRECTORY}"
    assert lock.read_text() == "1\n"


@pytest.mark.root
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_link_of_others_that_comes_when_the_directory_is_made_is_refused(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    shared.mkdir()
    victim.mkdir(mode=0o700)
    give_away(shared)
    directory, mkdir = shared / "mcastd", Path.mkdir

    def exchange(path: Path, **how: bool) -> None:
        if when == "after":
            mkdir(path, **how)
            path.rename(shared / "old")
        directory.symlink_to(victim)
        give_away(directory)
        if when == "before":
            mkdir(path, **how)

    monkeypatch.setattr(Path, "mkdir", exchange)
    said = refusal(directory / "control")
    assert f"mcastd is a symbolic link of uid {STRANGER}" in said
    assert (os.listdir(victim), stat.S_IMODE(victim.stat().st_mode)) == ([], 0o700)


def test_a_hard_link_is_not_truncated(path: Path, lock: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.link(victim, lock)
    assert refusal(path) == f"control socket {path}: {lock} is a hard link; {OWN_DIRECTORY}"
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_nor_does_a_pipe_hang_it_or_a_link_mislead_it(
    path: Path, lock: Path, make: Callable[[Path], None]
) -> None:
    make(lock)
    said = refusal(path)
    assert "not a regular file" in said or "symbolic link" in said


def test_the_mode_is_given_to_the_socket_and_not_through_a_link(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.touch(mode=0o600)

    class Replaced(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            path.unlink()
            path.symlink_to(victim)

    monkeypatch.setattr(socket, "socket", Replaced)
    with listen(path):
        pass
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
