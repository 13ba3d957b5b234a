"""Where a program or an engine waits for what others send, and whether two settings mean the same place."""

from __future__ import annotations

import os.path
from ipaddress import ip_address
from typing import Literal, NamedTuple

from mcastd.config.addresses import end_of
from mcastd.ip import Address
from mcastd.protocols.nats import matches

# Names that every host has for itself: RFC 6761 section 6.3, and hosts(5) of Debian.
OF_THIS_HOST = {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"}
ENGINES = {"nats", "redis"}


class ProgramEnd(NamedTuple):
    """A socket that is sent to; one that gives ("tcp-server"); what an engine keeps messages under."""

    way: Literal["udp", "tcp", "unix", "tcp-server", "nats", "redis"]
    host: str  # an address or name; of "unix" a path
    port: int = 0  # of "unix" there is none
    name: str = ""  # of an engine, the subject or key, of what takes from it a pattern; "": it is not known
    stream: str = ""  # of "nats", that keeps the messages; "": any
    # Of an engine: hosts and ports of its other servers, which have the same messages
    others: tuple[tuple[str, int], ...] = ()

    @property
    def is_shared(self) -> bool:
        """Return True if several may take what is sent there."""
        return self.way in {"tcp-server", *ENGINES}

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
        if self.way != other.way:
            return False
        if self.way in ENGINES:
            return self._shares_a_server(other) and self._is_taken_by(other)
        return self.port == other.port and self._leads_to_program(other)

    def _leads_to_program(self, other: ProgramEnd) -> bool:
        if self.way == "tcp-server":  # the program that reads connects to the one that writes
            return ProgramEnd("tcp", *other[1:3]).leads_to(ProgramEnd("tcp", *self[1:3]))
        if self.way == "unix":
            return os.path.normpath(self.host) == os.path.normpath(other.host)
        to, at = _address(self.host), ip_address(other.host)
        if to is None:
            return self.host.lower().rstrip(".") in OF_THIS_HOST and (at.is_loopback or at.is_unspecified)
        return to == at or (at.is_unspecified and to.is_loopback and to.version == at.version)

    def _shares_a_server(self, other: ProgramEnd) -> bool:
        return any(
            port == its_port and _same_host(host, its_host)
            for host, port in ((self.host, self.port), *self.others)
            for its_host, its_port in ((other.host, other.port), *other.others)
        )

    def _is_taken_by(self, other: ProgramEnd) -> bool:
        """Return True if what an engine gets here is surely among what it gives there."""
        if self.way == "redis":
            return self.name == other.name
        return bool(other.name) and other.stream in {"", self.stream} and matches(other.name, self.name)

    def excludes(self, other: ProgramEnd) -> bool:
        """Return True if only one of two that are to listen here and at ``other`` surely can.

        Pure: no name is known, so that one excludes nothing. An end of all addresses of this host has each of
        them, of its IP version: ours are for that alone (ipv6(7), IPV6_V6ONLY).
        """
        one, another = _address(self.host), _address(other.host)
        if (self.way, self.port) != (other.way, other.port) or one is None or another is None:
            return False
        is_shared = one == another or one.is_unspecified or another.is_unspecified
        return is_shared and one.version == another.version


def _same_host(one: str, other: str) -> bool:
    return one == other or all(
        name.lower().rstrip(".") in OF_THIS_HOST or ((at := _address(name)) is not None and at.is_loopback)
        for name in (one, other)
    )


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
