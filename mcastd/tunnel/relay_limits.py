"""What a relay of AMT gives, and to whom: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mcastd.ip import Address, Prefix, stays_on_link
from mcastd.protocols.membership import DEFAULT_QUERY_INTERVAL_SECONDS


class RelayLimits(NamedTuple):
    """What a relay gives, and to whom."""

    groups: Sequence[Prefix]  # that may be asked for
    sources: Sequence[Prefix] = ()  # that they may come from; none: any
    gateways: Sequence[Prefix] = ()  # that are served; none: any
    max_tunnels: int = 100
    max_per_address: int = 4  # of IPv6: of a network of 64 bits
    max_groups: int = 32  # of a tunnel
    query_seconds: float = DEFAULT_QUERY_INTERVAL_SECONDS
    teardown: bool = False  # offer it: Linux's gateways then take no query

    def allows(self, group: Address) -> bool:
        return not stays_on_link(group) and _has(self.groups, group)

    @property
    def changes_at_once(self) -> int:
        """Groups that one address may begin to want at once."""
        return self.max_groups * self.max_per_address

    def serves(self, gateway: Address) -> bool:
        return not self.gateways or _has(self.gateways, gateway)

    def takes_from(self, source: Address) -> bool:
        return not self.sources or _has(self.sources, source)


def _has(prefixes: Sequence[Prefix], address: Address) -> bool:
    return any(address in prefix for prefix in prefixes)
