"""Sockets that programs find at a path: unix(7). One that a dead program has left there is replaced.

What cleans /tmp or /run may remove the path, which the kernel tells nobody: so it is looked at.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from mcastd import clock
from mcastd.errors import SourceError, UnsafePathError, reason_of
from mcastd.paths import KINDS, FileIdentity, Place, identity, leads_nowhere, place_of

# Between two looks whether the path is still there.
LOOK_SECONDS = 1.0
_OTHER_PATH = "give another path"
_WRITABLE = "give a path in a directory that the daemon's user may write, as /run/mcastd"


class PathBinding:
    """Gives a socket a path, and removes that at the end, if it is still this socket's."""

    def __init__(self, path: Path, mode: int) -> None:
        """``mode`` are the permission bits of the socket: whoever may write may send."""
        self._path = path
        self._mode = mode
        self._ours: FileIdentity | None = None
        self._look_at = 0.0  # monotonic seconds

    @property
    def is_lost(self) -> bool:
        """Return True if the path was removed, or leads to something else by now. For any thread."""
        if (ours := self._ours) is None:
            return False
        try:
            return identity(os.lstat(self._path)) != ours
        except OSError as error:
            return leads_nowhere(error)

    def look(self) -> bool:
        """The same, which is looked at once in a while."""
        if (now := clock.monotonic()) < self._look_at:
            return False
        self._look_at = now + LOOK_SECONDS
        return self.is_lost

    def bind(self, sock: socket.socket) -> None:
        """Directories that are missing are made. Raises SourceError."""
        try:
            with place_of(self._path, make=True) as place:
                self._make_room(place, sock.type)
                # The file gets the mode of the socket less the umask, so that it is too wide at no moment
                os.fchmod(sock.fileno(), self._mode)
                sock.bind(_name_of(place))
                self._ours = place.identity()
                self._set_mode(place)
        except UnsafePathError as error:
            raise self._error(error.cause, "give a path in a directory of the daemon's own") from error
        except OSError as error:
            number = error.errno or 0
            way_out = _WRITABLE if number in {errno.EACCES, errno.EROFS} else ""
            raise self._error(reason_of(error), way_out, waits="trying again", number=number) from error

    def remove(self) -> None:
        if self._ours is None:
            return
        with suppress(OSError, UnsafePathError), place_of(self._path) as place:
            if place.identity() == self._ours:
                place.remove(place.name)
        self._ours = None

    def _make_room(self, place: Place, type: int) -> None:
        """Remove what a dead program has left. Raises OSError, SourceError."""
        try:
            found = place.look()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            raise self._error(f"it is not a socket but {kind}", _OTHER_PATH)
        if not place.ours and found.st_uid not in {0, os.geteuid()}:
            raise self._error(f"it belongs to uid {found.st_uid}", _OTHER_PATH)
        with socket.socket(socket.AF_UNIX, type) as probe:
            probe.setblocking(False)  # that many wait is an answer, too
            match probe.connect_ex(_name_of(place)):
                case errno.ECONNREFUSED:
                    place.remove(place.name)
                case 0 | errno.EAGAIN | errno.EPROTOTYPE:
                    cause = "another program has it"
                    raise self._error(cause, f"stop that, or {_OTHER_PATH}", number=errno.EADDRINUSE)
                case number:
                    raise OSError(number, os.strerror(number))

    def _set_mode(self, place: Place) -> None:
        """Undo the umask, of the socket and of nothing that others may have put in its place."""
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory)
        try:
            if identity(os.fstat(fd)) == self._ours:
                os.chmod(f"/proc/self/fd/{fd}", self._mode)
        finally:
            os.close(fd)

    def _error(self, cause: str, way_out: str = "", *, waits: str = "", number: int = 0) -> SourceError:
        return SourceError(f"cannot receive at {self._path}", cause, way_out, waits=waits, errno=number)


def _name_of(place: Place) -> str:
    """Its name as of a directory that nobody can exchange."""
    return f"/proc/self/fd/{place.directory}/{place.name}"
