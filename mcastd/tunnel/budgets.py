"""What a host may ask of a relay: so much at once, and so much a second. Pure."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address

from mcastd.ip import Address

# Hosts of which it is known. More may be forged than there are.
HOSTS_KEPT = 4096
HOST_BITS = 64  # of an IPv6 address: RFC 4291 section 2.5.1


def host_of(address: Address) -> Address:
    """Return what limits are counted by: a host of IPv6 may take any address of its network of 64 bits."""
    if isinstance(address, IPv6Address):
        return IPv6Address(int(address) >> HOST_BITS << HOST_BITS)
    return address


class HostBudgets:
    """A bucket of tokens for each host."""

    def __init__(self, most: float, per_second: float) -> None:
        """Each has ``most`` tokens after a pause, and gets ``per_second`` of them."""
        self.most = most
        self._per_second = per_second
        self._left: OrderedDict[Address, tuple[float, float]] = OrderedDict()  # at which monotonic second

    def __len__(self) -> int:
        return len(self._left)

    def take(self, address: Address, now: float) -> bool:
        """Take a token of the host with an address, which may be forged. Returns True if there was one."""
        host = host_of(address)
        left, at = self._left.pop(host, (self.most, now))
        left = min(self.most, left + (now - at) * self._per_second)
        self._left[host] = (max(0.0, left - 1), now)
        if len(self._left) > HOSTS_KEPT:
            self._left.popitem(last=False)
        return left >= 1
