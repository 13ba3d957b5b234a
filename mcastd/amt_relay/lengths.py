"""How long the packets of tunnels may be: as it is set, or as the first hop takes them (RFC 7450 section
5.3.3.6.1). No ICMP changes it, which may be forged."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress

from mcastd.errors import CannotAskError
from mcastd.ip import Address
from mcastd.net.interfaces import Host
from mcastd.net.routes import Question

DEFAULT_MTU = 1500
PACKET_MAX_BYTES = 65_535


class TunnelLengths:
    """For the worker's thread, but for ``least``."""

    def __init__(self, host: Callable[[], Host]) -> None:
        self.least = DEFAULT_MTU  # bytes: by the interfaces with the addresses that gateways ask at
        self._look = host
        self._setting: int | None = None
        self._interfaces: dict[int, int] = {}  # their MTU, by index

    def follow(self, setting: int | None, listen: Collection[Address]) -> bool:
        """Go by this setting, and the interfaces that there are now.

        Returns True if gateways may have another length than before.
        """
        before = self._setting, self._interfaces
        self._setting = setting
        with suppress(CannotAskError):  # what was known is kept
            interfaces = [one for one in self._look().interfaces.values() if one.mtu]
            self._interfaces = {one.index: one.mtu for one in interfaces}
            ours = (one.mtu for one in interfaces if not set(listen).isdisjoint(one.addresses))
            self.least = min(ours, default=DEFAULT_MTU) if setting is None else setting
        return before != (self._setting, self._interfaces)

    def to(self, gateway: Address) -> int:
        """Bytes of the longest packet that goes to a gateway, with the headers of the tunnel."""
        if self._setting is not None:
            return self._setting
        try:
            host = self._look()
            route = host.routes.find(Question(gateway))
        except CannotAskError:
            return DEFAULT_MTU
        interface = host.interfaces.get(route.ifindex)
        return min(route.mtu or (interface and interface.mtu) or DEFAULT_MTU, PACKET_MAX_BYTES)
