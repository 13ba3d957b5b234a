"""A listening Unix socket that is one process's alone, for as long as it listens."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcastd.control.peer import peer_of
from mcastd.errors import ControlError, UnsafePathError, reason_of
from mcastd.paths import place_of

MODE = 0o660  # connecting takes write permission (unix(7)): the owner and the group have it


@contextmanager
def listen(path: Path) -> Iterator[socket.socket]:
    """Listen at ``path``; the socket file of a dead daemon is replaced, and ours is removed at the end.

    The parent directory is made if there is none. Raises ControlError if another process listens there,
    if the path is something else than a socket, if others may have put a link in its way, or if the system
    refuses.
    """
    _require_no_link_of_others(path)
    _has_socket(path)  # before a lock is made beside what is none
    made = False
    with _translated(path), suppress(FileExistsError):
        path.parent.mkdir(parents=True)
        made = True
    _require_no_link_of_others(path, made=made)  # nor one that came in the meantime
    with _locked(path), socket.socket(socket.AF_UNIX) as listener:
        with _translated(path):
            _remove_stale(path)
            # The file gets the mode of the socket less the umask, so that it is too wide at no moment.
            os.fchmod(listener.fileno(), MODE)
            listener.bind(str(path))
            _chmod_socket(path)
            ours = path.stat()
            listener.listen()
        try:
            yield listener
        finally:
            with suppress(OSError):
                if os.path.samestat(ours, path.stat()):
                    path.unlink()


def _require_no_link_of_others(path: Path, *, made: bool = False) -> None:
    """By such a link the socket and its lock would be made, and a dead one removed, where others choose.

    A directory that we have ``made`` is opened to all, whatever the umask is.
    """
    try:
        with place_of(path) as place:
            if made:
                os.chmod(f"/proc/self/fd/{place.directory}", 0o755)
    except OSError:  # what the path is used for next meets that, too
        pass
    except UnsafePathError as error:
        raise ControlError(f"control socket {path}", error.cause, OWN_DIRECTORY) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that goes with ``path``: a file with our pid in it.

    The file is never removed. That could happen between another's open() and flock(), and then two
    would each hold a lock.
    """
    lock = f"{path}.lock"
    with _translated(path):
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o644)
    with open(fd, "r+b", buffering=0) as file:
        if stranger := _stranger(os.fstat(fd)):
            raise ControlError(f"control socket {path}", f"{lock} is {stranger}", OWN_DIRECTORY)
        with _translated(path):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = file.read(20).strip()
                raise _in_use(path, f"mcastd (pid {pid.decode() if pid.isdigit() else 'unknown'})") from None
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
        yield


WAY_OUT = "run as root, or set daemon.control_socket to a path that you may write"
OWN_DIRECTORY = "remove it, or set daemon.control_socket to a path in a directory that only you may write"


def _stranger(found: os.stat_result) -> str:
    """What a file is that others may have put where ours is to be; "" if it is none of that."""
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_nlink > 1:
        return "a hard link"
    if found.st_uid not in (0, os.geteuid()):
        return f"a file of uid {found.st_uid}"
    return ""


def _chmod_socket(path: Path) -> None:
    """Undo the umask, of the socket and of nothing that others may have put in its place."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.chmod(f"/proc/self/fd/{fd}", MODE)
    finally:
        os.close(fd)


def _remove_stale(path: Path) -> None:
    """Make room at ``path``, unless what is there is alive or not a socket."""
    if not _has_socket(path):
        return
    # We hold the lock: if this is alive, it is another program's, or somebody removed the lock file.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog is an answer too
        match probe.connect_ex(str(path)):
            case 0:
                raise _in_use(path, f"pid {peer_of(probe).pid}")
            case errno.EAGAIN | errno.EPROTOTYPE:  # EPROTOTYPE: no stream socket
                raise _in_use(path, "another program")
            case errno.ECONNREFUSED:
                path.unlink()
            case error:
                raise OSError(error, os.strerror(error))


def _has_socket(path: Path) -> bool:
    """Return True if there is a socket at the path. Raises ControlError if there is something else."""
    with _translated(path), suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError(
                f"control socket {path}", "not a socket", "set daemon.control_socket to another path"
            )
        return True
    return False


def _in_use(path: Path, user: str) -> ControlError:
    return ControlError(
        f"control socket {path}", f"in use by {user}", "stop it, or set daemon.control_socket"
    )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"control socket {path}"
        if error.filename and str(error.filename) != str(path):
            what += f" ({error.filename})"
        raise ControlError(what, reason_of(error), WAY_OUT) from error
