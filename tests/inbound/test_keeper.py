"""Captures on loss: when there is one, what is in it, where it goes, and what a disk that fails does."""

from __future__ import annotations

import math
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.programs import program

from mcastd import log
from mcastd.config import KeepBefore
from mcastd.inbound import capture_file, keeper
from mcastd.inbound.keeper import RETRY_SECONDS, Keeper, Loss, Losses
from mcastd.inbound.sinks.format import StreamFacts
from mcastd.net.legs import LegBatch
from mcastd.net.link import ListBatch, Origin
from mcastd.protocols.capture_reading import ALL, CaptureReader

ETH = Origin("192.0.2.1", 5000, 2, 64)
WALL = 1_764_177_485.25  # 2025-11-26T17:18:05.250Z
NAME = "tv-20251126T171805.250Z.pcapng"


def recorded(path: Path) -> list[Any]:
    """The datagrams of a capture: time, payload, address and port that they went to."""
    return [*CaptureReader(ALL, Counter()).feed(path.read_bytes())]


class Bench:
    """A keeper with clocks of the test, whose captures are waited for."""

    def __init__(self, directory: Path, **keys: object) -> None:
        self.now = 100.0
        self.losses = Losses()
        self.said: list[str] = []
        self.explained: list[Loss] = []
        self.destinations = [("239.255.1.2", 9190)]
        stream = StreamFacts(lambda: "", lambda number: f"eth{number}", worker="inbound/tv")
        settings = {"time": "10s", "directory": directory, **keys}
        self.keeper = Keeper(
            KeepBefore.model_validate(settings),
            stream,
            log.get_logger(),
            lambda: self.losses,
            lambda: self.destinations,
            explain=self._explain,
            now=lambda: self.now,
            wall=lambda: WALL + self.now - 100.0,
        )

    def _explain(self, loss: Loss) -> list[str]:
        self.explained.append(loss)
        return self.said

    def come(self, *payloads: bytes) -> None:
        time = int(1e9 * (WALL + self.now - 100.0))
        batch = ListBatch(payloads, [ETH] * len(payloads), [time] * len(payloads))
        self.keeper.add(batch, self.now)

    def lose(self, **losses: Any) -> None:
        self.losses = self.losses._replace(**losses)
        self.keeper.look(self.now)

    def go_to(self, now: float) -> None:
        """Let time pass, with each alarm at its time; what is written meanwhile is waited for."""
        while (deadline := max(self.keeper.deadline, self.now)) <= now:
            self.now = deadline
            self.keeper.tick(self.now)
            if (job := self.keeper._job) is not None:
                job.result.exception(30)
        self.now = now

    @property
    def captures(self) -> list[str]:
        return sorted(path.name for path in self.keeper._directory.iterdir())

    def payloads(self, name: str = NAME) -> list[str]:
        return [bytes(payload).decode() for _, payload, *_ in recorded(self.keeper._directory / name)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bench]:
    return lambda **keys: Bench(tmp_path / "captures", **keys)


