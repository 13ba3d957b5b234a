"""The thread between a subscription and an engine, with an engine in memory that fails as it is told."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from support.mounts import tmpfs
from support.wait import wait_for

from mcastd import clock, log
from mcastd.engines import hand_over as module
from mcastd.engines import segments, transfer
from mcastd.engines.backlog import Backlog, BacklogBounds
from mcastd.engines.engine import Encoder, Engine, HandedOver, KeptStream, RefusedMessage, ServerAnswers
from mcastd.engines.hand_over import HandOver, HandOverPlan
from mcastd.engines.outcomes import Outcomes
from mcastd.engines.segments import KeptMessage
from mcastd.errors import SinkError
from mcastd.net.link import Origin
from mcastd.threads import NoThreadError

STREAM = KeptStream("239.255.9.7", 9190, "host/inbound/tv")
ORIGIN = Origin("192.0.2.1", 5000, 1, 8)


class Plain(Encoder):
    """A message is its payload; "broken" cannot be one. The port is before it, if it is another."""

    def __init__(self, stream: KeptStream = STREAM) -> None:
        self._begin = b"" if stream.port == STREAM.port else b"%d " % stream.port

    def go_on_from(self, before: Encoder) -> None:
        assert isinstance(before, Plain)
        self._begin += before._begin + b"after "

    def encode(self, taken: HandedOver, stream: KeptStream, numbers: Sequence[int]) -> list[KeptMessage]:
        if b"broken" in taken.payloads:
            raise ZeroDivisionError
        return [(number, self._begin + one) for number, one in zip(numbers, taken.payloads, strict=True)]


@dataclass
class Server:
    """What keeps messages, and how it answers."""

    kept: dict[int, bytes] = field(default_factory=dict)
    away: SinkError | OSError | None = None
    answers: Callable[[int, bytes], str | None] | None = None  # a reason; "" keeps it; None says nothing
    forgets: bool = False  # it does not say what it has, when it is connected
    connections: int = 0
    sent: int = 0
    full: bool = False  # it refuses what it is sent, while it is connected
    hangs: threading.Event | None = None  # an attempt to connect waits for this
    disbelieved: int = 0  # connections that were told so of what they said
    breaks: str = ""  # the call by which the connection breaks next


class Memory(Engine):
    """A connection to it."""

    def __init__(self, server: Server, stream: KeptStream = STREAM) -> None:
        self.server = "memory" if stream.port == STREAM.port else f"memory {stream.port}"
        self._at = server
        self._said = ServerAnswers()
        self._refusal: SinkError | None = None
        self._fd = -1

    def connect(self) -> int:
        self._break("connect")
        if self._at.hangs is not None:
            self._at.hangs.wait(60)
        if self._at.away is not None:
            raise self._at.away
        self._at.connections += 1
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)
        return 0 if self._at.forgets else max(self._at.kept, default=0)

    def disbelieve(self) -> None:
        self._at.disbelieved += 1

    def fileno(self) -> int:
        return self._fd

    def _break(self, call: str) -> None:
        if self._at.breaks == call:
            self._at.breaks = ""
            raise ConnectionResetError(errno.ECONNRESET, "it has gone")

    def send(self, messages: Sequence[KeptMessage]) -> None:
        if self._at.breaks == "send":  # in the middle of them
            self._at.kept.update(messages[: len(messages) // 2])
            self._break("send")
        if self._at.full:
            self._refusal = SinkError("cannot send to memory", "it is full", reason="refused")
        for number, message in () if self._refusal else messages:
            self._at.sent += 1
            reason = self._at.answers(number, message) if self._at.answers else ""
            said = self._said
            if reason:
                self._said = said._replace(refused=[*said.refused, RefusedMessage(number, reason, "no")])
            elif reason is not None:
                again = said.duplicates + (number in self._at.kept)
                self._said = said._replace(kept=[*said.kept, number], duplicates=again)
                self._at.kept[number] = message
        os.eventfd_write(self._fd, 1)

    @property
    def is_full(self) -> bool:
        return False

    def flush(self) -> None:
        self._break("flush")

    def receive(self) -> ServerAnswers:
        self._break("receive")
        if error := self._at.away or self._refusal:
            raise error
        said, self._said = self._said, ServerAnswers()
        if said != ServerAnswers():
            os.eventfd_read(self._fd)
        return said

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Noted:
    """A log that keeps the names of events."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def info(self, event: str, **_: object) -> None:
        self.events.append(event)

    warning = info


