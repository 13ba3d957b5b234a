"""The newest serial of each signer and channel: kept over restarts, and over whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcastd.delivery import serials
from mcastd.delivery.serials import Serials, SerialsExhaustedError, StateError
from mcastd.keytext import GroupKey, VerifyingKey
from mcastd.protocols.manifest import Seen

SIGNER, OTHER = VerifyingKey(bytes(range(32))), VerifyingKey(bytes(range(1, 33)))
GROUP = GroupKey(SIGNER.value)


def seen(serial: int, mark: int = 1) -> Seen:
    return Seen(serial, bytes((mark,)) * 32)


class Kept:
    """Serials in a directory, and what they tell."""

    def __init__(self, directory: Path) -> None:
        self.told: list[StateError] = []
        self.serials = Serials(directory, self.told.append)

    def take_reasons(self) -> list[str]:
        reasons = [error.reason for error in self.told]
        assert all(str(error).isprintable() for error in self.told)
        self.told.clear()
        return reasons


def test_what_was_taken_is_known_after_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "mcastd"
    before = Kept(directory)
    assert before.serials.newest([SIGNER], "images") is None
    before.serials.keep(SIGNER, "images", seen(41))
    before.serials.keep(SIGNER, "images", seen(43, 2))
    before.serials.keep(OTHER, "images", seen(7))
    before.serials.keep(SIGNER, "backups", seen(2**64 - 1, 3))
    before.serials.keep(GROUP, "images", seen(5, 4))
    after = Kept(directory)
    for kept in (before, after):
        assert kept.serials.newest([SIGNER], "images") == seen(43, 2)
        assert kept.serials.newest([OTHER], "images") == seen(7)
        assert kept.serials.newest([SIGNER], "backups") == seen(2**64 - 1, 3)
        assert kept.serials.newest([GROUP], "images") == seen(5, 4)
        assert kept.told == []
    assert len(list(directory.iterdir())) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_of_several_signers_the_newest_counts(tmp_path: Path) -> None:
    kept = Kept(tmp_path).serials
    kept.keep(SIGNER, "images", seen(41, 9))
    kept.keep(OTHER, "images", seen(43, 2))
    for one in (kept, Kept(tmp_path).serials):
        assert one.newest([SIGNER, OTHER], "images") == one.newest([OTHER, SIGNER], "images") == seen(43, 2)
        assert one.newest([SIGNER], "images") == seen(41, 9)  # who is not trusted any more does not count
        assert one.newest([], "images") is None


def test_two_workers_of_one_channel_keep_the_newest(tmp_path: Path) -> None:
    first, second = Kept(tmp_path).serials, Kept(tmp_path).serials
    assert first.newest([SIGNER], "images") is second.newest([SIGNER], "images") is None
    first.keep(SIGNER, "images", seen(42))
    second.keep(SIGNER, "images", seen(41, 9))
    assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(42)
    second.keep(SIGNER, "images", seen(43, 8))
    assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(43, 8)


def test_an_older_serial_changes_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.serials.keep(SIGNER, "images", seen(41))
    kept.serials.keep(SIGNER, "images", seen(40, 9))
    for one in (kept, Kept(tmp_path)):
        assert one.serials.newest([SIGNER], "images") == seen(41)


def test_the_same_one_again_is_not_written_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.serials.keep(SIGNER, "images", seen(41))
    (path,) = tmp_path.iterdir()
    inode = path.stat().st_ino
    kept.serials.keep(SIGNER, "images", seen(41))
    assert path.stat().st_ino == inode
    kept.serials.keep(SIGNER, "images", seen(42))
    assert path.stat().st_ino != inode


# -- state that is broken


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"mcastd-serial 1 41 " + b"01" * 32,  # the end of the line is missing: it was cut
        b"mcastd-serial 1 41 " + b"01" * 31 + b"\n",
        b"mcastd-serial 2 41 " + b"01" * 32 + b"\n",
        b"mcastd-serial 1 -1 " + b"01" * 32 + b"\n",
        b"mcastd-serial 1 18446744073709551616 " + b"01" * 32 + b"\n",
        b"mcastd-serial 1 41 " + b"01" * 32 + b"\n\n",
        b"mcastd-serial 1 41 " + b"01" * 32 + b"\nmcastd-serial 1 42 " + b"01" * 32 + b"\n",
    ],
    ids=lambda _content: "",
)
def test_state_that_makes_no_sense_is_told_once_and_written_anew(tmp_path: Path, content: bytes) -> None:
    Kept(tmp_path).serials.keep(SIGNER, "images", seen(41))
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    kept = Kept(tmp_path)
    assert kept.serials.newest([SIGNER], "images") is None
    assert kept.serials.newest([SIGNER], "images") is None
    assert kept.take_reasons() == ["corrupt"]
    kept.serials.keep(SIGNER, "images", seen(44))
    assert kept.told == []
    assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(44)


@given(st.binary(max_size=120) | st.from_regex(rb"\Amcastd-serial 1 [0-9]{1,21} [0-9a-f]{63,65}\n?\Z"))
@example(b"mcastd-serial 1 41 " + b"01" * 32 + b"\n")
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_state_is_read_or_told(tmp_path: Path, content: bytes) -> None:
    kept = Kept(tmp_path)
    kept.serials._path(SIGNER, "images").write_bytes(content)
    found = kept.serials.newest([SIGNER], "images")
    assert kept.take_reasons() == ([] if found else ["corrupt"])
    if found:
        assert 0 <= found.serial < 2**64
        assert len(found.digest) == 32


def test_a_disk_that_takes_nothing_is_told_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    kept = Kept(tmp_path)
    kept.serials.keep(SIGNER, "images", seen(41))

    def fail(_path: Path, _line: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(serials, "_replace", fail)
        for serial in (42, 43, 43):
            kept.serials.keep(SIGNER, "images", seen(serial))
        (error,) = kept.told
        assert (error.reason, error.errno) == ("unwritable", errno.EROFS)
        assert "cannot keep the newest serial in " in str(error)
        assert kept.take_reasons() == ["unwritable"]
        assert kept.serials.newest([SIGNER], "images") == seen(43)
        assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(41)
    kept.serials.keep(SIGNER, "images", seen(43))  # the carousel brings it again
    assert kept.told == []
    assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(43)
    with monkeypatch.context() as patch:
        patch.setattr(serials, "_replace", fail)
        kept.serials.keep(SIGNER, "images", seen(44))
    assert kept.take_reasons() == ["unwritable"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_what_is_half_written_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    kept = Kept(tmp_path)
    kept.serials.keep(SIGNER, "images", seen(41))

    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        kept.serials.keep(SIGNER, "images", seen(42))
    assert kept.take_reasons() == ["unwritable"]
    assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(41)
    kept.serials.keep(SIGNER, "images", seen(43))
    assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(43)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM])
def test_what_cannot_be_read_for_a_shortage_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    Kept(tmp_path).serials.keep(SIGNER, "images", seen(43))
    kept = Kept(tmp_path)

    def short(*_: object, **named: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", short)
    assert kept.serials.newest([SIGNER], "images") is None
    kept.serials.keep(SIGNER, "images", seen(41, 2))  # an old one, which is replayed
    assert kept.take_reasons() == ["unreadable", "unwritable"]
    monkeypatch.undo()
    assert kept.serials.newest([SIGNER], "images") == seen(43)
    assert Kept(tmp_path).serials.newest([SIGNER], "images") == seen(43)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    path = kept.serials._path(SIGNER, "images")
    path.mkdir()
    assert kept.serials.newest([SIGNER], "images") is None
    assert kept.take_reasons() == ["unreadable"]
    kept.serials.keep(SIGNER, "images", seen(41))
    assert kept.take_reasons() == ["unwritable"]
    kept.serials.keep(SIGNER, "images", seen(42))
    assert kept.take_reasons() == []
    assert kept.serials.newest([SIGNER], "images") == seen(42)


def test_systemd_says_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert serials.state_directory() == Path("/var/lib/mcastd")
    for told, directory in (("/var/lib/mcastd/a", "/var/lib/mcastd/a"), ("/x:/y", "/x")):
        monkeypatch.setenv("STATE_DIRECTORY", told)
        assert serials.state_directory() == Path(directory)


# -- the serial of the next manifest


def test_serials_rise_with_the_time_and_when_it_steps_back(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    now = 1_790_000_000_000_000_000
    first = kept.serials.next(SIGNER, "images", now)
    assert first == now
    kept.serials.keep(SIGNER, "images", seen(first))
    again = Kept(tmp_path).serials
    assert again.next(SIGNER, "images", now) == now + 1
    assert again.next(SIGNER, "images", now - 3_600_000_000_000) == now + 1
    assert again.next(SIGNER, "images", now + 5) == now + 5
    assert again.next(SIGNER, "backups", now - 9) == now - 9
    assert again.next(SIGNER, "images", 0) == now + 1


def test_the_last_serial_is_used_and_none_after_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.serials.keep(SIGNER, "images", seen(2**64 - 2))
    last = kept.serials.next(SIGNER, "images", 5)
    assert last == 2**64 - 1
    kept.serials.keep(SIGNER, "images", seen(last))
    with pytest.raises(SerialsExhaustedError, match="make another signing pair"):
        kept.serials.next(SIGNER, "images", 5)
