"""Trees that are exchanged at once: what programs see is one or the next, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.secured import Receiver, Sender
from support.trees import grow_tree

from mcastd import clock
from mcastd.delivery.keys import make_group_key, make_signing_pair
from mcastd.delivery.landing import LEFTOVER_SECONDS
from mcastd.delivery.names import PARTIAL_DIRECTORY, TREES_DIRECTORY
from mcastd.delivery.refused import IN_THE_WAY
from mcastd.delivery.trees import TreeLanding
from mcastd.errors import SinkError, UnsafePathError
from mcastd.inbound.sinks import directory
from mcastd.net.link import ListBatch
from mcastd.protocols import lct
from mcastd.protocols.manifest_packets import MANIFEST_TOI
from mcastd.status import TreeStatus

pytest.importorskip("cryptography")
pytestmark = pytest.mark.usefixtures("no_fd_leak")

SIZES = {"empty": 0, "one": 1, "deep/even": 2896, "deep/er/large": 300_001}
SEEN = Callable[[], dict[str, bytes]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a tree, a pair for signing, and a group key."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    grow_tree(tmp_path / "source", SIZES)
    make_signing_pair(tmp_path / "a")
    make_group_key(tmp_path / "1")
    return tmp_path


def receiver_of(place: Path, **output: Any) -> Receiver:
    return Receiver(place, verify_keys=["a.pub"], keys=["1"], output={"atomic": "tree", **output})


@pytest.fixture
def sender(place: Path) -> Iterator[Sender]:
    sender = Sender(place, sign="a", key="1")
    yield sender
    sender.source.restart()


@pytest.fixture
def receiver(place: Path) -> Iterator[Receiver]:
    receiver = receiver_of(place)
    yield receiver
    receiver.sink.close(for_good=True)
    assert receiver.accounted == receiver.fed


def content(tree: Path) -> dict[str, bytes]:
    """All files below a directory, by name."""
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def current(receiver: Receiver) -> Path:
    return receiver.path / "current"


def trees(receiver: Receiver) -> list[str]:
    return sorted(os.listdir(receiver.path / TREES_DIRECTORY))


def toi_of(datagram: bytes) -> int:
    return lct.parse(datagram).toi or 0


def manifest_of(datagrams: list[bytes]) -> list[bytes]:
    return [one for one in datagrams if toi_of(one) == MANIFEST_TOI]


def replace(path: Path, data: bytes) -> None:
    """Write a file of another inode."""
    path.with_name("new").write_bytes(data)
    path.with_name("new").replace(path)


def test_nothing_is_seen_of_a_tree_before_all_of_it_is_there(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    (place / "source" / "one").chmod(0o604)
    (place / "source" / "deep").chmod(0o711)
    datagrams = sender.a_pass()
    last = max(at for at, one in enumerate(datagrams) if toi_of(one) != MANIFEST_TOI)
    with capture_logs() as logs:
        receiver.take(datagrams[:last])
        assert not current(receiver).exists()
        assert stat.S_IMODE((receiver.path / TREES_DIRECTORY / "building").stat().st_mode) == 0o700
        assert receiver.sink.status().objects is not None
        assert "TreeStatus(switched=False, missing=" in str(receiver.sink.status().objects)
        receiver.take(datagrams[last:])
    assert content(current(receiver)) == content(place / "source")
    assert stat.S_IMODE((current(receiver) / "one").stat().st_mode) == 0o604
    assert (current(receiver) / "one").stat().st_mtime_ns == (place / "source" / "one").stat().st_mtime_ns
    assert os.readlink(current(receiver)) == f"{TREES_DIRECTORY}/{trees(receiver)[0]}"
    assert len(trees(receiver)) == 1
    (switched,) = [one for one in logs if one["event"] == "tree.switched"]
    assert (switched["files"], switched["path"]) == (4, str(receiver.path))
    assert not [one for one in logs if one["event"] == "object.landed" and one["log_level"] != "debug"]
    assert "TreeStatus(switched=True, missing=0, switches=1)" in str(receiver.sink.status().objects)
    before = receiver.sink.counters.written_bytes
    receiver.take(sender.a_pass())
    assert receiver.sink.counters.written_bytes == before
    assert receiver.sink.counters.dropped == {}


def test_all_of_a_tree_is_on_the_disk_before_it_is_switched_to(
    place: Path, sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: set[int] = set()
    at_switch: list[set[int]] = []
    fsync, symlink = os.fsync, os.symlink

    def settle(fd: int) -> None:
        settled.add(os.fstat(fd).st_ino)
        fsync(fd)

    def link(*paths: str, **where: Any) -> None:
        at_switch.append(settled.copy())
        symlink(*paths, **where)

    monkeypatch.setattr(os, "fsync", settle)
    monkeypatch.setattr(os, "symlink", link)
    receiver.take(sender.a_pass())
    tree = current(receiver).resolve()
    inodes = {path.stat().st_ino for path in (tree, *tree.rglob("*"))}
    assert len(inodes) == 1 + 2 + len(SIZES)
    assert len(at_switch) == 1
    assert inodes <= at_switch[0]


def test_what_has_not_changed_is_linked_and_not_waited_for(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    receiver.take(sender.a_pass())
    first, inodes = current(receiver).resolve(), {}
    for name in SIZES:
        inodes[name] = (current(receiver) / name).stat().st_ino
    old = content(first)
    replace(place / "source" / "deep" / "even", b"changed")
    datagrams = sender.a_pass()
    receiver.take(manifest_of(datagrams))
    assert content(current(receiver)) == old
    receiver.take([one for one in datagrams if len(one) == 16 + 4 + len(b"changed") + 16])  # header, tag
    assert content(current(receiver)) == content(place / "source")
    assert current(receiver).resolve() != first
    for name in ("one", "deep/er/large"):
        assert (current(receiver) / name).stat().st_ino == inodes[name]
    assert (current(receiver) / "deep" / "even").stat().st_ino != inodes["deep/even"]
    assert content(first) == old  # whoever reads it goes on
    second = current(receiver).resolve()
    (place / "source" / "one").unlink()
    receiver.take(sender.a_pass())
    assert content(current(receiver)) == content(place / "source")
    assert trees(receiver) == sorted([second.name, current(receiver).resolve().name])


def test_what_differs_in_its_mode_or_time_alone_is_copied(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    receiver.take(sender.a_pass())
    first = current(receiver).resolve()
    before = {name: (first / name).stat() for name in SIZES}
    (place / "source" / "one").chmod(0o600)
    os.utime(place / "source" / "deep" / "er" / "large", ns=(1, 1_500_000_000_000_000_000))
    written = receiver.sink.counters.written_bytes
    receiver.take(manifest_of(sender.a_pass()))  # no symbol is needed
    assert receiver.sink.counters.written_bytes == written
    assert current(receiver).resolve() != first
    assert stat.S_IMODE((current(receiver) / "one").stat().st_mode) == 0o600
    assert (current(receiver) / "deep/er/large").stat().st_mtime_ns == 1_500_000_000_000_000_000
    after = {name: (first / name).stat() for name in SIZES}
    for name in SIZES:
        assert (after[name].st_mode, after[name].st_mtime_ns) == (
            before[name].st_mode,
            before[name].st_mtime_ns,
        )
    assert content(current(receiver)) == content(place / "source")


def test_a_mode_or_a_time_alone_makes_another_tree(place: Path, sender: Sender, receiver: Receiver) -> None:
    one = place / "source" / "one"
    receiver.take(sender.a_pass())
    seen = {current(receiver).resolve()}
    for change in (lambda: one.chmod(0o600), lambda: os.utime(one, ns=(1, 1_500_000_000_000_000_000))):
        change()
        receiver.take(manifest_of(sender.a_pass()))
        seen.add(current(receiver).resolve())
        found, wanted = (current(receiver) / "one").stat(), one.stat()
        assert stat.S_IMODE(found.st_mode) == stat.S_IMODE(wanted.st_mode)
        assert found.st_mtime_ns == wanted.st_mtime_ns
    assert len(seen) == 3


def test_files_become_directories_and_directories_files(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    receiver.take(sender.a_pass())
    source = place / "source"
    (source / "one").unlink()
    (source / "one").mkdir()
    (source / "one" / "inner").write_bytes(b"in a directory now")
    shutil.rmtree(source / "deep")
    (source / "deep").write_bytes(b"a file now")
    receiver.take(sender.a_pass())
    assert content(current(receiver)) == content(source)
    assert receiver.sink.counters.dropped == {}


def test_a_tree_that_is_still_there_is_switched_to_at_once(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    receiver.take(sender.a_pass())
    first, old = current(receiver).resolve(), content(place / "source")
    file = place / "source" / "one"
    kept = file.stat()
    replace(file, b"!")
    receiver.take(sender.a_pass())
    assert current(receiver).resolve() != first
    replace(file, old["one"])
    os.utime(file, ns=(1, kept.st_mtime_ns))
    receiver.take(manifest_of(sender.a_pass()))
    assert current(receiver).resolve() == first
    assert content(current(receiver)) == old


def test_a_tree_that_comes_back_while_another_is_built_leaves_nothing_to_sweep(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    receiver.take(sender.a_pass())
    file = place / "source" / "one"
    kept, data = file.stat(), file.read_bytes()
    replace(file, b"!")
    receiver.take(manifest_of(sender.a_pass()))
    assert "building" in trees(receiver)
    replace(file, data)
    os.utime(file, ns=(1, kept.st_mtime_ns))
    receiver.take(manifest_of(sender.a_pass()))
    receiver.sink._landing.sweep(clock.wall() + LEFTOVER_SECONDS + 10)
    assert trees(receiver) == [current(receiver).resolve().name]
    assert content(current(receiver)) == content(place / "source")


def test_a_tree_that_comes_back_while_a_file_of_both_is_on_its_way(
    place: Path, sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.take(sender.a_pass())
    (place / "source" / "more").write_bytes(b"more")
    datagrams = sender.a_pass()
    with monkeypatch.context() as busy:
        busy.setattr(directory, "WORK_SECONDS", -1.0)  # hardly anything is done beside receiving
        for batch in receiver.sequencer.feed(ListBatch(datagrams)):
            receiver.sink.write(batch)
    receiver.fed += len(datagrams)
    assert "RECEIVING" in str(receiver.sink._reception.receiving)  # type: ignore[union-attr]
    (place / "source" / "more").unlink()
    receiver.take(manifest_of(sender.a_pass()))
    objects = receiver.sink.status().objects
    assert objects is not None
    assert objects.states == {"landed": len(SIZES)}
    assert objects.tree == TreeStatus(switched=True, missing=0, switches=1)
    assert receiver.sink.problem == ""


def test_the_same_tree_by_other_objects_is_gone_on_with(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    """As when the sender is to protect them from now on: the files are the same, and have other numbers."""
    pytest.importorskip("raptorq")
    datagrams = sender.a_pass()
    receiver.take(datagrams[: len(datagrams) // 2])
    written = receiver.sink.counters.written_bytes
    assert not current(receiver).exists()
    other = Sender(place, sign="a", key="1", protect="5%")
    try:
        again = other.a_pass()
        assert {*map(toi_of, again)} & {*map(toi_of, datagrams)} == {MANIFEST_TOI}
        receiver.take(again)
    finally:
        other.source.restart()
    assert content(current(receiver)) == content(place / "source")
    assert receiver.sink.counters.dropped == {}
    assert receiver.sink.counters.written_bytes - written <= sum(SIZES.values())


def test_of_a_file_that_changes_under_way_what_has_come_is_kept(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    large = place / "source" / "deep" / "er" / "large"
    large.write_bytes(bytes(2_000_000) + b"before")
    datagrams = sender.a_pass()
    receiver.take(datagrams[: len(datagrams) * 3 // 4])  # its first block, and something of the second
    written = receiver.sink.counters.written_bytes
    assert written > 1_400_000
    replace(large, bytes(2_000_000) + b"after")
    receiver.take(sender.a_pass())
    assert content(current(receiver)) == content(place / "source")
    assert receiver.sink.counters.written_bytes - written < 1_100_000  # the second block alone


def test_a_tree_that_was_removed_is_received_again_by_the_next_run(place: Path, sender: Sender) -> None:
    """As the manual has it, for a file that is missing in it."""
    receiver = receiver_of(place)
    receiver.take(sender.a_pass())
    (current(receiver) / "one").unlink()
    receiver.take(sender.a_pass())
    assert not (current(receiver) / "one").exists()
    shutil.rmtree(current(receiver).resolve())
    receiver.sink.close()
    again = receiver_of(place)
    again.take(sender.a_pass())
    assert content(current(again)) == content(place / "source")
    again.sink.close(for_good=True)


@pytest.mark.parametrize("name", ["rename", "rmdir"])
def test_an_output_that_a_disk_does_not_let_go_of_is_closed(
    place: Path, sender: Sender, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    receiver = receiver_of(place)
    receiver.take(sender.a_pass()[:-3])
    with monkeypatch.context() as patched:
        patched.setattr(os, name, failing)
        receiver.sink.close(for_good=True)
    again = receiver_of(place)
    again.take(sender.a_pass())
    assert content(current(again)) == content(place / "source")
    again.sink.close(for_good=True)


def test_a_directory_in_which_no_tree_can_be_built_is_tried_again(
    place: Path, sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(TreeLanding, "build", failing)
        receiver.take(sender.a_pass())
        assert "read-only" in receiver.sink.problem.lower()
        assert {*receiver.sink.counters.dropped} == {"permission"}
    assert receiver.sink._reception is not None
    receiver.sink._reception._listing_at = 0.0  # type: ignore[attr-defined]  # as if some seconds had passed
    receiver.take(sender.a_pass())
    assert content(current(receiver)) == content(place / "source")
    assert receiver.sink.problem == ""


@pytest.mark.parametrize("removed", [PARTIAL_DIRECTORY, TREES_DIRECTORY, f"{TREES_DIRECTORY}/building"])
def test_a_directory_that_somebody_removes_while_files_come_is_made_anew(
    place: Path, sender: Sender, receiver: Receiver, removed: str
) -> None:
    datagrams = sender.a_pass()
    receiver.take(datagrams[: len(datagrams) // 2])
    shutil.rmtree(receiver.path / removed)
    receiver.take(datagrams[len(datagrams) // 2 :])
    receiver.sink._expire_at = 0.0  # as if some seconds had passed
    receiver.take(sender.a_pass())
    receiver.take(sender.a_pass())
    assert content(current(receiver)) == content(place / "source")
    assert receiver.sink.problem == ""


def test_another_listing_goes_on_with_what_was_built(place: Path, sender: Sender, receiver: Receiver) -> None:
    datagrams = sender.a_pass()
    receiver.take(datagrams[:-3])  # of the large file the last blocks are missing
    replace(place / "source" / "deep" / "even", b"changed meanwhile")
    (place / "source" / "one").unlink()
    written = receiver.sink.counters.written_bytes
    receiver.take(sender.a_pass())
    assert content(current(receiver)) == content(place / "source")
    assert receiver.sink.counters.written_bytes - written < 20_000
    assert not os.listdir(receiver.path / PARTIAL_DIRECTORY)


def test_a_tree_that_comes_in_another_session_under_way_is_gone_on_with(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    """What has landed is there: none of it is awaited in the other session."""
    datagrams = sender.a_pass()
    last = toi_of(next(one for one in reversed(datagrams) if toi_of(one) != MANIFEST_TOI))
    receiver.take([one for one in datagrams if toi_of(one) != last])
    assert not current(receiver).exists()
    moved = Sender(place, sign="a", key="1", session=8)
    try:
        receiver.take([one for one in moved.a_pass() if toi_of(one) in {MANIFEST_TOI, last}])
    finally:
        moved.source.restart()
    assert content(current(receiver)) == content(place / "source")
    objects = receiver.sink.status().objects
    assert objects is not None
    assert objects.states == {"landed": len(SIZES)}
    assert objects.tree == TreeStatus(switched=True, missing=0, switches=1)


def test_what_was_built_of_a_tree_that_is_listed_no_more_is_swept(
    place: Path, sender: Sender, receiver: Receiver
) -> None:
    receiver.take(sender.a_pass()[:-3])
    assert trees(receiver) == ["building"]
    reception = receiver.sink._reception
    assert reception is not None
    reception.expire(clock.wall() + 30 * 86_400)
    receiver.sink._landing.sweep(clock.wall() + LEFTOVER_SECONDS + 60)
    assert trees(receiver) == []


def test_a_pipe_gets_a_line_for_each_tree(place: Path, sender: Sender) -> None:
    pipe = place / "landed"
    receiver = receiver_of(place, notify=pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        receiver.take(sender.a_pass())
        assert os.read(reader, 4096) == os.fsencode(current(receiver)) + b"\n"
    finally:
        os.close(reader)
        receiver.sink.close(for_good=True)


def test_a_tree_of_more_files_than_are_allowed_is_not_switched_to(place: Path, sender: Sender) -> None:
    receiver = receiver_of(place, max_files=len(SIZES) - 1)
    with capture_logs() as logs:
        receiver.take(sender.a_pass())
    assert not current(receiver).exists()
    assert [one["reason"] for one in logs if one["event"] == "object.refused"] == ["too-many"]
    receiver.sink.close(for_good=True)
    receiver = receiver_of(place, max_files=len(SIZES))
    receiver.take(sender.a_pass())
    assert content(current(receiver)) == content(place / "source")
    receiver.sink.close(for_good=True)


def test_a_tree_that_lacks_a_file_is_not_switched_to(place: Path, sender: Sender) -> None:
    receiver = receiver_of(place, max_size=100_000)
    try:
        with capture_logs() as logs:
            receiver.take(sender.a_pass())
        assert not current(receiver).exists()
        assert [one["reason"] for one in logs if one["event"] == "object.refused"] == ["too-large"]
    finally:
        receiver.sink.close(for_good=True)
    assert os.listdir(receiver.path) == []


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_is_in_the_way_of_the_link_stays(
    place: Path, sender: Sender, receiver: Receiver, what: str
) -> None:
    there = current(receiver)
    if what == "directory":
        there.mkdir()
    else:
        there.write_bytes(b"theirs")
    receiver.take(sender.a_pass())
    assert not there.is_symlink()
    assert f"cannot have a tree at {there}: it is a" in receiver.sink.problem
    there.rename(place / "moved")
    receiver.sink._reception._chores_at = 0.0  # type: ignore[union-attr]  # as if some seconds had passed
    receiver.sink.tick(receiver.sink.deadline)
    receiver.take([])
    assert content(there) == content(place / "source")
    assert receiver.sink.problem == ""


# -- whatever ends it

STEPS = ("rename", "symlink", "link", "unlink", "rmdir", "mkdir", "fsync", "ftruncate", "fchmod")


def die_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process killed at the ``step``-th change of the file system."""
    left = step

    def dying(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, dying(name))


