"""By which sockets outputs of this process send to groups: what comes from one of these was sent on before.

A TTL that is set anew each time would keep a datagram in a circle for ever, where outputs of one daemon feed
each other, or themselves. No configuration shows that: an interface has a name and addresses, and the senders
that a subscription takes may be this host.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mcastd.net.link import DatagramFlow


class OwnFlows:
    """For any thread."""

    def __init__(self) -> None:
        self.sources: frozenset[tuple[str, int]] = frozenset()  # addresses and ports; replaced, never changed
        self.addresses: frozenset[str] = frozenset()  # of these; likewise
        self._lock = threading.Lock()
        self._by_output: dict[object, Sequence[DatagramFlow]] = {}

    def note(self, output: object, flows: Sequence[DatagramFlow]) -> None:
        """An output sends by these from now on, and by no others."""
        with self._lock:
            self._by_output[output] = flows
            if not flows:
                del self._by_output[output]
            found = [flow for some in self._by_output.values() for flow in some]
            self.sources = frozenset((flow.source, flow.source_port) for flow in found)
            self.addresses = frozenset(flow.source for flow in found)
