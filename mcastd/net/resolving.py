"""What DNS knows of hosts and of AMT relays. Each question may take seconds: for a thread of its own."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from mcastd import clock
from mcastd.errors import McastdError, reason_of
from mcastd.ip import Address
from mcastd.protocols.amt import PORT

if TYPE_CHECKING:
    from dns.rdata import Rdata

# All questions of one kind together.
LIFETIME_SECONDS = 4.0
# Of the answers of one name, and of the relays of a site, no more are looked at.
RECORDS_MAX = 16
SERVICE = "_amt._udp"


class UnresolvedError(McastdError):
    """A question of DNS has no answer, or cannot be asked."""


class RelayRecord(NamedTuple):
    """Where a relay may be asked for, as DNS has it: the lower the rank the better."""

    rank: int
    name: str  # an address, or the name of a host


def addresses_of(name: str) -> list[Address]:
    """The addresses of a host, the best first (RFC 6724 section 6). Raises OSError."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except UnicodeError as error:  # of a label that is too long
        raise OSError(errno.EINVAL, "it is no name that DNS can have") from error
    return list(dict.fromkeys(ip_address(each[4][0]) for each in found))


def is_routed(address: Address) -> bool:
    """Return True if this host has a route to an address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), PORT))
        return True
    return False


def relays_of_site() -> list[RelayRecord]:
    """The relays that the network of this host offers, by service discovery (RFC 6763).

    It is asked for in the domains that /etc/resolv.conf has names searched in. Those that were found in time
    are returned if a name server does not answer on. Raises UnresolvedError.
    """
    found: list[tuple[int, float, str]] = []
    until = clock.monotonic() + LIFETIME_SECONDS
    with _library("which relays this network offers"):
        import dns.exception  # noqa: PLC0415
        import dns.name  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        resolver = dns.resolver.Resolver()
        domains = [domain for domain in resolver.search or [resolver.domain] if domain != dns.name.root]
        try:
            for domain in domains:
                for instance in _ask(f"{SERVICE}.{domain.to_text()}", "PTR", until):
                    for service in _ask(instance.to_text(), "SRV", until):
                        priority, weight, port, target = service.to_text().split()
                        if int(port) == PORT:  # RFC 7450 has no other
                            # Random, but a heavier one is likely to be before a lighter one (RFC 2782)
                            lot = random.expovariate(max(float(weight), 0.01))
                            found.append((int(priority), lot, target))
        except dns.exception.Timeout:
            if not found:
                raise
    return [RelayRecord(priority, target) for priority, _, target in sorted(found)][:RECORDS_MAX]


def relays_of_source(source: Address) -> list[RelayRecord]:
    """The relays that can receive from a sender, as its own zone says (RFC 8777). Raises UnresolvedError.

    Whether such a relay takes requests without having been asked for first is not looked at: all of them can
    be asked for.
    """
    until = clock.monotonic() + LIFETIME_SECONDS
    with _library(f"which relays receive from {source}"):
        import dns.reversename  # noqa: PLC0415

        reverse = dns.reversename.from_address(str(source)).to_text()
        records = [answer.to_text().split() for answer in _ask(reverse, "AMTRELAY", until)]
    # precedence, whether discovery is optional, type of the relay (0: none), relay: section 4.3
    known = [RelayRecord(int(rank), relay) for rank, _, kind, relay in records if kind in {"1", "2", "3"}]
    random.shuffle(known)
    return sorted(known, key=lambda record: record.rank)


def _ask(name: str, kind: str, until: float) -> Sequence[Rdata]:
    """The records of a name; none if there are none. Raises DNSException, Timeout at a monotonic time."""
    import dns.resolver  # noqa: PLC0415

    lifetime = max(until - clock.monotonic(), 0.0)
    with suppress(dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return [*dns.resolver.resolve(name, kind, search=False, lifetime=lifetime)][:RECORDS_MAX]
    return []


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Around what uses dnspython, which is loaded when it is needed first. Raises UnresolvedError."""
    try:
        import dns.exception  # noqa: PLC0415
    except ImportError as error:
        cause = "the Python library dnspython is not installed"
        raise UnresolvedError(
            f"cannot ask DNS {what}", cause, "apt install python3-dnspython, or pip install 'mcastd[tunnels]'"
        ) from error
    try:
        yield
    except OSError as error:
        raise UnresolvedError(f"cannot ask DNS {what}", reason_of(error)) from error
    except (dns.exception.DNSException, ValueError) as error:  # ValueError: a record of another form
        raise UnresolvedError(f"cannot ask DNS {what}", str(error) or type(error).__name__) from error
