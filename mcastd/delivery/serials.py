"""The newest manifest that was taken of each signer and channel, on disk: an older one is never taken again.

Each has a file of its own with one line, which is replaced at once or not at all:

    mcastd-serial 1 SERIAL DIGEST

A disk that fails, or a file that makes no sense, stops nobody. What is known in memory goes on to hold; what
is not known is as on a host that receives for the first time, where ``expires`` bounds what can be replayed.
It is told once, and again when it comes again after a success.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from mcastd.delivery.keys import sync_directory
from mcastd.errors import SHORTAGES, McastdError, UnsafePathError, reason_of
from mcastd.keytext import GroupKey, VerifyingKey
from mcastd.paths import place_of
from mcastd.printable import printable
from mcastd.protocols.manifest import SERIAL_MAX, Seen

# No file of ours is longer.
STATE_MAX_BYTES = 256
STATE_MODE = 0o600
# Where state is kept without systemd; with it, $STATE_DIRECTORY says (StateDirectory= in systemd.exec(5)).
STATE_DIRECTORY = Path("/var/lib/mcastd")

Signer = VerifyingKey | GroupKey
"""The key that a serial is counted for: that of the signature, or of the seal of an unsigned manifest."""

_LINE = re.compile(rb"mcastd-serial 1 ([0-9]{1,20}) ([0-9a-f]{64})\n")


def state_directory() -> Path:
    """The directory of this daemon's state."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given) if given else STATE_DIRECTORY


class StateError(McastdError):
    """Serials cannot be kept, or what was kept cannot be read.

    ``reason`` is "corrupt", "unreadable" or "unwritable"; the last two have an ``errno`` mostly.
    """

    def __init__(self, what: str, cause: str, way_out: str = "", *, reason: str, errno: int = 0) -> None:
        self.reason = reason
        super().__init__(what, cause, way_out, errno=errno)


class SerialsExhaustedError(McastdError):
    """A channel has used the highest serial there is."""


class Serials:
    """What was taken of each signer and channel. Used by one thread."""

    def __init__(self, directory: Path, tell: Callable[[StateError], None]) -> None:
        """``tell`` is called with what is wrong with the state, once until it could be written."""
        self._directory = directory
        self._tell = tell
        self._known: dict[Path, Seen | None] = {}
        self._unwritten: set[Path] = set()
        self._unread: set[Path] = set()  # for want of descriptors or memory: they are read again
        self._told: set[tuple[Path, str]] = set()  # reasons, since it was written

    def newest(self, signers: Iterable[Signer], channel: str) -> Seen | None:
        """The newest manifest that was taken of any of ``signers``; None if none is known.

        Name all that are trusted now: else, once a channel has a new signer, the last manifest of the one
        before could come back.
        """
        taken = (self._newest(signer, channel) for signer in signers)
        return max((seen for seen in taken if seen is not None), default=None)

    def _newest(self, signer: Signer, channel: str) -> Seen | None:
        path = self._path(signer, channel)
        if path not in self._known or path in self._unread:
            both = self._known.get(path), self._read(path)
            self._known[path] = max(filter(None, both), default=None)
        return self._known[path]

    def keep(self, signer: Signer, channel: str, seen: Seen) -> None:
        """Remember a manifest that is taken, here and on disk. An older one than is known changes nothing."""
        path = self._path(signer, channel)
        newest = self._newest(signer, channel)
        if newest is not None and newest.serial > seen.serial:
            return
        if newest != seen or path in self._unwritten:
            self._known[path] = seen
            on_disk = self._read(path)
            if on_disk is None or on_disk.serial <= seen.serial:  # else another worker has taken a newer one
                self._write(path, seen)

    def next(self, signer: Signer, channel: str, now_ns: int) -> int:
        """The serial of the manifest that a sender makes next: the time, or more if that was used already.

        So it rises when the state is lost, and when the clock steps back. Raises SerialsExhaustedError.
        """
        newest = self._newest(signer, channel)
        serial = max(now_ns, 0 if newest is None else newest.serial + 1)
        if serial > SERIAL_MAX:
            raise SerialsExhaustedError(
                f"cannot sign a manifest of {channel}",
                f"its serials are used up, up to {SERIAL_MAX}",
                "set the clock, and make another signing pair: mcastd keygen --sign",
            )
        return serial

    def _path(self, signer: Signer, channel: str) -> Path:
        return self._directory / f"serial-{signer.id.hex()}-{channel}"

    def _read(self, path: Path) -> Seen | None:
        what = f"cannot read the newest serial from {printable(path)}"
        self._unread.discard(path)
        try:
            with place_of(path) as place:
                fd = place.open(os.O_RDONLY)
                try:
                    found = _LINE.fullmatch(os.read(fd, STATE_MAX_BYTES))
                finally:
                    os.close(fd)
        except FileNotFoundError:
            return None
        except (OSError, UnsafePathError) as error:
            self._say(path, _state_error(what, error, "unreadable"))
            if isinstance(error, OSError) and error.errno in SHORTAGES:
                self._unread.add(path)
            return None
        if found is None or int(found[1]) > SERIAL_MAX:
            way_out = "the next manifest is taken as the first one, and written there"
            self._say(path, StateError(what, "it is not what was written there", way_out, reason="corrupt"))
            return None
        return Seen(int(found[1]), bytes.fromhex(found[2].decode()))

    def _write(self, path: Path, seen: Seen) -> None:
        line = b"mcastd-serial 1 %d %s\n" % (seen.serial, seen.digest.hex().encode())
        try:
            _replace(path, line)
        except (OSError, UnsafePathError) as error:
            self._unwritten.add(path)
            what = f"cannot keep the newest serial in {printable(path)}"
            self._say(path, _state_error(what, error, "unwritable"))
        else:
            self._unwritten.discard(path)
            self._told = {told for told in self._told if told[0] != path}

    def _say(self, path: Path, error: StateError) -> None:
        if (path, error.reason) not in self._told:
            self._told.add((path, error.reason))
            self._tell(error)


def _state_error(what: str, error: OSError | UnsafePathError, reason: str) -> StateError:
    if isinstance(error, UnsafePathError):
        return StateError(what, error.cause, reason=reason)
    way_out = "until that is mended, an old manifest can be replayed after a restart"
    return StateError(what, reason_of(error), way_out, reason=reason, errno=error.errno or 0)


def _replace(path: Path, line: bytes) -> None:
    """Put a file of one line where ``path`` is, whole, and to the disk. Raises OSError, UnsafePathError."""
    with place_of(path.with_name(f"{path.name}.new"), make=True) as place:
        with suppress(FileNotFoundError):
            place.remove(place.name)  # left by a run that was killed just then
        fd = place.create(0, STATE_MODE)
        try:
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
        place.rename(place.name, path.name)
        sync_directory(place.directory)
