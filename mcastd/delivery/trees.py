"""A directory in which a whole tree is exchanged at once: what programs read there is one tree or the next.

```
 DIRECTORY/
     current -> .mcastd-trees/9f2c...   what programs read: another link is renamed over it, rename(2)
     .mcastd-partial/                   files on their way, as in every output directory
     .mcastd-trees/
         9f2c.../                       whole trees, by the digest of what they have: this and the last
         building/                      what is there of the one that is coming; no other user may enter
         old-81ac.../                   one that is being removed
```

A symbolic link, because it can be exchanged on every file system, and below the directory: where a service
may write to that alone, as systemd's ReadWritePaths= has it, the directory itself can be neither renamed nor
exchanged. A file that is the same in the next tree is a hard link to that of the one before.

The last tree stays until the next one begins to come, for whoever still reads it. Whatever interrupts this,
what is at "current" is whole, and so is a tree that has its name: it gets that when nothing is missing, and
loses it before anything is removed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mcastd.delivery.directories import DIRECTORY_FLAGS
from mcastd.delivery.landing import GONE, LEFTOVER_SECONDS, Landing
from mcastd.delivery.names import TREES_DIRECTORY
from mcastd.delivery.refused import IN_THE_WAY, RefusedError
from mcastd.delivery.settling import settle
from mcastd.errors import SinkError, UnsafePathError
from mcastd.paths import KINDS, identity

# The link that leads to the current tree.
CURRENT = "current"
_BUILDING = "building"
_OLD = "old-"
_LINK = "link-"
_TREE = re.compile("[0-9a-f]{32}")
# How the kernel says that a file gets no further name: link(2). It is copied then.
_NO_LINK = {errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOENT, errno.EACCES}


class TreeLanding(Landing):
    """Files land in the tree that is being built: :meth:`build` comes before all that has to do with files.

    A tree is named by 32 hexadecimal digits.
    """

    def __init__(self, path: Path, mode: int | None = None) -> None:
        super().__init__(path, mode)
        self._trees = -1
        self._building = -1
        self._before = -1  # the tree that is current while another one is built

    @property
    def _files(self) -> int:
        return self._building

    def open(self) -> None:
        if self._trees >= 0:
            return
        super().open()
        try:
            self._trees = self._open_trees()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.rest()
        if self._trees >= 0:
            with suppress(OSError):
                os.rmdir(_BUILDING, dir_fd=self._trees)
            with suppress(OSError):
                os.rmdir(TREES_DIRECTORY, dir_fd=self._root)
            os.close(self._trees)
            self._trees = -1
        super().close()

    def is_moved(self) -> bool:
        if super().is_moved():
            return True
        try:
            trees = os.stat(TREES_DIRECTORY, dir_fd=self._root, follow_symlinks=False)
            if identity(trees) != identity(os.fstat(self._trees)):
                return True
            if self._building < 0:
                return False
            building = os.stat(_BUILDING, dir_fd=self._trees, follow_symlinks=False)
            return identity(building) != identity(os.fstat(self._building))
        except OSError as error:
            return error.errno in GONE

    # -- trees

    def current_tree(self) -> str:
        """The tree that "current" leads to; "" if that is none of ours."""
        with suppress(OSError):
            directory, _, tree = os.readlink(CURRENT, dir_fd=self._root).rpartition("/")
            if directory == TREES_DIRECTORY and self.has_tree(tree):
                return tree
        return ""

    def has_tree(self, tree: str) -> bool:
        """Return True if a whole tree is there by that name."""
        with suppress(OSError):
            found = os.stat(tree, dir_fd=self._trees, follow_symlinks=False)
            return bool(_TREE.fullmatch(tree)) and stat.S_ISDIR(found.st_mode)
        return False

    def rest(self) -> None:
        """Build no tree for now. What there is of one stays for the next :meth:`build` or :meth:`sweep`."""
        for fd in {self._building, self._before} - {-1}:
            os.close(fd)
        self._building = self._before = -1

    def build(self, names: Collection[tuple[str, ...]]) -> None:
        """Let files of these names land in a tree that is not whole yet: one that is there in part, or anew.

        Of the whole trees all but the current one are given up, to be removed by :meth:`clear`.
        """
        self.rest()
        current = self.current_tree()
        for tree in os.listdir(self._trees):
            if _TREE.fullmatch(tree) and tree != current:
                self._give_up(tree)
        with suppress(FileExistsError):
            os.mkdir(_BUILDING, 0o700, dir_fd=self._trees)
        self._building = os.open(_BUILDING, DIRECTORY_FLAGS, dir_fd=self._trees)
        os.fchmod(self._building, 0o700)
        if current:
            self._before = os.open(current, DIRECTORY_FLAGS, dir_fd=self._trees)
        _keep_only(self._building, (), names)  # at once: what has gone may be in the way of what comes

    def settle_tree(self) -> Iterator[None]:
        """Have all names in the tree that is built on the disk, a directory in each step."""
        yield from _settle_names(self._building)

    def switch(self, tree: str) -> None:
        """Exchange the current tree for another, which is there by its name or has been built.

        Raises SinkError if something that is not ours has the name of the link.
        """
        self._require_link()
        if not self.has_tree(tree):
            os.fchmod(self._building, self._mode())
            os.fsync(self._building)
            os.rename(_BUILDING, tree, src_dir_fd=self._trees, dst_dir_fd=self._trees)
            os.fsync(self._trees)
        self.rest()
        link = _LINK + os.urandom(12).hex()
        os.symlink(f"{TREES_DIRECTORY}/{tree}", link, dir_fd=self._trees)
        try:
            os.rename(link, CURRENT, src_dir_fd=self._trees, dst_dir_fd=self._root)
        except BaseException:
            with suppress(OSError):
                os.unlink(link, dir_fd=self._trees)
            raise
        with suppress(OSError):  # at worst a crash of the host takes the exchange back
            os.fsync(self._root)

    def clear(self) -> Iterator[None]:
        """Remove what was given up, and what interrupted runs have left of links, in steps."""
        for name in os.listdir(self._trees):
            if name.startswith(_LINK):
                os.unlink(name, dir_fd=self._trees)
            elif name.startswith(_OLD):
                yield from _remove(self._trees, name)

    def abandon(self) -> None:
        """Remove what there is of the tree that is built."""
        self.rest()
        with suppress(FileNotFoundError):
            self._give_up(_BUILDING)
        for _ in self.clear():
            pass

    def sweep(self, now: float) -> None:
        super().sweep(now)
        if self._building >= 0:
            return
        with suppress(OSError):
            found = os.stat(_BUILDING, dir_fd=self._trees, follow_symlinks=False)
            if now - found.st_mtime > LEFTOVER_SECONDS:
                self.abandon()

    # -- files

    def current(self, name: Sequence[str]) -> int | None:
        """The file in the tree that is built, or else in the current one."""
        found = super().current(name)
        if found is None and self._before >= 0:
            with suppress(RefusedError):  # a file was there that is a directory now
                found = self._open_ours(self._before, name)
        return found

    def adopt(self, fd: int, name: Sequence[str], mode: int, mtime_ns: int | None) -> bool:
        found = os.fstat(fd)
        times = {None, found.st_mtime_ns}
        same = stat.S_IMODE(found.st_mode) == mode & 0o777 and mtime_ns in times
        with self._parent_of(name, make=mode) as parent:
            assert parent is not None
            with suppress(FileNotFoundError):
                there = os.stat(name[-1], dir_fd=parent, follow_symlinks=False)
                if identity(there) == identity(found):
                    if not same and found.st_nlink == 1:  # else it is that of the current tree, too
                        settle(fd, mode, mtime_ns)
                    return same or found.st_nlink == 1
            if not same:
                return False
            self._require_ours(parent, name)
            return self._link_into(fd, parent, name[-1])

    def _link_into(self, fd: int, parent: int, last: str) -> bool:
        """Give a file another name. Returns False if the file system does not."""
        link = _LINK + os.urandom(12).hex()
        try:
            os.link(f"/proc/self/fd/{fd}", link, dst_dir_fd=self._trees, follow_symlinks=True)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        try:
            os.rename(link, last, src_dir_fd=self._trees, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(link, dir_fd=self._trees)
            raise
        return True

    def _changes(self, directory: int) -> None:
        """Nothing is to be done: settle_tree() does it, once for all files of a directory."""

    # -- directories

    def _open_trees(self) -> int:
        with suppress(FileExistsError):
            os.mkdir(TREES_DIRECTORY, 0o700, dir_fd=self._root)
        trees = os.open(TREES_DIRECTORY, DIRECTORY_FLAGS, dir_fd=self._root)
        try:
            if (owner := os.fstat(trees).st_uid) != self._owner:
                raise UnsafePathError(self._path / TREES_DIRECTORY, f"it belongs to uid {owner}", owner)
            with suppress(OSError):
                os.fchmod(trees, self._mode())
        except BaseException:
            os.close(trees)
            raise
        return trees

    def _mode(self) -> int:
        """The permission bits of a tree: as the output directory, but only its owner may write."""
        return 0o700 | os.fstat(self._root).st_mode & 0o055

    def _give_up(self, tree: str) -> None:
        os.rename(tree, _OLD + os.urandom(12).hex(), src_dir_fd=self._trees, dst_dir_fd=self._trees)

    def _require_link(self) -> None:
        """Raises SinkError if something has the name "current" and is no link of ours."""
        try:
            found = os.stat(CURRENT, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISLNK(found.st_mode) or found.st_uid != self._owner:
            kind = KINDS.get(stat.S_IFMT(found.st_mode), "a symbolic link")
            raise SinkError(
                f"cannot have a tree at {self._path / CURRENT}",
                f"it is {kind} of uid {found.st_uid}, and stays as it is",
                "move it away",
                reason=IN_THE_WAY,
                waits="trying again",
            )


def _keep_only(directory: int, above: tuple[str, ...], names: Collection[tuple[str, ...]]) -> None:
    """Remove all below a directory that has other names than these."""
    for entry in os.listdir(directory):
        name = (*above, entry)
        found = os.stat(entry, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            inner = os.open(entry, DIRECTORY_FLAGS, dir_fd=directory)
            try:
                _keep_only(inner, name, names)
            finally:
                os.close(inner)
            with suppress(OSError):  # it has files
                os.rmdir(entry, dir_fd=directory)
        elif name not in names:
            os.unlink(entry, dir_fd=directory)


def _settle_names(directory: int) -> Iterator[None]:
    for entry in os.listdir(directory):
        with suppress(NotADirectoryError):
            inner = os.open(entry, DIRECTORY_FLAGS, dir_fd=directory)
            try:
                yield from _settle_names(inner)
            finally:
                os.close(inner)
    os.fsync(directory)
    yield


def _remove(above: int, name: str) -> Iterator[None]:
    """Remove a directory and all that is in it, in steps."""
    directory = os.open(name, DIRECTORY_FLAGS, dir_fd=above)
    try:
        for entry in os.listdir(directory):
            found = os.stat(entry, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                yield from _remove(directory, entry)
            else:
                os.unlink(entry, dir_fd=directory)
            yield
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=above)
