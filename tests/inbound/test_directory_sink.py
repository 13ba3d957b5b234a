"""The output of whole files: its books, what it says, and what it goes on from."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import select
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.objects import Objects, ObjectsSettings, SentObject, datagram, decode_of
from support.subscription import Run as Running
from support.wait import wait_for

from mcastd import log
from mcastd.codec import as_json, from_json
from mcastd.config import INBOUND_PROTOCOLS, DirectoryOutput, InboundSubscription
from mcastd.config.load import load
from mcastd.delivery.block import NotYetDecodedError
from mcastd.delivery.description import EXPIRE_SECONDS, Run
from mcastd.delivery.landing import Landing
from mcastd.delivery.names import PARTIAL_DIRECTORY
from mcastd.delivery.reception import RETRY_SECONDS
from mcastd.errors import ConfigError
from mcastd.inbound.protocols import PROTOCOLS
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.directory import SWEEP_SECONDS, DirectorySink
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.inbound.sinks.formats import FORMATS
from mcastd.inbound.sinks.notices import line_of
from mcastd.inbound.symbols import SymbolBatch
from mcastd.protocols import raptorq
from mcastd.protocols.raptorq import NotInstalledError
from mcastd.status import NoticesStatus, ObjectsStatus
from mcastd.worker import Signal

SENT = SentObject(250, expires=2e9)
OTHER = SentObject(100, seed=1, expires=2e9)


# Blocks are decoded by a process, as they are in the daemon.
REAL = object()


class Time:
    monotonic, wall = 50.0, 1e9


class Received:
    """A sink over a directory, and what it was given."""

    def __init__(self, path: Path, *, decode: Any = None, **settings: Any) -> None:
        self.time = Time()
        self.path = path
        config = DirectoryOutput(path=path, **settings)
        self.sink = DirectorySink(
            config,
            FORMATS["raw"](StreamFacts(lambda: "239.255.1.2", str)),
            Account(config, log.get_logger()),
            now=lambda: self.time.monotonic,
            wall=lambda: self.time.wall,
            decode=None if decode is REAL else decode or decode_of([SENT, OTHER]),
        )
        self.given = 0

    def write(self, *runs: Run, news: tuple[SentObject, ...] = ()) -> None:
        batch = SymbolBatch(runs, [sent.description for sent in news], len(news), 7 * len(news))
        self.sink.write(batch)
        self.given += len(batch)
        counters = self.sink.counters
        assert counters.written + counters.dropped.total() == self.given
        assert set(counters.dropped) <= set(self.sink.reasons)

    def tick(self, seconds: float = 0.0) -> None:
        self.time.monotonic += seconds
        self.sink.tick(self.time.monotonic)

    def states(self) -> dict[str, int]:
        objects = self.sink.status().objects
        assert objects is not None
        return dict(objects.states)


@pytest.fixture
def receive(tmp_path: Path, no_fd_leak: None) -> Iterator[Callable[..., Received]]:
    made: list[Received] = []

    def receive(**settings: Any) -> Received:
        made.append(Received(tmp_path / "out", **settings))
        return made[-1]

    yield receive
    for each in made:
        each.sink.close(for_good=True)


def run(sent: SentObject, sbn: int, esi: int = 0, number: int | None = None) -> Run:
    return Run(sent.description, sbn, esi, sent.run(sbn, esi, number))


def whole(sent: SentObject) -> list[Run]:
    return [run(sent, sbn) for sbn in range(sent.blocks.count)]


def together(sent: SentObject, sbn: int, esi: int, number: int) -> Run:
    return run(sent, sbn, esi, number)._replace(together=True)


def test_a_datagram_of_several_symbols_is_counted_once(receive: Callable[..., Received]) -> None:
    received = receive()
    received.write(together(SENT, 0, 0, 3), together(SENT, 0, 8, 4), together(SENT, 0, 8, 2), news=(SENT,))
    objects = received.sink.status().objects
    assert objects is not None
    assert (objects.source, objects.repair, objects.duplicate) == (3, 4, 2)
    assert received.sink.counters.written == 4
    other = SENT.described(session=9, name=("a", "..", "b"))
    nowhere = together(SENT, 0, 0, 3)._replace(sbn=5)
    received.write(nowhere, together(SENT, 0, 6, 2)._replace(description=other))
    assert received.sink.counters.written == 4
    assert received.sink.counters.dropped == {"malformed": 1, "unsafe-name": 1}


def test_there_are_no_more_files_than_are_allowed(receive: Callable[..., Received], tmp_path: Path) -> None:
    """Whoever made them. What has a name already is replaced all the same."""
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep" / "mine").touch()
    sent = [SentObject(20, seed=seed, expires=2e9) for seed in range(4)]
    received = receive(max_files=3, decode=decode_of(sent))
    for each in sent:
        received.write(*whole(each), news=(each,))
    assert sorted(os.listdir(received.path / "images")) == ["0.img", "1.img"]
    assert received.states() == {"landed": 2, "refused": 2}
    assert received.sink.counters.dropped == {"too-many": 4}
    changed = SentObject(33, seed=0, toi=9, expires=2e9)
    received.write(*whole(changed), news=(changed,))
    assert (received.path / "images/0.img").read_bytes() == changed.data
    (received.path / "deep" / "mine").unlink()
    received.time.monotonic += 61
    received.write(*whole(sent[2]))
    assert sorted(os.listdir(received.path / "images")) == ["0.img", "1.img", "2.img"]
    received.write(*whole(sent[3]))
    assert received.sink.counters.dropped == {"too-many": 6}


def test_while_a_block_is_decoded_the_output_asks_again_in_a_moment(
    receive: Callable[..., Received],
) -> None:
    waits, code = [1, 1], decode_of([SENT])

    def decode(*args: Any) -> bytes | memoryview | None:
        if waits:
            waits.pop()
            raise NotYetDecodedError
        return code(*args)

    received = receive(decode=decode)
    received.write(run(SENT, 1), run(SENT, 0, 2, 8), news=(SENT,))
    assert 0 < received.sink.deadline - received.time.monotonic < 0.01
    assert (received.sink.problem, received.states()) == ("", {"receiving": 1})
    received.tick(0.01)
    assert received.states() == {"landed": 1}
    assert (received.path / "images/0.img").read_bytes() == SENT.data


@pytest.mark.skipif(not raptorq.available(), reason="needs raptorq: pip install raptorq")
def test_the_output_goes_on_at_once_when_a_block_is_decoded(receive: Callable[..., Received]) -> None:
    received = receive(decode=REAL)
    assert received.sink.awaits is None
    repair = raptorq.repair(SENT.block(0), SENT.blocks.symbol_size, 3)
    received.write(run(SENT, 1), run(SENT, 0, 2), Run(SENT.description, 0, 8, repair), news=(SENT,))
    assert received.sink.awaits is not None
    fd, events = received.sink.awaits
    assert events == select.POLLIN
    wait_for(lambda: select.select([fd], [], [], 0)[0], "the answer")
    received.tick()
    assert received.states() == {"landed": 1}
    assert (received.path / "images/0.img").read_bytes() == SENT.data
    assert received.sink.awaits is None


def test_files_on_their_way_count_as_well(receive: Callable[..., Received]) -> None:
    received = receive(max_files=1)
    received.write(run(SENT, 0, 0, 3), *whole(OTHER), news=(SENT, OTHER))
    assert received.states() == {"receiving": 1, "refused": 1}


def test_a_file_that_replaces_another_on_its_way_takes_no_further_place(
    receive: Callable[..., Received],
) -> None:
    received = receive(max_files=2)
    received.write(*whole(SENT), news=(SENT,))
    newer = SentObject(len(SENT.data), seed=7, name=SENT.description.name)
    received.write(run(newer, 0, 0, 3), *whole(OTHER), news=(newer, OTHER))
    assert received.states() == {"receiving": 1, "landed": 1, "expired": 1}


@pytest.mark.parametrize(("mode", "made"), [(None, 0o750), ("0644", 0o755), ("0600", 0o700)])
def test_who_may_read_its_files_may_enter_a_directory_that_is_made(
    receive: Callable[..., Received], mode: str | None, made: int
) -> None:
    received = receive(mode=mode)
    received.sink.open()
    assert stat.S_IMODE(received.path.stat().st_mode) == made


def test_files_land_and_each_datagram_is_counted(receive: Callable[..., Received]) -> None:
    received = receive(mode="0604")
    received.sink.open()
    assert os.listdir(received.path) == [PARTIAL_DIRECTORY]
    with capture_logs() as logs:
        received.write(run(SENT, 0, 0, 5), run(SENT, 0, 8, 3), news=(SENT, OTHER))
        received.write(*whole(OTHER), run(SENT, 1))
    assert (received.path / "images/0.img").read_bytes() == SENT.data
    assert (received.path / "images/1.img").read_bytes() == OTHER.data
    assert (received.path / "images/0.img").stat().st_mode & 0o777 == 0o604
    named = {"path": str(received.path), "event": "object.landed", "log_level": "info"}
    assert sorted(logs, key=lambda each: str(each["object"])) == [
        {**named, "object": "images/0.img", "length": 250},
        {**named, "object": "images/1.img", "length": 100},
    ]
    status = received.sink.status()
    assert status.counters.written == received.given
    assert status.counters.written_bytes == 350
    assert (status.error, received.sink.problem) == (None, "")
    objects = status.objects
    assert objects is not None
    assert objects.states == {"landed": 2}
    assert (objects.total_bytes, objects.present_bytes) == (350, 350)
    assert (objects.source, objects.repair, objects.restored) == (20, 3, 3)


def test_what_is_being_received_is_shown_latest_first(receive: Callable[..., Received]) -> None:
    received = receive()
    received.write(run(SENT, 0), run(OTHER, 0, 0, 3), run(SENT, 1, 0, 1), run(SENT, 1, 0, 1))
    received.time.monotonic += 18
    objects = received.sink.status().objects
    assert objects is not None
    shown = [
        (one.name, one.state, one.length, round(one.percent), one.blocks_done, one.blocks, one.seconds_left)
        for one in objects.receiving
    ]
    assert shown == [
        ("images/0.img", "receiving", 250, 56, 1, 2, 14),
        ("images/1.img", "receiving", 100, 43, 0, 1, 24),
    ]
    assert (objects.total_bytes, objects.present_bytes) == (350, 140 + 42)  # 14 of 25 symbols, 3 of 7
    assert (objects.duplicate, objects.surplus, objects.unrepaired) == (1, 0, "")
    assert (objects.loss_percent, objects.short_blocks) == (0, 0)
    assert received.sink.objects is not None
    assert received.sink.objects.percent() == 100 * 12 / 23
    received.write(run(OTHER, 0, 7, 1), run(OTHER, 0, 0, 1))  # repair, and the next pass
    objects = received.sink.status().objects
    assert objects is not None
    assert (objects.loss_percent, objects.short_blocks) == (100 * 4 / 15, 1)
    assert from_json(ObjectsStatus, as_json(objects)) == objects


def test_a_refused_object_is_logged_with_its_reason(receive: Callable[..., Received]) -> None:
    received = receive(max_size=200)
    with capture_logs() as logs:
        received.write(*whole(SENT))
        received.write(*whole(SENT), *whole(OTHER))
    assert received.sink.counters.dropped == {"too-large": 32}
    (refused, landed) = logs
    assert (refused["event"], refused["reason"]) == ("object.refused", "too-large")
    assert landed["event"] == "object.landed"
    assert received.sink.status().error is None  # the others go on


def test_a_directory_that_cannot_be_used_is_tried_again(receive: Callable[..., Received]) -> None:
    received = receive()
    received.path.write_bytes(b"")
    received.sink.open()
    assert received.sink.problem
    received.write(*whole(SENT), news=(SENT,))
    assert received.sink.counters.dropped == {"io-error": 17}
    assert received.sink.deadline == received.time.monotonic + RETRY_SECONDS
    received.path.unlink()
    received.tick(RETRY_SECONDS)
    assert received.sink.problem == ""
    received.write(*whole(SENT))
    assert received.states() == {"landed": 1}


@pytest.mark.root
def test_a_directory_of_a_stranger_is_not_used(receive: Callable[..., Received], tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", 4242, 4242)
    received = receive()
    received.write(*whole(SENT))
    assert received.sink.counters.dropped == {"unsafe-path": 16}


def test_two_outputs_do_not_share_a_directory(receive: Callable[..., Received]) -> None:
    first, second = receive(), receive()
    first.sink.open()
    second.write(*whole(SENT))
    assert second.sink.counters.dropped == {"in-use": 16}
    first.sink.close()
    second.tick(RETRY_SECONDS)
    second.write(*whole(SENT))
    assert second.states() == {"landed": 1}


def test_a_full_disk_is_said_and_over_when_there_is_room(
    receive: Callable[..., Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    received = receive()
    received.write(run(SENT, 0, 0, 2))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", full)
    received.write(run(SENT, 0), run(OTHER, 0))
    assert received.sink.counters.dropped == {"no-space": 6 + 7}
    assert received.sink.status().reason == "no-space"
    objects = received.sink.status().objects
    assert objects is not None
    assert {one.trouble for one in objects.receiving} == {os.strerror(errno.ENOSPC).lower()}
    monkeypatch.undo()
    received.write(*whole(SENT), *whole(OTHER))
    assert received.sink.status().error is None
    assert received.states() == {"landed": 2}


def test_a_directory_that_was_removed_is_made_anew(receive: Callable[..., Received]) -> None:
    received = receive()
    received.sink.open()
    (received.path / PARTIAL_DIRECTORY).rmdir()
    received.path.rmdir()
    received.write(*whole(SENT))
    assert received.sink.counters.dropped == {"io-error": 16}
    assert received.sink.status().error is not None
    received.tick(RETRY_SECONDS)
    received.write(*whole(SENT))
    assert (received.path / "images/0.img").read_bytes() == SENT.data


def test_a_directory_that_is_removed_while_a_file_comes_is_made_anew(
    receive: Callable[..., Received],
) -> None:
    received = receive()
    received.write(*whole(SENT)[:-1])
    shutil.rmtree(received.path)
    received.write(whole(SENT)[-1])  # it is whole, and cannot land
    assert received.sink.status().error is not None
    received.tick(RETRY_SECONDS)
    received.write(*whole(SENT))
    assert (received.path / "images/0.img").read_bytes() == SENT.data


def test_the_place_of_partial_files_is_made_anew(receive: Callable[..., Received]) -> None:
    received = receive()
    received.sink.open()
    (received.path / PARTIAL_DIRECTORY).rmdir()
    received.write(*whole(SENT))
    received.tick(RETRY_SECONDS)
    received.write(*whole(SENT))
    assert (received.path / "images/0.img").read_bytes() == SENT.data
    assert received.sink.status().error is None


def test_a_directory_that_was_moved_is_let_go_at_a_reopen(receive: Callable[..., Received]) -> None:
    received = receive()
    received.write(*whole(SENT))
    received.sink.reopen()
    assert received.states() == {"landed": 1}  # it is as it was
    received.path.rename(received.path.with_name("moved"))
    received.sink.reopen()
    received.write(*whole(SENT))
    assert (received.path / "images/0.img").read_bytes() == SENT.data
    assert os.listdir(received.path.with_name("moved")) == ["images"]


@pytest.mark.parametrize("how", ["moved", "removed", "another"])
def test_a_directory_that_the_path_leads_to_no_more_is_let_go_by_itself(
    receive: Callable[..., Received], how: str
) -> None:
    received = receive()
    received.write(*whole(SENT))
    away = received.path.with_name("away")
    match how:
        case "moved":
            received.path.rename(away)
        case "removed":
            shutil.rmtree(received.path)
        case "another":
            received.path.rename(away)
            received.path.mkdir()
    received.tick(EXPIRE_SECONDS)
    received.write(*whole(SENT))
    assert (received.path / "images/0.img").read_bytes() == SENT.data
    assert received.states() == {"landed": 1}


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_is_on_its_way_outlives_a_shortage(
    receive: Callable[..., Received], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    received = receive()
    unsigned = SentObject(250, seed=1, signed=False, expires=2e9)
    received.write(*whole(unsigned)[:-1])
    open_file = os.open

    def short(*args: Any, **named: Any) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", short)
    received.write(run(SENT, 0, 0, 2))  # it cannot be begun
    assert received.sink.status().error is not None
    received.tick(EXPIRE_SECONDS)
    monkeypatch.setattr(os, "open", open_file)
    received.write(whole(unsigned)[-1])
    assert (received.path / "images/1.img").read_bytes() == unsigned.data


def test_work_that_takes_long_is_interrupted_and_gone_on_with(
    receive: Callable[..., Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    received = receive()
    slow = SentObject(0, seed=2), SentObject(0, seed=3)
    land = Landing.land

    def slowly(*args: Any) -> None:
        received.time.monotonic += 0.05
        land(*args)

    monkeypatch.setattr(Landing, "land", slowly)
    received.write(news=slow)
    assert received.states() == {"landed": 1, "verified": 1}
    assert received.sink.deadline <= received.time.monotonic
    received.tick()
    assert received.states() == {"landed": 2}
    assert received.sink.deadline > received.time.monotonic


def test_what_nothing_describes_any_more_is_forgotten(receive: Callable[..., Received]) -> None:
    received = receive()
    received.write(run(SENT, 0))
    received.time.wall = 2e9
    received.tick(EXPIRE_SECONDS)
    assert received.states() == {"expired": 1}
    received.write(run(SENT, 0))
    assert received.sink.counters.dropped == {"expired": 8}


def test_what_will_not_come_is_not_awaited(receive: Callable[..., Received]) -> None:
    """Of objects of one name, or of one TOI, the last is received, and what is too large never was."""
    received = receive(max_size=900)
    of_name, of_toi = SentObject(250, name=("a",)), SentObject(170, seed=1, name=("b",))
    last, large = SentObject(100, seed=1, name=("a",)), SentObject(1000, seed=2)
    received.write(run(large, 0), news=(of_name, of_toi, last, large))
    objects = received.sink.status().objects
    assert objects is not None
    assert objects.states == {"expired": 1, "waiting": 1, "refused": 1}
    assert (objects.total_bytes, objects.present_bytes) == (100, 0)


def test_what_earlier_runs_have_left_is_removed_every_hour(receive: Callable[..., Received]) -> None:
    received = receive()
    received.sink.open()
    left = received.path / PARTIAL_DIRECTORY / "5f3a"
    for _ in range(2):
        left.touch()
        os.utime(left, (5e8, 5e8))
        received.tick(SWEEP_SECONDS - 1)
        assert left.exists()
        received.tick(1)
        assert not left.exists()


def test_what_cannot_be_repaired_is_said_while_it_is_missing(receive: Callable[..., Received]) -> None:
    def decode(*_: object) -> bytes:
        raise NotInstalledError("cannot repair a block")

    received = receive(decode=decode)
    received.write(run(SENT, 0, 0, 7), run(SENT, 0, 8, 1))
    objects = received.sink.status().objects
    assert objects is not None
    assert received.sink.problem == objects.unrepaired == "cannot repair: raptorq is not installed"
    received.write(*whole(SENT))
    assert received.sink.problem == ""
    assert received.states() == {"landed": 1}


def test_of_an_output_that_there_is_no_more_nothing_is_left(receive: Callable[..., Received]) -> None:
    received = receive()
    received.write(run(SENT, 0))
    assert os.listdir(received.path / PARTIAL_DIRECTORY)
    received.sink.close(for_good=True)
    assert os.listdir(received.path) == []


def test_after_a_restart_it_goes_on(receive: Callable[..., Received]) -> None:
    first = receive()
    first.write(run(SENT, 0), *whole(OTHER))
    first.sink.close()
    again = receive()
    with capture_logs() as logs:
        again.write(run(SENT, 1), run(OTHER, 0, 0, 1))
        again.tick()
    assert again.states() == {"landed": 2}
    assert [one["event"] for one in logs if one["log_level"] != "debug"] == ["object.landed"]
    assert again.sink.counters.written_bytes == 250 - 128


# -- lines in a pipe for what has landed


def reading(pipe: Path) -> int:
    return os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)


def notices(received: Received) -> NoticesStatus:
    objects = received.sink.status().objects
    assert objects is not None
    assert objects.notices is not None
    return objects.notices


def test_a_pipe_gets_a_line_for_each_file_that_lands(
    receive: Callable[..., Received], tmp_path: Path
) -> None:
    pipe = tmp_path / "run" / "landed"
    received = receive(notify=pipe)
    received.sink.open()
    reader = reading(pipe)
    try:
        received.write(*whole(OTHER), run(SENT, 0))
        assert os.read(reader, 4096) == f"{received.path}/images/1.img\n".encode()
        received.write(run(SENT, 1))
        assert os.read(reader, 4096) == f"{received.path}/images/0.img\n".encode()
        received.sink.close()
        again = receive(notify=pipe)
        again.write(*whole(OTHER))  # it was there: nothing lands
        again.tick()
        assert again.states() == {"landed": 1}
        assert (notices(again).written, notices(again).dropped) == (0, {})
    finally:
        os.close(reader)


def test_a_newline_ends_a_line_and_is_none_of_a_name(tmp_path: Path) -> None:
    assert line_of(tmp_path / "a\nb\\n\udce9") == os.fsencode(tmp_path) + b"/a\\nb\\\\n\xe9\n"


def test_lines_without_a_reader_are_counted_and_said_once(
    receive: Callable[..., Received], tmp_path: Path
) -> None:
    received = receive(notify=tmp_path / "landed")
    with capture_logs() as logs:
        received.write(*whole(OTHER), *whole(SENT))
    assert received.states() == {"landed": 2}
    told = notices(received)
    assert told.dropped == {"no-reader": 2}
    assert (told.written, told.path) == (0, str(tmp_path / "landed"))
    assert [one["reason"] for one in logs if one["event"] == "output.failed"] == ["no-reader"]
    assert (received.sink.problem, received.sink.counters.dropped) == ("", {})
    objects = received.sink.status().objects
    assert objects is not None
    assert from_json(ObjectsStatus, as_json(objects)) == objects


def test_what_was_counted_of_lines_and_symbols_goes_on_with_another_output(
    receive: Callable[..., Received], tmp_path: Path
) -> None:
    received = receive(notify=tmp_path / "landed")
    received.write(*whole(OTHER), *whole(SENT))
    received.sink.close()
    other = receive(notify=tmp_path / "landed", mode="0604")
    other.sink.go_on_from(received.sink)
    assert (notices(other).written, notices(other).dropped) == (0, {"no-reader": 2})
    before, after = received.sink.objects, other.sink.objects
    assert before is not None
    assert after is not None
    assert after.symbols == before.symbols
    assert after.symbols.source
    assert other.sink.counters == received.sink.counters
    assert after.notices is not None
    assert after.notices.counters.dropped == {"no-reader": 2}
    assert after.tree is None


def test_a_slow_reader_holds_up_nothing(receive: Callable[..., Received], tmp_path: Path) -> None:
    pipe = tmp_path / "landed"
    received = receive(notify=pipe)
    received.sink.open()
    reader = reading(pipe)
    try:
        received.sink.open()  # this gives the pipe its size
        room = fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        os.write(writer, b"." * (room - 1))
        os.close(writer)
        received.write(*whole(OTHER), *whole(SENT))
        assert received.states() == {"landed": 2}
        assert (notices(received).queued, notices(received).dropped) == (2, {})
        assert received.sink.pending or received.sink.deadline < math.inf
        assert os.read(reader, room) == b"." * (room - 1)
        received.sink.flush()
        lines = [f"{received.path}/images/{number}.img" for number in (1, 0)]
        assert os.read(reader, 4096).decode().splitlines() == lines
        assert received.sink.pending is None
    finally:
        os.close(reader)


def test_what_is_no_pipe_gets_no_line_and_is_a_problem(
    receive: Callable[..., Received], tmp_path: Path
) -> None:
    (tmp_path / "landed").write_bytes(b"")
    received = receive(notify=tmp_path / "landed")
    received.write(*whole(OTHER))
    assert received.states() == {"landed": 1}
    assert "it is not a FIFO but a regular file" in str(received.sink.status().objects)
    assert received.sink.problem.startswith(f"cannot write to {tmp_path}/landed")
    (tmp_path / "landed").unlink()
    received.sink.reopen()
    assert (tmp_path / "landed").is_fifo()
    assert received.sink.problem == ""


# -- in a subscription


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INBOUND_PROTOCOLS.models, "objects", ObjectsSettings)
    monkeypatch.setitem(PROTOCOLS, "objects", Objects)
    monkeypatch.setattr(Objects, "SENT", {sent.description.toi: sent for sent in (SENT, OTHER)})


def landed(running: Running) -> int:
    (status,) = running.worker.status().outputs
    return 0 if status.objects is None else status.objects.states.get("landed", 0)


def test_a_subscription_receives_files(
    objects: None, make_run: Callable[..., Running], tmp_path: Path
) -> None:
    output = {"kind": "directory", "path": tmp_path / "out"}
    running = make_run(output, protocol="objects")
    link = running.start()
    link.deliver(bytes([SENT.description.toi]), b"\xff?", *(datagram(SENT, 0, esi) for esi in range(8)))
    running.context.send(Signal.REOPEN)
    link.deliver(*(datagram(SENT, 1, esi) for esi in range(8)))
    wait_for((tmp_path / "out/images/0.img").exists)
    counters = running.worker.counters
    wait_for(lambda: counters.received == 18)
    (sink,) = running.worker.sinks
    wait_for(lambda: sink.counters.written == 17)
    assert counters.dropped == {"unknown": 1}
    wait_for(lambda: landed(running) == 1)
    vitals = running.worker.vitals()
    assert (vitals.files, vitals.files_percent) == (1, None)


def test_counts_go_on_when_settings_of_an_output_change(
    objects: None, make_run: Callable[..., Running], tmp_path: Path
) -> None:
    output = {"kind": "directory", "path": tmp_path / "out"}
    running = make_run(output, protocol="objects")
    link = running.start()
    link.deliver(bytes([SENT.description.toi]), *(datagram(SENT, 0, esi) for esi in range(8)))
    (sink,) = running.worker.sinks
    wait_for(lambda: sink.counters.written == 9)
    changed = InboundSubscription(
        group="239.255.1.2", port=9190, protocol="objects", output=[{**output, "mode": "0600"}]
    )
    assert running.worker.update(changed)
    running.context.send(Signal.NETWORK)
    wait_for(lambda: running.worker.sinks != (sink,))
    link.deliver(*(datagram(SENT, 1, esi) for esi in range(8)))
    (sink,) = running.worker.sinks
    wait_for(lambda: sink.counters.written == 17)
    assert sink.objects is not None
    assert sink.objects.symbols.source == 16


# -- in the configuration


HEAD = '[inbound.images]\ngroup = "239.255.1.2"\nport = 9190\n'


def loaded(text: str, directory: Path) -> InboundSubscription:
    (directory / "mcastd.toml").write_text(HEAD + text)
    return load(directory / "mcastd.toml").inbound["images"]


def test_files_need_a_protocol_that_gives_them(objects: None, tmp_path: Path) -> None:
    directory = 'output = { kind = "directory", path = "/srv/images/", max_size = "20GiB", mode = "0640" }\n'
    (output,) = loaded(f'protocol = "objects"\n{directory}', tmp_path).output
    assert output == DirectoryOutput(path="/srv/images", max_size=20 << 30, mode=0o640)
    for text, words in (
        (directory, '"directory" takes files, and protocol "raw" gives none; set protocol to "'),
        (
            'protocol = "objects"\noutput = "/x"\n',
            'protocol "objects" gives files, which "file" does not take',
        ),
        ('protocol = "objects"\noutput = { kind = "fifo", path = "/x" }\n', 'have kind = "directory"'),
        ('output = { kind = "directory", path = "srv" }\n', 'must be an absolute path, not "srv"'),
        ('output = { kind = "directory", path = "/" }\n', "must be an absolute path"),
        ('output = { kind = "directory", path = "/srv/.." }\n', "names a directory"),
        ('output = { kind = "directory", path = "/srv", atomic = "both" }\n', '"file" or "tree"'),
        (
            'protocol = "flute"\noutput = { kind = "directory", path = "/srv", atomic = "tree" }\n',
            'atomic = "tree" needs a manifest, which says what belongs to the tree: let protocol have'
            ' "verify_keys" or "keys"',
        ),
        ('output = { kind = "directory", path = "/srv", format = "json" }\n', "belongs into the table"),
    ):
        with pytest.raises(ConfigError) as refused:
            loaded(text, tmp_path)
        assert words in str(refused.value)


def test_a_pipe_for_lines_is_no_other_output_and_not_among_the_files(objects: None, tmp_path: Path) -> None:
    table = 'output = {{ kind = "directory", path = "/srv/images", notify = "{}" }}\n'
    files = 'protocol = "objects"\n' + table
    assert loaded(files.format("/run/landed"), tmp_path).output[0].named == {"path": "/srv/images"}
    for path, words in (
        ("/srv/images", '"/srv/images" is already an output of inbound/images'),
        ("/srv/images/landed", '"/srv/images/landed" is in "/srv/images"'),
        ("landed", "must be an absolute path"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)) as refused:
            loaded(files.format(path), tmp_path)
        assert "output.notify" in str(refused.value)


def test_nothing_else_is_written_in_a_directory_of_files(objects: None, tmp_path: Path) -> None:
    files = 'protocol = "objects"\noutput = { kind = "directory", path = "/srv/images" }\n'
    for path, words in (
        ("/srv/images", '"/srv/images" is already an output of inbound/images'),
        (
            "/srv/images/a/n.log",
            '"/srv/images/a/n.log" is in "/srv/images", where inbound/images receives files',
        ),
        ("/srv/a/../images/n.log", '"/srv/images/n.log" is in "/srv/images"'),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)) as refused:
            loaded(
                f'{files}[inbound.news]\ngroup = "239.255.1.3"\nport = 9190\noutput = "{path}"\n', tmp_path
            )
        assert "inbound.news.output" in str(refused.value)
    loaded(
        f'{files}[inbound.news]\ngroup = "239.255.1.3"\nport = 9190\noutput = "/srv/images.log"\n', tmp_path
    )
