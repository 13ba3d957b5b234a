"""Sends what is received to one host."""

from __future__ import annotations

from concurrent.futures import Future
from ipaddress import ip_address

from mcastd import clock
from mcastd.bounded import begin
from mcastd.config import UdpOutput, split_end
from mcastd.errors import LinkError, reason_of
from mcastd.inbound.sinks.account import Account
from mcastd.inbound.sinks.format import Format
from mcastd.inbound.sinks.means import ALONE, Means
from mcastd.inbound.sinks.sending import REASONS, SendingSink
from mcastd.ip import Address
from mcastd.net.resolving import addresses_of
from mcastd.net.unicast import UnicastSender

REFUSED = "refused"
# A name is asked for again after so long; and sooner when the host refuses what is sent, or there is no way.
RESOLVE_SECONDS = 60.0
RESOLVE_SOON_SECONDS = 5.0
# So long after the last answer of the network with an error, all is well again.
REFUSED_SECONDS = 2.0
LOOK_SECONDS = 0.05


class UdpSink(SendingSink[UnicastSender]):
    """A name is resolved in a thread of its own; until it is known for the first time, what comes is held."""

    def __init__(self, config: UdpOutput, format: Format, account: Account, means: Means = ALONE) -> None:
        super().__init__(config, format, account)
        self.reasons = (*REASONS, REFUSED)
        self._dscp = config.dscp
        self._host, self._port = split_end(config.to)
        self._address: Address | None = None  # None: not known yet
        self._is_name = False
        self._resolving: Future[list[Address]] | None = None
        self._resolved_at = 0.0  # monotonic seconds when it was last asked for
        self._noted: float | None = None  # refused_at that is noted
        try:
            self._address = ip_address(self._host)
        except ValueError:
            self._is_name = True

    def connect(self) -> UnicastSender | None:
        if self._is_name:
            self._follow_name()
        return None if self._address is None else UnicastSender(self._address, self._port, dscp=self._dscp)

    def look(self, now: float) -> None:
        if self._is_name and self.destination is not None:
            try:
                self._follow_name()
            except LinkError:
                return  # the address that was known is as good as ever
            if self._address != self.destination.to:
                self._account.log.info("output.moved", **self._settings.named, address=str(self._address))
                self.disconnect()
                self.open()

    def look_at(self) -> float:
        if not self._is_name:
            return super().look_at()
        if self._resolving is not None:
            return clock.monotonic() + LOOK_SECONDS
        return self._resolved_at + self._patience

    @property
    def _patience(self) -> float:
        """Seconds between two questions for the name."""
        is_well = self.destination is not None and self._account.trouble is None
        return RESOLVE_SECONDS if is_well else RESOLVE_SOON_SECONDS

    def _follow_name(self) -> None:
        """Ask for the name if it is time, and take an answer. Raises LinkError if the answer is that there is
        no address."""
        now = clock.monotonic()
        if (asked := self._resolving) is not None:
            if not asked.done():
                return
            self._resolving = None
            try:
                found = asked.result()
            except OSError as error:
                raise LinkError(f"cannot resolve {self._host}", reason_of(error), errno=0) from error
            if self._address not in found:
                self._address = found[0]
        elif not self._resolved_at or now >= self._resolved_at + self._patience:
            self._resolved_at = now
            host = self._host
            try:
                self._resolving = begin(lambda: addresses_of(host), "resolve")
            except OSError as error:
                raise LinkError(f"cannot resolve {self._host}", reason_of(error), errno=0) from error

    def sent(self) -> None:
        way = self.destination
        assert way is not None
        refused_at = way.refused_at
        if refused_at is None or clock.monotonic() - refused_at > REFUSED_SECONDS:
            super().sent()
        elif refused_at != self._noted:
            self._noted = refused_at
            self._account.drop(0, self.trouble(way.refusal, REFUSED, "see whether something listens there"))
