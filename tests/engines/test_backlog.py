"""What waits, in memory and in the spool, and what goes where there is no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mcastd.engines import backlog as backlogs
from mcastd.engines import segments
from mcastd.engines.backlog import MESSAGE_OVERHEAD_BYTES, Backlog, BacklogBounds
from mcastd.engines.segments import Segments

SIZE = 72
ROOM = 10 * (SIZE + MESSAGE_OVERHEAD_BYTES)  # for ten messages


def add(backlog: Backlog, count: int) -> tuple[list[int], int]:
    numbers = backlog.number(count)
    return numbers, backlog.add([(number, bytes(SIZE)) for number in numbers])


def taken(backlog: Backlog) -> list[int]:
    found = []
    while messages := backlog.take():
        found += [number for number, _ in messages]
    return found


@pytest.mark.parametrize("drop_oldest", [True, False])
def test_memory_alone(drop_oldest: bool) -> None:
    backlog = Backlog(BacklogBounds(ROOM, 0, drop_oldest), None, 7)
    assert (backlog.first, backlog.taken_up, backlog.spool_bytes) == (7, 0, 0)
    numbers, dropped = add(backlog, 14)
    assert (numbers, dropped, backlog.waiting) == ([*range(7, 21)], 4, 10)
    assert taken(backlog) == (numbers[4:] if drop_oldest else numbers[:10])
    assert backlog.waiting == 0
    backlog.forget(20)
    add(backlog, 3)
    assert backlog.close() == 3


@pytest.mark.parametrize("drop_oldest", [True, False])
def test_a_spool_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drop_oldest: bool) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 5 * (SIZE + 12))
    bounds = BacklogBounds(ROOM, 25 * (SIZE + 12), drop_oldest)
    backlog = Backlog(bounds, Segments(tmp_path / "spool"), 0)
    numbers, lost = [], 0
    for _ in range(8):
        more, dropped = add(backlog, 5)
        numbers, lost = numbers + more, lost + dropped
    found = taken(backlog)
    assert lost == 40 - len(found) > 0
    assert found == (numbers[-len(found) :] if drop_oldest else numbers[: len(found)])
    assert backlog.spool_bytes <= bounds.spool
    assert backlog.close() == 0


def test_a_disk_that_fails_and_is_well_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Segments(tmp_path / "spool")
    backlog = Backlog(BacklogBounds(ROOM, 1 << 20, drop_oldest=True), spool, 0)
    numbers, _ = add(backlog, 4)
    now = [100.0]
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now[0])

    def fails(_: object) -> None:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(spool, "append", fails)
    more, dropped = add(backlog, 12)
    assert (dropped, backlog.waiting) == (2, 14)
    assert backlog.trouble is not None
    assert backlog.trouble.errno == errno.EIO
    monkeypatch.undo()
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now[0])
    assert backlog.add([]) == 0
    assert backlog.trouble is not None, "it is not tried again at once"
    now[0] += 1.0
    backlog.add([])
    assert backlog.trouble is None
    assert taken(backlog) == numbers + more[2:]
    assert backlog.close() == 0


def test_what_others_have_removed_is_counted_and_the_rest_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 5 * (SIZE + 12))
    monkeypatch.setattr(backlogs, "RETRY_SECONDS", 0.0)
    backlog = Backlog(BacklogBounds(ROOM, 1 << 20, False), Segments(tmp_path / "spool"), 0)
    numbers = [number for _ in range(4) for number in add(backlog, 5)[0]]
    first, second, _, last = sorted((tmp_path / "spool").glob("*.spool"))
    for path in (first, second, last):
        path.unlink()
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: os.open("/nowhere/at/all", os.O_RDONLY))
    assert backlog.take() == []
    assert isinstance(backlog.trouble, FileNotFoundError), "what is left cannot be cleaned away now"
    monkeypatch.setattr(Path, "unlink", unlink)
    assert backlog.take() == [(number, bytes(SIZE)) for number in numbers[10:15]]
    assert backlog.collect_gone(numbers[7]) == 5, "those that are counted, file by file"
    assert backlog.take() == []
    assert (backlog.collect_gone(0), backlog.collect_gone(0), backlog.waiting) == (5, 0, 0)
    more, _ = add(backlog, 2)
    assert taken(backlog) == more
    assert not backlog.is_kept(numbers[19])
    assert backlog.is_kept(more[0])
    backlog.close()


def test_what_the_disk_does_not_take_is_lost_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Segments(tmp_path / "spool")
    backlog = Backlog(BacklogBounds(ROOM, 1 << 20, drop_oldest=False), spool, 0)

    def fails(_: object) -> None:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(spool, "append", fails)
    add(backlog, 3)
    assert backlog.close() == 3


def test_what_an_earlier_run_left_is_given_up_uncounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 5 * (SIZE + 12))
    bounds = BacklogBounds(ROOM, 25 * (SIZE + 12), drop_oldest=True)
    before = Backlog(bounds, Segments(tmp_path / "spool"), 0)
    for _ in range(4):
        add(before, 5)
    before.close()
    backlog = Backlog(bounds, Segments(tmp_path / "spool"), 0)
    added = lost = 0
    for _ in range(8):
        numbers = backlog.number(5)
        lost += backlog.add([(number, bytes(SIZE)) for number in numbers], backlog.first)
        added += 5
    assert lost == added - len(taken(backlog)) > 0
    backlog.close()


def test_what_was_taken_and_is_on_no_disk_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 5 * (SIZE + 12))
    spool = Segments(tmp_path / "spool")
    backlog = Backlog(BacklogBounds(10 * ROOM, 1800, drop_oldest=True), spool, 0)
    first, _ = add(backlog, 5)
    assert taken(backlog) == first
    assert all(map(backlog.is_kept, first))

    def fails(_: object) -> None:
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as broken:
        broken.setattr(spool, "append", fails)
        second, _ = add(backlog, 5)
        assert taken(backlog) == second
    now = backlogs.clock.monotonic() + backlogs.RETRY_SECONDS
    monkeypatch.setattr("mcastd.clock.monotonic", lambda: now)
    third, _ = add(backlog, 5)
    assert [*map(backlog.is_kept, [*first, *second, *third])] == [True] * 5 + [False] * 5 + [True] * 5
    fourth, dropped = add(backlog, 5)
    assert dropped == 0
    assert not any(map(backlog.is_kept, first)), "their file is given up"
    backlog.forget(second[-1])
    assert all(map(backlog.is_kept, fourth))
    assert not backlog._unspooled, "what the engine has is forgotten"
    backlog.close()


def test_what_is_given_up_at_the_end_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Segments(tmp_path / "spool")
    backlog = Backlog(BacklogBounds(10 * ROOM, 5 * (SIZE + 12), drop_oldest=False), spool, 0)
    add(backlog, 3)

    def fails(_: object) -> None:
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as broken:
        broken.setattr(spool, "append", fails)
        broken.setattr(backlog, "_bounds", BacklogBounds(10 * ROOM, 1 << 20, drop_oldest=False))
        add(backlog, 4)
    assert backlog.close() == 4


def test_a_small_spool_has_room_while_the_engine_takes_all(tmp_path: Path) -> None:
    """Something is always on its way, so no file is done with while it is written to."""
    bounds = BacklogBounds(10 * ROOM, 20_000, drop_oldest=False)
    backlog = Backlog(bounds, Segments(tmp_path / "spool", bounds.spool), 0)
    before = 0
    for _ in range(200):
        numbers, dropped = add(backlog, 5)
        assert dropped == 0
        assert taken(backlog) == numbers
        backlog.forget(before)
        before = numbers[-1]
    backlog.close()
