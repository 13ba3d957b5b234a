"""The configuration on disk, and what may be there in place of it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from support.wait import wait_for

from mcastd import clock, ondisk
from mcastd.config import load
from mcastd.errors import ConfigError
from mcastd.ondisk import GOOD, READ_SECONDS, OnDisk, Verdict

CONFIG = """
[inbound.news]
group = "239.1.1.1"
port = 9190
output = "/var/log/mcastd/news.log"
"""


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device])
def test_what_is_no_file_is_refused_and_not_read(tmp_path: Path, make: object) -> None:
    """To read it would never end: it was called a disk that does not answer, with a thread lost each time."""
    path = tmp_path / "mcastd.toml"
    path.write_text(CONFIG)
    running = load(path)
    (tmp_path / "mcastd.toml.d").mkdir()
    make(tmp_path / "mcastd.toml.d" / "x.toml")  # type: ignore[operator]
    threads = threading.active_count()
    on_disk = OnDisk(path)
    with pytest.raises(ConfigError, match="is not a regular file"):
        on_disk.read()
    wait_for(lambda: on_disk.verdict(running).cause)
    verdict = on_disk.verdict(running)
    assert verdict.cause == "config-refused"
    assert "is not a regular file" in verdict.text
    assert threading.active_count() <= threads + 1  # one may end just now


class Unanswered(Future[Verdict]):
    """A look at a disk that does not answer; waiting for it takes no time but the clock's."""

    def __init__(self, now: list[float]) -> None:
        super().__init__()
        self._now = now

    def result(self, timeout: float | None = None) -> Verdict:
        assert timeout is not None
        self._now[0] += timeout
        return super().result(0)


def test_a_disk_that_does_not_answer_is_waited_for_briefly_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mcastd.toml"
    path.write_text(CONFIG)
    running = load(path)
    on_disk = OnDisk(path)
    path.write_text(f"{CONFIG}ttl = 7\n")  # refused: a sender's
    wait_for(lambda: on_disk.verdict(running).cause == "config-refused")
    now, looks = [500.0], []

    def begin(*_: object) -> Unanswered:
        looks.append(Unanswered(now))
        return looks[-1]

    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(ondisk, "begin", begin)
    assert on_disk.verdict(running).cause == "config-refused"  # what was found last
    assert 0 < now[0] - 500.0 <= 0.5
    while now[0] <= 500.0 + READ_SECONDS:
        last = on_disk.verdict(running).cause
    assert last == "config-silent"
    assert len(looks) == 1
    looks[0].set_result(GOOD)
    on_disk.verdict(running)
    assert len(looks) == 2  # another one, now that it answers


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_a_directory_without_a_name_is_refused_as_one(path: str) -> None:
    """`mcastd run --config .` ended with a traceback."""
    with pytest.raises(ConfigError, match="is a directory, not a file"):
        OnDisk(Path(path)).read()


def test_without_another_thread_it_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a reload to fewer workers would fail for want of the threads that it sets free."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    path = tmp_path / "mcastd.toml"
    path.write_text("[daemon]\nstop_timeout = 7\n")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert OnDisk(path).read()[0].daemon.stop_timeout == 7
