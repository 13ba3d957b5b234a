"""What there is to send: cut and hashed in steps, hashed again only where it changed, never by a link."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mcastd.delivery import scan as scan_module
from mcastd.delivery.catalog import Catalog, ChangedError
from mcastd.delivery.division import TooLargeError, cut, parts_of
from mcastd.delivery.scan import SourceFile
from mcastd.errors import SourceError
from mcastd.protocols import fec
from mcastd.protocols.checksum import Checksum
from mcastd.protocols.seal import BlockMemory

pytestmark = pytest.mark.usefixtures("no_fd_leak")

SYMBOL_BYTES = 96


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three files of 0, 5 and 250,000 bytes, the last of three blocks."""
    path = tmp_path / "images"
    (path / "v2" / "boot").mkdir(parents=True)
    (path / "empty").touch()
    (path / "v2" / "boot" / "kernel").write_bytes(random.Random(1).randbytes(250_000))
    (path / "v2" / "name.txt").write_bytes(b"linux")
    (path / "v2" / "name.txt").chmod(0o640)
    return path


def catalog_of(path: Path, *, protected: bool = True) -> Catalog:
    return Catalog(path, SYMBOL_BYTES, protected=protected)


def scanned(catalog: Catalog) -> dict[str, SourceFile]:
    """The files by name after a scan, in their order."""
    for _ in range(10_000):
        if catalog.scan():
            return {"/".join(file.name): file for file in catalog.files}
    raise AssertionError("the scan does not end")


def test_a_file_that_another_has_replaced_is_another(tree: Path) -> None:
    """As by cp -p and mv: with the same size, time and mode."""
    catalog, name = catalog_of(tree), tree / "v2" / "name.txt"
    before = scanned(catalog)["v2/name.txt"]
    other = tree / "other"
    other.write_bytes(b"hurds")
    other.chmod(0o640)
    os.utime(other, ns=(before.mtime_ns, before.mtime_ns))
    other.rename(name)
    after = scanned(catalog)["v2/name.txt"]
    assert (after.length, after.mtime_ns, after.mode) == (before.length, before.mtime_ns, before.mode)
    assert after.hashes != before.hashes
    assert after.toi != before.toi


def test_a_file_that_a_copy_has_replaced_is_the_same(tree: Path) -> None:
    """As by rsync, or on a file system that was mounted anew: receivers go on with what they have."""
    catalog = catalog_of(tree)
    before = scanned(catalog)
    for name in before:
        shutil.copy2(tree / name, tree / "copy")
        (tree / "copy").replace(tree / name)
    after = scanned(catalog)
    assert {name: file.toi for name, file in after.items()} == {n: file.toi for n, file in before.items()}
    assert all(after[name].identity != before[name].identity for name in before)
    kernel = after["v2/boot/kernel"]
    assert read(catalog, kernel, 0) == (tree / "v2/boot/kernel").read_bytes()[: kernel.blocks.size(0)]


def read_into(catalog: Catalog, file: SourceFile, sbn: int) -> bytes:
    """A block as the carousel reads it to send it for all to read."""
    place = bytearray(file.blocks.size(sbn) + 7)
    with closing(catalog):  # also what it has open
        catalog.read_into(memoryview(place)[:-7], file, sbn)
    assert place[-7:] == bytes(7)
    return bytes(place[:-7])


def read(catalog: Catalog, file: SourceFile, sbn: int) -> bytes:
    """A block as the carousel reads it to seal it."""
    with closing(catalog):
        return bytes(catalog.read(file, sbn, BlockMemory()).data)


Read = Callable[[Catalog, SourceFile, int], bytes]
WAYS_TO_READ: list[Read] = [read, read_into]