def test_a_loss_becomes_a_capture_a_moment_later_of_before_and_after(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.come(b"too old")
    bench.go_to(108.0)
    bench.come(b"before", b"again")
    bench.go_to(111.5)
    bench.lose(lost=3)
    bench.come(b"then")
    bench.go_to(112.0)
    bench.come(b"after")
    assert bench.captures == []
    bench.go_to(113.0)
    name = "tv-20251126T171816.750Z.pcapng"
    assert bench.captures == [name], "named by when it was noticed"
    assert bench.payloads(name) == ["before", "again", "then", "after"]
    status = bench.keeper.status()
    assert (status.captures, status.failed, status.datagrams) == (1, 0, 4)
    assert status.memory_bytes == bench.keeper._recent.memory > 100
    assert status.last_capture == str(bench.keeper._directory / name)
    assert status.last_reasons == ("network-loss",)
    assert status.last_capture_age == pytest.approx(0.25, abs=0.26)


@pytest.mark.parametrize(
    ("losses", "reasons", "words"),
    [
        ({"lost": 3}, ("network-loss",), "3 numbers did not come: the network lost them"),
        ({"overflow": 12}, ("overflow",), "the kernel dropped 12 at a full receive buffer"),
        ({"stale": True}, ("silence",), "nothing came for longer than expect_every"),
        (
            {"lost": 4, "overflow": 13},
            ("network-loss", "overflow"),
            "4 numbers did not come: the network lost them; the kernel dropped 13 at a full receive buffer",
        ),
    ],
)
def test_its_comment_says_why_and_what_the_doctor_says(
    make: Callable[..., Bench], losses: dict[str, Any], reasons: tuple[str, ...], words: str
) -> None:
    bench = make()
    bench.said = ["overflow-now (broken): it loses datagrams", "  fix: a larger buffer — größer"]
    bench.come(b"1", b"2")
    bench.go_to(102.5)
    bench.come(b"3")
    bench.lose(**losses)
    bench.go_to(105.0)
    (name,) = bench.captures
    assert bench.keeper.status().last_reasons == reasons
    command = [program("capinfos"), "-k", str(bench.keeper._directory / name)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    for line in (
        "has kept this of inbound/tv, 239.255.1.2 port 9190: 3 datagrams of 2.5 s",
        f"noticed at 2025-11-26T17:18:07.750+00:00: {words}",
        *bench.said,
    ):
        assert line in shown


def test_where_the_kernel_dropped_the_packet_after_it_says_so(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.losses = Losses(overflow=5)  # before anything was kept
    bench.come(b"1")
    bench.losses = Losses(overflow=18)
    bench.come(b"2", b"3")
    bench.go_to(102.0)
    data = (bench.keeper._directory / NAME).read_bytes()
    said = [b"the kernel dropped %d before this" % number for number in (5, 13, 18)]
    assert [data.count(one) for one in said] == [0, 1, 0]
    assert data.index(b"1") < data.index(said[1])


def test_what_is_lost_soon_after_a_capture_is_in_the_next_one(make: Callable[..., Bench]) -> None:
    bench = make()
    for tenth in range(400):
        bench.go_to(100.0 + tenth / 10)
        bench.come(b"%d" % tenth)
        if tenth in {20, 50, 60}:
            bench.lose(lost=tenth)
    first, second = bench.captures
    assert [*map(int, bench.payloads(first))] == [*range(30)]
    assert {50, 60} < {*map(int, bench.payloads(second))}
    assert [(loss.before.lost, loss.after.lost) for loss in bench.explained] == [(0, 20), (20, 60)]
    assert bench.keeper.status().captures == 2, "no capture without another loss"


def test_after_a_silence_nothing_is_waited_for_and_its_end_is_no_loss(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.come(b"last words")
    bench.go_to(160.0)
    bench.lose(stale=True)
    bench.go_to(160.1)
    bench.lose(stale=False)
    bench.go_to(300.0)
    (name,) = bench.captures
    assert bench.payloads(name) == ["last words"], "however long the silence is"


def test_a_silence_before_anything_came_makes_no_capture(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.lose(stale=True)
    bench.go_to(200.0)
    assert (bench.captures, bench.keeper.status().captures, bench.keeper.status().failed) == ([], 0, 0)


def test_only_so_many_captures_of_a_subscription_stay(make: Callable[..., Bench], tmp_path: Path) -> None:
    directory = tmp_path / "captures"
    directory.mkdir()
    others = ["tv.x-20251126T171805.250Z.pcapng", "tv-2025.pcapng", "other", f"{NAME}.gz"]
    left = f".{NAME}.0123456789ab"
    for name in (*others, left, NAME, "tv-20241126T171805.250Z.pcapng"):
        (directory / name).touch()
    bench = make(files=2, time="1s")
    bench.go_to(101.0)
    assert bench.captures == sorted([*others, NAME, "tv-20241126T171805.250Z.pcapng"]), "no unfinished one"
    for number in range(1, 4):
        bench.go_to(100.0 + 10 * number)
        bench.come(b"x")
        bench.lose(lost=number)
    bench.go_to(140.0)
    newest = ["tv-20251126T171825.250Z.pcapng", "tv-20251126T171835.250Z.pcapng"]
    assert bench.captures == sorted([*others, *newest])
    assert (directory / newest[0]).stat().st_mode & 0o777 == 0o640


def test_a_capture_stays_though_those_before_it_are_of_a_clock_that_was_ahead(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    ahead = ["tv-20991126T171805.250Z.pcapng", "tv-20991126T171905.250Z.pcapng"]
    (tmp_path / "captures").mkdir()
    for name in ahead:
        (tmp_path / "captures" / name).touch()
    bench = make(files=2)
    bench.go_to(101.0)
    bench.come(b"x")
    bench.lose(lost=1)
    bench.go_to(120.0)
    last = bench.keeper.status().last_capture
    assert last is not None
    assert bench.captures == sorted([Path(last).name, ahead[1]])


def test_a_directory_that_cannot_be_used_is_said_before_there_is_a_loss_and_tried_again(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    (tmp_path / "captures").write_text("in the way")
    bench = make()
    bench.go_to(101.0)
    problem = f"cannot write captures to {tmp_path}/captures: not a directory"
    assert bench.keeper.problem == problem
    bench.come(b"1")
    bench.lose(lost=1)
    bench.go_to(103.0)
    status = bench.keeper.status()
    assert (status.captures, status.failed, status.error) == (0, 1, problem)
    (tmp_path / "captures").unlink()
    bench.go_to(103.0 + RETRY_SECONDS)
    assert bench.keeper.problem == ""
    bench.come(b"2")
    bench.lose(lost=2)
    bench.go_to(bench.now + 10)  # none is made sooner after another loss than `time` says
    assert (bench.keeper.status().captures, len(bench.captures)) == (1, 1)


def test_a_full_disk_leaves_no_part_of_a_capture(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.go_to(101.0)

    def full(*_: object) -> Iterator[bytes]:
        yield b"part"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(capture_file, "_blocks", full)
    bench.come(b"1")
    bench.lose(overflow=1)
    bench.go_to(103.0)
    assert (bench.captures, bench.keeper.status().failed) == ([], 1)
    assert bench.keeper.problem.endswith("/captures: no space left on device")


def test_a_disk_that_hangs_holds_up_nobody(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.go_to(101.0)
    go_on, write = threading.Event(), keeper.write

    def hang(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return write(*arguments)

    monkeypatch.setattr(keeper, "write", hang)
    bench.come(b"1")
    bench.lose(lost=1)
    for tenth in range(150):  # the loss, and another after ten seconds
        bench.now = 101.0 + tenth / 10
        bench.keeper.tick(bench.now)
        bench.come(b"%d" % tenth)
        if tenth == 105:
            bench.lose(lost=2)
        if tenth == 60:
            assert bench.keeper.problem.endswith("the disk or mount does not answer")
    assert bench.keeper.problem.endswith("the disk or mount does not answer")
    assert bench.keeper.deadline > bench.now, "and it does not spin"
    assert (bench.keeper.status().captures, bench.keeper.status().failed) == (0, 1)
    go_on.set()
    bench.go_to(130.0)
    assert (bench.keeper.status().captures, bench.keeper.problem) == (1, "")
    assert "1" in bench.payloads(bench.captures[0])


def test_an_error_in_the_program_costs_a_capture_and_nothing_else(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.go_to(101.0)
    monkeypatch.setattr(bench, "said", [3])
    bench.come(b"1")
    bench.lose(lost=1)
    bench.go_to(103.0)
    assert "it failed: TypeError" in bench.keeper.problem
    assert bench.keeper.status().failed == 1


def test_where_no_thread_is_to_be_had_it_is_said(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise OSError(11, "no more threads")

    bench = make()
    bench.come(b"1")
    monkeypatch.setattr(keeper, "begin", refuse)
    bench.lose(lost=1)
    bench.keeper.tick(102.0)
    assert bench.keeper.problem.endswith("no more threads")
    assert bench.keeper.status().failed == 1
    assert math.isfinite(bench.keeper.deadline)


def test_the_end_writes_what_is_due_and_waits_for_it(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.come(b"1")
    bench.losses = Losses(lost=9)  # found when the last is delivered
    bench.keeper.close()
    assert bench.payloads() == ["1"]
    assert bench.keeper.status().captures == 1


def test_another_stream_begins_with_nothing_and_what_was_due_is_of_the_one_before(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.come(b"1")
    bench.lose(lost=1)
    bench.keeper.end_stream()
    bench.destinations = [("239.255.1.3", 9191)]
    bench.come(b"2")
    bench.go_to(101.0)
    ((_, payload, address, port),) = recorded(bench.keeper._directory / NAME)
    assert (payload, address, port) == (b"1", ip_address("239.255.1.2").packed, 9190)
    assert bench.keeper.status().datagrams == 1


def test_what_came_by_another_leg_was_sent_where_that_is(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.destinations.append(("239.255.2.2", 9292))
    bench.keeper.add(LegBatch(ListBatch([b"by the second"], [ETH], [7]), 1), bench.now)
    bench.keeper.add(LegBatch(ListBatch([b"by the first"], [ETH], [9]), 0), bench.now)
    bench.lose(lost=1)
    bench.go_to(102.0)
    assert [
        (payload, address, port) for _, payload, address, port in recorded(bench.keeper._directory / NAME)
    ] == [
        (b"by the second", ip_address("239.255.2.2").packed, 9292),
        (b"by the first", ip_address("239.255.1.2").packed, 9190),
    ]
    data = (bench.keeper._directory / NAME).read_bytes()
    assert b"of inbound/tv, 239.255.1.2 port 9190 and 239.255.2.2 port 9292: 2 datagrams" in data


def test_other_settings_hold_at_once(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make()
    bench.come(b"1")
    bench.go_to(105.0)
    bench.come(b"2")
    bench.keeper.change(KeepBefore(time=1.0, directory=tmp_path / "other"))
    bench.lose(lost=1)
    bench.go_to(107.0)
    (name,) = os.listdir(tmp_path / "other")
    assert bench.payloads(name) == ["2"]


def test_the_state_directory_has_the_captures_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/mcastd/instance:/x")
    assert capture_file.directory_of(None) == Path("/var/lib/mcastd/instance/captures")
    assert capture_file.directory_of(Path("/srv/c")) == Path("/srv/c")
