"""The spool: what is in it outlives whoever wrote it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcastd.engines import segments
from mcastd.engines.segments import KNOWN, KeptMessage, Segments, SpoolGoneError
from mcastd.errors import SinkError


def messages(numbers: range, size: int = 3) -> list[KeptMessage]:
    return [(number, b"%d" % number + bytes(size)) for number in numbers]


def read_into(found: list[KeptMessage], spool: Segments) -> None:
    while some := spool.read():
        found += some


def all_of(spool: Segments) -> list[KeptMessage]:
    found: list[KeptMessage] = []
    read_into(found, spool)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def files(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir() if one.name != KNOWN)


def test_what_was_written_is_read_in_order_and_forgotten_by_whole_files(
    path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    spool = Segments(path)
    for begin in range(1, 41, 8):
        spool.append(messages(range(begin, begin + 8)))
    assert files(path) == [f"0000000{number}.spool" for number in range(1, 6)]
    assert spool.unread == 40
    assert spool.size == sum(one.stat().st_size for one in path.glob("*.spool"))
    assert all_of(spool) == messages(range(1, 41))
    assert (spool.unread, spool.read()) == (0, [])
    spool.forget(17)
    assert files(path) == ["00000003.spool", "00000004.spool", "00000005.spool"]
    spool.forget(40)
    assert (files(path), spool.size) == ([], 0)
    spool.append(messages(range(41, 43)))
    assert all_of(spool) == messages(range(41, 43))
    spool.close()


def test_what_is_unread_is_not_forgotten(path: Path, no_fd_leak: None) -> None:
    spool = Segments(path)
    spool.append(messages(range(1, 4)))
    spool.forget(3)
    assert spool.unread == 3
    spool.close()


def test_another_opening_goes_on_behind_what_is_known(path: Path, no_fd_leak: None) -> None:
    spool = Segments(path)
    first = spool.next
    spool.append(messages(range(first, first + 10)))
    all_of(spool)
    spool.forget(first + 3)
    spool.close()
    again = Segments(path)
    assert (again.known, again.unread) == (first + 3, 6)
    assert again.next > first + 9
    again.append(messages(range(again.next, again.next + 2)))
    assert all_of(again) == [
        *messages(range(first + 4, first + 10)),
        *messages(range(again.next, again.next + 2)),
    ]
    again.close()


def test_numbers_go_on_also_where_the_clock_was_set_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Segments(path)
    spool.close()
    monkeypatch.setattr("time.time_ns", lambda: 5)
    again = Segments(path)
    assert again.next == spool.next + segments.NUMBERS
    again.close()
    (path / KNOWN).write_bytes(b"torn")
    lost = Segments(path)
    assert (lost.known, lost.next) == (0, segments.NUMBERS)
    lost.close()


def test_numbers_go_on_behind_what_is_there_also_where_nothing_is_known_of_it(
    path: Path, no_fd_leak: None
) -> None:
    last = 2 * time.time_ns()
    spool = Segments(path)
    spool.append([(last, b"far ahead")])
    spool.close()
    (path / "known").unlink()
    again = Segments(path)
    assert again.next == last + 1
    again.close()


def test_it_has_one_user(path: Path, no_fd_leak: None) -> None:
    spool = Segments(path)
    with pytest.raises(SinkError, match="another output uses it") as refused:
        Segments(path)
    assert refused.value.reason == "spool-in-use"
    spool.close()
    Segments(path).close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200), junk=st.binary(max_size=40))
def test_what_a_crash_has_cut_off_or_left_behind_is_no_message(path: Path, cut: int, junk: bytes) -> None:
    spool = Segments(path)
    all_of(spool)
    spool.forget(1 << 62)
    (path / KNOWN).write_bytes(b"")
    written = messages(range(1, 11))
    spool.append(written)
    spool.close()
    (file,) = path.glob("*.spool")
    whole = file.read_bytes()
    file.write_bytes(whole[:cut] + junk)
    again = Segments(path)
    found = all_of(again)
    kept = [one for one in found if one in written]
    assert kept == written[: len(kept)]
    assert len(kept) >= min(cut, len(whole)) // (len(whole) // 10 + 1) - 1
    assert again.size + again.damaged == len(whole[:cut] + junk) or not found
    again.close()
    for one in path.glob("*.spool"):
        one.unlink()


def test_a_disk_that_is_full_leaves_whole_messages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Segments(path)
    spool.append(messages(range(1, 3)))
    whole = spool.size
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at))
    with pytest.raises(OSError, match="No space left"):
        spool.append(messages(range(3, 9)))
    monkeypatch.undo()
    assert (path / "00000001.spool").stat().st_size == whole
    spool.append(messages(range(3, 5)))
    assert all_of(spool) == messages(range(1, 5))
    spool.close()


def test_the_oldest_go_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    spool = Segments(path)
    for begin in range(1, 25, 8):
        spool.append(messages(range(begin, begin + 8)))
    monkeypatch.setattr(segments, "READ_BYTES", 50)
    taken = spool.read()
    assert spool.drop_oldest() == (8 - len(taken), 8)
    assert all_of(spool) == messages(range(9, 25))
    assert spool.drop_oldest() == (0, 16)
    spool.close()


@pytest.mark.parametrize("gone", [0, 1, 2])
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_file_that_others_have_removed_or_cut_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None, gone: int, is_cut: bool
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    spool = Segments(path)
    for begin in range(1, 25, 8):
        spool.append(messages(range(begin, begin + 8)))
    file = path / files(path)[gone]
    if is_cut:
        os.truncate(file, 10)
    else:
        file.unlink()
    found: list[KeptMessage] = []
    with pytest.raises(SpoolGoneError, match=f"{file} was .* by somebody else"):
        read_into(found, spool)
    last = 8 * (gone + 1)
    assert spool.give_up() == (8, last)
    found += all_of(spool)
    spool.append(messages(range(25, 27)))
    found += all_of(spool)
    assert found == [*messages(range(1, last - 7)), *messages(range(last + 1, 27))]
    spool.forget(26)
    assert (files(path), spool.size, spool.unread) == ([], 0, 0)
    spool.close()


def test_a_directory_that_was_removed_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    spool = Segments(path)
    begin = spool.next
    spool.append(messages(range(begin, begin + 20)))
    shutil.rmtree(path)
    spool.append(messages(range(begin + 20, begin + 22)))
    with pytest.raises(SpoolGoneError):
        spool.read()
    spool.give_up()
    assert all_of(spool) == messages(range(begin + 20, begin + 22))
    with pytest.raises(SinkError, match="another output uses it"):
        Segments(path)
    spool.forget(begin + 20)
    spool.close()
    again = Segments(path)
    assert again.next > begin + segments.NUMBERS - 1
    assert all_of(again) == messages(range(begin + 21, begin + 22))
    again.close()


@pytest.mark.parametrize(
    "known", [b"\xff" * 16, b"\x7f" + b"\xff" * 15, b"\x20" + bytes(15), b"\0" * 8 + b"\xff" * 8]
)
def test_numbers_that_never_were_are_not_believed(path: Path, no_fd_leak: None, known: bytes) -> None:
    spool = Segments(path)
    spool.append(messages(range(1, 4)))
    spool.close()
    (path / KNOWN).write_bytes(known)
    with (path / "00000001.spool").open("ab") as file:
        file.write(b"\0\0\0\1" + b"\xff" * 8 + b"x")
    again = Segments(path)
    assert (again.known, again.damaged) == (0, 13)
    assert again.next < 1 << 62
    assert all_of(again) == messages(range(1, 4))
    again.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user take root")
@pytest.mark.parametrize("name", [KNOWN, "00000003.spool"])
def test_what_another_user_put_there_is_never_sent(path: Path, no_fd_leak: None, name: str) -> None:
    spool = Segments(path)
    spool.append(messages(range(1, 3)))
    spool.close()
    planted = path / name
    planted.write_bytes((path / "00000001.spool").read_bytes())
    os.chown(planted, 65_534, 65_534)
    with pytest.raises(OSError, match=f"{planted} belongs to uid 65534"):
        Segments(path)
    planted.unlink()
    again = Segments(path)
    assert again.unread == 2
    again.close()


@pytest.mark.parametrize("name", [KNOWN, "00000001.spool", "00000002.spool"])
def test_a_name_of_another_file_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None, name: str
) -> None:
    """Whoever may write there may have made it: what it leads to is neither read nor written."""
    other = path.parent / "other"
    other.write_bytes(b"of somebody")
    path.mkdir()
    os.link(other, path / name)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 10)
    with pytest.raises(OSError, match=f"{path / name} has another name somewhere"):
        Segments(path)
    (path / name).unlink()
    spool = Segments(path)
    spool.append(messages(range(1, 3)))
    os.link(other, path / "00000002.spool")
    with pytest.raises(OSError, match="has another name somewhere"):
        spool.append(messages(range(3, 5)))
    spool.close()
    assert other.read_bytes() == b"of somebody"


@pytest.mark.skipif(os.geteuid() != 0, reason="a link of another user takes root")
def test_a_link_of_another_user_is_not_followed(path: Path, no_fd_leak: None) -> None:
    shared = path.parent / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "spool").symlink_to(path.parent)
    os.chown(shared / "spool", 65_534, 65_534, follow_symlinks=False)
    with pytest.raises(OSError, match="is a symbolic link of uid 65534"):
        Segments(shared / "spool")


def test_what_others_put_there_is_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "notes.spool").write_text("mine")
    (path / "00000003.spool").write_text("none of ours")
    spool = Segments(path)
    assert (spool.unread, spool.damaged) == (0, 12)
    assert files(path) == ["notes.spool"]
    spool.close()