class Hashing:
    """Counts what is hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        real = scan_module.read_at

        def read(fd: int, size: int, offset: int) -> bytes:
            self.sizes.append(size)
            return real(fd, size, offset)

        monkeypatch.setattr(scan_module, "read_at", read)

    def taken(self) -> list[int]:
        sizes, self.sizes = self.sizes, []
        return sizes


class TestCut:
    @pytest.mark.parametrize(
        ("length", "symbol_size", "blocks", "block_symbols"),
        [
            (0, 1448, 1, 1),
            (1, 1448, 1, 1),
            (1448 * 1024, 1448, 1, 1024),
            (1448 * 1024 + 1, 1448, 2, 513),
            (268_435_456, 1448, 182, 1019),
            (1448 * 1024 * 255 + 1, 1448, 255, 1025),
            (2_000_000_000, 1448, 255, 5417),
            (3_000_000, 65_480, 1, 46),
            (60_000_000, 65_480, 7, 131),
        ],
    )
    def test_with_raptorq(self, length: int, symbol_size: int, blocks: int, block_symbols: int) -> None:
        oti = cut(length, symbol_size, protected=True)
        assert (oti.scheme, oti.blocks, oti.block_symbols) == (fec.RAPTORQ, blocks, block_symbols)
        assert oti.block_symbols * oti.symbol_size <= 9 << 20

    def test_without_a_code(self) -> None:
        oti = cut(9_000_000_000, 1432, protected=False)
        assert oti == fec.Oti(fec.NO_CODE, 1432, 1024)

    @pytest.mark.parametrize("protected", [True, False])
    def test_more_than_an_object_can_have(self, protected: bool) -> None:
        with pytest.raises(TooLargeError):
            cut(1 << 40, 1448, protected=protected)

    def test_the_largest(self) -> None:
        largest = 6517 * 255 * 1448
        assert cut(largest, 1448, protected=True).block_symbols == 6517
        with pytest.raises(TooLargeError, match=r"at most 2,406,337,080"):
            cut(largest + 1, 1448, protected=True)


class TestParts:
    @pytest.mark.parametrize(
        ("protected", "lengths"),
        [
            (True, [378_101_760] * 6 + [2_406_337_081 - 6 * 378_101_760]),
            (False, [2_406_337_081]),
        ],
    )
    def test_a_file_a_little_over_the_limit(self, protected: bool, lengths: list[int]) -> None:
        parts = parts_of(6517 * 255 * 1448 + 1, 1448, protected=protected)
        assert [length for length, _ in parts] == lengths
        assert {oti.block_symbols for _, oti in parts[:6]} == {1024}

    def test_a_file_at_the_limit_is_one_object(self) -> None:
        assert len(parts_of(6517 * 255 * 1448, 1448, protected=True)) == 1
        assert len(parts_of(960, 96, protected=True, object_max=960)) == 1
        assert [length for length, _ in parts_of(1000, 96, protected=True, object_max=500)] == [480, 480, 40]

    @pytest.mark.parametrize("symbol_size", [1448, 65_480])
    def test_the_largest(self, symbol_size: int) -> None:
        of_block = min(1024, (9 << 20) // symbol_size)
        most = 65_536 * of_block * symbol_size
        blocks = fec.JoinedBlocks(parts_of(most, symbol_size, protected=True))
        assert (blocks.count, blocks.largest, blocks.length) == (65_536, of_block, most)
        for length in (most + 1, 1 << 62):
            with pytest.raises(TooLargeError, match="receivers take at most"):
                parts_of(length, symbol_size, protected=True)

    def test_parts_are_read_at_their_places(self, tree: Path) -> None:
        with (tree / "v2/boot/kernel").open("r+b") as file:
            file.truncate(300_001)
        catalog = Catalog(tree, SYMBOL_BYTES, protected=True, divided=True, object_max=120_000)
        scanned(catalog)
        kernel = [file for file in catalog.files if file.name[-1] == "kernel"]
        assert [(part.offset, part.length, part.size) for part in kernel] == [
            (0, 120_000, 300_001),
            (120_000, 120_000, 300_001),
            (240_000, 60_001, 300_001),
        ]
        assert all(part.is_part for part in kernel)
        assert len({part.toi for part in catalog.files}) == 5
        whole = b"".join(read(catalog, part, sbn) for part in kernel for sbn in range(part.blocks.count))
        assert whole == (tree / "v2/boot/kernel").read_bytes()
        before = catalog.files
        scanned(catalog)
        assert catalog.files == before
        with (tree / "v2/boot/kernel").open("r+b") as file:
            file.write(b"!")
        with pytest.raises(ChangedError):
            catalog.read(kernel[2], 0, BlockMemory())  # a part of another file than the one that was scanned


class TestScan:
    def test_a_tree(self, tree: Path) -> None:
        found = scanned(catalog_of(tree))
        assert list(found) == ["empty", "v2/boot/kernel", "v2/name.txt"]
        kernel, name = found["v2/boot/kernel"], found["v2/name.txt"]
        assert (found["empty"].length, found["empty"].blocks.count, found["empty"].hashes) == (0, 0, ())
        assert (name.length, name.mode, name.hashes) == (5, 0o640, (hashlib.sha256(b"linux").digest(),))
        assert name.mtime_ns == (tree / "v2/name.txt").stat().st_mtime_ns
        assert kernel.blocks.count == 3
        content = (tree / "v2/boot/kernel").read_bytes()
        size = kernel.blocks.size(0)
        assert kernel.hashes[0] == hashlib.sha256(content[:size]).digest()
        assert kernel.hashes[2] == hashlib.sha256(content[kernel.blocks.offset(2) :]).digest()
        assert len({file.toi for file in found.values()} - {0}) == 3

    def test_a_single_file(self, tree: Path) -> None:
        assert list(scanned(catalog_of(tree / "v2" / "name.txt"))) == ["name.txt"]

    def test_a_link_to_the_tree_is_followed(self, tree: Path) -> None:
        link = tree.parent / "current"
        link.symlink_to(tree / "v2")
        assert list(scanned(catalog_of(link))) == ["boot/kernel", "name.txt"]

    def test_steps_are_bounded(self, tree: Path) -> None:
        for at in range(50):
            (tree / f"{at:02}").write_bytes(b"x" * at)
        catalog = catalog_of(tree)
        found, steps = [], 0
        while not catalog.scan(5 * (scan_module.ENTRY_COST_BYTES + scan_module.OPEN_COST_BYTES)):
            assert catalog.files == ()
            found.append(int(catalog.progress.partition(" files so far")[0]))
            steps += 1
        assert 10 <= steps < 16
        assert found == sorted(found)
        assert len(catalog.files) == 53
        assert list(scanned(catalog_of(tree))) == ["/".join(file.name) for file in catalog.files]

    def test_of_a_large_file_it_says_how_far_it_is(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scan_module, "STEP_BYTES", 10)
        catalog, said = catalog_of(tree), []
        while not catalog.scan(1):
            said.append(catalog.progress)
        of_one = [each for each in said if each.endswith(" % of kernel")]
        shares = [int(each.partition(", ")[2].split()[0]) for each in of_one]
        assert len(shares) == 3
        assert shares == sorted({*shares})
        assert (shares[0] > 0, shares[-1]) == (True, 100)
        assert {each.partition(" files")[0] for each in of_one} == {"1"}

    def test_only_what_changed_is_hashed_again(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hashing = Hashing(monkeypatch)
        catalog = catalog_of(tree)
        first = scanned(catalog)
        assert sorted(hashing.taken()) == [
            5,
            *sorted(first["v2/boot/kernel"].blocks.size(n) for n in range(3)),
        ]
        assert scanned(catalog) == first
        assert hashing.taken() == []
        (tree / "v2" / "name.txt").write_bytes(b"hurd!")
        os.utime(tree / "v2" / "name.txt", ns=(7, first["v2/name.txt"].mtime_ns + 1))
        second = scanned(catalog)
        assert hashing.taken() == [5]
        assert second["v2/name.txt"].toi != first["v2/name.txt"].toi
        assert second["v2/boot/kernel"] is first["v2/boot/kernel"]

    @pytest.mark.parametrize("change", ["size", "time", "inode", "mode"])
    def test_what_shows_a_change(self, tree: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
        path, catalog = tree / "v2" / "name.txt", catalog_of(tree)
        before = scanned(catalog)["v2/name.txt"]
        hashing = Hashing(monkeypatch)
        match change:
            case "size":
                path.write_bytes(b"linux6")
            case "time":
                os.utime(path, ns=(1, before.mtime_ns + 10))
            case "inode":
                other = path.with_name("other")
                other.write_bytes(b"LINUX")
                other.replace(path)
            case "mode":
                path.chmod(0o600)
        if change != "time":
            os.utime(path, ns=(1, before.mtime_ns))
        assert scanned(catalog)["v2/name.txt"].toi != before.toi
        assert len(hashing.taken()) == 1

    def test_what_is_the_same_has_the_same_toi_in_another_catalog(self, tree: Path) -> None:
        first = scanned(catalog_of(tree))
        (tree / "a-new-one").write_bytes(b"!")
        second = scanned(catalog_of(tree))
        assert [second[name].toi for name in first] == [file.toi for file in first.values()]
        assert first["v2/name.txt"].toi != scanned(catalog_of(tree, protected=False))["v2/name.txt"].toi

    def test_two_objects_never_have_one_toi(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Same:
            def __init__(self, data: bytes) -> None:
                self.data = data

            def digest(self) -> bytes:
                return b"\xff\xff\xff\xfe" + bytes(
                    28
                )  # the manifest's TOI follows, and 0, which is the FDT's

        monkeypatch.setattr(scan_module.hashlib, "sha256", Same)
        catalog = catalog_of(tree)
        first = scanned(catalog)
        assert sorted(file.toi for file in first.values()) == [1, 2, 0xFFFFFFFE]
        (tree / "a-new-one").write_bytes(b"!")
        second = scanned(catalog)
        assert second.pop("a-new-one").toi == 3
        assert second == first

    def test_what_has_gone_is_forgotten(self, tree: Path) -> None:
        catalog = catalog_of(tree)
        scanned(catalog)
        (tree / "empty").unlink()
        assert list(scanned(catalog)) == ["v2/boot/kernel", "v2/name.txt"]

    def test_a_scan_that_ends_early_leaves_nothing_open(self, tree: Path) -> None:
        catalog = catalog_of(tree)
        assert not catalog.scan(1)
        catalog.close()
        assert list(scanned(catalog)) == ["empty", "v2/boot/kernel", "v2/name.txt"]


class TestRefused:
    def test_what_is_no_regular_file(self, tree: Path) -> None:
        secret = tree.parent / "secret"
        secret.write_text("secret")
        (tree / "leads-out").symlink_to(secret)
        (tree / "leads-out-too").symlink_to(tree.parent)
        (tree / "inside").symlink_to("empty")
        os.mkfifo(tree / "pipe")
        catalog = catalog_of(tree)
        assert list(scanned(catalog)) == ["empty", "v2/boot/kernel", "v2/name.txt"]
        assert dict(catalog.refused) == {"link": 3, "not-a-file": 1}
        assert [(refused.name, refused.reason) for refused in catalog.refusals] == [
            ("inside", "link"),
            ("leads-out", "link"),
            ("leads-out-too", "link"),
            ("pipe", "not-a-file"),
        ]
        assert catalog.refusals[3].cause == "it is a FIFO"

    def test_what_receivers_would_refuse(self, tree: Path) -> None:
        (tree / "a\nb").touch()
        deep = tree.joinpath(*"abcdefghijklmnopqrstuvwxyz0123456789")
        deep.mkdir(parents=True)
        (deep / "too-deep").touch()
        catalog = catalog_of(tree)
        assert len(scanned(catalog)) == 3
        assert dict(catalog.refused) == {"unsafe-name": 2}

    def test_what_is_too_large(self, tree: Path) -> None:
        with open(tree / "disk", "wb") as file:
            file.truncate(1 << 40)
        catalog = catalog_of(tree)
        assert len(scanned(catalog)) == 3
        assert dict(catalog.refused) == {"too-large": 1}
        assert "at most" in catalog.refusals[0].cause

    def test_what_is_written_meanwhile(self, tree: Path) -> None:
        catalog = catalog_of(tree)
        path = tree / "v2" / "boot" / "kernel"
        while not catalog.scan(1):  # it is before the end of the file's second block
            with open(path, "ab") as file:
                file.write(b"more")
        assert [refused.reason for refused in catalog.refusals] == ["changing"]
        assert "v2/boot/kernel" in scanned(catalog)

    @pytest.mark.parametrize("call", ["open", "stat"])
    def test_a_shortage_says_nothing_of_a_file(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        catalog = catalog_of(tree)
        before = scanned(catalog)
        (tree / "v2" / "boot" / "kernel").chmod(0o600)  # it is to be hashed again
        real = getattr(os, call)

        def short(path: Any, *args: Any, **named: Any) -> Any:
            if path == "kernel":
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return real(path, *args, **named)

        monkeypatch.setattr(os, call, short)
        with pytest.raises(SourceError, match="too many open files; trying again"):
            scanned(catalog)
        assert {"/".join(file.name): file for file in catalog.files} == before
        monkeypatch.undo()
        assert scanned(catalog).keys() == before.keys()
        assert not catalog.refused

    def test_many_are_counted_and_some_named(self, tree: Path) -> None:
        for at in range(scan_module.NAMED_REFUSALS + 7):
            (tree / f"link{at}").symlink_to("/")
        catalog = catalog_of(tree)
        scanned(catalog)
        assert len(catalog.refusals) == scan_module.NAMED_REFUSALS
        assert catalog.refused["link"] == scan_module.NAMED_REFUSALS + 7

    def test_a_source_that_is_not_there(self, tree: Path) -> None:
        catalog = catalog_of(tree / "nothing")
        with pytest.raises(
            SourceError, match="no such file or directory; waiting for it to be created"
        ) as caught:
            catalog.scan()
        assert caught.value.errno == 2
        (tree / "nothing").write_bytes(b"something")
        assert list(scanned(catalog)) == ["nothing"]

    def test_a_source_of_another_kind(self, tree: Path) -> None:
        os.mkfifo(tree / "pipe")
        with pytest.raises(SourceError, match="it is a FIFO; name a file or a directory"):
            catalog_of(tree / "pipe").scan()

    def test_a_single_file_that_is_too_large(self, tree: Path) -> None:
        with open(tree / "disk", "wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(SourceError, match=f"cannot send {tree}/disk: it is too large"):
            catalog_of(tree / "disk").scan()


@pytest.mark.parametrize("read", WAYS_TO_READ)
class TestRead:
    def test_blocks_are_those_of_the_file(self, read: Read, tree: Path) -> None:
        catalog = catalog_of(tree)
        kernel = scanned(catalog)["v2/boot/kernel"]
        whole = b"".join(read(catalog, kernel, sbn) for sbn in range(3))
        assert whole == (tree / "v2/boot/kernel").read_bytes()
        alone = catalog_of(tree / "v2" / "name.txt")
        assert read(alone, scanned(alone)["name.txt"], 0) == b"linux"

    def test_a_file_stays_open_until_another_is_read(self, read: Read, tree: Path) -> None:
        catalog = catalog_of(tree)
        files, memory = scanned(catalog), BlockMemory()
        kernel, name = files["v2/boot/kernel"], files["v2/name.txt"]
        before = len(os.listdir("/proc/self/fd"))
        for file, sbn in ((kernel, 0), (kernel, 1), (name, 0), (kernel, 2)):
            catalog.read(file, sbn, memory)
            assert len(os.listdir("/proc/self/fd")) == before + 1
        (tree / "v2/boot/kernel").write_bytes(b"shorter")
        with pytest.raises(ChangedError):
            catalog.read(kernel, 1, memory)
        assert len(os.listdir("/proc/self/fd")) == before
        assert read(catalog, name, 0) == b"linux"
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("how", ["written", "shorter", "replaced", "gone", "link", "directory"])
    def test_a_file_that_has_changed_is_noticed(self, read: Read, tree: Path, how: str) -> None:
        catalog = catalog_of(tree)
        path = tree / "v2" / "name.txt"
        file = scanned(catalog)["v2/name.txt"]
        match how:
            case "written":  # and nothing shows it but the content
                path.write_bytes(b"LINUX")
                os.utime(path, ns=(1, file.mtime_ns))
            case "shorter":
                path.write_bytes(b"linu")
            case "replaced":
                path.with_name("other").write_bytes(b"linux")
                path.with_name("other").replace(path)
            case "gone":
                path.unlink()
            case "link":
                path.rename(tree / "name.txt")
                path.symlink_to(tree / "name.txt")
            case "directory":
                (tree / "v2").rename(tree.parent / "v2")
                (tree / "v2").symlink_to(tree.parent / "v2")
        with pytest.raises(ChangedError, match=r"^cannot send v2/name.txt: "):
            read(catalog, file, 0)
        assert scanned(catalog).get("v2/name.txt") != file

    def test_a_shortage_is_no_change(self, read: Read, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        catalog = catalog_of(tree)
        file = scanned(catalog)["v2/name.txt"]

        def short(*args: Any, **named: Any) -> int:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

        monkeypatch.setattr(os, "open", short)
        with pytest.raises(SourceError, match="too many open files in system; trying again"):
            read(catalog, file, 0)
        monkeypatch.undo()
        assert read(catalog, file, 0) == b"linux"

    def test_what_changed_unseen_is_hashed_again(self, read: Read, tree: Path) -> None:
        catalog = catalog_of(tree)
        path = tree / "v2" / "name.txt"
        file = scanned(catalog)["v2/name.txt"]
        path.write_bytes(b"LINUX")
        os.utime(path, ns=(1, file.mtime_ns))
        assert scanned(catalog)["v2/name.txt"] == file  # it cannot be seen
        with pytest.raises(ChangedError):
            read(catalog, file, 0)
        again = scanned(catalog)["v2/name.txt"]
        assert again.toi != file.toi
        assert read(catalog, again, 0) == b"LINUX"


def test_of_a_large_file_a_checksum_is_told_beside_its_md5(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "FILE_MIN_BYTES", 250_000)
    files = scanned(Catalog(tree, SYMBOL_BYTES, protected=True, digested=True))
    content = {name: (tree / name).read_bytes() for name in files}
    assert {name: file.md5 for name, file in files.items()} == {
        name: hashlib.md5(data).digest() for name, data in content.items()
    }
    right = Checksum()
    right.update(content["v2/boot/kernel"])
    checksums = {name: file.checksum for name, file in files.items()}
    assert checksums == {"empty": None, "v2/boot/kernel": right.digest(), "v2/name.txt": None}
    # Where the library is missing MD5 is all
    monkeypatch.setattr(scan_module, "checksum", lambda: None)
    files = scanned(Catalog(tree, SYMBOL_BYTES, protected=True, digested=True))
    assert [file.checksum for file in files.values()] == [None] * 3
    assert files["v2/boot/kernel"].md5 is not None
    # With keys the manifest has hashes
    files = scanned(Catalog(tree, SYMBOL_BYTES, protected=True))
    assert [(file.md5, file.checksum) for file in files.values()] == [(None, None)] * 3
