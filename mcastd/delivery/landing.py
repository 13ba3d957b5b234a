"""The directory that received files land in: each whole at once, and nowhere else.

```
 DIRECTORY/                        the output's own; one daemon at a time receives into it
     .mcastd-partial/              files on their way; no other user may enter
         5f3a...                   one that can be gone on with after a restart, by the digest of its name
         once-8c1d...              one that cannot, where files without a name are not possible
     images/lab.img                landed: renamed from there, so old or new, and never half
```

Every directory on the way is opened from the one before it, and no symbolic link is followed: whoever may
write below the directory can put one there. What a file replaces must be ours: a regular file of the same
owner as those that we make there. Anything else (a directory, a device, a symbolic link, somebody else's
file) stays, and the object is refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mcastd.delivery.directories import (
    DIRECTORY_FLAGS,
    in_the_way,
    open_root,
    other_file_system,
    parent_of,
)
from mcastd.delivery.names import PARTIAL_DIRECTORY, require_safe
from mcastd.delivery.refused import RefusedError
from mcastd.delivery.settling import UnsettledNames, settle
from mcastd.errors import SinkError, UnsafePathError
from mcastd.paths import PARENT_MODE, identity, mode_around, place_of

# After so long without a write, what was left of an unfinished file is removed.
LEFTOVER_SECONDS = 7 * 86_400.0
# The reason of a SinkError: another process receives into the directory.
IN_USE = "in-use"

_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# How a file system says that it has no files without a name (open(2), O_TMPFILE).
_NO_ANONYMOUS_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
# Errors that tell that a path leads to nothing, or that what it led to is no more.
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE}
# Names of files that no later run can use begin with it.
_ONCE = "once-"


class LostError(OSError):
    """What has come of a file is not there any more, or not for certain: it has to begin anew."""


@dataclass(slots=True)
class Partial:
    """A file that is being received, open for reading and writing."""

    fd: int
    name: str
    """In the directory of partial files; "" while it has none."""
    found: bool = False
    """An earlier run has left it, and maybe something in it."""


class Landing:
    """An output directory. One thread uses it; :meth:`open` comes first. All raise OSError."""

    def __init__(self, path: Path, mode: int | None = None) -> None:
        """If it is missing it is made for files of ``mode``; None: those of which nothing is known."""
        self._path = path
        self._root_mode = PARENT_MODE if mode is None else mode_around(mode)
        self._root = -1
        self._partials = -1
        self._owner = -1  # uid of the files that we make there
        self._anonymous = False  # files without a name are possible there
        self._names: set[str] = set()  # of the partial files in use
        self._unsettled = UnsettledNames()

    @property
    def _files(self) -> int:
        """The directory below which files land."""
        return self._root

    def open(self) -> None:
        """Open the directory, made if it is missing. Raises UnsafePathError, SinkError (``IN_USE``)."""
        if self._root >= 0:
            return
        try:
            self._root = open_root(self._path, self._root_mode)
            self._partials = self._open_partials()
            self._probe()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory. The directory of partial files is removed if nothing is in it."""
        self.settle_names()
        if self._partials >= 0:
            with suppress(OSError):
                os.rmdir(PARTIAL_DIRECTORY, dir_fd=self._root)
            os.close(self._partials)
        if self._root >= 0:
            os.close(self._root)
        self._root = self._partials = -1

    def is_moved(self) -> bool:
        """Return True if the path leads elsewhere by now, or to nothing, or no file can be received there.

        False while that cannot be asked, as for want of descriptors.
        """
        try:
            partials = os.stat(PARTIAL_DIRECTORY, dir_fd=self._root, follow_symlinks=False)
            if identity(partials) != identity(os.fstat(self._partials)):
                return True
            with place_of(self._path) as place:
                return place.identity() != identity(os.fstat(self._root))
        except UnsafePathError:
            return True
        except OSError as error:
            return error.errno in GONE

    def sweep(self, now: float) -> None:
        """Remove what earlier runs have left and no later one can use; ``now`` is in seconds since 1970."""
        left: list[str] = []
        with suppress(OSError):
            left = [name for name in os.listdir(self._partials) if name not in self._names]
        for name in left:
            with suppress(OSError):
                found = os.stat(name, dir_fd=self._partials, follow_symlinks=False)
                if name.startswith(_ONCE) or now - found.st_mtime > LEFTOVER_SECONDS:
                    os.unlink(name, dir_fd=self._partials)

    def has_free_bytes(self, size: int) -> bool:
        """Return True if the file system has ``size`` bytes free: statvfs(3), which knows no quota."""
        found = os.fstatvfs(self._root)
        return found.f_bavail * found.f_frsize >= size

    def count_files(self, most: float) -> int:
        """How many files there are, whoever made them; at least ``most`` if there are more."""
        count = 0
        for _, directories, files, _ in os.fwalk(".", dir_fd=self._files):
            directories[:] = [name for name in directories if name != PARTIAL_DIRECTORY]
            count += len(files)
            if count >= most:
                break
        return count

    def require_free(self, name: Sequence[str]) -> bool:
        """Raises RefusedError if a file cannot land as ``name``, as far as that is known before.

        Returns True if no file has that name.
        """
        require_safe(name)
        with self._parent_of(name) as parent:
            return parent is None or self._require_ours(parent, name)

    def begin(self, name: Sequence[str], *, resumable: bool) -> Partial:
        """A file to receive ``name`` into: what an earlier run has left of it if it is ``resumable``.

        One that is not is gone when the process dies, or is removed by a later :meth:`sweep`.
        """
        if not resumable and self._anonymous:
            return Partial(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=self._partials), "")
        partial = self._make(_digest(name) if resumable else _ONCE + os.urandom(12).hex())
        self._names.add(partial.name)
        return partial

    def current(self, name: Sequence[str]) -> int | None:
        """The file of ours that has the name now, open for reading; None if there is none."""
        return self._open_ours(self._files, name)

    def adopt(self, fd: int, name: Sequence[str], mode: int, mtime_ns: int | None) -> bool:
        """Have the file that :meth:`current` gave, which is the object already, as if it had landed.

        Returns False if it has to be copied for that. Raises RefusedError, and OSError as :func:`settle`.
        """
        settle(fd, mode, mtime_ns)
        return True

    def land(self, partial: Partial, name: Sequence[str], mode: int) -> bool:
        """Give a whole file its name, in place of what of ours has it. Returns True if nothing had it.

        :func:`settle` it before, and :meth:`settle_names` after it and some others.

        Who may read it by its ``mode`` may enter the directories that are made for it. The partial file is
        closed, unless this raises: also RefusedError, LostError.
        """
        require_safe(name)
        with self._parent_of(name, make=mode) as parent:
            assert parent is not None
            is_new = self._require_ours(parent, name)
            if not partial.name:
                self._link(partial)
            self._require_there(partial)
            self._changes(parent)  # before it has its name: this may fail
            try:
                os.rename(partial.name, name[-1], src_dir_fd=self._partials, dst_dir_fd=parent)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise other_file_system(name) from error
                raise
            self._release(partial)
        return is_new

    def settle_names(self) -> None:
        """Have the names of landed files on the disk: until then a crash of the host may take them back."""
        self._unsettled.settle()

    def _changes(self, directory: int) -> None:
        """Note that names in a directory are to be settled."""
        self._unsettled.note(directory)

    def set_aside(self, partial: Partial) -> None:
        """Close a file that is not whole yet; a later run finds it if it is resumable."""
        if partial.name.startswith(_ONCE):
            self.discard(partial)
        else:
            self._release(partial)

    def discard(self, partial: Partial) -> None:
        """Remove a file that is not wanted any more."""
        with suppress(OSError):
            if partial.name:
                os.unlink(partial.name, dir_fd=self._partials)
        self._release(partial)

    def _release(self, partial: Partial) -> None:
        self._names.discard(partial.name)
        fd, partial.fd, partial.name = partial.fd, -1, ""
        with suppress(OSError):  # of a lost write: what was to be kept is on the disk already
            os.close(fd)

    def _open_partials(self) -> int:
        with suppress(FileExistsError):
            os.mkdir(PARTIAL_DIRECTORY, 0o700, dir_fd=self._root)
        fd = os.open(PARTIAL_DIRECTORY, DIRECTORY_FLAGS, dir_fd=self._root)
        try:
            self._require_alone(fd)
            with suppress(OSError):  # not every file system has modes
                os.fchmod(fd, 0o700)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _require_alone(self, partials: int) -> None:
        """Raises SinkError if another process receives into the directory."""
        try:
            fcntl.flock(partials, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SinkError(
                f"cannot receive into {self._path}",
                "another process does",
                "give each a directory of its own",
                reason=IN_USE,
            ) from None
        except OSError:  # not every file system has locks on directories
            pass

    def _probe(self) -> None:
        """See whose the files are that we make, and whether they need a name."""
        self._anonymous = os.path.isdir("/proc/self/fd")
        if self._anonymous:
            try:
                probe = self.begin((), resumable=False)
            except OSError as error:
                if error.errno not in _NO_ANONYMOUS_FILES:
                    raise
                self._anonymous = False
        if not self._anonymous:
            probe = self.begin((), resumable=False)
        try:
            self._owner = os.fstat(probe.fd).st_uid
        finally:
            self.discard(probe)
        if (owner := os.fstat(self._partials).st_uid) != self._owner:
            raise UnsafePathError(self._path / PARTIAL_DIRECTORY, f"it belongs to uid {owner}", owner)

    def _make(self, name: str) -> Partial:
        """Open what is left under a name in the directory of partial files, or make it."""
        with suppress(FileNotFoundError):
            partial = Partial(os.open(name, _FILE, dir_fd=self._partials), name, found=True)
            try:
                found = os.fstat(partial.fd)
            except BaseException:
                self._release(partial)
                raise
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                return partial
            self.discard(partial)
        return Partial(os.open(name, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._partials), name)

    def _link(self, partial: Partial) -> None:
        """Give a file without a name one in the directory of partial files."""
        name = _ONCE + os.urandom(12).hex()
        os.link(f"/proc/self/fd/{partial.fd}", name, dst_dir_fd=self._partials, follow_symlinks=True)
        partial.name = name
        self._names.add(name)

    def _require_there(self, partial: Partial) -> None:
        """Raises LostError if a partial file was removed, or another one has its name."""
        with suppress(FileNotFoundError):
            found = os.stat(partial.name, dir_fd=self._partials, follow_symlinks=False)
            if identity(found) == identity(os.fstat(partial.fd)):
                return
        raise LostError(errno.ENOENT, f"a file was removed from {PARTIAL_DIRECTORY} before it had its name")

    def _open_ours(self, root: int, name: Sequence[str]) -> int | None:
        """Open the file of ours that has a name below a directory, for reading; None if there is none."""
        with self._parent_of(name, root=root) as parent, suppress(OSError, RefusedError):
            if parent is not None:
                self._require_ours(parent, name)
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                return os.open(name[-1], flags, dir_fd=parent)
        return None

    @contextmanager
    def _parent_of(
        self, name: Sequence[str], make: int | None = None, root: int | None = None
    ) -> Iterator[int | None]:
        """The directory of a name, open: see :func:`parent_of`. It is on the file system of the output."""
        with parent_of(self._files if root is None else root, name, make) as parent:
            if parent is not None and os.fstat(parent).st_dev != os.fstat(self._root).st_dev:
                raise other_file_system(name)
            yield parent

    def _require_ours(self, parent: int, name: Sequence[str]) -> bool:
        """Raises RefusedError if what has the name is not a regular file of ours.

        Returns True if nothing has it.
        """
        try:
            found = os.stat(name[-1], dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if not stat.S_ISREG(found.st_mode) or found.st_uid != self._owner:
            raise in_the_way(name, name, parent)
        return False


def _digest(name: Sequence[str]) -> str:
    return hashlib.sha256(os.fsencode("/".join(name))).hexdigest()[:32]