@dataclass
class Handed:
    """A hand-over, and all that it has said so far."""

    it: HandOver
    written: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def put(self, *payloads: bytes, of: KeptStream = STREAM) -> int:
        size, count = sum(map(len, payloads)), len(payloads)
        return self.it.put(HandedOver(payloads, [ORIGIN] * count, [1] * count, size), of)

    def look(self) -> Handed:
        results = self.it.collect()
        self.written += results.written
        for reason, (count, _) in results.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        return self

    def waits(self, count: int) -> bool:
        return self.it.picture.waiting == count

    def wait_written(self, count: int) -> None:
        wait_for(lambda: self.look().written >= count, f"{count} are written")


Start = Callable[..., Handed]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def start(server: Server, tmp_path: Path, no_fd_leak: None) -> Iterator[Start]:
    running: list[Handed] = []

    def started(
        *,
        spool: bool = True,
        memory: int = 1 << 20,
        drop_oldest: bool = False,
        counted_from: int | None = None,
    ) -> Handed:
        bounds = BacklogBounds(memory, 1 << 20, drop_oldest=drop_oldest)
        plan = HandOverPlan(
            "memory",
            Plain,
            lambda stream: Memory(server, stream),
            tmp_path / "spool" if spool else None,
            bounds,
        )
        running.append(Handed(HandOver(plan, STREAM, log.get_logger(), counted_from=counted_from)))
        return running[-1]

    yield started
    for one in running:
        assert one.it.stop(clock.monotonic())


def test_each_is_written_and_counted(server: Server, start: Start) -> None:
    handed = start()
    for number in range(20):
        handed.put(*(b"%d" % (number * 100 + each) for each in range(100)))
    handed.wait_written(2000)
    assert [*server.kept.values()] == [b"%d" % number for number in range(2000)]
    assert handed.dropped == {}
    wait_for(lambda: handed.it.picture.spool_bytes == 0, "the spool is empty")
    assert handed.it.picture.server == "memory"


@pytest.mark.parametrize("method", ["start", "__init__"])
def test_without_memory_for_its_thread_it_leaves_nothing_open(
    start: Start, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, method, mock.Mock(side_effect=MemoryError()))
        with pytest.raises(NoThreadError):
            start()


