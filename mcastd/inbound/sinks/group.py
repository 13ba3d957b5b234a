"""Sends what is received to another group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from mcastd.config import GroupOutput
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.format import UNKNOWN, Format
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.returned import CIRCLE
from mcastd.inbound.sinks.sending import REASONS_OF_PROGRAM, RecordRun, SendingSink
from mcastd.inbound.sinks.sink import Sink
from mcastd.net.link import Batch, Origin, runs_by_ttl
from mcastd.net.payloads import Payloads
from mcastd.net.sender import HeardHere, SocketSender

TTL_TOO_LOW = "ttl"


class GroupSink(SendingSink[SocketSender]):
    """Datagrams have the TTL that is set; else one less than they came with: so none goes in a circle for
    ever, whoever else sends them back.

    What outputs of this process have sent has one less in any case. Where a TTL is set, circles by way of
    others are found by what they do: see returned.py.
    """

    reasons = (*REASONS_OF_PROGRAM, TTL_TOO_LOW)

    def __init__(self, config: GroupOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account, may_return=config.ttl is not None)
        self._config = config
        self._host = means.host
        self._flows = means.flows
        self._heard = HeardHere()

    def connect(self) -> SocketSender:
        config = self._config
        found = SocketSender(
            config.group,
            config.port,
            interface=config.interface,
            ttl=1 if config.ttl is None else config.ttl,
            loop=config.loop,
            dscp=config.dscp,
            host=self._host,
            heard=self._heard,
        )
        self._flows.note(self, found.flows())
        return found

    def network_changed(self) -> None:
        super().network_changed()
        if self.destination is not None:  # it may be at another address now
            self._flows.note(self, self.destination.flows())

    def disconnect(self) -> None:
        super().disconnect()
        self._flows.note(self, ())
        self._heard.forget()  # what it was about is dropped, or another sink has both

    def take_over(self, before: Sink) -> bool:
        if not super().take_over(before) or not isinstance(before, GroupSink):
            return False
        self._heard, before._heard = before._heard, HeardHere()
        return True

    def prepare(self, destination: SocketSender, alike: int) -> None:
        destination.set_ttl(alike)

    def skip(self, count: int, left: int) -> None:
        if self.destination is not None:
            self.destination.skip(count, left)

    def runs(self, batch: Batch, senders: Sequence[tuple[str, int]]) -> Iterable[RecordRun]:
        payloads, ttl = self._format.payloads(batch), self._config.ttl
        if ttl is not None and senders and self._flows.addresses.isdisjoint(dict(senders)):  # as a rule
            return [(ttl, payloads)]
        return self._runs_apart(batch, ttl, payloads)

    def _runs_apart(self, batch: Batch, ttl: int | None, payloads: Payloads) -> Iterable[RecordRun]:
        """As the TTL of each is."""
        origins = batch.origins or [UNKNOWN] * len(payloads)  # of what came before they were asked for
        if ttl is not None:
            yield from self._runs_with(ttl, origins, payloads)
            return
        for came_with, run in runs_by_ttl(origins, payloads) if payloads else ():
            if came_with > 1:
                yield came_with - 1, run
            else:
                way_out = "set ttl, which takes sources; or have its sender set a higher one"
                cause = f"it comes with a TTL of {came_with}"
                self._account.drop(len(run), self.trouble(cause, TTL_TOO_LOW, way_out))

    def _runs_with(
        self, ttl: int, origins: Sequence[Origin], payloads: Payloads
    ) -> Iterable[tuple[int, Payloads]]:
        """Those in a row together that go with one TTL: with this one, but for what we have sent before."""
        own, start = self._flows.sources, 0
        goes_with = [min(ttl, one.ttl - 1) if (one.source, one.port) in own else ttl for one in origins]
        for here, run in groupby(goes_with):
            end = start + len([*run])
            if here > 0:
                yield here, payloads.part(start, end)
            else:
                cause = "what outputs of this daemon send comes back to them, or to this one"
                way_out = "have one of them send to another group, or leave this host out of sources"
                self._account.drop(end - start, self.trouble(cause, CIRCLE, way_out))
            start = end