def test_a_process_that_is_killed_leaves_a_whole_tree_and_the_next_goes_on(
    place: Path, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = receiver_of(place)
    first.take(sender.a_pass())
    replace(place / "source" / "one", b"before")
    first.take(sender.a_pass())  # so that there is a tree to be removed
    first.sink.close()
    old = content(current(first))
    shutil.copytree(first.path, place / "kept", symlinks=True)
    replace(place / "source" / "deep" / "even", b"changed")
    (place / "source" / "new").write_bytes(b"new")
    datagrams, new = sender.a_pass(), content(place / "source")
    seen = set()
    for step in range(0, 400, 3):
        shutil.rmtree(first.path)
        shutil.copytree(place / "kept", first.path, symlinks=True)
        if (pid := os.fork()) == 0:
            try:
                with monkeypatch.context() as patched:
                    die_at(step, patched)
                    receiver_of(place).take(datagrams)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        found = content(current(first))
        assert found in (old, new)
        seen.add(found == new)
        again = receiver_of(place)
        again.take(datagrams)
        assert content(current(again)) == new
        assert len(trees(again)) <= 3
        again.sink.close()
        if os.WIFEXITED(status):
            break
    else:
        raise AssertionError("it never came to its end")
    assert seen == {False, True}


# -- the directory


def test_what_is_left_of_a_tree_is_swept_after_a_week(tmp_path: Path) -> None:
    landing = TreeLanding(tmp_path / "out")
    landing.open()
    landing.build(set())
    (tmp_path / "out" / TREES_DIRECTORY / "building" / "left").touch()
    now = (tmp_path / "out" / TREES_DIRECTORY / "building").stat().st_mtime
    landing.close()
    landing.open()
    landing.sweep(now + LEFTOVER_SECONDS - 1)
    assert os.listdir(tmp_path / "out" / TREES_DIRECTORY) == ["building"]
    landing.sweep(now + LEFTOVER_SECONDS + 1)
    assert os.listdir(tmp_path / "out" / TREES_DIRECTORY) == []
    landing.close()


@pytest.mark.root
def test_directories_and_links_of_others_are_not_used(tmp_path: Path) -> None:
    landing = TreeLanding(tmp_path / "out")
    landing.open()
    os.symlink("/etc", tmp_path / "out" / "current")
    os.lchown(tmp_path / "out" / "current", 4242, 4242)
    assert landing.current_tree() == ""
    landing.build(set())
    with pytest.raises(SinkError) as refused:
        landing.switch("0" * 32)
    assert refused.value.reason == IN_THE_WAY
    landing.close()
    (tmp_path / "out" / TREES_DIRECTORY).mkdir(exist_ok=True)
    os.chown(tmp_path / "out" / TREES_DIRECTORY, 4242, 4242)
    with pytest.raises(UnsafePathError):
        landing.open()


@pytest.mark.parametrize("link", ["elsewhere", f"{TREES_DIRECTORY}/../x", f"{TREES_DIRECTORY}/building", "/"])
def test_a_link_that_leads_to_no_tree_of_ours_is_exchanged(tmp_path: Path, link: str) -> None:
    landing = TreeLanding(tmp_path / "out")
    landing.open()
    os.symlink(link, tmp_path / "out" / "current")
    landing.build(set())
    assert landing.current_tree() == ""
    landing.switch("1" * 32)
    assert landing.current_tree() == "1" * 32
    landing.close()
