"""Networks whose members want more groups or sources than a bridge or a link keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mcastd.doctor.finding import Finding, Severity
from mcastd.doctor.quoting import command
from mcastd.status import QuerierStatus

# Filters of tcpdump. "icmp6" finds no report of MLD: hop-by-hop options stand before its message.
_MESSAGES = {4: "igmp", 6: "ip6[6] = 0"}


def crowded_members(queriers: Iterable[QuerierStatus]) -> Iterator[Finding]:
    """A finding for each of these that has refused some lately."""
    for one in queriers:
        if one.crowded:
            look = command("tcpdump", "-ni", one.interface, _MESSAGES[one.version])
            yield Finding(
                "members-crowded",
                Severity.WARNING,
                f"members on {one.interface} want more groups or sources of IPv{one.version} than are kept:"
                " what came last is not forwarded",
                (
                    f"querier of IPv{one.version} on {one.interface}: {one.groups} groups kept,"
                    f" refused {one.refused} times to keep more (status)",
                ),
                f"find the host that has joined so many, and have it join fewer: {look}",
            )
