"""Where players connect to, when none can be accepted: those who are served notice nothing."""

from __future__ import annotations

import errno
import math
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.daemon import RunningDaemon
from support.gateway import PATH, Gateway, begun, read, wait_for_group
from support.host import Host, three_in_a_row
from support.inside import inside
from support.peer import Talker
from support.ports import free_port
from support.wait import wait_for

from mcastd.gateway.entrances import RETRY_SECONDS, Entrances
from mcastd.gateway.interest import Interest


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "too many open files; raise LimitNOFILE= of the service"),
        (errno.ENFILE, "too many open files in system; raise the sysctl fs.file-max of this host"),
        (
            errno.ENOMEM,
            "cannot allocate memory; raise MemoryMax= of the service, or give this host more memory",
        ),
        (errno.ENOBUFS, "no buffer space available"),
    ],
)
def test_while_none_can_be_accepted_players_stay_and_others_wait(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    monkeypatch.setattr("mcastd.gateway.entrances.RETRY_SECONDS", 0.05)
    accept, is_short = socket.socket.accept, threading.Event()

    def scarce(sock: socket.socket) -> tuple[socket.socket, object]:
        if is_short.is_set():
            raise OSError(number, os.strerror(number))
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    with capture_logs() as logs:
        tv = gateway()
        with tv.ask() as player:
            tv.link().deliver(b"one")
            assert read(player, 3, begun(player)[1]) == b"one"
            is_short.set()
            with tv.ask() as other:
                wait_for(lambda: tv.worker.counters.refused["shortage"] >= 3, "attempts")
                wait_for(lambda: f"; players wait: {said}" in tv.context.detail, "that it is said")
                assert tv.context.degraded
                tv.link().deliver(b"two")
                assert read(player, 3) == b"two"
                is_short.clear()
                tv.wait_for_players(2)
                tv.link().deliver(b"three")
                assert read(other, 5, begun(other)[1]) == b"three"
                assert read(player, 5) == b"three"
                wait_for(lambda: not tv.context.degraded, "that all is well")
    refusals = [entry["reason"] for entry in logs if entry["event"] == "player.refused"]
    assert refusals == [said], "once for all attempts"
    assert [entry["event"] for entry in logs].count("players.accepted") == 1


def test_an_end_that_somebody_has_is_tried_again() -> None:
    interest = Interest()
    interest.open()
    entrances = Entrances("gateway/tv", interest, Counter())
    ends = [f"127.0.0.1:{free_port()}"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        entrances.open([*ends, taken], 100.0)
        assert (entrances.ends, entrances.refused) == (tuple(ends), {taken: "address already in use"})
    assert entrances.deadline == 100.0 + RETRY_SECONDS
    entrances.tick(100.0 + RETRY_SECONDS - 0.01)
    assert entrances.ends == tuple(ends)
    entrances.tick(100.0 + RETRY_SECONDS)
    assert (entrances.ends, entrances.refused, entrances.deadline) == ((*ends, taken), {}, math.inf)
    entrances.close()
    interest.close()


def test_a_connection_that_is_no_more_costs_the_next_one_nothing(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, errors = socket.socket.accept, [errno.EPROTO, errno.ECONNABORTED]

    def troubled(sock: socket.socket) -> tuple[socket.socket, object]:
        if errors:
            raise OSError(errors.pop(), "gone")
        return accept(sock)

    tv = gateway()
    monkeypatch.setattr(socket.socket, "accept", troubled)
    assert tv.answer("/nothing")[0] == 404
    assert errors == []
    assert tv.worker.counters.refused["shortage"] == 0


def in_a_process_with_few_descriptors(script: str) -> None:
    """Run lines that have ``few`` and ``many`` descriptors; nobody connects to their ``listener``."""
    before = """
import contextlib, errno, resource, select, socket
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
many = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits)
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
"""
    subprocess.run([sys.executable, "-c", before + script], check=True, timeout=60)


def test_accept_has_a_descriptor_before_it_looks_who_waits() -> None:
    in_a_process_with_few_descriptors("""
few()
try:
    listener.accept()
except OSError as error:
    assert error.errno == errno.EMFILE, error
many()
try:
    listener.accept()
except BlockingIOError:
    raise SystemExit(0)
raise SystemExit("nobody waits")
""")


def test_poll_takes_no_more_than_may_be_open_and_an_epoll_is_one() -> None:
    in_a_process_with_few_descriptors("""
pairs = [socket.socketpair() for _ in range(4)]
poll, epoll, over = select.poll(), select.epoll(), select.poll()
for one, _ in pairs:
    poll.register(one, select.POLLIN)
    epoll.register(one, select.POLLIN)
over.register(epoll, select.POLLIN)
pairs[0][1].send(b"x")
few()
assert [fd for fd, _ in over.poll(60_000)] == [epoll.fileno()]
assert epoll.poll(0) == [(pairs[0][0].fileno(), select.POLLIN)]
try:
    poll.poll(0)
except OSError as error:
    raise SystemExit(0 if error.errno == errno.EINVAL else str(error))
raise SystemExit("poll took them")
""")


def asking(host: Host) -> socket.socket:
    """A player on a host that has asked for the group."""
    with inside(host):
        sock = socket.create_connection(("10.9.0.1", 4022), 60)
    sock.sendall(f"GET {PATH} HTTP/1.1\r\nHost: tv\r\n\r\n".encode())
    return sock


@pytest.mark.root
def test_a_daemon_without_descriptors_keeps_its_players_and_serves_the_others_later(tmp_path: Path) -> None:
    """Three hosts in a row; the daemon's limit is lowered below what it has open."""
    config = """
[gateway.tv]
listen = "10.9.0.1:4022"
allow_groups = ["239.1.0.0/16"]
interface = "eth0"
first_data = "60s"
"""
    with (
        three_in_a_row() as (left, relay, right),
        RunningDaemon(tmp_path, config, enter=relay.enter([])) as daemon,
        Talker(left, "eth0", "239.1.1.1", 5004, source="10.8.0.1") as talker,
    ):
        daemon.wait_state("gateway/tv", "active")
        pid, limit = daemon.process.pid, resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        with asking(right) as player:
            wait_for_group(daemon)
            sent = b"".join(talker.send(3))
            assert read(player, len(sent), begun(player)[1]) == sent
            began = time.monotonic()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limit[1]))
            with asking(right) as other:
                daemon.wait_events("player.refused")
                while time.monotonic() < began + 2.5 * RETRY_SECONDS:  # some attempts more
                    (line,) = talker.send()
                    assert read(player, len(line)) == line
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
                wait_for(lambda: daemon.worker("gateway/tv")["status"]["served"] == 2, "both")
                seconds = time.monotonic() - began
                sent = b"".join(talker.send(3))
                assert read(player, len(sent)) == sent
                assert read(other, len(sent), begun(other)[1]) == sent
        worker = daemon.worker("gateway/tv")
        assert worker["state"] == "active"
        assert 1 <= worker["status"]["counters"]["refused"]["shortage"] <= seconds / RETRY_SECONDS + 2
        assert len(daemon.events("player.refused")) == 1