@pytest.mark.parametrize("forgets", [False, True])
def test_what_has_no_answer_is_sent_again_and_kept_once(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    monkeypatch.setattr(transfer, "ANSWER_SECONDS", 0.2)
    server.forgets = forgets
    lost = threading.Event()

    def answers(number: int, message: bytes) -> str | None:
        server.kept[number] = message
        return "" if lost.is_set() else None

    server.answers = answers
    handed = start()
    handed.put(b"1", b"2", b"3")
    wait_for(lambda: server.connections > 1, "it gives up the connection")
    if forgets:
        assert handed.look().written == 0
    else:
        handed.wait_written(3)
    lost.set()
    handed.put(b"4")
    handed.wait_written(4)
    assert handed.it.picture.duplicates >= 3
    assert [*server.kept.values()] == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("spool", [True, False])
@pytest.mark.parametrize("call", ["connect", "send", "flush", "receive"])
def test_wherever_the_connection_breaks_each_is_kept_once(
    server: Server, start: Start, spool: bool, call: str
) -> None:
    server.breaks = call
    handed = start(spool=spool)
    handed.put(*(b"%d" % number for number in range(10)))
    wait_for(lambda: not server.breaks, "it breaks")
    handed.put(*(b"%d" % number for number in range(10, 20)))
    handed.wait_written(20)
    assert [*server.kept.values()] == [b"%d" % number for number in range(20)]
    assert (handed.written, handed.dropped) == (20, {})
    wait_for(lambda: handed.it.picture.trouble is None, "the end of the trouble")


def test_one_that_is_refused_is_dropped_and_the_others_go_on(server: Server, start: Start) -> None:
    server.answers = lambda _, message: "too-big" if message == b"bad" else ""
    handed = start()
    handed.put(b"1", b"bad", b"3", b"bad", b"5")
    handed.wait_written(3)
    wait_for(lambda: handed.look().dropped == {"too-big": 2}, "both are counted")
    assert [*server.kept.values()] == [b"1", b"3", b"5"]


def test_a_server_that_is_away_is_tried_again_and_named(server: Server, start: Start) -> None:
    server.away = SinkError("cannot reach memory", "it sleeps", reason="unreachable")
    handed = start()
    wait_for(lambda: handed.it.picture.trouble is server.away, "the trouble")
    handed.put(b"1")
    server.away = OSError(5, "I/O error")
    wait_for(lambda: "I/O error" in str(handed.it.picture.trouble), "another trouble")
    server.away = None
    handed.wait_written(1)
    wait_for(lambda: handed.it.picture.trouble is None, "the end of it")
    server.away = ConnectionResetError(104, "it has gone")
    handed.put(b"2")
    wait_for(lambda: handed.it.picture.server == "", "it has gone")
    server.away = None
    handed.wait_written(2)


def test_an_attempt_that_hangs_is_told_of(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a name server, or the disk that has a password."""
    monkeypatch.setattr(transfer, "LATE_SECONDS", 0.1)
    server.hangs = threading.Event()
    handed = start()
    handed.put(b"1")
    trouble = wait_for(lambda: handed.it.picture.trouble, "it is told")
    assert trouble is not None
    assert (trouble.what, trouble.reason) == ("cannot write to memory", "unreachable")
    assert "takes long" in trouble.cause
    server.hangs.set()
    handed.wait_written(1)
    wait_for(lambda: handed.it.picture.trouble is None, "the end of it")


@pytest.mark.parametrize("spool", [True, False])
def test_the_end_waits_for_no_attempt_to_connect(server: Server, start: Start, spool: bool) -> None:
    """As at a reload: the next one may have the spool at once, and what comes of the attempt is closed."""
    server.hangs = hangs = threading.Event()
    handed = start(spool=spool)
    handed.put(b"1", b"2")
    wait_for(lambda: handed.it._transfer and handed.it._transfer._connecting.is_under_way, "the attempt")
    wait_for(lambda: handed.it.picture.waiting == 2, "they wait")
    assert handed.it.stop(clock.monotonic())
    assert handed.look().dropped == ({} if spool else {"stopped": 2})
    server.hangs = None
    again = start(spool=spool, counted_from=handed.it.counted_from)
    again.put(b"3")
    again.wait_written(3 if spool else 1)
    hangs.set()
    wait_for(lambda: server.connections == 2, "the first attempt comes to its end")
    again.put(b"4")
    again.wait_written(4 if spool else 2)
    assert [*server.kept.values()] == ([b"1", b"2"] if spool else []) + [b"3", b"4"]


@pytest.mark.parametrize("spool", [True, False])
def test_another_stream_is_kept_under_its_own_name_by_a_connection_made_for_it(
    server: Server, start: Start, spool: bool
) -> None:
    """What was sent has its answers before: the next connection may not tell of them, as Kafka does not."""
    server.forgets = True
    handed = start(spool=spool)
    server.answers = lambda _, message: None if message == b"a" else ""
    handed.put(b"a", b"b")
    wait_for(lambda: handed.it.picture.in_flight == 1, "the first has no answer")
    handed.put(b"c", of=STREAM._replace(port=9191))
    wait_for(lambda: handed.it.picture.waiting == 2, "another one waits")
    handing = handed.it._transfer
    assert handing is not None
    engine, ((number, message),) = handing._engine, handing._flight.left()
    assert isinstance(engine, Memory)
    assert (engine.server, server.connections, server.sent) == ("memory", 1, 2)
    server.kept[number] = message
    engine._said = ServerAnswers([number])
    os.eventfd_write(engine.fileno(), 1)
    handed.wait_written(3)
    assert (handed.it.picture.server, server.connections, server.sent) == ("memory 9191", 2, 3)
    assert [server.kept[number] for number in sorted(server.kept)] == [b"a", b"b", b"9191 after c"]
    assert handed.look().dropped == {}


def test_a_fault_of_ours_costs_the_batch_and_is_counted(server: Server, start: Start) -> None:
    handed = start()
    handed.put(b"1")
    handed.wait_written(1)
    handed.put(b"broken", b"2")
    wait_for(lambda: handed.look().dropped == {"crashed": 2}, "both are counted")
    handed.put(b"3")
    handed.wait_written(2)


@pytest.mark.parametrize("spool", [True, False])
def test_the_end_keeps_what_is_in_the_spool_and_counts_the_rest(
    server: Server, start: Start, spool: bool
) -> None:
    server.away = SinkError("cannot reach memory", "it sleeps", reason="unreachable")
    handed = start(spool=spool)
    handed.put(*(b"%d" % number for number in range(10)))
    assert handed.it.stop(clock.monotonic() + 0.05)
    assert handed.look().dropped == ({} if spool else {"stopped": 10})
    server.away = None
    again = start(spool=spool, counted_from=handed.it.counted_from)
    again.put(b"new")
    again.wait_written(11 if spool else 1)
    assert again.it.picture.taken_up == (10 if spool else 0)


def test_what_an_earlier_run_left_is_not_counted_as_of_this_one(server: Server, start: Start) -> None:
    server.away = SinkError("cannot reach memory", "it sleeps", reason="unreachable")
    handed = start()
    handed.put(b"1", b"2")
    handed.it.stop(clock.monotonic() + 0.05)
    server.away = None
    again = start()
    wait_for(lambda: len(server.kept) == 2, "they are taken up")
    again.put(b"3")
    again.wait_written(1)
    wait_for(lambda: again.it.picture.waiting == 0, "all")
    assert again.look().written == 1


def test_one_of_an_earlier_run_that_is_refused_is_not_counted_as_of_this_one(
    server: Server, start: Start
) -> None:
    server.away = SinkError("cannot reach memory", "it sleeps", reason="unreachable")
    handed = start()
    handed.put(b"1")
    handed.it.stop(clock.monotonic() + 0.05)
    server.away, server.answers = None, lambda _, message: "too-big" if message != b"3" else ""
    again = start()
    again.put(b"2", b"3")
    again.wait_written(1)
    wait_for(lambda: again.it.picture.waiting == 0, "all")
    assert (again.look().written, again.dropped) == (1, {"too-big": 1})


def test_more_than_the_queue_holds_is_given_up(server: Server, start: Start, tmp_path: Path) -> None:
    """Its thread waits for the spool, which somebody else has."""
    first = start()
    wait_for(lambda: first.it.picture.server, "it has the spool")
    handed = start(memory=10_000)
    wait_for(lambda: handed.it.picture.trouble is not None, "the spool is taken")
    assert "another output uses it" in str(handed.it.picture.trouble)
    dropped = sum(handed.put(bytes(872)) for _ in range(30))
    assert dropped == 20
    first.it.stop(clock.monotonic())
    handed.wait_written(10)
    assert server.kept


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_what_there_is_no_room_for_is_the_newest_or_the_oldest(
    server: Server, start: Start, drop_oldest: bool
) -> None:
    first = start()
    wait_for(lambda: first.it.picture.server, "it has the spool")
    handed = start(memory=10_000, drop_oldest=drop_oldest)
    wait_for(lambda: handed.it.picture.trouble is not None, "the spool is taken")
    assert sum(handed.put(bytes([number]) * 872) for number in range(30)) == 20
    assert first.it.stop(clock.monotonic())
    handed.wait_written(10)
    wanted = range(20, 30) if drop_oldest else range(10)
    assert [message[0] for message in server.kept.values()] == [*wanted]


def test_what_never_came_to_a_spool_is_lost_at_the_end(server: Server, start: Start) -> None:
    first = start()
    wait_for(lambda: first.it.picture.server, "it has the spool")
    handed = start()
    wait_for(lambda: handed.it.picture.trouble is not None, "the spool is taken")
    handed.put(b"1", b"2", b"3")
    assert handed.it.stop(clock.monotonic())
    assert handed.look().dropped == {"stopped": 3}


@pytest.mark.parametrize(("spool", "way_out"), [(False, "raise queue"), (True, "raise spool_size")])
def test_what_is_on_its_way_is_told_beside_what_waits(
    server: Server, start: Start, spool: bool, way_out: str
) -> None:
    server.answers = lambda *_: None
    handed = start(spool=spool, memory=300_000)
    wait_for(lambda: handed.it.picture.server, "the connection")
    handed.put(*[b"news"] * 100)
    wait_for(lambda: handed.it.picture.in_flight == 100, "they are sent")
    for _ in range(40):
        handed.put(*[bytes(400)] * 100)
        picture = handed.it.picture
        wait_for(lambda: handed.it.picture is not picture, "they are taken in")  # noqa: B023
    picture = handed.it.picture
    assert 100 < picture.in_flight < picture.waiting < 4100
    ((count, error),) = handed.it.collect().dropped.values()
    assert (count > 0, error.reason, error.way_out) == (True, "full", way_out)


@pytest.mark.parametrize("refused", [True, False])
def test_what_a_server_has_last_says_nothing_of_what_it_did_not_take_before(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """As while a cluster elects a leader, or a full stream gets room: the second is taken, not the first."""
    monkeypatch.setattr(transfer, "ANSWER_SECONDS", 0.2)
    handed = start()
    handed.put(b"0")
    handed.wait_written(1)

    def answers(number: int, message: bytes) -> str | None:
        if server.connections > 1:
            return ""
        if message == b"1":
            if refused:
                server.away = SinkError("cannot send to memory", "it is full", reason="refused")
            return None
        return ""

    server.answers = answers
    handed.put(b"1", b"2", b"3")
    if refused:
        wait_for(lambda: handed.it.picture.trouble is not None, "it is refused")
        server.away = None
    handed.wait_written(4)
    assert {*server.kept.values()} == {b"0", b"1", b"2", b"3"}


def test_a_server_that_refuses_at_each_attempt_is_not_told_of_as_connected(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trouble stays until it takes something: the log would have it come and go for ever."""
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(transfer, "RETRY_MAX_SECONDS", 0.01)
    handed = start()
    told: list[str] = []
    wait_for(lambda: handed.it._transfer, "the spool is open")
    monkeypatch.setattr(handed.it._transfer, "_log", Noted(told))
    server.full = True
    handed.put(b"1")
    wait_for(lambda: server.connections > 5, "it is tried again and again")
    trouble = handed.it.picture.trouble
    assert trouble is not None
    assert trouble.reason == "refused"
    assert told.count("engine.connected") <= 1, "the first"
    server.full = False
    handed.wait_written(1)
    wait_for(lambda: handed.it.picture.trouble is None, "all is well")
    assert 1 <= told.count("engine.connected") <= 2


def test_a_number_that_was_never_sent_is_not_believed(server: Server, start: Start) -> None:
    """An earlier run has sent it, by a clock that was set back since."""
    server.kept[1 << 62] = b"before"
    handed = start(spool=False)
    handed.put(b"1")
    handed.wait_written(1)
    assert [*server.kept.values()] == [b"before", b"1"]
    assert (handed.it.picture.duplicates, server.disbelieved) == (0, 1)


def test_what_was_sent_is_believed(server: Server, start: Start) -> None:
    handed = start(spool=False)
    handed.put(b"1")
    handed.wait_written(1)
    server.breaks = "flush"
    handed.put(b"2")
    handed.wait_written(2)
    assert (server.connections, server.disbelieved) == (2, 0)


def test_a_fault_of_ours_costs_its_own_batch_alone(server: Server, start: Start) -> None:
    first = start()
    wait_for(lambda: first.it.picture.server, "it has the spool")
    handed = start()
    for payloads in ((b"1", b"2"), (b"broken", b"3"), (b"4",)):
        handed.put(*payloads)
    first.it.stop(clock.monotonic())
    handed.wait_written(3)
    assert handed.look().dropped == {"crashed": 2}
    assert [*server.kept.values()] == [b"1", b"2", b"4"]


def test_without_a_descriptor_nothing_is_left_open(
    start: Start, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    made: list[module.Bell] = []

    def bell() -> module.Bell:
        if made:
            raise OSError(errno.EMFILE, "too many open files")
        made.append(module_bell())
        return made[0]

    module_bell = module.Bell
    monkeypatch.setattr(module, "Bell", bell)
    with pytest.raises(OSError, match="too many"):
        start()
    assert made[0].fileno() < 0


def test_a_spool_that_cannot_be_read_is_told_and_tried_again(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    broken.set()
    read = module.Segments.read

    def fails(self: module.Segments) -> list[KeptMessage]:
        if broken.is_set():
            raise OSError(errno.EIO, "")
        return read(self)

    monkeypatch.setattr(module.Segments, "read", fails)
    handed = start()
    wait_for(lambda: handed.it.picture.server, "the connection")
    handed.put(b"1")
    trouble = wait_for(lambda: handed.it.picture.trouble, "it is told", timeout=30)
    assert trouble is not None
    assert trouble.reason == "spool"
    broken.clear()
    handed.wait_written(1)


@pytest.mark.root
def test_a_disk_that_is_full_from_the_start_keeps_nothing_from_the_server(
    server: Server, start: Start, tmp_path: Path
) -> None:
    with tmpfs(tmp_path, "64k"):
        rest = tmp_path / "rest"
        with contextlib.suppress(OSError):
            rest.write_bytes(bytes(1 << 20))
        handed = start()
        handed.put(b"1", b"2")
        handed.wait_written(2)
        server.away = SinkError("cannot reach memory", "it sleeps", reason="unreachable")
        handed.put(b"3")
        wait_for(lambda: "no space left on device" in str(handed.it.picture.trouble), "it is told")
        rest.unlink()
        wait_for(lambda: handed.it.picture.spool_bytes, "it is in the spool once there is room")
        server.away = None
        handed.wait_written(3)
        assert handed.dropped == {}
        assert handed.it.stop(clock.monotonic())


def test_files_of_a_spool_that_somebody_removes_are_counted_and_the_rest_goes_on(
    server: Server, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 200)
    server.away = SinkError("cannot reach memory", "it sleeps", reason="unreachable")
    handed = start()
    for count in range(1, 9):
        handed.put(bytes(100))
        wait_for(partial(handed.waits, count), f"{count} are in the spool")
    first, *others = sorted((tmp_path / "spool").glob("*.spool"))
    assert others
    first.unlink()
    server.away = None
    handed.put(b"last")
    wait_for(lambda: handed.look().written + sum(handed.dropped.values()) == 9, "each is counted")
    assert list(handed.dropped) == ["spool"]
    assert 0 < handed.dropped["spool"] < 8
    assert len(server.kept) == handed.written
    wait_for(lambda: handed.it.picture.trouble is None, "it is over")


def test_a_fault_of_ours_is_shown(server: Server, start: Start) -> None:
    server.away = ZeroDivisionError()  # type: ignore[assignment] # which nobody expects
    handed = start()
    trouble = wait_for(lambda: handed.it.picture.trouble, "it is shown")
    assert trouble is not None
    assert trouble.reason == "crashed"
    server.away = None
    handed.put(b"1")
    handed.wait_written(1)
    wait_for(lambda: handed.it.picture.trouble is None, "all is well")


def at_once(step: Callable[[], object], _: str) -> Future[object]:
    """What would be done by a thread is done now."""
    done = Future[object]()
    try:
        done.set_result(step())
    except OSError as error:
        done.set_exception(error)
    return done


def test_a_server_is_tried_at_longer_and_longer_times_until_it_takes_something(
    server: Server, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    monkeypatch.setattr("mcastd.bounded.begin", at_once)
    backlog = Backlog(BacklogBounds(1 << 20, 0, drop_oldest=False), None, 7)
    one = transfer.Transfer(
        "memory",
        lambda: Memory(server),
        backlog,
        poll=select.poll(),
        outcomes=Outcomes(),
        log=log.get_logger(),
        counted_from=7,
    )

    def attempt() -> float:
        """Returns the seconds until the next one."""
        now[0] = max(now[0], one.deadline(now[0]))
        one.send()
        return one.deadline(now[0]) - now[0]

    server.away = OSError(errno.ECONNREFUSED, "")
    assert [attempt() for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    server.away, server.full = None, True
    backlog.add([(7, b"news")])
    attempt()
    one.receive()
    assert one.deadline(now[0]) - now[0] == 5.0, "it is connected to, and takes nothing"
    server.full = False
    attempt()
    one.receive()
    assert (server.kept, one.trouble) == ({7: b"news"}, None)
    server.away = OSError(errno.ECONNRESET, "")
    one.receive()
    assert one.deadline(now[0]) - now[0] == 0.25
    assert one.close() == 0
