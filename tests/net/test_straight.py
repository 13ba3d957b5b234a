"""The straight way of a visit and the general one, side by side: the same bytes, books and status.

Two subscriptions get the same datagrams, and the same happens to their files. One is lent as it is, and has
the straight way; the other is made to go the general way.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import math
import os
import select
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.host import ip
from support.receiving import receiving_with
from support.subscription import VisitedByHand
from support.wait import wait_for

from mcastd.config import InboundSubscription
from mcastd.errors import LinkError, McastdError
from mcastd.handover import BUSY_VISITS
from mcastd.inbound import turns as turns_module
from mcastd.inbound.sinks import file as file_module
from mcastd.inbound.sinks.file import FileSink
from mcastd.inbound.straight import BUSY_DATAGRAMS, StraightVisits
from mcastd.inbound.subscription import Subscription
from mcastd.inbound.turns import Turns
from mcastd.makers import Parts, build
from mcastd.net import arenas, batches, slot_writer
from mcastd.net.link import Receiver
from mcastd.net.mmsg import MmsgArena
from mcastd.net.payloads import ListPayloads
from mcastd.net.plain import PlainArena
from mcastd.net.sender import SocketSender
from mcastd.net.slots import SLOTS
from mcastd.net.sockets import free_port
from mcastd.worker import Context, Signal

STRAIGHT, GENERAL = "239.255.15.1", "239.255.15.2"
OTHER_SENDER = "127.0.1.15"


class Faults:
    """What writing to a file meets next: few bytes are taken, or none and an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most: int | None = None  # bytes that the next call takes
        self.error = 0  # of the next call
        self._write_one, self._writev, self._raw_writev = os.write, os.writev, slot_writer._libc.writev
        monkeypatch.setattr(batches.os, "write", lambda fd, data: self._write(fd, [data]))
        monkeypatch.setattr(batches.os, "writev", self._write)
        monkeypatch.setattr(slot_writer._libc, "writev", self._write_slots)

    def _fail(self) -> None:
        error, self.error = self.error, 0
        if error:
            raise OSError(error, os.strerror(error))

    def _write(self, fd: int, buffers: Sequence[Any]) -> int:
        self._fail()
        most, self.most = self.most, None
        return self._writev(fd, buffers) if most is None else self._write_one(fd, b"".join(buffers)[:most])

    def _write_slots(self, fd: int, iovecs: Any, count: int) -> int:
        self._fail()
        if self.most is not None:  # some of them whole: of what is in them nothing is known here
            self.most, count = None, max(1, count // 2)
        return self._raw_writev(fd, iovecs, count)


class Side:
    """One of the two subscriptions."""

    def __init__(self, stack: ExitStack, group: str, port: int, path: Path, **keys: Any) -> None:
        self.path = path
        self.reader, ready = VisitedByHand(), threading.Event()
        stack.callback(self.reader.close)
        self.context = Context(ready.set).open()
        stack.callback(self.context.close)
        to = {"group": group, "port": port, "interface": "lo", **keys}
        config = InboundSubscription.model_validate({**to, "output": [{"kind": "file", "path": path}]})
        worker = build("inbound/side", config, Parts(reader=self.reader))
        assert isinstance(worker, Subscription)
        self.worker = worker
        (sink,) = worker.sinks
        assert isinstance(sink, FileSink)
        self.sink = sink
        self.failure: BaseException | None = None  # that ended the run
        self.thread = threading.Thread(target=self._run)
        stack.callback(worker.close)
        stack.callback(self._stop)
        self.thread.start()
        wait_for(lambda: self.reader.visited, "its turn")

    def _run(self) -> None:
        try:
            self.worker.run(self.context)
        except McastdError as error:
            self.failure = error

    def _stop(self) -> None:
        self.context.send(Signal.STOP)
        self.thread.join()

    @property
    def seen(self) -> tuple[object, ...]:
        """Bytes, books and status, but for what names this side."""
        status = replace(self.sink.status(), path="", error=None)
        sources = self.worker._intake.sources
        content = self.path.read_bytes() if self.path.is_file() else None
        return self.worker.counters, sources.top(), sources.last, status, content

    @property
    def link(self) -> Receiver:
        link = self.worker._turns.link
        assert link is not None
        return link

    @property
    def is_empty(self) -> bool:
        return not select.select([self.link], [], [], 0)[0]

    def visit(self, again: bool = False) -> int | None:
        assert self.reader.visited is not None
        return self.reader.visited.visit(again)

    @property
    def has_ended(self) -> bool:
        """Whether no visit follows the last one."""
        return self.worker._turns.handover.lent_by is None

    def settle(self, received: int) -> None:
        """Take all that has come: by visits, or by the worker's own thread while it is not lent."""

        def taken() -> bool:
            if (visited := self.reader.visited) is not None:
                visited.visit(False)
            counts = self.sink.counters
            accounted = counts.written + counts.dropped.total() + self.worker.counters.dropped.total()
            return self.worker.counters.received == accounted >= received and self.is_empty

        wait_for(taken, f"{received} datagrams")


@dataclass(frozen=True)
class Sent:
    sizes: tuple[int, ...]
    by_other: bool = False


Event = Sent | str | tuple[str, int]
EVENTS = st.one_of(
    st.builds(
        Sent,
        st.lists(st.sampled_from([0, 1, 700, 1316, 1316, 1316]), min_size=1, max_size=12).map(tuple),
        st.booleans(),
    ),
    st.sampled_from([1, BUSY_DATAGRAMS, SLOTS, SLOTS + 40]).map(
        lambda count: Sent((9, 10) * (count // 2 + 1))
    ),
    st.sampled_from([5000, 60_000]).map(lambda size: Sent((size,) * 50)),  # an arena swells
    st.sampled_from(["cut", "look", "move", "directory", "no-arena"]),
    st.tuples(st.just("short"), st.integers(1, 4000)),
    st.tuples(st.just("error"), st.sampled_from([errno.ENOSPC, errno.EIO])),
)


class Pair:
    def __init__(self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, path: Path, **keys: Any) -> None:
        self.faults = Faults(monkeypatch)
        # What cannot be opened is tried again by time, too: one side may be in time, and the other late
        monkeypatch.setattr(file_module, "RETRY_SECONDS", 1e6)
        generals: set[object] = set()
        compose = turns_module.straight_visits
        monkeypatch.setattr(
            turns_module,
            "straight_visits",
            lambda general, *parts: None if general in generals else compose(general, *parts),
        )
        ports = free_port(), free_port()
        real_init = Turns.__init__

        def init(turns: Turns, *parts: Any) -> None:
            real_init(turns, *parts)
            generals.add(turns)

        with monkeypatch.context() as patch:
            patch.setattr(Turns, "__init__", init)
            general = Side(stack, GENERAL, ports[1], path / "general", **keys)
        self.sides = Side(stack, STRAIGHT, ports[0], path / "straight", **keys), general
        self.sent = 0
        self.is_rtp, self.numbers = "protocol" in keys, itertools.count(65_530)
        groups = [ipaddress.ip_address(group) for group in (STRAIGHT, GENERAL)]
        self.senders = {
            name: [
                SocketSender(group, port, interface=interface)
                for group, port in zip(groups, ports, strict=True)
            ]
            for name, interface in ((False, "lo"), (True, OTHER_SENDER))
        }
        for senders in self.senders.values():
            for sender in senders:
                stack.callback(sender.close)

    def have(self, event: Event) -> None:
        if isinstance(event, Sent):
            self._send(event)
        elif isinstance(event, tuple):
            self._write_with(*event)
        elif event == "no-arena":
            for pool in arenas.pools.values():
                pool.spare.clear()
        else:
            for side in self.sides:
                getattr(self, f"_{event}")(side)
        self.look_alike()

    def _head(self) -> bytes:
        """The header of RTP (RFC 3550 section 5.1) in order, if that is the protocol."""
        if not self.is_rtp:
            return b""
        return struct.pack(">BBHII", 0x80, 33, next(self.numbers) % 65_536, 0, 7)

    def look_alike(self) -> None:
        for side in self.sides:
            side.settle(self.sent)
        straight, general = self.sides
        assert straight.seen == general.seen

    def _send(self, sent: Sent) -> None:
        payloads = [self._head() + bytes([number % 256]) * size for number, size in enumerate(sent.sizes)]
        # RTP of another sender is received or not by the time that the first one was silent
        for sender in self.senders[sent.by_other and not self.is_rtp]:
            done = 0
            while done < len(payloads):
                done += sender.send(ListPayloads(payloads[done:]))
        self.sent += len(payloads)

    def _write_with(self, fault: str, value: int) -> None:
        """Each side's next visit meets it, unless there is none, since its file is in trouble."""
        if not self._lent():
            return
        self._send(Sent((1316, 700, 1316)))
        for side in self.sides:
            setattr(self.faults, {"short": "most", "error": "error"}[fault], value)
            while side.is_empty:  # the kernel may deliver a little later
                time.sleep(0.001)
            side.visit()
            self.faults.most, self.faults.error = None, 0
        straight, general = self.sides
        assert straight.has_ended == general.has_ended

    def _lent(self) -> bool:
        return wait_for(self._look_whether_lent, "its turn")[0]

    def _look_whether_lent(self) -> list[bool]:
        """True if both are lent; one in trouble is not, for as long as that is so. Nothing: not known yet."""
        if all(side.reader.visited and not side.has_ended for side in self.sides):
            return [True]
        if any(side.sink.problem for side in self.sides):
            return [False]
        self._send(Sent((1,)))  # a thread that waits by itself looks when something comes
        for side in self.sides:
            side.settle(self.sent)
        return []

    def _cut(self, side: Side) -> None:
        if side.path.is_file():
            os.truncate(side.path, 0)

    def _look(self, side: Side) -> None:
        """The next batch finds that it is time to look at the path."""
        side.sink._looked, side.sink._prepared_until = -1e9, 0.0

    def _move(self, side: Side) -> None:
        if side.path.is_dir():
            side.path.rmdir()
        side.path.unlink(missing_ok=True)
        self._look(side)

    def _directory(self, side: Side) -> None:
        self._move(side)
        side.path.mkdir()


@pytest.fixture(params=["recvmmsg", "plain"])
def stack(
    request: pytest.FixtureRequest, no_fd_leak: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ExitStack]:
    """Each test runs with ctypes and without."""
    with receiving_with(request.param == "recvmmsg", monkeypatch), ExitStack() as stack:
        ip(f"addr add {OTHER_SENDER}/32 dev lo")
        stack.callback(ip, f"addr del {OTHER_SENDER}/32 dev lo")
        yield stack


RTP = {"protocol": {"kind": "rtp", "jitter": False}, "reorder": 0}


@pytest.mark.parametrize("keys", [{}, {"coalesce": False}, RTP], ids=["coalesced", "not", "rtp"])
def test_both_ways_give_the_same(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: dict[str, Any]
) -> None:
    pair = Pair(stack, monkeypatch, tmp_path, **keys)
    kinds = [type(side.reader.visited) for side in pair.sides]
    assert kinds == [StraightVisits, Turns]

    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(EVENTS, max_size=6))
    def happens(events: list[Event]) -> None:
        for event in events:
            pair.have(event)

    happens()
    straight, general = pair.sides
    assert straight.worker.counters.received == general.worker.counters.received == pair.sent


class Waiting:
    """Datagrams of one size that wait in both sockets, sent one by one: so all take as much of a buffer."""

    def __init__(self, pair: Pair, size: int) -> None:
        self.pair, self.size = pair, size
        self._send(1)
        self.of_one = [self._filled(side, 1e-9) for side in pair.sides]
        pair.look_alike()

    def wait(self, count: int) -> None:
        """Until so many have come to each."""
        self._send(count)
        for side, one in zip(self.pair.sides, self.of_one, strict=True):
            self._filled(side, 0.999 * count * one)

    def _send(self, count: int) -> None:
        for _ in range(count):
            self.pair._send(Sent((self.size,)))

    def _filled(self, side: Side, least: float) -> float:
        return wait_for(lambda: (now := side.link.load().filled) >= least and now, "all in its buffer")


@pytest.mark.parametrize("again", [True, False])
def test_a_visit_takes_all_that_has_come_and_ends_if_it_is_busy(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, again: bool
) -> None:
    """Only what comes later is reported by epoll(7)."""
    monkeypatch.setattr(turns_module, "SHARED_VISIT_SECONDS", 60.0)
    pair = Pair(stack, monkeypatch, tmp_path, coalesce=False)
    waiting = Waiting(pair, 1000)
    for visit in range(1, BUSY_VISITS + 1):
        count = SLOTS + 40 if visit % 2 else BUSY_DATAGRAMS
        waiting.wait(count)
        for side in pair.sides:
            assert (side.visit(again), side.is_empty) == (count, True)
            assert side.has_ended == (visit == BUSY_VISITS)
    straight, general = pair.sides
    assert straight.seen == general.seen


def test_a_visit_takes_all_large_datagrams_though_a_batch_has_few(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(turns_module, "SHARED_VISIT_SECONDS", 60.0)
    pair = Pair(stack, monkeypatch, tmp_path, coalesce=False, receive_buffer=8 << 20)
    waiting = Waiting(pair, 60_000)
    for count in (5, 30):  # the arena learns of the first ones how many make a batch
        waiting.wait(count)
        for side in pair.sides:
            assert (side.visit(), side.is_empty) == (count, True)
    pair.look_alike()


def test_what_a_visit_meets_at_its_socket_ends_the_run(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = Pair(stack, monkeypatch, tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENETDOWN, "network is down")

    for side in pair.sides:
        with monkeypatch.context() as patch:
            for arena in (MmsgArena, PlainArena):
                patch.setattr(arena, "receive", fail)
            assert side.visit() == 0
        side.thread.join()
        assert isinstance(side.failure, LinkError)
        assert side.failure.errno == errno.ENETDOWN


def test_a_visit_is_refused_while_its_worker_is_busy(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = Pair(stack, monkeypatch, tmp_path)
    pair._send(Sent((1,)))
    for side in pair.sides:
        with side.worker._turns.handover.lock:
            assert side.visit() is None
        side.settle(1)


@pytest.mark.parametrize("shortage", [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_what_comes_waits_in_the_kernel_while_there_is_no_memory_for_an_arena(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shortage: Exception
) -> None:
    pair = Pair(stack, monkeypatch, tmp_path)

    def refuse(**_: object) -> None:
        raise shortage

    with monkeypatch.context() as patch:
        patch.setattr(arenas, "MmsgArena", refuse)
        patch.setattr(arenas, "PlainArena", refuse)
        for pool in arenas.pools.values():
            pool.spare.clear()
        pair._send(Sent((1, 2, 3)))
        for side in pair.sides:
            link = side.link
            wait_for(lambda side=side: not side.is_empty, "what waits")
            assert side.visit() == 0
            wait_for(
                lambda side=side: "no memory left; raise MemoryMax=" in side.context.detail, "the reason"
            )
            assert side.context.degraded
            assert (side.link, side.failure) == (link, None)
            assert side.worker.counters.received == 0
    for side in pair.sides:
        side.settle(3)
        wait_for(lambda side=side: not side.context.degraded, "all is well")
        assert side.worker.counters.received == 3


def test_a_calm_visit_ends_the_row_of_busy_ones(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(turns_module, "SHARED_VISIT_SECONDS", 60.0)
    pair = Pair(stack, monkeypatch, tmp_path, coalesce=False)
    waiting = Waiting(pair, 1000)
    for count in (*[BUSY_DATAGRAMS] * (BUSY_VISITS - 1), 1, BUSY_DATAGRAMS):
        waiting.wait(count)
        for side in pair.sides:
            assert (side.visit(), side.has_ended) == (count, False)
    pair.look_alike()


@pytest.mark.parametrize("changed", ["deadline", "stale", "neither"])
def test_a_visit_ends_if_the_worker_waits_for_a_later_alarm_than_it_has_to(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    monkeypatch.setattr(turns_module, "CALM_SECONDS", 60.0)  # it is not lent again at once
    pair = Pair(stack, monkeypatch, tmp_path, expect_every=1000)
    waiting = Waiting(pair, 1000)
    waiting.wait(1)
    for side in pair.sides:
        turns = side.worker._turns
        wait_for(lambda turns=turns: turns.alarm < math.inf, "its wait for the alarm")
        side.sink.deadline = turns.alarm - (0.001 if changed == "deadline" else 0)
        side.worker._condition.stale = changed == "stale"
        assert (side.visit(), side.has_ended) == (1, changed != "neither")
        side.sink.deadline = math.inf
    pair.look_alike()
