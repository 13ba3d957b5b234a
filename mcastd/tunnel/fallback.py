"""Multicast as the network has it, and a tunnel while nothing comes by that: a Receiver over both."""

from __future__ import annotations

import math
from dataclasses import replace

from mcastd import clock
from mcastd.errors import LinkError
from mcastd.ip import Interfaces, SourceFilter
from mcastd.net.legs import LegBatch, OpenLeg, ReceivingLegs
from mcastd.net.link import Batch, LegLink, Receiver
from mcastd.status import ReceiverDescription

NATIVE, TUNNEL = "native", "amt"


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
        self._leaving: Receiver | None = None  # the tunnel's receiver, which is read empty
        super().__init__([(NATIVE, open_native)], protect=False)

    # -- when the tunnel comes and goes

    @property
    def _is_aided(self) -> bool:
        return len(self._legs) > 1

    @property
    def deadline(self) -> float:
        silent_at = math.inf if self._is_called or self._is_aided else self._heard + self._patience
        return min(super().deadline, silent_at)

    def tick(self, now: float) -> None:
        super().tick(now)
        if self._is_called or self._is_aided or now < self._heard + self._patience:
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
        if (leaving := self._leaving) is not None:
            if batch := leaving.receive():
                self.emptied = False
                return batch
            self._leaving, self._is_called = None, False
            self._drop_last()
        batch = super().receive(wait)
        if not isinstance(batch, LegBatch):
            return batch
        if batch.leg == 0:
            self._heard = clock.monotonic()
            if self._is_aided:
                self._end_tunnel()
        return batch.whole

    def _end_tunnel(self) -> None:
        tunnel = self._legs[1].link
        if tunnel is None:
            self._is_called = False
            self._drop_last()
        else:
            tunnel.leave()
            self._leaving, self.emptied = tunnel, False

    # -- what both are told, and what is seen of them

    def set_filter(self, source_filter: SourceFilter) -> None:
        self._tell("filter", lambda link: link.set_filter(source_filter))

    def set_interface(self, setting: Interfaces | None) -> None:
        self._tell("interface", lambda link: link.set_interface(setting))

    def by_leg(self) -> tuple[LegLink, ...]:
        return ()

    def describe(self) -> ReceiverDescription:
        tunnels = (leg.link.describe().tunnel for leg in self._legs if leg.link is not None)
        return replace(super().describe(), tunnel=next(filter(None, tunnels), None))
