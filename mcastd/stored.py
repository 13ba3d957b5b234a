"""Descriptors that outlive the process, since its service manager keeps copies of them."""

from __future__ import annotations

from typing import Protocol

# What the names of the kernel's multicast routing tables begin with; the IP version follows.
TABLES = "mroute"


class Store(Protocol):
    """Holds descriptors while the daemon is restarted. Neither method blocks or raises."""

    def add(self, name: str, fd: int) -> None: ...

    def remove(self, name: str) -> None: ...
