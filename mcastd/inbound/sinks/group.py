"""Sends what is received to another group."""

from __future__ import annotations

from collections.abc import Iterable

from mcastd.config import GroupOutput
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.sending import REASONS, RecordRun, SendingSink
from mcastd.net.link import Batch, Origin, runs_by_ttl
from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

TTL_TOO_LOW = "ttl"
UNKNOWN = Origin(source="", port=0, ifindex=0, ttl=-1)


class GroupSink(SendingSink[SocketSender]):
    """Datagrams have the TTL that is set; else one less than they came with: so none goes in a circle for
    ever, whoever else sends them back.
    """

    reasons = (*REASONS, TTL_TOO_LOW)

    def __init__(self, config: GroupOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account)
        self._config = config
        self._host = means.host

    def connect(self) -> SocketSender:
        config = self._config
        return SocketSender(
            config.group,
            config.port,
            interface=config.interface,
            ttl=1 if config.ttl is None else config.ttl,
            loop=config.loop,
            dscp=config.dscp,
            host=self._host,
        )

    def prepare(self, destination: SocketSender, alike: int) -> None:
        destination.set_ttl(alike)

    def runs(self, batch: Batch) -> Iterable[RecordRun]:
        payloads = ListPayloads(self._format.records(batch).payloads)
        if (ttl := self._config.ttl) is not None:
            yield ttl, payloads
            return
        origins = batch.origins or [UNKNOWN] * len(payloads)  # of what came before they were asked for
        for came_with, run in runs_by_ttl(origins, payloads) if payloads else ():
            if came_with > 1:
                yield came_with - 1, run
            else:
                way_out = "set ttl, which takes sources; or have its sender set a higher one"
                cause = f"it comes with a TTL of {came_with}"
                self._account.drop(len(run), self.trouble(cause, TTL_TOO_LOW, way_out))
