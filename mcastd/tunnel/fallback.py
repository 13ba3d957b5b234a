"""Multicast as the network has it, and a tunnel while nothing comes by that: a Receiver over both.

```
  native  . . . . . n             n n n n n n n n n n n n . . .
  tunnel            t t t t t t t t t t t t
                    | opened after silence         | left: it came natively for as long
                      n alone: the tunnel goes on, what it brings waits a moment
```
"""

from __future__ import annotations

import math
import select
from collections import deque
from dataclasses import replace

from mcastd import clock
from mcastd.bell import Bell
from mcastd.errors import LinkError
from mcastd.ip import Interfaces, SourceFilter
from mcastd.net.legs import LegBatch, OpenLeg, ReceivingLegs
from mcastd.net.link import Batch, LegLink
from mcastd.status import ReceiverDescription

NATIVE, TUNNEL = "native", "amt"
# What a tunnel brings after the last datagram that came natively may come natively, too. If these are more
# datagrams, it does not.
HELD_DATAGRAMS = 16


class FallbackReceiver(ReceivingLegs):
    """The group stays joined while the tunnel brings it: so it is seen when it comes natively again.

    Around such a change a datagram may be missed, or come twice: which one came last by the other way is not
    known.
    """

    def __init__(self, open_native: OpenLeg, open_tunnel: OpenLeg, patience: float) -> None:
        """After ``patience`` seconds of silence the tunnel is opened; at once, if the group cannot be joined.

        Raises LinkError if neither can be had now.
        """
        self._open_tunnel = open_tunnel
        self._patience = patience
        self._heard = clock.monotonic()  # when something came natively
        self._is_called = False  # the tunnel is to be opened
        self._back_since: float | None = (
            None  # when it came natively again, beside the tunnel; None: it did not
        )
        self._held: deque[Batch] = deque()  # what the tunnel has brought since then
        self._bell = Bell()  # it rings once that is to be received, though nothing more comes
        self._rings = False
        super().__init__([(NATIVE, open_native)], protect=False)
        try:
            self._poll.register(self._bell, select.EPOLLIN)
        except OSError:
            self.close()
            raise

    # -- when the tunnel comes and goes

    @property
    def _is_aided(self) -> bool:
        return len(self._legs) > 1

    @property
    def deadline(self) -> float:
        is_waiting = self._holds or not (self._is_called or self._is_aided)
        return min(super().deadline, self._heard + self._patience if is_waiting else math.inf)

    @property
    def _holds(self) -> bool:
        """Return True if something of the tunnel waits: it may be had natively, too."""
        return bool(self._held) and self._back_since is not None

    def tick(self, now: float) -> None:
        super().tick(now)
        if now < self._heard + self._patience:
            return
        if self._holds:  # nothing came natively after all
            self._back_since, self._rings = None, True
            self._bell.ring()
        if self._is_called or self._is_aided:
            return
        native = self._legs[0].link
        if native is not None and native.load().filled > 0:  # this process has read nothing for a while
            self._heard = now
            return
        self._is_called = True
        self.on_lost()

    def network_changed(self) -> None:
        if self._is_called and not self._is_aided:
            self._add(TUNNEL, self._open_tunnel)
        try:
            super().network_changed()
        except LinkError:
            if self._is_aided:
                raise
            self._add(TUNNEL, self._open_tunnel)
            super().network_changed()

    def receive(self, wait: bool = False) -> Batch:
        if self._rings:
            self._rings = False
            self._bell.quiet()
        while True:
            if self._held and self._back_since is None:
                self.emptied = False
                return self._held.popleft()
            batch = super().receive(wait)
            if not isinstance(batch, LegBatch):
                return batch
            now = clock.monotonic()
            if batch.leg == 0:
                self._take_native(now)
                return batch.whole
            if self._back_since is None:
                return batch.whole
            self._held.append(batch.whole)
            is_silent = now - self._heard > self._patience
            if (
                is_silent or sum(map(len, self._held)) > HELD_DATAGRAMS
            ):  # it was a stray one, or it has ended again
                self._back_since = None

    def _take_native(self, now: float) -> None:
        """Something came natively: in time the tunnel is left, which may bring the same."""
        self._heard = now
        self._held.clear()
        if not self._is_aided:
            return
        if self._back_since is None:
            self._back_since = now
        if self._legs[1].link is None or now - self._back_since >= self._patience:
            self._is_called, self._back_since = False, None
            self._drop_last()

    # -- what both are told, and what is seen of them

    def set_filter(self, source_filter: SourceFilter) -> None:
        self._tell("filter", lambda link: link.set_filter(source_filter))

    def set_interface(self, setting: Interfaces | None) -> None:
        self._tell("interface", lambda link: link.set_interface(setting))

    def set_patience(self, silence_seconds: float, refresh_seconds: float) -> None:
        self._patience = silence_seconds
        super().set_patience(silence_seconds, refresh_seconds)

    def close(self) -> None:
        super().close()
        self._bell.close()

    def by_leg(self) -> tuple[LegLink, ...]:
        return ()

    def describe(self) -> ReceiverDescription:
        tunnels = (leg.link.describe().tunnel for leg in self._legs if leg.link is not None)
        return replace(super().describe(), tunnel=next(filter(None, tunnels), None))
