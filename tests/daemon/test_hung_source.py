"""A source on a mount that no longer answers costs its own channel, and nothing else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from support.daemon import RunningDaemon
from support.hung import Mount, mounted
from support.wait import wait_for

from mcastd.config import OutboundChannel
from mcastd.net.fake import FakeSender
from mcastd.outbound.channel import Channel
from mcastd.outbound.sources import open_source
from mcastd.supervisor.thread import WorkerThread
from mcastd.worker import Signal

pytestmark = pytest.mark.root

STOP_TIMEOUT = 3.0


def channel(name: str, source: Path, number: int, more: str = "follow = true") -> str:
    return (
        f'[outbound.{name}]\nsource = "{source}"\ngroup = "239.255.21.{number}"\nport = 9{number}\n'
        f'interface = "lo"\nttl = 0\ninterval = 0\n{more}\n'
    )


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with mounted(tmp_path / "mnt") as mount:
        yield mount


def test_the_others_follow_on_and_all_commands_answer(mount: Mount, tmp_path: Path) -> None:
    head = f'[daemon]\nlog_format = "json"\ncontrol_socket = "{tmp_path}/control"\n'
    head += f"stop_timeout = {STOP_TIMEOUT}\n"
    bad, worse, good = mount.path / "bad", mount.path / "worse", tmp_path / "good"
    for path in (bad, worse, good):
        path.write_bytes(b"first\n")
    config = head + channel("bad", bad, 101) + channel("worse", worse, 102) + channel("good", good, 103)
    with RunningDaemon(tmp_path, config) as daemon:

        def sent(name: str) -> int:
            return int(daemon.worker(f"outbound/{name}")["status"]["counters"]["sent"])

        wait_for(lambda: (sent("bad"), sent("worse"), sent("good")) == (1, 1, 1))
        mount.hang("getattr", "lookup")
        for name, path in (("bad", bad), ("worse", worse)):
            wait_for(
                lambda name=name, path=path: (
                    f"waits for {path}: no answer for " in daemon.worker(f"outbound/{name}")["detail"]
                ),
                f"{name} is named",
            )
        for number in range(3):
            with good.open("ab") as file:
                file.write(b"more\n")
            wait_for(lambda number=number: sent("good") == number + 2, "the other one is followed")

        def summed_up() -> CompletedProcess[str] | None:  # the first line is made anew once a second
            status = daemon.ctl("status")
            return status if f"outbound/bad: waits for {bad}" in status.stdout else None

        assert wait_for(summed_up).returncode == 3
        doctor = json.loads(daemon.ctl("doctor", "--json").stdout)
        assert [
            (skipped["check"], "no answer for" in skipped["reason"])
            for skipped in doctor["skipped"]
            if skipped["worker"]
        ] == [("source", True)] * 2
        wait_for(lambda: any(f"waits for {bad}" in m.get("STATUS", "") for m in daemon.messages), "systemd's")
        [event] = daemon.wait_events("worker.blocked", worker="outbound/bad")
        assert event["reason"].startswith(f"waits for {bad}: no answer for ")

        daemon.write(config + channel("another", good, 104))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: sent("another") >= 1, "another one")

        mount.answer()
        wait_for(lambda: daemon.worker("outbound/bad")["detail"].startswith("to 239.255.21.101"))
        with bad.open("ab") as file:
            file.write(b"second\n")
        wait_for(lambda: sent("bad") == 2, "it goes on where it was")

        mount.hang("getattr", "lookup")
        wait_for(lambda: "waits for" in daemon.worker("outbound/bad")["detail"])
        before = time.monotonic()
        assert daemon.stop() == 1  # not all ended
        assert time.monotonic() - before < STOP_TIMEOUT + 20
        abandoned = {event["worker"] for event in daemon.events("worker.abandoned")}
        assert "outbound/bad" in abandoned
        assert "outbound/good" not in abandoned


@pytest.mark.parametrize("call", ["lookup", "open", "read", "flush"])
@pytest.mark.parametrize("framing", ["line", "chunk"])
def test_whatever_call_hangs_the_path_is_named(
    mount: Mount, tmp_path: Path, call: str, framing: str, no_fd_leak: None
) -> None:
    path = mount.path / "news"
    path.write_bytes(b"one\ntwo\n")
    config = OutboundChannel(
        source=path, group="239.255.1.2", port=9190, interval=0, framing=framing, max_datagram=4
    )
    link = FakeSender()
    thread = WorkerThread(Channel("outbound/news", config, lambda _: link, open_source(config)))
    mount.hang(call)
    thread.start()
    wait_for(lambda: thread.headline().detail.startswith(f"waits for {path}: no answer for "), call)
    assert thread.headline().troubled
    assert not thread.join(0)
    mount.answer()
    assert thread.join(60)
    assert link.sent == [b"one\n", b"two\n"]
    assert (thread.state, thread.headline().troubled) == ("finished", False)


def test_what_is_read_after_the_end_was_asked_for_is_not_sent(mount: Mount, tmp_path: Path) -> None:
    """A thread that was left behind may wake hours later, when another one sends in its place."""

    path = mount.path / "log"
    path.write_bytes(b"one\n")
    config = OutboundChannel(source=path, group="239.255.1.2", port=9190, interval=0, follow=True)
    link = FakeSender()
    thread = WorkerThread(Channel("outbound/news", config, lambda _: link, open_source(config)))
    thread.start()
    wait_for(lambda: link.sent == [b"one\n"])
    mount.hang("read")
    with path.open("ab") as file:
        file.write(b"two\n")
        os.fsync(file.fileno())
    wait_for(lambda: "waits for" in thread.headline().detail)
    thread.send(Signal.STOP)
    mount.answer()
    assert thread.join(60)
    assert link.sent == [b"one\n"]
