"""Requests to the kernel by netlink(7), and its answers.

pyroute2 knows all of rtnetlink, at 214 ms and 32 MiB for each start of the daemon; the few messages that
multicast needs are this file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator

from mcastd.errors import SHORTAGES, CannotAskError, LinkError, reason_of
from mcastd.net import _abi

RECEIVE_BYTES = 1 << 18  # the kernel fills at most 32 KiB of it for one message of a dump
ANSWER_SECONDS = 5.0
# Where so much changes that a dump is never whole, news of it come, too.
DUMPS_MAX = 4

FORBIDDEN = frozenset(
    {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM}
)
"""Errors of socket(2) and bind(2) where a sandbox keeps the process from netlink, or the kernel has none."""


class Netlink:
    """A netlink socket that stays open, so that no question needs a new descriptor. For several threads."""

    def __init__(self, protocol: int = _abi.NETLINK_ROUTE) -> None:
        """Raises CannotAskError."""
        self._lock = threading.Lock()  # held from a question to its answer
        self._serial = 0
        self._is_torn = False  # something changed in the middle of the last dump
        self._socket = open_netlink(protocol)
        self._socket.settimeout(ANSWER_SECONDS)
        with contextlib.suppress(OSError):  # before Linux 4.20 a dump cannot be narrowed: it has all
            self._socket.setsockopt(_abi.SOL_NETLINK, _abi.NETLINK_GET_STRICT_CHK, 1)

    def ask(self, kind: int, header: bytes, *, dump: bool = False) -> list[bytes]:
        """The bodies of the kernel's answers: one, or all of a dump's.

        A dump in the middle of which something changed lacks some of it, or has it twice: it is asked for
        again, a few times.

        Raises LinkError with the errno that the kernel answered, CannotAskError if there was no answer.
        """
        with self._lock:
            try:
                for _ in range(DUMPS_MAX - 1):
                    self._is_torn = False
                    answers = [*self._ask(kind, header, dump)]
                    if not self._is_torn:
                        return answers
                return [*self._ask(kind, header, dump)]
            except OSError as error:
                raise cannot_ask(reason_of(error), error.errno or 0) from error

    def _ask(self, kind: int, header: bytes, dump: bool) -> Iterator[bytes]:
        self._serial = serial = (self._serial + 1) & 0xFFFFFFFF
        flags = _abi.NLM_F_REQUEST | (_abi.NLM_F_DUMP if dump else 0)
        size = _abi.nlmsghdr.size + len(header)
        self._socket.sendto(_abi.nlmsghdr.pack(size, kind, flags, serial, 0) + header, (0, 0))
        while True:
            for answer, flags, of, body in messages(self._socket.recv(RECEIVE_BYTES)):
                if of != serial:  # of an earlier question, whose asker did not wait for it
                    continue
                self._is_torn = self._is_torn or bool(flags & _abi.NLM_F_DUMP_INTR)
                if answer in (_abi.NLMSG_ERROR, _abi.NLMSG_DONE):
                    if refusal := -int.from_bytes(body[:4], sys.byteorder, signed=True):
                        raise _refused(refusal)
                    return
                yield body
                if not dump:
                    return

    def close(self) -> None:
        self._socket.close()


def open_netlink(protocol: int, groups: int = 0) -> socket.socket:
    """A netlink socket that hears of ``groups``. Raises CannotAskError."""
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol))
            sock.bind((0, groups))
        except OSError as error:
            if error.errno in FORBIDDEN:
                way_out = "add AF_NETLINK to RestrictAddressFamilies= of the service, and restart it"
                raise cannot_ask("this process may not use it", error.errno or 0, way_out) from error
            raise cannot_ask(reason_of(error), error.errno or 0) from error
        undo.pop_all()
    return sock


def cannot_ask(why: str, number: int, way_out: str = "") -> CannotAskError:
    """The error of a question that could not be sent, or had no answer."""
    what = "cannot ask the kernel for interfaces and routes (netlink)"
    return CannotAskError(what, why, way_out, waits="" if way_out else "trying again", errno=number)


def _refused(number: int) -> LinkError:
    """What the kernel answered instead of what it was asked for."""
    why = os.strerror(number).lower()
    if number in SHORTAGES:  # no answer
        return cannot_ask(why, number)
    return LinkError("the kernel refused an answer (netlink)", why, errno=number)


def request(
    kind: int, header: bytes, *, dump: bool = False, protocol: int = _abi.NETLINK_ROUTE
) -> list[bytes]:
    """One question over a socket of its own: see :meth:`Netlink.ask`."""
    with contextlib.closing(Netlink(protocol)) as netlink:
        return netlink.ask(kind, header, dump=dump)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The netlink messages of a datagram: type, flags, sequence number and body of each."""
    offset = 0
    while offset + _abi.nlmsghdr.size <= len(data):
        length, kind, flags, serial, _pid = _abi.nlmsghdr.unpack_from(data, offset)
        if length < _abi.nlmsghdr.size:
            return
        yield kind, flags, serial, data[offset + _abi.nlmsghdr.size : offset + length]
        offset += (length + 3) & ~3


def attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """The netlink attributes of a message, from ``offset`` bytes on: the type and data of each."""
    while offset + _abi.rtattr.size <= len(body):
        length, kind = _abi.rtattr.unpack_from(body, offset)
        if length < _abi.rtattr.size:
            return
        yield kind & 0x3FFF, body[offset + _abi.rtattr.size : offset + length]
        offset += (length + 3) & ~3


def attributes_of(body: bytes, offset: int) -> dict[int, bytes]:
    """The same by type; where a type comes several times, the last one."""
    return dict(attributes(body, offset))


def number(attribute: bytes) -> int:
    """An integer of any width; 0 if there is none."""
    return int.from_bytes(attribute, sys.byteorder)


def text(attribute: bytes) -> str:
    return attribute.rstrip(b"\0").decode(errors="surrogateescape")
