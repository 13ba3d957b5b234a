"""Where a program on some host waits for what others send, and whether two settings mean the same place."""

from __future__ import annotations

import os.path
from ipaddress import ip_address
from typing import Literal, NamedTuple

from mcastd.config.addresses import end_of
from mcastd.ip import Address

# Names that every host has for itself: RFC 6761 section 6.3, and hosts(5) of Debian.
OF_THIS_HOST = {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"}


class ProgramEnd(NamedTuple):
    """A socket that is sent to."""

    way: Literal["udp", "tcp", "unix"]
    host: str  # an address or name; of "unix" a path
    port: int = 0  # of "unix" there is none

    @property
    def place(self) -> str:
        """As the configuration has it."""
        if self.way == "unix":
            return self.host
        return end_of(ip_address(self.host), self.port)

    def leads_to(self, other: ProgramEnd) -> bool:
        """Return True if what is sent here surely comes to ``other``, where a program of this host waits.

        Pure: names but those of this host, and which addresses it has beside the loopback's, are not known.
        """
        if self.way != other.way or self.port != other.port:
            return False
        if self.way == "unix":
            return os.path.normpath(self.host) == os.path.normpath(other.host)
        to, at = _address(self.host), ip_address(other.host)
        if to is None:
            return self.host.lower().rstrip(".") in OF_THIS_HOST and (at.is_loopback or at.is_unspecified)
        return to == at or (at.is_unspecified and to.is_loopback and to.version == at.version)


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
