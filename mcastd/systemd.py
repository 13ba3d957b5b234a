"""What a service tells systemd: the sd_notify(3) protocol. Without systemd all of it does nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress

from mcastd import clock
from mcastd.errors import SHORTAGES
from mcastd.printable import printable

# Messages that are kept while systemd does not read.
KEPT_MESSAGES = 16
# Of these a newer message makes an older one void.
SUPERSEDED = frozenset({"STATUS", "WATCHDOG"})
# The number of the first descriptor that is handed over (sd_listen_fds(3)).
FIRST_DESCRIPTOR = 3
# WATCHDOG_USEC from here on means none (sd_watchdog_enabled(3)).
WATCHDOG_NEVER = (1 << 64) - 1
# Seconds between signs of life at least.
WATCHDOG_MIN_SECONDS = 0.01


def is_listening() -> bool:
    """Return True if anybody wants to be notified."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def ready(status: str) -> None:
    """Start-up or a reload is complete."""
    notify(READY=1, STATUS=status)


def reloading() -> None:
    """A reload begins; :func:`ready` must follow, also when it was refused."""
    # Later than the time of the request, by which systemd tells this reload from an earlier one.
    notify(RELOADING=1, MONOTONIC_USEC=int(clock.monotonic() * 1e6))


def stopping() -> None:
    notify(STOPPING=1)


def status(text: str) -> None:
    """One line for ``systemctl status``."""
    notify(STATUS=text)


def watchdog() -> None:
    """A sign of life; due every :func:`watchdog_interval`."""
    notify(WATCHDOG=1)


def watchdog_interval() -> float | None:
    """Seconds between signs of life, half of what WatchdogSec= allows; None if systemd wants none of us."""
    try:
        microseconds = int(os.environ["WATCHDOG_USEC"])
        pid = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    if not 0 < microseconds < WATCHDOG_NEVER or pid != os.getpid():
        return None
    return max(WATCHDOG_MIN_SECONDS, microseconds / 2e6)


class DescriptorStore:
    """Descriptors that outlive a restart of the service (FileDescriptorStoreMax=). Nothing blocks or raises.

    systemd forgets by itself what has an error or a hang-up, like a pipe whose reader has gone.
    """

    def add(self, name: str, fd: int) -> None:
        """Have ``fd`` kept. ``name`` is ASCII without colons, at most 255 of it."""
        _send(_encoded({"FDSTORE": 1, "FDNAME": name}), (fd,))

    def remove(self, name: str) -> None:
        _send(_encoded({"FDSTOREREMOVE": 1, "FDNAME": name}))


def take_stored() -> list[tuple[str, int]]:
    """The stored descriptors, by their names, handed over at the start; once."""
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    if pid != str(os.getpid()) or count != str(len(names)):
        return []
    handed_over = []
    for fd, name in enumerate(names, FIRST_DESCRIPTOR):
        with suppress(OSError):  # there is none of this number
            os.set_inheritable(fd, False)
            if name:
                handed_over.append((name, fd))
    return handed_over


def notify(**assignments: object) -> None:
    """Send ``NAME=value`` assignments in one message to $NOTIFY_SOCKET. Never raises, and never blocks.

    If systemd does not read now, the message is kept, and goes with the next one or by :func:`send_kept`.
    """
    if is_listening():
        with _lock:
            if assignments.keys() <= SUPERSEDED:
                _kept[:] = [kept for kept in _kept if kept[0] != assignments.keys()]
            _kept.append((frozenset(assignments), _encoded(assignments)))
            del _kept[:-KEPT_MESSAGES]
        send_kept()


def send_kept() -> bool:
    """Send what could not be sent yet. Returns False if systemd still does not read: call it again."""
    with _lock:
        while _kept and _send(_kept[0][1]):
            del _kept[0]
        return not _kept


def _encoded(assignments: Mapping[str, object]) -> bytes:
    # A value is one line: what follows a line break would be an assignment of its own.
    # What is in it is shown by `systemctl status`, on a terminal.
    values = {name: printable(" ".join(str(value).splitlines())) for name, value in assignments.items()}
    lines = [f"{name}={value}" for name, value in values.items()]
    return "\n".join(lines).encode(errors="replace")


def _send(message: bytes, fds: Sequence[int] = ()) -> bool:
    """Send a message, with descriptors. Returns False if it is to be tried again; never blocks or raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):  # in the abstract namespace (unix(7))
        address = "\0" + address[1:]
    if not address:
        return True
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.connect(address)
            socket.send_fds(connection, [message], fds)
    except OSError as error:
        return error.errno not in SHORTAGES
    except ValueError:  # no path that a socket can have
        return True
    return True


_lock = threading.Lock()
_kept: list[tuple[Set[str], bytes]] = []  # messages that wait to be sent, with what they assign
