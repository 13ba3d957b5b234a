"""What a service tells systemd: the sd_notify(3) protocol. Without systemd all of it does nothing."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from mcastd import clock

SEND_TIMEOUT = 5.0  # seconds for a message to be queued: systemd may be slow, it must not hang us


def is_listening() -> bool:
    """Whether anybody wants to be notified."""
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
    return microseconds / 2e6 if microseconds > 0 and pid == os.getpid() else None


def notify(**assignments: object) -> None:
    """Send ``NAME=value`` assignments in one message to $NOTIFY_SOCKET. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # in the abstract namespace (unix(7))
        address = "\0" + address[1:]
    # A value is one line: what follows a line break would be an assignment of its own.
    lines = [f"{name}={' '.join(str(value).splitlines())}" for name, value in assignments.items()]
    # Connected, because a time-out waits for room at the peer's only then.
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(SEND_TIMEOUT)
        connection.connect(address)
        connection.send("\n".join(lines).encode(errors="replace"))
