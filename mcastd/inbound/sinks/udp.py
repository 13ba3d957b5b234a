"""Sends what is received to one host."""

from __future__ import annotations

from mcastd import clock
from mcastd.config import UdpOutput, split_end
from mcastd.errors import LinkError
from mcastd.inbound.sinks.account import UNREACHABLE, Account, why_no_way
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.host_name import HostName
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.sending import REASONS_OF_PROGRAM, SendingSink
from mcastd.net.unicast import UnicastSender

REFUSED = "refused"
# So long after the last answer of the network with an error, all is well again.
REFUSED_SECONDS = 2.0


class UdpSink(SendingSink[UnicastSender]):
    """Until a name is resolved for the first time, what comes is held."""

    may_answer = True

    def __init__(self, config: UdpOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account, may_return=True)
        self.reasons = (*REASONS_OF_PROGRAM, REFUSED)
        self._dscp = config.dscp
        host, self._port = split_end(config.to)
        self._name = HostName(host)
        self._noted: float | None = None  # refused_at that is noted

    def connect(self) -> UnicastSender | None:
        self._name.follow(is_well=False)
        if (address := self._name.address) is None:
            return None
        try:
            return UnicastSender(address, self._port, dscp=self._dscp)
        except LinkError as error:
            if why_no_way(error.errno) == UNREACHABLE:
                self._name.pass_over(for_now=True)
            raise

    def look(self, now: float) -> None:
        if self.destination is None:
            return
        try:
            self._name.follow(is_well=self._is_well)
        except LinkError:
            return  # the address that was known is as good as ever
        if self._name.address != self.destination.to:
            self._account.log.info("output.moved", **self._settings.named, address=str(self._name.address))
            self.disconnect()
            self.open()

    def look_at(self) -> float:
        return self._name.look_at(is_well=self._is_well)

    @property
    def _is_well(self) -> bool:
        return self._account.trouble is None

    def sent(self) -> None:
        way = self.destination
        assert way is not None
        refused_at = way.refused_at
        if refused_at is None or clock.monotonic() - refused_at > REFUSED_SECONDS:
            super().sent()
        elif refused_at != self._noted:
            self._noted = refused_at
            cause, way_out = way.refusal, "see whether something listens there"
            if others := self._name.others:  # nothing tells which of them is meant
                cause = f"{way.to} says {cause}"
                way_out += f", or name another of its addresses: {', '.join(map(str, others))}"
            self._account.drop(0, self.trouble(cause, REFUSED, way_out))
