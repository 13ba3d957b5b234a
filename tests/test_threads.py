"""What one thread sees of another at work, at any moment: races that the interpreter lock makes rare.

Some of these tests repeat what is quick until it met the moment; without the lock
(``tests/freethreaded.sh``) that is nearly at once.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.wait import wait_for

from mcastd import log
from mcastd.config import FileOutput, OutboundChannel
from mcastd.control.client import ControlClient
from mcastd.control.server import _Spare
from mcastd.counters import SourceCounts
from mcastd.errors import ControlError, SinkError
from mcastd.inbound.sinks.account import Account
from mcastd.net.fake import FakeSender
from mcastd.net.link import Payloads
from mcastd.net.receiver import SocketReceiver
from mcastd.outbound.channel import Channel
from mcastd.outbound.sources import open_source
from mcastd.process import share_interpreter
from mcastd.supervisor import Supervisor
from mcastd.worker import Context, Signal

LOOKS = 20_000


def test_many_that_want_the_interpreter_at_once_ask_for_it_less_often() -> None:
    intervals = []
    for workers in (0, 3, 300, 0):
        share_interpreter(workers)
        intervals.append(sys.getswitchinterval())
    assert intervals == pytest.approx([1e-4, 1e-4, 3e-3, 1e-4])


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """``work`` again and again in another thread; raises what it raises."""
    end = threading.Event()
    failures: list[BaseException] = []

    def loop() -> None:
        try:
            while not end.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
    if failures:
        raise failures[0]


def test_counts_by_source_never_shrink_nor_exceed_what_came() -> None:
    counts = SourceCounts()
    added = 0

    def add() -> None:
        nonlocal added
        for source in ("192.0.2.1", "192.0.2.2", *(f"198.51.100.{n}" for n in range(200))):
            added += 5
            counts.add(source, 5)

    with repeating(add):
        seen = 0
        for _ in range(LOOKS):
            top, rest = counts.top(10)
            total = sum(top.values()) + rest
            assert seen <= total <= added
            seen = total


def test_a_trouble_that_ends_is_not_told_as_none() -> None:
    account = Account(FileOutput(path="/p"), log.get_logger())
    trouble = SinkError("cannot write to /p", "nobody reads it", reason="no-reader")

    def come_and_go() -> None:
        account.drop(0, trouble)
        account.recovered()

    with repeating(come_and_go):
        assert {account.status().error for _ in range(LOOKS)} <= {None, str(trouble)}


def test_a_channel_never_has_less_than_nothing_pending(tmp_path: Path) -> None:
    class Sink(FakeSender):
        def send(self, payloads: Payloads) -> int:
            return len(payloads)

    path = tmp_path / "source"
    path.write_bytes(b"line\n" * 40)
    config = OutboundChannel(source=path, group="239.255.1.2", port=9190, interval=0, repeat="forever")
    channel = Channel("outbound/news", config, lambda _: Sink(), open_source(config))
    context = Context().open()
    thread = threading.Thread(target=channel.run, args=(context,))
    thread.start()
    try:
        assert all(channel.status().pending >= 0 for _ in range(LOOKS))
    finally:
        context.send(Signal.STOP)
        thread.join()
        context.close()


def test_the_spare_descriptor_is_spent_once(no_fd_leak: None) -> None:
    spare = _Spare()
    with repeating(spare.spend):
        for _ in range(LOOKS):
            spare.save()
            spare.spend()
    spare.spend()


def test_a_worker_left_behind_while_the_watchdog_looks_is_not_forgotten() -> None:
    class LeftBehind:
        ended = False

        def join(self, timeout: float) -> bool:
            return self.ended

        hung = ""
        may_hang = False

        def look_if_hung(self, now: float) -> bool:
            return False

    supervisor = Supervisor(lambda *_: pytest.fail("no worker is wanted"))
    with repeating(supervisor.look_for_hung):
        for _ in range(LOOKS // 50):
            left = [LeftBehind() for _ in range(50)]
            for thread in left:
                supervisor._abandoned.append(thread)  # type: ignore[arg-type]
            kept = supervisor._abandoned.copy()
            assert all(thread in kept for thread in left)
            for thread in left:
                thread.ended = True
    assert not supervisor.look_for_hung()
    assert not supervisor._abandoned


def test_who_asks_for_the_load_does_not_meet_a_socket_half_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = SocketReceiver(ip_address("239.255.9.8"), 9192, interface="lo")
    (leaving,) = receiver._sockets.values()
    receiver._sockets, receiver._leaving = {}, [leaving]
    receiver._note_change()
    asked, answered = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        receiver.load()
        answered.set()

    asker = threading.Thread(target=ask)
    close = leaving.close

    def close_while_asked() -> None:
        asker.start()
        asked.wait()
        assert not answered.wait(0.05)  # it has to wait until the socket is closed and counted
        close()

    monkeypatch.setattr(leaving, "close", close_while_asked)
    receiver.receive()
    asker.join()
    receiver.close()
    assert answered.is_set()


def reached(path: Path) -> ControlClient | None:
    with contextlib.suppress(ControlError):  # it is there for a moment before anybody listens
        return ControlClient(path, timeout=60)
    return None


def test_a_client_that_comes_while_the_workers_start_can_stop_any_of_them(tmp_path: Path) -> None:
    number = 150
    where = 'group = "239.255.9.9"\ninterface = "lo"'
    config = "".join(
        f'[inbound.w{n:03}]\n{where}\nport = {10000 + n}\noutput = "{tmp_path}/{n}.log"\n'
        for n in range(number)
    )
    last = f"inbound/w{number - 1}"
    with RunningDaemon(tmp_path, config, ready=False) as daemon:
        with wait_for(lambda: reached(daemon.socket), "the control socket") as client:
            client.call("io.mcastd.Stop", name=last)
        daemon.wait_notified("READY")
        assert daemon.worker(last)["state"] == "inactive"
