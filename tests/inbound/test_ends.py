"""Write ends of FIFOs that are left by one sink and taken by the next."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mcastd.inbound.sinks.ends import Ends
from mcastd.paths import FileIdentity, identity


class Kept:
    """A Store that notes what it is asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.removed: list[str] = []

    def add(self, name: str, fd: int) -> None:
        self.names.append(name)

    def remove(self, name: str) -> None:
        self.removed.append(name)


class Pipe(NamedTuple):
    path: Path
    reader: int
    of: FileIdentity
    name: str  # in the store

    def write_end(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    found = os.stat(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield Pipe(path, reader, identity(found), f"pipe-{found.st_dev:x}-{found.st_ino:x}")
    if is_open(reader):
        os.close(reader)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_an_end_that_is_left_is_taken_once(pipe: Pipe) -> None:
    store = Kept()
    ends = Ends(store)
    fd = pipe.write_end()
    ends.opened(pipe.of, fd)
    ends.leave(pipe.of, fd)
    assert ends.take((pipe.of[1], pipe.of[0])) is None
    assert ends.take(pipe.of) == fd
    assert ends.take(pipe.of) is None
    assert (store.names, store.removed) == ([pipe.name], [])
    ends.close(pipe.of, fd)
    assert (is_open(fd), store.removed) == (False, [pipe.name])


def test_an_end_whose_reader_has_gone_is_closed_and_not_handed_on(pipe: Pipe) -> None:
    store = Kept()
    fd = pipe.write_end()
    ends = Ends(store, inherited=[fd])
    os.close(pipe.reader)
    assert ends.take(pipe.of) is None
    assert (is_open(fd), store.removed) == (False, [pipe.name])


def test_what_a_store_hands_over_is_taken_only_if_it_is_a_write_end(pipe: Pipe, tmp_path: Path) -> None:
    file, ways = tmp_path / "file", (os.O_RDONLY | os.O_NONBLOCK, os.O_RDWR, os.O_PATH)
    others = [os.open(pipe.path, way) for way in ways]
    others += [
        os.open(file, os.O_WRONLY | os.O_CREAT),
        os.open(tmp_path, os.O_RDONLY),
        socket.socket().detach(),
    ]
    end = pipe.write_end()
    os.set_blocking(end, True)
    ends = Ends(inherited=[others[0], end, *others[1:]])
    assert not any(map(is_open, others))
    assert (ends.take(pipe.of), os.get_blocking(end)) == (end, False)
    assert ends.take(identity(os.stat(file))) is None
    os.close(end)


def test_of_two_ends_of_a_pipe_the_later_one_stays(pipe: Pipe) -> None:
    ends = Ends()
    first, second = pipe.write_end(), pipe.write_end()
    ends.leave(pipe.of, first)
    ends.leave(pipe.of, second)
    assert (is_open(first), ends.take(pipe.of)) == (False, second)
    os.close(second)


def test_what_nobody_takes_is_closed_when_all_have_had_their_turn(pipe: Pipe) -> None:
    store = Kept()
    ends = Ends(store)
    fd = pipe.write_end()
    ends.leave(pipe.of, fd)
    ends.settle()
    assert (is_open(fd), store.removed, ends.take(pipe.of)) == (False, [pipe.name], None)
