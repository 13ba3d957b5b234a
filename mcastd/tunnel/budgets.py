"""What a host may ask of a relay: so much at once, and so much a second. Pure."""

from __future__ import annotations

from collections import OrderedDict

from mcastd.ip import Address, host_of

# Hosts of which it is known. More may be forged than there are.
HOSTS_KEPT = 4096


class HostBudgets:
    """A bucket of tokens for each host."""

    def __init__(self, most: float, per_second: float) -> None:
        """Each has ``most`` tokens after a pause, and gets ``per_second`` of them."""
        self.most = most
        self._per_second = per_second
        self._left: OrderedDict[Address, tuple[float, float]] = OrderedDict()  # at which monotonic second

    def __len__(self) -> int:
        return len(self._left)

    def take(self, address: Address, now: float, count: int = 1) -> bool:
        """Take tokens of the host with an address, which may be forged. Returns True if there were enough."""
        host = host_of(address)
        left, at = self._left.pop(host, (self.most, now))
        left = min(self.most, left + (now - at) * self._per_second)
        self._left[host] = (max(0.0, left - count), now)
        if len(self._left) > HOSTS_KEPT:
            self._left.popitem(last=False)
        return left >= count
