"""Files land whole, in their place, and nowhere else."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mounts import tmpfs

from mcastd.delivery.landing import IN_USE, LEFTOVER_SECONDS, Landing, LostError, Partial
from mcastd.delivery.names import PARTIAL_DIRECTORY, UnsafeNameError
from mcastd.delivery.refused import IN_THE_WAY, OTHER_FILE_SYSTEM, RefusedError
from mcastd.delivery.settling import UNSETTLED_MAX, UnsettledNames, settle
from mcastd.errors import SinkError, UnsafePathError

NAME = ("images", "lab.img")
MTIME_NS = 1_234_567_890_123_456_789


@pytest.fixture(params=[True, False], ids=["anonymous", "named"])
def landing(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> Iterator[Landing]:
    """A directory, on a file system that has files without a name, and on one that has not."""
    if not request.param:
        failing_anonymous_files(monkeypatch, errno.EOPNOTSUPP)
    landing = Landing(tmp_path / "out")
    landing.open()
    yield landing
    landing.close()


def failing_anonymous_files(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.open

    def fake(path: str, flags: int, *args: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", fake)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def put(landing: Landing, content: bytes, name: tuple[str, ...] = NAME, *, resumable: bool = False) -> None:
    partial = landing.begin(name, resumable=resumable)
    os.write(partial.fd, content)
    try:
        settle(partial.fd, 0o644, MTIME_NS)
        landing.land(partial, name, 0o644)
    except BaseException:
        landing.discard(partial)
        raise


def refusal(landing: Landing, name: tuple[str, ...] = NAME) -> RefusedError:
    """Why a name is refused, which is so before a file is received as well as when it lands."""
    with pytest.raises(RefusedError) as early:
        landing.require_free(name)
    with pytest.raises(RefusedError) as late:
        put(landing, b"new", name)
    assert early.value.args == late.value.args
    assert early.value.reason == late.value.reason
    return late.value


def partials(out: Path) -> list[str]:
    return sorted(os.listdir(out / PARTIAL_DIRECTORY))


@pytest.mark.parametrize("resumable", [True, False])
def test_a_file_lands_with_its_mode_and_time(landing: Landing, out: Path, resumable: bool) -> None:
    put(landing, b"content", resumable=resumable)
    landed = out / "images/lab.img"
    assert landed.read_bytes() == b"content"
    assert stat.S_IMODE(landed.stat().st_mode) == 0o644
    assert landed.stat().st_mtime_ns == MTIME_NS
    assert landed.stat().st_nlink == 1
    assert stat.S_IMODE(landed.parent.stat().st_mode) == 0o755
    assert partials(out) == []


def test_a_file_of_ours_is_replaced_and_who_reads_the_old_one_goes_on(landing: Landing, out: Path) -> None:
    put(landing, b"old")
    with (out / "images/lab.img").open("rb") as old:
        put(landing, b"new")
        assert old.read() == b"old"
    assert (out / "images/lab.img").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("mode", "file", "directory"),
    [(0o6755, 0o755, 0o755), (0o600, 0o600, 0o700), (0o640, 0o640, 0o750), (0o666, 0o666, 0o755)],
)
def test_nobody_gets_more_than_to_read(
    landing: Landing, out: Path, mode: int, file: int, directory: int
) -> None:
    partial = landing.begin(NAME, resumable=False)
    settle(partial.fd, mode, None)
    landing.land(partial, NAME, mode)
    assert stat.S_IMODE((out / "images/lab.img").stat().st_mode) == file
    assert stat.S_IMODE((out / "images").stat().st_mode) == directory


def test_a_directory_that_is_there_keeps_its_mode(landing: Landing, out: Path) -> None:
    (out / "images").mkdir()
    (out / "images").chmod(0o711)
    put(landing, b"x")
    assert stat.S_IMODE((out / "images").stat().st_mode) == 0o711


@pytest.mark.parametrize("mtime_ns", [-(1 << 63), 1 << 70, 1 << 62])
def test_a_time_that_cannot_be_costs_the_file_nothing(landing: Landing, mtime_ns: int) -> None:
    partial = landing.begin(NAME, resumable=False)
    settle(partial.fd, 0o640, mtime_ns)
    assert stat.S_IMODE(os.fstat(partial.fd).st_mode) == 0o640
    landing.discard(partial)


def link(path: Path) -> None:
    outside = path.parent.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "lab.img").write_bytes(b"theirs")
    path.symlink_to(outside / "lab.img")


@pytest.mark.parametrize(
    ("put_there", "words"),
    [
        (link, "a symbolic link"),
        (Path.mkdir, "a directory"),
        (os.mkfifo, "a FIFO"),
        pytest.param(
            lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
            "a character device",
            marks=pytest.mark.root,
        ),
        pytest.param(
            lambda path: (path.touch(), os.chown(path, 4242, -1)),
            "a regular file of uid 4242",
            marks=pytest.mark.root,
        ),
    ],
)
def test_what_is_not_ours_stays(
    landing: Landing, out: Path, put_there: Callable[[Path], object], words: str
) -> None:
    (out / "images").mkdir()
    put_there(out / "images/lab.img")
    before = os.lstat(out / "images/lab.img")
    refused = refusal(landing)
    assert refused.reason == IN_THE_WAY
    assert f"images/lab.img is {words}" in str(refused)
    after = os.lstat(out / "images/lab.img")
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (
        after.st_ino,
        after.st_mode,
        after.st_mtime_ns,
    )
    assert landing.current(NAME) is None
    assert partials(out) == []
    outside = out.parent / "outside/lab.img"
    assert not outside.exists() or outside.read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("put_there", "words"),
    [(lambda path: path.symlink_to(".."), "a symbolic link"), (Path.touch, "a regular file")],
)
def test_no_directory_is_entered_by_a_link(
    landing: Landing, out: Path, put_there: Callable[[Path], object], words: str
) -> None:
    put_there(out / "images")
    refused = refusal(landing)
    assert refused.reason == IN_THE_WAY
    assert f"images is {words}" in str(refused)
    assert sorted(os.listdir(out.parent)) == ["out"]
    with pytest.raises(RefusedError):
        landing.current(NAME)


def test_an_unsafe_name_is_refused_here_too(landing: Landing) -> None:
    assert isinstance(refusal(landing, ("..", "lab.img")), UnsafeNameError)


def test_a_name_whose_directory_is_missing_is_free(landing: Landing, out: Path) -> None:
    landing.require_free(NAME)
    assert landing.current(NAME) is None
    assert os.listdir(out) == [PARTIAL_DIRECTORY]


def test_a_file_whose_name_another_one_has_as_a_directory_is_refused(landing: Landing, out: Path) -> None:
    put(landing, b"x", ("a",))
    assert refusal(landing, ("a", "b")).reason == IN_THE_WAY
    put(landing, b"x", ("c", "d"))
    assert refusal(landing, ("c",)).reason == IN_THE_WAY
    assert (out / "a").read_bytes() == b"x"


@pytest.mark.root
def test_a_directory_on_another_file_system_is_refused(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "images", "64k"):
        landing = Landing(tmp_path)
        landing.open()
        assert refusal(landing).reason == OTHER_FILE_SYSTEM
        landing.close()


def test_a_rename_that_leaves_the_file_system_is_refused(
    landing: Landing, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(RefusedError) as refused:
        put(landing, b"x")
    assert refused.value.reason == OTHER_FILE_SYSTEM
    assert partials(out) == []


@pytest.mark.parametrize("other", [None, b"another one"])
def test_a_partial_file_that_was_removed_does_not_land(
    landing: Landing, out: Path, other: bytes | None
) -> None:
    """Nor does what has its name now."""
    partial = landing.begin(NAME, resumable=True)
    os.write(partial.fd, b"whole")
    there = out / PARTIAL_DIRECTORY / partial.name
    there.unlink()
    if other is not None:
        there.write_bytes(other)
    with pytest.raises(LostError, match="removed"):
        landing.land(partial, NAME, 0o644)
    assert not out.joinpath(*NAME).exists()
    landing.discard(partial)
    put(landing, b"whole", resumable=True)
    assert out.joinpath(*NAME).read_bytes() == b"whole"


# -- what is left of earlier runs


def test_a_file_that_is_not_whole_is_found_by_the_next_run(landing: Landing, out: Path) -> None:
    partial = landing.begin(NAME, resumable=True)
    assert not partial.found
    os.write(partial.fd, b"half")
    landing.set_aside(partial)
    landing.close()
    again = Landing(out)
    again.open()
    again.sweep((out / PARTIAL_DIRECTORY).stat().st_mtime)
    other = again.begin(("images", "other.img"), resumable=True)
    assert not other.found
    partial = again.begin(NAME, resumable=True)
    assert partial.found
    assert os.pread(partial.fd, 9, 0) == b"half"
    assert other.name != partial.name
    for one in (partial, other):
        again.discard(one)
    again.close()
    assert os.listdir(out) == []


def test_a_file_that_cannot_be_gone_on_with_leaves_nothing(landing: Landing, out: Path) -> None:
    landing.set_aside(landing.begin(NAME, resumable=False))
    assert partials(out) == []


def test_what_a_killed_run_has_left_is_removed(landing: Landing, out: Path) -> None:
    directory = out / PARTIAL_DIRECTORY
    now = 1e9
    for name, age in (("once-1", 0), ("old", LEFTOVER_SECONDS + 1), ("young", LEFTOVER_SECONDS - 1)):
        (directory / name).touch()
        os.utime(directory / name, (now - age, now - age))
    (directory / "directory").mkdir()
    mine = landing.begin(NAME, resumable=True)
    os.utime(mine.fd, (1, 1))
    once = landing.begin(NAME, resumable=False)
    landing.sweep(now)
    assert set(partials(out)) == {"young", "directory", mine.name, once.name} - {""}
    for partial in (mine, once):
        landing.discard(partial)
    landing.sweep(now + LEFTOVER_SECONDS)
    assert partials(out) == ["directory"]


@pytest.mark.parametrize(
    "put_there",
    [Path.symlink_to, lambda path, _: os.mkfifo(path), Path.hardlink_to],
    ids=["link", "fifo", "hard link"],
)
def test_only_a_file_of_one_name_is_gone_on_with(
    landing: Landing, out: Path, put_there: Callable[[Path, Path], object]
) -> None:
    name = landing.begin(NAME, resumable=True)
    there = out / PARTIAL_DIRECTORY / name.name
    landing.discard(name)
    somebodys = out / "somebody's"
    somebodys.write_bytes(b"what they have")
    put_there(there, somebodys)
    try:
        partial = landing.begin(NAME, resumable=True)
    except OSError:
        assert there.is_symlink()
        return
    assert not partial.found
    os.write(partial.fd, b"x")
    landing.discard(partial)
    assert somebodys.read_bytes() == b"what they have"


# -- the directory itself


def test_two_do_not_receive_into_one_directory(landing: Landing, out: Path) -> None:
    other = Landing(out)
    with pytest.raises(SinkError) as refused:
        other.open()
    assert refused.value.reason == IN_USE
    landing.close()
    other.open()
    other.close()


def test_a_directory_that_is_not_used_is_left_as_it_was(landing: Landing, out: Path) -> None:
    landing.open()
    assert stat.S_IMODE((out / PARTIAL_DIRECTORY).stat().st_mode) == 0o700
    landing.close()
    landing.close()
    assert os.listdir(out) == []


@pytest.mark.root
def test_a_stranger_gives_us_no_directory(tmp_path: Path, no_fd_leak: None) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", 4242, 4242)
    with pytest.raises(UnsafePathError) as refused:
        Landing(tmp_path / "out").open()
    assert refused.value.uid == 4242
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / PARTIAL_DIRECTORY).mkdir()
    os.chown(tmp_path / "mine" / PARTIAL_DIRECTORY, 4243, 4243)
    with pytest.raises(UnsafePathError) as refused:
        Landing(tmp_path / "mine").open()
    assert refused.value.uid == 4243


def test_without_procfs_a_file_has_a_name_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/self/fd" and real(path))
    landing = Landing(tmp_path)
    landing.open()
    partial: Partial = landing.begin(NAME, resumable=False)
    assert partial.name
    landing.discard(partial)
    landing.close()


def test_a_directory_that_takes_no_file_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    failing_anonymous_files(monkeypatch, errno.ENOSPC)
    landing = Landing(tmp_path)
    with pytest.raises(OSError, match="No space") as full:
        landing.open()
    assert full.value.errno == errno.ENOSPC
    monkeypatch.undo()
    landing.open()
    put(landing, b"x", ("a",))
    landing.close()
    assert os.listdir(tmp_path) == ["a"]


def test_no_more_directories_stay_open_than_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fd_leak: None
) -> None:
    """Files may land in any number of directories before their names are waited for."""
    settled: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: settled.append(os.fstat(fd).st_ino))
    unsettled, inodes = UnsettledNames(), []
    for number in range(UNSETTLED_MAX + 3):
        (path := tmp_path / f"{number:03}").mkdir()
        inodes.append(path.stat().st_ino)
        directory = os.open(path, os.O_RDONLY)
        unsettled.note(directory)
        unsettled.note(directory)
        os.close(directory)
    assert settled == inodes[:UNSETTLED_MAX]
    unsettled.settle()
    assert settled == inodes
