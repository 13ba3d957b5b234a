"""Errors that a user can meet: each names the thing, the cause and the way out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The process or the host is out of descriptors, memory or threads now: nothing can be concluded from it.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
# By the errno of a shortage, as whoever runs the service can end it.
SHORTAGE_WAYS_OUT = {
    errno.EMFILE: "raise LimitNOFILE= of the service",
    errno.ENFILE: "raise the sysctl fs.file-max of this host",
    errno.ENOMEM: "raise MemoryMax= of the service, or give this host more memory",
    errno.EAGAIN: "raise TasksMax= of the service",
}
# By the errno of what refuses an address and port to listen at, or to bind.
LOW_PORTS = "ports below 1024 take root or CAP_NET_BIND_SERVICE: see the drop-in for them in mcastd(8)"
LISTENING_WAYS_OUT = {
    errno.EADDRINUSE: "another program has this port; stop it, or choose another port",
    errno.EACCES: LOW_PORTS,
    errno.EADDRNOTAVAIL: "choose an address of this host",
    errno.EMFILE: SHORTAGE_WAYS_OUT[errno.EMFILE],
}

# In a line for the configuration: a string that the user has to choose.
ANY_TEXT = '"..."'
# Of troubles that are alike, those that are told of.
TOLD_MAX = 3


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A way out that is a change of a setting: ``set interface = "eth0", or add a route to the group``."""

    key: str  # of the configuration
    value: str = ""  # as TOML has it; ANY_TEXT, or "", leaves it to the user
    then: str = ""  # what follows in the sentence
    verb: str = "set"
    argument: str = ""  # the value as an option of a command has it, if that is not the same

    def __str__(self) -> str:
        return f"{self.verb} {self.key}{f' = {self.value}' if self.value else ''}{self.then}"

    def by_option(self, option: str) -> str:
        """The same for a command, which has ``option`` for the key: ``give --interface eth0, or ...``."""
        verb = "give" if self.verb == "set" else self.verb
        value = self.argument or ("" if self.value == ANY_TEXT else self.value.strip('"'))
        return " ".join(filter(None, (verb, option, value))) + self.then


class McastdError(Exception):
    """Base of every error whose text is meant for the user; anything else that escapes a worker is a bug.

    The text reads ``WHAT: CAUSE; WAY OUT; WAITS``, for example
    ``cannot join 239.1.1.2 on eth7: no such interface (have: eth0, lo); waiting for it``.
    ``way_out`` is what a person can do, ``waits`` what the program does meanwhile; each may be empty.
    A program decides on ``errno``, which is 0 if the kernel has no part in it, and on ``change``, the setting
    that a way out is about.
    """

    def __init__(
        self, what: str, cause: str, way_out: str | SettingChange = "", *, waits: str = "", errno: int = 0
    ) -> None:
        self.what = what
        self.cause = cause
        self.way_out = str(way_out)
        self.change = way_out if isinstance(way_out, SettingChange) else None
        self.waits = waits
        self.errno = errno
        super().__init__(what, cause, self.way_out)

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.trouble, self.waits)))

    @property
    def trouble(self) -> str:
        """The text without what the program does meanwhile."""
        return "; ".join(filter(None, (f"{self.what}: {self.cause}", self.way_out)))

    @property
    def code(self) -> str:
        """The errno by its name, such as "EPERM"; "" if there is none."""
        return errno.errorcode.get(self.errno, "")


class UnsafePathError(McastdError):
    """A path leads by what others may have put there; ``uid`` owns that."""

    def __init__(self, path: object, cause: str, uid: int) -> None:
        self.uid = uid
        super().__init__(f"cannot use {path}", f"{cause}, in a directory that others may write")


class SourceError(McastdError):
    """An outbound channel's source cannot be read now; it may become readable later."""


class SinkError(McastdError):
    """An output does not take datagrams now; they are counted under ``reason``, reception goes on."""

    def __init__(
        self, what: str, cause: str, way_out: str = "", *, reason: str, waits: str = "", errno: int = 0
    ) -> None:
        super().__init__(what, cause, way_out, waits=waits, errno=errno)
        self.reason = reason


class ControlError(McastdError):
    """The control socket cannot be served or reached."""


class LinkError(McastdError):
    """The network refused an operation. Translated from OSError in ``net/`` and nowhere else."""

    def __init__(
        self,
        what: str,
        cause: str,
        way_out: str | SettingChange = "",
        *,
        waits: str = "",
        errno: int = 0,
        group: str = "",
        interface: str | None = None,
    ) -> None:
        super().__init__(what, cause, way_out, waits=waits, errno=errno)
        self.group = group
        self.interface = interface


class NoArenaError(LinkError):
    """There is no memory now for the buffers to receive into. Nothing was received: the kernel holds it."""


class CannotAskError(LinkError):
    """The kernel could not be asked what the network is like.

    That is no answer, and never "there is none": whoever has something that works keeps it, and asks again.
    """


@dataclass(frozen=True, slots=True, order=True)
class ConfigProblem:
    """One thing wrong in the configuration: ``file:line: path: reason``; line 0 is the file as a whole."""

    file: str
    line: int
    path: str
    reason: str
    warning: bool = False  # it is legal, and unwise

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        reason = f"warning: {self.reason}" if self.warning else self.reason
        return f"{where}: {self.path}: {reason}" if self.path else f"{where}: {reason}"


class ConfigError(Exception):
    """The configuration is refused, with everything that is wrong in it, in the order of the text."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def reason_of(error: Exception) -> str:
    """The kernel's own words for an OSError, lower-case first letter, without the number or the path.

    Of any other error its text.
    """
    if not isinstance(error, OSError):
        return str(error)
    text = error.strerror or (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def first_told(troubles: Iterable[str], what: str) -> list[str]:
    """Of troubles that are alike, the first few, and how many more ``what`` have one.

    There may be one for each group that strangers ask for.
    """
    found = [*dict.fromkeys(troubles)]
    more = len(found) - TOLD_MAX
    return found[:TOLD_MAX] + ([f"and {more} more {what}"] if more > 0 else [])
